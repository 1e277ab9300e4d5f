from __future__ import annotations

from dataclasses import fields, replace

import cv2
import numpy as np
import pytest

from sdtc.core.crops import crop_frame, crop_to_image_matrix, expand_boxes
from sdtc.core.errors import ConfigError
from sdtc.training.still_clips import (
    NOISE_STARTS,
    PassingPatch,
    Photometry,
    PhotometryConfig,
    StillClip,
    StillClipConfig,
    apply_defocus,
    apply_jpeg,
    apply_light,
    apply_motion_blur,
    apply_noise,
    draw_photometry,
    draw_still_clip,
)

SIZE = (128, 96)
BOX = np.array([60.0, 40.0, 70.0, 130.0])
SIDE = 130.0  # the longer one
IMAGE_SIZE = (210, 190)
ALWAYS = {f"{name}_chance": 1.0 for name in ("motion", "occluder", "blur", "missing")}
LOUD = replace(
    StillClipConfig(**ALWAYS),
    photometry=PhotometryConfig(light_chance=1, defocus_chance=1, noise_chance=1, jpeg_chance=1),
)
MOVES = replace(StillClipConfig.none(), motion_chance=1.0)


def photograph(seed: int = 0, size: tuple[int, int] = IMAGE_SIZE) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (14, 12, 3), np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def draw(config: StillClipConfig, seed: int = 0, frames: int = 5, box: np.ndarray = BOX) -> StillClip:
    return draw_still_clip(box, frames, config, np.random.default_rng(seed))


def to_crop(points: np.ndarray, crop_box: np.ndarray, rotation: float = 0.0) -> np.ndarray:
    matrix = crop_to_image_matrix(crop_box, SIZE, rotation)
    return np.linalg.solve(matrix[:, :2], (points - matrix[:, 2]).T).T


