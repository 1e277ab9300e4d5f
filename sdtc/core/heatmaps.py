"""Heatmap decoding in NumPy: the reference. `sdtc.model.decoding` computes the same inside the graph."""

from __future__ import annotations

import numpy as np


def decode_heatmaps(heatmaps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Find each keypoint: arg max, then a quarter of a pixel toward the higher neighbour on each axis.

    At the border of the heatmap, where a neighbour is missing, that axis is not refined.

    Args:
        heatmaps: ``[..., J, h, w]``.
        size: (H, W) of the crop that the heatmaps describe.

    Returns:
        float32 ``[..., J, 3]``: x, y in crop pixels, and the score, the heatmap's maximum clipped to 0-1.
    """
    heatmaps = np.asarray(heatmaps, dtype=np.float32)
    *lead, h, w = heatmaps.shape
    flat = heatmaps.reshape(-1, h, w)
    rows = np.arange(len(flat))
    y, x = np.divmod(flat.reshape(len(flat), h * w).argmax(axis=1), w)
    score = flat[rows, y, x]

    right, left = flat[rows, y, np.minimum(x + 1, w - 1)], flat[rows, y, np.maximum(x - 1, 0)]
    below, above = flat[rows, np.minimum(y + 1, h - 1), x], flat[rows, np.maximum(y - 1, 0), x]
    x_refined = x + 0.25 * np.sign(right - left) * ((x > 0) & (x < w - 1))
    y_refined = y + 0.25 * np.sign(below - above) * ((y > 0) & (y < h - 1))

    height, width = size
    keypoints = np.stack(
        [x_refined * ((width - 1) / (w - 1)), y_refined * ((height - 1) / (h - 1)), np.clip(score, 0.0, 1.0)], axis=-1
    )
    return keypoints.reshape(*lead, 3).astype(np.float32)
