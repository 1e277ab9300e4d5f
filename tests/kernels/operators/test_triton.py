"""Every Triton kernel against its reference: in the interpreter, or on the GPU where there is one.

No tolerance is invented: fp32 to 1e-5 of the result's magnitude; in lower precision the error against fp64 may be twice
that of the same formula in PyTorch's operators, in the same precision.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from sdtc.core import crops
from sdtc.core.errors import KernelError
from sdtc.core.heatmaps import decode_heatmaps
from sdtc.kernels.operators.crop_frame.reference import crop_frame_reference
from sdtc.kernels.operators.cross_attention.reference import cross_attention_plain, cross_attention_reference
from sdtc.kernels.operators.gather_tokens.reference import gather_tokens_reference, scatter_tokens_reference
from sdtc.kernels.operators.self_refinement.reference import self_refinement_plain, self_refinement_reference
from sdtc.kernels.operators.spatial_attention.reference import spatial_attention_plain, spatial_attention_reference
from sdtc.kernels.operators.temporal_attention.reference import temporal_attention_plain, temporal_attention_reference

pytest.importorskip("triton", reason="needs the extra kernels")
from sdtc.kernels.common.kernel_launch import NAMES
from sdtc.kernels.operators.crop_frame import launch as crop_frame
from sdtc.kernels.operators.cross_attention import launch as cross_attention
from sdtc.kernels.operators.decode_heatmaps import launch as decode_kernel
from sdtc.kernels.operators.gather_tokens import launch as gather_tokens
from sdtc.kernels.operators.self_refinement import CONTEXT_AXES
from sdtc.kernels.operators.self_refinement import launch as self_refinement
from sdtc.kernels.operators.spatial_attention import launch as spatial_attention
from sdtc.kernels.operators.temporal_attention import launch as temporal_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []  # there, all of this is what only a GPU can show
HALF = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, *HALF)

# B, T, L, H, D
TEMPORAL = [
    *((1, T, 3, 2, 16) for T in range(1, 17)),
    *((1, 2, L, 1, 16) for L in (1, 47, 48, 192, 193)),
    *((1, 5, 3, 1, D) for D in (24, 32, 40, 64, 128)),
    *((B, 3, 5, 3, 16) for B in (2, 3, 4, 5)),
]
SPATIAL = [
    *((1, 1, L, 1, 16) for L in (1, 15, 47, 48, 65)),
    *(pytest.param((1, 1, L, 1, 16), marks=pytest.mark.slow) for L in (192, 193)),
    *((1, 2, 17, 1, D) for D in (24, 32, 40, 64, 128)),
    *((B, T, 7, 2, 16) for B, T in ((1, 16), (2, 5), (3, 2), (5, 1))),
]
# B, C, N
MAPS = [
    *((1, 32, 1), (2, 33, 47)),
    *(pytest.param(shape, marks=pytest.mark.slow) for shape in ((5, 48, 48), (1, 384, 48), (1, 64, 192), (1, 40, 193))),
]


def name(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value).removeprefix("torch.")


def random(shape: tuple[int, ...], dtype: torch.dtype, scale: float = 1.0, seed: int = 0) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale
    return values.to(dtype).to(DEVICE)


def assert_close(got: Tensor, exact: Tensor, plain: Callable[[], Tensor]) -> None:
    """Hold a kernel's result to the rule above.

    Args:
        got: of the kernel.
        exact: the reference's in fp64.
        plain: computes PyTorch's own result in the same precision.
    """
    assert got.isfinite().all()
    size = exact.abs().max().clamp(min=1e-30)
    error = (got.double() - exact).abs().max() / size
    if got.dtype == torch.float32:
        assert error <= 1e-5
    else:
        theirs = (plain().double() - exact).abs().max() / size
        assert theirs.isfinite()
        # Where theirs happens to be exact, half a unit in the last place is still ours to lose.
        assert error <= max(2 * theirs, torch.finfo(got.dtype).eps / 2), (error, theirs)


@pytest.fixture(scope="module", autouse=True)
def _interpreter_with_bf16() -> Iterator[None]:
    """Mend Triton's interpreter (3.9): it multiplies the bits of bf16, and cuts off where a GPU rounds to nearest."""
    if DEVICE == "cuda":
        yield
        return
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    create_dot, cast_impl = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def numbers(handle: TensorHandle) -> TensorHandle:
        if handle.dtype.scalar != tl.bfloat16:
            return handle
        return TensorHandle((handle.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def dot(self, a, b, d, *options):
        return create_dot(self, numbers(a), numbers(b), d, *options)

    def cast(self, src, dst_type):
        if (src.dtype.scalar, dst_type.scalar) != (tl.float32, tl.bfloat16):
            return cast_impl(self, src, dst_type)
        rounded = torch.from_numpy(np.ascontiguousarray(src.data)).bfloat16().view(torch.int16).numpy()
        return TensorHandle(rounded.view(np.uint16), tl.bfloat16)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InterpreterBuilder, "create_dot", dot)
        patch.setattr(InterpreterBuilder, "cast_impl", cast)
        yield


@dataclass
class Traffic:
    """Bytes that a launch touched.

    Attributes:
        loaded, stored: addresses and how often each byte's element was, by the size of an element.
    """

    loaded: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    stored: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    sizes: dict[int, int] = field(default_factory=dict)

    def requested(self) -> int:
        """Bytes asked for by loads and stores, every time that they were."""
        return sum(self.sizes[at] * n for each in (self.loaded, self.stored) for at, n in each.items())

    def unique(self) -> int:
        """Bytes that pass between memory and chip if what was read once stays in L2."""
        return sum(self.sizes[at] for each in (self.loaded, self.stored) for at in each)


@contextmanager
def count_traffic(monkeypatch: pytest.MonkeyPatch) -> Iterator[Traffic]:
    """Count what the interpreter loads and stores."""
    from triton.runtime.interpreter import InterpreterBuilder

    traffic = Traffic()
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def note(where, pointers, mask):
        size = pointers.dtype.scalar.element_ty.primitive_bitwidth // 8
        addresses, counts = np.unique(np.asarray(pointers.data)[np.asarray(mask.data, bool)], return_counts=True)
        for address, count in zip(addresses.tolist(), counts.tolist(), strict=True):
            where[address] += count
            traffic.sizes[address] = size

    def counting_load(self, pointers, mask, *rest):
        note(traffic.loaded, pointers, mask)
        return load(self, pointers, mask, *rest)

    def counting_store(self, pointers, value, mask, *rest):
        note(traffic.stored, pointers, mask)
        return store(self, pointers, value, mask, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(InterpreterBuilder, "create_masked_load", counting_load)
        patch.setattr(InterpreterBuilder, "create_masked_store", counting_store)
        yield traffic


def poisoned(shape: tuple[int, ...], dtype: torch.dtype, fill: torch.Tensor | None = None) -> tuple:
    """A tensor with memory around it that shows when it is read (not a number) or written (it changes).

    Returns:
        The tensor, and a function that tells whether what lies around it is as it was.
    """
    count, margin = int(np.prod(shape)), 4096
    integer = not dtype.is_floating_point
    whole = torch.full((count + 2 * margin,), 255 if integer else float("nan"), dtype=dtype, device=DEVICE)
    inner = whole[margin : margin + count].view(shape)
    if fill is not None:
        inner.copy_(fill)

    def untouched() -> bool:
        around = torch.cat([whole[:margin], whole[margin + count :]])
        return bool((around == 255).all() if integer else around.isnan().all())

    return inner, untouched


def packed(B: int, T: int, L: int, H: int, D: int) -> tuple[int, ...]:
    return (B, T, L, 3, H, D)


@pytest.mark.parametrize("tactic", temporal_attention.TACTICS)
@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("shape", TEMPORAL, ids=name)
def test_temporal_attention(shape, dtype, tactic) -> None:
    qkv = random(packed(*shape), dtype, 3.0)
    got = temporal_attention.run(qkv, tactic)
    assert_close(got, temporal_attention_reference(qkv.double()), lambda: temporal_attention_reference(qkv))


@pytest.mark.slow
@pytest.mark.parametrize("tactic", spatial_attention.TACTICS)
@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("shape", SPATIAL, ids=name)
def test_spatial_attention(shape, dtype, tactic) -> None:
    qkv = random(packed(*shape), dtype, 3.0)
    got = spatial_attention.run(qkv, tactic)
    assert_close(got, spatial_attention_reference(qkv.double()), lambda: spatial_attention_reference(qkv))


@pytest.mark.slow
def test_joint_attention_over_thousands_of_tokens() -> None:
    qkv = random(packed(1, 1, 3072, 1, 16), torch.float16)
    got = spatial_attention.run(qkv, "large")
    assert_close(got, spatial_attention_reference(qkv.double()), lambda: spatial_attention_plain(qkv))


@pytest.mark.parametrize("tactic", cross_attention.TACTICS)
@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("shape", MAPS, ids=name)
def test_cross_attention(shape, dtype, tactic) -> None:
    q, k, v = (random(shape, dtype, 2.0, seed) for seed in range(3))
    exact = cross_attention_reference(q.double(), k.double(), v.double())
    got = cross_attention.run(q, k, v, tactic)
    assert_close(got, exact, lambda: cross_attention_reference(q, k, v))


@pytest.mark.parametrize("axis", CONTEXT_AXES.values(), ids=CONTEXT_AXES)
@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("shape", MAPS, ids=name)
def test_self_refinement(shape, dtype, axis) -> None:
    x = random(shape, dtype).relu()
    got = self_refinement.run(x, axis)
    exact = self_refinement_reference(x.double(), axis)
    assert_close(got, exact, lambda: self_refinement_plain(x, axis))  # fp32 inside, as ours


@pytest.mark.parametrize("level", [-300.0, 300.0])
def test_pixels_that_are_not_there_take_no_part_in_a_softmax_over_pixels(level) -> None:
    """N = 19 of 32: a zero beside it would be all of the softmax, or take part of it."""
    x = level + random((1, 20, 19), torch.float32)
    exact = self_refinement_reference(x.double(), CONTEXT_AXES["pixels"])
    assert_close(self_refinement.run(x, CONTEXT_AXES["pixels"]), exact, lambda: exact)


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("shape", [(1, 1, 2, 2), (2, 15, 32, 24), (1, 17, 64, 48), (3, 5, 7, 9)], ids=name)
def test_decoding(shape, dtype) -> None:
    heatmaps = random(shape, dtype)
    heatmaps[0, 0] = 0  # all equal: the first pixel
    size = (4 * shape[2], 4 * shape[3])
    got = decode_kernel.run(heatmaps, size).cpu()
    torch.testing.assert_close(got, torch.from_numpy(decode_heatmaps(heatmaps.float().cpu().numpy(), size)))


def people(count: int, rng: np.random.Generator) -> np.ndarray:
    """Boxes in and out of a frame of 90x120."""
    low = rng.uniform(-40, [100, 70], (count, 2))
    return np.concatenate([low, rng.uniform([10, 20], [120, 150], (count, 2))], axis=1)


@pytest.mark.slow
@pytest.mark.skipif(cv2.__version__ >= "5", reason="OpenCV 5 rounds otherwise: setup.py keeps the bound below it")
@pytest.mark.parametrize("size", [(64, 48), (33, 17)], ids=name)
def test_crops_are_the_crop_functions_to_the_bit(size) -> None:
    rng = np.random.default_rng(1)
    frame = rng.integers(0, 256, (90, 120, 3), np.uint8)
    boxes = crops.expand_boxes(people(5, rng), size)
    turns = (0.0, 0.0, 20.0, -75.0, 0.0)
    matrices = np.stack([crops.crop_to_image_matrix(box, size, turn) for box, turn in zip(boxes, turns, strict=True)])
    want = np.stack([crops.crop_frame(frame, box, size, rotation=turn) for box, turn in zip(boxes, turns, strict=True)])
    frame_d, matrices_d = torch.from_numpy(frame).to(DEVICE), torch.from_numpy(matrices).to(DEVICE)
    assert np.array_equal(crop_frame.run(frame_d, matrices_d, size).cpu().numpy(), want)
    assert np.array_equal(crop_frame_reference(frame_d, matrices_d, size).cpu().numpy(), want)


SAME = (1.0, 0.0, 1.0, 0.0)  # the keyframe's own place
# h, w, C: of one token; channels that fill a block, that divide into several, that leave a rest, that are odd
TOKENS = [(1, 1, 1), (1, 5, 16), (4, 1, 80), (5, 3, 24), (8, 6, 64), (3, 5, 256), (2, 3, 257), (3, 2, 384), (16, 12, 8)]


def assert_same_bits(got: Tensor, want: Tensor) -> None:
    """But for those of what is not a number, which conversions change."""
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got.signbit()[~got.isnan()], want.signbit()[~want.isnan()])
    assert torch.equal(got[~got.isnan()], want[~want.isnan()])


def places(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32, device=DEVICE)


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("shape", TOKENS, ids=name)
def test_tokens_are_resampled_out_of_slots(shape, dtype) -> None:
    h, w, C = shape
    pool = random((7, h * w, C), dtype)
    slots = torch.tensor([5, 0, 5, 6], dtype=torch.int32, device=DEVICE)
    at = places(SAME, (0.8, 1.3, 0.9, 0.45), (1.2, -0.7, -1.0, h - 0.6), (0.3, w / 2 + 0.1, 4.0, -3.3))
    got = gather_tokens.gather(pool, slots, at, (h, w))
    assert torch.equal(got[0], pool[5])
    exact = gather_tokens_reference(pool.double(), slots, at, (h, w))
    assert_close(got, exact, lambda: gather_tokens_reference(pool, slots, at, (h, w)))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, in the interpreter
@pytest.mark.parametrize("dtype", DTYPES, ids=name)
def test_whole_places_give_the_tokens_to_the_bit(dtype) -> None:
    """What has no weight takes no part: not a number, infinite, the sign of a zero, beside or in the place itself."""
    pool = random((3, 48, 16), dtype)
    pool[0, ::2, :4] = torch.tensor([-0.0, float("inf"), float("-inf"), float("nan")], dtype=dtype)
    slots = torch.tensor([0, 0, 0, 2], dtype=torch.int32, device=DEVICE)
    at = places(SAME, (1.0, 2.0, 1.0, -3.0), (2.0, 0.0, -1.0, 7.0), SAME)
    got = gather_tokens.gather(pool, slots, at, (8, 6))
    assert_same_bits(got, gather_tokens_reference(pool, slots, at, (8, 6)))
    assert_same_bits(got[::3], pool[::2])


def test_every_row_has_its_own_place() -> None:
    R, grid = 333, (3, 2)
    pool, rng = random((11, 6, 20), torch.float32), torch.Generator().manual_seed(2)
    slots = torch.randint(0, 11, (R,), generator=rng, dtype=torch.int32).to(DEVICE)
    at = (torch.randn(R, 4, generator=rng) * torch.tensor([1.0, 2.0, 1.0, 2.0])).to(DEVICE)
    exact = gather_tokens_reference(pool.double(), slots, at, grid)
    assert_close(gather_tokens.gather(pool, slots, at, grid), exact, lambda: exact)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=name)