def centroid(weights: np.ndarray) -> np.ndarray:
    rows, columns = np.mgrid[: weights.shape[0], : weights.shape[1]]
    return np.array([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()


@pytest.mark.parametrize("rotation", [0.0, 25.0])
@pytest.mark.parametrize("size", [IMAGE_SIZE, (120, 100)])  # the second is smaller than the crop box
def test_without_any_strength_all_frames_are_the_plain_crop(rotation, size) -> None:
    image = photograph(size=size)
    clip = draw(StillClipConfig.none())
    np.testing.assert_array_equal(clip.boxes, np.tile(BOX, (5, 1)))
    crop_box = expand_boxes(BOX, SIZE)
    crops = clip.render(image, np.tile(crop_box, (5, 1)), SIZE, rotation)
    plain = crop_frame(image, crop_box, SIZE, rotation=rotation)
    assert (plain == 0).all(axis=-1).any() == (size != IMAGE_SIZE)
    for crop in crops:
        np.testing.assert_array_equal(crop, plain)
    keypoints = np.random.default_rng(1).uniform(0, 100, (15, 3))
    np.testing.assert_allclose(clip.keypoints(keypoints, size), np.tile(keypoints, (5, 1, 1)), rtol=1e-6)


@pytest.mark.parametrize("rotation", [0.0, -30.0])
@pytest.mark.parametrize("blur_chance", [0.0, 1.0])
def test_labels_follow_the_pixels(rotation, blur_chance) -> None:
    """Draw a dot at a joint, and find it in every frame where the moved joint says; motion blur keeps its middle."""
    config = replace(
        MOVES, shift=0.1, rotation=4.0, zoom=0.05, stretch=0.04, blur_chance=blur_chance, missing_chance=0.3
    )
    moved_by, checked = [], 0
    for seed in range(40):
        clip = draw(config, seed)
        x, y = np.random.default_rng(seed).integers([70, 50], [120, 160])
        image = np.zeros((*IMAGE_SIZE, 3), np.uint8)
        cv2.circle(image, (int(x), int(y)), 2, (255, 255, 255), -1)
        joints = clip.keypoints(np.array([[x, y, 1.0]]), IMAGE_SIZE)  # [T, 1, 3]
        boxes = expand_boxes(clip.boxes, SIZE)
        crops = clip.render(image, boxes, SIZE, rotation)
        for crop, joint, box in zip(crops, joints[:, 0], boxes, strict=True):
            expected = to_crop(joint[None, :2], box, rotation)[0]
            if (expected > 12).all() and (expected < np.array(SIZE[::-1]) - 12).all():
                np.testing.assert_allclose(centroid(crop[..., 0].astype(float)), expected, atol=0.5)
                checked += 1
        moved_by.append(np.abs(joints[:, 0, :2] - [x, y]).max())
    assert checked > 120
    assert max(moved_by) > 15
    assert np.median(moved_by) > 2


def test_boxes_hold_the_moved_box_and_no_more() -> None:
    corners = np.array([[60, 40, 1], [130, 40, 1], [60, 170, 1], [130, 170, 1.0]])
    for seed in range(30):
        clip = draw(MOVES, seed)
        moved = clip.keypoints(corners, (10_000, 10_000))[..., :2]
        np.testing.assert_allclose(clip.boxes[:, :2], moved.min(axis=1), atol=1e-4)
        np.testing.assert_allclose(clip.boxes[:, :2] + clip.boxes[:, 2:], moved.max(axis=1), atol=1e-4)
        np.testing.assert_array_equal(clip.boxes[2], BOX)


@pytest.mark.parametrize("frames", [3, 5, 9])
def test_motion_is_smooth_and_within_its_bounds(frames) -> None:
    """Each speed of the configuration bounds what it is the largest of, and `curvature` how the speed changes."""
    config = replace(MOVES, shift=0.08, zoom=0.03, rotation=2.0, stretch=0.02, curvature=0.5)
    middle, still, fast = frames // 2, 0, 0.0
    centre = BOX[:2] + BOX[2:] / 2
    ends = 1 + config.curvature * (1 - 0.5 / middle)  # mean over the last interval of a speed that grows evenly
    for seed in range(200):
        matrices = draw(config, seed, frames).matrices
        np.testing.assert_array_equal(matrices[middle], np.eye(2, 3))
        path = matrices[:, :, :2] @ centre + matrices[:, :, 2] - centre  # [T, 2]
        steps = np.diff(path, axis=0)
        assert np.linalg.norm(steps, axis=1).max() <= config.shift * SIDE * ends + 1e-9
        bends = np.linalg.norm(np.diff(steps, axis=0), axis=1)
        assert bends.max() <= config.curvature * config.shift * SIDE / middle + 1e-9
        fast = max(fast, np.linalg.norm(steps, axis=1).max())
        linear = matrices[:, :, :2]
        grown = np.log(np.linalg.det(linear)) / 2
        assert np.abs(np.diff(grown)).max() <= (config.zoom + 2 * middle * config.stretch**2) * ends
        turned = np.rad2deg(np.arctan2(linear[:, 1, 0] - linear[:, 0, 1], linear[:, 0, 0] + linear[:, 1, 1]))
        assert np.abs(np.diff(turned)).max() <= config.rotation * ends
        stretched = np.log(np.linalg.svd(linear, compute_uv=False))  # [T, 2]
        assert (stretched[:, 0] - stretched[:, 1]).max() / 2 <= config.stretch * ends * middle * 1.01
        still += bool(np.abs(path).max() < 0.01 * SIDE)
    assert fast > 0.6 * config.shift * SIDE
    assert 10 < still < 120  # slow clips are frequent


def test_often_nothing_moves() -> None:
    config = replace(StillClipConfig.none(), motion_chance=0.7)
    still = [bool((draw(config, seed).matrices == np.eye(2, 3)).all()) for seed in range(300)]
    assert 0.2 < np.mean(still) < 0.4
    assert (draw(LOUD, frames=1).matrices == np.eye(2, 3)).all()


def test_one_frame_is_degraded_but_not_moved() -> None:
    image = photograph()
    boxes = expand_boxes(BOX, SIZE)[None]
    for seed in range(20):
        clip = draw(replace(LOUD, blur=0.1), seed, frames=1)
        np.testing.assert_array_equal(clip.boxes, BOX[None])
        assert clip.blur.any()
        assert len(clip.occluders) == 2
        crop = clip.render(image, boxes, SIZE)
        assert crop.shape == (1, *SIZE, 3)
        assert (crop[0] != crop_frame(image, boxes[0], SIZE)).mean() > 0.5


def test_a_seed_decides_everything() -> None:
    image = photograph()
    rendered = []
    for seed in (3, 3, 4):
        clip = draw(LOUD, seed)
        rendered.append(clip.render(image, expand_boxes(clip.boxes, SIZE), SIZE))
    np.testing.assert_array_equal(rendered[0], rendered[1])
    assert (rendered[0] != rendered[2]).mean() > 0.5
    np.testing.assert_array_equal(image, photograph())  # and nothing is changed


def test_crops_of_different_boxes_show_the_same_frame() -> None:
    """An occluder covers the same frame pixels, wherever the crop's box is and however it is turned."""
    image = np.full((*IMAGE_SIZE, 3), 120, np.uint8)
    config = replace(MOVES, occluder_chance=1.0, shift=0.1)
    covered = 0
    for seed in range(12):
        clip = draw(config, seed)
        clip = replace(clip, occluders=clip.occluders[:1])
        seen = []  # share of light that differs from the picture, by frame pixel
        for shift, grow, rotation in ((0, 1.0, 0.0), (9.3, 1.1, 0.0), (-5.6, 1.05, 20.0)):
            boxes = expand_boxes(clip.boxes, SIZE)
            boxes = np.concatenate([boxes[:, :2] + shift - (grow - 1) * boxes[:, 2:] / 2, boxes[:, 2:] * grow], axis=1)
            crops = clip.render(image, boxes, SIZE, rotation)
            masks = (np.abs(crops.astype(int) - 120).max(axis=-1) > 8).astype(np.float32)
            columns, rows = np.meshgrid(np.arange(75, 116), np.arange(65, 146))  # frame pixels that all crops show
            places = np.column_stack([columns.ravel(), rows.ravel()])
            crop_places = [to_crop(places, box, rotation).astype(np.float32) for box in boxes]
            looked_up = (
                cv2.remap(mask, place[:, :1], place[:, 1:], cv2.INTER_LINEAR)[:, 0]
                for mask, place in zip(masks, crop_places, strict=True)
            )
            seen.append([share > 0.5 for share in looked_up])
        one, *others = np.array(seen)  # [5, N] each
        covered += one.sum()
        for other in others:
            assert (one != other).mean() < 0.02 + 0.05 * one.mean()
    assert covered > 5000


def test_occluders_pass_evenly_and_most_places_reappear() -> None:
    config = replace(StillClipConfig.none(), occluder_chance=1.0)
    lengths = []
    for seed in range(200):
        for patch in draw(config, seed).occluders:
            np.testing.assert_allclose(np.diff(patch.centres, n=2, axis=0), 0, atol=1e-9)
            assert patch.size[0] <= config.occluder_size * SIDE
            speed = np.abs(np.diff(patch.centres[:, 0])).max()
            lengths.append(patch.size[0] / max(speed, 1e-9))  # frames for which it covers a place
            low, high = patch.centres.min(axis=0) - SIDE, patch.centres.max(axis=0) + SIDE
            assert (high >= BOX[:2]).all()
            assert (low <= BOX[:2] + BOX[2:]).all()
    assert np.mean(np.array(lengths) <= 4) > 0.7


def test_an_occluder_hides_what_is_behind_it_and_nothing_else() -> None:
    image = photograph(2)
    patch = PassingPatch(np.tile([95.0, 105.0], (1, 1)), (30.0, 20.0), 0.0, seed=1)
    clip = replace(draw(StillClipConfig.none(), frames=1), occluders=(patch,))
    box = expand_boxes(BOX, SIZE)
    plain, crop = crop_frame(image, box, SIZE), clip.render(image, box[None], SIZE)[0]
    changed = (plain != crop).any(axis=-1)
    corners = to_crop(np.array([[80, 95], [110, 115.0]]), box)
    inner = np.zeros(SIZE, bool)
    (left, top), (right, bottom) = np.rint(corners).astype(int)
    inner[top + 2 : bottom - 1, left + 2 : right - 1] = True
    outer = np.zeros(SIZE, bool)
    outer[top - 2 : bottom + 3, left - 2 : right + 3] = True
    assert not changed[~outer].any()
    assert changed[inner].mean() > 0.9


@pytest.mark.parametrize("filled", [False, True])
def test_a_frame_ends_where_the_photograph_ends_unless_it_is_filled(filled) -> None:
    """However the picture moves and is blurred, crops are black where the plain crop sees nothing, and only there."""
    image = np.maximum(photograph(), 40)[:150, :130]
    config = replace(LOUD, filled_chance=float(filled), missing_chance=0.0)
    for seed in range(15):
        clip = draw(config, seed)
        boxes = expand_boxes(clip.boxes, SIZE)
        for rotation in (0.0, 15.0):
            crops = clip.render(image, boxes, SIZE, rotation)
            for crop, box in zip(crops, boxes, strict=True):
                beyond = (crop_frame(image, box, SIZE, rotation=rotation) == 0).all(axis=-1).astype(np.uint8)
                well_beyond = cv2.erode(beyond, np.ones((3, 3))) > 0  # the edge itself is a pixel that both round
                assert well_beyond.sum() > 500
                assert (crop[well_beyond] == 0).all() != filled
                assert (crop[beyond == 0].max(axis=-1) > 0).mean() > 0.99


def test_joints_that_leave_the_picture_lose_their_label() -> None:
    matrices = np.tile(np.eye(2, 3), (3, 1, 1))
    matrices[0, 0, 2], matrices[2, 0, 2] = -30, 30
    clip = replace(draw(StillClipConfig.none(), frames=3), matrices=matrices)
    joints = np.array([[10, 50, 1], [100, 50, 1], [100, 60, 0.0], [185, 200, 1], [-3, 4, 1]])
    shown = clip.keypoints(joints, IMAGE_SIZE)[..., 2]
    assert shown.tolist() == [[0, 1, 0, 1, 0], [1, 1, 0, 1, 1], [1, 1, 0, 0, 1]]
    assert replace(clip, filled=True).keypoints(joints, IMAGE_SIZE)[..., 2].tolist() == [[1, 1, 0, 1, 1]] * 3


def test_missing_frames_show_a_neighbour_on_the_keyframes_side() -> None:
    config = replace(LOUD, missing_chance=1.0)
    patterns, image = set(), photograph()
    for seed in range(60):
        whole, clip = draw(replace(config, missing_chance=0.0), seed, frames=7), draw(config, seed, frames=7)
        shown = [int(np.flatnonzero((whole.matrices == each).all(axis=(1, 2)))[0]) for each in clip.matrices]
        patterns.add(tuple(shown))
        assert shown[3] == 3
        assert shown != list(range(7))
        for t, source in enumerate(shown):
            assert abs(source - 3) <= abs(t - 3)
            np.testing.assert_array_equal(clip.boxes[t], whole.boxes[source])
            np.testing.assert_array_equal(clip.blur[t], whole.blur[source])
        for patch, same in zip(clip.occluders, whole.occluders, strict=True):
            np.testing.assert_array_equal(patch.centres, same.centres[shown])
        crops, all_crops = (
            replace(each, occluders=()).render(image, expand_boxes(each.boxes, SIZE), SIZE) for each in (clip, whole)
        )
        np.testing.assert_array_equal(crops, all_crops[shown])
    assert {(3, 3, 3, 3, 4, 5, 6), (0, 1, 2, 3, 4, 5, 5), (0, 1, 3, 3, 4, 5, 6)} <= patterns


def test_blur_is_along_the_motion_and_bounded() -> None:
    config = replace(MOVES, blur_chance=1.0, blur=0.0, curvature=0.0)
    for seed in range(30):
        clip = draw(config, seed)
        steps = np.diff(clip.boxes[:, :2] + clip.boxes[:, 2:] / 2, axis=0)
        for blur, step in zip(clip.blur[1:], steps, strict=True):
            assert abs(blur[0] * step[1] - blur[1] * step[0]) <= 1e-6 * SIDE  # parallel
            assert -1e-9 <= blur @ step <= step @ step + 1e-9
    sharp, longest = 0, 0.0
    for seed in range(200):
        clip = draw(replace(StillClipConfig.none(), blur_chance=1.0), seed)
        lengths = np.linalg.norm(clip.blur, axis=1)
        longest, sharp = max(longest, lengths.max()), sharp + bool(lengths.min() == 0)
    assert 0.9 * 0.08 * SIDE < longest <= 0.08 * SIDE
    assert 60 < sharp < 160  # in many clips some frames only


@pytest.mark.parametrize("path", [(0.3, 0.2), (4.0, 0.0), (0.0, -7.0), (3.3, 8.1)])
def test_a_point_becomes_its_path(path) -> None:
    crop = np.zeros((41, 41, 3), np.uint8)
    crop[20, 20] = 255
    blurred = apply_motion_blur(crop, np.array(path)).astype(float)[..., 1]
    length = np.hypot(*path)
    if length <= 0.5:
        np.testing.assert_array_equal(blurred, crop[..., 0])
        return
    np.testing.assert_allclose(centroid(blurred), [20, 20], atol=0.02)
    rows, columns = np.nonzero(blurred)
    along = ((columns - 20) * path[0] + (rows - 20) * path[1]) / length
    across = ((columns - 20) * path[1] - (rows - 20) * path[0]) / length
    assert np.abs(across).max() < 1.5
    assert length / 2 - 1 < along.max() < length / 2 + 1.5
    spread = (blurred[rows, columns] * along**2).sum() / blurred.sum()
    assert spread == pytest.approx(length**2 / 12, rel=0.25, abs=0.3)


@pytest.mark.parametrize("radius", [0.4, 1.0, 2.7])
def test_a_point_becomes_a_disc(radius) -> None:
    crop = np.zeros((31, 31, 3), np.uint8)
    crop[15, 15] = 255
    blurred = apply_defocus(crop, radius)[..., 0].astype(float)
    reach = np.hypot(*(np.argwhere(blurred) - 15).T)
    assert reach.max() == 0 if radius <= 0.5 else radius - 0.5 < reach.max() <= radius + 0.5
    np.testing.assert_allclose(centroid(blurred), [15, 15], atol=1e-6)
    assert blurred.sum() == pytest.approx(255, rel=0.06)  # rounded to bytes


def test_light_is_bounded_smooth_and_never_reverses() -> None:
    config = PhotometryConfig(light_chance=1, exposure=1.0, gamma=0.3, colour=0.1, drift=0.4)
    brightest, drifts = [], 0
    for seed in range(300):
        curves = draw_photometry(5, config, np.random.default_rng(seed)).curves.astype(int)
        assert (np.diff(curves, axis=1) >= 0).all()
        assert (curves[:, 0] == 0).all()
        most = 1 + config.drift
        gain = 2 ** (most * config.exposure / 2.2) * (1 + most * config.colour)
        power = 2 ** (most * config.gamma)
        values = np.linspace(0, 1, 256)[:, None]
        assert (curves <= np.ceil(255 * np.minimum(gain * values ** (1 / power), 1))).all()
        loss = 2 ** (-most * config.exposure / 2.2) * (1 - most * config.colour)
        assert (curves >= np.floor(255 * values**power * loss)).all()
        middle = curves[:, 128, 1]
        assert np.abs(np.diff(middle, n=2)).max() <= 6
        brightest.append(middle[2])
        drifts += bool(abs(middle[4] - middle[0]) > 4)
    assert min(brightest) < 100
    assert max(brightest) > 170
    assert drifts > 100


def test_light_is_looked_up_by_channel() -> None:
    curve = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 7)], axis=1).astype(np.uint8)
    crop = photograph()
    lit = apply_light(crop, curve)
    np.testing.assert_array_equal(lit, np.dstack([crop[..., 0], 255 - crop[..., 1], np.full(IMAGE_SIZE, 7)]))


