"""Detection: every ONNX layout must put a box on the right pixels, found in the pixels that the network is given.

The networks here are small graphs that look for a rectangle of one colour, given in the units that the layout's own
project documents, and return its extent in that layout's coordinates. So a wrong channel order, normalisation,
letterbox or decoding moves the box or loses it.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sdtc.core.errors import InputError, MissingExtraError
from sdtc.runtime.people.detection import Detections, HogDetector, OnnxDetector, make_detector
from sdtc.runtime.people.detection.detector import check_detections, check_detector, make_detections, suppress
from sdtc.runtime.people.detection.onnx_layouts import LAYOUTS, prepare
from sdtc.runtime.people.detection.onnx_recognition import MARKS, Metadata, recognise

COLOUR = (220, 120, 30)  # RGB of the rectangle
SIZE = (256, 320)  # (H, W) of the networks' inputs
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, RGB, 0-1

# What the rectangle looks like to a network of each project.
BGR_255 = [30.0, 120.0, 220.0]
RGB_1 = [220 / 255, 120 / 255, 30 / 255]
RGB_IMAGENET = [(c / 255 - m) / s for c, m, s in zip(COLOUR, MEAN, STD, strict=True)]
BGR_IMAGENET = RGB_IMAGENET[::-1]
LOOKS = {
    "yolox": BGR_255, "yolox-decoded": BGR_255, "yolov5": RGB_1, "yolov6": RGB_1, "yolov8": RGB_1,
    "yolov5-turned": RGB_1, "yolov8-turned": RGB_1, "yolo-end2end": RGB_1, "yolo-end2end-pose": RGB_1,
    "yolo-end2end-masks": RGB_1, "yolov7-end2end": RGB_1, "rt-detr": RGB_1, "rt-detr-ultralytics": RGB_1,
    "rt-detr-end2end": RGB_1, "rf-detr": RGB_IMAGENET, "rt-detr-sizes": RGB_1, "mmdet": BGR_IMAGENET,
    "mmdet-yolox": BGR_255,
}  # fmt: skip
NAMES = {  # variants that one layout covers
    "yolox-decoded": "yolox", "yolov6": "yolov5", "yolov5-turned": "yolov5", "yolov8-turned": "yolov8",
    "yolo-end2end-pose": "yolo-end2end", "yolo-end2end-masks": "yolo-end2end",
}  # fmt: skip
THREE = {"names": "{0: 'person', 1: 'dog', 2: 'cat'}"}
METADATA = {  # what Ultralytics writes, where shapes alone do not tell
    "yolov8-turned": THREE | {"task": "detect", "description": "Ultralytics YOLOv8n model trained on coco.yaml"},
    "yolo-end2end-pose": THREE | {"task": "pose", "kpt_shape": "[17, 3]"},
    "rt-detr-ultralytics": THREE | {"task": "detect", "description": "Ultralytics rt-detr-l model"},
    "rt-detr-end2end": THREE | {"task": "detect", "head": "RTDETRDecoder"},
}


class Graph:
    """A little writer of ONNX graphs."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def const(self, value: object, dtype: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def rows(self, *values: str) -> str:
        """Scalars ``[1]`` side by side: ``[len(values)]``."""
        return self.op("Concat", *values, axis=0)


