"""How long does a keyframe take, frame by frame and in whole windows, on every backend that is here?

    python benchmarks/latency.py [--preset tiny base] [--people 1 4] [--frames 12] [--output runs/latency]
    python benchmarks/latency.py --engine bundle/model.onnx --people 1 2 4 8

In one run, over the same rendered clip: PyTorch on whole windows (what research code does), the bundle's ONNX on whole
windows, and the bundle frame by frame. Presets are exported once, with weights that were never trained: times do not
depend on them. People are given, not detected; their boxes wander by --drift of their width a frame, and the share
of frames that could be reused is printed. A keyframe's time is from one result to the next, the stages overlapping.

With --engine only that bundle is measured, and PyTorch is not imported. Prints a table, appends to latency.csv and
draws latency.png where matplotlib is installed.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sdtc.errors import EngineError, InputError, command
from sdtc.files import make_directory
from sdtc.manifest import Manifest, find_manifest
from sdtc.runtime.detection import Detections
from sdtc.runtime.engine import PoseEngine
from sdtc.runtime.video import Frame, FrameSource
from sdtc.synthetic import SyntheticClip

HEIGHTS = {480: (480, 854), 1080: (1080, 1920)}


class Clip(FrameSource):
    """Frames in memory."""

    def __init__(self, images: list[np.ndarray]) -> None:
        self.path, self.name, self.fps, self.problems = Path("clip"), "clip", 25.0, []
        self.images, self.num_frames = images, len(images)

    def __iter__(self) -> Iterator[Frame]:
        for index, image in enumerate(self.images):
            yield Frame(index, index, None, image)


class People:
    """A detector that knows where everybody is: side by side, wandering to and fro."""

    def __init__(self, count: int, size: tuple[int, int], drift: float) -> None:
        height, width = size
        side = width / (count + 1)
        x = side * (np.arange(count) + 0.5)
        y, w, h = (np.full(count, side) for side in (0.2 * height, 0.8 * side, 0.7 * height))
        self.boxes = np.stack([x, y, w, h])
        self.drift, self.frame = drift, 0

    def detect(self, image: np.ndarray) -> Detections:
        x, y, width, height = self.boxes
        steps = abs((self.frame + 10) % 20 - 10)  # ten frames forth, ten back
        self.frame += 1
        boxes = np.stack([x + steps * self.drift * width, y, width, height], axis=1)
        return Detections(boxes.astype(np.float32), np.ones(len(boxes), np.float32))


@dataclass(frozen=True)
class Candidate:
    """Something that estimates poses."""

    name: str
    open: Callable[[], PoseEngine]


@command("latency.py")
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, metavar="FILE", help="measure this bundle only")
    parser.add_argument("--preset", nargs="+", default=["tiny", "base"], metavar="NAME", help="default: tiny base")
    parser.add_argument("--people", type=int, nargs="+", default=[1, 4], metavar="N", help="default: 1 4")
    parser.add_argument("--height", type=int, choices=HEIGHTS, default=480, help="of the frames (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=12, metavar="N", help="timed keyframes (default: %(default)s)")
    parser.add_argument("--drift", type=float, default=0.0, metavar="S", help="a frame (default: people stand still)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all that may be used)")
    parser.add_argument("--output", type=Path, default=Path("runs/latency"), metavar="DIR", help="default: %(default)s")
    args = parser.parse_args(argv)
    if min(*args.people, args.frames) < 1 or args.drift < 0:
        raise InputError("--people and --frames must be at least 1, --drift at least 0")
    make_directory(args.output)
    clip = SyntheticClip(seed=0, num_frames=8, size=HEIGHTS[args.height], num_people=2)
    pictures = [frame.image for frame in clip]

    rows: list[dict[str, Any]] = []
    bundles: dict[str, Path | None] = dict.fromkeys(args.preset)
    if args.engine:
        bundles = {Manifest.load(find_manifest(args.engine)).name: args.engine}
    for name, engine in bundles.items():
        found = of_bundle(engine, args.threads) if engine else of_preset(name, args.output / "bundles", args.threads)
        work = [(candidate, people) for candidate in found for people in args.people]
        first = len(rows)
        for candidate, people in tqdm(work, desc=name, unit="case", disable=None, leave=False):
            try:
                measured = measure(candidate, pictures, people, args)
            except EngineError as error:
                tqdm.write(f"note: {candidate.name}: {error}", file=sys.stderr)
                continue
            rows.append(_machine() | {"preset": name, "what": candidate.name, "people": people} | measured)
        append(args.output / "latency.csv", rows[first:])  # what is measured is kept, whatever comes next
    if not rows:
        raise InputError("nothing could be measured: see the notes above")
    print(table(rows))
    print(f"wrote {args.output / 'latency.csv'}")
    if draw(args.output / "latency.png", rows):
        print(f"wrote {args.output / 'latency.png'}")
    return 0


def of_preset(preset: str, folder: Path, threads: int | None) -> list[Candidate]:
    """Export a preset where that has not been done, and list PyTorch beside its bundle."""
    import torch

    from sdtc.evaluation.inference import open_checkpoint
    from sdtc.export.bundle import export
    from sdtc.model import build, get_preset, save_checkpoint

    checkpoint, bundle = folder / f"{preset}.pth", folder / preset
    if not (bundle / "model.json").exists():
        torch.manual_seed(0)
        save_checkpoint(make_directory(folder) / checkpoint.name, build(get_preset(preset)), trained=False)
        export(checkpoint, bundle, plan=False, quiet=True)
    return [
        Candidate("PyTorch, whole windows", lambda: open_checkpoint(checkpoint, "cpu", threads)),
        *of_bundle(bundle, threads),
    ]


def of_bundle(path: Path, threads: int | None) -> list[Candidate]:
    """List every way to run a bundle: by what is installed, in whole windows and frame by frame."""
    ways: list[tuple[str, dict[str, Any]]] = []
    if path.suffix == ".plan":
        ways.append(("engine", {}))
    if find_spec("onnxruntime"):
        ways.append(("ONNX Runtime", {"backend": "onnxruntime"}))
    if find_spec("openvino"):
        ways += [("OpenVINO", {"backend": "openvino"}), ("OpenVINO bf16", {"bf16": True})]
    return [
        Candidate(f"{name}, {how}", lambda o=options, e=exact: PoseEngine(path, threads=threads, exact=e, **o))
        for name, options in ways
        for how, exact in (("whole windows", True), ("frame by frame", False))
    ]


def measure(candidate: Candidate, pictures: list[np.ndarray], people: int, args: argparse.Namespace) -> dict[str, Any]:
    """Time keyframes: percentiles in milliseconds, the first result in seconds since the engine was asked for."""
    size = pictures[0].shape[:2]
    start = time.perf_counter()
    with candidate.open() as engine:
        settled = engine.manifest.num_frames + 1  # until the first window is encoded and the queues are filled
        count = settled + args.frames + 1
        images = [pictures[i % len(pictures)] for i in range(count + engine.manifest.delta)]
        results = engine.track(Clip(images), detector=People(people, size, args.drift))
        times = [time.perf_counter() for _ in islice(results, count)]
        results.close()
        between = np.diff(times[settled:]) * 1e3
        known = engine.encoded + engine.reused
        return {
            **{f"p{p}_ms": round(float(np.percentile(between, p)), 2) for p in (50, 95, 99)},
            "keyframes_per_second": round(1e3 / float(np.median(between)), 2),
            "first_result_s": round(times[0] - start, 2),
            "reused": round(engine.reused / known, 3) if known else 0.0,
            "backend": engine.backend,
            "height": size[0],
            "drift": args.drift,
        }


def _machine() -> dict[str, Any]:
    from sdtc.runtime.sessions import available_cpus

    return {"date": datetime.date.today().isoformat(), "machine": platform.machine(), "cpus": available_cpus()}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as text; x is the speed against the first row of the same preset and people."""
    lines = [
        f"{'preset':8}{'what':32}{'people':>7}{'p50 ms':>10}{'p95':>9}{'p99':>9}{'a person':>10}{'reused':>8}"
        f"{'first s':>9}{'x':>7}"
    ]
    for row in rows:
        base = next(r for r in rows if (r["preset"], r["people"]) == (row["preset"], row["people"]))
        lines.append(
            f"{row['preset']:8}{row['what']:32}{row['people']:7}{row['p50_ms']:10.1f}{row['p95_ms']:9.1f}"
            f"{row['p99_ms']:9.1f}{row['p50_ms'] / row['people']:10.1f}{row['reused']:8.0%}{row['first_result_s']:9.1f}"
            f"{base['p50_ms'] / row['p50_ms']:6.1f}x"
        )
    return "\n".join(lines)


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append rows to a CSV file, with a head where it is new."""
    if not rows:
        return
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        if fresh:
            writer.writeheader()
        writer.writerows(rows)


def draw(path: Path, rows: list[dict[str, Any]]) -> bool:
    """Draw medians for the fewest people; False without matplotlib."""
    if not find_spec("matplotlib"):
        return False
    from matplotlib.figure import Figure

    from sdtc.files import atomic_write

    people = min(row["people"] for row in rows)
    names = list(dict.fromkeys(row["preset"] for row in rows))
    figure = Figure(figsize=(6 * len(names), 4), dpi=110, layout="constrained")
    for number, name in enumerate(names, start=1):
        axes = figure.add_subplot(1, len(names), number)
        bars = [row for row in rows if row["preset"] == name and row["people"] == people]
        colours = ["#D55E00" if "whole" in row["what"] else "#0072B2" for row in bars]
        drawn = axes.barh([row["what"] for row in bars], [row["p50_ms"] for row in bars], color=colours)
        axes.bar_label(drawn, fmt="%.0f", padding=3)
        axes.margins(x=0.12)
        axes.invert_yaxis()
        axes.set(title=f"{name}, {people} person{'s' if people > 1 else ''}", xlabel="median time of a keyframe, ms")
    figure.suptitle(f"{rows[0]['cpus']} CPUs, {rows[0]['date']}")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")
    return True


if __name__ == "__main__":
    sys.exit(main())
