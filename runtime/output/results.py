"""The results of the runtime: poses by frame, in image pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from sdtc.core.errors import require

if TYPE_CHECKING:
    import supervision


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
        time: seconds from the first frame: by the time stamps of a video, by 25 frames/s for images, by arrival for
            live sources.
        wall_clock: when the frame arrived, seconds since 1970; 0 unless the source is live.
        pixel_aspect: width of a pixel relative to its height; 1 unless the video is anamorphic. Coordinates are those
            of the stored pixels.
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
    time: float = 0.0
    wall_clock: float = 0.0
    pixel_aspect: float = 1.0
    received: float = 0.0
    latency: float = 0.0
    waited: float = 0.0

    def to_supervision(self) -> tuple[supervision.KeyPoints, supervision.Detections]:
        """Convert the poses into the types of Roboflow's `supervision`, for its annotators and trackers.

        Returns:
            KeyPoints: ``xy`` ``[P, J, 2]`` in image pixels, ``keypoint_confidence`` ``[P, J]`` and
            ``detection_confidence`` ``[P]`` (`Pose.score`); the track ids are in ``data["tracker_id"]``.
            Detections, in the same order: ``xyxy`` ``[P, 4]`` in image pixels, ``confidence`` ``[P]`` (`bbox_score`)
            and ``tracker_id`` ``[P]``. In both, ``class_id`` is 0; both are empty where nobody is.

        Raises:
            MissingExtraError: `supervision` is not installed.
        """
        sv = require("supervision", "supervision", "`to_supervision`")
        if not self.poses:
            return sv.KeyPoints.empty(), sv.Detections.empty()
        keypoints = np.stack([pose.keypoints for pose in self.poses])  # [P, J, 3]
        boxes = np.stack([pose.bbox for pose in self.poses])  # [P, 4]: x, y, width, height
        track_ids = np.array([pose.track_id for pose in self.poses])
        class_ids = np.zeros(len(self.poses), int)
        key_points = sv.KeyPoints(
            xy=keypoints[..., :2],
            keypoint_confidence=keypoints[..., 2],
            detection_confidence=np.array([pose.score for pose in self.poses], np.float32),
            class_id=class_ids,
            data={"tracker_id": track_ids},
        )
        detections = sv.Detections(
            xyxy=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
            confidence=np.array([pose.bbox_score for pose in self.poses], np.float32),
            class_id=class_ids,
            tracker_id=track_ids,
        )
        return key_points, detections
