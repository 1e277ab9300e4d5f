"""The input and output layouts of detection networks in ONNX files. NumPy and OpenCV; no session is opened here.

Each layout is the convention of one project's exporter. C is the number of classes, "cells" the number of
grid cells at strides 8, 16, 32 (8400 for 640 x 640; also with stride 4 or 64), pixels are those of the network's
input.

============== ============================================= ================================= =================
layout         outputs                                       boxes, scores                     input
============== ============================================= ================================= =================
yolox          ``[1, cells, 5 + C]``                         centre, size: relative to the     BGR 0-255, corner
                                                             cell and in logarithms, or in
                                                             pixels (--decode_in_inference);
                                                             objectness x class
yolov5         ``[1, 3 cells, 5 + C]`` (also YOLOv7; YOLOv6  centre, size in pixels;           RGB 0-1, centred
               with ``cells`` rows, output ``outputs``)      objectness x class
yolov8         ``[1, 4 + C (+ extra), cells]`` (v8, v9, v11, centre, size in pixels; class     RGB 0-1, centred
               v12; pose and segmentation models too)
yolo-end2end   ``[1, N, 6]`` (v10, v26, or nms=True)         corners in pixels; score, class   RGB 0-1, centred
rt-detr        ``logits [1, Q, C]``, ``pred_boxes``          centre, size in 0-1; logits       RGB 0-1, stretched
               ``[1, Q, 4]`` (RT-DETR, D-FINE by
               transformers)
rf-detr        ``dets [1, Q, 4]``, ``labels [1, Q, C]``      as rt-detr                        RGB, ImageNet mean
                                                                                               and std, stretched
rt-detr-sizes  ``labels``, ``boxes``, ``scores`` and an      corners in units of that input    RGB 0-1, stretched
               input ``orig_target_sizes`` (RT-DETR,
               D-FINE, DEIM by their own exporters)
mmdet          ``dets [1, N, 5]``, ``labels [1, N]``         corners in pixels, score          BGR, ImageNet mean
               (RTMDet by mmdeploy)                                                            and std, corner
mmdet-yolox    the same from mmdetection's YOLOX             corners in pixels, score          BGR 0-255, corner
============== ============================================= ================================= =================

"Corner" and "centred" keep the aspect ratio and pad with grey (114); "stretched" does not. Not covered, because a
file does not show it: YOLOX before version 0.1.1 (RGB, mean and std), and mmdet's other networks,
which may want RGB.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np

GREY = 114
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # RGB, 0-255
STRIDES = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32))
SPARSE_COCO = 91  # classes numbered by COCO's category ids: person is 1, not 0
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


def recognise(outputs: Outputs, size: tuple[int, int], sizes_input: bool, yolox_head: bool) -> str | None:
    """Return the name of a network's layout, from the names and shapes of its outputs, never from their values.

    Args:
        outputs: of one run, by name, in the graph's order.
        size: (H, W) of the input.
        sizes_input: the graph also takes the size of the frame.
        yolox_head: the file names the layers of mmdetection's YOLOX head.
    """
    shapes = [array.shape for array in outputs.values()]
    if sizes_input:
        return "rt-detr-sizes" if {"labels", "boxes", "scores"} <= set(outputs) else None
    heads = _detr_heads(outputs)
    if heads is not None:
        own_exporter = {"dets", "labels"} <= set(outputs)
        return "rf-detr" if own_exporter or heads[1].shape[2] == SPARSE_COCO else "rt-detr"
    if any(len(shape) == 3 and shape[2] == 5 for shape in shapes) and any(len(shape) == 2 for shape in shapes):
        return "mmdet-yolox" if yolox_head else "mmdet"
    name, head = next(iter(outputs.items()))
    if head.ndim != 3:
        return None
    rows = grid(head.shape[1], size)
    if rows is not None and head.shape[2] > 5:
        # A YOLOX or YOLOv6 head has one box per cell, a YOLOv5 or v7 head three: 8400 or 25200 rows at 640 x 640.
        # YOLOv6 differs from YOLOX by its output's name only ("outputs", against "output").
        return "yolov5" if rows[1] == 3 or name == "outputs" else "yolox"
    if head.shape[1] > 4 and grid(head.shape[2], size) is not None:
        return "yolov8"
    return "yolo-end2end" if head.shape[2] == 6 else None


def person_class(metadata: Mapping[str, str]) -> int | None:
    """Return the class number of people, if the exporter wrote class names into the file (Ultralytics, RF-DETR)."""
    try:
        if "names" in metadata:
            names = ast.literal_eval(metadata["names"])
        else:
            names = json.loads(metadata["rfdetr_inference"])["class_id_to_name"]
        items = names.items() if isinstance(names, dict) else enumerate(names)
        return next(int(i) for i, name in items if str(name).lower() in ("person", "pedestrian", "human"))
    except (KeyError, ValueError, SyntaxError, TypeError, StopIteration):
        return None


def _class_scores(table: np.ndarray, person: int | None) -> np.ndarray:
    """Return the people's column of a table ``[N, C]``."""
    if person is None:
        person = 1 if table.shape[1] == SPARSE_COCO else 0
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


