"""Heads: they map a feature map to J heatmaps at a quarter of the input's resolution."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from sdtc.model.config import HEATMAP_STRIDE, PATCH_SIZE


class SimpleHead(nn.Module):
    """The simple head of ViTPose and SDTC: ReLU, bilinear upsampling ×4, 3×3 convolution."""

    def __init__(self, width: int, num_keypoints: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, num_keypoints, 3, padding=1)
        _init_last(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, h, w]`` to ``[B, J, 4h, 4w]``."""
        scale = PATCH_SIZE // HEATMAP_STRIDE
        x = F.interpolate(F.relu(x), scale_factor=scale, mode="bilinear", align_corners=False)
        return self.conv(x)


class ClassicHead(nn.Module):
    """The classic head of ViTPose: two deconvolutions ×2, then a 1×1 convolution."""

    def __init__(self, width: int, num_keypoints: int, hidden: int = 256) -> None:
        super().__init__()
        self.deconv1 = nn.ConvTranspose2d(width, hidden, 4, stride=2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(hidden)
        self.deconv2 = nn.ConvTranspose2d(hidden, hidden, 4, stride=2, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(hidden)
        self.conv = nn.Conv2d(hidden, num_keypoints, 1)
        _init_last(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, C, h, w]`` to ``[B, J, 4h, 4w]``."""
        x = F.relu(self.norm1(self.deconv1(x)))
        x = F.relu(self.norm2(self.deconv2(x)))
        return self.conv(x)


def _init_last(conv: nn.Conv2d) -> None:
    """Initialise a last layer so that heatmaps start near zero, as ViTPose does."""
    nn.init.normal_(conv.weight, std=0.001)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
