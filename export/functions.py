"""The bodies of the custom operators, as ONNX functions of domain ``sdtc``.

One exported file serves every backend: ONNX Runtime, OpenVINO and TensorRT-RTX run these bodies, full TensorRT may use
a compiled kernel in place of the node. Each body computes what the operator of the same name in
`sdtc.kernels.operators` does; a test compares the two. Softmaxes are in fp32 at every precision.
"""

# onnxscript reads these bodies as ONNX, they are not run as Python; constants and attributes have no types in them.
# mypy: disable-error-code="type-var, arg-type"
from __future__ import annotations

import onnx
from onnx import FunctionProto, ModelProto, TensorProto
from onnxscript import opset22 as op
from onnxscript import script
from onnxscript.values import Opset

from sdtc.kernels.common.onnx_node import DOMAIN, DOMAIN_VERSION

OPSET = 22  # the first whose convolution takes bf16; TensorRT-RTX 1.7 fails on 23
_sdtc = Opset(DOMAIN, DOMAIN_VERSION)


@script(_sdtc, default_opset=op)
def SpatialAttention(qkv, scale: float):
    """qkv [B, T, L, 3, H, D] -> [B, T, L, H*D], over L (`sdtc.kernels.operators.spatial_attention`)."""
    packed = op.Transpose(qkv, perm=[3, 0, 1, 4, 2, 5])  # [3, B, T, H, L, D]
    q = op.Squeeze(op.Slice(packed, [0], [1], [0]), [0])
    k = op.Squeeze(op.Slice(packed, [1], [2], [0]), [0])
    v = op.Squeeze(op.Slice(packed, [2], [3], [0]), [0])
    factor = op.CastLike(op.Constant(value_float=scale), qkv)
    # q is scaled before the product, which keeps fp16 scores in range.
    scores = op.MatMul(op.Mul(q, factor), op.Transpose(k, perm=[0, 1, 2, 4, 3]))
    weights = op.CastLike(op.Softmax(op.Cast(scores, to=TensorProto.FLOAT), axis=-1), qkv)
    out = op.MatMul(weights, v)  # [B, T, H, L, D]
    return op.Reshape(op.Transpose(out, perm=[0, 1, 3, 2, 4]), [0, 0, 0, -1])


@script(_sdtc, default_opset=op)
def TemporalAttention(qkv, scale: float):
    """qkv [B, T, L, 3, H, D] -> [B, T, L, H*D], over T (`sdtc.kernels.operators.temporal_attention`)."""
    packed = op.Transpose(qkv, perm=[3, 0, 2, 4, 1, 5])  # [3, B, L, H, T, D]
    q = op.Squeeze(op.Slice(packed, [0], [1], [0]), [0])
    k = op.Squeeze(op.Slice(packed, [1], [2], [0]), [0])
    v = op.Squeeze(op.Slice(packed, [2], [3], [0]), [0])
    factor = op.CastLike(op.Constant(value_float=scale), qkv)
    scores = op.MatMul(op.Mul(q, factor), op.Transpose(k, perm=[0, 1, 2, 4, 3]))
    weights = op.CastLike(op.Softmax(op.Cast(scores, to=TensorProto.FLOAT), axis=-1), qkv)
    out = op.MatMul(weights, v)  # [B, L, H, T, D]
    return op.Reshape(op.Transpose(out, perm=[0, 3, 1, 2, 4]), [0, 0, 0, -1])


@script(_sdtc, default_opset=op)
def SelfRefinement(x, axis: int = 1):
    """x [B, C, N] -> [B, C, N] (`sdtc.kernels.operators.self_refinement`, Eq. 6-8), in fp32 for every dtype of x.

    Nodes of older exports have no axis: they mean 1, channels.
    """
    features = op.Cast(x, to=TensorProto.FLOAT)
    maps = op.Softmax(features, axis=axis)  # O   [B, C, N]
    contexts = op.MatMul(features, op.Transpose(maps, perm=[0, 2, 1]))  # OC  [B, C, C]
    weights = op.Softmax(op.MatMul(op.Transpose(features, perm=[0, 2, 1]), contexts), axis=2)  # A  [B, N, C]
    return op.CastLike(op.MatMul(contexts, op.Transpose(weights, perm=[0, 2, 1])), x)


@script(_sdtc, default_opset=op)
def CrossAttention(q, k, v, scale: float):
    """q, k, v [B, C, N] -> [B, C, N] (`sdtc.kernels.operators.cross_attention`, Eq. 9)."""
    factor = op.CastLike(op.Constant(value_float=scale), q)
    scores = op.MatMul(op.Transpose(op.Mul(q, factor), perm=[0, 2, 1]), k)  # [B, N, N]
    weights = op.CastLike(op.Softmax(op.Cast(scores, to=TensorProto.FLOAT), axis=-1), v)
    return op.MatMul(v, op.Transpose(weights, perm=[0, 2, 1]))


def function_protos() -> dict[str, FunctionProto]:
    """Return every operator's function, by name."""
    functions = (SpatialAttention, TemporalAttention, SelfRefinement, CrossAttention)
    return {function.name: function.to_function_proto() for function in functions}


def add_functions(model: ModelProto) -> ModelProto:
    """Add the bodies of the ``sdtc`` nodes that a model contains, in place.

    Returns:
        The same model.

    Raises:
        onnx.checker.ValidationError: the result is not a valid model.
    """
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    bodies = function_protos()
    model.functions.extend(bodies[name] for name in sorted(used))
    if used and not any(opset.domain == DOMAIN for opset in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    onnx.checker.check_model(model)
    return model
