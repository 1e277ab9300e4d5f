from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdtc.core.heatmaps import decode_heatmaps
from sdtc.model.decoding import decode_heatmaps as decode_in_graph

SIZE, MAP = (256, 192), (64, 48)
STRIDE = np.array([(SIZE[1] - 1) / (MAP[1] - 1), (SIZE[0] - 1) / (MAP[0] - 1)])


def gaussian(x: float, y: float, sigma: float = 2.0) -> np.ndarray:
    rows, columns = np.mgrid[: MAP[0], : MAP[1]]
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))


@given(st.floats(1, MAP[1] - 2), st.floats(1, MAP[0] - 2))
def test_decoding_a_gaussian_finds_its_centre_within_a_quarter_pixel(x, y) -> None:
    decoded = decode_heatmaps(gaussian(x, y)[None, None], SIZE)[0, 0]
    assert np.abs(decoded[:2] / STRIDE - [x, y]).max() <= 0.25 + 1e-4
    assert 0.88 <= decoded[2] <= 1.0


def test_quarter_goes_toward_the_higher_neighbour() -> None:
    heatmap = np.zeros((1, 1, *MAP), np.float32)
    heatmap[0, 0, 10, 20] = 1.0
    heatmap[0, 0, 10, 21] = 0.5
    heatmap[0, 0, 9, 20] = 0.5
    np.testing.assert_allclose(decode_heatmaps(heatmap, SIZE)[0, 0, :2], [20.25, 9.75] * STRIDE, rtol=1e-6)


@pytest.mark.parametrize(("x", "y"), [(0, 0), (MAP[1] - 1, MAP[0] - 1), (0, 30), (20, MAP[0] - 1)])
def test_border_is_not_refined_outward(x, y) -> None:
    heatmap = np.zeros((1, 1, *MAP), np.float32)
    heatmap[0, 0, y, x] = 1.0
    decoded = decode_heatmaps(heatmap, SIZE)[0, 0, :2]
    np.testing.assert_allclose(decoded, [x, y] * STRIDE, rtol=1e-6)


def test_corner_pixels_map_to_corner_pixels() -> None:
    heatmap = np.zeros((1, 2, *MAP), np.float32)
    heatmap[0, 0, 0, 0] = heatmap[0, 1, -1, -1] = 1.0
    np.testing.assert_allclose(
        decode_heatmaps(heatmap, SIZE)[0, :, :2], [[0, 0], [SIZE[1] - 1, SIZE[0] - 1]], atol=1e-4
    )


def test_scores_are_clipped() -> None:
    heatmap = np.stack([np.full(MAP, -3.0), np.full(MAP, 3.0)])[None]
    np.testing.assert_array_equal(decode_heatmaps(heatmap, SIZE)[0, :, 2], [0.0, 1.0])


@given(st.integers(0, 2**32 - 1), st.sampled_from([(64, 48), (32, 24), (8, 8)]))
def test_graph_decoding_equals_the_definition(seed, shape) -> None:
    rng = np.random.default_rng(seed)
    heatmaps = rng.normal(size=(2, 5, *shape)).astype(np.float32)
    heatmaps[0, 0] = 0.25  # all equal: the first place wins, and nothing is refined
    heatmaps[0, 1, 0, :] = 9  # ties on the border
    heatmaps[0, 2, :, -1] = 9
    size = (shape[0] * 4, shape[1] * 4)
    got = decode_in_graph(torch.from_numpy(heatmaps), size).numpy()
    np.testing.assert_allclose(got, decode_heatmaps(heatmaps, size), atol=1e-4)


def test_leading_axes_are_kept(rng) -> None:
    heatmaps = rng.normal(size=(2, 3, 4, 16, 12))
    assert decode_heatmaps(heatmaps, (64, 48)).shape == (2, 3, 4, 3)
    np.testing.assert_array_equal(decode_heatmaps(heatmaps, (64, 48))[1, 2], decode_heatmaps(heatmaps[1, 2], (64, 48)))
