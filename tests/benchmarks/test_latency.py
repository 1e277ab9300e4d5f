"""The latency benchmark on a tiny bundle: that it measures what it says."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "latency.py"


@pytest.fixture(scope="module")
def latency():
    spec = importlib.util.spec_from_file_location("latency_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["latency_benchmark"] = module
    spec.loader.exec_module(module)
    return module


def test_one_bundle(latency, tiny_bundle, tmp_path, capsys) -> None:
    bundle, output = str(tiny_bundle / "model.onnx"), str(tmp_path)
    arguments = ["--engine", bundle, "--people", "2", "--frames", "6", "--output", output]
    assert latency.main(arguments) == 0
    with (tmp_path / "latency.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["what"] for row in rows} >= {"ONNX Runtime, whole windows", "ONNX Runtime, frame by frame"}
    for row in rows:
        assert 0 < float(row["p50_ms"]) <= float(row["p95_ms"]) <= float(row["p99_ms"])
        # People stand still: of the five frames of a window one is new, once all are in view.
        assert (float(row["reused"]) > 0.7) is ("frame by frame" in row["what"])
    assert "ONNX Runtime, frame by frame" in capsys.readouterr().out
    assert (tmp_path / "latency.png").stat().st_size > 1000


def test_people_who_wander_are_encoded_more_often(latency) -> None:
    still, wandering = (latency.People(3, (480, 854), drift) for drift in (0.0, 0.05))
    boxes = [people.detect(np.zeros((1, 1, 3))).boxes for people in (still, still)]
    np.testing.assert_array_equal(*boxes)
    boxes = [wandering.detect(np.zeros((1, 1, 3))).boxes for _ in range(2)]
    np.testing.assert_allclose(np.abs(boxes[1] - boxes[0])[:, 0], 0.05 * boxes[0][:, 2], rtol=1e-4)


def test_a_bundle_is_measured_without_torch(tiny_bundle, tmp_path) -> None:
    code = (
        "import runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    arguments = ["--engine", tiny_bundle / "model.onnx", "--people", "1", "--frames", "2", "--output", tmp_path]
    run = subprocess.run([sys.executable, "-c", code, SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("wrong", [["--people", "0"], ["--frames", "0"], ["--drift", "-1"]])
def test_bad_arguments(latency, wrong, tmp_path, capsys) -> None:
    assert latency.main([*wrong, "--output", str(tmp_path)]) == 2
    assert "must be at least" in capsys.readouterr().err
