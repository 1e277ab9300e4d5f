"""Spatial attention: self-attention over the tokens of each frame (SA of Eq. 3).

    out[b, t, :, h] = softmax(q kᵀ / √D) v        per batch element b, frame t and head h

Joint attention over all tokens of a window (MHSA of Eq. 2) is the same on one "frame" of T·L tokens.

In: packed queries, keys and values ``[B, T, L, 3, H, D]``, as the qkv projection writes them. Out: ``[B, T, L, H*D]``,
as the next projection reads it. Nothing is permuted in memory on the way in or out.
"""

from __future__ import annotations

from torch import Tensor

from sdtc.kernels.common.onnx_node import exporting
from sdtc.kernels.common.packed_tokens import MAX_D, MAX_OFFSET, MIN_D, attention_node, empty_result
from sdtc.kernels.common.torch_operators import register, use_kernel
from sdtc.kernels.operators.spatial_attention.reference import spatial_attention_plain

MAX_L = 1 << 16  # tokens of a frame that the Triton kernel takes


def spatial_attention(qkv: Tensor) -> Tensor:
    """Attend over L in each frame (SA of Eq. 3; on ``[B, 1, T*L, 3, H, D]`` the MHSA of Eq. 2).

    Args:
        qkv: packed queries, keys and values, ``[B, T, L, 3, H, D]``.

    Returns:
        ``[B, T, L, H*D]``.
    """
    if exporting():
        return attention_node("SpatialAttention", qkv)
    _, _, L, _, H, D = qkv.shape
    fits = 1 <= L <= MAX_L and MIN_D <= D <= MAX_D and 1 <= L * 3 * H * D <= MAX_OFFSET
    return _operator(qkv) if use_kernel(qkv, fits) else spatial_attention_plain(qkv)


_operator = register(__name__, "(Tensor qkv) -> Tensor", spatial_attention_plain, empty_result)
