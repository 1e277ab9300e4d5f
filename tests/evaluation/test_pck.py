"""PCK and PCKh against cases worked out by hand.

The person's torso, from the left shoulder (0, 0) to the right hip (30, 40), measures 50 pixels, so that a joint is
correct within 10; the head measures 12 pixels, so that a joint is correct within 6.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from sdtc.core.errors import InputError
from sdtc.core.skeleton import COCO, POSETRACK, Skeleton
from sdtc.evaluation.ap import GroundTruth, Predictions, evaluate
from sdtc.evaluation.pck import COLUMNS, pck, pckh, torso_sizes


def pose(skeleton: Skeleton = POSETRACK, **places: tuple[float, float]) -> np.ndarray:
    """Keypoints ``[J, 2]``: joints lie 100 pixels apart on a line, but for the torso and those that are given."""
    points = np.stack([100.0 * np.arange(len(skeleton.keypoints)), np.full(len(skeleton.keypoints), 300.0)], axis=1)
    for name, place in {"left_shoulder": (0, 0), "right_hip": (30, 40), **places}.items():
        points[skeleton.keypoints.index(name)] = place
    return points


def moved(points: np.ndarray, skeleton: Skeleton = POSETRACK, **by: tuple[float, float]) -> np.ndarray:
    points = points.copy()
    for name, shift in by.items():
        points[skeleton.keypoints.index(name)] += shift
    return points


def people(*keypoints: np.ndarray, skeleton: Skeleton = POSETRACK, **more) -> GroundTruth:
    """Everybody alone in a frame."""
    count = len(keypoints)
    labelled = np.ones((count, len(skeleton.keypoints)), bool)
    more = {"labelled": labelled, "head_sizes": np.full(count, 12.0)} | more
    return GroundTruth(count, np.arange(count), np.array(keypoints), skeleton=skeleton, **more)


def guesses(*keypoints: np.ndarray, frames=None, predicted=None, skeleton: Skeleton = POSETRACK) -> Predictions:
    count = len(keypoints)
    shape = (count, len(skeleton.keypoints))
    frames = np.arange(count) if frames is None else np.array(frames)
    predicted = np.ones(shape, bool) if predicted is None else predicted
    return Predictions(frames, np.array(keypoints).reshape(*shape, 2), predicted, np.ones(shape), skeleton)


def index(name: str, skeleton: Skeleton = POSETRACK) -> int:
    return skeleton.keypoints.index(name)


def all_but(*joints: str) -> np.ndarray:
    return np.array([[name not in joints for name in POSETRACK.keypoints]])


def test_the_torso_is_from_the_left_shoulder_to_the_right_hip() -> None:
    labelled = np.concatenate([all_but(), all_but("left_shoulder"), all_but("right_hip"), all_but("right_shoulder")])
    sizes = torso_sizes(people(*[pose()] * 4, labelled=labelled))
    np.testing.assert_array_equal(sizes, [50, 0, 0, 50])


def test_joints_at_and_beyond_the_distance() -> None:
    """Wrists: one 10 pixels off (6, 8), one a little more. Nose: 6 pixels and a little more in PCKh."""
    truth = people(pose())
    poses = guesses(moved(pose(), left_wrist=(6, 8), right_wrist=(10.001, 0), nose=(0, 6), head_top=(0, 6.001)))
    torso, head = (measure(truth, poses, np.array([0])) for measure in (pck, pckh))
    assert torso.name == "PCK@0.2"
    assert head.name == "PCKh@0.5"
    assert torso.columns == {
        **dict.fromkeys(COLUMNS, 100.0), "Wrist": 50, "Limbs": pytest.approx(100 * 11 / 12),
        "Total": pytest.approx(100 * 14 / 15),
    }  # fmt: skip
    assert head.columns == {
        **dict.fromkeys(COLUMNS, 100.0), "Head": pytest.approx(200 / 3), "Wrist": 0,
        "Limbs": pytest.approx(100 * 10 / 12), "Total": pytest.approx(100 * 12 / 15),
    }  # fmt: skip
    assert torso.by_joint[index("right_wrist")] == 0
    assert torso.by_joint[index("left_wrist")] == 100


def test_unlabelled_joints_do_not_count_and_missing_people_and_joints_are_wrong() -> None:
    """Two people: the first has no labelled knees and a pose without a nose, the second no pose: 12 of 13 + 15."""
    labelled = np.concatenate([all_but("left_knee", "right_knee"), all_but()])
    truth = people(pose(), pose(), labelled=labelled)
    poses = guesses(pose(), predicted=all_but("nose"))
    result = pck(truth, poses, np.array([0, -1]))
    assert result.columns["Total"] == pytest.approx(100 * 12 / 28)
    assert result.columns["Knee"] == 0  # of the second alone
    assert result.columns["Head"] == pytest.approx(100 * 2 / 6)
    assert result.of(np.array([True, False])).columns["Total"] == pytest.approx(100 * 12 / 13)
    assert np.isnan(result.of([0]).columns["Knee"])
    assert pck(truth, guesses(), np.array([-1, -1])).columns["Total"] == 0


def test_who_lacks_a_torso_or_a_head_is_left_out_and_counted() -> None:
    """Nobody's labelled joints: neither left out nor counted."""
    labelled = np.concatenate([all_but(), all_but("right_hip"), np.zeros((1, 15), bool)])
    truth = people(pose(), pose(), pose(), labelled=labelled, head_estimated=np.array([True, False, True]))
    poses, whose = guesses(pose(), moved(pose(), nose=(50, 0)), pose()), np.arange(3)
    torso, head = pck(truth, poses, whose), pckh(truth, poses, whose)
    assert torso.columns["Total"] == 100
    assert head.columns["Total"] == pytest.approx(100 * 13 / 14)
    assert (torso.people, head.people) == (1, 1)
    assert torso.note == "PCK@0.2 leaves out 1 of 2 people, who lack a labelled left_shoulder and right_hip"
    assert head.note == "PCKh@0.5 leaves out 1 of 2 people, who lack a head box ('bbox_head')"
    assert torso.of([0]).note == ""
    assert np.isnan(torso.of([1]).columns["Total"])


