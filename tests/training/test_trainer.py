"""The trainer on the least network there is: learning, resuming to the bit, several processes, broken input."""

from __future__ import annotations

import copy
import csv
import dataclasses
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from sdtc.core.errors import CheckpointError, ConfigError, InputError, SdtcError
from sdtc.core.image_file import ImageCache
from sdtc.model import MaskedSDTC, ModelConfig, build, load_checkpoint
from sdtc.model.checkpoint import LITERAL
from sdtc.model.decoding import decode_heatmaps
from sdtc.synthetic import ClipOptions, SyntheticClip, write_clip
from sdtc.training.annotations import read_annotations
from sdtc.training.cli import main
from sdtc.training.dataset import WindowDataset
from sdtc.training.losses import context_loss, heatmap_loss, masked_losses
from sdtc.training.optimizer import Muon, build_optimizers, orthogonalize, take_step
from sdtc.training.train_config import TrainConfig, config_names, load_config
from sdtc.training.trainer import Trainer
from sdtc.training.validation import score

pytest.importorskip("accelerate", reason="needs the extra train")
from accelerate.state import AcceleratorState

MODEL = {
    "name": "micro",
    "input_size": [64, 48],
    "backbone": {"width": 32, "depth": 1, "heads": 2, "frozen": False},
    "width": 16,
    "heads": 2,
    "delta": 1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for seed in (1, 2):
        write_clip(
            SyntheticClip(ClipOptions(seed=seed, num_frames=12, size=(96, 128), num_people=2)), root, video=False
        )
    return root


@pytest.fixture(scope="module")
def bare_data(data, tmp_path_factory) -> Path:
    """The same people, without track ids, lengths of sequences and head boxes, as COCO's own files are."""
    root = tmp_path_factory.mktemp("bare")
    (root / "images").symlink_to(data / "images")
    (root / "annotations" / "val").mkdir(parents=True)
    for path in (data / "annotations" / "val").glob("*.json"):
        content = json.loads(path.read_text())
        for record in [*content["images"], *content["annotations"]]:
            for key in ("track_id", "nframes", "bbox_head"):
                record.pop(key, None)
        (root / "annotations" / "val" / path.name).write_text(json.dumps(content))
    return root


def settings(data: Path, **changes) -> dict:
    base = {
        "train": [{"root": str(data), "split": "val"}],
        "val": [{"root": str(data), "split": "val"}],
        "model": MODEL,
        "epochs": 2,
        "milestones": [1],
        "batch_size": 8,
        "workers": 0,
        "threads": 1,
        "device": "cpu",
        "learning_rate": 1e-3,
    }
    return base | changes


@pytest.fixture
def config_file(data, tmp_path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings(data)))
    return path


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(path).network.state_dict()


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert set(a) == set(b)
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


@pytest.mark.slow
def test_a_run_leaves_checkpoints_logs_and_curves(config_file, tmp_path, capsys, figures) -> None:
    out = tmp_path / "run"
    assert main([str(config_file), "--output", str(out)]) == 0
    assert "2 epochs, best validation AP" in capsys.readouterr().out
    assert {"last.pth", "best.pth", "log.csv", "curves.png"} <= {path.name for path in out.iterdir()}
    rows = list(csv.DictReader((out / "log.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [float(row["learning_rate"]) for row in rows] == pytest.approx([1e-3, 1e-4])
    assert float(rows[1]["total"]) < float(rows[0]["total"])
    losses, ap = figures[-1].axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in losses.lines}
    for name in ("total", "heatmaps", "contexts", "heatmap_sequence"):
        assert drawn[name.replace("_", " ")] == [float(row[name]) for row in rows]
    assert list(ap.lines[0].get_ydata()) == [float(row["val_ap"]) for row in rows]
    assert load_checkpoint(out / "best.pth").trained
    # deployable: nothing of the reconstruction branch is among the weights
    assert not [key for key in weights(out / "last.pth") if "decoder" in key or "mask" in key]
    assert main([str(config_file), "--output", str(out)]) == 2
    assert "holds a run already" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{"kind": "vitpose", "delta": 0}, {"motion": "optical_flow"}, {"motion_encoder": "vit"}], ids=str
)
def test_networks_that_are_not_masked_train_and_resume_too(data, tmp_path, change) -> None:
    config = load_config_from(settings(data, epochs=1, model=MODEL | change))
    with Trainer(config, tmp_path, quiet=True) as trainer:
        trainer.run()
    state = weights(tmp_path / "last.pth")
    with Trainer(config, tmp_path, resume=True, quiet=True) as trainer:
        assert trainer.epoch == 1
        assert_same(state, trainer.network.state_dict())
    row = next(csv.DictReader((tmp_path / "log.csv").open()))
    assert row["total"] == row["heatmaps"]


@pytest.mark.slow
def test_an_epoch_is_told_where_a_log_shows_it(config_file, tmp_path, capsys) -> None:
    assert main([str(config_file), "--output", str(tmp_path / "run")]) == 0
    lines = re.findall(r"epoch (\d)/2: loss [\d.e-]+, validation AP [\d.]+, [\d.]+ windows/s", capsys.readouterr().err)
    assert lines == ["1", "2"]


