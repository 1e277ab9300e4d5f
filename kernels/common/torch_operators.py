"""The operators as PyTorch knows them: ``torch.ops.sdtc.*``, with shapes for tracing and gradients.

On CUDA tensors an operator launches its Triton kernel if that fits the GPU, elsewhere it runs the plain path. The
backward pass runs the plain path again and differentiates it, so only the inputs are kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from sdtc.core.errors import KernelError

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class UnfitError(KernelError):
    """Sizes that the kernels do not take, at all or on an architecture: PyTorch's own operators do."""


@functools.cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def use_kernel(tensor: Tensor, fits: bool) -> bool:
    """Whether to launch the Triton kernel: for a CUDA tensor of a supported dtype, with Triton installed.

    Args:
        tensor: the operator's input.
        fits: its sizes are in the kernel's range. The launch checks this again, and more: what it refuses goes the
            plain way too.
    """
    return tensor.is_cuda and fits and tensor.dtype in _DTYPES and _has_triton()


def kernel_where_it_fits(package: str, plain: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function that launches an operator's kernel or, where it does not fit the GPU, runs the plain path.

    Args:
        package: the operator's folder, as in `register`.
        plain: the same in PyTorch's operators.
    """

    def run(*inputs: Any) -> Tensor:
        try:
            return import_module(f"{package}.launch").run(*inputs)
        except UnfitError:
            return plain(*inputs)

    return run


def register(
    package: str, schema: str, plain: Callable[..., Tensor], fake: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """Define ``torch.ops.sdtc.NAME`` for an operator's folder.

    Args:
        package: the folder, e.g. ``sdtc.kernels.operators.cross_attention``; its last part is NAME, and `run` in its
            module `launch` launches the kernel.
        schema: arguments and result, e.g. ``"(Tensor x) -> Tensor"``; tensors come first.
        plain: the same in differentiable PyTorch operators, on any device.
        fake: makes an uninitialised result of the right shape and dtype.

    Returns:
        The operator.
    """

    def contiguous(*inputs: Any) -> Tensor:
        return plain(*inputs).contiguous()  # as the kernel writes it

    name = package.rpartition(".")[2]
    operator = torch.library.custom_op(f"sdtc::{name}", mutates_args=(), schema=schema)(contiguous)
    operator.register_fake(fake)
    operator.register_kernel("cuda")(kernel_where_it_fits(package, contiguous))

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*(each for each in inputs if isinstance(each, Tensor)))
        ctx.others = [each for each in inputs if not isinstance(each, Tensor)]

    def backward(ctx: Any, gradient: Tensor) -> Any:
        with torch.enable_grad():
            tensors = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
            gradients = torch.autograd.grad(plain(*tensors, *ctx.others), tensors, gradient)
        results = (*gradients, *(None for _ in ctx.others))
        return results if len(results) > 1 else results[0]

    operator.register_autograd(backward, setup_context=setup_context)
    return operator
