from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdtc.core.crops import crop_frame, expand_boxes
from sdtc.core.errors import ConfigError
from sdtc.core.heatmaps import decode_heatmaps
from sdtc.core.skeleton import POSETRACK
from sdtc.training.augmentation import AugmentationConfig, View, draw_view
from sdtc.training.targets import gaussian_heatmaps

SIZE, MAP = (128, 96), (32, 24)
BOX = np.array([40.0, 30.0, 50.0, 110.0])
LOWER = np.array([name.endswith(("hip", "knee", "ankle")) for name in POSETRACK.keypoints])


def person(rng: np.random.Generator, visible: int = 15) -> np.ndarray:
    keypoints = np.concatenate([rng.uniform([45, 35], [85, 135], (15, 2)), np.ones((15, 1))], axis=1)
    keypoints[visible:, 2] = 0
    return keypoints.astype(np.float32)


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


def test_shifted_boxes_keep_their_size_and_their_bounds() -> None:
    plain = expand_boxes(BOX, SIZE)
    config = AugmentationConfig(scale=0, shift=0.1, rotation_chance=0, half_body_chance=0, flip_chance=0)
    views = [
        draw_view(BOX, person(np.random.default_rng(s)), SIZE, config, np.random.default_rng(s)) for s in range(300)
    ]
    shifts = np.array([(view.crop_box[:2] - plain[:2]) / plain[2:] for view in views])
    np.testing.assert_allclose([view.crop_box[2:] for view in views], np.tile(plain[2:], (300, 1)))
    assert np.abs(shifts).max() <= 0.1
    assert (np.abs(shifts.mean(0)) < 0.02).all()
    assert (shifts.std(0) > 0.05).all()  # 0.058 where everything is equally likely


@pytest.mark.parametrize(
    ("name", "value"),
    [("scale", 1.5), ("shift", -0.1), ("rotation", float("nan")), ("flip_chance", 2), ("half_body_chance", -1)],
)
def test_values_out_of_range_are_named(name, value) -> None:
    with pytest.raises(ConfigError, match=rf"augmentation\.{name} is {value}: expected 0 to"):
        AugmentationConfig(**{name: value})


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
