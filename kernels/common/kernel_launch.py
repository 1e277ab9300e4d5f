"""The launch of a Triton kernel that is fixed to shapes, dtypes and a tactic, and the checks before it. Needs Triton.

A kernel takes its arguments in the order in which TensorRT passes them to a plugin that is compiled ahead of time:
input pointers, int32 scalars, output pointers. Everything else is a compile-time constant. Grids are one-dimensional,
because y and z take at most 65,535 blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from sdtc.core.errors import KernelError
from sdtc.kernels.common.packed_tokens import empty_result
from sdtc.kernels.common.torch_operators import UnfitError
from sdtc.kernels.common.with_triton import triton

DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp64": torch.float64,
    "u8": torch.uint8,
    "i32": torch.int32,
}
FLOATS = ("fp32", "fp16", "bf16")
NAMES = {dtype: name for name, dtype in DTYPES.items()}
ALIGNMENT = 16  # bytes: a vector load needs it, and every allocator gives at least that


@dataclass(frozen=True)
class Launch:
    """One kernel, fixed to shapes, dtypes and a tactic; only the batch size is open.

    Attributes:
        kernel: the Triton function.
        inputs, outputs: dtype of every pointer (a key of `DTYPES`) by argument name, in the kernel's order.
        constants: compile-time arguments.
        items: units of work of one batch element.
        items_per_block: units that one block computes.
        scalars: names of the int32 arguments, in the kernel's order; ``items`` counts the units of the whole batch. The
            kernel must not be specialized for their values: Triton would make a constant of a 1.
        num_warps, num_stages: Triton's compilation options.
    """

    kernel: Any
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    constants: Mapping[str, Any]
    items: int
    items_per_block: int = 1
    scalars: tuple[str, ...] = ()
    num_warps: int = 4
    num_stages: int = 2

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the kernel by its module and name, because a Triton function itself cannot be pickled."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "kernel"}
        return _restore, (self.kernel.fn.__module__, self.kernel.fn.__name__, values)

    def blocks(self, batch: Any) -> Any:
        """Return the number of blocks for a batch: an int, or a symbolic expression of TensorRT's (``+ * //``)."""
        return (batch * self.items + (self.items_per_block - 1)) // self.items_per_block

    def run(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], batch: int, **scalars: int) -> None:
        """Launch on the tensors' device (in Triton's interpreter: on the CPU).

        Args:
            inputs, outputs: contiguous tensors, in the order of the kernel's arguments.
            batch: number of batch elements.
            scalars: values of the int32 arguments except ``items``.
        """
        if batch == 0:
            return
        scalars["items"] = batch * self.items
        values = [scalars[name] for name in self.scalars]
        # Triton launches on the current device, wherever the tensors are.
        with torch.cuda.device_of(inputs[0]):
            self.kernel[(self.blocks(batch),)](
                *inputs, *values, *outputs, **self.constants, num_warps=self.num_warps, num_stages=self.num_stages
            )


def _restore(module: str, name: str, values: dict[str, Any]) -> Launch:
    return Launch(kernel=getattr(import_module(module), name), **values)


def next_power_of_2(n: int) -> int:
    """Return the smallest power of two that is at least `n`; 1 for 0."""
    return 1 << max(n - 1, 0).bit_length()


def dtype_name(dtype: torch.dtype, operator: str, allowed: Sequence[str] = FLOATS) -> str:
    """Return the short name of a dtype, e.g. ``"fp16"``.

    Args:
        dtype: of a tensor.
        operator: named in the error.
        allowed: dtypes that the kernel takes, keys of `DTYPES`.

    Raises:
        KernelError: the kernel does not take the dtype.
    """
    name = NAMES.get(dtype, "")
    if name not in allowed:
        raise KernelError(f"{operator}: dtype {dtype} is not supported: expected {' or '.join(allowed)}")
    return name


