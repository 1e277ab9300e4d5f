"""The launch of the cross-attention kernel. Needs Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from sdtc.kernels.common.kernel_launch import (
    Launch,
    capability_of,
    check_fits,
    check_range,
    check_tactic,
    check_tensor,
    dtype_name,
    next_power_of_2,
)
from sdtc.kernels.common.multiprocessors import has_tensor_cores
from sdtc.kernels.operators.cross_attention import MAX_C, MAX_N, MIN_C
from sdtc.kernels.operators.cross_attention.triton_kernel import cross_attention_tiles

TACTICS = ("large", "small")


def configure(C: int, N: int, dtype: str, tactic: str = "", architecture: int | None = None) -> Launch:
    """Configure the launch for maps ``[B, C, N]``.

    Args:
        C, N: channels and pixels.
        dtype: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        tactic: number of query pixels in a block, one of `TACTICS`. Default: ``"large"``.
        architecture: to fit, e.g. 75 for sm_75. Default: none, sizes alone are checked.

    Returns:
        The launch, for any B.

    Raises:
        UnfitError: C or N is out of range, or the maps do not fit the architecture.
        KernelError: the tactic is unknown.
    """
    check_tactic("cross_attention", tactic, TACTICS)
    check_range("cross_attention", "C", C, MIN_C, MAX_C)
    check_range("cross_attention", "N", N, 1, MAX_N)
    # On sm_75 the unrolled loop over few channels spills.
    check_fits("cross_attention", f"maps of {C} channels", has_tensor_cores(architecture) or C > 32, architecture)
    N_PAD = max(16, next_power_of_2(N))
    M = 32 if (tactic or "large") == "large" and N_PAD <= 256 and dtype != "fp32" else 16
    return Launch(
        cross_attention_tiles,
        {"q": dtype, "k": dtype, "v": dtype},
        {"out": dtype},
        {"C": C, "N": N, "N_PAD": N_PAD, "M": M, "K": max(16, min(32, 4096 // N_PAD)), "SCALE": C**-0.5},
        items=(N + M - 1) // M,
        num_warps=8 if N_PAD > 64 else 4,
        num_stages=1,
    )


def run(q: Tensor, k: Tensor, v: Tensor, tactic: str = "") -> Tensor:
    """Launch the kernel: attention from the pixels of one map to those of another (Eq. 9).

    Args:
        q: queries ``[B, C, N]``.
        k, v: keys and values ``[B, C, N]``.
        tactic: as in `configure`.

    Returns:
        ``[B, C, N]``.

    Raises:
        KernelError: the kernel does not take the tensors' device, dtype, number of axes, memory layout or size, or they
            differ in them.
    """
    name = "cross_attention"
    check_tensor(name, "q", q, "[B, C, N]")
    check_tensor(name, "k", k, "[B, C, N]", like=q)
    check_tensor(name, "v", v, "[B, C, N]", like=q)
    out = torch.empty_like(q)
    launch = configure(q.shape[1], q.shape[2], dtype_name(q.dtype, name), tactic, capability_of(q))
    launch.run([q, k, v], [out], q.shape[0])
    return out
