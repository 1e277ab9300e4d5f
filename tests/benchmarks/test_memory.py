"""The memory benchmark on a few frames: that it sees what grows, and what does not. What it is for takes minutes."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path

import av
import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "memory.py"


@pytest.fixture(scope="module")
def memory():
    spec = importlib.util.spec_from_file_location("memory_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["memory_benchmark"] = module
    spec.loader.exec_module(module)
    return module


def test_people_come_and_go_the_same_for_a_seed(memory) -> None:
    first, second = (memory.RandomWalkers(6, (288, 384), seed=3) for _ in range(2))
    counts, boxes = [], np.zeros((0, 4))
    for _ in range(2000):
        found = first.detect(None)
        np.testing.assert_array_equal(found.boxes, second.detect(None).boxes)
        counts.append(len(found))
        boxes = np.concatenate([boxes, found.boxes])
    assert set(counts) >= {1, 2, 3, 4, 5, 6}
    assert 3 < np.mean(counts) < 5
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= [384.01, 288.01]).all()


def test_the_slope_of_what_is_known(memory, rng) -> None:
    """A line is found within its error, and noise that lasts for a while does not pass for one."""
    frames = memory.EVERY * np.arange(2_000)
    noise = np.repeat(rng.normal(0, 0.5, 200), 10)  # MiB, steps of 100 frames
    warm_up = np.where(frames < 1_900, 50.0, 0.0)
    for leak in (0.0, 100.0, 2000.0):  # KiB per 1,000 frames
        slope, error = memory.fit_slope(200 + noise - warm_up + leak / 1024 * frames / 1000)
        assert abs(slope - leak) < 3 * error
        assert error < 20
    assert memory.fit_slope(np.full(30, 100.0)) == (0.0, float("inf"))


@pytest.mark.slow
def test_a_run_without_an_input(memory, tiny_bundle, tmp_path, capsys) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra train")
    arguments = [
        "--engine",
        str(tiny_bundle / "model.onnx"),
        "--people",
        "2",
        "--threads",
        "1",
        "--backend",
        "onnxruntime",
    ]
    code = memory.main([*arguments, "--frames", "600", "--output", str(tmp_path)])
    (row,) = csv.DictReader((tmp_path / "memory.csv").open())
    slope, error = float(row["kib_per_1000_frames"]), float(row["standard_error"])
    # 600 frames are too few to say what the slope is, but not to say it as it was measured.
    assert code == (1 if slope > max(2 * error, memory.HARMLESS) else 0)
    assert ("resident memory grows" in capsys.readouterr().err) is (code == 1)
    poses = json.loads((tmp_path / "endless.json").read_text())
    assert len(poses["images"]) == int(row["frames"]) == 600
    assert len(poses["annotations"]) == int(row["poses"]) > 200
    assert int(row["tracks"]) == len({pose["track_id"] for pose in poses["annotations"]}) > 3
    assert (tmp_path / "memory.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_what_grows_fails(memory, tiny_bundle, tmp_path, capsys, monkeypatch) -> None:
    kept = []
    detect = memory.RandomWalkers.detect
    monkeypatch.setattr(memory.RandomWalkers, "detect", lambda self, f: kept.append(np.ones(2**17)) or detect(self, f))
    arguments = [
        "--engine",
        str(tiny_bundle / "model.onnx"),
        "--people",
        "1",
        "--threads",
        "1",
        "--backend",
        "onnxruntime",
    ]
    assert memory.main([*arguments, "--frames", "600", "--output", str(tmp_path)]) == 1  # 1 MiB a frame
    assert "resident memory grows by" in capsys.readouterr().err
    (row,) = csv.DictReader((tmp_path / "memory.csv").open())
    assert float(row["kib_per_1000_frames"]) == pytest.approx(1_024_000, rel=0.2)


@pytest.mark.slow
def test_a_video_is_measured_and_drawn(memory, tiny_bundle, tmp_path) -> None:
    from sdtc.synthetic import ClipOptions, SyntheticClip, write_clip

    write_clip(SyntheticClip(ClipOptions(seed=5, num_frames=12, size=(240, 320), num_people=2)), tmp_path)
    arguments = ["--engine", str(tiny_bundle), "--input", str(tmp_path / "000005_synthetic.mp4")]
    assert memory.main([*arguments, "--max-frames", "5", "--output", str(tmp_path / "out")]) == 0
    with av.open(str(tmp_path / "out" / "000005_synthetic.mp4")) as overlay:
        assert sum(1 for _ in overlay.decode(video=0)) == 5
    (row,) = csv.DictReader((tmp_path / "out" / "memory.csv").open())
    assert (row["input"], row["frames"]) == ("000005_synthetic", "5")
