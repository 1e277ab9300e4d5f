"""Self-feature refinement: the softmax contexts of SMML (Eq. 6-8, without the convolution).

For a map X of C channels and N = h·w pixels:

    O  = softmax over channels (X)          [C, N]    context maps, Eq. 6
    OC = X · Oᵀ                             [C, C]    context features, Eq. 7
    A  = softmax over contexts (Xᵀ · OC)    [N, C]    which contexts a pixel wants
    out = OC · Aᵀ                           [C, N]    Eq. 8, already in map layout

The products are sums over up to N terms of features that are not normalised: they pass fp16's 65,504 easily, so
both softmaxes and both products run in fp32 whatever the input is.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from sdtc.kernels.common.onnx_node import exporting, onnx_node
from sdtc.kernels.common.torch_operators import MAX_REFINED_PIXELS, register, use_kernel


def self_refinement(x: Tensor) -> Tensor:
    """Refine a feature map by its own contexts.

    Args:
        x: map ``[B, C, N]``.

    Returns:
        ``[B, C, N]``, in the dtype of x.
    """
    if exporting():
        return onnx_node("SelfRefinement", [x], x.shape)
    if use_kernel(x, x.shape[2] <= MAX_REFINED_PIXELS):
        return _operator(x.contiguous())
    return self_refinement_plain(x)


def self_refinement_plain(x: Tensor) -> Tensor:
    """:func:`self_refinement` in single operators, in fp32; runs everywhere."""
    device = x.device.type
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        features = x.float()
        contexts = features @ features.softmax(1).transpose(1, 2)  # [B, C, C]
        weights = (features.transpose(1, 2) @ contexts).softmax(2)  # [B, N, C]
        return (contexts @ weights.transpose(1, 2)).to(x.dtype)


def self_refinement_reference(x: Tensor) -> Tensor:
    """The definition of :func:`self_refinement`, in the dtype of its input."""
    O = torch.softmax(x, dim=1)  # noqa: E741  (the paper's name)  [B, C, N]
    OC = torch.einsum("bin,bjn->bij", x, O)  # [B, C, C]
    A = torch.softmax(torch.einsum("bin,bij->bnj", x, OC), dim=2)  # [B, N, C]
    return torch.einsum("bij,bnj->bin", OC, A)


def _fake(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


_operator = register("self_refinement", "(Tensor x) -> Tensor", self_refinement_plain, _fake)