def test_joints_in_an_ignore_region_do_not_count_on_either_side() -> None:
    """The nose's label is in the region; the neck's label is not, but its prediction is: no longer a joint."""
    nose = pose()[index("nose")]
    square = np.array([(-5, -5), (5, -5), (5, 5), (-5, 5)], float)
    truth = people(pose(), ignore_regions={0: [square + nose, square + pose()[index("head_bottom")] + (9, 0)]})
    poses = guesses(moved(pose(), nose=(90, 90), head_bottom=(9, 0)))
    result = pck(truth, poses, np.array([0]))
    assert not result.counted[0, index("nose")]
    assert result.columns["Total"] == pytest.approx(100 * 13 / 14)


def test_predictions_of_a_file_are_the_peoples_by_the_assignment_of_ap() -> None:
    """Two people in a frame: one has two poses, of which the better is kept, the other nobody's."""
    truth = dataclasses.replace(people(pose(), pose() + 2000), num_frames=1, frames=np.zeros(2, int))
    poses = guesses(pose() + 9000, moved(pose(), nose=(90, 0)), pose(), frames=[0, 0, 0])
    whose = evaluate(truth, poses).prediction_of
    assert whose.tolist() == [2, -1]
    assert pck(truth, poses, whose).columns["Total"] == 50


def test_cocos_joints_have_a_head_of_five() -> None:
    truth = people(pose(COCO), skeleton=COCO)
    poses = guesses(moved(pose(COCO), COCO, left_ear=(0, 11)), skeleton=COCO)
    columns = pck(truth, poses, np.array([0])).columns
    assert columns == dict.fromkeys(COLUMNS, 100.0) | {"Head": 80, "Total": pytest.approx(100 * 16 / 17)}


def test_other_joints_are_refused() -> None:
    with pytest.raises(InputError, match="the skeleton 'posetrack', the ground truth those of 'coco'"):
        pck(people(pose(COCO), skeleton=COCO), guesses(pose()), np.array([0]))


def test_it_is_the_plain_definition_on_random_people() -> None:
    """Joint by joint, as the definition says."""
    rng = np.random.default_rng(0)
    count = 40
    keypoints = rng.uniform(0, 100, (count, 15, 2))
    truth = people(*keypoints, labelled=rng.random((count, 15)) < 0.8, head_sizes=rng.uniform(5, 30, count))
    predicted = rng.random((count, 15)) < 0.9
    poses = guesses(*(keypoints[::-1] + rng.normal(0, 8, keypoints.shape)), predicted=predicted)
    whose = np.where(rng.random(count) < 0.9, np.arange(count)[::-1], -1)
    for measure, factor in ((pck, 0.2), (pckh, 0.5)):
        right, wrong = np.zeros(15), np.zeros(15)
        for g in range(count):
            size = truth.head_sizes[g]
            if measure is pck:
                if not truth.labelled[g, [3, 10]].all():  # left shoulder, right hip
                    continue
                size = np.linalg.norm(keypoints[g, 3] - keypoints[g, 10])
            for j in np.flatnonzero(truth.labelled[g]):
                p = whose[g]
                found = p >= 0 and predicted[p, j]
                near = found and np.linalg.norm(poses.keypoints[p, j] - keypoints[g, j]) <= factor * size
                (right if near else wrong)[j] += 1
        assert 100 < right.sum() < 400
        np.testing.assert_allclose(measure(truth, poses, whose).by_joint, 100 * right / (right + wrong))
