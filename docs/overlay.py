"""Draws overlay.png of the README, after `make demo`: a frame of its clip, and what `sdtc-infer` drew over it."""

from pathlib import Path

import cv2
import numpy as np

DEMO = Path(__file__).parents[1] / "runs" / "demo"
FRAME = 50


def frame(video: Path) -> np.ndarray:
    """Return one frame, BGR."""
    reader = cv2.VideoCapture(str(video))
    reader.set(cv2.CAP_PROP_POS_FRAMES, FRAME)
    found, image = reader.read()
    if not found:
        raise SystemExit(f"overlay.py: error: '{video}' has no frame {FRAME}: run  make demo  first")
    return image


pictures = [frame(DEMO / folder / "000007_synthetic.mp4") for folder in ("clip", "poses")]
cv2.imwrite(str(Path(__file__).with_suffix(".png")), np.concatenate(pictures, axis=1))
