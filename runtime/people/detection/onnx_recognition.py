"""Which layout a detection network in an ONNX file has: from names and shapes, and what its exporter wrote beside them.

Never from values: a blank frame shows nothing. Where several layouts remain, all are returned, and the user has to say
which it is; none is guessed. The layouts themselves are in ``onnx_layouts``.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sdtc.runtime.people.detection.onnx_layouts import SPARSE, STRIDES, Outputs, detr_heads, grid

# Names of weights that exporters keep and that only one project's head has.
MMDET_YOLOX, YOLOX, YOLOV6 = b"multi_level_conv_obj", b"head.obj_preds", b"detect.reg_preds"
MARKS = (MMDET_YOLOX, YOLOX, YOLOV6)

COCO = 80  # classes
NONE_OF_COCO = 92  # classes of DETR and YOLOS, whose softmax has a class for nothing: no layout here
POSE_EXTRA = 51  # numbers of COCO's 17 keypoints, in networks of pose
BOX_TASKS = ("detect", "segment", "pose")
PERSON_NAMES = ("person", "people", "pedestrian", "human")
_NO_NAME = re.compile(r"(class)?_?\d+")  # what exporters write if a network has no class names


@dataclass(frozen=True)
class Metadata:
    """What an exporter wrote into the file: Ultralytics much, YOLOv5 and RF-DETR class names, most others nothing.

    Attributes:
        names: class names by number; empty if there are none.
        task: Ultralytics' task, ``"detect"`` for example; "" if there is none.
        extra: columns behind the classes, where the file says so.
        is_rt_detr: whether it is Ultralytics' RT-DETR; None if the file does not say.
    """

    names: Mapping[int, str]
    task: str
    extra: int | None
    is_rt_detr: bool | None

    @classmethod
    def read(cls, entries: Mapping[str, str]) -> Metadata:
        """Read a file's entries; what cannot be read is as if it were absent."""
        named = _literal(entries.get("names"))
        if named is None:
            named = _rf_detr_names(entries)
        items = named.items() if isinstance(named, dict) else enumerate(named if isinstance(named, list) else [])
        names = {int(i): str(name) for i, name in items if isinstance(i, int) or str(i).isdecimal()}
        if all(_NO_NAME.fullmatch(name) for name in names.values()):
            names = {}
        task, shape = entries.get("task", ""), _literal(entries.get("kpt_shape"))
        extra = 0 if task == "detect" else None
        if task == "pose" and isinstance(shape, list | tuple) and all(type(n) is int for n in shape):
            extra = math.prod(shape)
        about = entries.get("head") or entries.get("description", "")
        is_rt_detr = bool(re.search(r"rt-?detr", about, re.IGNORECASE)) if about else None
        return cls(names, task, extra, is_rt_detr)

    def find_person(self) -> int | None:
        """Return the class number of people; None if the file has no class names.

        Raises:
            ValueError: it has several, and none is that of a person.
        """
        for number, name in self.names.items():
            if name.lower() in PERSON_NAMES:
                return number
        if len(self.names) > 1:
            some = ", ".join(list(self.names.values())[:5]) + (", …" if len(self.names) > 5 else "")
            raise ValueError(f"its {len(self.names)} classes are {some}, and none is a person")
        return next(iter(self.names), None)


