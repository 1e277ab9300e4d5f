"""Multi-head self-attention over one axis of packed space-time tokens (Eq. 2 and 3).

    out[b, ·, h, :] = softmax(q kᵀ / √D) v        per batch b and head h

Temporal attention runs over the T tokens at one location, spatial attention over the L tokens of one frame; joint
attention is spatial attention over a single "frame" of T·L tokens. The layout ``[B, T, L, 3, H, D]`` is what the
qkv projection writes, so nothing is permuted in memory on the way in or out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sdtc.kernels.common.onnx_node import exporting, onnx_node
from sdtc.kernels.common.torch_operators import MAX_D, MAX_T, MIN_D, register, use_kernel


def temporal_attention(qkv: Tensor) -> Tensor:
    """Attend over T at each location (TA of Eq. 3).

    Args:
        qkv: packed queries, keys and values, ``[B, T, L, 3, H, D]``.

    Returns:
        ``[B, T, L, H*D]``.
    """
    if exporting():
        return _node("TemporalAttention", qkv)
    fits = qkv.shape[1] <= MAX_T and MIN_D <= qkv.shape[5] <= MAX_D
    return _temporal_operator(qkv) if use_kernel(qkv, fits) else temporal_attention_plain(qkv)


def spatial_attention(qkv: Tensor) -> Tensor:
    """Attend over L in each frame (SA of Eq. 3; with T = 1 and L = T·L tokens, the MHSA of Eq. 2).

    Args:
        qkv: packed queries, keys and values, ``[B, T, L, 3, H, D]``.

    Returns:
        ``[B, T, L, H*D]``.
    """
    if exporting():
        return _node("SpatialAttention", qkv)
    fits = MIN_D <= qkv.shape[5] <= MAX_D
    return _spatial_operator(qkv) if use_kernel(qkv, fits) else spatial_attention_plain(qkv)


def temporal_attention_reference(qkv: Tensor) -> Tensor:
    """The definition of :func:`temporal_attention`, in the dtype of its input."""
    q, k, v = qkv.unbind(3)  # each [B, T, L, H, D]
    scores = torch.einsum("btlhd,bslhd->blhts", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("blhts,bslhd->btlhd", scores.softmax(-1), v).flatten(-2)


def spatial_attention_reference(qkv: Tensor) -> Tensor:
    """The definition of :func:`spatial_attention`, in the dtype of its input."""
    q, k, v = qkv.unbind(3)  # each [B, T, L, H, D]
    scores = torch.einsum("btlhd,btmhd->bthlm", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bthlm,btmhd->btlhd", scores.softmax(-1), v).flatten(-2)


def temporal_attention_plain(qkv: Tensor) -> Tensor:
    """:func:`temporal_attention` in PyTorch's fused attention, which has to permute; runs everywhere."""
    B, T, L, _, H, D = qkv.shape
    q, k, v = qkv.permute(3, 0, 2, 4, 1, 5).reshape(3, B * L, H, T, D)
    out = F.scaled_dot_product_attention(q, k, v)  # [B*L, H, T, D]
    return out.view(B, L, H, T, D).permute(0, 3, 1, 2, 4).reshape(B, T, L, H * D)


def spatial_attention_plain(qkv: Tensor) -> Tensor:
    """:func:`spatial_attention` in PyTorch's fused attention; runs everywhere."""
    B, T, L, _, H, D = qkv.shape
    q, k, v = qkv.flatten(0, 1).permute(2, 0, 3, 1, 4)  # each [B*T, H, L, D], strided views
    out = F.scaled_dot_product_attention(q, k, v)
    return out.transpose(1, 2).reshape(B, T, L, H * D)


def _fake(qkv: Tensor) -> Tensor:
    B, T, L, _, H, D = qkv.shape
    return qkv.new_empty((B, T, L, H * D))


_temporal_operator = register("temporal_attention", "(Tensor qkv) -> Tensor", temporal_attention_plain, _fake)
_spatial_operator = register("spatial_attention", "(Tensor qkv) -> Tensor", spatial_attention_plain, _fake)


def _node(name: str, qkv: Tensor) -> Tensor:
    B, T, L, _, H, D = qkv.shape
    return onnx_node(name, [qkv], (B, T, L, H * D), scale=D**-0.5)
