"""Person detection with a network in an ONNX file, run by ONNX Runtime.

The layouts are in ``onnx_layouts``, what tells them apart in ``onnx_recognition``.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdtc.core.errors import InputError, require
from sdtc.runtime.people.detection.detector import Detections, check_frame, make_detections, suppress
from sdtc.runtime.people.detection.onnx_layouts import LAYOUTS, Decoded, check_values, prepare
from sdtc.runtime.people.detection.onnx_recognition import BOX_TASKS, MARKS, Metadata, recognise

_DTYPES = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32,
}  # fmt: skip
_NOT_OF_LAYOUT = (ValueError, IndexError, KeyError, StopIteration)  # what decoders raise
_IMAGE_TYPES = ("tensor(float)", "tensor(float16)", "tensor(uint8)")


class OnnxDetector:
    """A detection network; its layout is recognised from names and shapes of inputs and outputs, and its metadata.

    The network is run once on a blank frame when it is loaded: that gives the shapes of dynamic outputs, and a
    file that does not fit is refused here and not in the middle of a video. Several threads may call `detect`.

    Args:
        path: the ONNX file.
        layout: a name from ``onnx_layouts.LAYOUTS``, for files that are not recognised; None to recognise it.
        score_threshold: boxes below are dropped, 0-1.
        nms_iou: of two boxes that overlap by more, the worse one is dropped; for layouts that need it.
        person_class: the class number of people. None takes it from the class names that Ultralytics and RF-DETR
            write into the file; without names it is 1 for 91 classes (COCO's own numbering, with a gap at 0), else 0.
        input_size: (H, W) for graphs with a dynamic input size; multiples of 32.
        providers: of ONNX Runtime, in order of preference.
        threads: CPU threads of one inference; 0 leaves the number to ONNX Runtime.

    Attributes:
        layout: name of the layout in use.
        size: (H, W) of the network's input.

    Raises:
        InputError: the file is missing, is not ONNX, cannot run, or matches no layout or several, or it names its
            classes and none is a person.
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        layout: str | None = None,
        score_threshold: float = 0.3,
        nms_iou: float = 0.6,
        person_class: int | None = None,
        input_size: tuple[int, int] = (640, 640),
        providers: Sequence[str] = ("CPUExecutionProvider",),
        threads: int = 0,
    ) -> None:
        if layout is not None and layout not in LAYOUTS:
            raise InputError(f"unknown detector layout '{layout}': expected one of {', '.join(LAYOUTS)}")
        self.path = Path(path)
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self._session = _open(self.path, providers, threads)
        self._read_inputs(input_size)
        metadata = Metadata.read(self._session.get_modelmeta().custom_metadata_map)
        self._person = self._choose_person(metadata) if person_class is None else person_class
        outputs = self._run(np.zeros(self._shape, dtype=self._dtype))
        self.layout = layout or self._recognise(outputs, metadata)
        try:
            self._decode(outputs)
        except _NOT_OF_LAYOUT as error:
            raise InputError(
                f"'{self.path}' does not fit the detector layout {self.layout} ({LAYOUTS[self.layout].shapes}): "
                f"{error or 'an output is missing'}; it has {_describe(outputs)}"
            ) from None

    def detect(self, frame: np.ndarray) -> Detections:
        """Find people.

        Args:
            frame: uint8 ``[H, W, 3]``, RGB.

        Raises:
            InputError: the frame is not such an image, or the network's values are not of its layout.
        """
        check_frame(frame)
        layout = LAYOUTS[self.layout]
        image, placement = prepare(frame, layout, self.size, self._dtype, self._channels_last)
        try:
            corners, scores = self._decode(self._run(image))
        except _NOT_OF_LAYOUT as error:
            raise InputError(
                f"'{self.path}' does not answer as a detector of the layout {self.layout} does: {error}; say which "
                f"layout it has with `detector_layout`, one of {', '.join(LAYOUTS)}"
            ) from None
        likely = scores >= self.score_threshold
        corners, scores = placement.to_frame(corners[likely]), scores[likely]
        if layout.overlaps:
            keep = suppress(corners, scores, self.nms_iou)
            corners, scores = corners[keep], scores[keep]
        return make_detections(corners, scores, frame.shape[:2])

    def _decode(self, outputs: dict[str, np.ndarray]) -> Decoded:
        """Return corners and scores; raises one of `_NOT_OF_LAYOUT`."""
        corners, scores = LAYOUTS[self.layout].decode(outputs, self.size, self._person)
        check_values(corners, scores, self.size, self.score_threshold)
        return corners, scores

    def _run(self, image: np.ndarray) -> dict[str, np.ndarray]:
        feeds = {self._image_name: image, **self._constants}
        try:
            values = self._session.run(None, feeds)
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise InputError(f"'{self.path}' does not run as a person detector: {_first_line(error)}") from error
        return dict(zip((output.name for output in self._session.get_outputs()), values, strict=True))

    def _read_inputs(self, input_size: tuple[int, int]) -> None:
        """Find the image input, its size, type and axis order, and the constant values for other inputs."""
        inputs = self._session.get_inputs()
        images = [i for i in inputs if len(i.shape) == 4 and i.type in _IMAGE_TYPES and 3 in (i.shape[1], i.shape[3])]
        sizes = [i for i in inputs if len(i.shape) == 2 and i.shape[1] == 2 and i.type in _DTYPES]
        batch_fixed = any(isinstance(i.shape[0], int) and i.shape[0] != 1 for i in inputs if i.shape)
        if len(images) != 1 or len(images) + len(sizes) != len(inputs) or len(sizes) > 1 or batch_fixed:
            found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
            raise InputError(
                f"'{self.path}' is not a person detector: expected one image input [1, 3, H, W] or [1, H, W, 3] of "
                f"float32, float16 or uint8, and at most one more for the frame's size [1, 2]; its inputs are {found}"
            )
        image = images[0]
        self._image_name = image.name
        self._dtype = np.dtype(_DTYPES[image.type])
        self._channels_last = image.shape[1] != 3
        axes = image.shape[1:3] if self._channels_last else image.shape[2:4]
        height, width = (
            given if isinstance(given, int) else wanted for given, wanted in zip(axes, input_size, strict=True)
        )
        self.size = (height, width)
        self._shape = (1, height, width, 3) if self._channels_last else (1, 3, height, width)
        # (1, 1), so that boxes come out in 0-1: see _detr_sizes in onnx_layouts
        self._constants = {i.name: np.ones((1, 2), dtype=_DTYPES[i.type]) for i in sizes}
        self._sizes_input = bool(sizes)

    def _choose_person(self, metadata: Metadata) -> int | None:
        try:
            return metadata.find_person()
        except ValueError as error:
            raise InputError(
                f"'{self.path}' is not a person detector: {error}; if one of them is people, give its number with "
                "`person_class`"
            ) from None

    def _recognise(self, outputs: dict[str, np.ndarray], metadata: Metadata) -> str:
        if metadata.task and metadata.task not in BOX_TASKS:
            raise InputError(
                f"'{self.path}' is a network for the task '{metadata.task}', which gives no upright boxes: export one "
                f"for {', '.join(BOX_TASKS)}"
            )
        names = recognise(outputs, self.size, self._sizes_input, _marks(self.path), metadata)
        if len(names) == 1:
            return names[0]
        seen = f"for an input of {self.size[0]} x {self.size[1]} its outputs are {_describe(outputs)}"
        if names:
            fits = "; ".join(f"{name}: {LAYOUTS[name].shapes}" for name in names)
            raise InputError(
                f"'{self.path}' may be of {len(names)} detector layouts: {seen}; say which with `detector_layout`, as "
                f"its documentation has it: {fits}"
            )
        known = "; ".join(f"{each_name}: {each.shapes}" for each_name, each in LAYOUTS.items())
        raise InputError(f"'{self.path}' is of no known detector layout: {seen}; known are {known}")


def _open(path: Path, providers: Sequence[str], threads: int) -> Any:
    if not path.is_file():
        raise InputError(f"there is no detector file '{path}'")
    onnxruntime = require("onnxruntime", "cpu", "the ONNX person detector")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only: exporters leave many harmless warnings
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # ONNX Runtime's errors share no base class
        raise InputError(f"'{path}' is not an ONNX file that ONNX Runtime can load: {_first_line(error)}") from error


def _marks(path: Path) -> set[bytes]:
    """Return which of `MARKS` a file contains."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return {mark for mark in MARKS if content.find(mark) >= 0}


def _describe(outputs: dict[str, np.ndarray]) -> str:
    return ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in outputs.items())


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
