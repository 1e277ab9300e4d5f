"""Spatial attention in plain PyTorch: the definition, and the path that runs everywhere."""

from __future__ import annotations

import torch
from torch import Tensor

from sdtc.kernels.common.attention import scaled_dot_product


def spatial_attention_reference(qkv: Tensor) -> Tensor:
    """The definition of `spatial_attention`, computed in the dtype of its input."""
    q, k, v = qkv.unbind(3)  # each [B, T, L, H, D]
    scores = torch.einsum("btlhd,btmhd->bthlm", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bthlm,btmhd->btlhd", scores.softmax(-1), v).flatten(-2)


def spatial_attention_plain(qkv: Tensor) -> Tensor:
    """`spatial_attention` by PyTorch's fused attention; runs on any device."""
    B, T, L, _, H, D = qkv.shape
    q, k, v = qkv.flatten(0, 1).permute(2, 0, 3, 1, 4)  # each [B*T, H, L, D], strided views
    out = scaled_dot_product(q, k, v)
    return out.transpose(1, 2).reshape(B, T, L, H * D)
