"""Heatmap decoding as a Triton kernel: arg max, a quarter of a pixel toward the higher neighbour, score.

The rule is `sdtc.core.heatmaps.decode_heatmaps`'s. One block reads one heatmap, once, and writes three
numbers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdtc.kernels.common.kernel_launch import Launch, check_range, check_tensor, dtype_name, next_power_of_2

TACTICS = ("block",)
MAX_PIXELS = 1 << 16


@triton.jit
def decode_heatmaps_block(
    heatmaps,
    keypoints,
    h: tl.constexpr,
    w: tl.constexpr,
    PIXELS_PAD: tl.constexpr,
    SCALE_X: tl.constexpr,
    SCALE_Y: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    heatmap = heatmaps + row * (h * w)
    i = tl.arange(0, PIXELS_PAD)
    values = tl.load(heatmap + i, mask=i < h * w, other=float("-inf")).to(tl.float32)
    best, index = tl.max(values, axis=0, return_indices=True)  # the first of equal ones
    index = tl.minimum(index, h * w - 1)  # whatever a heatmap that is not a number leads to, it stays inside
    y = index // w
    x = index % w
    right = tl.load(heatmap + y * w + tl.minimum(x + 1, w - 1)).to(tl.float32)
    left = tl.load(heatmap + y * w + tl.maximum(x - 1, 0)).to(tl.float32)
    below = tl.load(heatmap + tl.minimum(y + 1, h - 1) * w + x).to(tl.float32)
    above = tl.load(heatmap + tl.maximum(y - 1, 0) * w + x).to(tl.float32)
    step_x = tl.where(right > left, 0.25, tl.where(right < left, -0.25, 0.0))
    step_y = tl.where(below > above, 0.25, tl.where(below < above, -0.25, 0.0))
    x_refined = x.to(tl.float32) + tl.where((x > 0) & (x < w - 1), step_x, 0.0)
    y_refined = y.to(tl.float32) + tl.where((y > 0) & (y < h - 1), step_y, 0.0)
    tl.store(keypoints + row * 3, x_refined * SCALE_X)
    tl.store(keypoints + row * 3 + 1, y_refined * SCALE_Y)
    tl.store(keypoints + row * 3 + 2, tl.minimum(tl.maximum(best, 0.0), 1.0))


def plan(J: int, h: int, w: int, size: tuple[int, int], dtype: str, tactic: str = "") -> Launch:
    """Describe the kernel for heatmaps ``[B, J, h, w]``.

    Args:
        J, h, w: the shape.
        size: (H, W) of the crop.
        dtype: ``"fp32"``, ``"fp16"`` or ``"bf16"``; keypoints are fp32.
        tactic: there is only one.

    Raises:
        KernelError: the heatmap is too small or too large.
    """
    check_range("decode_heatmaps", "h", h, 2, MAX_PIXELS)
    check_range("decode_heatmaps", "w", w, 2, MAX_PIXELS)
    check_range("decode_heatmaps", "h*w", h * w, 4, MAX_PIXELS)
    height, width = size
    return Launch(
        decode_heatmaps_block,
        {"heatmaps": dtype},
        {"keypoints": "fp32"},
        {
            "h": h,
            "w": w,
            "PIXELS_PAD": next_power_of_2(h * w),
            "SCALE_X": (width - 1) / (w - 1),
            "SCALE_Y": (height - 1) / (h - 1),
        },
        items=J,
    )


def run(heatmaps: Tensor, size: tuple[int, int], tactic: str = "") -> Tensor:
    """Find the keypoints of heatmaps ``[B, J, h, w]`` in a crop of size (H, W): fp32 ``[B, J, 3]``.

    Raises:
        KernelError: dtype, rank, memory layout or size is not what the kernel takes.
    """
    name = "decode_heatmaps"
    check_tensor(name, "heatmaps", heatmaps, "[B, J, h, w]")
    B, J, h, w = heatmaps.shape
    keypoints = heatmaps.new_empty((B, J, 3), dtype=torch.float32)
    plan(J, h, w, size, dtype_name(heatmaps.dtype, name), tactic).run([heatmaps], [keypoints], B)
    return keypoints
