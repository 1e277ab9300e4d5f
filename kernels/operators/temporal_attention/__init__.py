"""Temporal attention: self-attention over the frames of a window, at each location (TA of Eq. 3).

    out[b, :, l, h] = softmax(q kᵀ / √D) v        per batch element b, location l and head h

In: packed queries, keys and values ``[B, T, L, 3, H, D]``, as the qkv projection writes them. Out: ``[B, T, L, H*D]``,
as the next projection reads it. Nothing is permuted in memory on the way in or out.
"""

from __future__ import annotations

from torch import Tensor

from sdtc.kernels.common.onnx_node import exporting
from sdtc.kernels.common.packed_tokens import MAX_D, MAX_OFFSET, MIN_D, attention_node, empty_result
from sdtc.kernels.common.torch_operators import register, use_kernel
from sdtc.kernels.operators.temporal_attention.reference import temporal_attention_plain

MAX_T = 16  # frames that the Triton kernels take


def temporal_attention(qkv: Tensor) -> Tensor:
    """Attend over T at each location (TA of Eq. 3).

    Args:
        qkv: packed queries, keys and values, ``[B, T, L, 3, H, D]``.

    Returns:
        ``[B, T, L, H*D]``.
    """
    if exporting():
        return attention_node("TemporalAttention", qkv)
    _, T, L, _, H, D = qkv.shape
    fits = 1 <= T <= MAX_T and MIN_D <= D <= MAX_D and 1 <= T * L * 3 * H * D <= MAX_OFFSET
    return _operator(qkv) if use_kernel(qkv, fits) else temporal_attention_plain(qkv)


_operator = register(__name__, "(Tensor qkv) -> Tensor", temporal_attention_plain, empty_result)
