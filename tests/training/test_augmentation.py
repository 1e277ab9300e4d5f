from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdtc.core.crops import crop_frame, crop_to_image_matrix, expand_boxes
from sdtc.core.errors import ConfigError
from sdtc.core.heatmaps import decode_heatmaps
from sdtc.core.resampling import SAME
from sdtc.core.skeleton import POSETRACK
from sdtc.training.augmentation import AugmentationConfig, BoxNoise, View, draw_views, window_places
from sdtc.training.targets import gaussian_heatmaps
from tests.networks import TINY

SIZE, MAP = (128, 96), (32, 24)
BOX = np.array([40.0, 30.0, 50.0, 110.0])
LOWER = np.array([name.endswith(("hip", "knee", "ankle")) for name in POSETRACK.keypoints])


def person(rng: np.random.Generator, visible: int = 15) -> np.ndarray:
    keypoints = np.concatenate([rng.uniform([45, 35], [85, 135], (15, 2)), np.ones((15, 1))], axis=1)
    keypoints[visible:, 2] = 0
    return keypoints.astype(np.float32)


def draw_view(box: np.ndarray, keypoints: np.ndarray, size, config, rng) -> View:
    (view,) = draw_views(box[None], keypoints, size, config, rng)
    return view


def test_same_seed_same_view_and_drawn_within_bounds(rng) -> None:
    keypoints = person(rng)
    plain = expand_boxes(BOX, SIZE)
    config = AugmentationConfig(half_body_chance=0)
    rotations, scales, flips = [], [], []
    for seed in range(400):
        view = draw_view(BOX, keypoints, SIZE, config, np.random.default_rng(seed))
        again = draw_view(BOX, keypoints, SIZE, config, np.random.default_rng(seed))
        np.testing.assert_array_equal(view.crop_box, again.crop_box)
        rotations.append(view.rotation)
        scales.append(view.crop_box[2] / plain[2])
        flips.append(view.flip)
        np.testing.assert_allclose(view.crop_box[:2] + view.crop_box[2:] / 2, plain[:2] + plain[2:] / 2)
    assert np.abs(rotations).max() == 45
    assert 0.5 < np.mean(np.array(rotations) != 0) < 0.7
    assert (min(scales), max(scales)) == (pytest.approx(0.65), pytest.approx(1.35))
    assert 0.4 < np.mean(flips) < 0.6


def noises(noise: BoxNoise, T: int = 5, count: int = 4000) -> np.ndarray:
    """Return the noise of windows ``[count, T, 4]``: of the centre in sides of the box, of the sides' logarithms."""
    boxes = np.tile(BOX, (T, 1))
    noisy = np.stack([noise.add(boxes, np.random.default_rng(seed)) for seed in range(count)])
    centres = noisy[..., :2] + noisy[..., 2:] / 2 - (BOX[:2] + BOX[2:] / 2)
    return np.concatenate([centres / BOX[2:], np.log(noisy[..., 2:] / BOX[2:])], axis=-1)


@pytest.mark.parametrize("correlation", [0.0, 0.7, 1.0])
def test_box_noise_is_as_strong_and_as_correlated_as_told(correlation) -> None:
    drawn = noises(BoxNoise(centre=0.05, size=0.1, correlation=correlation))
    assert np.abs(drawn.mean((0, 1))).max() < 0.005
    np.testing.assert_allclose(drawn.std(0), np.tile([0.05, 0.05, 0.1, 0.1], (5, 1)), rtol=0.05)
    for t, axis in ((1, 0), (3, 2)):
        found = np.corrcoef(drawn[:, t, axis], drawn[:, t + 1, axis])[0, 1]
        assert found == pytest.approx(correlation, abs=0.05)
    assert abs(np.corrcoef(drawn[:, 2, 0], drawn[:, 2, 1])[0, 1]) < 0.05  # x and y


