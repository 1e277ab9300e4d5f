"""The operators as PyTorch knows them: ``torch.ops.sdtc.*``, with shapes for tracing and gradients.

On CUDA tensors they are the Triton kernels of `sdtc.kernels.gpu`, elsewhere the plain path that is given here. Their
backward pass runs the plain path again and differentiates that: nothing but the inputs is kept for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

# What the kernels take (checked again where they are launched); anything else runs as plain operators.
MAX_T, MIN_D, MAX_D = 16, 16, 128
MAX_REFINED_PIXELS = MAX_CROSSED_PIXELS = 512
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@functools.cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def use_kernel(tensor: Tensor, fits: bool) -> bool:
    """Whether a tensor goes to a kernel: on CUDA, with Triton, and of a size and dtype that it takes."""
    return tensor.is_cuda and fits and tensor.dtype in _DTYPES and _has_triton()


def register(
    name: str, schema: str, plain: Callable[..., Tensor], fake: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """Define ``torch.ops.sdtc.NAME``; its kernel is the `run` of `sdtc.kernels.gpu.NAME`.

    Args:
        name: of the operator and of the module.
        schema: of the arguments and the result, e.g. ``"(Tensor x) -> Tensor"``.
        plain: the same on any device, in differentiable operators.
        fake: an empty result of the right shape.

    Returns:
        The operator.
    """

    def contiguous(*inputs: Tensor) -> Tensor:
        return plain(*inputs).contiguous()  # as the kernel writes it

    operator = torch.library.custom_op(f"sdtc::{name}", mutates_args=(), schema=schema)(contiguous)
    operator.register_fake(fake)

    @operator.register_kernel("cuda")
    def _(*inputs: Any) -> Tensor:  # pragma: no cover  (needs a GPU)
        return import_module(f"sdtc.kernels.operators.{name}.triton_kernel").run(*inputs)

    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    def backward(ctx: Any, gradient: Tensor) -> Any:
        with torch.enable_grad():
            inputs = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
            gradients = torch.autograd.grad(plain(*inputs), inputs, gradient)
        return gradients if len(inputs) > 1 else gradients[0]

    operator.register_autograd(backward, setup_context=setup_context)
    return operator
