"""Operators against their references, in the shapes that are easy to get wrong."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from sdtc import kernels
from sdtc.core.errors import KernelError
from sdtc.kernels import CONTEXT_AXES, cross_attention, self_refinement, spatial_attention, temporal_attention
from sdtc.kernels.operators.cross_attention.reference import cross_attention_reference
from sdtc.kernels.operators.self_refinement.reference import self_refinement_reference
from sdtc.kernels.operators.spatial_attention.reference import spatial_attention_reference
from sdtc.kernels.operators.temporal_attention.reference import temporal_attention_reference

# B, T, L, H, D
PACKED = [(1, 1, 1, 1, 16), (1, 5, 48, 4, 16), (2, 5, 47, 8, 32), (3, 7, 193, 2, 64), (1, 16, 12, 1, 128)]
# B, C, N
MAPS = [(1, 32, 1), (2, 64, 48), (3, 33, 47), (1, 256, 192)]
over_both_axes = pytest.mark.parametrize("axis", CONTEXT_AXES.values(), ids=CONTEXT_AXES)


def name(shape) -> str:
    return "x".join(map(str, shape))


def packed(shape, seed=0, scale=1.0) -> torch.Tensor:
    B, T, L, H, D = shape
    return scale * torch.randn(B, T, L, 3, H, D, generator=torch.Generator().manual_seed(seed))


def maps(shape, seed=0, scale=1.0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", PACKED, ids=name)
@pytest.mark.parametrize(
    ("operator", "reference"),
    [(temporal_attention, temporal_attention_reference), (spatial_attention, spatial_attention_reference)],
    ids=["temporal", "spatial"],
)
def test_attention_equals_its_reference(operator, reference, shape) -> None:
    qkv = packed(shape, scale=3.0)
    B, T, L, H, D = shape
    got = operator(qkv)
    assert got.shape == (B, T, L, H * D)
    want = reference(qkv.double()).float()
    torch.testing.assert_close(got, want, atol=1e-5 * float(want.abs().max()), rtol=0)


def test_temporal_attention_sees_only_its_own_location() -> None:
    qkv = packed((1, 5, 6, 2, 16))
    changed = qkv.clone()
    changed[:, :, 3] += 1
    difference = (temporal_attention(qkv) - temporal_attention(changed)).abs().amax(dim=(0, 1, 3))
    assert difference[3] > 1e-3
    assert difference[[0, 1, 2, 4, 5]].max() == 0


def test_spatial_attention_sees_only_its_own_frame() -> None:
    qkv = packed((1, 5, 6, 2, 16))
    changed = qkv.clone()
    changed[:, 2] += 1
    difference = (spatial_attention(qkv) - spatial_attention(changed)).abs().amax(dim=(0, 2, 3))
    assert difference[2] > 1e-3
    assert difference[[0, 1, 3, 4]].max() == 0


@over_both_axes
@pytest.mark.parametrize("shape", MAPS, ids=name)
def test_refinement_equals_its_reference(shape, axis) -> None:
    x = maps(shape)
    want = self_refinement_reference(x.double(), axis).float()
    torch.testing.assert_close(self_refinement(x, axis), want, atol=1e-4, rtol=1e-4)


@over_both_axes
def test_the_definition_element_by_element(axis) -> None:
    """Eq. 6-8 with nothing but sums of numbers."""
    B, C, N = 2, 4, 3
    x = maps((B, C, N), scale=2.0).double()
    got = self_refinement_reference(x, axis)
    for X, found in zip(x.tolist(), got.tolist(), strict=True):
        e = [[math.exp(value) for value in row] for row in X]
        O = [  # noqa: E741
            [e[c][n] / (sum(e[c]) if axis == 2 else sum(row[n] for row in e)) for n in range(N)] for c in range(C)
        ]
        OC = [[sum(X[i][n] * O[j][n] for n in range(N)) for j in range(C)] for i in range(C)]
        for n in range(N):
            scores = [math.exp(sum(X[i][n] * OC[i][j] for i in range(C))) for j in range(C)]
            for i in range(C):
                want = sum(OC[i][j] * scores[j] for j in range(C)) / sum(scores)
                assert found[i][n] == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("shape", MAPS, ids=name)
@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
def test_over_pixels_every_channel_stays_between_its_extremes(shape, scale) -> None:
    """Context maps that sum to 1 over the image make contexts means of pixels, and the result means of contexts."""
    x = maps(shape, scale=scale)
    got, slack = self_refinement(x, CONTEXT_AXES["pixels"]), 1e-5 * scale
    assert (got <= x.amax(2, keepdim=True) + slack).all()
    assert (got >= x.amin(2, keepdim=True) - slack).all()


@over_both_axes
def test_refinement_knows_no_order_of_channels_or_pixels(axis) -> None:
    x = maps((2, 20, 30)).double()
    rng = torch.Generator().manual_seed(1)
    channels, pixels = torch.randperm(20, generator=rng), torch.randperm(30, generator=rng)
    got = self_refinement_reference(x[:, channels][:, :, pixels], axis)
    torch.testing.assert_close(got, self_refinement_reference(x, axis)[:, channels][:, :, pixels])


@pytest.mark.parametrize("axis", [0, -1, 3])
def test_refinement_over_another_axis_is_refused(axis) -> None:
    with pytest.raises(KernelError, match=rf"`axis` is {axis}: expected 1 \(channels\) or 2 \(pixels\)"):
        self_refinement(maps((1, 32, 4)), axis)


@over_both_axes
def test_refinement_in_fp16_survives_what_overflows_a_plain_one(axis) -> None:
    x = maps((1, 64, 192), scale=40.0).relu().half()
    want = self_refinement_reference(x.double(), axis)
    assert not self_refinement_reference(x, axis).isfinite().all()
    got = self_refinement(x, axis)
    assert got.dtype == torch.float16
    assert got.isfinite().all()
    torch.testing.assert_close(got.double(), want, atol=float(want.abs().max()) * 2e-3, rtol=2e-3)


@pytest.mark.parametrize("shape", MAPS, ids=name)
def test_cross_attention_equals_its_reference(shape) -> None:
    q, k, v = (maps(shape, seed) for seed in range(3))
    want = cross_attention_reference(q.double(), k.double(), v.double()).float()
    torch.testing.assert_close(cross_attention(q, k, v), want, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_gradients_flow_through_every_operator() -> None:
    qkv = packed((1, 3, 4, 2, 16)).double().requires_grad_()
    x = maps((1, 5, 6)).double().requires_grad_()
    assert torch.autograd.gradcheck(temporal_attention, qkv)
    assert torch.autograd.gradcheck(spatial_attention, qkv)
    assert torch.autograd.gradcheck(cross_attention, (x, x.detach() * 2, x.detach() + 1))
    # computed in fp32 inside, so finite differences need room
    for axis in CONTEXT_AXES.values():
        assert torch.autograd.gradcheck(
            lambda x, axis=axis: self_refinement(x, axis), x, eps=1e-2, atol=2e-2, rtol=2e-2
        )


def operator_inputs(dtype: torch.dtype = torch.float32, gradients: bool = False) -> dict[str, tuple]:
    """The arguments of each operator, by its name and, of self-refinement, the axis."""
    qkv = packed((2, 3, 4, 2, 16)).to(dtype)
    x, y, z = (maps((2, 5, 6), seed).to(dtype) for seed in range(3))
    # All different and below 1, so that a small change moves no maximum and is not clipped.
    order = torch.stack([torch.randperm(5 * 7, generator=torch.Generator().manual_seed(seed)) for seed in range(6)])
    heatmaps = ((order + 0.5) / (5 * 7)).view(2, 3, 5, 7).to(dtype)
    for tensor in (qkv, x, y, z, heatmaps):
        tensor.requires_grad_(gradients)
    return {"temporal_attention": (qkv,), "spatial_attention": (qkv,), "self_refinement 1": (x, 1),
            "self_refinement 2": (x, 2), "cross_attention": (x, y, z),
            "decode_heatmaps": (heatmaps, (20, 28))}  # fmt: skip


def operator(name: str):
    return getattr(torch.ops.sdtc, name.split()[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", operator_inputs())
def test_torch_knows_the_operators(name) -> None:
    """Schema, fake tensors, autograd, and tracing with dynamic shapes, by PyTorch's own checks."""
    inputs = operator_inputs(gradients=True)[name]
    results = torch.library.opcheck(operator(name).default, inputs)
    assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("name", operator_inputs())
