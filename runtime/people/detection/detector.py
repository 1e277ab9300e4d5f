"""What all person detectors share: the result, the interface, clipping and suppression. NumPy only.

A box coordinate names a pixel *edge* here, as detectors are trained: the box (0, 0, W, H) is the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

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
    """Anything that finds people in a frame."""

    def detect(self, frame: np.ndarray) -> Detections:
        """Find the people.

        Args:
            frame: uint8 ``[H, W, 3]``, RGB.
        """
        ...


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
