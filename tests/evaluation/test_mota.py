"""The accuracy of tracks against sequences that were worked out by hand; a head measures 10 pixels, so a joint matches
within 5."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from sdtc.core.errors import InputError
from sdtc.evaluation.ap import COLUMNS, JOINTS, GroundTruth, Predictions
from sdtc.evaluation.cli import main
from sdtc.evaluation.mota import TrackScores, evaluate_tracks

pytest.importorskip("motmetrics", reason="needs the extra eval")

FAR = 500.0
Person = tuple  # (frame, track id, y, joints it lacks)


def line(y: float) -> np.ndarray:
    return np.stack([20.0 * np.arange(15), np.full(15, y)], axis=1)


def arrays(people: list[Person]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Frames, keypoints, present joints and track ids."""
    rows = [(*person, ())[:4] for person in people]
    present = np.array([[joint not in lacks for joint in JOINTS] for *_, lacks in rows]).reshape(-1, 15)
    keypoints = np.array([line(y) for _, _, y, _ in rows]).reshape(-1, 15, 2)
    return np.array([row[0] for row in rows], int), keypoints, present, np.array([row[1] for row in rows], int)


def tracks(truth: list[Person], poses: list[Person], sequences: list[int], **more) -> TrackScores:
    frames, keypoints, present, ids = arrays(truth)
    ground_truth = GroundTruth(len(sequences), frames, keypoints, present, np.full(len(truth), 10.0), **more)
    frames, keypoints, present, found_ids = arrays(poses)
    predictions = Predictions(frames, keypoints, present, np.ones(present.shape))
    return evaluate_tracks(ground_truth, predictions, ids, found_ids, np.array(sequences))


PEOPLE = [(frame, 0, 0.0) for frame in range(5)]
#         paired      too far      a switch     paired       not anybody's  of the last frame, which takes no part
POSES = [(0, 7, 2.0), (1, 7, FAR), (2, 8, 2.0), (3, 8, 2.0), (3, 9, FAR), (4, 5, FAR)]


def test_a_switch_a_miss_and_two_false_positives() -> None:
    """Four of five frames count. 3 of 4 labelled joints are paired, 2 of 5 predicted ones are not."""
    result = tracks(PEOPLE, POSES, [0] * 5)
    for name, want in {"misses": 1, "switches": 1, "false_positives": 2, "objects": 4, "pairs": 3}.items():
        np.testing.assert_array_equal(getattr(result, name), np.full(15, want))
    np.testing.assert_allclose(result.mota, 100 * (1 - (1 + 1 + 2) / 4))
    np.testing.assert_allclose(result.motp, 100 * (1 - 0.2))  # 2 pixels of a head of 10
    np.testing.assert_allclose(result.precision, 100 * 3 / 5)
    np.testing.assert_allclose(result.recall, 100 * 3 / 4)
    # Track 8 is the person's: in two frames; the other three poses are false, in two frames it is missed.
    np.testing.assert_allclose(result.idf1, 100 * 4 / (4 + 3 + 2))
    assert result.columns == {
        **dict.fromkeys(COLUMNS, pytest.approx(0)),
        "MOTP": pytest.approx(80), "Prec": pytest.approx(60), "Rec": pytest.approx(75), "IDF1": pytest.approx(400 / 9),
    }  # fmt: skip


def test_every_joint_is_tracked_by_itself() -> None:
    """The nose is not labelled in frame 0: no switch in frame 2, and one more false positive. Nobody's wrist is."""
    truth = [(0, 0, 0.0, ("nose", "left_wrist")), *[(*person, ("left_wrist",)) for person in PEOPLE[1:]]]
    result = tracks(truth, [*POSES[:2], (2, 8, 2.0, ("left_ankle",)), *POSES[3:]], [0] * 5)
    nose, wrist, ankle, knee = (JOINTS.index(name) for name in ("nose", "left_wrist", "left_ankle", "left_knee"))
    counts = np.stack([result.misses, result.switches, result.false_positives, result.objects], axis=1)
    assert counts[nose].tolist() == [1, 0, 3, 3]
    assert counts[wrist].tolist() == [0, 0, 5, 0]
    assert counts[ankle].tolist() == [2, 1, 2, 4]  # the switch comes a frame later
    assert counts[knee].tolist() == [1, 1, 2, 4]
    assert result.mota[nose] == pytest.approx(-100 / 3)
    assert np.isnan(result.mota[wrist])
    assert np.isnan(result.motp[wrist])
    assert result.precision[wrist] == 0
    assert result.columns["Wrist"] == pytest.approx(0)  # of the other wrist


