"""The spatial encoding of tokens (paper, section 2); the temporal one is a learnable parameter of the network."""

from __future__ import annotations

import torch
from torch import Tensor


def spatial_encoding(grid: tuple[int, int], width: int) -> Tensor:
    """Fixed 2D sine-cosine encoding, as in MAE and ViT: half of the channels for the row, half for the column.

    Args:
        grid: (h, w) in tokens.
        width: C, a multiple of 4.

    Returns:
        ``[h*w, C]``, row by row.
    """
    h, w = grid
    rows = _sine_cosine(torch.arange(h), width // 2)  # [h, C/2]
    columns = _sine_cosine(torch.arange(w), width // 2)  # [w, C/2]
    return torch.cat([rows.repeat_interleave(w, 0), columns.repeat(h, 1)], dim=1)


def _sine_cosine(positions: Tensor, width: int) -> Tensor:
    frequencies = 10_000.0 ** (-torch.arange(width // 2) / (width / 2))  # [width/2]
    angles = positions[:, None] * frequencies  # [n, width/2]
    return torch.cat([angles.sin(), angles.cos()], dim=1)
