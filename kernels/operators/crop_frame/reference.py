"""The crop rule in plain PyTorch, to the last bit that of OpenCV 4's `warpAffine` in `sdtc.core.crops`.

Positions are fixed-point numbers in 1/32 of a pixel, from products that are rounded to 1/1,024. The weights of the four
pixels are in 1/1,024, and their sum is rounded half up.
"""

from __future__ import annotations

import torch
from torch import Tensor


def crop_frame_reference(frame: Tensor, matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut crops out of a frame.

    Args:
        frame: uint8 ``[H_image, W_image, 3]``.
        matrices: float64 ``[N, 2, 3]``, from `sdtc.core.crops.crop_to_image_matrix`.
        size: (H, W) of a crop.

    Returns:
        uint8 ``[N, H, W, 3]``.
    """
    height, width, _ = frame.shape
    x = torch.arange(size[1], dtype=torch.float64, device=frame.device)
    y = torch.arange(size[0], dtype=torch.float64, device=frame.device)[:, None]
    along, down, start = (column[..., None, None] for column in matrices.unbind(2))  # each [N, 2, 1, 1]
    # In 1/1,024 of a pixel; + 16, so that what lies halfway between two 32nds belongs to the upper one.
    at = (along * x * 1024).round().long() + ((down * y + start) * 1024).round().long() + 16  # [N, 2, H, W]
    column, row = (at >> 10).unbind(1)  # [N, H, W]
    right, below = ((at >> 5) & 31)[..., None].unbind(1)  # weights in 1/32, [N, H, W, 1]

    def pixel(row: Tensor, column: Tensor) -> Tensor:
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        return frame[row.clamp(0, height - 1), column.clamp(0, width - 1)].long() * inside[..., None]

    upper = (32 - right) * pixel(row, column) + right * pixel(row, column + 1)
    lower = (32 - right) * pixel(row + 1, column) + right * pixel(row + 1, column + 1)
    return (((32 - below) * upper + below * lower + 512) >> 10).to(torch.uint8)
