"""Temporal attention in plain PyTorch: the definition, and the path that runs everywhere."""

from __future__ import annotations

import torch
from torch import Tensor

from sdtc.kernels.common.attention import scaled_dot_product


def temporal_attention_reference(qkv: Tensor) -> Tensor:
    """The definition of `temporal_attention`, computed in the dtype of its input."""
    q, k, v = qkv.unbind(3)  # each [B, T, L, H, D]
    scores = torch.einsum("btlhd,bslhd->blhts", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("blhts,bslhd->btlhd", scores.softmax(-1), v).flatten(-2)


def temporal_attention_plain(qkv: Tensor) -> Tensor:
    """`temporal_attention` by PyTorch's fused attention, which has to permute the tokens; runs on any device."""
    B, T, L, _, H, D = qkv.shape
    q, k, v = qkv.permute(3, 0, 2, 4, 1, 5).reshape(3, B * L, H, T, D)
    out = scaled_dot_product(q, k, v)  # [B*L, H, T, D]
    return out.view(B, L, H, T, D).permute(0, 3, 1, 2, 4).reshape(B, T, L, H * D)