def _yolox(outputs: Outputs, size: tuple[int, int], person: int | None) -> Decoded:
    head = _head(outputs)  # [cells, 5 + C]
    layout = grid(len(head), size)
    if layout is None or layout[1] != 1:
        raise ValueError("not one row per cell")
    boxes = head[:, :4]
    # The exporter's --decode_in_inference changes neither names nor shapes, so here the values decide: sizes are
    # logarithms, or pixels, and then those of the cells of stride 32 always exceed LARGEST_LOG_SIZE.
    if boxes[:, 2:].max() < LARGEST_LOG_SIZE:
        cells, strides = [], []
        for stride in layout[0]:
            y, x = np.mgrid[: size[0] // stride, : size[1] // stride]
            cells.append(np.stack([x.ravel(), y.ravel()], axis=1))
            strides.append(np.full((x.size, 1), stride))
        stride_column = np.concatenate(strides).astype(np.float32)  # [cells, 1]
        centres = (boxes[:, :2] + np.concatenate(cells)) * stride_column
        boxes = np.concatenate([centres, np.exp(boxes[:, 2:]) * stride_column], axis=1)
    return _corners(boxes), head[:, 4] * _class_scores(head[:, 5:], person)


def _yolov5(outputs: Outputs, size: tuple[int, int], person: int | None) -> Decoded:
    head = _head(outputs)  # [rows, 5 + C]
    return _corners(head), head[:, 4] * _class_scores(head[:, 5:], person)


def _yolov8(outputs: Outputs, size: tuple[int, int], person: int | None) -> Decoded:
    head = _head(outputs).T  # [cells, 4 + C + extra]
    if grid(len(head), size) is None:
        raise ValueError("the last axis is not the number of cells")
    return _corners(head), _class_scores(head[:, 4:], person)


def _yolo_end2end(outputs: Outputs, size: tuple[int, int], person: int | None) -> Decoded:
    head = _head(outputs)  # [N, 6]: x1, y1, x2, y2, score, class
    return head[:, :4], np.where(np.rint(head[:, 5]) == (person or 0), head[:, 4], 0)


def _detr_heads(outputs: Outputs) -> tuple[np.ndarray, np.ndarray] | None:
    """Return boxes ``[1, Q, 4]`` and logits ``[1, Q, C]``, found by their names."""
    boxes = [v for k, v in outputs.items() if v.ndim == 3 and v.shape[2] == 4 and ("box" in k or "det" in k)]
    logits = [v for k, v in outputs.items() if v.ndim == 3 and ("logit" in k or "label" in k)]
    if not boxes or not logits or boxes[0].shape[1] != logits[0].shape[1]:
        return None
    return boxes[0], logits[0]


def _detr(outputs: Outputs, size: tuple[int, int], person: int | None) -> Decoded:
    heads = _detr_heads(outputs)
    if heads is None:
        raise ValueError("no boxes with logits")
    logits = _class_scores(heads[1][0], person).astype(np.float64)
    return _corners(heads[0][0].astype(np.float32)) * _scale(size), 1 / (1 + np.exp(-np.clip(logits, -60, 60)))


def _detr_sizes(outputs: Outputs, size: tuple[int, int], person: int | None) -> Decoded:
    # The graph multiplies by the sizes it is given. Files in circulation disagree on whether those are (width,
    # height) or (height, width), so the detector gives (1, 1) and the scaling happens here.
    corners = outputs["boxes"][0].astype(np.float32) * _scale(size)
    return corners, np.where(outputs["labels"][0] == (person or 0), outputs["scores"][0], 0).astype(np.float32)


def _mmdet(outputs: Outputs, size: tuple[int, int], person: int | None) -> Decoded:
    boxes = next(v for v in outputs.values() if v.ndim == 3 and v.shape[2] == 5)[0].astype(np.float32)
    labels = next(v for v in outputs.values() if v.ndim == 2)[0]
    return boxes[:, :4], np.where(labels == (person or 0), boxes[:, 4], 0)


def _scale(size: tuple[int, int]) -> np.ndarray:
    height, width = size
    return np.array([width, height, width, height], dtype=np.float32)


_ZERO, _ONE, _255 = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (255.0, 255.0, 255.0)
_MEAN_BGR, _STD_BGR = IMAGENET_MEAN[::-1], IMAGENET_STD[::-1]

# PIL and torchvision, which DETRs are trained with, smooth when they shrink an image; RF-DETR and YOLOs do not
_AREA, _LINEAR = cv2.INTER_AREA, cv2.INTER_LINEAR

LAYOUTS = {
    "yolox": Layout("[1, cells, 5 + C]", "corner", True, _ZERO, _ONE, _LINEAR, True, _yolox),
    "yolov5": Layout("[1, 3 x cells, 5 + C]", "centre", False, _ZERO, _255, _LINEAR, True, _yolov5),
    "yolov8": Layout("[1, 4 + C, cells]", "centre", False, _ZERO, _255, _LINEAR, True, _yolov8),
    "yolo-end2end": Layout("[1, N, 6]", "centre", False, _ZERO, _255, _LINEAR, False, _yolo_end2end),
    "rt-detr": Layout("logits [1, Q, C] and pred_boxes [1, Q, 4]", "stretch", False, _ZERO, _255, _AREA, False, _detr),
    "rf-detr": Layout(
        "dets [1, Q, 4] and labels [1, Q, C]", "stretch", False, IMAGENET_MEAN, IMAGENET_STD, _LINEAR, False, _detr
    ),
    "rt-detr-sizes": Layout(
        "labels, boxes, scores and an input of sizes", "stretch", False, _ZERO, _255, _AREA, False, _detr_sizes
    ),
    "mmdet": Layout("dets [1, N, 5] and labels [1, N]", "corner", True, _MEAN_BGR, _STD_BGR, _LINEAR, False, _mmdet),
    "mmdet-yolox": Layout("dets [1, N, 5] and labels [1, N]", "corner", True, _ZERO, _ONE, _LINEAR, False, _mmdet),
}
