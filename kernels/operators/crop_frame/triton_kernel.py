"""Crops as a Triton kernel: a frame and the crop matrices of its people to the batch that the network takes.

The rule, to the last bit that of OpenCV 4's `warpAffine`, is written out in `reference`. A block computes `BLOCK`
pixels of one crop.
"""

from __future__ import annotations

from sdtc.kernels.common.with_triton import tl, triton


@triton.jit
def _round(value):
    """To the nearest integer, halves to the even one."""
    low = tl.floor(value)
    rest = value - low
    whole = low.to(tl.int32)
    up = (rest > 0.5) | ((rest == 0.5) & ((whole & 1) == 1))
    return whole + up.to(tl.int32)


@triton.jit(do_not_specialize=["frame_height", "frame_width"])
def crop_frame_block(
    frame,
    matrices,
    frame_height,
    frame_width,
    crops,
    H: tl.constexpr,
    W: tl.constexpr,
    BLOCK: tl.constexpr,
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
        tl.store(crops + (number * (H * W) + pixel) * 3 + channel, value.to(tl.uint8), mask=there)
