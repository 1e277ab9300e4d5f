"""Reading one image file. NumPy and OpenCV only."""

from __future__ import annotations

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
