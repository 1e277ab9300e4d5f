"""The launch of the kernel that copies tokens. Needs Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from sdtc.core.errors import KernelError
from sdtc.kernels.common.kernel_launch import FLOATS, Launch, check_range, check_tactic, check_tensor, dtype_name
from sdtc.kernels.operators.gather_tokens.triton_kernel import gather_tokens_block

TACTICS = ("gather", "scatter")  # two directions, not two ways to the same result
VALUES = 1024  # of a block: in fp32 two accesses of 16 bytes a thread, in half precision one
MAX_LENGTH = 1 << 26


def configure(length: int, dtype: str = "fp32", tactic: str = "") -> Launch:
    """Configure the launch for rows of one length.

    Args:
        length: values in a row.
        dtype: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        tactic: ``"gather"`` (the default) copies ``source[slots]`` to ``target``, ``"scatter"`` copies ``source`` to
            ``target[slots]``.

    Returns:
        The launch; its batch is the number of rows.

    Raises:
        KernelError: the length is out of range, or the tactic is unknown.
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
    """Launch the kernel: copy rows out of a pool.

    Args:
        pool: ``[S, N]``.
        slots: int32 ``[R]``.

    Returns:
        ``[R, N]``.

    Raises:
        KernelError: the kernel does not take the tensors' device, dtype, number of axes, memory layout or size.
    """
    rows = pool.new_empty((len(slots), *pool.shape[1:]))
    _copy(pool, slots, rows, "gather")
    return rows


def scatter(rows: Tensor, slots: Tensor, pool: Tensor) -> None:
    """Launch the kernel: copy rows into a pool, in place.

    Args:
        rows: ``[R, N]``.
        slots: int32 ``[R]``, all different.
        pool: ``[S, N]``.

    Raises:
        KernelError: the kernel does not take the tensors' device, dtype, number of axes, memory layout or size.
    """
    _copy(rows, slots, pool, "scatter")


def _copy(source: Tensor, slots: Tensor, target: Tensor, tactic: str) -> None:
    name = "gather_tokens"
    check_tensor(name, "source", source, "[R, N]")
    check_tensor(name, "slots", slots, "[R]")
    check_tensor(name, "target", target, "[R, N]")
    if slots.dtype != torch.int32:
        raise KernelError(f"{name}: `slots` is {slots.dtype}: expected torch.int32")
    rows, dtype = target if tactic == "gather" else source, dtype_name(source.dtype, name, FLOATS)
    if len(rows) != len(slots) or source.shape[1] != target.shape[1] or source.dtype != target.dtype:
        raise KernelError(
            f"{name}: cannot copy {source.dtype} {list(source.shape)} to {target.dtype} {list(target.shape)} with "
            f"{len(slots)} slots: expected one dtype, rows of one length, and a slot for each"
        )
    configure(source.shape[1], dtype, tactic).run([source, slots], [target], len(slots))