@pytest.mark.parametrize("size", [SIZE, (384, 288)])
def test_noise_is_normal_and_its_own_in_every_frame(size) -> None:
    crop = np.full((*size, 3), 120, np.uint8)
    noisy = [apply_noise(crop, 6.0, start).astype(int) - 120 for start in (0, NOISE_STARTS - 1)]
    for noise in noisy:
        assert abs(noise.mean()) < 0.15
        assert noise.std() == pytest.approx(6.0, rel=0.02)
        assert (np.abs(noise) > 12).mean() == pytest.approx(0.037, abs=0.01)  # beyond 12.5 / 6 standard deviations
    assert abs(np.corrcoef(noisy[0].ravel(), noisy[1].ravel())[0, 1]) < 0.02
    np.testing.assert_array_equal(apply_noise(crop, 6.0, 5), apply_noise(crop, 6.0, 5))


def test_compression_keeps_colours_and_loses_detail() -> None:
    crop = photograph()[: SIZE[0], : SIZE[1]]
    errors = [np.abs(apply_jpeg(crop, quality).astype(int) - crop).mean() for quality in (100, 60, 15)]
    assert errors[0] < errors[1] < errors[2] < 12
    assert errors[0] < 3
    flat = np.zeros((16, 16, 3), np.uint8) + np.array([200, 60, 30], np.uint8)
    assert np.abs(apply_jpeg(flat, 90).astype(int) - flat).max() <= 4  # red stays red