def test_places_that_are_no_numbers_stay_inside_the_row(dtype) -> None:
    nan, inf = float("nan"), float("inf")
    odd = (nan, inf, -inf, 3e38, -3e38, 2.0**31, -(2.0**31), 0.0)
    at = places(*((odd[i], odd[j], odd[j], odd[i]) for i in range(len(odd)) for j in range(len(odd))))
    pool, untouched = poisoned((3, 15, 24), dtype, random((3, 15, 24), dtype))
    slots = torch.full((len(at),), 1, dtype=torch.int32, device=DEVICE)
    pool[0], pool[2] = float("nan"), float("nan")  # the rows around it
    got = gather_tokens.gather(pool, slots, at, (5, 3))
    assert got.isfinite().all()
    assert torch.equal(got, gather_tokens_reference(pool, slots, at, (5, 3)))  # all are at tokens
    assert untouched()


@pytest.mark.slow
def test_rows_beyond_two_billion_values_are_found() -> None:
    """Where only what is read takes memory: a pool of 4 GB."""
    L, C, S = 4096, 256, 2050
    pool = torch.empty((S, L, C), dtype=torch.float16, device=DEVICE)
    pool[-1] = random((L, C), torch.float16)
    slots = torch.tensor([S - 1], dtype=torch.int32, device=DEVICE)
    got = gather_tokens.gather(pool, slots, places(SAME), (64, 64))
    assert torch.equal(got[0], pool[-1])


