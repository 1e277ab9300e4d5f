"""Reading image files. NumPy and OpenCV only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

MAX_SIDE = 32_767  # OpenCV's warping takes no larger images
# Decoders of PNG and JPEG allocate and fill what the header promises, whatever follows it: a damaged header costs
# seconds and gigabytes. No file is as dense as this: PNG's compression ends at 8,256 pixels of one bit in a byte, and
# JPEG takes at least a bit for a block of 8 x 8.
MAX_PIXELS_PER_BYTE = 10_000
_PNG_SIGNATURE, _JPEG_SIGNATURE = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of the segments that hold the size


def read_image(path: Path) -> np.ndarray | None:
    """Return an image file as uint8 ``[H, W, 3]`` RGB, or None if it is missing, broken or too large."""
    try:
        data = np.fromfile(path, dtype=np.uint8)  # cv2.imread cannot open every path on every system
        if _promised_pixels(data.data) > MAX_PIXELS_PER_BYTE * len(data):
            return None
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    except (OSError, cv2.error):
        return None
    if image is None or max(image.shape) > MAX_SIDE:
        return None
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _promised_pixels(data: memoryview) -> int:
    """Return how many pixels the header of a PNG or JPEG file promises; 0 for other files."""
    if data[:8] == _PNG_SIGNATURE:
        return int.from_bytes(data[16:20], "big") * int.from_bytes(data[20:24], "big")
    at = 2 if data[:2] == _JPEG_SIGNATURE else len(data)
    while data[at : at + 1] == b"\xff" and at + 9 <= len(data):
        if data[at + 1] in _JPEG_FRAMES:
            return int.from_bytes(data[at + 5 : at + 7], "big") * int.from_bytes(data[at + 7 : at + 9], "big")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0


class ImageCache:
    """A cache in front of `read_image`: images are decoded once and kept in memory, at 3 bytes a pixel.

    Args:
        paths: the images to cache; others are read from disk each time.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._images = {path: read_image(path) for path in paths}

    def __call__(self, path: Path) -> np.ndarray | None:
        """Return the image or None, as :func:`read_image`; do not modify it, since it is shared."""
        return self._images[path] if path in self._images else read_image(path)