def test_operators_are_what_the_model_calls(name) -> None:
    inputs = operator_inputs()[name]
    torch.testing.assert_close(operator(name)(*inputs), getattr(kernels, name.split()[0])(*inputs))


@pytest.mark.slow
@pytest.mark.parametrize("name", operator_inputs())
def test_gradients_of_the_operators(name) -> None:
    inputs = operator_inputs(torch.float64, gradients=True)[name]
    in_fp32 = name in ("self_refinement 1", "self_refinement 2", "decode_heatmaps")
    loose = {"eps": 1e-2, "atol": 2e-2, "rtol": 2e-2} if in_fp32 else {}
    assert torch.autograd.gradcheck(operator(name), inputs, **loose)


@pytest.mark.slow
@pytest.mark.parametrize("name", operator_inputs())
def test_compilation_goes_through_the_operators(name) -> None:
    """Without a break in the graph, forward and backward."""
    compiled = torch.compile(lambda *inputs: operator(name)(*inputs) * 2, backend="aot_eager", fullgraph=True)
    gradients = []
    for function in (compiled, lambda *inputs: operator(name)(*inputs) * 2):
        inputs = operator_inputs(gradients=True)[name]
        function(*inputs).square().sum().backward()
        gradients.append([each.grad for each in inputs if isinstance(each, torch.Tensor)])
    torch.testing.assert_close(*gradients)