def recognise(
    outputs: Outputs, size: tuple[int, int], sizes_input: bool, marks: Collection[bytes], metadata: Metadata
) -> list[str]:
    """Return the names of the layouts that a network may have: one if it is recognised, none if it is unknown.

    Args:
        outputs: of one run, by name, in the graph's order.
        size: (H, W) of the input.
        sizes_input: the graph also takes the size of the frame.
        marks: those of `MARKS` that the file contains.
        metadata: the file's.
    """
    shapes = [array.shape for array in outputs.values()]
    if sizes_input:
        return ["rt-detr-sizes"] if {"labels", "boxes", "scores"} <= set(outputs) else []
    heads = detr_heads(outputs)
    if heads is not None:
        classes = heads[1].shape[2]
        own_exporter = {"dets", "labels"} <= set(outputs)
        return [] if classes == NONE_OF_COCO else ["rf-detr" if own_exporter or classes == 91 else "rt-detr"]
    boxes = next((shape for shape in shapes if len(shape) == 3 and shape[2] == 5), None)
    labels = next((shape for shape in shapes if len(shape) == 2), None)
    if boxes is not None and labels == boxes[:2]:
        return ["mmdet-yolox" if MMDET_YOLOX in marks else "mmdet"]
    (name, shape), others = next((n, a.shape) for n, a in outputs.items()), shapes[1:]
    if len(shape) == 2 and shape[1] == 7 and not others and "flat" not in name:  # YOLO-NAS: flat, another order
        return ["yolov7-end2end"]
    # Boxes in one output and scores in another: YOLO-NAS, DAMO-YOLO and others, which differ in what cannot be seen.
    if len(shape) != 3 or any(len(other) == 3 and other[1] == shape[1] for other in others):
        return []
    if grid(shape[1], size) is not None:
        return _rows_of_cells(name, shape, size, marks, metadata)
    cells = grid(shape[2], size)
    if cells is not None:  # one column for each cell
        return _columns_of_cells(shape[1], cells[1], metadata)
    return _rows_of_boxes(shape[2], others, metadata)


def _rows_of_cells(
    name: str, shape: tuple[int, ...], size: tuple[int, int], marks: Collection[bytes], metadata: Metadata
) -> list[str]:
    """``[1, cells, columns]``: YOLOX and YOLOv6 with objectness, YOLOv5 with three boxes per cell, or YOLOv8 turned."""
    columns, (strides, per_cell) = shape[2], grid(shape[1], size) or (STRIDES[0], 1)
    if per_cell == 3:
        return ["yolov5"] if columns > 5 else []
    if columns < 6:
        return ["yolov8"] if columns == 5 else []
    classes = len(metadata.names)
    if metadata.task or (classes and columns == 4 + classes):
        return ["yolov8"]
    by_name = {"output": "yolox", "outputs": "yolov5"}.get(name)
    if YOLOX in marks or YOLOV6 in marks:
        by_name = "yolox" if YOLOX in marks else "yolov5"
    if by_name == "yolox" and strides != STRIDES[0]:  # NanoDet-Plus has four strides, and an output of this name
        by_name = None
    if classes and columns == 5 + classes:
        return [by_name] if by_name else ["yolox", "yolov5"]
    if columns == 4 + COCO:
        return [by_name, "yolov8"] if by_name else ["yolov8"]
    if by_name:
        return [by_name]
    return ["yolox", "yolov5"] if columns == 5 + COCO else ["yolox", "yolov5", "yolov8"]


def _columns_of_cells(rows: int, per_cell: int, metadata: Metadata) -> list[str]:
    """``[1, rows, cells]``: YOLOv8, or YOLOv5 turned."""
    if per_cell == 3:
        return ["yolov5"] if rows > 5 else []
    if rows == 5 + COCO and not metadata.names:
        return ["yolov8", "yolox", "yolov5"]
    return ["yolov8"] if rows > 4 else []


def _rows_of_boxes(columns: int, others: list[tuple[int, ...]], metadata: Metadata) -> list[str]:
    """``[1, N, columns]``: boxes with a score and a class, or RT-DETR's with a score for each class."""
    classes, extra = len(metadata.names), metadata.extra
    masks = {shape[1] for shape in others if len(shape) == 4}
    if extra is not None:
        chosen = columns == 6 + extra
    else:  # a network of pose or segmentation, or a file that does not say
        chosen = columns == 6 or columns == 6 + POSE_EXTRA or columns - 6 in masks
    if classes:
        scored = columns == 4 + classes
    else:
        scored = columns in (4 + COCO, *(4 + count for count in SPARSE))
        if columns > 6 and not scored and not chosen:
            scored = chosen = True  # either, with some number of classes or of other values
    if scored and chosen and metadata.is_rt_detr is False:
        scored = False
    end2end = "rt-detr-end2end" if metadata.is_rt_detr else "yolo-end2end"
    return ["rt-detr-ultralytics"] * scored + [end2end] * chosen


def _literal(text: str | None) -> Any:
    try:
        return None if text is None else ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return None


def _rf_detr_names(entries: Mapping[str, str]) -> Any:
    try:
        return json.loads(entries["rfdetr_inference"])["class_id_to_name"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return None
