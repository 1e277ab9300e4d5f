"""PoseTrack's conventions: its 17 slots, image ids and category (paper, section 8). NumPy only."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from sdtc.core.skeleton import POSETRACK, POSETRACK_SLOTS

_SLOT_OF_KEYPOINT = [POSETRACK_SLOTS.index(name) for name in POSETRACK.keypoints]
_SEQUENCE_NAME = re.compile(r"^(\d{6})(_|$)")

# The 1-based skeleton that every PoseTrack18 annotation file carries.
POSETRACK_CATEGORY: dict[str, Any] = {
    "supercategory": "person",
    "id": 1,
    "name": "person",
    "keypoints": list(POSETRACK_SLOTS),
    "skeleton": [
        [16, 14], [14, 12], [17, 15], [15, 13], [12, 13], [6, 12], [7, 13], [6, 7], [6, 8], [7, 9],
        [8, 10], [9, 11], [2, 3], [1, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5, 7],
    ],
}  # fmt: skip


def sequence_id(name: str) -> str | None:
    """Return the video id, six digits, of a sequence's name such as ``012834_mpii_test``; None if it has none."""
    match = _SEQUENCE_NAME.match(name)
    return match[1] if match else None


def image_id(vid_id: str, frame: int) -> int:
    """Return PoseTrack18's id of a frame: 1, the video id in six digits, the frame in four."""
    return int(f"1{int(vid_id):06d}{frame:04d}")


def to_slots(keypoints: np.ndarray) -> np.ndarray:
    """Spread the 15 joints ``[..., 15, K]`` over PoseTrack's 17 slots ``[..., 17, K]``; the ears stay zero."""
    slots = np.zeros((*keypoints.shape[:-2], len(POSETRACK_SLOTS), keypoints.shape[-1]), dtype=keypoints.dtype)
    slots[..., _SLOT_OF_KEYPOINT, :] = keypoints
    return slots


def from_slots(slots: np.ndarray) -> np.ndarray:
    """Pick the 15 joints ``[..., 15, K]`` out of PoseTrack's 17 slots ``[..., 17, K]``."""
    return slots[..., _SLOT_OF_KEYPOINT, :]
