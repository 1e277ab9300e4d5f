"""Heatmap targets: a Gaussian of peak 1 at each joint (paper, sections 5 and 8). NumPy only."""

from __future__ import annotations

import numpy as np

# Heatmap pixels; half a token at every input size, as the head interpolates between tokens and draws nothing sharper.
SIGMA = 2.0


def gaussian_heatmaps(
    keypoints: np.ndarray, size: tuple[int, int], heatmap_size: tuple[int, int], sigma: float = SIGMA
) -> tuple[np.ndarray, np.ndarray]:
    """Render the target heatmaps of a crop.

    The Gaussians are centred at the exact positions of the joints, not at the nearest pixels.

    Args:
        keypoints: ``[..., J, 3]`` (x, y, v), crop pixels.
        size: (H, W) of the crop.
        heatmap_size: (h, w).
        sigma: heatmap pixels.

    Returns:
        Heatmaps float32 ``[..., J, h, w]``, and weights float32 ``[..., J]``: 0 for joints with v = 0.
    """
    (height, width), (h, w) = size, heatmap_size
    x = keypoints[..., 0, None] * ((w - 1) / (width - 1))  # [..., J, 1]
    y = keypoints[..., 1, None] * ((h - 1) / (height - 1))
    weights = (keypoints[..., 2] > 0).astype(np.float32)
    across = np.exp(-((np.arange(w) - x) ** 2) / (2 * sigma**2))  # [..., J, w]
    down = np.exp(-((np.arange(h) - y) ** 2) / (2 * sigma**2))  # [..., J, h]
    heatmaps = down[..., :, None] * across[..., None, :] * weights[..., None, None]
    return heatmaps.astype(np.float32), weights
