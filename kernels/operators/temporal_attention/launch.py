"""The launch of the temporal attention kernels. Needs Triton."""

from __future__ import annotations

from torch import Tensor

from sdtc.kernels.common.kernel_launch import Launch, check_range, check_tactic, next_power_of_2, run_packed
from sdtc.kernels.common.packed_tokens import MAX_D, MIN_D
from sdtc.kernels.operators.temporal_attention import MAX_T
from sdtc.kernels.operators.temporal_attention.triton_kernel import temporal_attention_rows, temporal_attention_tiles

TACTICS = ("rows", "tiles")


def configure(T: int, L: int, H: int, D: int, dtype: str, tactic: str = "") -> Launch:
    """Configure the launch for packed tokens ``[B, T, L, 3, H, D]``.

    Args:
        T, L, H, D: sizes of the tokens.
        dtype: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        tactic: one of `TACTICS`, explained in `triton_kernel`. Default: ``"tiles"``, but ``"rows"`` for fp32, which has
            no tensor cores.

    Returns:
        The launch, for any B.

    Raises:
        KernelError: T or D is out of range.
    """
    check_tactic("temporal_attention", tactic, TACTICS)
    check_range("temporal_attention", "T", T, 1, MAX_T)
    check_range("temporal_attention", "D", D, MIN_D, MAX_D)
    T_PAD, D_PAD = next_power_of_2(T), next_power_of_2(D)
    constants = {"T": T, "L": L, "H": H, "D": D, "D_PAD": D_PAD, "SCALE": D**-0.5}
    if (tactic or ("rows" if dtype == "fp32" else "tiles")) == "rows":
        R = max(1, 8192 // (T_PAD * D_PAD))  # k and v take 64 registers each in a block of 128 threads
        return Launch(
            temporal_attention_rows,
            {"qkv": dtype},
            {"out": dtype},
            constants | {"T_PAD": T_PAD, "R": R},
            items=L * H,
            items_per_block=R,
            scalars=("items",),
        )
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
