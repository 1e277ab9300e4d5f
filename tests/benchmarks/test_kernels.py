"""The kernel benchmark without a GPU: its harness on the CPU; what it is for needs one."""

from __future__ import annotations

import csv
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sdtc.core.crops import crop_frame, crop_to_image_matrix

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kernels.py"


@pytest.fixture(scope="module")
def kernels():
    spec = importlib.util.spec_from_file_location("kernels_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["kernels_benchmark"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_harness_on_the_cpu(kernels, tmp_path, capsys) -> None:
    arguments = ["--device", "cpu", "--calls", "2", "--batch", "1", "2", "--preset", "tiny", "--dtype", "fp32"]
    for runs in (1, 2):
        assert kernels.main([*arguments, "--output", str(tmp_path)]) == 0
        with (tmp_path / "kernels.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == runs * 18 * 2  # what there is to time without a GPU, batches
        assert all(float(row["p50_us"]) > 0 and row["torch"] == torch.__version__ for row in rows)
    out = capsys.readouterr().out
    assert "temporal_attention" in out
    assert "1.0x" in out


def test_calls_are_timed_in_microseconds_after_a_warm_up(kernels, monkeypatch) -> None:
    clock = iter([1.0, 1.25, 2.0, 2.5])
    monkeypatch.setattr(kernels, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    calls: list[None] = []
    assert kernels.time_groups(lambda: calls.append(None), 2, "cpu").tolist() == [250_000.0, 500_000.0]
    assert len(calls) == 3


@pytest.mark.parametrize("operator", ["joint_attention", "cross_attention", "crop_frame", "decode_heatmaps"])
def test_a_group_takes_every_set_of_tensors_once(kernels, monkeypatch, operator) -> None:
    monkeypatch.setattr(kernels, "_sets", lambda device: 3)
    case = kernels.make_case(operator, (3, (8, 6), 2, 8), 2, "fp32", "cpu")
    seen: list[int] = []
    kernels.run_group(lambda first, *rest: seen.append(first.data_ptr()), case.sets)
    assert seen == [each[0].data_ptr() for each in case.sets]
    assert len(set(seen)) == 3


def test_the_crops_it_compares_with_are_the_same_crops(kernels) -> None:
    size, frame = (64, 48), np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    boxes = np.array([[10.5, 7.25, 48.0, 64.0], [-30.0, 60.0, 90.0, 120.0]])
    matrices = torch.from_numpy(np.stack([crop_to_image_matrix(box, size) for box in boxes]))
    found = kernels.crop_by_grid_sample(torch.from_numpy(frame), matrices, size).numpy()
    for crop, box in zip(found, boxes, strict=True):
        # OpenCV rounds places to 1/32 pixel: on noise that is up to 255/64 levels a direction.
        assert np.abs(crop.astype(int) - crop_frame(frame, box, size)).max() <= 9


def test_the_tokens_it_compares_with_are_the_same_tokens(kernels) -> None:
    operator, shape = "gather_tokens", (3, (8, 6), 2, 8)
    case = kernels.make_case(operator, shape, 2, "fp32", "cpu")
    found = {each.name: each.call(*case.sets[0]) for each in case.candidates}
    torch.testing.assert_close(found["grid_sample"], found["eager"], atol=1e-4, rtol=0)
    assert torch.equal(found["eager, copy"][1::3], found["eager"][1::3])  # keyframes
    assert not torch.allclose(found["eager, copy"], found["eager"], atol=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(kernels, tmp_path, capsys) -> None:
    assert kernels.main(["--output", str(tmp_path)]) == 2
    assert "no CUDA GPU is usable" in capsys.readouterr().err


@pytest.mark.gpu
def test_ours_are_measured_on_a_gpu(kernels, tmp_path) -> None:
    assert kernels.main(["--calls", "5", "--batch", "2", "--output", str(tmp_path)]) == 0
    rows = list(csv.DictReader((tmp_path / "kernels.csv").open()))
    assert {row["what"] for row in rows} >= {"eager", "sdpa", "torch.compile", "ours, tiles", "ours", "OpenCV + upload"}