@pytest.mark.slow
def test_overfitting_one_batch_to_near_zero(data) -> None:
    config = load_config_from(settings(data, model=MODEL | {"width": 64, "heads": 4}))
    dataset = WindowDataset(read_annotations(data, "val"), config.model)
    batch = torch.utils.data.default_collate([dataset[i] for i in range(0, 24, 4)])
    torch.manual_seed(0)
    network = MaskedSDTC(build(config.model)).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(250):
        out = network(batch["clip"])
        loss = heatmap_loss(out.heatmaps, batch["heatmaps"][:, 1], batch["weights"][:, 1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.02 * losses[0]
    size = config.model.input_size
    distance = (decode_heatmaps(out.heatmaps, size) - decode_heatmaps(batch["heatmaps"][:, 1], size))[..., :2].norm(
        dim=-1
    )
    labelled = batch["weights"][:, 1] > 0
    assert (distance < 6)[labelled].float().mean() > 0.95  # crop pixels: one and a half of a heatmap


def load_config_from(values: dict) -> TrainConfig:
    from sdtc.core.settings import build_settings

    return build_settings(TrainConfig, values, "test")


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_with_and_without_workers(data, tmp_path) -> None:
    for name, workers in (("a", 0), ("b", 2)):
        Trainer(load_config_from(settings(data, epochs=1, workers=workers)), tmp_path / name, quiet=True).run()
    assert_same(weights(tmp_path / "a" / "last.pth"), weights(tmp_path / "b" / "last.pth"))
    Trainer(load_config_from(settings(data, epochs=1, seed=1)), tmp_path / "c", quiet=True).run()
    assert not torch.equal(
        weights(tmp_path / "a" / "last.pth")["head.conv.weight"],
        weights(tmp_path / "c" / "last.pth")["head.conv.weight"],
    )


@pytest.mark.slow
def test_images_held_in_memory_are_the_images(data, tmp_path) -> None:
    for name, cached in (("read", False), ("held", True)):
        config = load_config_from(settings(data, epochs=1, cache_images=cached, workers=int(cached)))
        Trainer(config, tmp_path / name, quiet=True).run()
    assert_same(weights(tmp_path / "read" / "last.pth"), weights(tmp_path / "held" / "last.pth"))
    rows = [next(csv.DictReader((tmp_path / run / "log.csv").open())) for run in ("read", "held")]
    assert rows[0]["val_ap"] == rows[1]["val_ap"]


def test_images_that_are_gone_or_broken_are_the_same_in_memory(tmp_path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    cache = ImageCache([broken, tmp_path / "gone.jpg"])
    assert cache(broken) is None
    assert cache(tmp_path / "gone.jpg") is None
    cv2.imwrite(str(tmp_path / "late.png"), np.full((4, 5, 3), (0, 0, 255), np.uint8))
    assert cache(tmp_path / "late.png")[0, 0].tolist() == [255, 0, 0]  # never asked for before: read now, RGB


@pytest.mark.slow
def test_a_run_from_before_the_readings_goes_on_as_what_it_was(data, tmp_path) -> None:
    """Its state is of version 1, and its configuration says nothing of Eq. 6 and Eq. 8: it was the literal reading."""
    literal = load_config_from(settings(data, epochs=1, model=MODEL | LITERAL))
    with Trainer(literal, tmp_path, quiet=True) as trainer:
        trainer.run()
    state = torch.load(tmp_path / "last.pth", weights_only=True)
    config = {key: value for key, value in state["config"].items() if key not in LITERAL}
    torch.save(state | {"version": 1, "config": config}, tmp_path / "last.pth")
    with pytest.raises(CheckpointError, match="'replace', this network has"):
        Trainer(load_config_from(settings(data, epochs=1)), tmp_path, resume=True, quiet=True)
    with Trainer(literal, tmp_path, resume=True, quiet=True) as trainer:
        assert trainer.epoch == 1


@pytest.mark.slow
def test_a_run_starts_from_a_network_of_fewer_frames(data, tmp_path) -> None:
    """A learning rate of next to nothing leaves the weights that were loaded, inflated, as they are."""
    small = load_config_from(settings(data, epochs=1, model=MODEL | {"delta": 0}))
    with Trainer(small, tmp_path / "small", quiet=True) as trainer:
        trainer.run()
    settled = settings(data, epochs=1, load_from=str(tmp_path / "small" / "best.pth"), learning_rate=1e-12)
    with Trainer(load_config_from(settled), tmp_path / "large", quiet=True) as trainer:
        trainer.run()
    old, new = weights(tmp_path / "small" / "best.pth"), weights(tmp_path / "large" / "last.pth")
    kernel = "fusion.aggregate_m.conv.0.weight"
    middle = new[kernel][:, MODEL["width"] : 2 * MODEL["width"]]
    torch.testing.assert_close(middle, old[kernel], atol=1e-6, rtol=1e-5)
    with pytest.raises(ConfigError, match="both given"):
        load_config_from(settled | {"backbone": "vitpose-b.pth"})


def test_muon_takes_the_matrices_and_adamw_the_rest() -> None:
    network = MaskedSDTC(build(ModelConfig.from_dict(MODEL | {"backbone": MODEL["backbone"] | {"frozen": True}})))
    trainable = {id(p): p for p in network.parameters() if p.requires_grad}
    assert len(trainable) < len(list(network.parameters()))
    for name, kinds in (("adamw", [torch.optim.AdamW]), ("muon", [torch.optim.AdamW, Muon])):
        optimizers = build_optimizers(network.parameters(), name, 1e-3, 0.01)
        assert [type(optimizer) for optimizer in optimizers] == kinds
        taken = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        assert len(taken) == len(trainable)
        assert {id(p) for p in taken} == set(trainable)
    assert {p.ndim for p in optimizers[1].param_groups[0]["params"]} == {2, 4}
    assert {p.ndim for p in optimizers[0].param_groups[0]["params"]} == {1, 3}


def test_muon_takes_the_steps_of_pytorchs() -> None:
    """Which computes them in bf16: what it makes of singular values near 0 is chance, so these matrices have none."""
    torch.manual_seed(1)
    shapes = [(24, 8), (8, 24), (8, 8), (24, 8), (1, 8)]
    mine = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in mine]
    ours = Muon(mine, 1e-2, 0.1)
    other = torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        for a, b in zip(mine, theirs, strict=True):
            u, _, v = torch.linalg.svd(torch.randn_like(a), full_matrices=False)
            a.grad = u * torch.linspace(1, 2, u.shape[1]) @ v
            b.grad = a.grad.clone()
        before = [parameter.detach().clone() for parameter in mine]
        ours.step()
        other.step()
        for start, a, b in zip(before, mine, theirs, strict=True):
            assert (a - b).norm() < 0.05 * (a - start).norm()
            b.data.copy_(a.data)
    mine[0].grad, kept = None, mine[0].detach().clone()
    ours.step()
    assert torch.equal(mine[0], kept)


def test_muon_takes_a_convolution_for_the_matrix_that_multiplies_a_patch() -> None:
    """Also where its gradient has the channels last in memory, and where it is orthogonalised transposed."""
    for shape in ((8, 4, 3, 3), (24, 4, 1, 1)):
        kernel = torch.nn.Parameter(torch.randn(shape))
        matrix = torch.nn.Parameter(kernel.detach().clone().flatten(1))
        kernel.grad = torch.randn(shape).contiguous(memory_format=torch.channels_last)
        matrix.grad = kernel.grad.flatten(1).clone()
        for parameter in (kernel, matrix):
            Muon([parameter], 1e-2, 0.1).step()
        torch.testing.assert_close(kernel.flatten(1), matrix)


@pytest.mark.slow
def test_bf16_on_a_cpu_learns_as_fp32_does(data, tmp_path) -> None:
    losses = {}
    for precision in ("no", "bf16"):
        config = load_config_from(settings(data, optimizer="muon", precision=precision, epochs=3))
        try:
            with Trainer(config, tmp_path / precision, quiet=True) as trainer:
                trainer.run()
            other = load_config_from(settings(data, precision="no" if precision == "bf16" else "bf16"))
            with pytest.raises(ConfigError, match="trained with another before"):
                Trainer(other, tmp_path / "other")
        finally:
            AcceleratorState._reset_state()  # a process has one precision, unless this is forgotten
        losses[precision] = [float(row["total"]) for row in csv.DictReader((tmp_path / precision / "log.csv").open())]
    assert losses["bf16"][-1] < losses["bf16"][0]
    assert losses["bf16"] == pytest.approx(losses["no"], rel=0.02)
    assert losses["bf16"] != losses["no"]


@pytest.mark.parametrize("shape", [(2, 12, 30), (3, 30, 12), (1, 16, 16)])
def test_orthogonalised_matrices_have_singular_values_near_1(shape) -> None:
    singular = torch.linalg.svdvals(orthogonalize(torch.randn(shape) * 1e-3))
    assert ((singular > 0.3) & (singular < 1.3)).all()
    assert not orthogonalize(torch.zeros(shape)).any()


@pytest.mark.slow
def test_a_run_with_muon_resumes_to_the_bit(data, tmp_path) -> None:
    config = load_config_from(settings(data, optimizer="muon", decay="linear", epochs=3))
    Trainer(config, tmp_path / "whole", quiet=True).run()
    first = Trainer(config, tmp_path / "parts", quiet=True)
    first._end_epoch = lambda bar: (_ for _ in ()).throw(KeyboardInterrupt)  # stopped after a whole epoch
    first.config = dataclasses.replace(config, save_seconds=0)
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = Trainer(config, tmp_path / "parts", resume=True, quiet=True)
    assert second.step == first.step - 1 > 0  # an epoch's last step is saved with its end
    second.run()
    assert_same(weights(tmp_path / "whole" / "last.pth"), weights(tmp_path / "parts" / "last.pth"))


def networks_of_equal_weights(count: int) -> list[torch.nn.Module]:
    torch.manual_seed(0)
    first = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    return [copy.deepcopy(first) for _ in range(count)]


def scaler_on_a_cpu(**changes) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", **changes)


def test_scaled_gradients_take_the_steps_of_those_that_are_not() -> None:
    """With two optimisers, the second one's gradients were unscaled twice."""
    plain, scaled = networks_of_equal_weights(2)
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
    for network, scaler in ((plain, scaler_on_a_cpu(enabled=False)), (scaled, scaler_on_a_cpu(init_scale=2.0**20))):
        optimizers = build_optimizers(network.parameters(), "muon", 1e-2, 0.01)
        assert len(optimizers) == 2
        for _ in range(5):
            for optimizer in optimizers:
                optimizer.zero_grad()
            scaler.scale((1e-4 * network(x)).square().mean()).backward()  # small: unscaled twice, they vanish
            take_step(optimizers, scaler, clip_norm=1.0)
    for a, b in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("of", ["matrix", "bias"])
def test_an_overflow_skips_the_step_of_all_optimisers_and_halves_the_scale_once(of) -> None:
    network, before = networks_of_equal_weights(2)
    optimizers = build_optimizers(network.parameters(), "muon", 1e-2, 0.01)
    scaler = scaler_on_a_cpu(init_scale=1024.0)
    scaler.scale(network(torch.ones(1, 4)).sum()).backward()
    (network[0].weight if of == "matrix" else network[0].bias).grad.view(-1)[0] = float("inf")
    take_step(optimizers, scaler, clip_norm=1.0)
    assert_same(dict(network.named_parameters()), dict(before.named_parameters()))
    assert scaler.get_scale() == 512.0
    for optimizer in optimizers:
        optimizer.zero_grad()
    scaler.scale(network(torch.ones(1, 4)).sum()).backward()
    take_step(optimizers, scaler, clip_norm=1.0)
    changed = [not torch.equal(a, b) for a, b in zip(network.parameters(), before.parameters(), strict=True)]
    assert all(changed)


@pytest.fixture
def with_scaler(monkeypatch):
    """Every trainer scales its gradients, as with fp16 on a GPU; the scale doubles every three steps."""
    accelerate = pytest.importorskip("accelerate")
    make = accelerate.Accelerator.__init__

    def scaling(self, *arguments, **options) -> None:
        make(self, *arguments, **options)
        self.scaler = scaler_on_a_cpu(init_scale=2.0**10, growth_interval=3)

    monkeypatch.setattr(accelerate.Accelerator, "__init__", scaling)


@pytest.mark.slow
def test_a_run_with_scaled_gradients_resumes_with_its_scale(data, tmp_path, with_scaler) -> None:
    config = load_config_from(settings(data, optimizer="muon", epochs=2, save_seconds=0))
    Trainer(config, tmp_path / "whole", quiet=True).run()
    first = Trainer(config, tmp_path / "parts", quiet=True)
    take = first._take_step

    def take_four(batch):
        if first.step == 4:
            raise KeyboardInterrupt
        return take(batch)

    first._take_step = take_four
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = Trainer(config, tmp_path / "parts", resume=True, quiet=True)
    assert (second.step, second.scaler.get_scale()) == (4, 2.0**11)
    second.run()
    assert_same(weights(tmp_path / "whole" / "last.pth"), weights(tmp_path / "parts" / "last.pth"))
    whole, parts = (training_state(tmp_path / run)["scaler"] for run in ("whole", "parts"))
    assert whole == parts
    assert whole["scale"] > 2.0**11


@pytest.mark.slow
def test_scaled_gradients_train_as_plain_ones_do(data, tmp_path, request) -> None:
    config = load_config_from(settings(data, optimizer="muon", epochs=1))
    Trainer(config, tmp_path / "plain", quiet=True).run()
    request.getfixturevalue("with_scaler")
    Trainer(config, tmp_path / "scaled", quiet=True).run()
    plain, scaled = (weights(tmp_path / run / "last.pth") for run in ("plain", "scaled"))
    for name, value in plain.items():
        torch.testing.assert_close(scaled[name], value, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.gpu
def test_fp16_with_muon_on_a_gpu_learns_and_resumes(data, tmp_path) -> None:
    config = load_config_from(settings(data, optimizer="muon", precision="fp16", device="auto", epochs=3))
    with Trainer(config, tmp_path, quiet=True) as trainer:
        assert trainer.scaler.is_enabled()
        trainer.run()
        scale = trainer.scaler.get_scale()
    losses = [float(row["total"]) for row in csv.DictReader((tmp_path / "log.csv").open())]
    assert losses[-1] < losses[0]
    with Trainer(config, tmp_path, resume=True, quiet=True) as again:
        assert again.scaler.get_scale() == scale
        states = [state for optimizer in again.optimizers for state in optimizer.state.values()]
        assert {value.device.type for state in states for name, value in state.items() if name != "step"} == {"cuda"}


@pytest.mark.slow
def test_killed_and_resumed_is_as_never_killed(data, config_file, tmp_path) -> None:
    """Kill -9 in the middle of an epoch; the state was saved at some step before."""
    changes = ["--set", "epochs=6", "--set", "save_seconds=0", "--quiet"]
    assert main([str(config_file), "--output", str(tmp_path / "whole"), *changes]) == 0
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "sdtc.training.cli", str(config_file), "--output", str(out), *changes]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if (
            (out / "last.pth").exists()
            and training_state(out)["epoch"] >= 1
            and training_state(out)["step_in_epoch"] > 0
        ):
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = training_state(out)
    assert before["epoch"] < 6
    assert main([str(config_file), "--output", str(out), *changes, "--resume"]) == 0
    assert_same(weights(tmp_path / "whole" / "last.pth"), weights(out / "last.pth"))
    whole, resumed = (list(csv.DictReader((tmp_path / run / "log.csv").open())) for run in ("whole", "killed"))
    assert [row["step"] for row in whole] == [row["step"] for row in resumed]
    assert whole[-1]["val_ap"] == resumed[-1]["val_ap"]


def training_state(out: Path) -> dict:
    return torch.load(out / "last.pth", weights_only=True)["training"]


_GRADIENTS = """
import json, sys, torch
from pathlib import Path
from sdtc.core.settings import build_settings
from sdtc.training.train_config import TrainConfig
from sdtc.training.trainer import Trainer

config = build_settings(TrainConfig, json.loads(sys.argv[1]), "test")
with Trainer(config, Path(sys.argv[2]), quiet=True) as trainer:
    trainer.module.train()
    for module in trainer.masked.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # statistics are each process's own
    batch = next(iter(trainer._loader()))
    losses = trainer.compute_losses(batch)
    trainer.accelerator.backward(losses.total)
    if trainer.rank == 0:
        torch.save({n: p.grad for n, p in trainer.masked.named_parameters() if p.grad is not None}, sys.argv[3])
"""


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one_with_the_double_batch(data, tmp_path) -> None:
    script = tmp_path / "gradients.py"
    script.write_text(_GRADIENTS)
    arguments = [json.dumps(settings(data)), str(tmp_path / "run")]
    one, two = tmp_path / "one.pt", tmp_path / "two.pt"
    subprocess.run([sys.executable, str(script), *arguments, str(one)], check=True, timeout=120)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*torchrun, str(script), *arguments, str(two)], check=True, timeout=120, env=environment)
    a, b = (torch.load(path, weights_only=True) for path in (one, two))
    assert set(a) == set(b)
    assert len(a) > 50
    for name, gradient in a.items():
        torch.testing.assert_close(b[name], gradient, atol=1e-7 + 1e-4 * float(gradient.abs().max()), rtol=0, msg=name)


