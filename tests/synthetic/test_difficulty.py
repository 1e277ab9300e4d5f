"""What makes a synthetic clip hard: it is there, the labels follow from the geometry, and the rest stays."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from sdtc.core.errors import InputError
from sdtc.core.skeleton import POSETRACK
from sdtc.synthetic import ClipOptions, RenderedFrame, SyntheticClip
from sdtc.synthetic import clip as clip_module
from sdtc.synthetic import difficulty as difficulty_module
from sdtc.synthetic.clip import OCCLUDER
from sdtc.synthetic.difficulty import DIFFICULTIES, Shake
from sdtc.synthetic.people import POINT, DrawnPerson
from sdtc.synthetic.render import Background, Camera, Canvas, defocus, to_bytes, underexpose

SIZE = (120, 160)
FRAMES = 12


def hard(seed: int, *difficulties: str, frames: int = FRAMES, people: int | None = 3) -> SyntheticClip:
    return SyntheticClip(ClipOptions(seed, frames, SIZE, people, difficulties=difficulties, lively=True))


def label(frame: RenderedFrame, name: str) -> np.ndarray:
    return frame.difficulty[:, DIFFICULTIES.index(name)]  # [P]


def sharpness(image: np.ndarray) -> float:
    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


@pytest.fixture(scope="module")
def everything() -> list[tuple[SyntheticClip, list[RenderedFrame]]]:
    """Clips in which all difficulties happen, with their frames."""
    clips = [hard(seed, *DIFFICULTIES) for seed in range(4)]
    return [(clip, list(clip)) for clip in clips]


# What stays as it is


def test_a_plain_clip_is_drawn_as_before_there_were_difficulties() -> None:
    for seed in range(3):
        clip = SyntheticClip(ClipOptions(seed, 6, SIZE, 3))
        camera, people = clip.scene.camera, clip.scene.people
        for index, frame in enumerate(clip):
            time = index / clip.fps
            canvas = Canvas(clip._background.at(time), clip.scene.light)
            order = sorted(range(3), key=lambda i: -people[i].points[index, POINT["pelvis"], 2])
            for i in order:
                clip._people[i].shadow(canvas, camera, index, time)
            for i in order:
                clip._people[i].draw(canvas, camera, index, time, i + 1)
            assert np.array_equal(frame.image, to_bytes(canvas.image))
            assert np.array_equal(frame.mask, canvas.mask)
            assert not frame.difficulty[:, 2:].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blur", "defocus", "low_light"])
def test_between_the_spells_nothing_changes(name: str) -> None:
    plain, clip = hard(11, frames=24), hard(11, name, frames=24)
    optics = dataclasses.replace(clip.scene.optics, shakes=())
    calm = ~(optics.shutter > 0) & (optics.defocus == 0)
    if name == "low_light":  # which is the whole clip; the truth stays all the same
        assert (optics.exposure < 0.5).all()
    else:
        assert 3 < calm.sum() < 21
    for index in range(0, 24, 2):
        before, after = plain[index], clip[index]
        if name != "blur":
            assert np.array_equal(before.keypoints, after.keypoints)
            assert np.array_equal(before.mask, after.mask)
            assert np.array_equal(before.occluded, after.occluded)
        near = any(abs(index / 25 - shake.time) < 5 * shake.duration for shake in clip.scene.camera.shakes)
        if calm[index] and not near and name != "low_light":
            assert np.array_equal(before.image, after.image)


def test_occluders_change_nothing_but_what_they_cover() -> None:
    plain, clip = hard(4), hard(4, "occluded")
    covered = 0
    for before, after in zip(plain, clip, strict=True):
        assert np.array_equal(before.keypoints, after.keypoints)
        assert np.array_equal(before.boxes, after.boxes)
        assert not (before.occluded & ~after.occluded).any()
        behind = after.mask != before.mask
        assert (after.mask[behind] == OCCLUDER).all()
        covered += behind.sum()
    assert covered > 1000


@pytest.mark.slow
def test_the_same_seed_makes_the_same_bytes_in_any_order(
    everything: list[tuple[SyntheticClip, list[RenderedFrame]]],
) -> None:
    again = hard(2, *reversed(DIFFICULTIES))
    for index in (FRAMES - 1, 0, 7):
        for field in dataclasses.fields(RenderedFrame):
            first, second = (getattr(frame, field.name) for frame in (everything[2][1][index], again[index]))
            assert first.tobytes() == second.tobytes(), field.name


# Labels against geometry


@pytest.mark.slow
def test_occlusion_follows_from_the_mask(everything: list[tuple[SyntheticClip, list[RenderedFrame]]]) -> None:
    by_things = by_people = 0
    for clip, frames in everything:
        depth = {i + 1: person.points[:, POINT["pelvis"], 2] for i, person in enumerate(clip.scene.people)}
        for index, frame in enumerate(frames):
            for i, track in enumerate(frame.track_ids):
                mine = depth[track + 1][index]
                for k, (x, y, v) in enumerate(frame.keypoints[i]):
                    if not v:
                        assert not frame.occluded[i, k]
                        continue
                    shown = frame.mask[round(float(y)), round(float(x))]
                    if shown == OCCLUDER and frame.occluded[i, k]:
                        assert min(thing.z for thing in clip.scene.occluders) < mine
                        by_things += 1
                    elif shown == OCCLUDER:  # a thing behind the tip of a nose that is thinner than a pixel
                        assert max(thing.z for thing in clip.scene.occluders) > mine
                    else:
                        nearer = shown not in (0, track + 1) and depth[shown][index] < mine
                        assert frame.occluded[i, k] == nearer
                        by_people += nearer
            assert np.array_equal(label(frame, "occluded"), frame.occluded.sum(axis=1) >= 3)
    assert by_things > 200
    assert by_people > 100


@pytest.mark.slow
def test_crossing_follows_from_the_boxes(everything: list[tuple[SyntheticClip, list[RenderedFrame]]]) -> None:
    crossings = 0
    for _, frames in everything:
        for frame in frames:
            for i, (x, y, w, h) in enumerate(frame.boxes):
                best = 0.0
                for j, (x2, y2, w2, h2) in enumerate(frame.boxes):
                    width, height = min(x + w, x2 + w2) - max(x, x2), min(y + h, y2 + h2) - max(y, y2)
                    if i != j and width > 0 and height > 0:
                        best = max(best, width * height / (w * h + w2 * h2 - width * height))
                assert label(frame, "crossing")[i] == (best > difficulty_module.CROSSING_IOU)
                crossings += label(frame, "crossing")[i]
    assert crossings > 50


def test_people_who_cross_meet_in_the_picture_going_opposite_ways() -> None:
    opposite = 0
    for seed in range(20):
        first, second = clip_module.build_scene(ClipOptions(seed, 40, SIZE, 2, 25, ["crossing"])).people
        places = [person.points[:, POINT["pelvis"]][:, [0, 2]] for person in (first, second)]
        bearings = [place[:, 0] / place[:, 1] for place in places]
        apart = bearings[0] - bearings[1]
        meeting = int(np.abs(apart).argmin())
        assert abs(apart[meeting]) < 0.03
        assert np.linalg.norm(places[0] - places[1], axis=-1).min() > 0.4  # in the picture, not in the world
        assert 4 < meeting < 36
        ways = [np.sign(place[meeting + 2, 0] - place[meeting - 2, 0]) for place in places]
        opposite += ways[0] != ways[1]
    assert opposite >= 17  # who walks to or from the camera has no way to the side


@pytest.mark.slow
def test_blur_follows_from_the_way_of_the_joints(everything: list[tuple[SyntheticClip, list[RenderedFrame]]]) -> None:
    blurred = 0
    for clip, frames in everything:
        camera = clip.scene.camera
        for index, frame in enumerate(frames):
            for i, track in enumerate(frame.track_ids):
                person = clip.scene.people[track]
                shutter = clip.scene.optics.shutter[index]
                moments = index + shutter * np.linspace(-0.5, 0.5, 101)
                way = np.stack([camera.project(person.at(moment)[0][:15], moment / 25) for moment in moments])
                length = np.median(np.linalg.norm(np.diff(way, axis=0), axis=-1).sum(axis=0))
                height = person.body.stature * camera.focal / person.points[index, POINT["pelvis"], 2]
                if abs(length / height - difficulty_module.BLUR_SHARE) > 0.005:  # 11 samples measure a little less
                    assert label(frame, "blur")[i] == (length / height > difficulty_module.BLUR_SHARE)
                blurred += label(frame, "blur")[i]
    assert blurred > 25


@pytest.mark.slow
def test_defocus_and_low_light_follow_from_the_optics(
    everything: list[tuple[SyntheticClip, list[RenderedFrame]]],
) -> None:
    for clip, frames in everything:
        optics = clip.scene.optics
        for index, frame in enumerate(frames):
            assert (label(frame, "low_light") == (optics.exposure[index] < difficulty_module.LOW_LIGHT)).all()
            for i, track in enumerate(frame.track_ids):
                person = clip.scene.people[track]
                height = person.body.stature * clip.scene.camera.focal / person.points[index, POINT["pelvis"], 2]
                share = optics.defocus[index] / height
                assert label(frame, "defocus")[i] == (share > difficulty_module.DEFOCUS_SHARE)
    labels = np.concatenate([frame.difficulty for _, frames in everything for frame in frames])
    assert (labels.mean(axis=0) > 0.1).all()
    assert (labels.mean(axis=0) < 0.9).all()


# What the pictures show


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blur", "defocus"])
def test_labelled_frames_are_less_sharp_than_they_were(name: str) -> None:
    ratios = []
    for seed in range(4):
        plain, clip = hard(seed), hard(seed, name)
        optics = clip.scene.optics
        for index in np.flatnonzero(optics.shutter + optics.defocus):
            frame = clip[index]
            if label(frame, name).any():
                ratios.append(sharpness(frame.image) / sharpness(plain[index].image))
    assert len(ratios) > 10
    assert np.median(ratios) < 0.5
    assert max(ratios) < 1.0


def test_motion_blurs_what_moves_on_both_sides_of_the_annotated_moment() -> None:
    for seed in (3, 5, 6):
        clip = hard(seed, "blur")
        camera = dataclasses.replace(clip.scene.camera, shakes=(), pan=(0.0, 0.0))
        optics = dataclasses.replace(clip.scene.optics, shutter=np.ones(FRAMES))
        clip.scene = dataclasses.replace(clip.scene, camera=camera, optics=optics)
        clip._background.camera = camera
        frame = clip[8]
        changed = np.abs(frame.image.astype(int) - to_bytes(clip._draw(8)[0].image)).max(axis=-1) > 2
        people = np.zeros(SIZE, bool)
        for x, y, w, h in frame.boxes.astype(int):
            people[max(y - 12, 0) : y + h + 12, max(x - 12, 0) : x + w + 12] = True  # with their shadows
        assert changed[people].mean() > 0.05
        assert not changed[~people].any()
        # As far from the scene at the beginning of the exposure as from that at its end.
        early, late = (
            np.abs(to_bytes(clip._draw(8 + side)[0].image).astype(float) - frame.image).mean() for side in (-0.5, 0.5)
        )
        assert 0.85 < early / late < 1.18
        joints = [camera.project(clip.scene.people[track].points[8, :15], 8 / 25) for track in frame.track_ids]
        np.testing.assert_allclose(frame.keypoints[..., :2], joints, rtol=1e-5)


def test_a_lens_out_of_focus_makes_a_disc_of_a_point() -> None:
    image = np.zeros((41, 41, 3), np.float32)
    image[20, 20] = 1000
    for radius in (2.0, 3.3, 7.5):
        spread = defocus(image, radius)[..., 0]
        assert spread.sum() == pytest.approx(1000, rel=1e-4)
        rows, columns = np.nonzero(spread > spread.max() / 2)
        assert np.hypot(rows - 20, columns - 20).max() == pytest.approx(radius, abs=0.71)


def test_darkness_and_noise_are_as_much_as_is_said() -> None:
    image = np.full((200, 200, 3), 200, np.float32)
    dark = underexpose(image, 0.2, 4.0, np.random.default_rng(0))
    assert dark.mean() == pytest.approx(40, abs=0.1)
    assert dark.std() == pytest.approx(4, abs=0.1)
    for seed in range(2):
        plain, clip = hard(seed), hard(seed, "low_light")
        exposure = clip.scene.optics.exposure
        for index in range(0, FRAMES, 3):
            # below black there is nothing, so noise brightens the darkest frames a little
            share = clip[index].image.mean() / plain[index].image.mean()
            assert share == pytest.approx(exposure[index], rel=0.15, abs=0.01)
        flickers = (exposure[1:-1] < 0.5 * exposure[:-2]) | (exposure[1:-1] < 0.5 * exposure[2:])
        assert flickers.any()
    assert not np.array_equal(clip[0].image[:20, :20] - plain[0].image[:20, :20], clip[1].image[:20, :20])


def test_a_shake_moves_people_and_background_together_and_shows_no_edge() -> None:
    still = Camera(SIZE, 150, 1.4, 50, (0.0, 0.0), 1, 0)
    camera = dataclasses.replace(still, shakes=(Shake(time=1.0, duration=0.2, frequency=10, amplitude=(6, -8)),))
    np.testing.assert_allclose(camera.shift(1.0), 0, atol=1e-9)  # in the middle of its swing
    moved = camera.shift(1.025)  # at the end of it
    np.testing.assert_allclose(moved, (6, -8), rtol=0.01)
    np.testing.assert_allclose(camera.shift(3.0), 0, atol=1e-9)  # it is over
    point = np.array([0.2, 1.0, 4.0])
    np.testing.assert_allclose(camera.project(point, 1.025) - still.project(point, 1.025), moved)
    background = Background(camera, np.random.default_rng(0))
    before, after = background.at(1.0).astype(float), background.at(1.025).astype(float)
    assert np.abs(after[:-8, 6:] - before[8:, :-6]).mean() < 3  # resampling the grain
    for edge in (after[-1], after[:, 0]):
        assert edge.max(axis=-1).mean() > 20


# Lively people


def lively(seed: int) -> tuple[DrawnPerson, ...]:
    return clip_module.build_scene(ClipOptions(seed, 60, SIZE, 4, 25, lively=True)).people


def test_lively_people_are_still_people() -> None:
    for seed in range(10):
        for person in lively(seed):
            at = {name: person.points[:, POINT[name]] for name in POSETRACK.keypoints}
            for side in ("left", "right"):
                for a, b, length in (
                    ("hip", "knee", person.body.thigh),
                    ("knee", "ankle", person.body.shin),
                    ("shoulder", "elbow", person.body.upper_arm),
                    ("elbow", "wrist", person.body.forearm),
                ):
                    bone = np.linalg.norm(at[f"{side}_{a}"] - at[f"{side}_{b}"], axis=-1)
                    np.testing.assert_allclose(bone, length, rtol=1e-9)
            feet = np.stack(
                [person.points[:, POINT[f"{s}_{e}"], 1] for s in ("left", "right") for e in ("heel", "toe")]
            )
            assert feet.min() > 0
            assert feet.min(axis=0).max() < 0.15 * person.body.stature
            speed = np.linalg.norm(np.diff(person.points, axis=0), axis=-1) * 25
            assert speed.max() < 14


def test_the_wrists_of_lively_people_are_where_no_gait_would_have_them() -> None:
    """Above the shoulders, say; without liveliness only who waves does that."""

    def raised(people: tuple[DrawnPerson, ...]) -> float:
        wrist, shoulder = POINT["left_wrist"], POINT["left_shoulder"]
        return float(np.mean([person.points[:, wrist, 1] > person.points[:, shoulder, 1] for person in people]))

    assert np.mean([raised(lively(seed)) for seed in range(10)]) > 0.1
    plain = [clip_module.build_scene(ClipOptions(seed, 60, SIZE, 4, 25)).people for seed in range(10)]
    assert np.mean([raised(people) for people in plain]) < 0.1


def test_between_two_frames_people_are_between() -> None:
    person = lively(0)[0]
    assert np.array_equal(person.at(7)[0], person.points[7])
    np.testing.assert_allclose(person.at(7.5)[0], (person.points[7] + person.points[8]) / 2)
    assert np.array_equal(person.at(-0.4)[0], person.points[0])
    assert np.array_equal(person.at(59.4)[0], person.points[59])


# What is refused


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"difficulties": ["fog"]}, "'fog' is unknown: expected some of occluded, crossing"),
        (
            {"difficulties": ["crossing"], "num_people": 1},
            "`num_people` is 1: the difficulty crossing needs at least 2",
        ),
    ],
)
def test_bad_difficulties(arguments: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        SyntheticClip(ClipOptions(**arguments))  # type: ignore[arg-type]


def test_nobody_to_occlude_is_fine() -> None:
    frame = hard(0, "occluded", "blur", "defocus", "low_light", people=0)[3]
    assert frame.difficulty.shape == (0, 5)


def test_a_camera_without_shakes_is_the_same_camera() -> None:
    assert Camera((9, 9), 1, 1, 1, (0, 0), 1, 0) == Camera((9, 9), 1, 1, 1, (0, 0), 1, 0, ())
