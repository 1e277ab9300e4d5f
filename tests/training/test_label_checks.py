from __future__ import annotations

import numpy as np
import pytest

from sdtc.core.skeleton import POSETRACK
from sdtc.training.annotations import read_annotations
from sdtc.training.label_checks import TWIST, drop_mixed_up, is_torso_mixed_up

INDEX = {name: joint for joint, name in enumerate(POSETRACK.keypoints)}
PLACES = {
    "nose": (50, 20), "head_bottom": (50, 35), "head_top": (50, 8),
    "left_shoulder": (70, 40), "right_shoulder": (30, 40), "left_elbow": (78, 65), "right_elbow": (22, 65),
    "left_wrist": (80, 88), "right_wrist": (20, 88), "left_hip": (62, 90), "right_hip": (38, 90),
    "left_knee": (64, 130), "right_knee": (36, 130), "left_ankle": (65, 170), "right_ankle": (35, 170),
}  # fmt: skip


def person(**moved: tuple[float, float]) -> np.ndarray:
    """Somebody who stands and faces the camera, with some joints in other places."""
    return np.array([[*{**PLACES, **moved}[name], 1] for name in POSETRACK.keypoints], np.float32)


def swapped(keypoints: np.ndarray, *joints: str) -> np.ndarray:
    result = keypoints.copy()
    for joint in joints:
        pair = [INDEX[f"left_{joint}"], INDEX[f"right_{joint}"]]
        result[pair] = result[pair[::-1]]
    return result


def turned(keypoints: np.ndarray, degrees: float, scale: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.concatenate([keypoints[:, :2] @ turn.T + 300, keypoints[:, 2:]], axis=1)


@pytest.mark.parametrize("degrees", [0, 90, 200])
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_one_swapped_end_of_a_torso_is_found_however_it_is_turned(degrees, scale) -> None:
    facing = person()
    for right in (facing, swapped(facing, "shoulder", "hip")):  # seen from the front, and from behind
        assert not is_torso_mixed_up(turned(right, degrees, scale))
    for wrong in (swapped(facing, "shoulder", "elbow", "wrist"), swapped(facing, "hip", "knee", "ankle")):
        assert is_torso_mixed_up(turned(wrong, degrees, scale))


def test_a_slight_twist_is_none() -> None:
    for share, found in ((0.8, False), (1.2, True)):
        half = share * TWIST * 50 / 2  # the torso is 50 long
        assert is_torso_mixed_up(person(left_hip=(50 - half, 90), right_hip=(50 + half, 90))) == found


def test_a_profile_and_a_bow_are_no_mistakes() -> None:
    assert not is_torso_mixed_up(
        person(left_shoulder=(52, 40), right_shoulder=(48, 40), left_hip=(47, 90), right_hip=(53, 90))
    )
    # towards the camera: shoulders in front of the hips, and no length of the torso to go by
    assert not is_torso_mixed_up(
        person(left_shoulder=(70, 80), right_shoulder=(30, 80), left_hip=(38, 88), right_hip=(62, 88))
    )


def test_sides_of_very_different_lengths_are_found() -> None:
    assert is_torso_mixed_up(person(left_hip=(65, 50)))
    assert is_torso_mixed_up(person(right_hip=(35, 50)))
    assert not is_torso_mixed_up(person(left_hip=(65, 65)))  # half as long


def test_without_all_four_joints_nothing_is_said() -> None:
    for name in ("left_shoulder", "right_shoulder", "left_hip", "right_hip"):
        keypoints = swapped(person(), "hip")
        keypoints[INDEX[name], 2] = 0
        assert not is_torso_mixed_up(keypoints)


def test_head_and_neck_stay() -> None:
    keypoints = swapped(person(), "hip")
    kept = drop_mixed_up(keypoints)
    assert [POSETRACK.keypoints[j] for j in np.flatnonzero(kept[:, 2])] == ["nose", "head_bottom", "head_top"]
    np.testing.assert_array_equal(kept[:, :2], keypoints[:, :2])
    assert keypoints[:, 2].all()  # what was given is as it was
    np.testing.assert_array_equal(drop_mixed_up(person()), person())


def test_few_real_people_are_mixed_up(real_data) -> None:
    people = read_annotations(real_data / "stills", "val").people
    found = [is_torso_mixed_up(person.keypoints) for person in people]
    assert 0 < np.mean(found) < 0.04