@pytest.mark.slow
def test_training_under_torchrun(config_file, tmp_path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "sdtc.training.cli", str(config_file), "--output", str(tmp_path / "run"), "--set", "epochs=1"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=180, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epochs, best validation AP") == 1
    assert load_checkpoint(tmp_path / "run" / "last.pth").trained


_VALIDATION = """
import json, sys, torch
from pathlib import Path
from sdtc.core.settings import build_settings
from sdtc.training import dataset, validation
from sdtc.training.train_config import TrainConfig
from sdtc.training.trainer import Trainer

validation.BATCH = 7
with Trainer(build_settings(TrainConfig, json.loads(sys.argv[1]), "test"), Path(sys.argv[2]), quiet=True) as trainer:
    read, seen = dataset.read_window, []
    dataset.read_window = lambda person, *rest: (seen.append(person), read(person, *rest))[1]
    share = validation.Share(trainer.rank, trainer.world)
    people = trainer.validation[0]
    poses = validation.predict(trainer.network, people, torch.device("cpu"), share=share)
    ap = validation.score(people, poses).total
    torch.save((torch.from_numpy(poses), ap, len(seen)), f"{sys.argv[3]}.{trainer.rank}")
    trainer.run()
    assert trainer.best >= 0
    Path(f"{sys.argv[3]}.best.{trainer.rank}").write_text(repr(trainer.best))
"""


@pytest.mark.slow
def test_two_processes_share_the_validation_and_score_as_one(data, tmp_path) -> None:
    """One of them validated, and the others waited until a barrier lost its patience."""
    script = tmp_path / "validation.py"
    script.write_text(_VALIDATION)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for name, command in (("one", [sys.executable]), ("two", torchrun)):
        arguments = [json.dumps(settings(data, epochs=1)), str(tmp_path / f"run-{name}"), str(tmp_path / name)]
        subprocess.run([*command, str(script), *arguments], check=True, timeout=120, env=environment)
    poses, ap, seen = torch.load(tmp_path / "one.0", weights_only=True)
    parts = [torch.load(tmp_path / f"two.{rank}", weights_only=True) for rank in (0, 1)]
    for part, their_ap, _ in parts:
        assert torch.equal(part, poses)
        assert their_ap == ap
    assert sum(part[2] for part in parts) == seen == len(poses) > 21
    assert min(part[2] for part in parts) >= 21
    best = [(tmp_path / f"two.best.{rank}").read_text() for rank in (0, 1)]
    assert best[0] == best[1]


def test_context_loss_is_about_hidden_places_only() -> None:
    predicted, target = torch.zeros(2, 3, 4, 5, requires_grad=True), torch.full((2, 3, 4, 5), 3.0)
    tubes = torch.tensor([[True, False, False, True]] * 2)
    frames = torch.tensor([[True, False, False]] * 2)
    loss = context_loss(predicted, target, tubes, frames)
    loss.backward()
    assert float(loss.detach()) == 3.0  # L1: squared it would be 9
    touched = predicted.grad.abs().sum(-1) > 0
    assert torch.equal(touched, tubes[:, None] & frames[:, :, None])
    nothing = context_loss(predicted, target, torch.zeros_like(tubes), frames)
    assert float(nothing.detach()) == 0.0


def test_loss_terms_and_their_weight(data) -> None:
    config = load_config_from(settings(data))
    network = MaskedSDTC(build(config.model)).eval()
    dataset = WindowDataset(read_annotations(data, "val"), config.model)
    batch = torch.utils.data.default_collate([dataset[i] for i in range(4)])
    tubes, frames = torch.ones(4, 12, dtype=torch.bool), torch.ones(4, 3, dtype=torch.bool)
    out = network(batch["clip"], tubes, frames)
    losses = masked_losses(out, batch["heatmaps"], batch["weights"], tubes, frames, config.model.reconstruction)
    want = losses.heatmaps + 0.01 * losses.contexts + losses.heatmap_sequence  # Eq. 16, λ = 0.01
    torch.testing.assert_close(losses.total.detach(), want)
    torch.testing.assert_close(losses.contexts, (out.contexts - out.context_targets).abs().mean().detach())  # Eq. 15
    assert losses.contexts > 0
    alone = masked_losses(out, batch["heatmaps"], batch["weights"], None, None, config.model.reconstruction)
    torch.testing.assert_close(alone.total.detach(), losses.heatmaps)


def test_people_without_track_ids_are_targets_in_their_keyframe_only(data, bare_data) -> None:
    config = load_config_from(settings(data)).model
    known, unknown = (WindowDataset(read_annotations(root, "val"), config) for root in (data, bare_data))
    assert len(known) == len(unknown)
    assert any(known[i]["weights"][0].any() for i in range(len(known)))
    for i in range(len(unknown)):
        weights = unknown[i]["weights"]  # [T, J]
        assert not weights[0].any()
        assert not weights[2].any()
        assert torch.equal(weights[1], known[i]["weights"][1])


def test_two_people_of_one_track_id_are_targets_in_their_keyframe_only(data, tmp_path) -> None:
    """In frame 5 everybody has id 0: that frame says nothing of who is who before and after it."""
    (tmp_path / "images").symlink_to(data / "images")
    (tmp_path / "annotations" / "val").mkdir(parents=True)
    for path in (data / "annotations" / "val").glob("*.json"):
        content = json.loads(path.read_text())
        number_of = {image["id"]: int(Path(image["file_name"]).stem) for image in content["images"]}
        for person in content["annotations"]:
            if number_of[person["image_id"]] == 5:
                person["track_id"] = 0
        (tmp_path / "annotations" / "val" / path.name).write_text(json.dumps(content))
    config = load_config_from(settings(data)).model
    whole, shared = (WindowDataset(read_annotations(root, "val"), config) for root in (data, tmp_path))
    for i, person in enumerate(whole.people):
        # of the other frames' windows only those of track 0 could be misled: both people of frame 5 carry it
        lost = {4: [2], 5: [0, 2], 6: [0]}.get(person.number, [])
        weights = shared[i]["weights"]
        assert not weights[lost].any()
        kept = [t for t in range(3) if t not in lost]
        assert torch.equal(weights[kept], whole[i]["weights"][kept])


def test_windows_reach_forward_without_lengths(data, bare_data) -> None:
    known, unknown = (read_annotations(root, "val").people for root in (data, bare_data))
    assert {(person.first, person.last) for person in unknown} == {(0, 11)}
    frames = [[person.frame(offset).name for offset in range(-2, 3)] for person in unknown]
    assert frames == [[person.frame(offset).name for offset in range(-2, 3)] for person in known]


def test_ap_without_head_boxes_is_not_zero(data, bare_data) -> None:
    """The best checkpoint was the first one, whatever was learnt."""
    for root in (data, bare_data):
        annotations = read_annotations(root, "val")
        poses = np.stack([person.keypoints for person in annotations.people])
        poses[..., 2] = 1
        assert score(annotations, poses).total == 100
        far = poses.copy()
        far[..., 0] += 40
        assert score(annotations, far).total < 30


def test_training_without_track_ids_lengths_and_head_boxes(data, bare_data, tmp_path, capsys) -> None:
    for root, notes in ((bare_data, 1), (data, 0)):
        out = tmp_path / root.name
        Trainer(load_config_from(settings(root, epochs=1)), out).run()
        assert (out / "best.pth").is_file()
        said = capsys.readouterr().err
        assert said.count("people have no head box ('bbox_head'): the size of their heads") == notes


def test_annotations_that_are_left_out_are_told(data, tmp_path, capsys) -> None:
    root = Path(shutil.copytree(data, tmp_path / "copy"))
    path = min((root / "annotations" / "val").iterdir())
    content = json.loads(path.read_text())
    content["annotations"][0]["iscrowd"], content["annotations"][1]["category_id"] = 1, 2
    path.write_text(json.dumps(content))
    Trainer(load_config_from(settings(root, epochs=1)), tmp_path / "run").run()
    said = capsys.readouterr().err
    for split in ("training", "validation"):
        assert f"note     {split}: annotations left out: 1 marked as a crowd, 1 of another category" in said


def test_of_equal_scores_the_last_is_the_best(data, tmp_path, monkeypatch) -> None:
    """AP is 0 for a while where weights start from nothing."""
    scores = iter([0.0, 0.0, 7.0, 5.0])
    monkeypatch.setattr("sdtc.training.trainer.validate", lambda *_: next(scores))
    with Trainer(load_config_from(settings(data, epochs=4)), tmp_path, quiet=True) as trainer:
        kept = []
        end = trainer._end_epoch

        def watch(bar) -> None:
            end(bar)
            same = weights(tmp_path / "best.pth")["head.conv.weight"].equal(trainer.network.head.conv.weight)
            kept.append((same, trainer.best))

        trainer._end_epoch = watch
        trainer.run()
    assert kept == [(True, 0.0), (True, 0.0), (True, 7.0), (False, 7.0)]


def test_unlabelled_joints_take_no_gradient() -> None:
    predicted = torch.randn(1, 2, 4, 4, requires_grad=True)
    heatmap_loss(predicted, torch.zeros(1, 2, 4, 4), torch.tensor([[1.0, 0.0]])).backward()
    assert predicted.grad[0, 0].abs().sum() > 0
    assert predicted.grad[0, 1].abs().sum() == 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["learning_rat=1"], "unknown key 'learning_rat' .*did you mean 'learning_rate'"),
        (["model.detla=1"], "unknown key 'detla' .*did you mean 'delta'"),
        (["epochs=many"], "epochs is 'many': expected int"),
        (["epochs=0"], "expected at least 1"),
        (["nonsense"], r"sdtc-train: error: --set nonsense: expected key=value, e\.g\. model\.delta=1"),
        (["epochs.a=1"], "--set epochs.a: 'epochs' is a value and has no keys"),
        (["milestones=3"], "expected a list"),
        (["precision=int8"], "expected no, bf16 or fp16"),
        (["optimizer=sgd"], "expected adamw or muon"),
        (["decay=cosine"], "expected steps or linear"),
        (["batch_size=1000"], r"larger than an epoch of \d+ people: lower it with --set batch_size=N"),
        (["model.kind=vitpose"], "a ViTPose network sees one frame, so delta is 0"),
        (["model.skeleton=coco"], "model.skeleton is 'coco': data sets are read with the joints of 'posetrack'"),
        (["train.0.root=/nowhere"], "does not exist"),
        (["backbone=/nowhere.pth"], "does not exist"),
        (["train=3"], "expected names and values"),
        (["learning_rate=.nan"], "learning_rate is nan: expected a finite number"),
        (["learning_rate=.inf"], r"learning_rate is inf: expected a finite number above 0"),
        (["learning_rate=1e400"], "learning_rate is inf: expected a finite number above 0"),
        (["learning_rate=0"], r"learning_rate is 0\.0: expected a finite number above 0"),
        (["clip_norm=0"], r"clip_norm is 0\.0: expected more than 0"),
        (["save_seconds=-1"], r"save_seconds is -1\.0: expected at least 0"),
        (
            ["model={preset: tiny, delta: 2, preset: base}"],
            r"error: --set model={preset: tiny, .*} has the key 'preset' twice: keep one of them",
        ),
        (["learning_rate='3e-3'"], "learning_rate is '3e-3': expected float"),
        (["gamma=-1"], "gamma is -1.0: expected a finite number from 0"),
        (["epochs=3.7"], "epochs is 3.7: expected int"),
        (["epochs=true"], "epochs is True: expected int"),
        (["epochs=1:30"], "epochs is '1:30': expected int"),
        (["epochs=2020-13-45"], "epochs is '2020-13-45': expected int"),
        (["epochs=" + "[" * 5000], "is not a YAML value"),
        (["epochs=" + "9" * 5000], "is not a YAML value"),
        (["seed=-1"], "seed is -1: expected 0 to 9223372036854775807"),
        (["workers=99999999"], "workers is 99999999: expected 0 to 1024"),
        (["threads=9999999999"], "threads is 9999999999: expected 0 to 1024"),
    ],
    ids=str,
)
def test_bad_settings_are_one_sentence(config_file, tmp_path, capsys, changes, sentence) -> None:
    arguments = [part for change in changes for part in ("--set", change)]
    assert main([str(config_file), "--output", str(tmp_path / "run"), "--quiet", *arguments]) == 2
    text = capsys.readouterr().err
    assert len(text.strip().splitlines()) == 1
    assert re.search(sentence, text), text