@pytest.mark.parametrize("dtype", DTYPES, ids=name)
@pytest.mark.parametrize("length", [1, 24, 1023, 1024, 3072, 3073], ids=name)
def test_tokens_are_copied_into_slots(length, dtype) -> None:
    pool, rows = random((7, 1, length), dtype), random((4, 1, length), dtype, seed=1)
    slots = torch.tensor([6, 2, 0, 3], dtype=torch.int32, device=DEVICE)
    want = scatter_tokens_reference(rows, slots, pool)
    gather_tokens.scatter(rows, slots, pool)
    assert torch.equal(pool, want)


@pytest.mark.parametrize("dtype", HALF, ids=name)
def test_scores_beyond_the_exponential_are_survived(dtype) -> None:
    """exp(x) is infinite in fp16 from 12, in fp32 from 89: these scores go to thousands."""
    qkv = random((1, 5, 20, 3, 1, 32), dtype, 30.0)
    for kernel, reference, plain in (
        (temporal_attention, temporal_attention_reference, temporal_attention_plain),
        (spatial_attention, spatial_attention_reference, spatial_attention_plain),
    ):
        for tactic in kernel.TACTICS:
            assert_close(kernel.run(qkv, tactic), reference(qkv.double()), lambda plain=plain: plain(qkv))
    q, k, v = (random((1, 64, 48), dtype, 30.0, seed) for seed in range(3))
    exact = cross_attention_reference(q.double(), k.double(), v.double())
    assert_close(cross_attention.run(q, k, v), exact, lambda: cross_attention_plain(q, k, v))
    x = random((1, 64, 48), dtype, 40.0).relu()
    for axis in CONTEXT_AXES.values():
        exact = self_refinement_reference(x.double(), axis)
        assert_close(self_refinement.run(x, axis), exact, lambda axis=axis: self_refinement_plain(x, axis))


