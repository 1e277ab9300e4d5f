"""The ablation benchmark on two clips, end to end; what it measures is for a real run."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from sdtc.model import build, save_checkpoint
from sdtc.synthetic.cli import main as synth
from sdtc.training.annotations import read_annotations
from tests.networks import TINY

pytest.importorskip("matplotlib", reason="needs the extra train")
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ablations.py"


@pytest.fixture(scope="module")
def ablations():
    spec = importlib.util.spec_from_file_location("ablations", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["ablations"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for name in ("train", "val"):
        arguments = ["--set", name, "--clips", "2", "--frames", "6", "--output", str(root), "--quiet"]
        assert synth(arguments) == 0
    return root


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("backbone") / "single.pth"
    save_checkpoint(path, build(dataclasses.replace(TINY, kind="vitpose", delta=0)), trained=True)
    return path


def test_every_row_is_a_network_of_its_own(ablations) -> None:
    described = {ablations._describe(row.change) for row in ablations.ROWS}
    configurations = {ablations._configure(name) for name in described}
    assert len(configurations) == len(described)  # no two rows differ in words only
    assert {row.table for row in ablations.ROWS} == {"4", "5", "6", "7", "8", "9", "readings", "-"}
    assert all(config.backbone.frozen for config, _ in configurations)


def test_readings_are_trained_with_masks_and_without(ablations) -> None:
    *rows, added, added_without = [row for row in ablations.ROWS if row.table == "readings"]
    assert ablations._describe(added.change) == "fusion=add"
    assert ablations._describe(added_without.change) == "fusion=add, reconstruction.mask_ratio=0.0"
    found = [(config.reading, config.reconstruction.mask_ratio, masked) for config, masked in (
        ablations._configure(ablations._describe(row.change)) for row in rows
    )]  # fmt: skip
    readings = [
        ("pixels", "add"), ("pixels", "concatenate"), ("pixels", "replace"),
        ("channels", "add"), ("channels", "replace"),
    ]  # fmt: skip
    assert found == [
        ({"context_softmax": axis, "refinement": refinement}, ratio, True)
        for axis, refinement in readings
        for ratio in (0.5, 0.0)
    ]
    assert ablations._describe(rows[0].change) == "full"
    assert ablations._describe(rows[-1].change) == (
        "context_softmax=channels, refinement=replace, reconstruction.mask_ratio=0.0"
    )


def test_a_digest_tells_full_networks_apart(ablations) -> None:
    full = ablations._full_network()
    digests = {ablations._digest(full), ablations._digest(dataclasses.replace(full, refinement="replace")),
               ablations._digest(dataclasses.replace(full, context_softmax="channels"))}  # fmt: skip
    assert len(digests) == 3
    assert ablations._digest(ablations._full_network()) == ablations._digest(full)


@pytest.mark.slow
def test_features_of_the_cache_are_the_backbones(ablations, data, backbone, tmp_path) -> None:
    """A row sees what training from pictures would show it: the same windows, the same features, the same answer."""
    config = TINY
    annotations = read_annotations(data, "val")
    count = len(annotations.people)
    ablations._write_cache(tmp_path, annotations, config, backbone, count, None)
    for change in ("full", "delta=1", "motion=optical_flow, fusion=add", "delta=0"):
        config, _ = ablations._configure(change)
        torch.manual_seed(1)
        network = build(config).eval()
        ablations.load_backbone(network, backbone)
        data_set = ablations.WindowDataset(annotations, config, own_boxes=False)
        clips = torch.stack([data_set[i]["clip"] for i in range(3)])
        with torch.inference_mode():
            want = network(clips)
            windows = ablations._Windows(tmp_path, config)
            got = network(windows.feed(network, ablations.np.arange(3)))
        torch.testing.assert_close(got, want, atol=2e-3, rtol=1e-2)  # features are kept in fp16
        assert torch.equal(
            windows.batch("heatmaps", ablations.np.arange(3)),
            torch.stack([data_set[i]["heatmaps"] for i in range(3)]).half(),
        )


@pytest.mark.slow
def test_a_run_goes_on_where_it_stopped_and_tells_measured_beside_paper(
    ablations, data, backbone, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(ablations, "ROWS", [ablations.AblationRow("9", "δ = 2 (full)", {}, 87.5)])
    arguments = ["--data", str(data), "--backbone", str(backbone), "--output", str(tmp_path)]
    arguments += ["--windows", "8", "--epochs", "1", "--jobs", "1"]
    monkeypatch.setattr(ablations, "BATCH", 8)
    # Processes of their own would start from the unpatched module.
    monkeypatch.setattr(ablations, "ProcessPoolExecutor", _SameProcess)
    monkeypatch.setattr(ablations, "as_completed", lambda futures: futures)
    # What was measured with another full network, or before rows told, is trained again.
    digest = ablations._digest(ablations._full_network())
    stale = {"change": "full", "seed": "0", "windows": "8", "epochs": "1", "backbone": ablations.sha256(backbone)[:12],
             "ap": "99", "hard_ap": "99", "seconds": "1"}  # fmt: skip
    for other in ({}, {"network": "0123456789ab"}):
        ablations.write_rows(tmp_path / "ablations.csv", [*(stale | other)], [stale | other])
        assert ablations.main([*arguments, "--seeds", "1"]) == 0
        first = list(csv.DictReader((tmp_path / "ablations.csv").open()))
        assert [(row["network"], row["ap"] == "99") for row in first] == [(digest, False)]
    assert ablations.main([*arguments, "--seeds", "2"]) == 0
    rows = list(csv.DictReader((tmp_path / "ablations.csv").open()))
    assert [row["seed"] for row in rows] == ["0", "1"]
    assert rows[0] == first[0]
    mean = (float(rows[0]["ap"]) + float(rows[1]["ap"])) / 2
    assert f"| 9 | δ = 2 (full) | {mean:.1f} ± " in (tmp_path / "ablations.md").read_text(encoding="utf-8")
    assert (tmp_path / "ablations.png").read_bytes()[:4] == b"\x89PNG"
    capsys.readouterr()
    assert ablations.main([*arguments, "--windows", "10000"]) == 2
    assert "the training set has" in capsys.readouterr().err


class _SameProcess:
    def __init__(self, *_: object) -> None: ...

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, function, *arguments):
        from concurrent.futures import Future

        future: Future = Future()
        future.set_result(function(*arguments))
        return future