def check_range(operator: str, what: str, value: int, low: int, high: int) -> None:
    """Raise `UnfitError` unless ``low <= value <= high``."""
    if not low <= value <= high:
        raise UnfitError(f"{operator}: {what} is {value}: the kernel takes {low} to {high}")


def check_fits(operator: str, what: str, fits: bool, architecture: int | None) -> None:
    """Raise `UnfitError` unless what is asked for fits an architecture."""
    if not fits:
        raise UnfitError(
            f"{operator}: {what} does not fit sm_{architecture}: use PyTorch's operators, or `plugins='auto'` in an "
            "export"
        )


def capability_of(tensor: Tensor) -> int | None:
    """Return the compute capability of a tensor's GPU, e.g. 75 for 7.5; None in Triton's interpreter."""
    return _capability(tensor.device) if tensor.is_cuda else None


@functools.cache
def _capability(device: torch.device) -> int:  # pragma: no cover  (needs a GPU)
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def check_tactic(operator: str, tactic: str, known: Sequence[str]) -> None:
    """Raise `KernelError` unless a tactic is known, or empty, which stands for the default."""
    if tactic and tactic not in known:
        raise KernelError(f"{operator}: `tactic` is '{tactic}': expected one of {', '.join(known)}")


def check_tensor(operator: str, name: str, tensor: Tensor, layout: str, like: Tensor | None = None) -> None:
    """Check what every kernel requires of its tensors.

    Args:
        operator, name: of the operator and its argument, named in the error.
        tensor: the argument.
        layout: names its axes, e.g. ``"[B, C, N]"``.
        like: another argument that must have the same shape, dtype and device.

    Raises:
        KernelError: the tensor is not on the GPU, has another number of axes, is not contiguous, is not aligned, or
            differs from `like`.
    """
    if not (tensor.is_cuda or triton.knobs.runtime.interpret):
        raise KernelError(f"{operator}: `{name}` is on {tensor.device}: the kernels run on CUDA, move it with .cuda()")
    rank = layout.count(",") + 1
    if tensor.ndim != rank:
        raise KernelError(f"{operator}: `{name}` has {tensor.ndim} axes, {list(tensor.shape)}: expected {layout}")
    if not tensor.is_contiguous():
        raise KernelError(f"{operator}: `{name}` is not contiguous: call .contiguous() first, it is {layout}")
    if tensor.data_ptr() % ALIGNMENT:
        raise KernelError(
            f"{operator}: `{name}` begins at an address that is not a multiple of {ALIGNMENT} bytes, as a slice of a "
            "larger tensor may: .clone() it first"
        )
    if like is not None and (tensor.shape, tensor.dtype, tensor.device) != (like.shape, like.dtype, like.device):
        raise KernelError(
            f"{operator}: `{name}` is {tensor.dtype} {list(tensor.shape)} on {tensor.device}, the first input is "
            f"{like.dtype} {list(like.shape)} on {like.device}: expected them to agree"
        )


def run_packed(name: str, configure: Callable[..., Launch], qkv: Tensor, tactic: str) -> Tensor:
    """Run an attention kernel over packed tokens.

    Args:
        name: of the operator, named in errors.
        configure: takes (T, L, H, D, dtype, tactic, architecture) to the launch.
        qkv: ``[B, T, L, 3, H, D]``.
        tactic: as `configure` takes it.

    Returns:
        ``[B, T, L, H*D]``.

    Raises:
        KernelError: the kernel does not take the tensor.
    """
    check_tensor(name, "qkv", qkv, "[B, T, L, 3, H, D]")
    B, T, L, three, H, D = qkv.shape
    if three != 3:
        raise KernelError(f"{name}: `qkv` is {list(qkv.shape)}: expected 3, for q, k and v, on the fourth axis")
    out = empty_result(qkv)
    configure(T, L, H, D, dtype_name(qkv.dtype, name), tactic, capability_of(qkv)).run([qkv], [out], B)
    return out
