"""Reading image files. NumPy and OpenCV only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

MAX_SIDE = 32_767  # OpenCV's warping takes no larger images


def read_image(path: Path) -> np.ndarray | None:
    """Return an image file as uint8 ``[H, W, 3]`` RGB, or None if it is missing, broken or too large."""
    try:
        data = np.fromfile(path, dtype=np.uint8)  # cv2.imread cannot open every path on every system
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    except (OSError, cv2.error):
        return None
    if image is None or max(image.shape) > MAX_SIDE:
        return None
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


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
