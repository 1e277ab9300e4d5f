"""The latency benchmark on tiny bundles: that it measures what it says. Everything heavy has a process of its own."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "latency.py"
OURS = ["onnxruntime-windows", "onnxruntime-streaming"]


@pytest.fixture(scope="module")
def latency():
    """The command, as it is with its folder on the path."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(str(SCRIPT.parent))
        yield importlib.import_module("latency")


@pytest.fixture(scope="module")
def one_case(latency):
    """What runs in a process of its own."""
    return importlib.import_module("latency_case")


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    """One folder, so that the clip is rendered once."""
    return tmp_path_factory.mktemp("latency")


@pytest.fixture(scope="module")
def run(tiny_bundle, output, tmp_path_factory) -> subprocess.CompletedProcess:
    """Two methods over one bundle, where nobody can import torch."""
    poison = tmp_path_factory.mktemp("poison")
    (poison / "torch.py").write_text("raise RuntimeError('torch was imported')")
    arguments = ["--engine", tiny_bundle / "model.onnx", "--people", "1", "2", "--case", *OURS, "--frames", "4"]
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments, "--budget", "1", "--output", output],
        env=os.environ | {"PYTHONPATH": str(poison)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def rows(run, output) -> list[dict[str, str]]:
    assert run.returncode == 0, run.stderr
    with (output / "latency.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def case(latency, bundle: Path, output: Path, **other):
    given = latency.LatencyCase(
        "onnxruntime-streaming", "tiny", "", str(bundle), str(output / "clip-480.mp4"), 480, 2, 0.0, 1, 6, 0.5, 60.0
    )
    return dataclasses.replace(given, **other)


@pytest.mark.slow
def test_a_bundle_is_measured_without_torch(run, rows, output) -> None:
    windows, streaming = OURS
    assert [(row["case"], row["people"], row["drift"]) for row in rows] == [
        each for n in ("1", "2") for each in ((windows, n, "0.02"), (streaming, n, "0.02"), (streaming, n, "0.0"))
    ]
    assert "note" not in run.stderr
    assert "ONNX Runtime, streaming, over whole windows: " in run.stdout
    if find_spec("matplotlib"):
        assert (output / "latency.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_rows_have_every_column(latency, rows) -> None:
    for row in rows:
        assert tuple(row) == latency._COLUMNS
        unused = {"onnxruntime-windows": ("encode", "gather", "temporal"), "onnxruntime-streaming": ("pose",)}[
            row["case"]
        ]
        for name, value in row.items():
            absent = name.startswith(unused) or name in ("x_torch", "commit")
            assert bool(value) or absent or not find_spec(name), name
            assert not (value and name.startswith(unused)), name
        for what in ("latency", *(stage for stage in latency.STAGES if stage not in unused)):
            p50, p95, p99 = (float(row[f"{what}_p{p}_ms"]) for p in latency.PERCENTILES)
            assert 0 < p50 <= p95 <= p99
        assert float(row["latency_p50_ms"]) > float(row["crop_p50_ms"]) + float(row["decode_p50_ms"])
        assert 0 < float(row["load_s"]) < float(row["first_result_s"])
        assert float(row["peak_mib"]) > 50
        rate, people = float(row["keyframes_per_second"]), int(row["people"])
        assert float(row["ms_per_person"]) == pytest.approx(1e3 / rate / people, abs=1e-3)


@pytest.mark.slow
def test_everybody_is_encoded_once_in_every_frame_however_they_move(latency, rows, tiny_bundle, output) -> None:
    for row in rows:
        if row["case"].endswith("streaming"):  # the two frames of look-ahead are encoded before their own poses
            assert 1 <= float(row["crops_per_pose"]) < 1.4
        else:
            assert float(row["crops_per_pose"]) == 5
    running = latency._run_child(dataclasses.asdict(case(latency, tiny_bundle, output, drift=0.05, frames=40)), 60)
    assert running["crops_per_pose"] < 1.1


@pytest.mark.slow
def test_a_second_run_appends(latency, rows, tiny_bundle, output, capsys, monkeypatch) -> None:
    """And Ctrl-C keeps what was measured before it."""
    run_child = latency._run_child
    turns = []

    def once(task, limit):
        turns.append(task["method"])
        if len(turns) > 2:
            raise KeyboardInterrupt
        return run_child(task, limit)

    monkeypatch.setattr(latency, "_run_child", once)
    arguments = ["--engine", str(tiny_bundle), "--people", "1", "--drift", "0", "--case", *OURS, "--frames", "2"]
    assert latency.main([*arguments, "--budget", "0.1", "--repeats", "2", "--output", str(output)]) == 130
    assert turns == [*OURS, OURS[0]]  # they take turns
    with (output / "latency.csv").open(encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert found[: len(rows)] == rows
    assert [row["case"] for row in found[len(rows) :]] == OURS


@pytest.mark.slow
def test_a_plain_export_is_the_same_network(latency, one_case, micro_checkpoint, output, tmp_path, monkeypatch) -> None:
    from sdtc.model import PRESETS, load_checkpoint, save_checkpoint

    onnx = pytest.importorskip("onnx")
    network = load_checkpoint(micro_checkpoint).network
    monkeypatch.setitem(PRESETS, "micro", network.config)
    save_checkpoint(tmp_path / "checkpoint.pth", network, trained=False)
    one_case.export({"preset": "micro", "folder": str(tmp_path), "checkpoint": False, "bundle": False, "stock": True})
    assert not {"sdtc"} & {node.domain for node in onnx.load(tmp_path / "stock.onnx").graph.node}
    height, width = network.config.input_size
    clips = np.random.default_rng(0).integers(0, 256, (3, 3, height, width, 3), dtype=np.uint8)
    given = case(latency, tmp_path, output, folder=str(tmp_path), preset="micro")
    want, got = (one_case.PLAIN[method](given)[0](clips) for method in ("torch", "stock-onnx"))
    np.testing.assert_allclose(got, want, atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["torch", "vitpose"])
def test_what_one_would_use_instead(latency, method, rows, output, tmp_path) -> None:
    from sdtc.model import build, get_preset, save_checkpoint

    pytest.importorskip(latency.METHODS[method].module)
    save_checkpoint(tmp_path / "checkpoint.pth", build(get_preset("tiny")), trained=False)
    given = case(latency, tmp_path, output, folder=str(tmp_path), method=method)
    answer = latency._run_child(dataclasses.asdict(given), 120)
    assert answer["keyframes"] >= latency.MIN_KEYFRAMES
    assert answer["latency_p50_ms"] > 0.98 * answer["pose_p50_ms"] > 0
    assert answer["keyframes_per_second"] == pytest.approx(1e3 / answer["latency_p50_ms"], rel=0.01)


@pytest.mark.parametrize(("batch", "seconds"), [(1, 0.1), (4, 0.4), (3, 0.01)])
def test_throughput_counts_batches(one_case, batch, seconds) -> None:
    ends = np.repeat(np.arange(1, 8) * seconds, batch) + 1e-6 * np.arange(7 * batch)
    for first in range(batch):  # where it begins and ends to look makes no difference
        for last in range(len(ends) - batch, len(ends)):
            count, rate = one_case.throughput(ends[first:last])
            assert count % batch == 0
            assert rate == pytest.approx(batch / seconds, rel=1e-2)
    assert one_case.throughput(ends[: 2 * batch]) is None
    assert one_case.throughput([]) is None


def test_enough_keyframes(one_case) -> None:
    assert one_case.keyframes_needed(1.9, 24, 20) is None
    assert one_case.keyframes_needed(2.1, 24, 20) == 24
    assert one_case.keyframes_needed(20.1, 24, 20) == one_case.MIN_KEYFRAMES
    assert one_case.keyframes_needed(20.1, 3, 20) == 3
    assert one_case.keyframes_needed(0.6, 24, 0.5) == one_case.MIN_KEYFRAMES


def test_people_wander_by_their_drift(one_case) -> None:
    still, wandering = (one_case.MovingPeople(3, one_case.HEIGHTS[480], drift) for drift in (0.0, 0.05))
    nothing = np.zeros((1, 1, 3), np.uint8)
    np.testing.assert_array_equal(*(still.detect(nothing).boxes for _ in range(2)))
    boxes = [wandering.detect(nothing).boxes for _ in range(41)]
    np.testing.assert_allclose(np.abs(boxes[1] - boxes[0])[:, 0], 0.05 * boxes[0][:, 2], rtol=1e-4)
    np.testing.assert_array_equal(boxes[40], boxes[0])
    assert all((found[:, 0] >= 0).all() for found in boxes)


@pytest.mark.slow
def test_a_process_that_dies_or_hangs_is_a_sentence(latency, tmp_path, monkeypatch) -> None:
    shell = tmp_path / "python"
    shell.write_text(
        "#!/bin/sh\nread task\ncase $task in *die*) kill -SEGV $$;; *fail*) echo oh >&2;; *) sleep 60;; esac"
    )
    shell.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(shell))
    for task, limit, sentence in (
        ("die", 60, "died of SIGSEGV"), ("fail", 60, "failed: oh"), ("hang", 0.5, "longer than 0.5 s"),
    ):  # fmt: skip
        with pytest.raises(latency.EngineError, match=sentence):
            latency._run_child({"task": task}, limit)


def test_promised_ratios(latency) -> None:
    def row(name: str, people: int, rate: float, drift: float = 0.02) -> dict:
        return {
            "preset": "base", "height": 480, "case": name, "people": people, "drift": drift,
            "keyframes_per_second": rate, "ms_per_person": 1e3 / rate / people, "x_torch": rate / 0.5,
            "latency_p50_ms": 100.0, "latency_p99_ms": 110.0, "gather_p50_ms": 0.2, "temporal_p50_ms": 10.0,
        }  # fmt: skip

    found = latency.promises(
        [
            row("openvino-windows", 1, 2.0), row("openvino-streaming", 1, 8.0), row("openvino-streaming", 1, 8.2, 0.0),
            row("openvino-streaming", 8, 1.25), row("onnxruntime-streaming", 1, 4.0), row("cuda-streaming", 1, 100.0),
            row("auto-windows", 1, 2.0), row("auto-streaming", 1, 7.9), row("openvino-streaming", 1, 7.0, 0.05),
        ]
    )  # fmt: skip
    faster, start = "base, 480p, 1 person, drift 5%: OpenVINO, streaming", "base, 480p, 1 person, drift 2%: "
    assert found == [
        f"{faster}, over PyTorch's sliding window: 14.0 (promised: 15)",
        f"{faster}, over people who stand still: 0.85 (promised: 0.95)",
        f"{faster}, p99 over p50: 1.10 (promised: at most 1.25)",
        f"{faster}, gathering and resampling over the temporal part: 2.0%",
        f"{start}OpenVINO, streaming, over PyTorch's sliding window: 16.0 (promised: 15)",
        f"{start}OpenVINO, streaming, over people who stand still: 0.98 (promised: 0.95)",
        f"{start}OpenVINO, streaming, p99 over p50: 1.10 (promised: at most 1.25)",
        f"{start}OpenVINO, streaming, gathering and resampling over the temporal part: 2.0%",
        f"{start}OpenVINO, streaming, over whole windows: 4.0 (promised: 3.5)",
        f"{start}OpenVINO, streaming, time a person with 8 people, over that with 1: 0.80 (promised: at most 1)",
    ]
    assert latency.promises([]) == []


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (["--people", "1", "0"], "--people is 0: expected at least 1"),
        (["--frames", "0"], "--frames is 0: expected at least 1"),
        (["--threads", "0"], "--threads is 0: expected at least 1"),
        (["--drift", "-1"], "--drift is -1.0: expected a share"),
        (["--drift", "nan"], "--drift is nan: expected a share"),
        (["--budget", "0"], "--budget is 0.0: expected seconds"),
        (["--height", "720"], "--height is 720: expected some of 480, 1080"),
        (["--case", "torch", "tvm"], "--case is 'tvm': expected some of torch, "),
        (["--preset", "huge"], "unknown preset 'huge': expected one of tiny, "),
        (["--engine", "nowhere.onnx"], "engine 'nowhere.onnx' does not exist"),
        (["--engine", "nowhere.onnx", "--case", "torch"], "--case torch needs a preset's checkpoint"),
    ],
)
def test_bad_arguments(latency, wrong, sentence, tmp_path, capsys) -> None:
    assert latency.main([*wrong, "--output", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("latency.py: error: ")
    assert sentence in error
    assert len(error.splitlines()) == 1


def test_a_table_of_other_columns_is_left_alone(latency, tmp_path, capsys) -> None:
    (tmp_path / "latency.csv").write_text("a,b\n1,2\n")
    assert latency.main(["--output", str(tmp_path)]) == 2
    assert "has other columns" in capsys.readouterr().err
    assert (tmp_path / "latency.csv").read_text() == "a,b\n1,2\n"
