"""The attention inside SMCA: every pixel of one map gathers from every pixel of another (Eq. 9).

out = softmax(Qᵀ · K / √C) applied to V       single head, d = C, maps of N = h·w pixels
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sdtc.kernels.common.onnx_node import exporting, onnx_node
from sdtc.kernels.common.torch_operators import MAX_CROSSED_PIXELS, register, use_kernel


def cross_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend from the pixels of one map to those of another.

    Args:
        q: queries ``[B, C, N]``.
        k, v: keys and values ``[B, C, N]``.

    Returns:
        ``[B, C, N]``.
    """
    if exporting():
        return onnx_node("CrossAttention", [q, k, v], q.shape, scale=q.shape[1] ** -0.5)
    if use_kernel(q, q.shape[2] <= MAX_CROSSED_PIXELS):
        return _operator(q.contiguous(), k.contiguous(), v.contiguous())
    return cross_attention_plain(q, k, v)


def cross_attention_reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The definition of :func:`cross_attention`, in the dtype of its input."""
    A = torch.softmax(torch.einsum("bcn,bcm->bnm", q, k) * q.shape[1] ** -0.5, dim=-1)  # [B, N, N]
    return torch.einsum("bnm,bcm->bcn", A, v)


def cross_attention_plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """:func:`cross_attention` in PyTorch's fused attention; runs everywhere."""
    q, k, v = (t.transpose(1, 2)[:, None] for t in (q, k, v))  # [B, 1, N, C]
    return F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2)


def _fake(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q.new_empty(q.shape)


_operator = register("cross_attention", "(Tensor q, Tensor k, Tensor v) -> Tensor", cross_attention_plain, _fake)
