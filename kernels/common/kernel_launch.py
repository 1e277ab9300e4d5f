"""What the Triton kernels have in common: how one of them, made for certain shapes, is described and launched.

A kernel's arguments come in the order in which TensorRT passes them to an ahead-of-time plugin: input pointers, int32
scalars, output pointers; the rest is fixed when it is compiled. All grids are one-dimensional, for y and z end at
65,535 blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from sdtc.core.errors import KernelError, require

require("triton", "kernels", "a Triton kernel")
import triton  # noqa: E402

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
ALIGNMENT = 16  # bytes: what a vector load takes, and the least that allocators give


@dataclass(frozen=True)
class Launch:
    """One kernel, fixed to shapes, dtypes and a tactic.

    Attributes:
        kernel: the Triton function.
        inputs, outputs: dtype (as in `DTYPES`) of every pointer, by argument name and in order.
        scalars: names of the int32 arguments, in order; ``items`` is all of a batch's.
        constants: the compile-time arguments.
        items: units of work per batch element; a block does `items_per_block` of them.
        num_warps, num_stages: as Triton takes them.
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
        """Pickle the kernel by its name, for processes that compile: a Triton function cannot be pickled itself."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "kernel"}
        return _restore, (self.kernel.fn.__module__, self.kernel.fn.__name__, values)

    def blocks(self, batch: Any) -> Any:
        """Number of blocks for a batch: an int, or an expression of TensorRT's that supports ``+ * //``."""
        return (batch * self.items + (self.items_per_block - 1)) // self.items_per_block

    def run(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], batch: int, **scalars: int) -> None:
        """Launch on the tensors' device (under Triton's interpreter: on the CPU).

        Args:
            inputs, outputs: in the order of the kernel's arguments; contiguous.
            batch: batch elements.
            scalars: values of the int32 arguments, but ``items``.
        """
        if batch == 0:
            return
        scalars["items"] = batch * self.items
        values = [scalars[name] for name in self.scalars]
        # Triton asks which device is current, and not where the tensors are.
        with torch.cuda.device_of(inputs[0]):
            self.kernel[(self.blocks(batch),)](
                *inputs, *values, *outputs, **self.constants, num_warps=self.num_warps, num_stages=self.num_stages
            )


def _restore(module: str, name: str, values: dict[str, Any]) -> Launch:
    return Launch(kernel=getattr(import_module(module), name), **values)


def next_power_of_2(n: int) -> int:
    return 1 << max(n - 1, 0).bit_length()


def dtype_name(dtype: torch.dtype, operator: str, allowed: Sequence[str] = FLOATS) -> str:
    """Return the name of a supported dtype.

    Raises:
        KernelError: it is not supported.
    """
    name = NAMES.get(dtype, "")
    if name not in allowed:
        raise KernelError(f"{operator}: dtype {dtype} is not supported: expected {' or '.join(allowed)}")
    return name


def check_range(operator: str, what: str, value: int, low: int, high: int) -> None:
    """Raise `KernelError` unless ``low <= value <= high``."""
    if not low <= value <= high:
        raise KernelError(f"{operator}: {what} is {value}: the kernel takes {low} to {high}")


def check_tactic(operator: str, tactic: str, known: Sequence[str]) -> None:
    """Raise `KernelError` unless a tactic is known, or empty for the default."""
    if tactic and tactic not in known:
        raise KernelError(f"{operator}: tactic is '{tactic}': expected one of {', '.join(known)}")


def check_tensor(operator: str, name: str, tensor: Tensor, layout: str, like: Tensor | None = None) -> None:
    """Check what every kernel relies on.

    Args:
        operator, name: for the message.
        tensor: an input.
        layout: e.g. ``"[B, C, N]"``; as many axes as it names.
        like: an input that it must agree with in shape, dtype and device.

    Raises:
        KernelError: the device, the rank, the memory layout or the alignment is not what the kernel takes.
    """
    if not (tensor.is_cuda or triton.knobs.runtime.interpret):
        raise KernelError(f"{operator}: {name} is on {tensor.device}: the kernels run on CUDA, move it with .cuda()")
    rank = layout.count(",") + 1
    if tensor.ndim != rank:
        raise KernelError(f"{operator}: {name} has {tensor.ndim} axes, {list(tensor.shape)}: expected {layout}")
    if not tensor.is_contiguous():
        raise KernelError(f"{operator}: {name} is not contiguous: call .contiguous() first, it is {layout}")
    if tensor.data_ptr() % ALIGNMENT:
        raise KernelError(
            f"{operator}: {name} begins at an address that is not a multiple of {ALIGNMENT} bytes, as a slice of a "
            "larger tensor may: .clone() it first"
        )
    if like is not None and (tensor.shape, tensor.dtype, tensor.device) != (like.shape, like.dtype, like.device):
        raise KernelError(
            f"{operator}: {name} is {tensor.dtype} {list(tensor.shape)} on {tensor.device}, the first input is "
            f"{like.dtype} {list(like.shape)} on {like.device}: expected them to agree"
        )


def run_packed(name: str, plan: Callable[..., Launch], qkv: Tensor, tactic: str) -> Tensor:
    """Run an attention kernel over packed tokens ``[B, T, L, 3, H, D]``, to ``[B, T, L, H*D]``."""
    check_tensor(name, "qkv", qkv, "[B, T, L, 3, H, D]")
    B, T, L, three, H, D = qkv.shape
    if three != 3:
        raise KernelError(f"{name}: qkv is {list(qkv.shape)}: expected 3, for q, k and v, on the fourth axis")
    out = qkv.new_empty((B, T, L, H * D))
    plan(T, L, H, D, dtype_name(qkv.dtype, name), tactic).run([qkv], [out], B)
    return out
