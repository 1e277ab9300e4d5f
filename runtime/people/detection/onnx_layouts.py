"""The input and output layouts of detection networks in ONNX files. NumPy and OpenCV; no session is opened here.

Which of them a file has is found out in ``onnx_recognition``.

Each layout is the convention of one project's exporter. C is the number of classes, "cells" the number of
grid cells at strides 8, 16, 32 (8400 for 640 x 640; also with stride 4 or 64), pixels are those of the network's
input.

=================== ========================================= ================================= =================
layout              outputs                                   boxes, scores                     input
=================== ========================================= ================================= =================
yolox               ``[1, cells, 5 + C]``                     centre, size: relative to the     BGR 0-255, corner
                                                              cell and in logarithms, or in
                                                              pixels (--decode_in_inference);
                                                              objectness x class
yolov5              ``[1, 3 cells, 5 + C]`` (also YOLOv7;     centre, size in pixels;           RGB 0-1, centred
                    YOLOv6 with ``cells`` rows), or turned    objectness x class
yolov8              ``[1, 4 + C (+ extra), cells]`` (v8, v9,  centre, size in pixels; class     RGB 0-1, centred
                    v11, v12; pose and segmentation models
                    too), or turned
yolo-end2end        ``[1, N, 6 (+ extra)]`` (v10, v26, or     corners in pixels; score, class   RGB 0-1, centred
                    nms=True; pose and segmentation models
                    too)
yolov7-end2end      ``[N, 7]``                                image, corners in pixels; class,  RGB 0-1, centred
                                                              score
rt-detr             ``logits [1, Q, C]``, ``pred_boxes        centre, size in 0-1; logits       RGB 0-1, stretched
                    [1, Q, 4]`` (RT-DETR, D-FINE by
                    transformers)
rt-detr-ultralytics ``[1, Q, 4 + C]``                         centre, size in 0-1; class        RGB 0-1, stretched
rt-detr-end2end     ``[1, Q, 6]`` (newer Ultralytics)         centre, size in 0-1; score, class RGB 0-1, stretched
rf-detr             ``dets [1, Q, 4]``, ``labels [1, Q, C]``  as rt-detr                        RGB, ImageNet mean
                                                                                                and std, stretched
rt-detr-sizes       ``labels``, ``boxes``, ``scores`` and an  corners in units of that input    RGB 0-1, stretched
                    input ``orig_target_sizes`` (RT-DETR,
                    D-FINE, DEIM by their own exporters)
mmdet               ``dets [1, N, 5]``, ``labels [1, N]``     corners in pixels, score          BGR, ImageNet mean
                    (RTMDet by mmdeploy)                                                        and std, corner
mmdet-yolox         the same from mmdetection's YOLOX         corners in pixels, score          BGR 0-255, corner
=================== ========================================= ================================= =================

"Corner" and "centred" keep the aspect ratio and pad with grey (114); "stretched" does not. Not covered, because a
file does not show it: YOLOX before version 0.1.1 (RGB, mean and std), and mmdet's other networks,
which may want RGB.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np

GREY = 114
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # RGB, 0-255
STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32))
SPARSE = (91, 366)  # classes numbered by the category ids of COCO and of Objects365: person is 1, not 0
TOLERANCE = 0.01  # of scores beyond 0 and 1, as fp16 rounds
FAR = 10  # times the longer side of the input: no box lies there
LARGEST_LOG_SIZE = 8.0  # exp(8) = 2981 cells: no raw YOLOX size exceeds 8, but some decoded size always does

Outputs = Mapping[str, np.ndarray]
Decoded = tuple[np.ndarray, np.ndarray]  # corners [N, 4] in pixels of the network's input, person scores [N]


@dataclass(frozen=True)
class Layout:
    """The convention of one exporter.

    Attributes:
        shapes: description of the outputs, for error messages.
        fit: how a frame is fitted to the input size.
        bgr: channel order.
        mean, std: subtracted and divided by, in 0-255 and in the channel order.
        shrink: OpenCV's interpolation when the frame is larger than the input.
        overlaps: the network returns several boxes per person, so they need suppression.
        decode: (outputs, (H, W) of the input, person class or None) -> boxes and scores. Raises ValueError,
            IndexError or KeyError if the outputs are not of this layout.
    """

    shapes: str
    fit: Literal["corner", "centre", "stretch"]
    bgr: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    shrink: int
    overlaps: bool
    decode: Callable[[Outputs, tuple[int, int], int | None], Decoded]


class Placement(NamedTuple):
    """Where a frame lies in the network's input: pixel = frame pixel * scale + offset."""

    scale: tuple[float, float]  # x, y
    offset: tuple[int, int]

    def to_frame(self, corners: np.ndarray) -> np.ndarray:
        """Map corners ``[N, 4]`` from pixels of the input to pixels of the frame."""
        mapped: np.ndarray = (corners - np.array(self.offset * 2)) / np.array(self.scale * 2)
        return mapped


