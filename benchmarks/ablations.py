"""Ablations: trains and evaluates the rows of the paper's Tables 4-9 on the synthetic set.

    sdtc-synth --set train --frames 20 --clips 1000 && sdtc-synth --set val
    sdtc-train tiny-vitpose-synthetic --set train.root=data/synthetic
    python benchmarks/ablations.py

Each row is the `tiny` network with one change, in crops of 128x96 pixels, where it learns several times as fast. The
backbone is a single-frame network that was trained on drawn people, frozen as in the paper. Its features are computed
once, for one augmented view of every window, and all rows train on them, so that rows differ in nothing else. A row
trains for a few minutes on one core and does not converge: compare the order of the rows, and the range over seeds, not
the absolute AP. Rows that are in the CSV file are not trained again, so that an interrupted run continues. A row says
only what differs from the full network, whose defaults may change: its column `network`, a digest of the full network's
configuration, tells rows apart that were measured with other defaults. Those, and rows from before there was the
column, are not taken for today's, and are dropped when new ones are written.

The table "readings" holds the readings of Eq. 6 (softmax over pixels or channels) and Eq. 8 (contexts are added, joined
or put in the map's place), and addition in SMML's place, with masks and without.

Writes ablations.csv (a line per row and seed), ablations.md (measured and paper side by side) and ablations.png. Needs
the extra `train`.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

from sdtc.core.command_line import command
from sdtc.core.errors import InputError, SdtcError
from sdtc.core.files import atomic_write, make_directory, sha256
from sdtc.model import MaskedSDTC, ModelConfig, build, get_preset
from sdtc.model.checkpoint import find_checkpoint, load_backbone
from sdtc.model.decoding import decode_heatmaps
from sdtc.model.network import PoseNetwork
from sdtc.model.reconstruction import sample_masks
from sdtc.training.annotations import AnnotationSet, read_annotations
from sdtc.training.augmentation import AugmentationConfig
from sdtc.training.dataset import WindowDataset
from sdtc.training.log import read_rows, write_rows
from sdtc.training.losses import masked_losses
from sdtc.training.optimizer import build_optimizers, set_rate
from sdtc.training.validation import crops_to_images, score

# As in `tiny-synthetic`: the paper's augmentation is too strong for a small network that trains for minutes.
AUGMENTATION = AugmentationConfig(scale=0.15, rotation=15, rotation_chance=0.4, half_body_chance=0.05)
INPUT_SIZE = (128, 96)
MAX_DELTA = 3
HARD = {"occluded", "blur"}
BATCH, LEARNING_RATE, WARMUP = 32, 6e-3, 0.05


@dataclass(frozen=True)
class AblationRow:
    """One row of the paper's Tables 4-9, or one of our own.

    Attributes:
        table: number of the paper's table; "readings" or "-" for our own rows.
        name: of the row.
        change: fields of `ModelConfig` that differ from the full network's, with dots for nested ones; also ``masked``.
        paper: the paper's mean AP on PoseTrack2017; None if the paper has no such row.
    """

    table: str
    name: str
    change: dict[str, Any] = field(default_factory=dict)
    paper: float | None = None


def _readings() -> Iterator[AblationRow]:
    """Yield the rows of the readings of Eq. 6 and Eq. 8."""
    for name, change in (
        ("pixels, added (full)", {}),
        ("pixels, joined", {"refinement": "concatenate"}),
        ("pixels, replaced", {"refinement": "replace"}),
        ("channels, added", {"context_softmax": "channels"}),
        ("channels, replaced: the words as written", {"context_softmax": "channels", "refinement": "replace"}),
        ("no SMML: MLSME, added", {"fusion": "add"}),
    ):
        yield AblationRow("readings", name, change)
        yield AblationRow("readings", f"{name}, no masks", {**change, "reconstruction.mask_ratio": 0.0})


ROWS = (
    AblationRow("4", "optical flow, added", {"motion": "optical_flow", "fusion": "add"}, 84.0),
    AblationRow("4", "optical flow, convolved", {"motion": "optical_flow", "fusion": "conv"}, 83.9),
    AblationRow("4", "MLSME, added", {"fusion": "add"}, 86.2),
    AblationRow("4", "MLSME, convolved", {"fusion": "conv"}, 86.0),
    AblationRow("4", "MLSME and SMML (full)", {}, 87.5),
    AblationRow("5", "plain ViT as motion encoder", {"motion_encoder": "vit"}, 85.6),
    AblationRow("5", "patch level only", {"motion_encoder": "patch"}, 86.7),
    AblationRow("5", "mask ratio 25 %", {"reconstruction.mask_ratio": 0.25}, 86.9),
    AblationRow("5", "mask ratio 50 % (full)", {}, 87.5),
    AblationRow("5", "mask ratio 75 %", {"reconstruction.mask_ratio": 0.75}, 87.4),
    AblationRow("6", "self-refinement", {"cross_propagation": False, "adaptive_fusion": False}, 86.6),
    AblationRow("6", "+ cross propagation", {"adaptive_fusion": False}, 87.2),
    AblationRow("6", "+ adaptive fusion (full)", {}, 87.5),
    AblationRow("7", "no encodings", {"spatial_encoding": False, "temporal_encoding": False}, 86.5),
    AblationRow("7", "+ spatial", {"temporal_encoding": False}, 87.1),
    AblationRow("7", "+ temporal (full)", {}, 87.5),
    AblationRow("8", "λ = 0.01 (full)", {}, 87.5),
    AblationRow("8", "λ = 0.1", {"reconstruction.context_weight": 0.1}, 87.3),
    AblationRow("8", "λ = 1", {"reconstruction.context_weight": 1.0}, 87.2),
    AblationRow("9", "δ = 1", {"delta": 1}, 86.8),
    AblationRow("9", "δ = 2 (full)", {}, 87.5),
    AblationRow("9", "δ = 3", {"delta": 3}, 87.5),
    AblationRow("-", "δ = 0: the same network on single frames", {"delta": 0}),
    AblationRow("-", "no masks, but reconstruction", {"reconstruction.mask_ratio": 0.0}),
    AblationRow("-", "no masks, no reconstruction", {"masked": False}),
    *_readings(),
)
COLUMNS = ("change", "seed", "windows", "epochs", "backbone", "network", "ap", "hard_ap", "seconds")


@command("ablations.py")
def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    for name in ("windows", "epochs", "seeds", "jobs"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} is {getattr(args, name)}: expected at least 1")
    backbone = find_checkpoint(args.backbone)
    if not backbone.is_file():
        raise InputError(f"backbone '{backbone}' does not exist: sdtc-train tiny-vitpose-synthetic makes one")
    output = make_directory(args.output)
    base = _full_network()
    cache = make_directory(args.cache or output / "cache")
    train = read_annotations(args.data, "train")
    val = read_annotations(args.data, "val")
    _write_cache(cache / "train", train, base, backbone, args.windows, AUGMENTATION)
    _write_cache(cache / "val", val, base, backbone, len(val.people), None)

    budget = {
        "windows": str(args.windows),
        "epochs": str(args.epochs),
        "backbone": sha256(backbone)[:12],
        "network": _digest(base),
    }
    done = [
        row
        for row in read_rows(output / "ablations.csv")
        if all(row.get(key) == value for key, value in budget.items())
    ]
    have = {(row["change"], row["seed"]) for row in done}
    jobs = [
        _Job(change, seed, budget, cache, args.data)
        for seed in range(args.seeds)
        for change in dict.fromkeys(_describe(row.change) for row in ROWS)
        if (change, str(seed)) not in have
    ]
    # One thread per process: two trainings in parallel are faster than one with two threads.
    with (
        ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool,
        tqdm(total=len(jobs), unit="run", disable=None) as bar,
    ):
        for future in as_completed([pool.submit(_run, job) for job in jobs]):
            done.append(future.result())
            write_rows(
                output / "ablations.csv", COLUMNS, sorted(done, key=lambda row: (row["change"], int(row["seed"])))
            )
            bar.update()
            tqdm.write("  ".join(f"{key} {value}" for key, value in done[-1].items()))
    text = markdown(done)
    with atomic_write(output / "ablations.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    _plot(output / "ablations.png", done)
    print(text)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path("data/synthetic"), metavar="DIR",
        help="data set with the splits train and val (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--backbone", type=Path, default=Path("runs/train/tiny-vitpose-synthetic/best.pth"), metavar="FILE",
        help="checkpoint with a backbone of `tiny`'s size, which is kept frozen (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--windows", type=int, default=6000, metavar="N", help="number of training windows (default: %(default)s)"
    )
    parser.add_argument("--epochs", type=int, default=2, metavar="N", help="passes over them (default: %(default)s)")
    parser.add_argument(
        "--seeds", type=int, default=2, metavar="N", help="number of runs per row (default: %(default)s)"
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N",
        help="rows to train in parallel (default: one per CPU core)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, default=Path("runs/ablations"), metavar="DIR",
        help="folder of the results (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--cache", type=Path, metavar="DIR",
        help="folder of the backbone's features, 0.5 MB per window (default: cache in --output)",
    )  # fmt: skip
    return parser


def _write_cache(
    folder: Path,
    annotations: AnnotationSet,
    base: ModelConfig,
    backbone: Path,
    count: int,
    augmentation: AugmentationConfig | None,
) -> None:
    """Write the features, crops and targets of windows with the largest δ; every row selects its frames from them."""
    stamp = folder / "made-with.txt"
    made_with = f"{count} windows, backbone {sha256(backbone)}\n"
    if stamp.exists() and stamp.read_text() == made_with:
        return
    stamp.unlink(missing_ok=True)
    config = dataclasses.replace(base, delta=MAX_DELTA)
    # As in the paper, one box crops a window: rows of optical flow need that, and all rows have the same windows.
    data = WindowDataset(annotations, config, augmentation, own_boxes=False)
    if count > len(data):
        raise InputError(f"--windows is {count}: the training set has {len(data)} people")
    # Without augmentation, every window is used once, in the order of the people, as `score` requires.
    order = np.random.default_rng(0).permutation(len(data))[:count] if augmentation else np.arange(count)
    network = build(config).eval()
    load_backbone(network, backbone)
    make_directory(folder)
    L, T = config.token_shape[0], config.num_frames
    shapes = {
        "features": (np.float16, (count, T, L, config.backbone.width)),
        "clips": (np.uint8, (count, T, *config.input_size, 3)),
        "heatmaps": (np.float16, (count, T, config.num_keypoints, *config.heatmap_size)),
        "weights": (np.float16, (count, T, config.num_keypoints)),
    }
    files = {
        name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)
        for name, (dtype, shape) in shapes.items()
    }
    start = 0
    loader = DataLoader(Subset(data, order.tolist()), BATCH, num_workers=1)
    for batch in tqdm(loader, desc=f"features of {folder.name}", unit="batch", disable=None):
        window = slice(start, start + len(batch["clip"]))
        with torch.inference_mode():
            features = network.encode_backbone(batch["clip"].flatten(0, 1))
        files["features"][window] = features.view(-1, T, *features.shape[1:]).half().numpy()
        files["clips"][window] = batch["clip"].numpy()
        for name in ("heatmaps", "weights"):
            files[name][window] = batch[name].half().numpy()
        start = window.stop
    for file in files.values():
        file.flush()
    stamp.write_text(made_with)


@dataclass(frozen=True)
class _Job:
    change: str
    seed: int
    budget: dict[str, str]
    cache: Path
    data: Path


class _Windows:
    """The cached windows, reduced to the frames that a configuration uses."""

    def __init__(self, folder: Path, config: ModelConfig) -> None:
        self.frames = slice(MAX_DELTA - config.delta, MAX_DELTA + config.delta + 1)
        self.flow = config.motion == "optical_flow"
        names = ("features", "clips", "heatmaps", "weights")
        self.files = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}

    def __len__(self) -> int:
        return len(self.files["features"])

    def batch(self, name: str, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self.files[name][rows, self.frames])

    def feed(self, network: PoseNetwork, rows: np.ndarray) -> Tensor:
        """Replace the backbone's output by the features of these windows, and return the network's input."""
        features = self.batch("features", rows).float()
        network.encode_backbone = lambda frames: features.flatten(0, 1)  # type: ignore[method-assign]
        return self.batch("clips", rows) if self.flow else features  # only optical flow needs images


def _run(job: _Job) -> dict[str, str]:
    """Train and evaluate one row with one seed."""
    start = time.process_time()
    config, masked = _configure(job.change)
    torch.manual_seed(job.seed)
    network = build(config)
    wrapper = MaskedSDTC(network, masked).train()
    parameters = [p for name, p in wrapper.named_parameters() if ".backbone." not in name]
    optimizers = build_optimizers(parameters, "muon", LEARNING_RATE, weight_decay=0.01)
    windows = _Windows(job.cache / "train", config)
    generator = torch.Generator().manual_seed(job.seed)
    for progress, rows in _batches(len(windows), int(job.budget["epochs"]), job.seed):
        set_rate(optimizers, LEARNING_RATE * min(1.0, progress / WARMUP + 0.01) * (1.0 - progress))
        tubes, frames = sample_masks(config, len(rows), generator) if masked else (None, None)
        targets, weights = windows.batch("heatmaps", rows).float(), windows.batch("weights", rows).float()
        output = wrapper(windows.feed(network, rows), tubes, frames)
        losses = masked_losses(output, targets, weights, tubes, frames, config.reconstruction)
        if not torch.isfinite(losses.total):
            raise SdtcError(f"row '{job.change}', seed {job.seed}: the loss is no longer finite")
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
    everybody, hard = _evaluate(network, job)
    measured = {"ap": f"{everybody:.2f}", "hard_ap": f"{hard:.2f}", "seconds": f"{time.process_time() - start:.0f}"}
    return {"change": job.change, "seed": str(job.seed), **job.budget, **measured}


def _batches(count: int, epochs: int, seed: int) -> Iterator[tuple[float, np.ndarray]]:
    """Yield the progress of the training, 0-1, and the indices of the windows in a batch."""
    steps = count // BATCH
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(count)
        for step in range(steps):
            yield (epoch * steps + step) / (epochs * steps), np.sort(order[step * BATCH : (step + 1) * BATCH])


def _evaluate(network: PoseNetwork, job: _Job) -> tuple[float, float]:
    """Return the mean AP of all people and of those who are occluded or blurred, in ground-truth boxes."""
    annotations = read_annotations(job.data, "val")
    config = network.config
    windows = _Windows(job.cache / "val", config)
    network.eval()
    decoded = []
    with torch.inference_mode():
        for rows in np.array_split(np.arange(len(windows)), -(-len(windows) // BATCH)):
            decoded.append(decode_heatmaps(network(windows.feed(network, rows)), config.input_size))
    keypoints = crops_to_images(torch.cat(decoded).numpy(), annotations, config.input_size)
    hard = [index for index, person in enumerate(annotations.people) if HARD & set(person.difficulty)]
    everybody = score(annotations, keypoints).total
    if not hard:
        return everybody, float("nan")
    return everybody, score(AnnotationSet([annotations.people[i] for i in hard]), keypoints[hard]).total


def _describe(change: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in change.items()) or "full"


def _configure(description: str) -> tuple[ModelConfig, bool]:
    """Return the configuration of a row, and whether it uses masked training."""
    change = next(row.change for row in ROWS if _describe(row.change) == description)
    config = _full_network()
    inner = {key.partition(".")[2]: value for key, value in change.items() if key.startswith("reconstruction.")}
    outer = {key: value for key, value in change.items() if "." not in key and key != "masked"}
    reconstruction = dataclasses.replace(config.reconstruction, **inner)
    return dataclasses.replace(config, reconstruction=reconstruction, **outer), bool(change.get("masked", True))


def _full_network() -> ModelConfig:
    """Return the network that all rows start from: `tiny` with a frozen backbone, in small crops."""
    config = get_preset("tiny")
    backbone = dataclasses.replace(config.backbone, frozen=True)
    return dataclasses.replace(config, input_size=INPUT_SIZE, backbone=backbone)


def _digest(config: ModelConfig) -> str:
    """Return a hash of every field of a configuration."""
    return hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()[:12]


def markdown(done: list[dict[str, str]]) -> str:
    """Return a table of measured and paper AP, a line per row: means over seeds, ± half their range."""
    first, seeds = done[0], len({row["seed"] for row in done})
    minutes = sum(float(row["seconds"]) for row in done) / 60
    lines = [
        f"{first['windows']} windows, {first['epochs']} epochs, {seeds} seeds per row, "
        f"{minutes:.0f} core-minutes in total; AP of all people, and of those who are occluded or blurred, ± half the "
        "range over seeds. Δ is the difference from the full network.",
        "",
        "| table | row | AP | Δ | AP, occluded or blurred | Δ | paper | Δ |",
        "|---|---|---|---|---|---|---|---|",
    ]
    full = {name: _spread(done, "full", name)[0] for name in ("ap", "hard_ap")}
    for row in ROWS:
        cells = []
        for name in ("ap", "hard_ap"):
            mean, half = _spread(done, _describe(row.change), name)
            cells += [f"{mean:.1f} ± {half:.1f}", f"{mean - full[name]:+.1f}"]
        paper = ["–", "–"] if row.paper is None else [f"{row.paper:.1f}", f"{row.paper - 87.5:+.1f}"]
        lines.append(f"| {row.table} | {row.name} | {' | '.join(cells + paper)} |")
    return "\n".join(lines) + "\n"


def _spread(done: list[dict[str, str]], change: str, name: str) -> tuple[float, float]:
    """Return the mean over seeds and half the range; NaN if the row has not been run."""
    values = [float(row[name]) for row in done if row["change"] == change]
    return (float(np.mean(values)), float(np.ptp(values)) / 2) if values else (float("nan"), float("nan"))


def _plot(path: Path, done: list[dict[str, str]]) -> None:
    """Plot the difference from the full network, measured and in the paper, with a bar per row and a dot per seed."""
    rows = [row for row in ROWS if row.change]
    full = _spread(done, "full", "ap")[0]
    figure = Figure(figsize=(9, 1 + 0.3 * len(rows)), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for y, row in enumerate(rows):
        change = _describe(row.change)
        axes.barh(y, _spread(done, change, "ap")[0] - full, 0.6, color="#56B4E9", label="measured" if not y else None)
        dots = [float(found["ap"]) - full for found in done if found["change"] == change]
        axes.plot(dots, [y] * len(dots), "o", color="#0072B2", ms=4, label="each seed" if not y else None)
        if row.paper is not None:
            axes.plot([row.paper - 87.5] * 2, [y - 0.4, y + 0.4], color="#D55E00", lw=2.5, label="" if y else "paper")
    axes.axvline(0, color="black", lw=1)
    axes.set_yticks(range(len(rows)), [f"{row.name}   T{row.table}" if row.paper else row.name for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("difference in AP from the full network")
    if rows:
        axes.legend(frameon=False)
    axes.grid(axis="x", alpha=0.25)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


if __name__ == "__main__":
    sys.exit(main())