def test_box_noise_of_nothing_leaves_boxes_as_they_are(rng) -> None:
    boxes = np.tile(BOX, (3, 1))
    assert BoxNoise().add(boxes, rng) is boxes
    views = draw_views(boxes, person(rng), SIZE, AugmentationConfig.none(), rng)
    np.testing.assert_array_equal([view.crop_box for view in views], expand_boxes(boxes, SIZE))
    np.testing.assert_array_equal(window_places(views, TINY), np.tile(SAME, (3, 1)))


@given(st.integers(0, 10_000))
def test_places_are_where_the_keyframes_tokens_lie_in_the_other_crops(seed) -> None:
    """From a token in the keyframe's crop to the picture, and into another frame's crop; turned and mirrored, too."""
    rng = np.random.default_rng(seed)
    config = AugmentationConfig(rotation_chance=1, half_body_chance=0.5, box_noise=BoxNoise(0.1, 0.1))
    boxes = BOX + rng.uniform(-10, 10, (5, 4))
    views = draw_views(boxes, person(rng), SIZE, config, rng)
    layout = TINY
    h, w = layout.grid
    row, column = rng.integers(h), rng.integers(w)
    token = layout.token_offset + layout.token_stride * np.array([column, row])
    key = views[2]

    def mirrored(point: np.ndarray) -> np.ndarray:
        return np.array([SIZE[1] - 1 - point[0], point[1]]) if key.flip else point

    def matrix(view: View) -> np.ndarray:
        return crop_to_image_matrix(view.crop_box, SIZE, view.rotation)

    image = matrix(key) @ [*mirrored(token), 1]
    for view, (x_scale, x_offset, y_scale, y_offset) in zip(views, window_places(views, layout), strict=True):
        other = mirrored(np.linalg.solve(matrix(view)[:, :2], image - matrix(view)[:, 2]))
        want = (other - layout.token_offset) / layout.token_stride
        np.testing.assert_allclose([x_scale * column + x_offset, y_scale * row + y_offset], want, atol=1e-4)
    np.testing.assert_array_equal(window_places(views, layout)[2], SAME)


def test_the_frames_of_a_window_share_everything_but_the_noise(rng) -> None:
    """A half body is the same part of the box in all of them."""
    boxes = BOX + np.arange(5)[:, None] * [3.0, 0, 0, 0]
    for seed in range(50):
        config = AugmentationConfig(half_body_chance=1)
        views = draw_views(boxes, person(rng), SIZE, config, np.random.default_rng(seed))
        assert len({(view.rotation, view.flip, *view.crop_box[2:].round(9)) for view in views}) == 1
        steps = np.diff([view.crop_box[0] for view in views])
        np.testing.assert_allclose(steps, 3, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "value"),
    [("scale", 1.5), ("rotation", float("nan")), ("flip_chance", 2), ("half_body_chance", -1)],
)
def test_values_out_of_range_are_named(name, value) -> None:
    with pytest.raises(ConfigError, match=rf"augmentation\.{name} is {value}: expected 0 to"):
        AugmentationConfig(**{name: value})


@pytest.mark.parametrize(("name", "value"), [("centre", -0.1), ("size", 0.6), ("correlation", float("nan"))])
def test_noise_out_of_range_is_named(name, value) -> None:
    with pytest.raises(ConfigError, match=rf"augmentation\.box_noise\.{name} is {value}: expected 0 to"):
        BoxNoise(**{name: value})


def test_half_body_always_returns_a_box_that_holds_half_of_the_joints(rng) -> None:
    """A sister project's half-body augmentation returned nothing."""
    config = AugmentationConfig(scale=0, rotation_chance=0, flip_chance=0, half_body_chance=1)
    smaller = 0
    for seed in range(100):
        keypoints = person(np.random.default_rng(seed), visible=9 + seed % 7)
        view = draw_view(BOX, keypoints, SIZE, config, np.random.default_rng(seed))
        assert (view.crop_box[2:] > 0).all()
        inside = view.to_crop(keypoints, SIZE)[:, 2] > 0
        halves = [visible & lower for lower in (LOWER, ~LOWER) for visible in [keypoints[:, 2] > 0]]
        assert any(half.sum() >= 3 and inside[half].all() for half in halves)
        smaller += bool(view.crop_box[2] < expand_boxes(BOX, SIZE)[2])
    assert smaller > 20
    few = person(rng, visible=8)  # not more than 8: never a half body
    np.testing.assert_array_equal(draw_view(BOX, few, SIZE, config, rng).crop_box, expand_boxes(BOX, SIZE))


