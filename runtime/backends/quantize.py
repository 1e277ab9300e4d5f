"""Int8 weights, made in memory, so that OpenVINO multiplies in int8. No calibration, and no file is written.

Every constant matrix of a matrix product is rounded to 8 bits, with one scale per output channel. OpenVINO then rounds
the other operand at run time, with one scale per group of `GROUP` channels of each token, so that the few large
activations of a transformer do not cost the others their accuracy. Convolutions and products of two activations are not
changed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sdtc.core.errors import require

GROUP = 64  # channels of an activation that share a scale
MIN_SIZE = 4096  # elements of a matrix: quantising smaller ones gains nothing


def quantize_weights(model: Any) -> int:
    """Replace the constant matrices of an `onnx.ModelProto` by int8 ones and their scales, in place.

    Returns:
        How many were replaced.
    """
    onnx = require("onnx", "openvino", "`precision='int8'`")
    numpy_helper = require("onnx.numpy_helper", "openvino", "`precision='int8'`")
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    users: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            users[name] = users.get(name, 0) + 1
    nodes, added = [], []
    for node in graph.node:
        weight = constants.get(node.input[1]) if node.op_type == "MatMul" else None
        if weight is None or users[weight.name] > 1 or len(weight.dims) != 2 or np.prod(weight.dims) < MIN_SIZE:
            continue
        values = numpy_helper.to_array(weight)  # [inputs, outputs]
        if values.dtype not in (np.float32, np.float16):
            continue
        scales = np.maximum(np.abs(values).max(axis=0).astype(np.float32) / 127, np.finfo(np.float16).tiny)
        rounded = np.rint(values.astype(np.float32) / scales).astype(np.int8)
        parts = {"int8": rounded, "scale": scales.astype(values.dtype), "zero": np.zeros(len(scales), np.int8)}
        names = [f"{weight.name}.{part}" for part in parts]
        added += [numpy_helper.from_array(part, name) for part, name in zip(parts.values(), names, strict=True)]
        nodes.append(onnx.helper.make_node("DequantizeLinear", names, [weight.name], axis=1))
        graph.initializer.remove(weight)
    graph.initializer.extend(added)
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
    return len(added) // 3