def test_numbers_and_words_as_people_write_them(data, tmp_path) -> None:
    """PyYAML reads 3e-3 as text and `no` as false, by YAML 1.1."""
    written = ["learning_rate=3e-3", "precision=no", "masked=no", "epochs=010", "warmup_steps=1e3", "clip_norm=.inf"]
    config = load_config("tiny-synthetic", written)
    assert (config.learning_rate, config.precision, config.masked) == (0.003, "no", False)
    assert (config.epochs, config.warmup_steps, config.clip_norm) == (10, 1000, math.inf)
    path = tmp_path / "a.yaml"
    path.write_text(
        "train: &data {root: x, split: 'no'}\nval: {<<: *data, split: val}\nweight_decay: 1E-2\nsigma: 2\n"
        "precision: no\nhalf_weights: Yes\nbackbone: ~\nmilestones: [1, 2.0]\nsave_seconds: +.5e1 # seconds\n"
    )
    config = load_config(str(path))
    assert (config.weight_decay, config.sigma, config.precision, config.half_weights) == (0.01, 2.0, "no", True)
    assert (config.train[0].split, config.val[0].split, config.val[0].root) == ("no", "val", Path("x"))
    assert (config.backbone, config.milestones, config.save_seconds) == (None, (1, 2), 5.0)


