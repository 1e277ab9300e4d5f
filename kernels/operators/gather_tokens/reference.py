"""The resampling and the copies of tokens in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor


def resample_tokens(tokens: Tensor, places: Tensor, grid: tuple[int, int]) -> Tensor:
    """Sample maps of tokens, bilinear and with clamped edges, at the places of another grid's tokens.

    Args:
        tokens: ``[N, L, C]``, L = h·w. The result is differentiable in them.
        places: ``[N, 4]``: (x_scale, x_offset, y_scale, y_offset), in tokens; what is no number is taken for 0.
        grid: (h, w).

    Returns:
        ``[N, L, C]``, interpolated in fp32 or finer.
    """
    h, w = grid
    x_scale, x_offset, y_scale, y_offset = places.unbind(1)
    N, L, C = tokens.shape
    maps = tokens.to(torch.promote_types(tokens.dtype, torch.float32)).reshape(N, h, w, C)
    maps = _along(maps, 1, y_scale, y_offset)
    maps = _along(maps, 2, x_scale, x_offset)
    return maps.view(N, L, C).to(tokens.dtype)


def _along(maps: Tensor, axis: int, scale: Tensor, offset: Tensor) -> Tensor:
    """Resample maps ``[N, h, w, C]`` along one axis, by scales and offsets ``[N]``."""
    size = maps.shape[axis]
    at = scale[:, None] * torch.arange(size, device=maps.device) + offset[:, None]  # [N, size]
    at = torch.where(at > 0, at, 0).clamp(max=size - 1)  # not (0 < NaN)
    shape = [len(maps), 1, 1, 1]
    shape[axis] = size
    first = at.long().view(shape)
    weight = (at - at.floor()).to(maps.dtype).view(shape)
    a, b = (maps.take_along_dim(index, axis) for index in (first, (first + 1).clamp(max=size - 1)))
    return torch.where(weight > 0, a + weight * (b - a), a)  # to the bit where the weight is 0


def gather_tokens_reference(pool: Tensor, slots: Tensor, places: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return rows ``[R, L, C]``: those of a pool ``[S, L, C]`` in the slots ``[R]``, at the places ``[R, 4]``."""
    return resample_tokens(pool[slots.long()], places, grid)


def scatter_tokens_reference(rows: Tensor, slots: Tensor, pool: Tensor) -> Tensor:
    """Return a copy of a pool ``[S, L, C]`` with rows ``[R, L, C]`` in the slots ``[R]``, which are all different."""
    return pool.index_copy(0, slots.long(), rows)
