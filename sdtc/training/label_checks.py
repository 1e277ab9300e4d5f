"""Labels that contradict themselves: torsos whose left and right are mixed up. NumPy only.

Crowd workers confuse left and right, or one joint with another. Two rules find torsos that hardly anybody can have; of
the people that they find in the Leeds photographs about four in five are labelled wrongly, the others are gymnasts or
hard to tell. Lengths of arms and legs, joints at the same place and crossed limbs were tried too and are no proof: in
photographs of athletes most of what looks impossible is foreshortened.
"""

from __future__ import annotations

import numpy as np

from sdtc.core.skeleton import POSETRACK

TWIST = 0.35  # of the torso's length: how far apart crossed shoulders and crossed hips are, both
UNEQUAL_SIDES = 3.0  # how much longer than the other the longer side of a torso is
LONG_SIDE = 0.25  # and how long it is, as a share of the longer extent of all joints
SHORT_TORSO = 0.1  # of the same extent: a torso seen from above or below has no left and right in the picture

_INDEX = {name: joint for joint, name in enumerate(POSETRACK.keypoints)}
_TORSO = [_INDEX[f"{side}_{joint}"] for joint in ("shoulder", "hip") for side in ("left", "right")]
_SIDED = np.array([joint for pair in POSETRACK.flip_pairs for joint in pair])


def is_torso_mixed_up(keypoints: np.ndarray) -> bool:
    """Whether left and right of a torso contradict each other.

    Either the shoulders are in one order across the torso and the hips in the other, both far apart; or one side, from
    shoulder to hip, is many times as long as the other.

    Args:
        keypoints: ``[15, 3]`` (x, y, v), pixels.

    Returns:
        False also if a shoulder or a hip is not labelled.
    """
    labelled = keypoints[:, 2] > 0
    if not labelled[_TORSO].all():
        return False
    extent = float(np.ptp(keypoints[labelled, :2], axis=0).max())
    left_shoulder, right_shoulder, left_hip, right_hip = keypoints[_TORSO, :2].astype(np.float64)
    short, long = sorted(
        np.hypot(*(end - start)) for start, end in ((left_shoulder, left_hip), (right_shoulder, right_hip))
    )
    if long > UNEQUAL_SIDES * short and long > LONG_SIDE * extent:
        return True
    up = (left_shoulder + right_shoulder - left_hip - right_hip) / 2
    length = float(np.hypot(*up))
    if length <= SHORT_TORSO * extent:
        return False
    across = np.array([-up[1], up[0]]) / length**2  # the result is in lengths of the torso
    shoulders, hips = float((left_shoulder - right_shoulder) @ across), float((left_hip - right_hip) @ across)
    return shoulders * hips < 0 and min(abs(shoulders), abs(hips)) > TWIST


def drop_mixed_up(keypoints: np.ndarray) -> np.ndarray:
    """Return keypoints ``[15, 3]`` in which no left or right joint is labelled if the torso is mixed up.

    Which half of the body is wrong cannot be told from the labels. Head and neck have no sides, and stay.
    """
    if not is_torso_mixed_up(keypoints):
        return keypoints
    kept = keypoints.copy()
    kept[_SIDED, 2] = 0
    return kept
