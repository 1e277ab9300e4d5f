"""Tokens in and out of a pool of slots: the plain references of `sdtc.kernels.gpu.gather_tokens`."""

from __future__ import annotations

from torch import Tensor


def gather_tokens_reference(pool: Tensor, slots: Tensor) -> Tensor:
    """Return rows ``[R, N]`` of a pool ``[S, N]`` by their slots ``[R]``."""
    return pool[slots.long()]


def scatter_tokens_reference(rows: Tensor, slots: Tensor, pool: Tensor) -> Tensor:
    """Return a pool ``[S, N]`` with rows ``[R, N]`` in the slots ``[R]``, which are all different."""
    return pool.index_copy(0, slots.long(), rows)