class Dispatched(TorchDispatchMode):
    """Notes the names of the operators that PyTorch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("name", "shapes", "takes"),
    [
        ("temporal_attention", [(2, 5, 48, 3, 4, 16)], True),
        ("temporal_attention", [(2, 17, 48, 3, 4, 16)], False),  # too many frames
        ("spatial_attention", [(2, 5, 48, 3, 4, 16)], True),
        ("spatial_attention", [(2, 5, 48, 3, 4, 8)], False),  # too narrow heads
        ("self_refinement", [(2, 64, 48)], True),
        ("temporal_attention", [(1, 16, 65536, 3, 16, 128)], False),  # offsets beyond int32
        ("spatial_attention", [(1, 1, 65537, 3, 1, 16)], False),  # too many tokens
        ("spatial_attention", [(1, 1, 65536, 3, 86, 128)], False),
        ("self_refinement", [(2, 64, 513)], False),  # too many pixels
        ("self_refinement", [(2, 2049, 4)], False),  # too many channels
        ("self_refinement", [(2, 16, 4)], False),  # too few
        ("self_refinement", [(2, 64, 0)], False),  # none
        ("cross_attention", [(2, 2049, 4)] * 3, False),
        ("cross_attention", [(2, 64, 48)] * 3, True),
        ("cross_attention", [(2, 64, 513)] * 3, False),
        ("decode_heatmaps", [(2, 15, 32, 24)], True),
        ("decode_heatmaps", [(2, 15, 512, 129)], False),
    ],
)
def test_cuda_tensors_go_to_the_kernel_where_it_takes_them(name, shapes, takes) -> None:
    """With tensors that have a shape and a device but no memory, so that no GPU is needed."""
    pytest.importorskip("triton", reason="needs the extra kernels")
    for device in ("cuda", "cpu"):
        with FakeTensorMode(), Dispatched() as dispatched:
            inputs = [torch.empty(shape, device=device) for shape in shapes]
            getattr(kernels, name)(*inputs, *{"decode_heatmaps": [(128, 96)], "self_refinement": [2]}.get(name, []))
        assert (f"sdtc::{name}" in dispatched.names) == (takes and device == "cuda")


def test_heatmaps_of_one_row_have_no_position() -> None:
    with pytest.raises(KernelError, match="heatmaps are 1 x 24 pixels: expected at least 2 x 2"):
        kernels.decode_heatmaps(torch.zeros(2, 15, 1, 24), (4, 96))


def test_export_keeps_an_operator_whole() -> None:
    class Module(torch.nn.Module):
        def forward(self, qkv):
            return torch.ops.sdtc.temporal_attention(qkv)

    qkv = packed((2, 5, 4, 2, 16))
    program = torch.export.export(Module(), (qkv,), dynamic_shapes={"qkv": {0: torch.export.Dim("batch")}})
    assert "torch.ops.sdtc.temporal_attention" in program.graph_module.code
    torch.testing.assert_close(program.module()(packed((3, 5, 4, 2, 16))), temporal_attention(packed((3, 5, 4, 2, 16))))


@pytest.mark.slow
def test_operators_need_no_triton() -> None:
    """Training and export on a CPU: nothing imports Triton, and nothing misses it."""
    program = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'triton':
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
sys.meta_path.insert(0, Absent())
import torch
from sdtc import kernels
print(*kernels.temporal_attention(torch.zeros(1, 5, 4, 3, 2, 16)).shape)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.stdout == "1 5 4 32\n", run.stderr
