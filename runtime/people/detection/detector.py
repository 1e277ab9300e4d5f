"""What all person detectors share: the result and its check, the interface, clipping and suppression. NumPy only.

A box coordinate names a pixel *edge* here, as detectors are trained: the box (0, 0, W, H) is the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sdtc.core.annotation_file import MAX_PIXELS
from sdtc.core.boxes import MAX_SCORE
from sdtc.core.errors import InputError

MAX_CANDIDATES = 1000  # boxes that enter suppression, best first: bounds its N x N table


@dataclass(frozen=True)
class Detections:
    """The people of one frame, best first.

    Attributes:
        boxes: float32 ``[N, 4]``, (x, y, width, height) in pixels of the frame, clipped to it.
        scores: float32 ``[N]``, 0-1.
    """

    boxes: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)


class Detector(Protocol):
    """Anything that finds people in a frame; from several threads at once, if several `engine.track` are given it."""

    def detect(self, frame: np.ndarray) -> Detections:
        """Find the people.

        Args:
            frame: uint8 ``[H, W, 3]``, RGB.
        """
        ...


def check_detector(detector: Any) -> None:
    """Check that something can be used as a detector.

    Raises:
        InputError: it has no method ``detect``, or is a class.
    """
    if isinstance(detector, type) or not callable(getattr(detector, "detect", None)):
        what = f"the class {detector.__name__}" if isinstance(detector, type) else f"of type {type(detector).__name__}"
        raise InputError(
            f"`detector` is {what}: expected 'hog', the path of an ONNX file, or an object with a method detect(frame)"
        )


def check_detections(found: Any, size: tuple[int, int]) -> Detections:
    """Check and convert what a detector returned, which may be anybody's.

    Args:
        found: an object with ``boxes`` and ``scores``, or a tuple of the two: arrays of any number type, lists, or
            tensors of the CPU; of any shape where they are empty.
        size: (H, W) of the frame.

    Returns:
        Copies, without boxes that have no area or lie outside the frame.

    Raises:
        InputError: not two arrays ``[N, 4]`` and ``[N]``, or a value is not finite, a side negative, or a score beyond
            0-1.
    """
    if isinstance(found, tuple) and len(found) == 2:
        boxes, scores = found
    elif hasattr(found, "boxes") and hasattr(found, "scores"):
        boxes, scores = found.boxes, found.scores
    else:
        raise _unusable(f"{type(found).__name__}", "Detections(boxes, scores), with no boxes where nobody is")
    boxes, scores = _numbers(boxes, "boxes"), _numbers(scores, "scores")
    if boxes.size == 0 == scores.size:
        return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise _unusable(f"boxes {list(boxes.shape)} and scores {list(scores.shape)}", "[N, 4] and [N]")
    # so written that NaN does not pass
    good = (np.abs(boxes) <= MAX_PIXELS).all(axis=1) & (boxes[:, 2:] >= 0).all(axis=1)
    if not good.all():
        first = [round(float(value), 1) for value in boxes[~good][0]]
        raise _unusable(f"the box {first}", "x, y, width, height in pixels, finite and with no negative side")
    good = (scores >= 0) & (scores <= MAX_SCORE)
    if not good.all():
        raise _unusable(f"the score {float(scores[~good][0]):g}", "scores from 0 to 1")
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    seen = ((boxes[:, 2:] > 0) & (low < size[::-1]) & (high > 0)).all(axis=1)
    return Detections(boxes[seen].astype(np.float32), np.minimum(scores[seen], 1).astype(np.float32))


def _numbers(value: Any, what: str) -> np.ndarray:
    try:
        array = np.asarray(value)
        if array.dtype.kind in "biuf" or array.size == 0:
            return array.astype(np.float64)
    except (TypeError, ValueError, RuntimeError):  # ragged lists; tensors of a GPU, or with gradients
        pass
    raise _unusable(f"{what} of type {type(value).__name__} that NumPy cannot read as numbers", "arrays or lists")


def _unusable(given: str, expected: str) -> InputError:
    return InputError(f"the detector's detect(frame) returned {given}: expected {expected}")


def check_frame(frame: np.ndarray) -> None:
    """Check that a frame is a colour image.

    Raises:
        InputError: it is not.
    """
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise InputError(f"a detector takes uint8 [H, W, 3] frames (RGB), got {frame.dtype} {list(frame.shape)}")


def make_detections(corners: np.ndarray, scores: np.ndarray, size: tuple[int, int]) -> Detections:
    """Clip boxes to the frame, drop those that lie outside, sort by score.

    Args:
        corners: ``[N, 4]``, (x1, y1, x2, y2) in pixels of the frame.
        scores: ``[N]``.
        size: (H, W) of the frame.
    """
    height, width = size
    corners = np.clip(corners.reshape(-1, 4), 0, [width, height, width, height])
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    # `>` is false for NaN too: a network that overflows finds nobody rather than people everywhere
    order = np.argsort(-scores, kind="stable")
    order = order[(boxes[order, 2] > 0) & (boxes[order, 3] > 0)]
    return Detections(boxes[order].astype(np.float32), np.clip(scores[order], 0, 1).astype(np.float32))


def suppress(corners: np.ndarray, scores: np.ndarray, max_iou: float, max_cover: float = 1.0) -> np.ndarray:
    """Greedy non-maximum suppression.

    Args:
        corners: ``[N, 4]``, (x1, y1, x2, y2).
        scores: ``[N]``.
        max_iou: a box that overlaps a better one by more is dropped.
        max_cover: likewise for the overlap's share of the smaller of the two boxes; 1 switches this off.

    Returns:
        Indices of the boxes to keep, best first.
    """
    order = np.argsort(-scores, kind="stable")[:MAX_CANDIDATES]
    low, high = corners[order, None, :2], corners[order, None, 2:]
    area = np.prod(np.clip(high - low, 0, None), axis=-1)  # [N, 1]
    sides = np.minimum(high, high.swapaxes(0, 1)) - np.maximum(low, low.swapaxes(0, 1))
    overlap = np.prod(np.clip(sides, 0, None), axis=-1)  # [N, N]
    union, smaller = area + area.T - overlap, np.minimum(area, area.T)
    rival = (overlap > max_iou * union) | (overlap > max_cover * smaller)
    keep: list[int] = []
    for i in range(len(order)):
        if not rival[i, keep].any():
            keep.append(i)
    return order[keep]
