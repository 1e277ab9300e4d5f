"""Building blocks shared by the backbone, the motion encoder and the motion decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdtc.kernels import spatial_attention, temporal_attention

LAYER_NORM_EPS = 1e-6


class LayerNorm(nn.LayerNorm):
    """LayerNorm that computes in fp32 and returns the dtype of its input.

    Its parameters stay in fp32 when the rest of a network is cast to a lower precision (see `cast_network`), because
    squares of fp16 activations overflow.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float32:
            return super().forward(x)
        return F.layer_norm(x.float(), self.normalized_shape, self.weight, self.bias, self.eps).to(x.dtype)


class Mlp(nn.Module):
    """Two linear layers with a GELU in between: the FFN of a transformer block."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, ratio * width)
        self.fc2 = nn.Linear(ratio * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SpaceTimeAttention(nn.Module):
    """Pre-norm multi-head self-attention over space-time tokens along time, space or both, with a residual connection.

    Args:
        width: C.
        heads: attention heads.
        over: ``"time"`` (TA, Eq. 3), ``"space"`` (SA, Eq. 3) or ``"both"`` (joint attention, Eq. 2).
    """

    def __init__(self, width: int, heads: int, over: str) -> None:
        super().__init__()
        self.heads = heads
        self.over = over
        self.norm = LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        B, T, L, C = x.shape
        qkv = self.qkv(self.norm(x)).view(B, T, L, 3, self.heads, C // self.heads)
        if self.over == "time":
            attended = temporal_attention(qkv)
        elif self.over == "space":
            attended = spatial_attention(qkv)
        else:
            attended = spatial_attention(qkv.view(B, 1, T * L, 3, self.heads, C // self.heads)).view(B, T, L, C)
        return x + self.proj(attended)


class FeedForward(nn.Module):
    """Pre-norm FFN with a residual connection."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        self.norm = LayerNorm(width)
        self.mlp = Mlp(width, ratio)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


def init_transformer_weights(module: nn.Module) -> None:
    """Initialise as ViT does: linear layers from a truncated normal of σ 0.02, biases zero."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def cast_network(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Cast a network's weights to a lower precision in place, except LayerNorms, which stay in fp32."""
    network.to(dtype)
    for module in network.modules():
        if isinstance(module, LayerNorm):
            module.float()
    return network