def test_a_pair_is_kept_though_another_is_nearer() -> None:
    """Two people cross: their poses follow them, though in frame 1 each is nearer to the other's."""
    truth = [(0, 0, 0.0), (0, 1, 20.0), (1, 0, 4.0), (1, 1, 6.0), (2, 0, 0.0), (2, 1, 9.0)]
    poses = [(0, 3, 0.0), (0, 4, 20.0), (1, 3, 6.0), (1, 4, 4.0), (2, 3, 0.0)]
    result = tracks(truth, poses, [0, 0, 0])
    np.testing.assert_allclose(result.mota, 100)
    np.testing.assert_allclose(result.motp, 100 * (1 - (0 + 0 + 0.2 + 0.2) / 4))
    np.testing.assert_allclose(result.idf1, 100)


def test_sequences_are_apart_and_their_ids_mean_nothing_to_each_other() -> None:
    """Twice the same, the ids of the second changed, frames mixed: twice the counts."""
    both = [[(2 * f + s, i, y) for s in (0, 1) for f, i, y in part] for part in (PEOPLE, POSES)]
    swapped = [(frame, {7: 9, 9: 7}.get(i, i) if frame % 2 else i, y) for frame, i, y in both[1]]
    once, twice = tracks(PEOPLE, POSES, [0] * 5), tracks(both[0], swapped, [0, 1] * 5)
    for name in ("misses", "switches", "false_positives", "objects", "pairs", "idtp", "idfp", "idfn"):
        np.testing.assert_array_equal(getattr(twice, name), 2 * getattr(once, name))


def test_frames_with_nobody_on_one_side_count_as_poseval_counts_them() -> None:
    """Of two people without a pose, poseval counts one miss and one false positive; IDF1 counts both misses. Frames
    without annotated people take no part."""
    truth = [(f, i, 50.0 * i) for f in (0, 1, 3, 4) for i in (0, 1)]
    poses = [(f, i + 5, 50.0 * i) for f in (0, 2, 3) for i in (0, 1)]
    result = tracks(truth, poses, [0] * 5)
    for name, want in {"misses": 1, "false_positives": 1, "objects": 5, "pairs": 4, "switches": 0}.items():
        np.testing.assert_array_equal(getattr(result, name), np.full(15, want))
    for name, want in {"idtp": 4, "idfp": 0, "idfn": 2}.items():
        np.testing.assert_array_equal(getattr(result, name), np.full(15, want))


def test_joints_in_ignore_regions_take_no_part() -> None:
    """The far poses lie in one: in frame 1 nobody else is predicted, which counts as a false positive all the same."""
    square = np.array([(-10, FAR - 10), (400, FAR - 10), (400, FAR + 10), (-10, FAR + 10)])
    result = tracks(PEOPLE, POSES, [0] * 5, ignore_regions={1: [square], 3: [square]})
    np.testing.assert_array_equal(result.false_positives, np.full(15, 1))
    np.testing.assert_array_equal(result.idfp, np.full(15, 1))


