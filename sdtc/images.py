"""Reading one image file. NumPy and OpenCV only."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def read_image(path: Path) -> np.ndarray | None:
    """Return an image file as uint8 ``[H, W, 3]`` RGB, or None if it is missing or broken."""
    try:
        data = np.fromfile(path, dtype=np.uint8)  # cv2.imread cannot open every path on every system
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    except (OSError, cv2.error):
        return None
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