def write_network(
    path: Path,
    layout: str,
    dtype: int = TensorProto.FLOAT,
    dynamic: bool = False,
    channels_last: bool = False,
    look: list[float] | None = None,
    classes: int = 3,
    person: int = 0,
    metadata: dict[str, str] | None = None,
    batch: int | str = 1,
) -> Path:
    """Write a network of a layout that finds the rectangle, twice, and something else with a higher score."""
    g, (height, width) = Graph(), SIZE
    look = look or LOOKS[layout]
    # tolerance: 6 of 255 levels in the units of the look
    tolerance = 6.0 if max(look) > 20 else 6 / 255 / (0.23 if min(look) < 0 else 1.0)
    image = g.op("Cast", "images", to=TensorProto.FLOAT)
    if channels_last:
        image = g.op("Transpose", image, perm=[0, 3, 1, 2])
    difference = g.op("Abs", g.op("Sub", image, g.const(np.reshape(look, (1, 3, 1, 1)))))
    worst = g.op("ReduceMax", difference, axes=[0, 1], keepdims=0)  # [H, W]
    found = g.op("Cast", g.op("Less", worst, g.const(tolerance)), to=TensorProto.FLOAT)
    present = g.op("Unsqueeze", g.op("ReduceMax", found, keepdims=0), g.const([0], np.int64))  # [1]

    def extent(axis: int) -> tuple[str, str]:
        line = g.op("ReduceMax", found, axes=[1 - axis], keepdims=0)
        first = g.op("Cast", g.op("ArgMax", line, axis=0, keepdims=1), to=TensorProto.FLOAT)
        last = g.op("Cast", g.op("ArgMax", line, axis=0, keepdims=1, select_last_index=1), to=TensorProto.FLOAT)
        return first, g.op("Add", last, g.const([1.0]))

    (y1, y2), (x1, x2) = extent(0), extent(1)
    w, h = g.op("Sub", x2, x1), g.op("Sub", y2, y1)
    cx = g.op("Mul", g.op("Add", x1, x2), g.const([0.5]))
    cy = g.op("Mul", g.op("Add", y1, y2), g.const([0.5]))
    score, weaker = g.op("Mul", present, g.const([0.9])), g.op("Mul", present, g.const([0.8]))
    zero, one, decoy = g.const([0.0]), g.const([1.0]), g.const([0.95])
    other = (person + 1) % classes

    def class_row(value: str, index: int, empty: str) -> list[str]:
        return [value if c == index else empty for c in range(classes)]

    def scaled(values: tuple[str, str, str, str]) -> list[str]:
        return [g.op("Div", v, g.const([float(n)])) for v, n in zip(values, (width, height) * 2, strict=True)]

    def table(rows: list[list[str]], before: int = 0, after: int = 0, filler: list[float] | None = None) -> str:
        filler = filler or [0.0] * len(rows[0])
        parts = [g.op("Unsqueeze", g.rows(*row), g.const([0], np.int64)) for row in rows]
        whole = [g.const(np.tile(filler, (before, 1)))] if before else []
        whole += parts
        whole += [g.const(np.tile(filler, (after, 1)))] if after else []
        return g.op("Unsqueeze", g.op("Concat", *whole, axis=0), g.const([0], np.int64))  # [1, N, columns]

    cells = sum((height // s) * (width // s) for s in (8, 16, 32))
    outputs: dict[str, str] = {}
    if layout in ("yolox", "yolox-decoded", "yolov6", "yolov5", "yolov5-turned"):
        total = cells * 3 if layout.startswith("yolov5") else cells
        if layout == "yolox":  # the rectangle in the last cell of stride 32, its double in the first of stride 8
            column, row = width // 32 - 1, height // 32 - 1
            far = [
                g.op("Sub", g.op("Div", cx, g.const([32.0])), g.const([float(column)])),
                g.op("Sub", g.op("Div", cy, g.const([32.0])), g.const([float(row)])),
                g.op("Log", g.op("Div", w, g.const([32.0]))),
                g.op("Log", g.op("Div", h, g.const([32.0]))),
            ]
            near = [g.op("Div", v, g.const([8.0])) for v in (cx, cy)]
            near += [g.op("Log", g.op("Div", v, g.const([8.0]))) for v in (w, h)]
            filler = None
        else:
            far = near = [cx, cy, w, h]
            filler = [16.0, 16.0, 32.0, 32.0] + [0.0] * (1 + classes)  # decoded boxes have sizes in pixels everywhere
        # objectness x class: 1 x 0.9, and the double 0.8 x 1
        first = [*near, weaker, *class_row(one, person, zero)]
        decoy_row = [g.const([40.0]), g.const([40.0]), g.const([3.0]), g.const([3.0]), one]
        decoy_row += class_row(decoy, other, zero)
        last = [*far, one, *class_row(score, person, zero)]
        middle = table([first, decoy_row], after=total - 3, filler=filler)
        head = g.op("Concat", middle, table([last]), axis=1)
        if layout.endswith("turned"):
            head = g.op("Transpose", head, perm=[0, 2, 1])
        outputs[{"yolox": "output", "yolox-decoded": "output", "yolov6": "outputs"}.get(layout, "output0")] = head
    elif layout.startswith("yolov8"):
        rows = [[cx, cy, w, h, *class_row(value, person, zero)] for value in (score, weaker)]
        rows.append([cx, cy, w, h, *class_row(decoy, other, zero)])
        head = table(rows, before=7, after=cells - 10)
        outputs["output0"] = head if layout.endswith("turned") else g.op("Transpose", head, perm=[0, 2, 1])
    elif layout.startswith("yolo-end2end"):
        extra = [g.const([77.0])] * {"yolo-end2end-pose": 51, "yolo-end2end-masks": 32}.get(layout, 0)
        rows = [[x1, y1, x2, y2, score, g.const([float(person)]), *extra]]
        rows.append([zero, zero, w, h, decoy, g.const([float(other)]), *extra])
        outputs["output0"] = table(rows, after=298)
        if layout.endswith("masks"):
            outputs["output1"] = g.const(np.zeros((1, 32, height // 4, width // 4)))
    elif layout == "yolov7-end2end":
        rows = [[zero, x1, y1, x2, y2, g.const([float(person)]), score]]
        rows.append([zero, zero, zero, w, h, g.const([float(other)]), decoy])
        outputs["output"] = g.op("Squeeze", table(rows), g.const([0], np.int64))
    elif layout == "rt-detr-end2end":
        rows = [[*scaled((cx, cy, w, h)), score, g.const([float(person)])]]
        rows.append([*[g.const([0.5])] * 4, decoy, g.const([float(other)])])
        outputs["output0"] = table(rows, after=298)
    elif layout == "rt-detr-ultralytics":
        rows = [[*scaled((cx, cy, w, h)), *class_row(score, person, zero)]]
        rows.append([*[g.const([0.5])] * 4, *class_row(decoy, other, zero)])
        outputs["output0"] = table(rows, after=298)
    elif layout in ("rt-detr", "rf-detr"):
        low = g.const([-20.0])
        logit = g.op("Sub", g.op("Mul", present, g.const([20.0 + math.log(9)])), g.const([20.0]))  # sigmoid: 0.9
        boxes = table([scaled((cx, cy, w, h)), [g.const([0.5])] * 4], after=3)
        logits = table([class_row(logit, person, low), class_row(g.const([3.0]), other, low)], 0, 3, [-20.0] * classes)
        names = ("logits", "pred_boxes") if layout == "rt-detr" else ("labels", "dets")
        outputs.update(dict(sorted(zip(names, (logits, boxes), strict=True))))
    elif layout == "rt-detr-sizes":
        sizes = g.op("Cast", g.op("Concat", "orig_target_sizes", "orig_target_sizes", axis=1), to=TensorProto.FLOAT)
        boxes = table([scaled((x1, y1, x2, y2)), [zero, zero, one, one]])
        outputs["labels"] = g.const([[person, other]], np.int64)
        outputs["boxes"] = g.op("Mul", boxes, g.op("Unsqueeze", sizes, g.const([1], np.int64)))
        outputs["scores"] = g.op("Unsqueeze", g.rows(score, decoy), g.const([0], np.int64))
    else:
        outputs["dets"] = table([[x1, y1, x2, y2, score], [zero, zero, w, h, decoy]])
        outputs["labels"] = g.const([[person, other]], np.int64)

    nodes = list(g.nodes)
    float_type = TensorProto.FLOAT16 if dtype == TensorProto.FLOAT16 else TensorProto.FLOAT
    infos = []
    for name, value in outputs.items():
        if name == "labels" and "logits" not in outputs and layout != "rf-detr":
            nodes.append(helper.make_node("Identity", [value], [name]))
            infos.append(helper.make_tensor_value_info(name, TensorProto.INT64, None))
        else:
            nodes.append(helper.make_node("Cast", [value], [name], to=float_type))
            infos.append(helper.make_tensor_value_info(name, float_type, None))
    sides: list[int | str] = ["height", "width"] if dynamic else [height, width]
    shape = [batch, *sides, 3] if channels_last else [batch, 3, *sides]
    inputs = [helper.make_tensor_value_info("images", dtype, shape)]
    if layout == "rt-detr-sizes":
        inputs.append(helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, [batch, 2]))
    constants = list(g.constants)
    if layout == "mmdet-yolox":  # a weight's name is what tells mmdetection's YOLOX from its RTMDet
        constants.append(numpy_helper.from_array(np.zeros(1, np.float32), "bbox_head.multi_level_conv_obj.0.bias"))
    graph = helper.make_graph(nodes, "detector", inputs, infos, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    metadata = metadata or METADATA.get(layout)
    if metadata:
        helper.set_model_props(model, metadata)
    onnx.save(model, str(path))
    return path


def frame_with(box: tuple[int, int, int, int], size: tuple[int, int]) -> np.ndarray:
    """A grey frame with one rectangle (x, y, width, height) in it."""
    frame = np.full((*size, 3), 70, dtype=np.uint8)
    x, y, width, height = box
    frame[y : y + height, x : x + width] = COLOUR
    return frame


def assert_lands(boxes: np.ndarray, expected: tuple[int, int, int, int]) -> None:
    """One box, every edge within a pixel (a blurred edge pixel is not the colour that the networks look for)."""
    assert len(boxes) == 1
    edges, wanted = boxes[0].copy(), np.array(expected)
    edges[2:] += edges[:2]
    wanted[2:] += wanted[:2]
    np.testing.assert_allclose(edges, wanted, rtol=0, atol=1)


# Frames wider and narrower than the input, smaller (enlarged: an input pixel is less than a pixel of the frame)
# and of exactly twice its size (reduced without blur at even coordinates).
FRAMES = {
    "wide": ((120, 250), (31, 22, 40, 77)),
    "tall": ((230, 110), (51, 103, 37, 90)),
    "large": ((400, 640), (422, 36, 120, 300)),
}


@pytest.mark.parametrize("shape", FRAMES)
@pytest.mark.parametrize("layout", LOOKS)
def test_box_lands_on_its_pixels(layout: str, shape: str, tmp_path: Path) -> None:
    detector = OnnxDetector(write_network(tmp_path / "net.onnx", layout))
    assert detector.layout == NAMES.get(layout, layout)
    size, box = FRAMES[shape]
    found = detector.detect(frame_with(box, size))
    assert found.boxes.dtype == np.float32
    assert found.scores.dtype == np.float32
    assert len(found) == 1, "the double must be suppressed, the other class and empty rows dropped"
    assert_lands(found.boxes, box)
    assert found.scores[0] == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize(
    ("layouts", "rows"),
    [
        ("yolox mmdet mmdet-yolox", (0, 160)),
        ("yolov5 yolov8 yolo-end2end yolov7-end2end", (48, 208)),
        ("rt-detr rt-detr-ultralytics rt-detr-end2end rf-detr rt-detr-sizes", (0, 256)),
    ],
)
def test_frames_are_fitted_as_in_training(layouts: str, rows: tuple[int, int]) -> None:
    # networks tolerate a frame in another place, and lose a little accuracy: only the pixels themselves show it
    for layout in layouts.split():
        frame = np.full((50, 100, 3), 200, np.uint8)
        image, placement = prepare(frame, LAYOUTS[layout], SIZE, np.dtype(np.uint8))
        expected = np.full((1, 3, *SIZE), 114, np.uint8)
        expected[:, :, rows[0] : rows[1]] = 200
        np.testing.assert_array_equal(image, expected)
        corners = placement.to_frame(np.array([[0, rows[0], 320, rows[1]]]))
        np.testing.assert_allclose(corners, [[0, 0, 100, 50]])


@pytest.mark.parametrize("layout", LOOKS)
def test_empty_frame_has_no_people(layout: str, tmp_path: Path) -> None:
    found = OnnxDetector(write_network(tmp_path / "net.onnx", layout)).detect(np.full((90, 160, 3), 70, np.uint8))
    assert found.boxes.shape == (0, 4)
    assert found.scores.shape == (0,)


@pytest.mark.parametrize("layout", ["yolox", "yolov8", "rt-detr", "rt-detr-sizes"])
@pytest.mark.parametrize("kind", ["float16", "dynamic", "channels-last"])
def test_inputs_of_other_types_and_shapes(layout: str, kind: str, tmp_path: Path) -> None:
    path = write_network(
        tmp_path / "net.onnx",
        layout,
        dtype=TensorProto.FLOAT16 if kind == "float16" else TensorProto.FLOAT,
        dynamic=kind == "dynamic",
        channels_last=kind == "channels-last",
        batch="N" if kind == "dynamic" else 1,
    )
    detector = OnnxDetector(path, input_size=SIZE if kind == "dynamic" else (64, 64))
    assert detector.size == SIZE
    size, box = FRAMES["wide"]
    assert_lands(detector.detect(frame_with(box, size)).boxes, box)


@pytest.mark.parametrize(("layout", "look"), [("yolox", BGR_255), ("yolov8", [float(c) for c in COLOUR])])
def test_uint8_input_gets_pixel_values(layout: str, look: list[float], tmp_path: Path) -> None:
    path = write_network(tmp_path / "net.onnx", layout, dtype=TensorProto.UINT8, look=look)
    size, box = FRAMES["wide"]
    assert_lands(OnnxDetector(path).detect(frame_with(box, size)).boxes, box)


@pytest.mark.parametrize(
    ("options", "arguments", "finds"),
    [
        ({"classes": 91, "person": 1}, {}, True),  # COCO's own numbering
        ({"classes": 80, "person": 0}, {}, True),
        ({"classes": 3, "person": 2}, {}, False),
        ({"classes": 3, "person": 2}, {"person_class": 2}, True),
        ({"classes": 3, "person": 2, "metadata": {"names": "{0: 'cat', 1: 'dog', 2: 'person'}"}}, {}, True),
        ({"classes": 3, "person": 1, "metadata": {"names": "['cat', 'Person', 'dog']"}}, {}, True),
        ({"classes": 3, "person": 0, "metadata": {"names": "not a list"}}, {}, True),
        ({"classes": 3, "person": 0, "metadata": {"names": "{0: '0', 1: 'class1', 2: 'class_2'}"}}, {}, True),
        ({"classes": 366, "person": 1}, {}, True),  # Objects365's own numbering
        (
            {"classes": 3, "person": 2, "metadata": {"rfdetr_inference": '{"class_id_to_name": {"2": "person"}}'}},
            {},
            True,
        ),
    ],
)
def test_person_class(options: dict, arguments: dict, finds: bool, tmp_path: Path) -> None:
    detector = OnnxDetector(write_network(tmp_path / "net.onnx", "rf-detr", **options), **arguments)
    size, box = FRAMES["wide"]
    boxes = detector.detect(frame_with(box, size)).boxes
    if finds:
        assert_lands(boxes, box)
    else:  # under a wrong number it is the other class, elsewhere in the frame
        assert len(boxes) == 0 or np.abs(boxes[0] - box).max() > 10


def test_classes_without_people_are_refused(tmp_path: Path) -> None:
    path = write_network(tmp_path / "net.onnx", "yolov8", metadata={"names": "{0: 'cat', 1: 'dog', 2: 'hat'}"})
    with pytest.raises(InputError, match=r"its 3 classes are cat, dog, hat, and none is a person; .* `person_class`"):
        OnnxDetector(path)
    assert len(OnnxDetector(path, person_class=0).detect(frame_with((31, 22, 40, 77), (120, 250)))) == 1


def test_score_threshold(tmp_path: Path) -> None:
    path = write_network(tmp_path / "net.onnx", "yolov8")
    size, box = FRAMES["wide"]
    assert len(OnnxDetector(path, score_threshold=0.85).detect(frame_with(box, size))) == 1
    assert len(OnnxDetector(path, score_threshold=0.95).detect(frame_with(box, size))) == 0


def test_without_suppression_the_double_stays(tmp_path: Path) -> None:
    detector = OnnxDetector(write_network(tmp_path / "net.onnx", "yolov8"), nms_iou=1.0)
    size, box = FRAMES["wide"]
    assert detector.detect(frame_with(box, size)).scores.tolist() == pytest.approx([0.9, 0.8])


def test_layout_can_be_forced(tmp_path: Path) -> None:
    path = write_network(tmp_path / "net.onnx", "rt-detr", look=RGB_IMAGENET)
    size, box = FRAMES["tall"]
    assert len(OnnxDetector(path).detect(frame_with(box, size))) == 0
    assert_lands(OnnxDetector(path, layout="rf-detr").detect(frame_with(box, size)).boxes, box)


def write_outputs(
    path: Path,
    outputs: dict[str, list[int]],
    inputs: dict[str, list[int | str]] | None = None,
    metadata: dict[str, str] | None = None,
    weights: Sequence[str] = (),
) -> Path:
    """Write a network of zeros."""
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.zeros(shape, np.float32)))
        for name, shape in outputs.items()
    ]
    given = inputs or {"images": [1, 3, *SIZE]}
    graph = helper.make_graph(
        nodes,
        "zeros",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in given.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.zeros(1, np.float32), name) for name in weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, str(path))
    return path


def test_unknown_outputs_are_listed(tmp_path: Path) -> None:
    path = write_outputs(tmp_path / "net.onnx", {"heat": [1, 17, 64, 48], "offsets": [1, 300, 84]})
    with pytest.raises(InputError, match=r"heat float32 \[1, 17, 64, 48\], offsets .*yolox: .*mmdet"):
        OnnxDetector(path)


CELLS = 40 * 32 + 20 * 16 + 10 * 8  # of `SIZE`
COCO = {"names": str({n: "person" if n == 0 else f"thing{chr(65 + n % 26)}" for n in range(80)})}
DETECT, RT_DETR = {"task": "detect"}, {"task": "detect", "description": "Ultralytics RT-DETR-L model"}
YOLO = {"task": "detect", "description": "Ultralytics YOLOv10n model"}
TWO = {"names": "{0: 'person', 1: 'dog'}"}


@pytest.mark.parametrize(
    ("outputs", "metadata", "layout"),
    [
        ({"output0": [1, CELLS, 84]}, {}, "yolov8"),
        ({"output0": [1, CELLS, 84]}, COCO | DETECT, "yolov8"),
        ({"output": [1, CELLS, 84]}, COCO, "yolov8"),
        ({"output0": [1, CELLS, 5]}, {}, "yolov8"),
        ({"output0": [1, CELLS, 56]}, {"names": "{0: 'person'}", "task": "pose"}, "yolov8"),
        ({"output0": [1, 84, CELLS]}, {}, "yolov8"),
        ({"output0": [1, 116, CELLS], "output1": [1, 32, 64, 80]}, COCO | {"task": "segment"}, "yolov8"),
        ({"output": [1, CELLS, 85]}, {}, "yolox"),
        ({"output": [1, CELLS, 6]}, {}, "yolox"),
        ({"outputs": [1, CELLS, 85]}, {}, "yolov5"),
        ({"output0": [1, 3 * CELLS, 85]}, COCO, "yolov5"),
        ({"output0": [1, 85, 3 * CELLS]}, {}, "yolov5"),
        ({"output0": [1, 300, 84]}, COCO | RT_DETR, "rt-detr-ultralytics"),
        ({"output0": [1, 300, 84]}, {}, "rt-detr-ultralytics"),
        ({"output0": [1, 300, 6]}, COCO | RT_DETR, "rt-detr-end2end"),
        ({"output0": [1, 300, 6]}, TWO | YOLO, "yolo-end2end"),
        ({"output0": [1, 300, 6]}, COCO, "yolo-end2end"),
        ({"output0": [1, 300, 6]}, {}, "yolo-end2end"),
        ({"output0": [1, 300, 57]}, {}, "yolo-end2end"),
        ({"output0": [1, 300, 21]}, {"names": "{0: 'person'}", "task": "pose", "kpt_shape": "[5, 3]"}, "yolo-end2end"),
        ({"output0": [1, 300, 38], "output1": [1, 32, 64, 80]}, {}, "yolo-end2end"),
        ({"output": [9, 7]}, {}, "yolov7-end2end"),
        ({"output": [0, 7]}, {}, "yolov7-end2end"),
    ],
    ids=str,
)
def test_layouts_are_told_apart(outputs: dict, metadata: dict, layout: str, tmp_path: Path) -> None:
    assert OnnxDetector(write_outputs(tmp_path / "net.onnx", outputs, metadata=metadata)).layout == layout


@pytest.mark.parametrize(
    ("outputs", "metadata", "layouts"),
    [
        ({"output": [1, CELLS, 84]}, {}, "yolox yolov8"),
        ({"output0": [1, CELLS, 85]}, {}, "yolox yolov5"),
        ({"output0": [1, CELLS, 20]}, {}, "yolox yolov5 yolov8"),
        ({"output0": [1, 85, CELLS]}, {}, "yolov8 yolox yolov5"),
        ({"output0": [1, 300, 20]}, {}, "rt-detr-ultralytics yolo-end2end"),
        ({"output0": [1, 300, 6]}, TWO, "rt-detr-ultralytics yolo-end2end"),
        ({"output0": [1, 300, 6]}, TWO | RT_DETR, "rt-detr-ultralytics rt-detr-end2end"),
    ],
    ids=str,
)
def test_several_layouts_are_an_error_that_names_them(
    outputs: dict, metadata: dict, layouts: str, tmp_path: Path
) -> None:
    path = write_outputs(tmp_path / "net.onnx", outputs, metadata=metadata)
    names = layouts.split()
    listed = "; ".join(f"{name}: {LAYOUTS[name].shapes}" for name in names)
    with pytest.raises(InputError, match=f"may be of {len(names)} detector layouts: .*`detector_layout`") as error:
        OnnxDetector(path)
    assert str(error.value).endswith(listed)
    if layouts != "yolov8 yolox yolov5":  # 80 classes are not there to choose from in a network of zeros
        assert [OnnxDetector(path, layout=name).layout for name in names] == names


@pytest.mark.parametrize("shape", [[1, CELLS + 40, 112], [1, CELLS + 40, 85]], ids=str)
def test_heads_of_four_strides_are_not_yolox(shape: list[int], tmp_path: Path) -> None:
    """NanoDet-Plus calls its output as YOLOX does: 80 class scores, and 32 numbers for the sides of a box."""
    with pytest.raises(InputError, match="may be of"):
        OnnxDetector(write_outputs(tmp_path / "net.onnx", {"output": shape}, {"images": [1, 3, 256, 320]}))


@pytest.mark.parametrize(
    ("outputs", "metadata", "sentence"),
    [
        ({"scores": [1, CELLS, 80], "boxes": [1, CELLS, 4]}, {}, "of no known detector layout"),  # DAMO-YOLO
        ({"boxes": [1, CELLS, 4], "scores": [1, CELLS, 80]}, {}, "of no known detector layout"),  # YOLO-NAS
        ({"graph2_flat_predictions": [5, 7]}, {}, "of no known detector layout"),  # YOLO-NAS
        ({"logits": [1, 100, 92], "pred_boxes": [1, 100, 4]}, {}, "of no known detector layout"),  # DETR: softmax
        ({"boxes": [5, 4], "labels": [5], "scores": [5]}, {}, "of no known detector layout"),  # torchvision
        ({"output0": [1, 20, CELLS]}, {"task": "obb"}, "is a network for the task 'obb', which gives no upright boxes"),
        ({"output0": [1, 300, 7]}, {"task": "obb"}, "export one for detect, segment, pose"),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_refused(outputs: dict, metadata: dict, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=sentence):
        OnnxDetector(write_outputs(tmp_path / "net.onnx", outputs, metadata=metadata))


def test_shapes_that_do_not_belong_together(tmp_path: Path) -> None:
    inputs: dict[str, list[int | str]] = {"images": [1, 3, *SIZE], "orig_target_sizes": [1, 2]}
    for boxes in ([1], [1, 5], [1, 5, 3], [1, 4, 4]):
        path = write_outputs(tmp_path / "net.onnx", {"labels": [1, 5], "boxes": boxes, "scores": [1, 5]}, inputs)
        with pytest.raises(InputError, match="does not fit the detector layout rt-detr-sizes"):
            OnnxDetector(path)


def test_weights_tell_yolox_from_yolov6(tmp_path: Path) -> None:
    for mark, layout in (("head.obj_preds.0.bias", "yolox"), ("detect.reg_preds.0.bias", "yolov5")):
        path = write_outputs(tmp_path / "net.onnx", {"predictions": [1, CELLS, 85]}, weights=[mark])
        assert OnnxDetector(path).layout == layout


def row(*values: float) -> np.ndarray:
    return np.array([values], np.float32)


@pytest.mark.parametrize(
    ("layout", "values", "sentence"),
    [
        (
            "yolov8",
            np.tile(row(50, 50, 20, 40, 4.2), (CELLS, 1)).T,
            "its scores reach from 4.2 to 4.2, not from 0 to 1",
        ),
        ("yolov8", np.tile(row(50, 50, 20, 40, -3), (CELLS, 1)).T, "its scores reach from -3 to -3"),
        ("yolov8", np.tile(row(50, 50, 20, 40, np.nan), (CELLS, 1)).T, "some of its scores are not finite"),
        ("yolov8", np.tile(row(50, np.inf, 20, 40, 0.9), (CELLS, 1)).T, "some of its boxes are not finite"),
        ("yolov8", np.tile(row(50, 50, -20, 40, 0.9), (CELLS, 1)).T, "some of its boxes have negative sides"),
        ("yolov8", np.tile(row(0.5, 0.5, 0.2, 0.4, 0.9), (CELLS, 1)).T, "its boxes are in fractions of the image"),
        ("yolox", np.tile(row(50, 50, 20, 40, 7, 0.9), (CELLS, 1)), "its objectness scores reach from 7 to 7"),
        ("yolov5", np.tile(row(50, 50, 20, 40, 0.1, 7), (3 * CELLS, 1)), "its class scores reach from 7 to 7"),
        ("yolo-end2end", row(9, 9, 50, 90, 0.9, 0.4), "its classes are no whole numbers"),
        ("yolo-end2end", row(9, 9, 50, 90, 0.9, np.nan), "its classes are no whole numbers"),
        ("yolo-end2end", row(50, 90, 9, 9, 0.9, 0), "negative sides"),
        ("rt-detr-ultralytics", row(150, 90, 20, 40, 0.9), "its boxes reach 51,200 pixels, the image has 320"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_that_are_not_of_the_layout_are_told(
    layout: str, values: np.ndarray, sentence: str, tmp_path: Path
) -> None:
    """A wrong layout finds nobody, which must not look like an empty room."""
    path = write_values(tmp_path / "net.onnx", values)
    detector = OnnxDetector(path, layout=layout)  # a blank frame shows nothing
    with pytest.raises(InputError, match=f"{sentence}.*; say which layout it has with `detector_layout`, one of yolox"):
        detector.detect(np.full((40, 50, 3), 200, np.uint8))


def write_values(path: Path, values: np.ndarray) -> Path:
    """Write a network that gives these values for frames that are not black, else zeros."""
    shown = numpy_helper.from_array(values[None].astype(np.float32), "values")
    nothing = numpy_helper.from_array(np.zeros_like(values)[None].astype(np.float32), "nothing")
    nodes = [
        helper.make_node("ReduceMax", ["images"], ["brightest"], keepdims=0),
        helper.make_node("Greater", ["brightest", "zero"], ["seen"]),
        helper.make_node("Where", ["seen", "values", "nothing"], ["output0"]),
    ]
    graph = helper.make_graph(
        nodes,
        "values",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *SIZE])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, None)],
        [shown, nothing, numpy_helper.from_array(np.zeros((), np.float32), "zero")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def test_raw_yolo_feature_maps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="of no known detector layout"):
        OnnxDetector(write_outputs(tmp_path / "net.onnx", {"p3": [1, 255, 32, 40], "p4": [1, 255, 16, 20]}))


def test_forced_layout_that_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not fit the detector layout yolov8"):
        OnnxDetector(write_network(tmp_path / "net.onnx", "yolov5"), layout="yolov8")
    with pytest.raises(InputError, match="person class 7 of 3 classes"):
        OnnxDetector(write_network(tmp_path / "net.onnx", "yolov8"), person_class=7)
    with pytest.raises(InputError, match="unknown detector layout 'ssd': expected one of yolox"):
        OnnxDetector(tmp_path / "net.onnx", layout="ssd")


@pytest.mark.parametrize(
    "inputs",
    [
        {"images": [8, 3, *SIZE]},
        {"images": [1, 1, *SIZE]},
        {"images": [1, 3, *SIZE], "depth": [1, 3, *SIZE]},
        {"images": [1, 3, *SIZE], "pixel_mask": [1, 64, 64]},
    ],
    ids=["batch-8", "grey", "two-images", "pixel-mask"],
)
def test_unsuitable_inputs(inputs: dict, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected one image input"):
        OnnxDetector(write_outputs(tmp_path / "net.onnx", {"output0": [1, 300, 6]}, inputs))


def test_files_that_are_no_networks(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no detector file"):
        make_detector(str(tmp_path / "absent.onnx"))
    (tmp_path / "text.onnx").write_text("not a network")
    with pytest.raises(InputError, match="not an ONNX file"):
        make_detector(str(tmp_path / "text.onnx"))
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(InputError, match=r"empty\.onnx"):
        make_detector(str(tmp_path / "empty.onnx"))


def test_missing_onnxruntime_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"sdtc\[cpu\]"):
        OnnxDetector(write_network(tmp_path / "net.onnx", "yolov8"))


@pytest.mark.parametrize("spec", ["yolov8", "model.plan", "", "HOG "])
def test_make_detector_names_the_choices(spec: str) -> None:
    with pytest.raises(InputError, match=r"'hog'.*\.onnx"):
        make_detector(spec)


def test_make_detector(tmp_path: Path) -> None:
    assert isinstance(make_detector("hog", score_threshold=0.6), HogDetector)
    path = write_network(tmp_path / "NET.ONNX", "yolox")
    assert isinstance(make_detector(str(path), score_threshold=0.6), OnnxDetector)


@pytest.mark.parametrize(
    "frame",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3))],
)
def test_frames_that_are_no_frames(frame: np.ndarray, tmp_path: Path) -> None:
    onnx_detector = OnnxDetector(write_network(tmp_path / "net.onnx", "yolox"))
    for detect in (HogDetector().detect, onnx_detector.detect):
        with pytest.raises(InputError, match="uint8"):
            detect(frame)


def test_make_detections_clips_sorts_and_drops() -> None:
    corners = np.array([[-10, -10, 20, 20], [90, 40, 130, 70], [120, 0, 140, 20], [5, 5, 5, 9], [0, 0, np.nan, 9]])
    found = make_detections(corners, np.array([0.3, 0.7, 0.9, 0.8, 0.9]), (60, 100))
    assert found.boxes.tolist() == [[90, 40, 10, 20], [0, 0, 20, 20]]
    assert found.scores.tolist() == pytest.approx([0.7, 0.3])


class Tensor:
    """Looks like a tensor: an array for NumPy, or none on a GPU."""

    def __init__(self, values: object, on_gpu: bool = False) -> None:
        self.values, self.on_gpu = values, on_gpu

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        if self.on_gpu:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return np.array(self.values, dtype)


ONE, GOOD = [[5, 6, 50, 90]], [0.5]


@pytest.mark.parametrize(
    "found",
    [
        Detections(ONE, GOOD),  # type: ignore[arg-type]
        Detections(np.array(ONE), np.array(GOOD, np.float64)),
        Detections(np.array(ONE, np.uint8), np.array(GOOD, np.float16)),
        Detections(np.array(ONE * 2)[::2], np.array(GOOD)),
        (np.array(ONE), np.array(GOOD)),
        (ONE, GOOD),
        Detections(Tensor(ONE), Tensor(GOOD)),  # type: ignore[arg-type]
        ([*ONE, [5, 5, 0, 0], [5, 5, 9, 0], [100, 5, 9, 9], [5, -9, 9, 9]], [0.5, 0.9, 0.9, 0.9, 0.9]),
    ],
    ids=["lists", "ints", "small", "strided", "tuple", "tuple-of-lists", "tensors", "nothing-to-see"],
)
def test_what_detectors_return(found: object) -> None:
    checked = check_detections(found, (60, 100))
    assert checked.boxes.tolist() == ONE
    assert checked.scores.tolist() == GOOD
    assert (checked.boxes.dtype, checked.scores.dtype) == (np.float32, np.float32)


@pytest.mark.parametrize(
    "found",
    [
        ([], []),
        Detections(np.zeros(0), np.zeros(0)),
        (np.zeros((0, 4)), np.zeros(0)),
        (np.zeros((0, 5)), np.zeros((0, 1))),
    ],
    ids=["lists", "flat", "arrays", "columns"],
)
def test_nobody_in_any_shape(found: object) -> None:
    checked = check_detections(found, (60, 100))
    assert (checked.boxes.shape, checked.scores.shape) == ((0, 4), (0,))


def test_what_a_detector_returned_is_copied() -> None:
    boxes = np.array(ONE, np.float32)
    checked = check_detections(Detections(boxes, np.array(GOOD, np.float32)), (60, 100))
    boxes[:] = 0
    assert checked.boxes.tolist() == ONE


def test_scores_a_little_above_one_are_one() -> None:
    assert check_detections((ONE, [1.0005]), (60, 100)).scores.tolist() == [1]


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (None, r"returned NoneType: expected Detections\(boxes, scores\), with no boxes where nobody is"),
        ([], "returned list: expected Detections"),
        (np.array(ONE), "returned ndarray: expected Detections"),
        ((ONE, GOOD, [0]), "returned tuple: expected Detections"),
        ((ONE, None), "returned scores of type NoneType that NumPy cannot read as numbers: expected arrays or lists"),
        ((ONE, ["0.5"]), "returned scores of type list that NumPy cannot read"),
        (([[1, 2, 3], [1, 2, 3, 4]], GOOD), "returned boxes of type list that NumPy cannot read"),
        ((Tensor(ONE, on_gpu=True), GOOD), "returned boxes of type Tensor that NumPy cannot read"),
        ((ONE[0], GOOD), r"returned boxes \[4\] and scores \[1\]: expected \[N, 4\] and \[N\]"),
        (([[5, 6, 50, 90, 0.5]], GOOD), r"returned boxes \[1, 5\] and scores \[1\]"),
        ((ONE, [0.5, 0.4]), r"returned boxes \[1, 4\] and scores \[2\]"),
        ((ONE, [GOOD]), r"returned boxes \[1, 4\] and scores \[1, 1\]"),
        ((ONE, []), r"returned boxes \[1, 4\] and scores \[0\]"),
        (([], GOOD), r"returned boxes \[0\] and scores \[1\]"),
        ((0, []), r"returned boxes \[\] and scores \[0\]"),
        (([ONE[0], [5, np.nan, 9, 9]], GOOD * 2), r"returned the box \[5.0, nan, 9.0, 9.0\]: expected x, y, width"),
        (([[5, np.inf, 9, 9]], GOOD), "returned the box"),
        (([[5, 2e6, 9, 9]], GOOD), "returned the box"),
        (([[5, 5, -9, 9]], GOOD), r"returned the box \[5.0, 5.0, -9.0, 9.0\]: expected .* no negative side"),
        ((ONE, [87]), "returned the score 87: expected scores from 0 to 1"),
        ((ONE, [-0.1]), "returned the score -0.1"),
        ((ONE, [np.nan]), "returned the score nan"),
    ],
)
def test_what_detectors_must_not_return(found: object, sentence: str) -> None:
    with pytest.raises(InputError, match=rf"the detector's detect\(frame\) {sentence}"):
        check_detections(found, (60, 100))