@pytest.mark.parametrize(
    ("truth", "poses", "sequences", "sentence"),
    [
        (PEOPLE, [(0, 7, 0.0), (0, 7, 9.0)], [0] * 5, "two poses in one image have the track id 7"),
        ([*PEOPLE, (0, 0, 9.0)], POSES, [0] * 5, "two people of the ground truth in one image have the track id 0"),
        (PEOPLE, [(0, 7, 0.0), (1, -1, 9.0)], [0] * 5, "1 of 2 poses have no track id"),
        ([(0, -1, 0.0), (1, -1, 0.0)], POSES[:2], [0] * 2, "2 of 2 people of the ground truth have no track id"),
        (PEOPLE, POSES, list(range(5)), "no sequence has two annotated frames"),
    ],
)
def test_ids_that_cannot_be_used(truth, poses, sequences, sentence) -> None:
    with pytest.raises(InputError, match=sentence):
        tracks(truth, poses, sequences)


@pytest.fixture
def tracked(dataset, tmp_path) -> Path:
    """Poses that equal the truth, but for the ids of two people, exchanged from frame 3 on in one of two sequences."""
    folder = tmp_path / "tracked"
    folder.mkdir()
    for path in sorted((dataset / "annotations" / "val").iterdir()):
        data = json.loads(path.read_text())
        for entry in data["annotations"]:
            entry["scores"] = [1.0] * 17
            if "000005" in path.name and entry["image_id"] % 10000 >= 3:
                entry["track_id"] = 1 - entry["track_id"]
        (folder / path.name).write_text(json.dumps(data))
    return folder


def test_the_command_prints_them_where_poses_have_ids(dataset, tracked, tmp_path, capsys) -> None:
    output = tmp_path / "ap.json"
    assert main(["--truth", str(dataset), "--predictions", str(tracked), "--output", str(output)]) == 0
    out = capsys.readouterr().out.splitlines()
    header = next(number for number, text in enumerate(out) if text.startswith("MOTA"))
    assert out[header].split() == ["MOTA", *COLUMNS, "MOTP", "Prec", "Rec", "IDF1"]
    result = json.loads(output.read_text())["results"][0]
    assert out[header + 1].split() == ["tracked", *[f"{x:.1f}" for x in result["tracks"]["columns"].values()]]
    nose = result["tracks"]["joints"]["nose"]
    assert nose["switches"] == 2  # one of either person
    assert nose["misses"] == nose["false_positives"] == 0
    assert nose["mota"] == pytest.approx(100 * (1 - 2 / nose["objects"]))
    assert nose["motp"] == nose["precision"] == nose["recall"] == 100
    assert result["ap"]["Total"] == 100


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (lambda entry: entry.update(track_id=0), "two poses in one image have the track id 0"),
        (lambda entry: entry.pop("track_id") if entry["track_id"] else None, "of 20 poses have no track id"),
    ],
)
def test_ids_that_cannot_be_used_are_a_note(dataset, tracked, tmp_path, capsys, change, note) -> None:
    for path in tracked.iterdir():
        data = json.loads(path.read_text())
        for entry in data["annotations"]:
            change(entry)
        path.write_text(json.dumps(data))
    output = tmp_path / "ap.json"
    assert main(["--truth", str(dataset), "--predictions", str(tracked), "--output", str(output)]) == 0
    assert note in capsys.readouterr().out
    result = json.loads(output.read_text())["results"][0]
    assert result["tracks"] is None
    assert any(text.startswith("tracks are not evaluated: ") and note in text for text in result["notes"])


def test_poses_without_ids_and_a_missing_library(dataset, tracked, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "motmetrics", None)
    assert main(["--truth", str(dataset), "--predictions", str(tracked)]) == 0
    note = (
        "tracks are not evaluated: the accuracy of tracks needs the package 'motmetrics', which is not installed: run"
    )
    assert f"note     {note}  pip install 'sdtc[eval]'" in capsys.readouterr().out
    for path in tracked.iterdir():
        data = json.loads(path.read_text())
        for entry in data["annotations"]:
            del entry["track_id"]
        path.write_text(json.dumps(data))
    assert main(["--truth", str(dataset), "--predictions", str(tracked)]) == 0
    assert "tracks" not in capsys.readouterr().out
