"""The ONNX bodies of the custom operators, run by ONNX Runtime, against the references."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper

from sdtc.export.functions import OPSET, add_functions
from sdtc.kernels.operators.cross_attention.reference import cross_attention_reference
from sdtc.kernels.operators.self_refinement import CONTEXT_AXES
from sdtc.kernels.operators.self_refinement.reference import self_refinement_reference
from sdtc.kernels.operators.spatial_attention.reference import spatial_attention_reference
from sdtc.kernels.operators.temporal_attention.reference import temporal_attention_reference

TYPES = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}


def run_node(op_type: str, inputs: list[np.ndarray], **attrs: float) -> np.ndarray:
    rank = {6: 4, 3: 3}[inputs[0].ndim]
    names = [f"x{i}" for i in range(len(inputs))]
    kind = TYPES[inputs[0].dtype.type]
    graph = helper.make_graph(
        [helper.make_node(op_type, names, ["y"], domain="sdtc", **attrs)],
        "test",
        [helper.make_tensor_value_info(n, kind, x.shape) for n, x in zip(names, inputs, strict=True)],
        [helper.make_tensor_value_info("y", kind, [None] * rank)],
    )
    model = add_functions(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip(names, inputs, strict=True)))[0]


@pytest.mark.parametrize("shape", [(1, 5, 48, 3, 4, 16), (2, 1, 7, 3, 2, 32), (3, 16, 1, 3, 1, 128)], ids=str)
@pytest.mark.parametrize(
    ("op_type", "reference"),
    [("TemporalAttention", temporal_attention_reference), ("SpatialAttention", spatial_attention_reference)],
)
def test_attention(op_type, reference, shape, rng) -> None:
    qkv = rng.normal(size=shape).astype(np.float32)
    want = reference(torch.from_numpy(qkv)).numpy()
    np.testing.assert_allclose(run_node(op_type, [qkv], scale=shape[-1] ** -0.5), want, atol=1e-5)


over_both_axes = pytest.mark.parametrize("axis", CONTEXT_AXES.values(), ids=CONTEXT_AXES)


@over_both_axes
@pytest.mark.parametrize("shape", [(1, 64, 48), (2, 33, 47), (1, 256, 192)], ids=str)
def test_refinement(shape, axis, rng) -> None:
    x = rng.normal(size=shape).astype(np.float32)
    want = self_refinement_reference(torch.from_numpy(x), axis).numpy()
    np.testing.assert_allclose(run_node("SelfRefinement", [x], axis=axis), want, atol=1e-4, rtol=1e-4)


def test_refinement_without_an_axis_is_over_channels(rng) -> None:
    """As exports from before there was an axis mean it."""
    x = rng.normal(size=(2, 33, 47)).astype(np.float32)
    assert np.array_equal(run_node("SelfRefinement", [x]), run_node("SelfRefinement", [x], axis=1))
    assert np.abs(run_node("SelfRefinement", [x]) - run_node("SelfRefinement", [x], axis=2)).max() > 0.1


@over_both_axes
def test_refinement_in_fp16_does_not_overflow(axis, rng) -> None:
    x = np.maximum(40 * rng.normal(size=(1, 64, 192)), 0).astype(np.float16)
    want = self_refinement_reference(torch.from_numpy(x.astype(np.float64)), axis).numpy()
    got = run_node("SelfRefinement", [x], axis=axis)
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, want, atol=2e-3 * np.abs(want).max())


@pytest.mark.parametrize("shape", [(1, 64, 48), (2, 33, 47)], ids=str)
def test_cross_attention(shape, rng) -> None:
    q, k, v = (rng.normal(size=shape).astype(np.float32) for _ in range(3))
    want = cross_attention_reference(*(torch.from_numpy(x) for x in (q, k, v))).numpy()
    np.testing.assert_allclose(run_node("CrossAttention", [q, k, v], scale=shape[1] ** -0.5), want, atol=1e-5)
