"""The launch of the spatial attention kernel. Needs Triton."""

from __future__ import annotations

from torch import Tensor

from sdtc.kernels.common.kernel_launch import (
    Launch,
    check_fits,
    check_range,
    check_tactic,
    next_power_of_2,
    run_packed,
)
from sdtc.kernels.common.multiprocessors import has_tensor_cores
from sdtc.kernels.common.packed_tokens import MAX_D, MAX_OFFSET, MIN_D
from sdtc.kernels.operators.spatial_attention import MAX_L
from sdtc.kernels.operators.spatial_attention.triton_kernel import spatial_attention_tiles

TACTICS = ("large", "small")


def configure(T: int, L: int, H: int, D: int, dtype: str, tactic: str = "", architecture: int | None = None) -> Launch:
    """Configure the launch for packed tokens ``[B, T, L, 3, H, D]``.

    Args:
        T, L, H, D: sizes of the tokens.
        dtype: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        tactic: size of the tiles, one of `TACTICS`. Default: ``"large"``, but ``"small"`` for fp32 and where large ones
            do not fit.
        architecture: to fit, e.g. 75 for sm_75. Default: none, sizes alone are checked.

    Returns:
        The launch, for any B.

    Raises:
        UnfitError: a size is out of range, or the tactic does not fit the architecture.
        KernelError: the tactic is unknown.
    """
    check_tactic("spatial_attention", tactic, TACTICS)
    check_range("spatial_attention", "L", L, 1, MAX_L)
    check_range("spatial_attention", "D", D, MIN_D, MAX_D)
    check_range("spatial_attention", "L * 3 * H * D", L * 3 * H * D, 1, MAX_OFFSET)
    # Without tensor cores a thread holds its part of q and o in registers, and spills half of wide heads.
    if dtype == "fp32" or has_tensor_cores(architecture):
        widest = {"large": MAX_D, "small": MAX_D}
    else:
        widest = {"large": 32, "small": 64 if L > 32 else 32}  # a loop of one step is unrolled, and takes more
    chosen = tactic or ("large" if dtype != "fp32" and widest["large"] >= D else "small")
    check_fits("spatial_attention", f"the tactic '{chosen}' with D = {D}", widest[chosen] >= D, architecture)
    large = chosen == "large"
    D_PAD = next_power_of_2(D)
    M, N = 64 if large else 32, 32
    if dtype == "fp32":  # no tensor cores: as much as registers and shared memory hold
        M, N = M // 2, max(16, min(32 if large else 16, 1024 // D_PAD))
    return Launch(
        spatial_attention_tiles,
        {"qkv": dtype},
        {"out": dtype},
        {"L": L, "H": H, "D": D, "D_PAD": D_PAD, "M": M, "N": N, "SCALE": D**-0.5},
        items=T * H * ((L + M - 1) // M),
    )


def run(qkv: Tensor, tactic: str = "") -> Tensor:
    """Launch the kernel: attention over L in each frame (SA of Eq. 3).

    Args:
        qkv: packed queries, keys and values, ``[B, T, L, 3, H, D]``.
        tactic: as in `configure`.

    Returns:
        ``[B, T, L, H*D]``.

    Raises:
        KernelError: the kernel does not take the tensor's device, dtype, number of axes, memory layout or size.
    """
    return run_packed("spatial_attention", configure, qkv, tactic)
