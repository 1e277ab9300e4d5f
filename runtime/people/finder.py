"""Who is in a frame: boxes from a file or a detector, track ids, and the frame's id in PoseTrack files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from sdtc.core.boxes import BoxFile, SourceBoxes
from sdtc.core.posetrack import image_id, sequence_id
from sdtc.runtime.people.detection import Detections, Detector, make_detector
from sdtc.runtime.people.detection.detector import check_detections, check_detector
from sdtc.runtime.people.rates import ROUNDING
from sdtc.runtime.people.tracking import Tracker
from sdtc.runtime.sources.base import Frame, FrameSource


@dataclass(frozen=True)
class FramePeople:
    """The people of one frame.

    Attributes:
        image_id: the frame's id in the file of boxes or in PoseTrack.
        boxes: float32 ``[P, 4]`` (x, y, width, height), image pixels.
        scores: float32 ``[P]``, 0-1.
        track_ids: int64 ``[P]``.
    """

    image_id: int
    boxes: np.ndarray
    scores: np.ndarray
    track_ids: np.ndarray


class PeopleFinder:
    """Finds the people in every frame of one source; call it with frames in order.

    Args:
        source: the source of the frames.
        boxes: JSON file of person boxes, or None for the detector.
        detector: ``"hog"``, the path of an ONNX detector, or any object with ``detect(image)``.
        tracker: assigns track ids if those of the file of boxes are not used.
        detect_every: seconds between detections; 0 for every frame.

    Raises:
        InputError: the boxes do not belong to this source, or the detector cannot be used.
    """

    def __init__(
        self,
        source: FrameSource,
        boxes: str | Path | BoxFile | None,
        detector: str | Path | Detector,
        tracker: Tracker,
        detect_every: float = 0.0,
    ) -> None:
        self._tracker = tracker
        self._vid_id = sequence_id(source.sequence)
        self._boxes: SourceBoxes | None = None
        self._detector: Detector | None = None
        self._every = detect_every
        self._due = -math.inf  # time from which on the next frame is searched, seconds
        self._listed = source.listing is not None
        if boxes is None:
            if isinstance(detector, str | Path):
                detector = make_detector(str(detector))
            check_detector(detector)
            self._detector = detector
            return
        file = boxes if isinstance(boxes, BoxFile) else BoxFile(Path(boxes))
        known = None
        if source.listing is not None:
            known = [(number, name) for number, name in source.listing if name is not None]
        self._boxes = SourceBoxes(file, source.sequence, known, source.partial)

    def find(self, frame: Frame) -> FramePeople:
        """Return the people of a frame; nobody if its image is missing.

        Raises:
            InputError: a detector of one's own returned something unusable, or a network's values are not those of its
                layout.
        """
        identifier = self._image_id(frame)
        if frame.image is None:
            return FramePeople(identifier, *_NOBODY)
        size = frame.image.shape[:2]
        if self._boxes is not None:
            found = self._boxes.of_frame(frame.number, frame.name, size)
            ids = found.track_ids
            if ids is None:
                ids = self._tracker.update(found.boxes, found.scores, frame.time)
            return FramePeople(identifier, found.boxes, found.scores, ids)
        assert self._detector is not None
        if not self._search_is_due(frame.time):
            return FramePeople(identifier, *self._tracker.predict(frame.time, size))
        detections = self._detect(frame.image, frame.pixel_aspect)
        ids = self._tracker.update(detections.boxes, detections.scores, frame.time)
        return FramePeople(identifier, detections.boxes, detections.scores, ids)

    def pass_over(self, frame: Frame) -> None:
        """Take note of a frame that an earlier run has searched: detections go on in step with that run's."""
        if frame.image is None:
            self._due = -math.inf  # that run's line has nobody who could be extrapolated
        else:
            self._search_is_due(frame.time)

    def _search_is_due(self, time: float) -> bool:
        """Whether the detector runs on a frame; if so, set when it does again."""
        if time < self._due - ROUNDING:
            return False
        if time - self._due >= self._every:  # a pause, or the first frame
            self._due = time + self._every
        else:  # from when it was due, so that frames that come a little late do not add up
            self._due = max(self._due + self._every, time + self._every / 2)
        return True

    def _detect(self, image: np.ndarray, pixel_aspect: float) -> Detections:
        """Run the detector; it sees people of an anamorphic video as they are."""
        assert self._detector is not None
        size = image.shape[:2]
        if pixel_aspect == 1:
            return check_detections(self._detector.detect(image), size)
        width = max(1, round(size[1] * pixel_aspect))
        shown = cv2.resize(image, (width, size[0]), interpolation=cv2.INTER_LINEAR)
        found = check_detections(self._detector.detect(shown), (size[0], width))
        squeeze = np.array([size[1] / width, 1.0] * 2, np.float32)
        return Detections(found.boxes * squeeze, found.scores)

    def check_end(self, num_frames: int) -> None:
        """After the last frame: check that the boxes belong to frames that came, and that some could be used.

        Raises:
            InputError: some belong to frames that never came, or all lie outside the image.
        """
        if self._boxes is None:
            return
        if not self._listed:
            self._boxes.check_all_seen(num_frames)
        self._boxes.check_any_usable()

    def _image_id(self, frame: Frame) -> int:
        if self._boxes is not None:
            return self._boxes.image_id(frame.number, frame.name)
        return frame.number if self._vid_id is None else image_id(self._vid_id, frame.number)


_NOBODY = (np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