values = st.one_of(st.none(), st.integers(), st.floats(), st.text(max_size=2), st.booleans(), st.complex_numbers())
things = st.recursive(
    values, lambda inner: st.one_of(st.lists(inner, max_size=4), st.tuples(inner, inner)), max_leaves=10
)
rows = st.lists(st.lists(st.one_of(st.floats(), st.integers(-10, 300)), min_size=4, max_size=4), max_size=4)
arrays = st.one_of(things, rows, rows.map(np.array), st.lists(st.floats(-0.1, 1.2), max_size=4))


@pytest.mark.slow
@given(st.one_of(things, st.tuples(arrays, arrays), st.builds(Detections, arrays, arrays)))
@settings(max_examples=1000)
def test_whatever_a_detector_returns_is_usable_or_a_sentence(found: object) -> None:
    try:
        checked = check_detections(found, (60, 100))
    except InputError:
        return
    assert checked.boxes.shape == (len(checked), 4)
    assert np.isfinite(checked.boxes).all()
    assert (checked.boxes[:, 2:] >= 0).all()
    assert ((checked.scores >= 0) & (checked.scores <= 1)).all()


entries = st.dictionaries(
    st.sampled_from(["names", "task", "kpt_shape", "head", "description", "rfdetr_inference"]),
    st.one_of(
        st.text(max_size=20),
        st.sampled_from(["{}", "[['a']]", "{'x': 1}", "{0: 5}", "{(): 1}", "(1,)", "[-1]", "[" * 200, "9" * 5000]),
        st.sampled_from(["[17, 3]", "{0: 'person'}", "detect", "pose", "segment", "RT-DETR", "['cat', 'dog']"]),
        st.sampled_from(['{"class_id_to_name": 5}', '{"class_id_to_name": {"²": "a"}}', "[]", "5"]),
    ),
    max_size=4,
)
shapes = st.lists(st.sampled_from([0, 1, 2, 4, 5, 6, 7, 20, 57, 84, 85, 91, 92, 300, CELLS, 3 * CELLS]), max_size=3)
output_names = st.sampled_from(
    ["output", "output0", "outputs", "logits", "pred_boxes", "dets", "labels", "boxes", "scores"]
)


