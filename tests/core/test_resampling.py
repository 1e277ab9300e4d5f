"""Where tokens lie in the crops of other frames, against points carried through the picture, and `grid_sample`."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sdtc.core.crops import crop_to_image, image_to_crop
from sdtc.core.manifest import Manifest
from sdtc.core.resampling import SAME, Resampler, token_places
from sdtc.kernels.operators.gather_tokens.reference import resample_tokens

GRID, C = (8, 6), 5
SIZE = (128, 96)
NUMBERS = st.floats(-200, 200).map(lambda x: round(x, 2))
SIDES = st.floats(20, 300).map(lambda x: round(x, 2))
BOXES = st.tuples(NUMBERS, NUMBERS, SIDES, SIDES).map(np.array)


@pytest.fixture(scope="module")
def manifest(tiny_bundle) -> Manifest:
    return Manifest.load(tiny_bundle / "model.json")


def centres(manifest: Manifest) -> np.ndarray:
    """Crop pixels of all tokens, ``[h, w, 2]``."""
    rows, columns = np.mgrid[: GRID[0], : GRID[1]]
    return np.stack([columns, rows], axis=-1) * manifest.token_stride + manifest.token_offset


def test_a_token_is_at_the_centre_of_its_patch(manifest) -> None:
    assert (manifest.token_grid, manifest.input_size) == (GRID, SIZE)
    # The patch convolution pads by 2 pixels: the first patch covers pixels -2 to 13.
    assert (manifest.token_stride, manifest.token_offset) == (16, (-2 + 13) / 2)


@given(theirs=BOXES, keyframe=BOXES)
def test_places_are_those_of_the_same_points_of_the_picture(manifest, theirs, keyframe) -> None:
    x_scale, x_offset, y_scale, y_offset = token_places(manifest, theirs, keyframe).astype(np.float64)
    points = crop_to_image(centres(manifest), keyframe, SIZE)
    there = (image_to_crop(points, theirs, SIZE) - manifest.token_offset) / manifest.token_stride  # in tokens
    rows, columns = np.mgrid[: GRID[0], : GRID[1]]
    np.testing.assert_allclose(x_scale * columns + x_offset, there[..., 0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(y_scale * rows + y_offset, there[..., 1], rtol=1e-4, atol=1e-4)


@given(box=BOXES)
def test_a_crop_has_the_same_place_in_itself_to_the_bit(manifest, box) -> None:
    np.testing.assert_array_equal(token_places(manifest, box, box), SAME)


def sample(tokens: np.ndarray, place: np.ndarray, grid=GRID) -> np.ndarray:
    out = np.empty((1, *tokens.shape), np.float32)
    Resampler(grid, tokens.shape[1]).gather([tokens], np.asarray(place, np.float32)[None], out)
    return out[0]


@settings(max_examples=60)
@given(
    place=st.tuples(st.floats(0.2, 4), st.floats(-12, 12), st.floats(0.2, 4), st.floats(-12, 12)),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    seed=st.integers(0, 99),
)
def test_sampling_is_that_of_grid_sample(place, grid, seed) -> None:
    h, w = grid
    tokens = np.random.default_rng(seed).normal(size=(h * w, C)).astype(np.float32)
    x, y = place[0] * np.arange(w) + place[1], place[2] * np.arange(h) + place[3]
    # From -1 to 1; a single row or column is the same everywhere.
    x, y = (2 * at / max(n - 1, 1) - 1 for at, n in ((x, w), (y, h)))
    places = torch.from_numpy(np.stack(np.meshgrid(x, y), axis=-1)[None].astype(np.float32))
    maps = torch.from_numpy(tokens.T.reshape(1, C, h, w).copy())
    want = torch.nn.functional.grid_sample(maps, places, padding_mode="border", align_corners=True)
    np.testing.assert_allclose(sample(tokens, place, grid), want.reshape(C, h * w).T.numpy(), rtol=1e-4, atol=1e-4)


@given(
    place=st.tuples(st.floats(0.2, 4), st.floats(-12, 12), st.floats(0.2, 4), st.floats(-12, 12)),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_the_host_follows_the_definition(place, grid) -> None:
    tokens = np.random.default_rng(0).normal(size=(grid[0] * grid[1], C)).astype(np.float32)
    want = resample_tokens(torch.from_numpy(tokens[None]), torch.tensor([place], dtype=torch.float32), grid)[0]
    np.testing.assert_allclose(sample(tokens, place, grid), want.numpy(), rtol=1e-4, atol=1e-4)


def test_the_keyframe_s_own_tokens_are_taken_as_they_are() -> None:
    tokens = np.random.default_rng(0).normal(size=(48, C)).astype(np.float32)
    tokens[3, 2] = np.inf
    np.testing.assert_array_equal(sample(tokens, SAME), tokens)


def test_a_step_of_one_token_moves_the_map_and_repeats_its_edge() -> None:
    tokens = np.random.default_rng(0).normal(size=(48, C)).astype(np.float32)
    maps = tokens.reshape(*GRID, C)
    moved = sample(tokens, [1, 1, 1, -2]).reshape(*GRID, C)
    rows, columns = np.clip(np.arange(GRID[0]) - 2, 0, None), np.clip(np.arange(GRID[1]) + 1, None, GRID[1] - 1)
    np.testing.assert_array_equal(moved, maps[rows][:, columns])


def test_what_is_linear_in_the_picture_stays_so(manifest) -> None:
    """Tokens that say where they are in the picture: after sampling they say it of the keyframe's crop."""
    theirs, keyframe = np.array([0.0, 0, 300, 400]), np.array([60.0, 80, 150, 200])
    tokens = crop_to_image(centres(manifest), theirs, SIZE).reshape(-1, 2).astype(np.float32)
    found = sample(tokens, token_places(manifest, theirs, keyframe))
    np.testing.assert_allclose(found, crop_to_image(centres(manifest), keyframe, SIZE).reshape(-1, 2), rtol=1e-4)


def test_another_size_of_the_input(manifest) -> None:
    wide = dataclasses.replace(manifest, input_size=(64, 256), token_grid=(4, 16), token_shape=(64, 8))
    theirs, keyframe = np.array([0.0, 0, 400, 100]), np.array([40.0, 10, 400, 100])
    place = token_places(wide, theirs, keyframe)
    np.testing.assert_allclose(place, [1, 40 * 255 / 400 / 16, 1, 10 * 63 / 100 / 16], rtol=1e-6)