def cases(dtype: torch.dtype) -> dict[str, tuple]:
    """For every kernel and tactic: a launch, its inputs, the shape and dtype of its output, batch, scalars."""
    name_of = NAMES[dtype]
    found: dict[str, tuple] = {}
    B, T, L, H, D = 2, 5, 11, 2, 24
    for module in (temporal_attention, spatial_attention):
        for tactic in module.TACTICS:
            launch = module.configure(T, L, H, D, name_of, tactic)
            found[f"{module.__name__.split('.')[-2]} {tactic}"] = (
                launch, [random((B, T, L, 3, H, D), dtype)], (B, T, L, H * D), dtype, B, {},
            )  # fmt: skip
    B, C, N = 2, 40, 53
    maps = [random((B, C, N), dtype, seed=seed) for seed in range(3)]
    for tactic in cross_attention.TACTICS:
        launch = cross_attention.configure(C, N, name_of, tactic)
        found[f"cross_attention {tactic}"] = (launch, maps, (B, C, N), dtype, B, {})
    for over, axis in CONTEXT_AXES.items():
        launch = self_refinement.configure(C, N, axis, name_of)
        found[f"self_refinement {over}"] = (launch, maps[:1], (B, C, N), dtype, B, {})
    launch = decode_kernel.configure(3, 9, 7, (36, 28), name_of)
    found["decode_heatmaps"] = (launch, [random((2, 3, 9, 7), dtype)], (2, 3, 3), torch.float32, 2, {})
    slots = torch.tensor([2, 0, 1], dtype=torch.int32, device=DEVICE)  # all of a pool, so that all of it is written
    pool, grid, C = (3, 33, 48), (11, 3), 48
    found["gather_tokens scatter"] = (
        gather_tokens.configure(grid, C, name_of, "scatter"), [random(pool, dtype), slots], pool, dtype, 3, {},
    )  # fmt: skip
    kinds = {"same": SAME, "sideways": (0.8, 0.1, 1.0, 0.0), "downwards": (1.0, 0.0, 0.96, 0.1),
             "resampled": (0.8, 0.1, 0.96, 0.1)}  # fmt: skip
    for kind, place in kinds.items():  # between two tokens, everywhere, in the axes that are not as they were
        at = places(place, place, place)
        found[f"gather_tokens {kind}"] = (
            gather_tokens.configure(grid, C, name_of, "gather"), [random(pool, dtype), slots, at], pool, dtype, 3, {},
        )  # fmt: skip
    frame = torch.arange(20 * 30 * 3, dtype=torch.int64).remainder(251).to(torch.uint8).view(20, 30, 3).to(DEVICE)
    boxes = np.array([[-5.0, -5.0, 24.0, 32.0], [20.0, 10.0, 12.0, 16.0]])
    matrices = torch.from_numpy(np.stack([crops.crop_to_image_matrix(box, (23, 19)) for box in boxes])).to(DEVICE)
    launch = crop_frame.configure((23, 19))
    found["crop_frame"] = (
        launch, [frame, matrices], (2, 23, 19, 3), torch.uint8, 2, {"frame_height": 20, "frame_width": 30},
    )  # fmt: skip
    return found


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(torch.float16))
@pytest.mark.parametrize("dtype", DTYPES, ids=name)
def test_nothing_around_the_tensors_is_read_or_written(case, dtype) -> None:
    launch, inputs, shape, out_dtype, batch, scalars = cases(dtype)[case]
    clean = torch.empty(shape, dtype=out_dtype, device=DEVICE)
    launch.run(inputs, [clean], batch, **scalars)
    surrounded, untouched = zip(*(poisoned(tuple(x.shape), x.dtype, x) for x in inputs), strict=True)
    out, out_untouched = poisoned(shape, out_dtype)
    launch.run(list(surrounded), [out], batch, **scalars)
    assert torch.equal(out, clean)  # nothing poisonous got in, and every element was written
    assert out_untouched()
    assert all(check() for check in untouched)


