"""Attention by PyTorch: what the plain paths of the operators and the backbone run."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def scaled_dot_product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q·kᵀ/√D)·v for q, k and v ``[..., N, D]``, by PyTorch's fused attention.

    Where a CPU trains in half precision, by plain products: forward and backward together, the fused one takes two to
    three times as long there.
    """
    if not (q.requires_grad and q.device.type == "cpu" and q.dtype in (torch.bfloat16, torch.float16)):
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):  # which would compute the softmax in fp32
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return scores.softmax(-1) @ v