def prepare(
    frame: np.ndarray, layout: Layout, size: tuple[int, int], dtype: np.dtype, channels_last: bool = False
) -> tuple[np.ndarray, Placement]:
    """Convert a frame to the network's input.

    Args:
        frame: uint8 ``[H, W, 3]``, RGB.
        layout: its ``fit``, ``bgr``, ``mean`` and ``std`` apply.
        size: (H, W) of the input.
        dtype: of the input; a uint8 input gets the pixel values unchanged, because such a graph normalises itself.
        channels_last: ``[1, H, W, 3]`` instead of ``[1, 3, H, W]``.
    """
    height, width = size
    frame_height, frame_width = frame.shape[:2]
    fitted = (width, height)
    if layout.fit != "stretch":
        ratio = min(width / frame_width, height / frame_height)
        fitted = (max(1, round(frame_width * ratio)), max(1, round(frame_height * ratio)))
    interpolation = layout.shrink if fitted[0] < frame_width else cv2.INTER_LINEAR
    resized = cv2.resize(frame, fitted, interpolation=interpolation)
    left, top = 0, 0
    if layout.fit == "centre":
        left, top = (width - fitted[0]) // 2, (height - fitted[1]) // 2
    image = np.full((height, width, 3), GREY, dtype=np.uint8)
    image[top : top + fitted[1], left : left + fitted[0]] = resized
    if layout.bgr:
        image = image[..., ::-1]
    if dtype != np.uint8:
        mean, std = np.array(layout.mean, dtype=np.float32), np.array(layout.std, dtype=np.float32)
        image = ((image.astype(np.float32) - mean) / std).astype(dtype)
    if not channels_last:
        image = image.transpose(2, 0, 1)
    placement = Placement((fitted[0] / frame_width, fitted[1] / frame_height), (left, top))
    return np.ascontiguousarray(image[None]), placement


