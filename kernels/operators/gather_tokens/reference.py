"""The copies of tokens in plain PyTorch."""

from __future__ import annotations

from torch import Tensor


def gather_tokens_reference(pool: Tensor, slots: Tensor) -> Tensor:
    """Return the rows of a pool ``[S, N]`` that the slots ``[R]`` name, ``[R, N]``."""
    return pool[slots.long()]


def scatter_tokens_reference(rows: Tensor, slots: Tensor, pool: Tensor) -> Tensor:
    """Return a copy of a pool ``[S, N]`` with rows ``[R, N]`` in the slots ``[R]``, which are all different."""
    return pool.index_copy(0, slots.long(), rows)