def test_photometry_alone_serves_crops_of_any_source() -> None:
    crops = np.stack([photograph(seed)[: SIZE[0], : SIZE[1]] for seed in range(3)])
    plain = draw_photometry(3, PhotometryConfig.none(), np.random.default_rng(0))
    loud = draw_photometry(3, LOUD.photometry, np.random.default_rng(0))
    for t, crop in enumerate(crops):
        np.testing.assert_array_equal(plain.apply(crop.copy(), t), crop)
        changed = loud.apply(crop.copy(), t)
        assert changed.dtype == np.uint8
        assert changed.shape == crop.shape
        assert (changed != crop).mean() > 0.5


def test_every_part_of_photometry_is_drawn_as_often_as_asked() -> None:
    config = PhotometryConfig(light_chance=0.3, defocus_chance=0.4, noise_chance=0.5, jpeg_chance=0.6, jpeg_quality=40)
    drawn: list[Photometry] = [draw_photometry(5, config, np.random.default_rng(seed)) for seed in range(400)]
    found = {
        "light": [each.curves is not None for each in drawn],
        "defocus": [each.defocus.any() for each in drawn],
        "noise": [each.noise > 0 for each in drawn],
        "jpeg": [each.jpeg_quality is not None for each in drawn],
    }
    for name, each in found.items():
        assert np.mean(each) == pytest.approx(getattr(config, f"{name}_chance"), abs=0.08)
    qualities = [each.jpeg_quality for each in drawn if each.jpeg_quality is not None]
    assert 40 <= min(qualities) < 45
    assert 95 < max(qualities) <= 100
    assert max(each.noise for each in drawn) <= config.noise
    assert max(each.defocus.max() for each in drawn) <= config.defocus


