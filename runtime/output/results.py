"""What the runtime answers: poses by frame, in image pixels."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Pose:
    """One person in one frame.

    Attributes:
        track_id: the same person keeps it from frame to frame.
        keypoints: float32 ``[J, 3]``: x, y in image pixels, and the keypoint's score 0-1 (heatmap maximum).
        bbox: float32 ``[4]``: the person box x, y, width, height in image pixels, as detected.
        bbox_score: the detector's, 0-1.
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
        image_id: what the frame is called in PoseTrack's and COCO's files.
        image: uint8 ``[H, W, 3]`` RGB; None where the file is missing or broken.
        poses: of every person; empty where nobody is.
        received: when the frame came, `time.monotonic` seconds; 0 unless the source is live.
        latency: seconds from then to this result; 0 unless the source is live.
        waited: the part of the latency in which the frames that it looks ahead at were not there yet.
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