@pytest.mark.slow
@example({}, {"output": [1, 0], "output0": [1, 1, 5]}, False, set())  # labels of another number than boxes
@given(
    entries,
    st.dictionaries(output_names, shapes, min_size=1, max_size=3),
    st.booleans(),
    st.sets(st.sampled_from(MARKS)),
)
@settings(max_examples=1000)
def test_whatever_a_file_says_is_recognised_or_not(
    about: dict[str, str], outputs: dict[str, list[int]], sizes_input: bool, marks: set[bytes]
) -> None:
    metadata = Metadata.read(about)
    with contextlib.suppress(ValueError):
        metadata.find_person()
    zeros = {name: np.broadcast_to(np.float32(0), shape) for name, shape in outputs.items()}
    names = recognise(zeros, SIZE, sizes_input, marks, metadata)
    assert len(set(names)) == len(names)
    assert set(names) <= set(LAYOUTS)
    for name in names:
        with contextlib.suppress(ValueError, IndexError, KeyError, StopIteration):
            corners, scores = LAYOUTS[name].decode(zeros, SIZE, 0)
            assert corners.shape == (len(scores), 4)


@pytest.mark.parametrize(("detector", "what"), [(HogDetector, "the class HogDetector"), (5, "of type int")], ids=str)
def test_what_is_no_detector(detector: object, what: str) -> None:
    with pytest.raises(InputError, match=rf"`detector` is {what}: expected 'hog', .* a method detect\(frame\)"):
        check_detector(detector)