def test_nothing_is_mutated(rng) -> None:
    keypoints, box = person(rng), BOX.copy()
    before = keypoints.copy()
    for seed in range(20):
        draw_view(box, keypoints, SIZE, AugmentationConfig(), np.random.default_rng(seed)).to_crop(keypoints, SIZE)
    np.testing.assert_array_equal(keypoints, before)
    np.testing.assert_array_equal(box, BOX)


@pytest.mark.parametrize("rotation", [0.0, 30.0, -45.0])
@pytest.mark.parametrize("flip", [False, True])
def test_keypoints_go_where_the_picture_goes(rotation, flip) -> None:
    """Draw each joint as a dot, crop the picture, and look for the dot where the mapped joint says."""
    view = View(expand_boxes(BOX, SIZE), rotation, flip)
    for joint in range(15):
        x, y = 50 + 2.5 * joint, 130 - 5 * joint
        frame = np.zeros((180, 160, 3), np.uint8)
        frame[int(y) - 2 : int(y) + 3, int(x) - 2 : int(x) + 3] = 255
        keypoints = np.zeros((15, 3), np.float32)
        keypoints[joint] = int(x), int(y), 1
        mapped = view.to_crop(keypoints, SIZE)
        target = np.flatnonzero(mapped[:, 2])
        crop = crop_frame(frame, view.crop_box, SIZE, rotation=rotation)[..., 0].astype(float)
        crop = crop[:, ::-1] if flip else crop
        if not len(target):
            assert crop[2:-2, 2:-2].sum() == 0
            continue
        rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
        found = np.array([(crop * columns).sum(), (crop * rows).sum()]) / crop.sum()
        np.testing.assert_allclose(found, mapped[target[0], :2], atol=0.1)
        name, want = POSETRACK.keypoints[joint], POSETRACK.keypoints[target[0]]
        swapped = name.replace("left", "?").replace("right", "left").replace("?", "right")
        assert want == (swapped if flip else name)


def test_joints_outside_the_crop_lose_their_weight() -> None:
    keypoints = np.tile([1000.0, 1000.0, 1.0], (15, 1)).astype(np.float32)
    mapped = View(expand_boxes(BOX, SIZE)).to_crop(keypoints, SIZE)
    assert not mapped[:, 2].any()
    heatmaps, weights = gaussian_heatmaps(mapped, SIZE, MAP)
    assert not weights.any()
    assert not heatmaps.any()


@given(st.floats(8, 87), st.floats(8, 119))
def test_targets_decode_to_the_joint(x, y) -> None:
    keypoints = np.array([[[x, y, 1.0]]])
    heatmaps, weights = gaussian_heatmaps(keypoints, SIZE, MAP)
    assert weights.tolist() == [[1]]
    assert heatmaps.max() <= 1
    stride = np.array([(SIZE[1] - 1) / (MAP[1] - 1), (SIZE[0] - 1) / (MAP[0] - 1)])
    decoded = decode_heatmaps(heatmaps, SIZE)[0, 0, :2]
    assert np.abs((decoded - [x, y]) / stride).max() <= 0.26


def test_sigma_is_two_heatmap_pixels() -> None:
    heatmaps, _ = gaussian_heatmaps(np.array([[95.5, 127.5, 1.0]]), (256, 192), (64, 48))
    row = heatmaps[0].max(axis=0)  # through the centre at 23.5
    assert row[24] / row[26] == pytest.approx(np.exp((2.5**2 - 0.5**2) / (2 * 2.0**2)), rel=1e-4)