@pytest.mark.parametrize(
    ("cls", "name", "value", "message"),
    [
        (StillClipConfig, "shift", -0.1, r"augmentation\.still_clip\.shift is -0.1: expected 0 to 0\.5"),
        (StillClipConfig, "rotation", float("nan"), r"augmentation\.still_clip\.rotation is nan: expected 0 to 20\.0"),
        (StillClipConfig, "occluder_chance", 2, r"augmentation\.still_clip\.occluder_chance is 2: expected 0 to 1\.0"),
        (PhotometryConfig, "jpeg_quality", 5, r"augmentation\.photometry\.jpeg_quality is 5: expected 15 to 100"),
        (PhotometryConfig, "noise", 100.0, r"augmentation\.photometry\.noise is 100\.0: expected 0 to 64\.0"),
        (PhotometryConfig, "drift", 1.5, r"augmentation\.photometry\.drift is 1\.5: expected 0 to 1\.0"),
    ],
)
def test_values_out_of_range_are_named(cls, name, value, message) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        cls(**{name: value})


def test_every_number_of_the_configurations_is_checked() -> None:
    for cls in (StillClipConfig, PhotometryConfig):
        for each in fields(cls):
            if each.name != "photometry":
                with pytest.raises(ConfigError):
                    cls(**{each.name: 1e6})