@pytest.mark.skipif(DEVICE == "cuda", reason="counts in the interpreter")
@pytest.mark.parametrize("case", cases(torch.float16))
def test_memory_is_read_and_written_once(case, monkeypatch) -> None:
    """Fused traffic is at most 1.1 times what is compulsory, inputs once and outputs once, if L2 keeps what is reread.

    How often a block asks for what another one has had already is held to what the kernel's description says.
    """
    launch, inputs, shape, out_dtype, batch, scalars = cases(torch.float16)[case]
    out = torch.empty(shape, dtype=out_dtype)
    with count_traffic(monkeypatch) as traffic:
        launch.run(inputs, [out], batch, **scalars)
    compulsory = sum(tensor.numel() * tensor.element_size() for tensor in (*inputs, out))
    assert traffic.unique() <= 1.1 * compulsory
    assert sum(traffic.stored.values()) == out.numel()  # each element once
    if case == "crop_frame":  # leaves out what is outside of all boxes; neighbours share pixels
        return
    assert traffic.unique() == compulsory
    constants = launch.constants
    tiles = launch.items if "M" not in constants else -(-constants.get("L", constants.get("N", 0)) // constants["M"])
    size = inputs[0].numel() * inputs[0].element_size()
    loaded = {
        "temporal_attention": size,  # once
        "spatial_attention": size // 3 * (1 + 2 * tiles),  # q once, k and v for every tile of q
        "cross_attention": size * (1 + 2 * tiles),  # the same
        "self_refinement": size * (1 + 3 * tiles),  # its own pixels once, all three times
        # A slot for each of two or three blocks; a place too, and up to four neighbours.
        "gather_tokens scatter": size + 2 * 4 * 3,
        "gather_tokens same": size + 3 * (4 + 16) * 3,
        "gather_tokens sideways": 2 * size + 3 * (4 + 16) * 3,
        "gather_tokens downwards": 2 * size + 3 * (4 + 16) * 3,
        "gather_tokens resampled": 4 * size + 3 * (4 + 16) * 3,
        "decode_heatmaps": size + 4 * inputs[0].element_size() * out.numel() // 3,  # and four neighbours
    }[case if case.startswith("gather_tokens") else case.split()[0]]
    assert traffic.requested() == loaded + out.numel() * out.element_size()


def test_grids_are_legal_at_scale() -> None:
    """x goes to 2³¹ − 1; y and z, which end at 65,535, are not used."""
    for launch in (
        temporal_attention.configure(5, 3072, 8, 32, "fp16", "tiles"),
        temporal_attention.configure(5, 3072, 8, 32, "fp32", "rows"),
        spatial_attention.configure(5, 192, 8, 32, "fp16", "small"),
        cross_attention.configure(256, 192, "fp16"),
        self_refinement.configure(256, 192, 2, "fp16"),
    ):
        assert 65_535 < launch.blocks(1 << 15) < 2**31


@pytest.mark.slow
def test_more_sequences_than_a_y_grid_takes() -> None:
    qkv = random((2, 1, 33_000, 3, 1, 16), torch.float16)  # with T = 1, attention is v itself
    assert torch.equal(temporal_attention.run(qkv, "tiles"), qkv[:, :, :, 2].flatten(-2))


def test_an_empty_batch_is_an_empty_answer() -> None:
    assert temporal_attention.run(torch.empty(0, 5, 48, 3, 4, 16, device=DEVICE)).shape == (0, 5, 48, 64)
    assert self_refinement.run(torch.empty(0, 64, 48, device=DEVICE), 2).shape == (0, 64, 48)


QKV = (1, 5, 4, 3, 2, 16)


@pytest.mark.skipif(DEVICE == "cuda", reason="makes its tensors on the CPU")
@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: temporal_attention.run(torch.zeros(QKV, dtype=torch.float64)), "expected fp32 or fp16 or bf16"),
        (lambda: temporal_attention.run(torch.zeros(5, 4, 3, 2, 16)), r"expected \[B, T, L, 3, H, D\]"),
        (lambda: temporal_attention.run(torch.zeros(1, 5, 4, 2, 2, 16)), "expected 3, for q, k and v"),
        (lambda: temporal_attention.run(torch.zeros(1, 17, 4, 3, 2, 16)), "T is 17: the kernel takes 1 to 16"),
        (lambda: temporal_attention.run(torch.zeros(1, 5, 4, 3, 2, 8)), "D is 8: the kernel takes 16 to 128"),
        (lambda: spatial_attention.run(torch.zeros(1, 5, 4, 3, 2, 256)), "D is 256: the kernel takes 16 to 128"),
        (lambda: temporal_attention.run(torch.zeros(QKV).transpose(1, 2)), "not contiguous"),
        (lambda: temporal_attention.run(torch.zeros(1921)[1:].view(QKV)), "not a multiple of 16 bytes"),
        (lambda: temporal_attention.run(torch.zeros(QKV), "tilse"), "`tactic` is 'tilse': expected one of rows, tiles"),
        (
            lambda: self_refinement.run(torch.zeros(1, 40, 48), 0),
            r"`axis` is 0: expected 1 \(channels\) or 2 \(pixels\)",
        ),
        (lambda: self_refinement.run(torch.zeros(1, 4, 48), 2, "warps"), "`tactic` is 'warps': expected one of block"),
        (lambda: self_refinement.run(torch.zeros(1, 40, 600), 2), "N is 600: the kernel takes 1 to 512"),
        (lambda: self_refinement.run(torch.zeros(4, 600), 2), r"expected \[B, C, N\]"),
        (
            lambda: cross_attention.run(torch.zeros(1, 4, 6), torch.zeros(1, 4, 6), torch.zeros(1, 4, 7)),
            "expected them to agree",
        ),
        (
            lambda: cross_attention.run(
                *(torch.zeros(1, 4, 6, dtype=d) for d in (torch.half, torch.half, torch.float))
            ),
            "expected them to agree",
        ),
        (lambda: decode_kernel.run(torch.zeros(1, 2, 1, 8), (4, 32)), "h is 1"),
        (
            lambda: gather_tokens.gather(torch.zeros(2, 6, 8), torch.zeros(2).long(), torch.zeros(2, 4), (3, 2)),
            "expected torch.int32",
        ),
        (
            lambda: gather_tokens.gather(torch.zeros(2, 6, 8), torch.zeros(2).int(), torch.zeros(2, 4), (3, 3)),
            r"`grid` is \(3, 3\): expected torch.float32 \[2, 4\], and 6 tokens",
        ),
        (
            lambda: gather_tokens.gather(torch.zeros(2, 6, 8), torch.zeros(2).int(), torch.zeros(1, 4), (3, 2)),
            r"`places` is torch.float32 \[1, 4\]",
        ),
        (
            lambda: gather_tokens.gather(torch.zeros(2, 6, 8), torch.zeros(2).int(), torch.zeros(2, 4).half(), (3, 2)),
            r"`places` is torch.float16 \[2, 4\]",
        ),
        (
            lambda: gather_tokens.scatter(torch.zeros(3, 1, 8), torch.zeros(2).int(), torch.zeros(4, 1, 8)),
            "a slot for each",
        ),
        (
            lambda: gather_tokens.configure((2, 4), 8, "fp32", "both"),
            "`tactic` is 'both': expected one of gather, scatter",
        ),
        (lambda: gather_tokens.configure((1, 4097), 8), "w is 4097: the kernel takes 1 to 4096"),
        (lambda: gather_tokens.configure((4096, 4096), 8), r"h \* w \* C is 134217728"),
        (
            lambda: crop_frame.run(torch.zeros(4, 4, 4, dtype=torch.uint8), torch.zeros(1, 2, 3).double(), (8, 8)),
            r"expected \[H, W, 3\]",
        ),
        (lambda: crop_frame.run(torch.zeros(4, 4, 3), torch.zeros(1, 2, 3).double(), (8, 8)), "expected u8"),
    ],
)
def test_what_a_kernel_does_not_take_is_refused(call, said) -> None:
    with pytest.raises(KernelError, match=said):
        call()


