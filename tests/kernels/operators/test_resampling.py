"""The resampling of tokens in plain PyTorch: against PyTorch's own sampler, and by what it must do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from sdtc.kernels.operators.gather_tokens.reference import gather_tokens_reference, resample_tokens

SAME = (1.0, 0.0, 1.0, 0.0)
GRIDS = [(1, 1), (1, 5), (4, 1), (8, 6), (16, 12)]
numbers = st.floats(-30, 30, width=32)
places_of_rows = st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=1, max_size=4)
grids = st.tuples(st.integers(1, 7), st.integers(1, 7))


def name(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def by_grid_sample(tokens: Tensor, places: Tensor, grid: tuple[int, int]) -> Tensor:
    """The same by `grid_sample`, whose places go from -1 to 1."""
    h, w = grid
    x = places[:, 0:1] * torch.arange(w) + places[:, 1:2]  # [N, w]
    y = places[:, 2:3] * torch.arange(h) + places[:, 3:4]
    x, y = 2 * x / max(w - 1, 1) - 1, 2 * y / max(h - 1, 1) - 1
    N, L, C = tokens.shape
    at = torch.stack([x[:, None].expand(N, h, w), y[:, :, None].expand(N, h, w)], dim=-1)  # [N, h, w, 2]
    maps = tokens.view(N, h, w, C).permute(0, 3, 1, 2)
    found = functional.grid_sample(maps, at, "bilinear", "border", align_corners=True)
    return found.permute(0, 2, 3, 1).reshape(N, L, C)


@pytest.mark.parametrize("grid", GRIDS, ids=name)
def test_it_samples_as_pytorch_does(grid) -> None:
    tokens = random(5, grid[0] * grid[1], 3, dtype=torch.float64)
    places = random(5, 4, seed=1).double() * torch.tensor([0.5, 3, 0.5, 3]) + torch.tensor([1.0, 0, 1, 0])
    places[0] = torch.tensor([-1.3, 9.0, 0.2, -4.0])  # mirrored, and beyond the edges
    found = resample_tokens(tokens, places, grid)
    torch.testing.assert_close(found, by_grid_sample(tokens, places, grid), atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("grid", GRIDS, ids=name)
def test_the_same_box_gives_the_same_bits(grid, dtype) -> None:
    tokens = random(2, grid[0] * grid[1], 4, dtype=dtype)
    tokens[0, 0] = torch.tensor([-0.0, float("inf"), float("-inf"), float("nan")])
    found = resample_tokens(tokens, torch.tensor([SAME, SAME]), grid)
    assert found.dtype == dtype
    assert torch.equal(found.isnan(), tokens.isnan())
    numbers = ~tokens.isnan()
    assert torch.equal(found[numbers], tokens[numbers])
    assert torch.equal(found[numbers].signbit(), tokens[numbers].signbit())  # -0.0 == 0.0


@settings(max_examples=50)
@given(grids, st.integers(-8, 8), st.integers(-8, 8))
def test_a_shift_by_whole_tokens_moves_the_map_and_repeats_its_edge(grid, right, down) -> None:
    h, w = grid
    tokens = random(1, h * w, 2)
    found = resample_tokens(tokens, torch.tensor([[1.0, right, 1.0, down]]), grid).view(h, w, 2)
    rows, columns = (torch.arange(h) + down).clamp(0, h - 1), (torch.arange(w) + right).clamp(0, w - 1)
    assert torch.equal(found, tokens.view(h, w, 2)[rows[:, None], columns])


def test_a_linear_map_stays_linear() -> None:
    h, w = 16, 12
    y, x = torch.meshgrid(torch.arange(h).float(), torch.arange(w).float(), indexing="ij")
    ramp = torch.stack([x, y, 2 * x - 3 * y + 1], dim=-1).view(1, h * w, 3)
    x_scale, x_offset, y_scale, y_offset = 0.75, 1.6, 0.9, 0.35  # inside everywhere
    x, y = x_scale * x + x_offset, y_scale * y + y_offset
    want = torch.stack([x, y, 2 * x - 3 * y + 1], dim=-1).view(1, h * w, 3)
    found = resample_tokens(ramp, torch.tensor([[x_scale, x_offset, y_scale, y_offset]]), (h, w))
    torch.testing.assert_close(found, want, atol=1e-4, rtol=0)


@settings(max_examples=50)
@given(grids, places_of_rows)
def test_nothing_leaves_the_range_of_the_tokens(grid, places) -> None:
    tokens = random(len(places), grid[0] * grid[1], 3)
    found = resample_tokens(tokens, torch.tensor(places), grid)
    low, high = tokens.amin(1, keepdim=True), tokens.amax(1, keepdim=True)
    room = 1e-6 * tokens.abs().max()  # for rounding
    assert ((found >= low - room) & (found <= high + room)).all()


def test_channels_and_rows_do_not_mix() -> None:
    tokens, places = random(2, 48, 3), torch.tensor([[0.8, 1.3, 0.9, -2.2], [1.1, -0.4, 1.0, 0.0]])
    both = resample_tokens(tokens, places, (8, 6))
    assert torch.equal(both[1:], resample_tokens(tokens[1:], places[1:], (8, 6)))
    assert torch.equal(both[..., 1:2], resample_tokens(tokens[..., 1:2].contiguous(), places, (8, 6)))


def test_what_is_no_number_lies_at_the_edge() -> None:
    tokens, nan, inf = random(4, 48, 3), float("nan"), float("inf")
    places = torch.tensor([[nan] * 4, [1, -inf, 1, nan], [1, inf, 1, inf], [0, 1e30, 0, -1e30]])
    found = resample_tokens(tokens, places, (8, 6))
    for row, token in enumerate((0, 0, 47, 5)):
        assert torch.equal(found[row], tokens[row, token].expand(48, 3))


def test_half_precision_is_interpolated_in_fp32() -> None:
    tokens, places = random(1, 48, 3, dtype=torch.float16), torch.tensor([[0.8, 1.3, 0.9, 0.1]])
    assert torch.equal(resample_tokens(tokens, places, (8, 6)), resample_tokens(tokens.float(), places, (8, 6)).half())


def test_gradients_flow_through_the_tokens() -> None:
    places = torch.tensor([[0.8, 1.3, 0.9, -0.2], SAME])
    tokens = random(2, 12, 2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda tokens: resample_tokens(tokens, places, (4, 3)), tokens)


def test_rows_of_a_pool_are_resampled_each_in_its_own_place() -> None:
    pool, slots = random(3, 48, 2), torch.tensor([2, 0, 2], dtype=torch.int32)
    places = torch.tensor([SAME, [0.8, 1.3, 0.9, -2.2], [1.1, -0.4, 1.0, 0.0]])
    found = gather_tokens_reference(pool, slots, places, (8, 6))
    assert torch.equal(found[0], pool[2])
    for row, slot in enumerate(slots.tolist()):
        assert torch.equal(found[row], resample_tokens(pool[slot : slot + 1], places[row : row + 1], (8, 6))[0])
