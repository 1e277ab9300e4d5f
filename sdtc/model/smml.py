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
    """Refines X into X̿ (Eq. 8), in one of the readings of `ModelConfig`, by what its context maps give each pixel."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        C = config.width
        self.refinement = config.refinement
        self.conv = nn.Conv2d(2 * C if self.refinement == "concatenate" else C, C, 1)

    def forward(self, X: Tensor, refined: Tensor) -> Tensor:
        if self.refinement == "concatenate":
            return self.conv(torch.cat([X, refined], dim=1))
        refined = self.conv(refined)
        return X + refined if self.refinement == "add" else refined


class SMCA(nn.Module):
    """Spatial-motion cross attention: S attends to G (Eq. 9), by the queries, keys and values of `project`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.phi = phi(width, width)

    def project(self, S: Tensor, G: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of S, keys and values of G, each ``[B, C, h*w]``."""
        return self.q(S).flatten(2), self.k(G).flatten(2), self.v(G).flatten(2)

    def forward(self, S: Tensor, attended: Tensor) -> Tensor:
        return self.phi(S + attended)  # S̃ = φ(S + softmax(Q·Kᵀ/√d)·V)  (Eq. 9)


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
    """Fuses R and M ``[B, T, L, C]`` into F ``[B, C, h, w]``, by SMML or the simpler fusions of Tables 4 and 6.

    Each operator runs once, on R and M as one batch: alone, a map of one window keeps few of a GPU's processors busy.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        C = config.width
        smml = config.fusion == "smml"
        self.aggregate_r = Aggregation(config)
        self.aggregate_m = Aggregation(config)
        self.axis = CONTEXT_AXES[config.context_softmax]
        self.refine_r = SelfRefinement(config) if smml else None
        self.refine_m = SelfRefinement(config) if smml else None
        cross = smml and config.cross_propagation
        self.smca_r = SMCA(C) if cross else None
        self.smca_m = SMCA(C) if cross else None
        self.adaptive = AdaptiveFusion(C) if smml and config.adaptive_fusion else None
        self.conv = phi(2 * C, C) if config.fusion == "conv" else None

    def forward(self, R: Tensor, M: Tensor) -> Tensor:
        R, M = self.aggregate_r(R), self.aggregate_m(M)  # R̄, M̄
        if self.refine_r is not None and self.refine_m is not None:
            both = torch.cat([R, M]).flatten(2)
            refined = self_refinement(both, self.axis).view(2, *R.shape)  # softmax(Xᵀ · OC) · OCᵀ  (Eq. 6-8)
            R, M = self.refine_r(R, refined[0]), self.refine_m(M, refined[1])  # R̿, M̿
        if self.smca_r is not None and self.smca_m is not None:
            pairs = zip(self.smca_r.project(R, M), self.smca_m.project(M, R), strict=True)
            Q, K, V = (torch.cat(pair) for pair in pairs)
            attended = cross_attention(Q, K, V).view(2, *R.shape)  # softmax(Q·Kᵀ/√d)·V
            R, M = self.smca_r(R, attended[0]), self.smca_m(M, attended[1])  # R̃, M̃  (Eq. 10)
        if self.adaptive is not None:
            return self.adaptive(R, M)
        if self.conv is not None:
            return self.conv(torch.cat([R, M], dim=1))
        return R + M
