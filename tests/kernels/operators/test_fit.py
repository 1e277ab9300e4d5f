"""Sizes that a GPU's shared memory or registers are too small for go the plain way, with the same answer."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch

pytest.importorskip("triton", reason="needs the extra kernels")
from sdtc.kernels.common import kernel_launch
from sdtc.kernels.common.kernel_launch import Launch
from sdtc.kernels.common.torch_operators import UnfitError, kernel_where_it_fits
from sdtc.kernels.operators.self_refinement import launch as self_refinement
from sdtc.kernels.operators.spatial_attention import launch as spatial_attention
from sdtc.kernels.operators.temporal_attention import launch as temporal_attention

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="runs in the interpreter, as if on several GPUs")
OPERATORS = "sdtc.kernels.operators"


def random(shape: tuple[int, ...], dtype: torch.dtype = torch.float16) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)


@pytest.fixture
def launched(monkeypatch) -> list[str]:
    """Names of the kernels that are launched."""
    names: list[str] = []
    run = Launch.run

    def noting(self, *arguments, **scalars):
        names.append(self.kernel.fn.__name__)
        run(self, *arguments, **scalars)

    monkeypatch.setattr(Launch, "run", noting)
    return names


# the operator, its input and other arguments, and the kernel that is launched on sm_75 and on newer GPUs; None for
# PyTorch's operators
CASES = [
    *(("self_refinement", (1, 33, 256), (axis,), *["self_refinement_tiles"] * 2) for axis in (1, 2)),
    *(("self_refinement", (1, 33, 257), (axis,), None, "self_refinement_tiles") for axis in (1, 2)),  # too much memory
    *(("self_refinement", (1, 16, 20), (axis,), None, None) for axis in (1, 2)),
    ("self_refinement", (1, 32, 20), (1,), None, "self_refinement_tiles"),
    ("self_refinement", (1, 32, 20), (2,), "self_refinement_tiles", "self_refinement_tiles"),
    ("temporal_attention", (1, 16, 2, 3, 1, 32), (), "temporal_attention_tiles", "temporal_attention_tiles"),
    ("temporal_attention", (1, 16, 2, 3, 1, 128), (), "temporal_attention_rows", "temporal_attention_tiles"),
    ("temporal_attention", (1, 17, 2, 3, 1, 32), (), None, None),
    ("spatial_attention", (1, 1, 33, 3, 1, 64), (), "spatial_attention_tiles", "spatial_attention_tiles"),
    ("spatial_attention", (1, 1, 32, 3, 1, 64), (), None, "spatial_attention_tiles"),
    ("spatial_attention", (1, 1, 20, 3, 1, 128), (), None, "spatial_attention_tiles"),
    ("spatial_attention", (1, 1, 20, 3, 1, 8), (), None, None),
]


@pytest.mark.parametrize(
    ("name", "shape", "more", "turing", "newer"), CASES, ids=lambda value: str(value).replace(", ", "x")
)
def test_what_does_not_fit_is_computed_by_pytorch(name, shape, more, turing, newer, launched, monkeypatch) -> None:
    reference = import_module(f"{OPERATORS}.{name}.reference")
    plain, exact = (getattr(reference, f"{name}_{which}") for which in ("plain", "reference"))
    operator = kernel_where_it_fits(f"{OPERATORS}.{name}", plain)
    x = random(shape)
    want = exact(x.double(), *more)
    for capability, kernel in ((75, turing), (80, newer), (87, newer), (120, newer)):
        launched.clear()
        for module in (kernel_launch, self_refinement):  # where it is looked up
            monkeypatch.setattr(module, "capability_of", lambda _, capability=capability: capability)
        got = operator(x, *more)
        assert launched == ([kernel] if kernel else []), capability
        torch.testing.assert_close(got.double(), want, atol=2e-3 * float(want.abs().max()), rtol=0)


def test_a_tactic_that_does_not_fit_is_refused_by_name() -> None:
    said = r"does not fit sm_75: use PyTorch's operators, or `plugins='auto'` in an export"
    with pytest.raises(UnfitError, match=rf"temporal_attention: the tactic 'tiles' with D = 64 {said}"):
        temporal_attention.configure(16, 48, 2, 64, "fp16", "tiles", 75)
    with pytest.raises(UnfitError, match=rf"spatial_attention: the tactic 'large' with D = 64 {said}"):
        spatial_attention.configure(1, 48, 2, 64, "fp16", "large", 75)
    with pytest.raises(UnfitError, match=rf"self_refinement: a map of 64 channels and 257 pixels {said}"):
        self_refinement.configure(64, 257, 2, "fp32", "", 75)
    assert temporal_attention.configure(16, 48, 2, 64, "fp32", "tiles", 75)
    assert spatial_attention.configure(1, 48, 2, 64, "fp16", "", 75).constants["M"] == 32  # the small tiles


def test_offsets_stay_within_int32() -> None:
    with pytest.raises(UnfitError, match=r"T \* L \* 3 \* H \* D is 6442450944: the kernel takes 1 to 2147483647"):
        temporal_attention.configure(16, 65536, 16, 128, "fp16")
    with pytest.raises(UnfitError, match=r"L \* 3 \* H \* D is"):
        spatial_attention.configure(1, 65536, 86, 128, "fp16")
    assert spatial_attention.configure(64, 65536, 85, 128, "fp16")  # that is for one frame
