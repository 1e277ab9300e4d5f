"""Heatmap decoding as a Triton kernel: arg max, a quarter of a pixel toward the higher neighbour, score.

The rule is that of `sdtc.core.heatmaps.decode_heatmaps`. A block reads one heatmap once and writes three numbers.
"""

from __future__ import annotations

from sdtc.kernels.common.with_triton import tl, triton


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
    index = tl.minimum(index, h * w - 1)  # a heatmap of NaN may give any index: stay inside
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
