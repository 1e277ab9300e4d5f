"""The benchmark of noisy boxes on a few frames: the noise that it says, and a row for every run."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from sdtc.evaluation.reading import read_predictions
from sdtc.synthetic import ClipOptions, SyntheticClip, write_clip

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "box_noise.py"


@pytest.fixture(scope="module")
def box_noise():
    spec = importlib.util.spec_from_file_location("box_noise_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["box_noise_benchmark"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two clips in PoseTrack's layout."""
    folder = tmp_path_factory.mktemp("data")
    for seed in (3, 4):
        write_clip(SyntheticClip(ClipOptions(seed, num_frames=4, size=(180, 240), num_people=2)), folder, video=False)
    return folder


def test_files_differ_in_their_boxes_only_and_are_the_same_in_every_run(box_noise, data, tmp_path) -> None:
    paths = sorted((data / "annotations" / "val").glob("*.json"))
    written = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        box_noise.write_noisy(paths, tmp_path / name, 0.1)
        written.append([json.loads((tmp_path / name / path.name).read_text()) for path in paths])
    assert written[0] == written[1]
    for path, content in zip(paths, written[0], strict=True):
        known = json.loads(path.read_text())
        changed = [
            person.pop("bbox") != before.pop("bbox")
            for person, before in zip(content["annotations"], known["annotations"], strict=True)
        ]
        assert all(changed)
        assert content == known


def boxes_of(folder: Path) -> dict[tuple[int, int], list[float]]:
    """Return the boxes in all files of a folder, by image and track id."""
    people = [person for file in folder.glob("*.json") for person in json.loads(file.read_text())["annotations"]]
    return {(person["image_id"], person["track_id"]): person["bbox"] for person in people}


def test_a_run_with_both_modes(box_noise, data, tiny_bundle, tmp_path, capsys, monkeypatch) -> None:
    used = []  # the boxes of each run

    def reading(paths, truth):
        used.append(boxes_of(paths[0]))
        return read_predictions(paths, truth)

    monkeypatch.setattr(box_noise, "read_predictions", reading)
    arguments = ["--truth", data, "--images", data / "images" / "val", "--engine", tiny_bundle, "--sigma", "0", "0.2"]
    options = ["--backend", "onnxruntime", "--threads", "1", "--output", tmp_path]
    assert box_noise.main([str(argument) for argument in (*arguments, *options)]) == 0
    rows = list(csv.DictReader((tmp_path / "box_noise.csv").open()))
    assert [(row["mode"], row["sigma"]) for row in rows] == [
        ("streaming", "0.0"), ("streaming", "0.2"), ("exact", "0.0"), ("exact", "0.2"),
    ]  # fmt: skip
    for row in rows:
        assert row["frames"] == "8"
        poses, encoded = int(row["poses"]), int(row["crops_encoded"])
        assert 8 <= poses <= 16
        assert poses <= encoded <= 1.5 * poses if row["mode"] == "streaming" else encoded == 5 * poses
        assert 0 <= float(row["ap"]) <= 100  # it was never trained
    plain, noisy = used[:2]
    assert used[2:] == [plain, noisy]  # both modes have the same boxes
    truth = boxes_of(data / "annotations" / "val")
    for person, box in plain.items():
        np.testing.assert_allclose(box, truth[person], atol=0.01)
        assert np.abs(np.subtract(noisy[person], box)).max() > 0.5
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["sigma", "streaming", "--exact", "crops", "per", "pose"]
    assert [line.split()[:4] for line in printed[1:3]] == [
        ["0", "%", rows[0]["ap"], rows[2]["ap"]], ["20", "%", rows[1]["ap"], rows[3]["ap"]],
    ]  # fmt: skip


@pytest.mark.parametrize("sigma", ["-0.1", "0.6", "nan"])
def test_a_sigma_that_is_no_share(box_noise, sigma, tmp_path, capsys) -> None:
    arguments = ["--truth", str(tmp_path), "--images", str(tmp_path), "--engine", "bundle", "--sigma", sigma]
    assert box_noise.main(arguments) == 2
    assert f"--sigma is {sigma}: expected 0 to 0.5" in capsys.readouterr().err