def grid(rows: int, size: tuple[int, int]) -> tuple[tuple[int, ...], int] | None:
    """Return strides and boxes per cell (1 or 3) of a head with `rows` rows; None if it is no grid of this input."""
    for strides in STRIDES:
        cells = sum((size[0] // stride) * (size[1] // stride) for stride in strides)
        if rows in (cells, 3 * cells):
            return strides, rows // cells
    return None


def check_values(corners: np.ndarray, scores: np.ndarray, size: tuple[int, int], threshold: float) -> None:
    """Check that decoded values can be what a layout says they are.

    A network that is read in a wrong layout mostly finds nobody. That must not look like an empty room.

    Args:
        corners: ``[N, 4]``, pixels of the network's input.
        scores: ``[N]``.
        size: (H, W) of the input.
        threshold: only boxes with at least this score have to be boxes.

    Raises:
        ValueError: they cannot; what is wrong.
    """
    if corners.ndim != 2 or corners.shape[1] != 4 or scores.shape != corners.shape[:1]:
        raise ValueError(f"its boxes have the shape {list(corners.shape)} and its scores {list(scores.shape)}")
    _check_scores(scores, "scores")
    likely = corners[scores >= threshold]
    if not np.isfinite(likely).all():
        raise ValueError("some of its boxes are not finite")
    if not len(likely):
        return
    if (likely[:, 2:] < likely[:, :2]).any():
        raise ValueError("some of its boxes have negative sides")
    largest = float(np.abs(likely).max())
    if largest <= 2:
        raise ValueError("its boxes are in fractions of the image, not in pixels")
    if largest > FAR * max(size):
        raise ValueError(f"its boxes reach {largest:,.0f} pixels, the image has {max(size)}")


def _check_scores(scores: np.ndarray, what: str) -> None:
    """Check that scores are finite and in 0-1; raises ValueError."""
    if not len(scores):
        return
    low, high = float(scores.min()), float(scores.max())  # NaN if one of them is
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"some of its {what} are not finite, as if fp16 overflowed")
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise ValueError(f"its {what} reach from {low:.3g} to {high:.3g}, not from 0 to 1")


def _class_scores(table: np.ndarray, person: int | None) -> np.ndarray:
    """Return the people's column of a table ``[N, C]``."""
    if person is None:
        person = 1 if table.shape[1] in SPARSE else 0
    if not 0 <= person < table.shape[1]:
        raise IndexError(f"person class {person} of {table.shape[1]} classes")
    return table[:, person]


def _corners(centres_sizes: np.ndarray) -> np.ndarray:
    half = centres_sizes[:, 2:4] / 2
    return np.concatenate([centres_sizes[:, :2] - half, centres_sizes[:, :2] + half], axis=1)


def _head(outputs: Outputs) -> np.ndarray:
    """Return the first output, without the batch axis; segmentation models have more outputs."""
    head: np.ndarray = next(iter(outputs.values()))
    if head.ndim != 3:
        raise ValueError("the first output does not have three axes")
    return np.asarray(head[0], dtype=np.float32)


def _cells(outputs: Outputs, size: tuple[int, int], turned: bool = False) -> tuple[np.ndarray, tuple[int, ...], int]:
    """Return a head with a row for each cell or each of its boxes, strides, and boxes per cell.

    Args:
        outputs: of one run.
        size: (H, W) of the input.
        turned: the layout's own order has the cells last; the other one is understood, too.
    """
    head = _head(outputs)
    for table in (head.T, head) if turned else (head, head.T):
        found = grid(len(table), size)
        if found is not None:
            return table, *found
    raise ValueError("no axis is the number of cells")


def _chosen(scores: np.ndarray, classes: np.ndarray, person: int | None) -> np.ndarray:
    """Return the scores ``[N]`` of people, and 0 for everybody else, from the class of each box."""
    classes = classes.astype(np.float32)
    if not (np.abs(classes - np.rint(classes)) <= TOLERANCE).all():  # so written that NaN is none either
        raise ValueError("its classes are no whole numbers")
    return np.where(np.rint(classes) == (person or 0), scores, 0).astype(np.float32)


def _yolox(outputs: Outputs, size: tuple[int, int], person: int | None) -> Decoded:
    head, all_strides, per_cell = _cells(outputs, size)  # [cells, 5 + C]
    if per_cell != 1:
        raise ValueError("not one row per cell")
    boxes = head[:, :4]
    # The exporter's --decode_in_inference changes neither names nor shapes, so here the values decide: sizes are
    # logarithms, or pixels, and then those of the cells of stride 32 always exceed LARGEST_LOG_SIZE.
    if boxes[:, 2:].max() < LARGEST_LOG_SIZE:
        cells, strides = [], []
        for stride in all_strides:
            y, x = np.mgrid[: size[0] // stride, : size[1] // stride]
            cells.append(np.stack([x.ravel(), y.ravel()], axis=1))
            strides.append(np.full((x.size, 1), stride))
        stride_column = np.concatenate(strides).astype(np.float32)  # [cells, 1]
        centres = (boxes[:, :2] + np.concatenate(cells)) * stride_column
        boxes = np.concatenate([centres, np.exp(boxes[:, 2:]) * stride_column], axis=1)
    return _corners(boxes), _with_objectness(head, person)


def _yolov5(outputs: Outputs, size: tuple[int, int], person: int | None) -> Decoded:
    head, _, _ = _cells(outputs, size)  # [rows, 5 + C]
    return _corners(head), _with_objectness(head, person)


def _with_objectness(head: np.ndarray, person: int | None) -> np.ndarray:
    objectness, scores = head[:, 4], _class_scores(head[:, 5:], person)
    _check_scores(objectness, "objectness scores")
    _check_scores(scores, "class scores")
    return objectness * scores


def _yolov8(outputs: Outputs, size: tuple[int, int], person: int | None) -> Decoded:
    head, _, per_cell = _cells(outputs, size, turned=True)  # [cells, 4 + C + extra]
    if per_cell != 1:
        raise ValueError("not one box per cell")
    return _corners(head), _class_scores(head[:, 4:], person)


def _yolo_end2end(outputs: Outputs, size: tuple[int, int], person: int | None) -> Decoded:
    head = _head(outputs)  # [N, 6 + extra]: x1, y1, x2, y2, score, class
    return head[:, :4], _chosen(head[:, 4], head[:, 5], person)


def _yolov7_end2end(outputs: Outputs, size: tuple[int, int], person: int | None) -> Decoded:
    rows = next(iter(outputs.values()))  # [N, 7]: image, x1, y1, x2, y2, class, score
    if rows.ndim != 2:
        raise ValueError("the first output does not have two axes")
    rows = rows.astype(np.float32)
    return rows[:, 1:5], _chosen(rows[:, 6], rows[:, 5], person)


def detr_heads(outputs: Outputs) -> tuple[np.ndarray, np.ndarray] | None:
    """Return boxes ``[1, Q, 4]`` and logits ``[1, Q, C]``, found by their names."""
    boxes = [v for k, v in outputs.items() if v.ndim == 3 and v.shape[2] == 4 and ("box" in k or "det" in k)]
    logits = [v for k, v in outputs.items() if v.ndim == 3 and ("logit" in k or "label" in k)]
    if not boxes or not logits or boxes[0].shape[1] != logits[0].shape[1]:
        return None
    return boxes[0], logits[0]


def _detr(outputs: Outputs, size: tuple[int, int], person: int | None) -> Decoded:
    heads = detr_heads(outputs)
    if heads is None:
        raise ValueError("no boxes with logits")
    logits = _class_scores(heads[1][0], person).astype(np.float64)
    return _corners(heads[0][0].astype(np.float32)) * _scale(size), 1 / (1 + np.exp(-np.clip(logits, -60, 60)))


def _detr_joined(outputs: Outputs, size: tuple[int, int], person: int | None) -> Decoded:
    head = _head(outputs)  # [Q, 4 + C]
    return _corners(head) * _scale(size), _class_scores(head[:, 4:], person)


def _detr_end2end(outputs: Outputs, size: tuple[int, int], person: int | None) -> Decoded:
    head = _head(outputs)  # [Q, 6]: centre, size, score, class
    return _corners(head) * _scale(size), _chosen(head[:, 4], head[:, 5], person)


def _detr_sizes(outputs: Outputs, size: tuple[int, int], person: int | None) -> Decoded:
    # The graph multiplies by the sizes it is given. Files in circulation disagree on whether those are (width,
    # height) or (height, width), so the detector gives (1, 1) and the scaling happens here.
    corners = outputs["boxes"][0].astype(np.float32) * _scale(size)
    return corners, _chosen(outputs["scores"][0], outputs["labels"][0], person)


def _mmdet(outputs: Outputs, size: tuple[int, int], person: int | None) -> Decoded:
    boxes = next(v for v in outputs.values() if v.ndim == 3 and v.shape[2] == 5)[0].astype(np.float32)
    labels = next(v for v in outputs.values() if v.ndim == 2)[0]
    return boxes[:, :4], _chosen(boxes[:, 4], labels, person)


def _scale(size: tuple[int, int]) -> np.ndarray:
    height, width = size
    return np.array([width, height, width, height], dtype=np.float32)


_ZERO, _ONE, _255 = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (255.0, 255.0, 255.0)
_MEAN_BGR, _STD_BGR = IMAGENET_MEAN[::-1], IMAGENET_STD[::-1]

# PIL and torchvision, which DETRs are trained with, smooth when they shrink an image; RF-DETR and YOLOs do not
_AREA, _LINEAR = cv2.INTER_AREA, cv2.INTER_LINEAR

LAYOUTS = {
    "yolox": Layout("[1, cells, 5 + C]", "corner", True, _ZERO, _ONE, _LINEAR, True, _yolox),
    "yolov5": Layout(
        "[1, 3 x cells, 5 + C] or [1, cells, 5 + C]", "centre", False, _ZERO, _255, _LINEAR, True, _yolov5
    ),
    "yolov8": Layout("[1, 4 + C, cells] or [1, cells, 4 + C]", "centre", False, _ZERO, _255, _LINEAR, True, _yolov8),
    "yolo-end2end": Layout("[1, N, 6 + extra]", "centre", False, _ZERO, _255, _LINEAR, False, _yolo_end2end),
    "yolov7-end2end": Layout("[N, 7]", "centre", False, _ZERO, _255, _LINEAR, False, _yolov7_end2end),
    "rt-detr": Layout("logits [1, Q, C] and pred_boxes [1, Q, 4]", "stretch", False, _ZERO, _255, _AREA, False, _detr),
    "rt-detr-ultralytics": Layout("[1, Q, 4 + C]", "stretch", False, _ZERO, _255, _LINEAR, False, _detr_joined),
    "rt-detr-end2end": Layout("[1, Q, 6]", "stretch", False, _ZERO, _255, _LINEAR, False, _detr_end2end),
    "rf-detr": Layout(
        "dets [1, Q, 4] and labels [1, Q, C]", "stretch", False, IMAGENET_MEAN, IMAGENET_STD, _LINEAR, False, _detr
    ),
    "rt-detr-sizes": Layout(
        "labels, boxes, scores and an input of sizes", "stretch", False, _ZERO, _255, _AREA, False, _detr_sizes
    ),
    "mmdet": Layout("dets [1, N, 5] and labels [1, N]", "corner", True, _MEAN_BGR, _STD_BGR, _LINEAR, False, _mmdet),
    "mmdet-yolox": Layout("dets [1, N, 5] and labels [1, N]", "corner", True, _ZERO, _ONE, _LINEAR, False, _mmdet),
}
