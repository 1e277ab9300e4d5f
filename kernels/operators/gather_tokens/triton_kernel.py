"""Tokens in and out of a pool of slots, as Triton kernels: windows out of the pool, the encoder's rows into it.

A row is all of a frame's tokens, L·C values that lie together. Slots are not checked: whoever plans them keeps them
inside the pool.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdtc.core.errors import KernelError
from sdtc.kernels.common.kernel_launch import FLOATS, Launch, check_range, check_tactic, check_tensor, dtype_name

TACTICS = ("gather", "scatter")  # which way, not two ways to the same end
VALUES = 1024  # of a block: two accesses of 16 bytes a thread in fp32, one in half precision
MAX_LENGTH = 1 << 26


@triton.jit
def gather_tokens_block(source, slots, target, LENGTH: tl.constexpr, BLOCK: tl.constexpr, SCATTER: tl.constexpr):
    BLOCKS: tl.constexpr = (LENGTH + BLOCK - 1) // BLOCK
    row = (tl.program_id(0) // BLOCKS).to(tl.int64)
    at = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(slots + row).to(tl.int64)
    if SCATTER:
        source += row * LENGTH
        target += slot * LENGTH
    else:
        source += slot * LENGTH
        target += row * LENGTH
    there = at < LENGTH
    tl.store(target + at, tl.load(source + at, mask=there), mask=there)


def plan(length: int, dtype: str = "fp32", tactic: str = "") -> Launch:
    """Describe the kernel for rows of `length` values; a batch is so many rows.

    Args:
        length: values of a row.
        dtype: of `FLOATS`.
        tactic: ``"gather"`` (the default): ``source[slots]`` to ``target``; ``"scatter"``: ``source`` to
            ``target[slots]``.

    Raises:
        KernelError: the length or the tactic is not one that the kernel takes.
    """
    check_range("gather_tokens", "L * C", length, 1, MAX_LENGTH)
    check_tactic("gather_tokens", tactic, TACTICS)
    return Launch(
        gather_tokens_block,
        {"source": dtype, "slots": "i32"},
        {"target": dtype},
        {"LENGTH": length, "BLOCK": VALUES, "SCATTER": tactic == "scatter"},
        items=(length + VALUES - 1) // VALUES,
    )


def gather(pool: Tensor, slots: Tensor) -> Tensor:
    """Copy rows out of a pool.

    Args:
        pool: ``[S, N]``.
        slots: int32 ``[R]``.

    Returns:
        ``[R, N]``.

    Raises:
        KernelError: dtype, rank or memory layout is not what the kernel takes.
    """
    rows = pool.new_empty((len(slots), *pool.shape[1:]))
    _copy(pool, slots, rows, "gather")
    return rows


def scatter(rows: Tensor, slots: Tensor, pool: Tensor) -> None:
    """Copy rows into a pool, in place.

    Args:
        rows: ``[R, N]``.
        slots: int32 ``[R]``, all different.
        pool: ``[S, N]``.

    Raises:
        KernelError: dtype, rank or memory layout is not what the kernel takes.
    """
    _copy(rows, slots, pool, "scatter")


def _copy(source: Tensor, slots: Tensor, target: Tensor, tactic: str) -> None:
    name = "gather_tokens"
    check_tensor(name, "source", source, "[R, N]")
    check_tensor(name, "slots", slots, "[R]")
    check_tensor(name, "target", target, "[R, N]")
    if slots.dtype != torch.int32:
        raise KernelError(f"{name}: slots are {slots.dtype}: expected torch.int32")
    rows, dtype = target if tactic == "gather" else source, dtype_name(source.dtype, name, FLOATS)
    if len(rows) != len(slots) or source.shape[1] != target.shape[1] or source.dtype != target.dtype:
        raise KernelError(
            f"{name}: {source.dtype} {list(source.shape)} to {target.dtype} {list(target.shape)} by {len(slots)} "
            "slots: expected one dtype, rows of one length, and a slot for each"
        )
    plan(source.shape[1], dtype, tactic).run([source, slots], [target], len(slots))
