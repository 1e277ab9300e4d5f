"""Cross-attention in plain PyTorch: the definition (Eq. 9), and the path that runs everywhere."""

from __future__ import annotations

import torch
from torch import Tensor

from sdtc.kernels.common.attention import scaled_dot_product


def cross_attention_reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The definition of `cross_attention` (Eq. 9), computed in the dtype of its input."""
    A = torch.softmax(torch.einsum("bcn,bcm->bnm", q, k) * q.shape[1] ** -0.5, dim=-1)  # [B, N, N]
    return torch.einsum("bnm,bcm->bcn", A, v)


def cross_attention_plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`cross_attention` by PyTorch's fused attention; runs on any device."""
    q, k, v = (t.transpose(1, 2).unsqueeze(1) for t in (q, k, v))  # [B, 1, N, C]
    return scaled_dot_product(q, k, v).squeeze(1).transpose(1, 2)
