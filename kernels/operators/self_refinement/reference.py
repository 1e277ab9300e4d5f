"""Self-feature refinement in plain PyTorch: the definition, and the path that runs everywhere."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor


def self_refinement_reference(x: Tensor, axis: int) -> Tensor:
    """The definition of `self_refinement`, computed in the dtype of its input."""
    O = torch.softmax(x, dim=axis)  # noqa: E741  (the paper's name)  [B, C, N]  Eq. 6
    OC = torch.einsum("bin,bjn->bij", x, O)  # [B, C, C]  Eq. 7
    A = torch.softmax(torch.einsum("bin,bij->bnj", x, OC), dim=2)  # [B, N, C]
    return torch.einsum("bij,bnj->bin", OC, A)  # [B, C, N]  Eq. 8


def self_refinement_plain(x: Tensor, axis: int) -> Tensor:
    """`self_refinement` in single operators, in fp32; runs on any device."""
    device = x.device.type
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        features = x.float()
        contexts = features @ features.softmax(axis).transpose(1, 2)  # [B, C, C]
        weights = (features.transpose(1, 2) @ contexts).softmax(2)  # [B, N, C]
        return (contexts @ weights.transpose(1, 2)).to(x.dtype)
