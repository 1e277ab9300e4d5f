"""Person detection: where the people of a frame are, as boxes for the pose network; no tracking, no poses.

In: frames, and the detector that the user names. Out: `Detections`, the boxes and scores of each frame.

:func:`make_detector` returns either OpenCV's HOG people detector, which needs no download, or a detection network
in an ONNX file of one of the usual layouts (:mod:`~sdtc.runtime.people.detection.onnx_layouts`).
"""

from __future__ import annotations

from typing import Any

from sdtc.core.errors import InputError
from sdtc.runtime.people.detection.detector import Detections, Detector
from sdtc.runtime.people.detection.hog import HogDetector
from sdtc.runtime.people.detection.onnx_detector import OnnxDetector

__all__ = ["Detections", "Detector", "HogDetector", "OnnxDetector", "make_detector"]


def make_detector(spec: str, **options: Any) -> Detector:
    """Return the detector that a user names.

    Args:
        spec: ``"hog"``, or the path of a detection network ending in ``.onnx``.
        options: keyword arguments of :class:`HogDetector` or :class:`OnnxDetector`, e.g. ``score_threshold``.

    Raises:
        InputError: the name is neither, or the detector cannot be used (see the two classes).
    """
    if spec == "hog":
        return HogDetector(**options)
    if spec.lower().endswith(".onnx"):
        return OnnxDetector(spec, **options)
    raise InputError(f"unknown detector '{spec}': give 'hog', or the path of a detection network ending in .onnx")
