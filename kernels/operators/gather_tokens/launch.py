"""The launch of the kernels that gather and scatter tokens. Needs Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from sdtc.core.errors import KernelError
from sdtc.kernels.common.kernel_launch import (
    FLOATS,
    Launch,
    check_range,
    check_tactic,
    check_tensor,
    dtype_name,
    next_power_of_2,
)
from sdtc.kernels.operators.gather_tokens.triton_kernel import gather_tokens_block, scatter_tokens_block

TACTICS = ("gather", "scatter")  # two directions, not two ways to the same result
VALUES = 1024  # of a block: in fp32 two accesses of 16 bytes a thread, in half precision one
MAX_LENGTH = 1 << 26
MAX_SIDE = 4096  # of a grid; places are whole numbers in fp32 far beyond


def configure(grid: tuple[int, int], C: int, dtype: str = "fp32", tactic: str = "") -> Launch:
    """Configure the launch for rows of one size.

    Args:
        grid: (h, w) of a row's tokens.
        C: channels of a token.
        dtype: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        tactic: ``"gather"`` (the default) resamples ``source[slots]`` to ``target``, ``"scatter"`` copies ``source`` to
            ``target[slots]``.

    Returns:
        The launch; its batch is the number of rows.

    Raises:
        KernelError: a size is out of range, or the tactic is unknown.
    """
    h, w = grid
    length = h * w * C
    check_range("gather_tokens", "h", h, 1, MAX_SIDE)
    check_range("gather_tokens", "w", w, 1, MAX_SIDE)
    check_range("gather_tokens", "h * w * C", length, 1, MAX_LENGTH)
    check_tactic("gather_tokens", tactic, TACTICS)
    if tactic == "scatter":
        return Launch(
            scatter_tokens_block,
            {"source": dtype, "slots": "i32"},
            {"target": dtype},
            {"LENGTH": length, "BLOCK": VALUES},
            items=-(-length // VALUES),
        )
    channels = _channels(C)
    tokens = VALUES // channels
    return Launch(
        gather_tokens_block,
        {"source": dtype, "slots": "i32", "places": "fp32"},
        {"target": dtype},
        {"H": h, "W": w, "C": C, "TOKENS": tokens, "CHANNELS": channels},
        items=-(-h * w // tokens) * -(-C // channels),
    )


def _channels(C: int) -> int:
    """Return how many channels of a token a block takes.

    Many, because what they have in common is computed for each of a thread's tokens; but no more than divide C, because
    what goes beyond is idle, unless these are so few that accesses would be narrow.
    """
    dividing = C & -C  # the largest power of two that does
    return min(dividing if dividing >= 16 else next_power_of_2(C), 256)


def gather(pool: Tensor, slots: Tensor, places: Tensor, grid: tuple[int, int]) -> Tensor:
    """Launch the kernel: resample rows out of a pool.

    Args:
        pool: ``[S, L, C]``.
        slots: int32 ``[R]``.
        places: float32 ``[R, 4]``: (x_scale, x_offset, y_scale, y_offset) of each row.
        grid: (h, w) of the L = h·w tokens.

    Returns:
        ``[R, L, C]``.

    Raises:
        KernelError: the kernel does not take the tensors' device, dtype, number of axes, memory layout or size.
    """
    rows = pool.new_empty((len(slots), *pool.shape[1:]))
    dtype = _check(pool, slots, rows, rows)
    check_tensor("gather_tokens", "places", places, "[R, 4]")
    if places.dtype != torch.float32 or places.shape != (len(slots), 4) or grid[0] * grid[1] != pool.shape[1]:
        raise KernelError(
            f"gather_tokens: `places` is {places.dtype} {list(places.shape)} and `grid` is {grid}: expected "
            f"torch.float32 [{len(slots)}, 4], and {pool.shape[1]} tokens"
        )
    configure(grid, pool.shape[2], dtype, "gather").run([pool, slots, places], [rows], len(slots))
    return rows


def scatter(rows: Tensor, slots: Tensor, pool: Tensor) -> None:
    """Launch the kernel: copy rows into a pool, in place.

    Args:
        rows: ``[R, L, C]``.
        slots: int32 ``[R]``, all different.
        pool: ``[S, L, C]``.

    Raises:
        KernelError: the kernel does not take the tensors' device, dtype, number of axes, memory layout or size.
    """
    dtype = _check(rows, slots, pool, rows)
    L, C = rows.shape[1:]
    configure((1, 1), L * C, dtype, "scatter").run([rows, slots], [pool], len(slots))  # a copy needs no grid


def _check(source: Tensor, slots: Tensor, target: Tensor, rows: Tensor) -> str:
    """Check what both directions require, and return the short name of the dtype; a slot belongs to each of `rows`."""
    name = "gather_tokens"
    check_tensor(name, "source", source, "[R, L, C]")
    check_tensor(name, "slots", slots, "[R]")
    check_tensor(name, "target", target, "[R, L, C]")
    if slots.dtype != torch.int32:
        raise KernelError(f"{name}: `slots` is {slots.dtype}: expected torch.int32")
    if len(rows) != len(slots) or source.shape[1:] != target.shape[1:] or source.dtype != target.dtype:
        raise KernelError(
            f"{name}: cannot copy {source.dtype} {list(source.shape)} to {target.dtype} {list(target.shape)} with "
            f"{len(slots)} slots: expected one dtype, rows of one size, and a slot for each"
        )
    return dtype_name(source.dtype, name, FLOATS)