def test_tensors_on_the_cpu_are_refused_where_kernels_are_compiled(monkeypatch) -> None:
    import triton

    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    with pytest.raises(KernelError, match="`qkv` is on cpu: the kernels run on CUDA"):
        temporal_attention.run(torch.zeros(QKV))


@pytest.mark.parametrize("fill", [float("nan"), float("-inf"), float("inf")])
def test_heatmaps_that_are_no_numbers_are_decoded_inside_the_crop(fill) -> None:
    heatmaps, _ = poisoned((1, 2, 9, 7), torch.float32, torch.full((1, 2, 9, 7), fill))
    keypoints = decode_kernel.run(heatmaps, (36, 28))
    assert (keypoints[..., :2] >= 0).all()
    assert (keypoints[..., 0] <= 27).all()
    assert (keypoints[..., 1] <= 35).all()


@pytest.mark.gpu
def test_gradients_on_a_gpu_are_the_references() -> None:
    qkv = random(QKV, torch.float32).requires_grad_()
    torch.ops.sdtc.temporal_attention(qkv).square().sum().backward()
    again = qkv.detach().clone().requires_grad_()
    temporal_attention_reference(again).square().sum().backward()
    torch.testing.assert_close(qkv.grad, again.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
def test_a_cuda_graph_replays_a_kernel() -> None:
    qkv = random(QKV, torch.float16)
    temporal_attention.run(qkv)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = temporal_attention.run(qkv)
    qkv.copy_(random(QKV, torch.float16, seed=9))
    graph.replay()
    torch.testing.assert_close(out, temporal_attention.run(qkv))


@pytest.mark.gpu
def test_a_cuda_graph_gathers_from_new_slots_and_places() -> None:
    """As the runtime does: what was recorded reads both from where they were."""
    pool = random((4, 192, 256), torch.float32)
    slots, at = torch.tensor([3, 1], dtype=torch.int32, device=DEVICE), places(SAME, SAME)
    gather_tokens.gather(pool, slots, at, (16, 12))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = gather_tokens.gather(pool, slots, at, (16, 12))
    slots.copy_(torch.tensor([2, 0]))
    at.copy_(places((0.9, 0.7, 1.1, -0.4), SAME))
    graph.replay()
    assert_close(out, gather_tokens_reference(pool.double(), slots, at, (16, 12)), lambda: out)
    assert torch.equal(out[1], pool[0])


@pytest.mark.gpu
@pytest.mark.parametrize(
    "operator", ["temporal_attention", "spatial_attention", "cross_attention", "self_refinement", "decode_heatmaps"]
)
def test_operators_run_their_kernels_on_a_gpu(operator) -> None:
    inputs = {
        "cross_attention": [random((1, 32, 48), torch.float16)] * 3,
        "self_refinement": [random((1, 32, 48), torch.float16), 2],
        "decode_heatmaps": [random((2, 3, 16, 12), torch.float16), [64, 48]],
    }.get(operator, [random(QKV, torch.float16)])
    got = getattr(torch.ops.sdtc, operator)(*inputs)
    assert torch.equal(got, import_module(f"sdtc.kernels.operators.{operator}.launch").run(*inputs))
