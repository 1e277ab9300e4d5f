"""Heatmap decoding in plain PyTorch: the path that runs everywhere, and what an exported graph contains."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdtc.core.errors import KernelError


def decode_heatmaps_reference(heatmaps: Tensor, size: Sequence[int]) -> Tensor:
    """Find the keypoint of each heatmap; runs on any device.

    Args:
        heatmaps: ``[B, J, h, w]``.
        size: (H, W) of the crop.

    Returns:
        float32 ``[B, J, 3]``: x, y in crop pixels, score 0-1.

    Raises:
        KernelError: the heatmaps are one pixel high or wide, which names no position.
    """
    height, width = size
    h, w = heatmaps.shape[-2:]
    if min(h, w) < 2:
        raise KernelError(f"decode_heatmaps: heatmaps are {h} x {w} pixels: expected at least 2 x 2")
    flat = heatmaps.flatten(2).float()  # [B, J, h*w]
    index = flat.argmax(dim=2, keepdim=True)  # [B, J, 1]
    y = torch.div(index, w, rounding_mode="floor")
    x = index - y * w

    def at(offset_x: int, offset_y: int) -> Tensor:
        neighbour = (y + offset_y).clamp(0, h - 1) * w + (x + offset_x).clamp(0, w - 1)
        return flat.gather(2, neighbour)

    x_inside, y_inside = (x > 0) & (x < w - 1), (y > 0) & (y < h - 1)
    x_refined = x + 0.25 * torch.sign(at(1, 0) - at(-1, 0)) * x_inside
    y_refined = y + 0.25 * torch.sign(at(0, 1) - at(0, -1)) * y_inside
    score = at(0, 0).clamp(0.0, 1.0)
    return torch.cat([x_refined * ((width - 1) / (w - 1)), y_refined * ((height - 1) / (h - 1)), score], dim=2)
