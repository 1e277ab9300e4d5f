"""The results of the runtime: poses by frame, in image pixels."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Pose:
    """One person in one frame.

    Attributes:
        track_id: identifies the person from frame to frame.
        keypoints: float32 ``[J, 3]``: x, y in image pixels, and the keypoint's score 0-1 (heatmap maximum).
        bbox: float32 ``[4]``: the person box x, y, width, height in image pixels, as detected.
        bbox_score: the detector's score of the box, 0-1.
    """

    track_id: int
    keypoints: np.ndarray
    bbox: np.ndarray
    bbox_score: float

    @property
    def score(self) -> float:
        """The pose's score 0-1: mean keypoint score × box score."""
        return float(self.keypoints[:, 2].mean()) * self.bbox_score


@dataclass(frozen=True)
class FrameResult:
    """One frame.

    Attributes:
        index: from 0, counted over the input, missing frames included.
        number: the number in the image's file name; the index for videos.
        name: the image's file name; None for videos.
        image_id: the frame's id in PoseTrack and COCO files.
        image: uint8 ``[H, W, 3]`` RGB; None if the file is missing or broken.
        poses: one for each person; empty if there is nobody.
        received: when the frame arrived, `time.monotonic` seconds; 0 unless the source is live.
        latency: seconds from arrival to this result; 0 unless the source is live.
        waited: the part of the latency spent waiting for the look-ahead frames, seconds.
    """

    index: int
    number: int
    name: str | None
    image_id: int
    image: np.ndarray | None
    poses: list[Pose] = field(default_factory=list)
    received: float = 0.0
    latency: float = 0.0
    waited: float = 0.0