def test_configuration_files_that_are_none(tmp_path) -> None:
    with pytest.raises(ConfigError, match="has more than 1,048,576 bytes"):
        load_config("/dev/zero")
    for text in ("[" * 100_000, "&a [*a]", "? [1]\n: 2", "<<: 3", "a: !!python/object:x y", "\0", "9" * 5000):
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(ConfigError):
            load_config(str(tmp_path / "a.yaml"))
    with pytest.raises(ConfigError, match="expected a YAML file, or one of"):
        load_config("nothing.yaml")
    (tmp_path / "a.yaml").write_text("{")
    with pytest.raises(ConfigError, match="is not YAML"):
        load_config(str(tmp_path / "a.yaml"))
    (tmp_path / "a.yaml").write_text("epochs: 3")
    with pytest.raises(ConfigError, match=r"a\.yaml\.train is missing"):
        load_config(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epochs: 3\ntrain: {root: x, split: train}\nepochs: 4", "has the key 'epochs' twice, in lines 1 and 3: keep"),
        ("train:\n  root: x\n  split: a\n  'root': y", "has the key 'root' twice, in lines 2 and 4: keep one of them"),
        ("? &a {b: 1, b: 2}\n: 3", "has the key 'b' twice: keep one of them"),
    ],
    ids=["top", "nested", "in-a-key"],
)
def test_a_key_given_twice_is_refused(tmp_path, text, sentence) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=rf"^configuration '.*a\.yaml' {sentence}"):
        load_config(str(tmp_path / "a.yaml"))


