"""Crops as a Triton kernel: a frame and the boxes of the people in it to the batch that the network takes.

Bilinear, and the same to the last bit as `sdtc.core.crops`, that is as OpenCV's `warpAffine`: positions are fixed
point, in 1/32 of a pixel, made from products that are rounded at 1/1,024; the four weights are 1/1,024s, and the sum is
rounded half up. What lies outside the frame is black. The frame is uploaded once, whoever is in it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdtc.core.errors import KernelError
from sdtc.kernels.common.kernel_launch import FLOATS, Launch, check_range, check_tensor, dtype_name

TACTICS = ("block",)
PIXELS = 256  # of a block
MAX_SIZE = 1024


@triton.jit
def _round(value):
    """To the nearest integer, halves to the even one."""
    low = tl.floor(value)
    rest = value - low
    whole = low.to(tl.int32)
    up = (rest > 0.5) | ((rest == 0.5) & ((whole & 1) == 1))
    return whole + up.to(tl.int32)


@triton.jit
def crop_frame_block(
    frame,
    matrices,
    frame_height,
    frame_width,
    crops,
    H: tl.constexpr,
    W: tl.constexpr,
    BLOCK: tl.constexpr,
    NORMALISE: tl.constexpr,
    MEAN: tl.constexpr,
    STD: tl.constexpr,
):
    BLOCKS: tl.constexpr = (H * W + BLOCK - 1) // BLOCK
    number = (tl.program_id(0) // BLOCKS).to(tl.int64)  # of the crop
    pixel = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    there = pixel < H * W
    x = (pixel % W).to(tl.float64)
    y = (pixel // W).to(tl.float64)
    matrices += number * 6
    # Halfway between two 32nds belongs to the upper one: + 16 of 1,024.
    X = (
        _round(tl.load(matrices) * x * 1024.0)
        + _round((tl.load(matrices + 1) * y + tl.load(matrices + 2)) * 1024.0)
        + 16
    )
    Y = _round(tl.load(matrices + 3) * x * 1024.0)
    Y += _round((tl.load(matrices + 4) * y + tl.load(matrices + 5)) * 1024.0) + 16
    column = X >> 10
    row = Y >> 10
    right = (X >> 5) & 31  # weights, in 1/32
    below = (Y >> 5) & 31
    in_0 = there & (row >= 0) & (row < frame_height)
    in_1 = there & (row + 1 >= 0) & (row + 1 < frame_height)
    left_in = (column >= 0) & (column < frame_width)
    right_in = (column + 1 >= 0) & (column + 1 < frame_width)
    at = frame + (row.to(tl.int64) * frame_width + column) * 3
    next_row = frame_width.to(tl.int64) * 3
    for channel in tl.static_range(3):
        a = tl.load(at + channel, mask=in_0 & left_in, other=0).to(tl.int32)
        b = tl.load(at + 3 + channel, mask=in_0 & right_in, other=0).to(tl.int32)
        c = tl.load(at + next_row + channel, mask=in_1 & left_in, other=0).to(tl.int32)
        d = tl.load(at + next_row + 3 + channel, mask=in_1 & right_in, other=0).to(tl.int32)
        mixed = (32 - below) * ((32 - right) * a + right * b) + below * ((32 - right) * c + right * d)
        value = (mixed + 512) >> 10
        out = crops + (number * (H * W) + pixel) * 3 + channel
        if NORMALISE:
            tl.store(out, ((value - MEAN[channel]) / STD[channel]).to(crops.dtype.element_ty), mask=there)
        else:
            tl.store(out, value.to(tl.uint8), mask=there)


def plan(
    size: tuple[int, int],
    dtype: str = "u8",
    mean: tuple[float, ...] = (0.0, 0.0, 0.0),
    std: tuple[float, ...] = (1.0, 1.0, 1.0),
    tactic: str = "",
) -> Launch:
    """Describe the kernel for one frame ``[H_image, W_image, 3]`` and N matrices ``[N, 2, 3]`` to ``[N, H, W, 3]``.

    Args:
        size: (H, W) of a crop.
        dtype: ``"u8"`` as it is, or ``"fp32"``, ``"fp16"``, ``"bf16"``: normalised.
        mean, std: of the channels, 0-255, for normalised crops.
        tactic: there is only one.

    Raises:
        KernelError: the crop is too large.
    """
    H, W = size
    check_range("crop_frame", "H", H, 1, MAX_SIZE)
    check_range("crop_frame", "W", W, 1, MAX_SIZE)
    return Launch(
        crop_frame_block,
        {"frame": "u8", "matrices": "fp64"},
        {"crops": dtype},
        {"H": H, "W": W, "BLOCK": PIXELS, "NORMALISE": dtype != "u8", "MEAN": tuple(mean), "STD": tuple(std)},
        items=(H * W + PIXELS - 1) // PIXELS,
        scalars=("frame_height", "frame_width"),
    )


def run(
    frame: Tensor,
    matrices: Tensor,
    size: tuple[int, int],
    dtype: torch.dtype = torch.uint8,
    mean: tuple[float, ...] = (0.0, 0.0, 0.0),
    std: tuple[float, ...] = (1.0, 1.0, 1.0),
) -> Tensor:
    """Cut crops out of a frame.

    Args:
        frame: uint8 ``[H_image, W_image, 3]``.
        matrices: float64 ``[N, 2, 3]``, of `sdtc.core.crops.crop_to_image_matrix`.
        size: (H, W) of a crop.
        dtype: ``torch.uint8``, or a floating-point type: normalised by `mean` and `std`.
        mean, std: of the channels, 0-255.

    Returns:
        ``[N, H, W, 3]``.

    Raises:
        KernelError: dtype, rank, memory layout or size is not what the kernel takes.
    """
    name = "crop_frame"
    check_tensor(name, "frame", frame, "[H, W, 3]")
    check_tensor(name, "matrices", matrices, "[N, 2, 3]")
    dtype_name(frame.dtype, name, ("u8",))
    dtype_name(matrices.dtype, name, ("fp64",))
    if frame.device != matrices.device:
        raise KernelError(f"{name}: frame is on {frame.device}, matrices are on {matrices.device}: expected one device")
    if frame.shape[2] != 3 or matrices.shape[1:] != (2, 3):
        raise KernelError(
            f"{name}: frame is {list(frame.shape)} and matrices are {list(matrices.shape)}: expected [H, W, 3] and "
            "[N, 2, 3]"
        )
    launch = plan(size, dtype_name(dtype, name, ("u8", *FLOATS)), mean, std)
    crops = torch.empty((len(matrices), *size, 3), dtype=dtype, device=frame.device)
    launch.run([frame, matrices], [crops], len(matrices), frame_height=frame.shape[0], frame_width=frame.shape[1])
    return crops
