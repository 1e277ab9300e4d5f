"""Self-feature refinement: the softmax contexts of SMML (Eq. 6-8, without the convolution).

For a map X of C channels and N = h·w pixels:

    O  = softmax over pixels or channels (X)  [C, N]  context maps, Eq. 6
    OC = X · Oᵀ                               [C, C]  context features, Eq. 7
    A  = softmax over contexts (Xᵀ · OC)      [N, C]  how much each pixel takes of each context
    out = OC · Aᵀ                             [C, N]  Eq. 8, already in map layout

Eq. 6 can be read in two ways. Its words say "along the channel dimension". It follows OCR (Yuan et al., 2020), whose
soft object regions are normalised over the pixels of each region: then a context map is a distribution over the image,
and column c of OC the mean feature of region c. `axis` chooses.

The products sum up to N terms of features that are not normalised, and easily exceed fp16's largest number, 65,504. So
both softmaxes and all products are computed in fp32, whatever the dtype of the input.

In: a map ``[B, C, N]`` and the axis of Eq. 6's softmax. Out: the refined map ``[B, C, N]``.
"""

from __future__ import annotations

from torch import Tensor

from sdtc.core.errors import KernelError
from sdtc.kernels.common.onnx_node import exporting, onnx_node
from sdtc.kernels.common.torch_operators import register, use_kernel
from sdtc.kernels.operators.self_refinement.reference import self_refinement_plain

# Channels and pixels that the Triton kernel takes. Its loops over at most 16 channels would be unrolled, and spill.
MIN_C, MAX_C, MAX_N = 17, 2048, 512
CONTEXT_AXES = {"channels": 1, "pixels": 2}  # of a map, for Eq. 6's softmax


def self_refinement(x: Tensor, axis: int) -> Tensor:
    """Refine a feature map by its own contexts (Eq. 6-8).

    Args:
        x: map ``[B, C, N]``.
        axis: of Eq. 6's softmax, one of `CONTEXT_AXES`.

    Returns:
        ``[B, C, N]``, in the dtype of x.

    Raises:
        KernelError: there is no such axis.
    """
    check_axis(axis)
    if exporting():
        return onnx_node("SelfRefinement", [x], x.shape, axis=axis)
    _, C, N = x.shape
    if use_kernel(x, MIN_C <= C <= MAX_C and 1 <= N <= MAX_N):
        return _operator(x.contiguous(), axis)
    return self_refinement_plain(x, axis)


def check_axis(axis: int) -> None:
    """Raise `KernelError` unless an axis is one of `CONTEXT_AXES`."""
    if axis not in CONTEXT_AXES.values():
        expected = " or ".join(f"{number} ({name})" for name, number in CONTEXT_AXES.items())
        raise KernelError(f"self_refinement: `axis` is {axis}: expected {expected}")


def _empty_result(x: Tensor, axis: int) -> Tensor:
    return x.new_empty(x.shape)


_operator = register(__name__, "(Tensor x, int axis) -> Tensor", self_refinement_plain, _empty_result)
