"""The three short examples, as a user runs them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from sdtc.runtime.people.detection import Detections
from sdtc.synthetic.cli import main as sdtc_synth

EXAMPLES = Path(__file__).parents[2] / "examples"
FRAMES = 6


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    assert sdtc_synth(["--output", str(folder), "--frames", str(FRAMES), "--people", "1", "--quiet"]) == 0
    return folder / "000000_synthetic.mp4"


def run(name: str, *arguments: object, stdin: Path | None = None) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    with stdin.open("rb") if stdin else open("/dev/null", "rb") as file:
        done = subprocess.run(command, stdin=file, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_webcam_on_a_file_and_on_a_pipe(tiny_bundle, video) -> None:
    lines = run("webcam.py", tiny_bundle, video, "--no-window").splitlines()
    assert [line.split(",")[0] for line in lines] == [f"frame {number}" for number in range(FRAMES)]
    assert re.search(r": 0 \(0\.\d\d\)$", lines[-1])  # the one person, and a score
    live = run("webcam.py", tiny_bundle, "-", "--no-window", stdin=video).splitlines()
    numbers = [int(re.match(r"frame (\d+), \d+ ms", line)[1]) for line in live]
    assert numbers[-1] == FRAMES - 1  # late frames are dropped, but never the newest
    assert numbers == sorted(set(numbers))


@pytest.mark.slow
def test_poses_become_a_data_frame(tiny_bundle, video, tmp_path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    output = run("poses_to_dataframe.py", tiny_bundle, video, tmp_path / "poses.csv")
    assert "left_ankle" in output
    table = pandas.read_csv(tmp_path / "poses.csv")
    assert list(table.columns) == ["frame", "person", "keypoint", "x", "y", "score"]
    assert sorted(table.frame.unique()) == list(range(FRAMES))
    assert (table.groupby(["frame", "person"]).keypoint.nunique() == 15).all()
    assert table.score.between(0, 1).all()


@pytest.mark.slow
def test_a_detector_that_looks_at_a_part(tiny_bundle, video) -> None:
    """The person of this clip walks in the right half."""
    right = run("custom_detector.py", tiny_bundle, video, 320, 0, 320, 360).splitlines()
    left = run("custom_detector.py", tiny_bundle, video, 0, 0, 320, 360).splitlines()
    assert len(right) == len(left) == FRAMES
    assert all(re.fullmatch(r"\d+ \[\(0, [\d.]+\)\]", line) for line in right)
    assert all(line.endswith("[]") for line in left)


def test_boxes_of_a_part_are_boxes_of_the_frame() -> None:
    seen = []

    class Corner:
        def detect(self, frame: np.ndarray) -> Detections:
            seen.append(frame.shape)
            return Detections(np.array([[1, 2, 30, 40]], np.float32), np.array([0.5], np.float32))

    detector = load("custom_detector").PartDetector(Corner(), 100, 50, 60, 80)
    found = detector.detect(np.zeros((200, 300, 3), np.uint8))
    assert seen == [(80, 60, 3)]
    assert found.boxes.tolist() == [[101, 52, 30, 40]]
    assert found.scores.tolist() == [0.5]


def test_examples_are_short_and_say_how_to_run_them() -> None:
    for name in ("webcam", "poses_to_dataframe", "custom_detector"):
        text = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
        assert len(text.splitlines()) < 40
        assert f"python examples/{name}.py bundle" in text