def test_a_key_replaces_one_that_is_merged(tmp_path) -> None:
    text = "train: &a {root: x, split: train}\nval: &b {<<: *a, split: val}\nmodel: {preset: tiny}\n"
    (tmp_path / "a.yaml").write_text(text)
    config = load_config(str(tmp_path / "a.yaml"), ["epochs=1", "epochs=2"])
    assert (config.val[0].split, config.val[0].root, config.epochs) == ("val", Path("x"), 2)


@pytest.mark.parametrize("name", config_names())
def test_configurations_of_the_package_are_valid(name) -> None:
    config = load_config(name, ["model.skeleton=coco"])
    assert config.model.skeleton == "coco"
    assert config.model.name in ("tiny", "tiny-vitpose", "base")


def test_paper_schedule() -> None:
    config = load_config("posetrack17-base")
    assert config.model.name == "base"
    rates = [config.rate_at(epoch, 0, 1) for epoch in (0, 19, 20, 39, 40, 49)]
    assert rates == pytest.approx([5e-4, 5e-4, 5e-5, 5e-5, 5e-6, 5e-6])


def test_linear_decay_ends_at_nothing(data) -> None:
    config = load_config_from(settings(data, decay="linear", warmup_steps=10))
    rates = [config.rate_at(0, step, 100) for step in (0, 9, 49, 99)]
    assert rates == pytest.approx([1e-4, 0.91e-3, 0.51e-3, 0.01e-3])


