"""The launch of the self-refinement kernel. Needs Triton."""

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
from sdtc.kernels.operators.self_refinement import CONTEXT_AXES, MAX_C, MAX_N, MIN_C, check_axis
from sdtc.kernels.operators.self_refinement.triton_kernel import self_refinement_tiles

TACTICS = ("block",)


def configure(C: int, N: int, axis: int, dtype: str, tactic: str = "", architecture: int | None = None) -> Launch:
    """Configure the launch for a map ``[B, C, N]``.

    Args:
        C, N: channels and pixels.
        axis: as in `self_refinement`.
        dtype: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        tactic: ``"block"``, the only one, or empty.
        architecture: to fit, e.g. 75 for sm_75. Default: none, sizes alone are checked.

    Returns:
        The launch, for any B.

    Raises:
        UnfitError: C or N is out of range, or the map does not fit the architecture.
        KernelError: the axis or the tactic is unknown.
    """
    check_axis(axis)
    check_tactic("self_refinement", tactic, TACTICS)
    check_range("self_refinement", "C", C, MIN_C, MAX_C)
    check_range("self_refinement", "N", N, 1, MAX_N)
    N_PAD = max(16, next_power_of_2(N))
    # On sm_75, 512 pixels take 66,624 bytes of shared memory or more, of 65,536; and in a softmax over channels, the
    # unrolled loop over few of them spills.
    fits = has_tensor_cores(architecture) or (N_PAD < 512 and (C > 32 or axis != CONTEXT_AXES["channels"]))
    check_fits("self_refinement", f"a map of {C} channels and {N} pixels", fits, architecture)
    wide = N_PAD > 256  # more pixels than registers of 8 warps, or than those that TF32's products leave
    return Launch(
        self_refinement_tiles,
        {"x": dtype},
        {"out": dtype},
        {
            "C": C,
            "N": N,
            "N_PAD": N_PAD,
            "M": 16,
            "K": 16,
            "AXIS": axis,
            "PRECISION": "ieee" if dtype == "fp32" or wide else "tf32",
        },
        items=(N + 15) // 16,
        num_warps=16 if wide else 8,
        num_stages=1,
    )


def run(x: Tensor, axis: int, tactic: str = "") -> Tensor:
    """Launch the kernel: refine a map by its own contexts (Eq. 6-8).

    Args:
        x: map ``[B, C, N]``.
        axis, tactic: as in `configure`.

    Returns:
        ``[B, C, N]``.

    Raises:
        KernelError: the kernel does not take the tensor's device, dtype, number of axes, memory layout or size, or the
            axis.
    """
    name = "self_refinement"
    check_tensor(name, "x", x, "[B, C, N]")
    out = torch.empty_like(x)
    _, C, N = x.shape
    configure(C, N, axis, dtype_name(x.dtype, name), tactic, capability_of(x)).run([x], [out], x.shape[0])
    return out
