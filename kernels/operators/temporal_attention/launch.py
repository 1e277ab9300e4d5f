"""The launch of the temporal attention kernels. Needs Triton."""

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
from sdtc.kernels.operators.temporal_attention import MAX_T
from sdtc.kernels.operators.temporal_attention.triton_kernel import temporal_attention_rows, temporal_attention_tiles

TACTICS = ("rows", "tiles")


def configure(T: int, L: int, H: int, D: int, dtype: str, tactic: str = "", architecture: int | None = None) -> Launch:
    """Configure the launch for packed tokens ``[B, T, L, 3, H, D]``.

    Args:
        T, L, H, D: sizes of the tokens.
        dtype: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        tactic: one of `TACTICS`, explained in `triton_kernel`. Default: ``"tiles"``, but ``"rows"`` for fp32, which has
            no tensor cores, and where tiles do not fit.
        architecture: to fit, e.g. 75 for sm_75. Default: none, sizes alone are checked.

    Returns:
        The launch, for any B.

    Raises:
        UnfitError: a size is out of range, or the tactic does not fit the architecture.
        KernelError: the tactic is unknown.
    """
    check_tactic("temporal_attention", tactic, TACTICS)
    check_range("temporal_attention", "T", T, 1, MAX_T)
    check_range("temporal_attention", "D", D, MIN_D, MAX_D)
    check_range("temporal_attention", "T * L * 3 * H * D", T * L * 3 * H * D, 1, MAX_OFFSET)
    # Without tensor cores a thread holds its part of q, k and v in registers, and spills half of wide heads.
    tiles_fit = dtype == "fp32" or D <= 32 or has_tensor_cores(architecture)
    T_PAD, D_PAD = next_power_of_2(T), next_power_of_2(D)
    constants = {"T": T, "L": L, "H": H, "D": D, "D_PAD": D_PAD, "SCALE": D**-0.5}
    if (tactic or ("rows" if dtype == "fp32" or not tiles_fit else "tiles")) == "rows":
        # k and v take 64 registers each in a block of 128 threads, or 32 where every value needs an address of its own.
        R = max(1, (4096 if D % 8 else 8192) // (T_PAD * D_PAD))
        return Launch(
            temporal_attention_rows,
            {"qkv": dtype},
            {"out": dtype},
            constants | {"T_PAD": T_PAD, "R": R},
            items=L * H,
            items_per_block=R,
            scalars=("items",),
        )
    check_fits("temporal_attention", f"the tactic 'tiles' with D = {D}", tiles_fit, architecture)
    # Tiles of 64 rows would spill on sm_75, where Triton uses no tensor cores; fp32 uses none on any GPU.
    M = 16 if dtype == "fp32" else 32
    return Launch(
        temporal_attention_tiles,
        {"qkv": dtype},
        {"out": dtype},
        constants | {"M": M},
        items=L * H,
        items_per_block=M // T,
        scalars=("items",),
    )


def run(qkv: Tensor, tactic: str = "") -> Tensor:
    """Launch the kernel: attention over T at each location (TA of Eq. 3).

    Args:
        qkv: packed queries, keys and values, ``[B, T, L, 3, H, D]``.
        tactic: as in `configure`.

    Returns:
        ``[B, T, L, H*D]``.

    Raises:
        KernelError: the kernel does not take the tensor's device, dtype, number of axes, memory layout or size.
    """
    return run_packed("temporal_attention", configure, qkv, tactic)
