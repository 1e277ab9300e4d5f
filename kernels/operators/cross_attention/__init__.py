"""Cross-attention: the attention inside SMCA, from every pixel of one map to every pixel of another (Eq. 9).

    out = softmax(Qᵀ · K / √C) applied to V       one head, d = C, maps of N = h·w pixels

In: three maps ``[B, C, N]``. Out: one map ``[B, C, N]``.
"""

from __future__ import annotations

from torch import Tensor

from sdtc.kernels.common.onnx_node import exporting, onnx_node
from sdtc.kernels.common.torch_operators import register, use_kernel
from sdtc.kernels.operators.cross_attention.reference import cross_attention_plain

# Channels and pixels that the Triton kernel takes. Its loops over at most 16 channels would be unrolled, and spill.
MIN_C, MAX_C, MAX_N = 17, 2048, 512


def cross_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend from the pixels of one map to those of another (Eq. 9).

    Args:
        q: queries ``[B, C, N]``.
        k, v: keys and values ``[B, C, N]``.

    Returns:
        ``[B, C, N]``.
    """
    if exporting():
        return onnx_node("CrossAttention", [q, k, v], q.shape, scale=q.shape[1] ** -0.5)
    _, C, N = q.shape
    if use_kernel(q, MIN_C <= C <= MAX_C and 1 <= N <= MAX_N):
        return _operator(q.contiguous(), k.contiguous(), v.contiguous())
    return cross_attention_plain(q, k, v)


def _empty_result(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q.new_empty(q.shape)


_operator = register(__name__, "(Tensor q, Tensor k, Tensor v) -> Tensor", cross_attention_plain, _empty_result)
