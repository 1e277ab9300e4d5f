"""Heatmap decoding: arg max, a quarter of a pixel toward the higher neighbour on each axis, and the score.

The rule is stated in `sdtc.core.heatmaps.decode_heatmaps`, which is the same in NumPy. In PyTorch it takes about sixty
operators, each a launch of its own on a GPU; as a Triton kernel it is one launch that reads every heatmap once.

In: heatmaps ``[B, J, h, w]`` and the size of the crop. Out: keypoints ``[B, J, 3]``. In an exported graph it is not one
node but plain ONNX operators (`reference`), which every backend runs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sdtc.kernels.common.onnx_node import exporting
from sdtc.kernels.common.torch_operators import register, use_kernel
from sdtc.kernels.operators.decode_heatmaps.reference import decode_heatmaps_reference

MAX_PIXELS = 1 << 16  # of a heatmap that the Triton kernel takes


def decode_heatmaps(heatmaps: Tensor, size: tuple[int, int]) -> Tensor:
    """Find the keypoint of each heatmap.

    Args:
        heatmaps: ``[B, J, h, w]``.
        size: (H, W) of the crop.

    Returns:
        float32 ``[B, J, 3]``: x, y in crop pixels, score 0-1.
    """
    h, w = heatmaps.shape[-2:]
    if exporting() or not use_kernel(heatmaps, min(h, w) >= 2 and h * w <= MAX_PIXELS):
        return decode_heatmaps_reference(heatmaps, size)
    return _operator(heatmaps.contiguous(), list(size))


def _empty_result(heatmaps: Tensor, size: Sequence[int]) -> Tensor:
    return heatmaps.new_empty((*heatmaps.shape[:2], 3), dtype=torch.float32)


_operator = register(__name__, "(Tensor heatmaps, int[] size) -> Tensor", decode_heatmaps_reference, _empty_result)
