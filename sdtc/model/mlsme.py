"""Multi-Level Semantic Motion Encoder (paper, section 3), as inference uses it: without masks and decoder.

`MotionEncoder.patch_level` and `.frame_level` run one after the other; masked training (`sdtc.model.reconstruction`)
runs the same two levels and masks the input of each.
"""

from __future__ import annotations

from torch import Tensor, nn

from sdtc.model.config import ModelConfig
from sdtc.model.layers import FeedForward, SpaceTimeAttention, init_transformer_weights


class SemanticEncoder(nn.Sequential):
    """One level of MLSME: joint space-time attention layers (Eq. 2), then divided ones (Eq. 3)."""

    def __init__(self, config: ModelConfig) -> None:
        C, heads = config.width, config.heads
        layers: list[nn.Module] = [
            SpaceTimeAttention(C, heads, over="both")  # R_J = MHSA(Concat_L(R_m))  (Eq. 2)
            for _ in range(config.joint_layers)
        ]
        for _ in range(config.divided_layers):  # R_P = FFN(SA⁺(TA⁺(R_J)))  (Eq. 3)
            layers += [
                SpaceTimeAttention(C, heads, over="time"),
                SpaceTimeAttention(C, heads, over="space"),
                FeedForward(C, config.ffn_ratio),
            ]
        super().__init__(*layers)


class VitEncoder(nn.Sequential):
    """Table 5's baseline: a plain ViT over all T·L tokens, with as many blocks as one level of MLSME has layers."""

    def __init__(self, config: ModelConfig) -> None:
        layers: list[nn.Module] = []
        for _ in range(config.joint_layers + config.divided_layers):
            layers += [
                SpaceTimeAttention(config.width, config.heads, over="both"),
                FeedForward(config.width, config.ffn_ratio),
            ]
        super().__init__(*layers)


class MotionEncoder(nn.Module):
    """Encodes the frames' representations R into motion features M.

    Attributes:
        patch_level: maps R ``[B, T, L, C]`` to R_P of the same shape.
        frame_level: maps R_P to R_F; None if the configuration has the patch level only.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch_level: nn.Module = VitEncoder(config) if config.motion_encoder == "vit" else SemanticEncoder(config)
        self.frame_level: nn.Module | None = SemanticEncoder(config) if config.motion_encoder == "patch+frame" else None
        self.apply(init_transformer_weights)

    def forward(self, R: Tensor) -> Tensor:
        """Encode ``[B, T, L, C]`` into M of the same shape."""
        R_P = self.patch_level(R)
        if self.frame_level is None:
            return R_P
        R_F = self.frame_level(R_P)
        return R_P + R_F  # M  (Eq. 5)
