"""The launch of the spatial attention kernel. Needs Triton."""

from __future__ import annotations

from torch import Tensor

from sdtc.kernels.common.kernel_launch import Launch, check_range, check_tactic, next_power_of_2, run_packed
from sdtc.kernels.common.packed_tokens import MAX_D, MIN_D
from sdtc.kernels.operators.spatial_attention.triton_kernel import spatial_attention_tiles

TACTICS = ("large", "small")
MAX_L = 1 << 16


def configure(T: int, L: int, H: int, D: int, dtype: str, tactic: str = "") -> Launch:
    """Configure the launch for packed tokens ``[B, T, L, 3, H, D]``.

    Args:
        T, L, H, D: sizes of the tokens.
        dtype: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        tactic: size of the tiles, one of `TACTICS`. Default: ``"large"``, but ``"small"`` for fp32.

    Returns:
        The launch, for any B.

    Raises:
        KernelError: L or D is out of range.
    """
    check_tactic("spatial_attention", tactic, TACTICS)
    check_range("spatial_attention", "L", L, 1, MAX_L)
    check_range("spatial_attention", "D", D, MIN_D, MAX_D)
    large = (tactic or ("small" if dtype == "fp32" else "large")) == "large"
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