def check_threads(detect: Callable[[np.ndarray], Detections], frames: list[np.ndarray], rounds: int) -> None:
    """Six threads get for each frame, in an order of their own, what one alone gets."""
    want = [detect(frame) for frame in frames]
    assert len({len(each) for each in want}) > 1  # else a mistaken frame would not show
    interval = sys.getswitchinterval()

    def work(seed: int) -> int:
        order = np.random.default_rng(seed).permutation(np.tile(np.arange(len(frames)), rounds))
        found = [(n, detect(frames[n])) for n in order]
        return sum(
            not np.array_equal(each.boxes, want[n].boxes) or not np.array_equal(each.scores, want[n].scores)
            for n, each in found
        )

    try:
        sys.setswitchinterval(1e-5)
        with ThreadPoolExecutor(6) as pool:
            assert list(pool.map(work, range(6))) == [0] * 6
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("layout", ["yolox", "yolov8", "rt-detr-sizes"])
def test_a_network_answers_several_threads(layout: str, tmp_path: Path) -> None:
    detector = OnnxDetector(write_network(tmp_path / "net.onnx", layout), threads=1)
    frames = [frame_with((10 + 20 * n, 22, 40, 30 + 4 * n), (120 + n, 250)) for n in range(6)]
    check_threads(detector.detect, [*frames, np.full((90, 160, 3), 70, np.uint8)], 5)


