"""Spatial-Motion Mutual Learning (paper, section 4): fuses appearance R and motion M into one keyframe feature map F.

Features keep the map layout ``[B, C, h, w]``; the attention operators take its flat view ``[B, C, h*w]``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sdtc.kernels import CONTEXT_AXES, cross_attention, self_refinement
from sdtc.model.config import ModelConfig


def phi(channels_in: int, channels_out: int, kernel: int = 1) -> nn.Sequential:
    """φ = Conv → BN → ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class Aggregation(nn.Module):
    """Aggregates the tokens of T frames, concatenated over channels, into one map: R̄ (and M̄)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.grid = config.grid
        self.conv = phi(config.num_frames * config.width, config.width, kernel=3)

    def forward(self, tokens: Tensor) -> Tensor:
        B, T, _, C = tokens.shape
        maps = tokens.transpose(2, 3).reshape(B, T * C, *self.grid)
        return self.conv(maps)  # [B, C, h, w]


class SelfRefinement(nn.Module):
    """Refines X into X̿ with its own context maps (Eq. 6-8), in one of the readings of `ModelConfig`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        C = config.width
        self.axis = CONTEXT_AXES[config.context_softmax]
        self.refinement = config.refinement
        self.conv = nn.Conv2d(2 * C if self.refinement == "concatenate" else C, C, 1)

    def forward(self, X: Tensor) -> Tensor:
        refined = self_refinement(X.flatten(2), self.axis).view_as(X)  # softmax(Xᵀ · OC) · OCᵀ  (Eq. 6-8)
        if self.refinement == "concatenate":
            return self.conv(torch.cat([X, refined], dim=1))
        refined = self.conv(refined)
        return X + refined if self.refinement == "add" else refined


class SMCA(nn.Module):
    """Spatial-motion cross attention: S attends to G (Eq. 9)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.phi = phi(width, width)

    def forward(self, S: Tensor, G: Tensor) -> Tensor:
        Q, K, V = self.q(S).flatten(2), self.k(G).flatten(2), self.v(G).flatten(2)  # [B, C, h*w]
        return self.phi(S + cross_attention(Q, K, V).view_as(S))  # S̃ = φ(S + softmax(Q·Kᵀ/√d)·V)  (Eq. 9)


class AdaptiveFusion(nn.Module):
    """Fuses appearance and motion with per-pixel gates (Eq. 11-13)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.phi = phi(2 * width, width)
        self.gate_s = nn.Conv2d(width, width, 1)  # FC_S, one fully connected layer for every pixel
        self.gate_m = nn.Conv2d(width, width, 1)  # FC_M
        self.conv_s = nn.Conv2d(width, width, 1)
        self.conv_m = nn.Conv2d(width, width, 1)

    def forward(self, R: Tensor, M: Tensor) -> Tensor:
        A = self.phi(torch.cat([R, M], dim=1))  # Eq. 11
        A_S, A_M = self.gate_s(A).sigmoid(), self.gate_m(A).sigmoid()  # Eq. 12
        return A_S * self.conv_s(R) + A_M * self.conv_m(M)  # F  (Eq. 13)


class Fusion(nn.Module):
    """Fuses R and M ``[B, T, L, C]`` into F ``[B, C, h, w]``, by SMML or the simpler fusions of Tables 4 and 6."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        C = config.width
        smml = config.fusion == "smml"
        self.aggregate_r = Aggregation(config)
        self.aggregate_m = Aggregation(config)
        self.refine_r = SelfRefinement(config) if smml else nn.Identity()
        self.refine_m = SelfRefinement(config) if smml else nn.Identity()
        cross = smml and config.cross_propagation
        self.smca_r = SMCA(C) if cross else None
        self.smca_m = SMCA(C) if cross else None
        self.adaptive = AdaptiveFusion(C) if smml and config.adaptive_fusion else None
        self.conv = phi(2 * C, C) if config.fusion == "conv" else None

    def forward(self, R: Tensor, M: Tensor) -> Tensor:
        R = self.refine_r(self.aggregate_r(R))  # R̄, then R̿
        M = self.refine_m(self.aggregate_m(M))  # M̄, then M̿
        if self.smca_r is not None and self.smca_m is not None:
            R, M = self.smca_r(R, M), self.smca_m(M, R)  # R̃, M̃  (Eq. 10)
        if self.adaptive is not None:
            return self.adaptive(R, M)
        if self.conv is not None:
            return self.conv(torch.cat([R, M], dim=1))
        return R + M
