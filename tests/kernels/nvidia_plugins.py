"""Our plugins under NVIDIA's own decorators and shape expressions, without a GPU. Run by test_plugins.py.

`tensorrt.plugin` is pure Python, but the package around it wants a driver. So it is imported over TensorRT-RTX, which
has the same classes but for a few names. Nothing is built here: RTX would abort on a plugin.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import sys
import types
from pathlib import Path


class Expression:
    """A shape expression that is worked out at once; stands for TensorRT's own."""

    def __init__(self, value: int, constant: bool = True) -> None:
        self.value = value
        self.constant = constant

    def is_constant(self) -> bool:
        return self.constant

    def get_constant_value(self) -> int:
        assert self.constant, "a size that is known only when the engine runs was asked for"
        return self.value


def install() -> types.ModuleType:
    """Make `import tensorrt.plugin` work over TensorRT-RTX."""
    import tensorrt_rtx as trt

    for name in ("IPluginV3QuickAOTBuild", "ISymExpr", "ISymExprs"):
        setattr(trt, name, type(name, (), {}))
    trt.QuickPluginCreationRequest = type("QuickPluginCreationRequest", (), {})
    trt.SymExprs = type("SymExprs", (), {})
    trt.IDimensionExpr = Expression
    sys.modules["tensorrt"] = trt
    folder = Path(importlib.util.find_spec("tensorrt_bindings").origin).parent
    package = types.ModuleType("tensorrt_bindings")
    package.__path__ = [str(folder)]
    sys.modules["tensorrt_bindings"] = package
    plugin = importlib.import_module("tensorrt_bindings.plugin")
    trt.plugin = sys.modules["tensorrt.plugin"] = plugin
    return trt