@pytest.mark.slow
def test_hog_answers_several_threads(real_data: Path) -> None:
    frames = read_frames(real_data / "videos/one-by-one.mp4", range(0, 360, 30))
    check_threads(HogDetector().detect, frames[::4] + frames[-2:], 2)


def naive_suppress(corners: np.ndarray, scores: np.ndarray, max_iou: float, max_cover: float) -> list[int]:
    keep: list[int] = []

    def rivals(a: np.ndarray, b: np.ndarray) -> bool:
        overlap = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
        areas = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
        return overlap > max_iou * (sum(areas) - overlap) or overlap > max_cover * min(areas)

    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        if not any(rivals(corners[i], corners[k]) for k in keep):
            keep.append(i)
    return keep


integer_box = st.tuples(*[st.integers(0, 20)] * 2, *[st.integers(1, 15)] * 2)


@pytest.mark.slow
@given(st.lists(st.tuples(integer_box, st.integers(0, 100)), max_size=12), st.sampled_from([0.3, 0.5, 1.0]))
def test_suppression_equals_its_definition(boxes: list, max_cover: float) -> None:
    corners = np.array([[x, y, x + w, y + h] for (x, y, w, h), _ in boxes], dtype=np.float64).reshape(-1, 4)
    scores = np.array([score for _, score in boxes], dtype=np.float64)
    assert suppress(corners, scores, 0.45, max_cover).tolist() == naive_suppress(corners, scores, 0.45, max_cover)


