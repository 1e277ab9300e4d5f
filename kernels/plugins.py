"""The Triton kernels as TensorRT plugins, compiled ahead of time: the engine needs neither Python nor Triton to run.

For each ONNX operator of domain ``sdtc``, TensorRT gets the shape of the result, the dtypes and tactics to try and, for
each tactic, a compiled kernel whose grid is an expression of the batch size. Only full TensorRT supports such plugins.
TensorRT-RTX aborts on them, so they must never be registered in a process that builds with it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from sdtc.core.errors import KernelError, require
from sdtc.kernels import aot
from sdtc.kernels.common.kernel_launch import FLOATS, Launch, check_range
from sdtc.kernels.common.multiprocessors import MULTIPROCESSORS
from sdtc.kernels.common.onnx_node import DOMAIN
from sdtc.kernels.common.torch_operators import UnfitError
from sdtc.kernels.operators.cross_attention import launch as cross_attention
from sdtc.kernels.operators.self_refinement import CONTEXT_AXES
from sdtc.kernels.operators.self_refinement import launch as self_refinement
from sdtc.kernels.operators.spatial_attention import launch as spatial_attention
from sdtc.kernels.operators.temporal_attention import launch as temporal_attention

# By operator, the architecture; TensorRT registers a name only once in a process.
_registered: dict[str, int] = {}
MAX_SHARED = 48 << 10  # bytes of a block; more would have to be requested from the driver
MAX_PIXELS = 256  # of a map, for which self-refinement and cross-attention stay within that


@dataclass(frozen=True)
class Operator:
    """One custom operator as TensorRT sees it.

    Attributes:
        inputs: names of the input tensors.
        attributes: of the ONNX node, with their types. Each is a constant of the kernel, in capitals.
        defaults: of attributes that nodes of older exports lack.
        tactics: names; TensorRT numbers them from 1.
        static: takes the input's shape to the sizes that the kernel is compiled for; the batch is not one of them.
        configure: takes (*sizes, *choices, dtype, tactic, architecture) to the launch.
        output: takes the input's shape to the output's.
        choices: attributes that `configure` takes; the others follow from the sizes.
    """

    inputs: tuple[str, ...]
    attributes: dict[str, type]
    tactics: tuple[str, ...]
    static: Callable[[Sequence[Any]], tuple[Any, ...]]
    configure: Callable[..., Launch]
    output: Callable[[Sequence[Any]], tuple[Any, ...]]
    choices: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)


def _attention(module: Any) -> Operator:
    return Operator(
        ("qkv",),
        {"scale": float},
        module.TACTICS,
        lambda shape: (shape[1], shape[2], shape[4], shape[5]),  # T, L, H, D of [B, T, L, 3, H, D]
        module.configure,
        lambda shape: (shape[0], shape[1], shape[2], shape[4] * shape[5]),
    )


OPERATORS = {
    "TemporalAttention": _attention(temporal_attention),
    "SpatialAttention": _attention(spatial_attention),
    "SelfRefinement": Operator(
        ("x",), {"axis": int}, self_refinement.TACTICS, lambda shape: tuple(shape[1:]), self_refinement.configure,
        tuple, choices=("axis",), defaults={"axis": CONTEXT_AXES["channels"]},
    ),
    "CrossAttention": Operator(
        ("q", "k", "v"), {"scale": float}, cross_attention.TACTICS, lambda shape: tuple(shape[1:]),
        cross_attention.configure, tuple,
    ),
}  # fmt: skip


def register(capability: int, operators: Collection[str] = tuple(OPERATORS), cache: Path | None = None) -> None:
    """Register operators with TensorRT's plugin registry, for one architecture; each once in a process.

    Args:
        capability: compute capability of the GPU that the engine is built for, e.g. 89 for 8.9.
        operators: names of those in `OPERATORS` that engines shall have as plugins.
        cache: folder of compiled kernels, see `sdtc.kernels.aot`.

    Raises:
        MissingExtraError: full TensorRT is not installed.
        KernelError: kernels are not compiled for this GPU, other plugins are registered in this process, which engines
            would get too, or this TensorRT does not support plugins that are compiled ahead of time.
    """
    architecture = aot.architecture_for(capability)
    for name, other in _registered.items():
        if other != architecture or name not in operators:
            raise KernelError(
                f"the plugin {name} for sm_{other} is registered in this process already, and an engine for "
                f"sm_{architecture} needs others: export in a new process"
            )
    missing = [name for name in operators if name not in _registered]
    if not missing:
        return
    trt = require("tensorrt", "gpu", "`plugins='on'`")
    trtp = import_module("tensorrt.plugin")
    if not hasattr(trtp, "aot_impl"):
        raise KernelError(
            f"TensorRT {trt.__version__} does not support plugins that are compiled ahead of time: update it, or use "
            "`plugins='off'`"
        )
    for name in missing:
        _register(trtp, name, OPERATORS[name], architecture, cache)
        _registered[name] = architecture


def are_registered() -> bool:
    """Whether this process has registered plugins, and so must not build with TensorRT-RTX."""
    return bool(_registered)


def check(
    operators: Collection[str], frames: int, tokens: int, width: int, heads: int, axis: int, capability: int
) -> None:
    """Check that the kernels take a network of some sizes, in every dtype that a GPU supports, and fit that GPU.

    Args:
        operators: names of those in `OPERATORS` to check.
        frames: T, of a window.
        tokens: L, of a frame.
        width: C.
        heads: attention heads.
        axis: of self-refinement.
        capability: compute capability of the GPU, e.g. 89 for 8.9.

    Raises:
        KernelError: a size is out of range, kernels are not compiled for this GPU, or one does not fit it.
    """
    if {"SelfRefinement", "CrossAttention"} & set(operators):
        check_range("plugins", "tokens", tokens, 1, MAX_PIXELS)
    architecture = aot.architecture_for(capability)
    attention = heads, width // heads
    sizes = {
        "TemporalAttention": (frames, tokens, *attention),
        "SpatialAttention": (1, frames * tokens, *attention),  # joint attention, which is the larger
        "SelfRefinement": (width, tokens, axis),
        "CrossAttention": (width, tokens),
    }
    for name in operators:
        for dtype in FLOATS:
            if aot.supports(architecture, dtype):
                fitting_launch(OPERATORS[name], sizes[name], dtype, OPERATORS[name].tactics[0], architecture)


def fitting_launch(operator: Operator, sizes: Sequence[int], dtype: str, tactic: str, architecture: int) -> Launch:
    """Configure an operator's kernel with a tactic or, where that does not fit the GPU, with the first that does.

    TensorRT gets no tactic that fails: it times the same kernel twice instead.

    Args:
        operator: one of `OPERATORS`.
        sizes: as `Operator.static` returns them, and the operator's choices.
        dtype: of the tensors.
        tactic: one of the operator's.
        architecture: e.g. 75 for sm_75.

    Raises:
        UnfitError: a size is out of range, or no tactic fits.
    """
    for each in (tactic, *operator.tactics):
        with suppress(UnfitError):
            return operator.configure(*sizes, dtype, each, architecture)
    return operator.configure(*sizes, dtype, tactic, architecture)  # raises


def _register(trtp: Any, name: str, operator: Operator, architecture: int, cache: Path | None) -> None:
    plugin = f"{DOMAIN}::{name}"
    tensors = dict.fromkeys(operator.inputs, trtp.TensorDesc)
    parameters = {**tensors, **operator.attributes}
    outputs = {"outputs": tuple[trtp.TensorDesc]}
    count = len(operator.inputs)

    def describe(*inputs: Any, **_: Any) -> Any:
        result = inputs[0].like()
        result.shape_expr = trtp.ShapeExprs.from_tuple(operator.output(list(inputs[0].shape_expr)))
        return result

    # Takes no attributes: TensorRT would look for those that a node lacks.
    def autotune(*_: Any) -> list[Any]:
        tactics = list(range(1, len(operator.tactics) + 1))
        # The network is strongly typed: all tensors of an operator have the one dtype that the ONNX graph gives them.
        return [
            trtp.AutoTuneCombination(", ".join([dtype.upper()] * (count + 1)), "LINEAR", tactics) for dtype in FLOATS
        ]

    def implement(*arguments: Any) -> tuple[str, str, Any, Any]:
        inputs, given, tactic = arguments[:count], arguments[count:-2], arguments[-1]
        # An attribute that the node lacks is left out, and no operator has more than one.
        values = {**operator.defaults, **dict(zip(operator.attributes, given, strict=False))}
        shape = list(inputs[0].shape_expr)
        sizes = [size.constant_value() for size in operator.static(shape)] + [values[each] for each in operator.choices]
        wanted = operator.tactics[tactic - 1]
        launch = fitting_launch(operator, sizes, dtype_name(inputs[0].dtype), wanted, architecture)
        for name, value in values.items():
            fixed = launch.constants[name.upper()]
            if abs(value - fixed) > 1e-6:
                raise KernelError(f"{plugin} has {name} {value}: the kernel is compiled for {fixed}")
        compiled = aot.compile_kernel(launch, architecture, cache)
        available = min(MAX_SHARED, MULTIPROCESSORS[architecture].block_shared)
        if compiled.shared > available:
            raise KernelError(f"{plugin} needs {compiled.shared:,} bytes of shared memory: a plugin has {available:,}")
        params = trtp.KernelLaunchParams()
        params.grid_x = launch.blocks(shape[0])
        params.block_x = 32 * compiled.num_warps
        params.shared_mem = compiled.shared
        scalars = trtp.SymIntExprs(len(launch.scalars))
        for index, scalar in enumerate(launch.scalars):
            assert scalar == "items"
            scalars[index] = trtp.SymInt32(shape[0] * launch.items)
        return compiled.name, compiled.ptx, params, scalars

    # TensorRT reads names and types of the parameters from the function's signature.
    _sign(describe, parameters, trtp.TensorDesc)
    _sign(autotune, tensors | outputs, list[trtp.AutoTuneCombination])
    _sign(
        implement,
        parameters | outputs | {"tactic": int},
        tuple[str | bytes, str | bytes, trtp.KernelLaunchParams, trtp.SymIntExprs],
    )
    trtp.register(plugin)(describe)
    trtp.autotune(plugin)(autotune)
    trtp.aot_impl(plugin)(implement)


def dtype_name(dtype: Any) -> str:
    """Return our name of a TensorRT data type, e.g. ``"fp16"`` for HALF.

    Raises:
        KernelError: the kernels do not take it.
    """
    name = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16"}.get(getattr(dtype, "name", ""))
    if name is None:
        raise KernelError(f"the kernels do not take {dtype}: expected FLOAT, HALF or BF16")
    return name


def _sign(function: Callable[..., Any], parameters: dict[str, Any], returns: Any) -> None:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = [inspect.Parameter(name, kind, annotation=annotation) for name, annotation in parameters.items()]
    function.__signature__ = inspect.Signature(signature, return_annotation=returns)  # type: ignore[attr-defined]
