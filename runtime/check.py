"""Checks of what callers of the Python API pass: wrong types, shapes and values become sentences, not wrong poses."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdtc.core.annotation_file import MAX_PIXELS
from sdtc.core.errors import InputError
from sdtc.core.image_file import MAX_SIDE


def check_whole(name: str, value: Any, least: int) -> None:
    """Raise InputError unless an argument is None or a whole number of at least `least`."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InputError(f"`{name}` is {_shown(value)}: expected a whole number, at least {least}")
    if value < least:
        raise InputError(f"`{name}` is {value}: expected at least {least}")


def check_number(name: str, value: Any, least: float, most: float, meaning: str) -> None:
    """Raise InputError unless an argument is None or a number in a range; `meaning` is the end of the sentence."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not least <= float(value) <= most:
        raise InputError(f"`{name}` is {_shown(value)}: expected {meaning}")


def check_type(name: str, value: Any, expected: type) -> None:
    """Raise InputError unless an argument is of a type."""
    if not isinstance(value, expected):
        raise InputError(f"`{name}` is of type {type(value).__name__}: expected {expected.__name__}")


def check_flag(name: str, value: Any) -> None:
    """Raise InputError unless an argument is True or False: the text ``"no"`` would count as true."""
    if not isinstance(value, bool | np.bool_):
        raise InputError(f"`{name}` is {_shown(value)}: expected True or False")


def check_path(name: str, value: Any) -> None:
    """Raise InputError unless an argument is the text or object of a path."""
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise InputError(f"`{name}` is {_shown(value)}: expected a path")


def check_images(images: Any, count: int, on_device: bool) -> list[Any]:
    """Check the frames of a window.

    Args:
        images: what the caller gave.
        count: T.
        on_device: whether frames may be on a GPU.

    Returns:
        The frames, uint8 ``[H, W, 3]`` each; those on a GPU are only counted.

    Raises:
        InputError: they are not that.
    """
    if not isinstance(images, Sequence | np.ndarray) or isinstance(images, str | bytes):
        raise InputError(f"`images` is {_shown(images)}: expected a list of {count} frames, uint8 [H, W, 3]")
    if isinstance(images, np.ndarray) and images.ndim != 4:
        raise InputError(
            f"`images` is one array {_described(images)}: expected a list of {count} frames, uint8 [H, W, 3], or an "
            f"array [{count}, H, W, 3]"
        )
    if len(images) != count:
        plural = "s" if len(images) != 1 else ""
        raise InputError(
            f"`images` holds {len(images)} frame{plural}: expected {count}, the keyframe in the middle; at the ends of "
            "a video repeat the first or the last"
        )
    frames = list(images)  # of an array, each view is made once: frames are told apart by identity
    for number, frame in enumerate(frames):
        if hasattr(frame, "__cuda_array_interface__"):
            if not on_device:
                raise InputError(
                    f"frame {number} of `images` is on a GPU, where this engine does not run entirely: copy it to the "
                    "host first"
                )
            continue
        if not isinstance(frame, np.ndarray):
            why = "was its file read?" if frame is None else "numpy.asarray makes an array of many types"
            raise InputError(f"frame {number} of `images` is {_shown(frame)}: expected uint8 [H, W, 3] RGB; {why}")
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise InputError(f"frame {number} of `images` is {_described(frame)}: expected uint8 [H, W, 3] RGB")
        if max(frame.shape) > MAX_SIDE:
            raise InputError(
                f"frame {number} of `images` is {_described(frame)}: expected sides of at most {MAX_SIDE:,} pixels"
            )
    shapes = [frame.shape for frame in frames if isinstance(frame, np.ndarray)]
    for number, shape in enumerate(shapes):
        if shape != shapes[len(shapes) // 2]:
            raise InputError(
                f"frame {number} of `images` is {_size(shape)} pixels, the keyframe {_size(shapes[len(shapes) // 2])}: "
                "expected frames of one size; replace such frames by the keyframe"
            )
    return frames


def check_boxes(boxes: Any, image: Any) -> np.ndarray:
    """Check person boxes.

    Args:
        boxes: what the caller gave.
        image: the keyframe, checked.

    Returns:
        float64 ``[P, 4]``.

    Raises:
        InputError: not ``[P, 4]``, not finite, without area, or outside the frame.
    """
    try:
        array = np.asarray(boxes)
        if array.dtype.kind not in "iufO":
            raise TypeError
        array = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"`boxes` is {_shown(boxes)}: expected numbers [P, 4]: x, y, width, height") from None
    if array.size == 0 and array.ndim <= 2:
        return np.zeros((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        hint = "; for one person, [[x, y, width, height]]" if array.shape == (4,) else ""
        raise InputError(f"`boxes` has the shape {list(array.shape)}: expected [P, 4]: x, y, width, height{hint}")
    if isinstance(image, np.ndarray):
        height, width = image.shape[:2]
    else:
        height, width = image.__cuda_array_interface__["shape"][:2]
    x, y, w, h = array.T
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(array).all(1) & (np.abs(array) <= MAX_PIXELS).all(1) & (w > 0) & (h > 0)
        inside = (x < width) & (y < height) & (x + w > 0) & (y + h > 0)
    for number in np.flatnonzero(~(usable & inside))[:1]:
        why = (
            f"expected a box that overlaps the {width}x{height} frame"
            if usable[number]
            else f"expected x, y, width, height, finite and at most {MAX_PIXELS:,.0f} pixels, with an area"
        )
        raise InputError(f"box {number} of `boxes` is {np.round(array[number], 3).tolist()}: {why}")
    return array


def _shown(value: Any) -> str:
    """Describe a value in few words."""
    if isinstance(value, np.ndarray):
        return f"an array {_described(value)}"
    if value is None or isinstance(value, bool | int | float | str):
        return f"{value!r:.60}"
    return f"a {type(value).__name__}"


def _described(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]}x{shape[0]}"