@pytest.mark.parametrize("size", [(1, 1), (40, 50), (90, 2000), (2000, 90), (130, 70)])
def test_hog_takes_frames_of_any_size(size: tuple[int, int], rng: np.random.Generator) -> None:
    frame = rng.integers(0, 255, (*size, 3), dtype=np.uint8)
    found = HogDetector().detect(frame)
    assert found.boxes.shape == (len(found), 4)
    assert (found.boxes >= 0).all()
    assert (found.boxes[:, :2] + found.boxes[:, 2:] <= [size[1], size[0]]).all()


def test_hog_without_hog(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "HOGDescriptor")
    with pytest.raises(InputError, match=r"opencv-python<5.*`detector='MODEL\.onnx'`"):
        make_detector("hog")


@pytest.mark.parametrize("options", [{"long_side": 64}, {"score_threshold": 0.0}, {"score_threshold": 1.0}])
def test_hog_arguments_out_of_range(options: dict) -> None:
    with pytest.raises(InputError, match="the HOG detector needs"):
        HogDetector(**options)


def read_frames(path: Path, wanted: range) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    frames = []
    for i in range(wanted.stop):
        more, frame = capture.read()
        assert more
        if i in wanted:
            frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    return frames


def overlap(box: np.ndarray, other: tuple[float, float, float, float]) -> float:
    """IoU of two (x, y, width, height)."""
    sides = np.minimum(box[:2] + box[2:], np.add(other[:2], other[2:])) - np.maximum(box[:2], other[:2])
    shared = float(np.prod(np.clip(sides, 0, None)))
    return shared / (float(np.prod(box[2:])) + other[2] * other[3] - shared)