class Builder:
    """Makes `Expression`s, as `trt.IExprBuilder` makes TensorRT's."""

    def __init__(self, trt: types.ModuleType) -> None:
        op = trt.DimensionOperation
        self.work_out = {
            op.SUM: lambda a, b: a + b,
            op.SUB: lambda a, b: a - b,
            op.PROD: lambda a, b: a * b,
            op.FLOOR_DIV: lambda a, b: a // b,
            op.CEIL_DIV: lambda a, b: -(-a // b),
        }

    def constant(self, value: int) -> Expression:
        return Expression(value)

    def operation(self, op, a: Expression, b: Expression) -> Expression:
        return Expression(self.work_out[op](a.value, b.value), a.constant and b.constant)


def describe(trtp, trt, shape, dtype):
    """The description of an input with a batch that is known only when the engine runs."""
    desc = trtp.TensorDesc()
    desc.dtype = dtype
    sizes = [Expression(size, constant=axis > 0) for axis, size in enumerate(shape)]
    desc.shape_expr = trtp.ShapeExprs.from_tuple([trtp.ShapeExpr(size) for size in sizes])
    return desc


SHAPES = {
    "TemporalAttention": [(5, 48, 3, 4, 16), (5, 192, 3, 8, 32)],
    "SpatialAttention": [(5, 48, 3, 4, 16), (5, 192, 3, 8, 32), (1, 960, 3, 8, 32)],
    "SelfRefinement": [(64, 48), (256, 192)],
    "CrossAttention": [(64, 48), (256, 192)],
}


WIDE = {  # by which Turing, sm_75, is tried: not every tactic fits it
    "TemporalAttention": [(16, 4, 3, 1, 64), (16, 4, 3, 1, 128)],
    "SpatialAttention": [(1, 64, 3, 1, 64)],
    "SelfRefinement": [(64, 256)],
    "CrossAttention": [(64, 256)],
}


def attributes_of(operator, rest) -> list[dict[str, object]]:
    """The attributes that a node may have: none are those of an older export."""
    if "axis" in operator.attributes:
        return [{"axis": 1}, {"axis": 2}, {}]
    return [{"scale": (rest[4] if len(rest) == 5 else rest[0]) ** -0.5}]


def check(operator, dtype, batch, rest, tactic, attributes, answer, capability) -> None:
    """Hold what TensorRT gets to what the kernel takes."""
    from sdtc.kernels import aot, plugins
    from sdtc.kernels.common.multiprocessors import MULTIPROCESSORS

    entry, ptx, launch, scalars = answer
    sizes = [*operator.static([batch, *rest]), *([attributes.get("axis", 1)] if operator.choices else [])]
    expected = plugins.fitting_launch(operator, sizes, dtype, operator.tactics[tactic - 1], capability)
    assert not aot.misfit(aot.compile_kernel(expected, capability)), (rest, dtype, tactic)
    grid = [getattr(launch, f"grid_{axis}")._expr for axis in "xyz"]
    block = [getattr(launch, f"block_{axis}")._expr.value for axis in "xyz"]
    assert [size.value for size in grid] == [expected.blocks(batch), 1, 1]
    assert not grid[0].constant, "the grid must follow the batch"
    assert block == [32 * expected.num_warps, 1, 1]
    assert f".reqntid {block[0]}" in ptx, "the PTX fixes the block size"
    assert launch.shared_mem._expr.value <= min(48 << 10, MULTIPROCESSORS[capability].block_shared)
    assert [scalar._expr.value for scalar in scalars] == [batch * expected.items for _ in expected.scalars]
    # What TensorRT passes: input pointers, scalars, output pointers.
    assert aot.ptx_parameters(ptx) == ["u64"] * len(operator.inputs) + ["u32"] * len(scalars) + ["u64"]
    assert re.search(rf"\.visible \.entry {entry}\(", ptx)
    assert ".file" not in ptx, "no path of this machine"


def main(capability: int) -> None:
    trt = install()
    import tensorrt.plugin as trtp
    from tensorrt.plugin._lib import QDP_REGISTRY
    from tensorrt.plugin._tensor import SymIntExpr

    from sdtc.kernels import aot, plugins

    shapes = SHAPES if capability == 80 else WIDE
    assert tuple(shapes) == tuple(plugins.OPERATORS)
    plugins.register(capability, ["TemporalAttention"])
    assert [name for name in shapes if f"sdtc::{name}" in QDP_REGISTRY] == ["TemporalAttention"]
    plugins.register(capability)  # the others
    SymIntExpr._exprBuilder = Builder(trt)
    checked = 0
    for name, operator in plugins.OPERATORS.items():
        registered = QDP_REGISTRY[f"sdtc::{name}"]
        assert registered.num_outputs == 1
        assert registered.input_tensor_names == list(operator.inputs)
        assert registered.aot_impl_attr_names == list(operator.attributes)
        assert registered.autotune_attr_names == []
        for rest, attributes in ((sizes, each) for sizes in shapes[name] for each in attributes_of(operator, sizes)):
            packed, values = len(rest) == 5, list(attributes.values())
            # Before it knows any shape, TensorRT asks for the type of the result.
            unknown = [trtp.TensorDesc() for _ in operator.inputs]
            for desc in unknown:
                desc.dtype = trt.bfloat16
                desc.shape_expr = trtp.ShapeExprs(len(rest) + 1, _is_dummy=True)
            assert registered.register_func(*unknown, **attributes).dtype == trt.bfloat16
            for dtype, batch in itertools.product((trt.float32, trt.float16, trt.bfloat16), (1, 2, 13, 4096)):
                inputs = [describe(trtp, trt, (batch, *rest), dtype) for _ in operator.inputs]
                output = registered.register_func(*inputs, **attributes)
                assert output.dtype == dtype
                sizes = [size._expr.value for size in output.shape_expr]
                expected = [batch, *rest[:2], rest[3] * rest[4]] if packed else [batch, *rest]
                assert sizes == expected, (sizes, expected)
                types_, tactics = set(), set()
                for combination in registered.autotune_func(*inputs, (output,)):
                    for each in combination._get_combinations():
                        types_.add(tuple(each.types))
                        tactics |= set(each.tactics)
                assert types_ == {(t,) * (len(inputs) + 1) for t in (trt.float32, trt.float16, trt.bfloat16)}
                assert tactics == set(range(1, len(operator.tactics) + 1))
                for tactic in tactics if aot.supports(capability, plugins.dtype_name(dtype)) else ():
                    answer = registered.aot_impl_func(*inputs, *values, (output,), tactic)
                    check(operator, plugins.dtype_name(dtype), batch, rest, tactic, attributes, answer, capability)
                    checked += 1
    plugins.register(capability)  # registered once, asked for twice
    refusals = [
        refusal(lambda: registered.aot_impl_func(*inputs, 0.123, (output,), 1)),
        refusal(lambda: QDP_REGISTRY["sdtc::SelfRefinement"].aot_impl_func(inputs[0], 3, (output,), 1)),
        refusal(lambda: plugins.register(90)),
        refusal(lambda: plugins.register(capability, ["TemporalAttention"])),
        refusal(lambda: plugins.register(72)),
    ]
    print(json.dumps({"checked": checked, "refusals": refusals}))


def refusal(call) -> str:
    """Return what a call is refused with; empty if it is not."""
    from sdtc.core.errors import KernelError

    try:
        call()
    except KernelError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main(int(sys.argv[1]))