@pytest.mark.slow
def test_resuming_with_another_configuration_is_refused(config_file, data, tmp_path, capsys) -> None:
    out = tmp_path / "run"
    assert main([str(config_file), "--output", str(out), "--set", "epochs=1", "--quiet"]) == 0
    resume = [str(config_file), "--output", str(out), "--resume", "--quiet", "--set"]
    assert main([*resume, "seed=5"]) == 2
    error = capsys.readouterr().err
    assert "made with seed 0, now it is 5" in error
    assert "or start a new run in another --output" in error
    assert main([*resume, "model.width=32"]) == 2
    assert "does not fit this configuration" in capsys.readouterr().err
    save = out / "last.pth"
    save.write_bytes(save.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="damaged"):
        Trainer(load_config_from(settings(data)), out, resume=True, quiet=True)


def test_a_loss_that_is_not_finite_stops_the_run(data, tmp_path) -> None:
    trainer = Trainer(load_config_from(settings(data)), tmp_path / "run", quiet=True)
    with torch.no_grad():
        trainer.network.head.conv.bias.fill_(float("nan"))
    with pytest.raises(SdtcError, match=r"the loss is nan at step 0 .*lower learning_rate, or use `precision='no'`"):
        trainer.run()


@pytest.mark.slow
def test_no_space_while_saving_keeps_the_old_state(data, tmp_path, monkeypatch) -> None:
    trainer = Trainer(load_config_from(settings(data, epochs=1)), tmp_path / "run", quiet=True)
    trainer.run()
    before = (tmp_path / "run" / "last.pth").read_bytes()

    def no_space(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", no_space)
    with pytest.raises(SdtcError, match="No space left"):
        trainer._save_state()
    assert (tmp_path / "run" / "last.pth").read_bytes() == before
    assert not [path for path in (tmp_path / "run").iterdir() if path.suffix == ".part"]


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    with Trainer(load_config_from(settings(data, epochs=1)), folder, quiet=True) as trainer:
        trainer.run()
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"optimizers": None}, {"optimizers": [5]}, {"optimizers": [{}]}, {"reconstruction": None},
        {"reconstruction": [1]},
        {"optimizers": [{"state": {}, "param_groups": []}]}, {"optimizers": [{"state": 3, "param_groups": 3}]},
        {"reconstruction": {"x": 1}}, {"epoch": -1}, {"epoch": 0.5}, {"epoch": "one"}, {"step_in_epoch": math.inf},
        {"epoch": torch.ones(2)}, {"best": math.nan}, {"best": None}, {"seed": [0]}, {"batch_size": None},
    ],
    ids=str,
)  # fmt: skip
def test_states_that_are_damaged_end_in_a_sentence(data, finished, tmp_path, changes) -> None:
    state = torch.load(finished / "last.pth", weights_only=True)
    state["training"] |= changes
    torch.save(state, tmp_path / "last.pth")
    with pytest.raises(CheckpointError, match=r"last\.pth' (does not fit this configuration: .|was made with)"):
        Trainer(load_config_from(settings(data, epochs=1)), tmp_path, resume=True, quiet=True)


@pytest.mark.slow
@pytest.mark.parametrize("text", [b"\xff\xfe\0", b"a,b\n1,2\n", b"epoch,step\n1,x\n", b"\0\n" * 9, None], ids=repr)
def test_logs_that_are_none(data, finished, tmp_path, text) -> None:
    shutil.copy(finished / "last.pth", tmp_path)
    (tmp_path / "log.csv").mkdir() if text is None else (tmp_path / "log.csv").write_bytes(text)
    with pytest.raises(InputError, match=r"log\.csv' is not a log that sdtc-train wrote: move it away"):
        Trainer(load_config_from(settings(data, epochs=1)), tmp_path, resume=True, quiet=True)