@pytest.fixture
def hog() -> Callable[[np.ndarray], object]:
    return HogDetector().detect


@pytest.mark.slow
def test_hog_finds_nobody_in_an_empty_room(real_data: Path, hog: Callable) -> None:
    frames = read_frames(real_data / "videos/one-by-one.mp4", range(0, 60, 6))
    assert [len(hog(frame)) for frame in frames] == [0] * len(frames)


@pytest.mark.slow
def test_hog_finds_the_man_at_the_table(real_data: Path, hog: Callable) -> None:
    # frames 290-439: one man stands still from y = 2 to 384, measured against the empty room
    frames = read_frames(real_data / "videos/one-by-one.mp4", range(300, 430, 13))
    found = [hog(frame) for frame in frames]
    assert [len(each) for each in found] == [1] * len(frames)
    assert min(overlap(each.boxes[0], (392, 2, 160, 384)) for each in found) > 0.5
    assert min(each.scores[0] for each in found) > 0.5


@pytest.mark.slow
def test_hog_in_a_street(real_data: Path, hog: Callable) -> None:
    # five frames, four people near the camera, many far away that it cannot see
    frames = read_frames(real_data / "videos/street-5-frames.mp4", range(5))
    counts = [len(hog(frame)) for frame in frames]
    assert min(counts) >= 3
    assert max(counts) <= 6
