"""Person detection with OpenCV's HOG detector (Dalal and Triggs, 2005): no download, no GPU, upright people only.

It is the fallback that makes the first run work, not a good detector: it misses people who sit, lie, bend,
are cut off, or are smaller than about 100 pixels of the reduced frame. A detection network
(`OnnxDetector`) is better in every respect.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from sdtc.core.errors import InputError
from sdtc.runtime.people.detection.detector import Detections, check_frame, make_detections, suppress

# The SVM was trained on 64x128 windows with 16 px around the person at top and bottom: 96 of 128 px are person.
# Arms are about half the window wide. Measured against the people of one-by-one.mp4: mean IoU 0.79.
WINDOW = (64, 128)
PERSON_WIDTH, PERSON_HEIGHT = 0.5, 0.75

SCALE_STEP = 1.1
MAX_IOU, MAX_COVER = 0.4, 0.6

# Raw SVM margin m -> score 1 / (1 + exp(-2.4 (m - 0.7))): 0.5 where most windows are people on the clips used
# for tuning, 0.96 at m = 2, which clear cases reach. It is a ranking, not a calibrated probability.
SLOPE, MIDDLE = 2.4, 0.7


class _Octave(NamedTuple):
    """One pass over the frame, reduced by ``reduction`` in addition to ``long_side``."""

    reduction: float
    levels: int  # scales that HOG searches from here on, SCALE_STEP apart
    stride: int  # pixels between windows
    border: float  # of the height, added at top and bottom; half as much left and right
    handicap: float  # subtracted from the margin


# HOG shrinks its input bilinearly, so a large person would be seen through aliasing, and on a grid of 8 px times
# the scale: the second octave starts from an area-averaged half-size frame and steps by 4 px instead. Its border
# (replicated pixels) is for people who fill the frame: a window is 4/3 of a person high and must fit. Small
# windows find arms, legs and furniture more often, hence the handicap.
OCTAVES = (_Octave(1.0, 7, 8, 0.05, 0.15), _Octave(0.5, 64, 4, 0.25, 0.0))


class HogDetector:
    """OpenCV's default people detector. Several threads may call `detect`: OpenCV's search keeps nothing.

    Args:
        long_side: frames are reduced (never enlarged) so that their longer side has at most this many pixels.
            People must then be about 100 pixels high or more: a larger value finds smaller people and costs time
            with its square.
        score_threshold: detections below are dropped, 0-1.

    Raises:
        InputError: this OpenCV has no HOG (5.0 dropped it from opencv-python), or an argument is out of range.
    """

    def __init__(self, long_side: int = 640, score_threshold: float = 0.35) -> None:
        if not hasattr(cv2, "HOGDescriptor"):
            raise InputError(
                f"OpenCV {cv2.__version__} has no HOG people detector: run  pip install 'opencv-python<5'  or give "
                "a detection network with  `detector='MODEL.onnx'`"
            )
        if long_side < WINDOW[1] or not 0 < score_threshold < 1:
            raise InputError(
                f"the HOG detector needs `long_side` >= {WINDOW[1]} and `score_threshold` between 0 and 1, "
                f"got {long_side} and {score_threshold}"
            )
        self.long_side = long_side
        self.score_threshold = score_threshold
        self._hogs = [_hog(octave.levels) for octave in OCTAVES]

    def detect(self, frame: np.ndarray) -> Detections:
        """Find upright people.

        Args:
            frame: uint8 ``[H, W, 3]``; HOG uses the strongest gradient of the three channels, so their order does
                not matter.

        Raises:
            InputError: the frame is not such an image.
        """
        check_frame(frame)
        height, width = frame.shape[:2]
        min_margin = MIDDLE + np.log(self.score_threshold / (1 - self.score_threshold)) / SLOPE
        found = [self._search(frame, octave, hog, min_margin) for octave, hog in zip(OCTAVES, self._hogs, strict=True)]
        corners = np.concatenate([corners for corners, _ in found])
        margins = np.concatenate([margins for _, margins in found])
        # clipped before suppression, so that a window reaching far into the border competes with its visible part
        corners = np.clip(corners, 0, [width, height, width, height])
        keep = suppress(corners, margins, MAX_IOU, MAX_COVER)
        scores = 1 / (1 + np.exp(-SLOPE * (margins[keep] - MIDDLE)))
        return make_detections(corners[keep], scores, (height, width))

    def _search(
        self, frame: np.ndarray, octave: _Octave, hog: cv2.HOGDescriptor, min_margin: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search one octave: corners ``[N, 4]`` in pixels of the frame, margins ``[N]``."""
        height, width = frame.shape[:2]
        ratio = min(1.0, self.long_side / max(height, width)) * octave.reduction
        reduced = max(1, round(width * ratio)), max(1, round(height * ratio))
        image = cv2.resize(frame, reduced, interpolation=cv2.INTER_AREA) if ratio < 1 else frame
        y_border = round(octave.border * reduced[1])
        x_border = y_border // 2
        image = cv2.copyMakeBorder(image, y_border, y_border, x_border, x_border, cv2.BORDER_REPLICATE)
        if image.shape[1] < WINDOW[0] or image.shape[0] < WINDOW[1]:
            return np.zeros((0, 4)), np.zeros(0)
        found, margins = hog.detectMultiScale(
            image,
            hitThreshold=float(min_margin + octave.handicap),
            winStride=(octave.stride, octave.stride),
            padding=(0, 0),
            scale=SCALE_STEP,
            groupThreshold=0,  # no grouping: it would average boxes and drop people found only once
        )
        windows = np.asarray(found, dtype=np.float64).reshape(-1, 4)  # (x, y, width, height)
        centres = windows[:, :2] + windows[:, 2:] / 2 - [x_border, y_border]
        half = windows[:, 2:] / 2 * [PERSON_WIDTH, PERSON_HEIGHT]
        scale = np.array([width / reduced[0], height / reduced[1]] * 2)
        corners = np.concatenate([centres - half, centres + half], axis=1) * scale
        return corners, np.ravel(margins) - octave.handicap


def _hog(levels: int) -> cv2.HOGDescriptor:
    """Return the descriptor that the default SVM belongs to; all values but ``levels`` are OpenCV's defaults."""
    hog = cv2.HOGDescriptor(WINDOW, (16, 16), (8, 8), (8, 8), 9, 1, -1.0, 0, 0.2, True, levels, False)
    hog.setSVMDetector(cv2.HOGDescriptor_getDefaultPeopleDetector())  # type: ignore[attr-defined]
    return hog
