"""The launch of the heatmap decoding kernel. Needs Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from sdtc.kernels.common.kernel_launch import (
    Launch,
    check_range,
    check_tactic,
    check_tensor,
    dtype_name,
    next_power_of_2,
)
from sdtc.kernels.operators.decode_heatmaps import MAX_PIXELS
from sdtc.kernels.operators.decode_heatmaps.triton_kernel import decode_heatmaps_block

TACTICS = ("block",)


def configure(J: int, h: int, w: int, size: tuple[int, int], dtype: str, tactic: str = "") -> Launch:
    """Configure the launch for heatmaps ``[B, J, h, w]``.

    Args:
        J, h, w: joints, and the size of a heatmap.
        size: (H, W) of the crop.
        dtype: of the heatmaps, ``"fp32"``, ``"fp16"`` or ``"bf16"``; keypoints are fp32.
        tactic: ``"block"``, the only one, or empty.

    Returns:
        The launch, for any B.

    Raises:
        UnfitError: the heatmaps are too small or too large.
        KernelError: the tactic is unknown.
    """
    check_tactic("decode_heatmaps", tactic, TACTICS)
    check_range("decode_heatmaps", "h", h, 2, MAX_PIXELS)
    check_range("decode_heatmaps", "w", w, 2, MAX_PIXELS)
    check_range("decode_heatmaps", "h*w", h * w, 4, MAX_PIXELS)
    height, width = size
    PIXELS_PAD = next_power_of_2(h * w)
    return Launch(
        decode_heatmaps_block,
        {"heatmaps": dtype},
        {"keypoints": "fp32"},
        {
            "h": h,
            "w": w,
            "PIXELS_PAD": PIXELS_PAD,
            "SCALE_X": (width - 1) / (w - 1),
            "SCALE_Y": (height - 1) / (h - 1),
        },
        items=J,
        num_warps=8 if PIXELS_PAD > 1 << 15 else 4,  # a thread of four would hold 512 pixels, and spill
    )


def run(heatmaps: Tensor, size: tuple[int, int], tactic: str = "") -> Tensor:
    """Launch the kernel: find the keypoints of heatmaps.

    Args:
        heatmaps: ``[B, J, h, w]``.
        size: (H, W) of the crop.
        tactic: as in `configure`.

    Returns:
        float32 ``[B, J, 3]``: x, y in crop pixels, score 0-1.

    Raises:
        KernelError: the kernel does not take the tensor's device, dtype, number of axes, memory layout or size.
    """
    name = "decode_heatmaps"
    check_tensor(name, "heatmaps", heatmaps, "[B, J, h, w]")
    B, J, h, w = heatmaps.shape
    keypoints = heatmaps.new_empty((B, J, 3), dtype=torch.float32)
    configure(J, h, w, size, dtype_name(heatmaps.dtype, name), tactic).run([heatmaps], [keypoints], B)
    return keypoints
