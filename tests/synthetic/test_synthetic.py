"""The synthetic clips: what their ground truth promises, what is written, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdtc.core.errors import InputError, OutputError
from sdtc.core.posetrack import POSETRACK_CATEGORY, from_slots
from sdtc.core.skeleton import POSETRACK
from sdtc.synthetic import ClipOptions, SyntheticClip, write_clip
from sdtc.synthetic import clip as clip_module
from sdtc.synthetic.cli import main
from sdtc.synthetic.people import ACTIONS, POINT, Body, DrawnPerson, Gait
from sdtc.synthetic.render import Camera, Canvas, PersonPainter, to_bytes

SMALL = (180, 320)
FPS = 25
seeds = st.integers(0, 999_999)
few = settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def walkers(seed: int, frames: int = 40) -> list[DrawnPerson]:
    return list(clip_module.build_scene(ClipOptions(seed, frames, SMALL, 4, FPS)).people)


def joint(person: DrawnPerson, name: str) -> np.ndarray:
    return person.points[:, POINT[name]]  # [F, 3] world metres


# Determinism


def arrays(clip: SyntheticClip) -> list[bytes]:
    return [getattr(frame, f.name).tobytes() for frame in clip for f in dataclasses.fields(frame)]


@pytest.mark.slow
@few
@given(seeds)
def test_the_same_seed_makes_the_same_bytes(seed: int) -> None:
    assert arrays(SyntheticClip(ClipOptions(seed, 2, SMALL))) == arrays(SyntheticClip(ClipOptions(seed, 2, SMALL)))


@pytest.mark.slow
def test_different_seeds_and_different_frames_differ() -> None:
    clips = [SyntheticClip(ClipOptions(seed, 3, SMALL)) for seed in range(8)]
    assert len({clip[0].image.tobytes() for clip in clips}) == 8
    for clip in clips:
        assert clip[0].image.tobytes() != clip[2].image.tobytes()


def test_frames_do_not_depend_on_the_order_of_asking_nor_on_the_global_random_state() -> None:
    clip = SyntheticClip(ClipOptions(5, 4, SMALL))
    np.random.seed(1)
    last = clip[3].image.copy()
    assert np.array_equal(list(clip)[3].image, last)


def test_a_person_stays_the_same_when_others_are_added() -> None:
    alone, crowd = (SyntheticClip(ClipOptions(3, 5, SMALL, num_people=n)).scene for n in (1, 4))
    assert alone.camera == crowd.camera == SyntheticClip(ClipOptions(3, 5, SMALL)).scene.camera
    assert alone.people[0].look == crowd.people[0].look
    assert np.array_equal(alone.people[0].points, crowd.people[0].points)


# Ground truth against the picture


@pytest.mark.slow
@few
@given(seeds)
def test_shapes_and_types(seed: int) -> None:
    clip = SyntheticClip(ClipOptions(seed, 3, SMALL))
    assert len(clip) == len(list(clip)) == 3
    for frame in clip:
        people = len(frame.track_ids)
        assert (frame.image.shape, frame.image.dtype) == ((*SMALL, 3), np.uint8)
        assert (frame.keypoints.shape, frame.keypoints.dtype) == ((people, 15, 3), np.float32)
        assert (frame.occluded.shape, frame.occluded.dtype) == ((people, 15), bool)
        assert (frame.boxes.shape, frame.boxes.dtype) == ((people, 4), np.float32)
        assert (frame.head_boxes.shape, frame.head_boxes.dtype) == ((people, 4), np.float32)
        assert frame.track_ids.dtype.kind == "i"
        assert len(set(frame.track_ids.tolist())) == people
        assert set(np.unique(frame.mask)) <= {0, *(frame.track_ids + 1)}


@pytest.mark.slow
@few
@given(seeds)
def test_visible_joints_lie_in_the_drawn_silhouette(seed: int) -> None:
    for frame in SyntheticClip(ClipOptions(seed, 12, num_people=1)):
        for person in range(len(frame.track_ids)):
            # one pixel of tolerance: the tip of a nose is thinner than a pixel when it is far away
            silhouette = cv2.dilate((frame.mask == frame.track_ids[person] + 1).astype(np.uint8), np.ones((3, 3)))
            for (x, y, v), name in zip(frame.keypoints[person], POSETRACK.keypoints, strict=True):
                if v:
                    assert silhouette[round(float(y)), round(float(x))], name


@pytest.mark.slow
@few
@given(seeds)
def test_visibility_and_occlusion_follow_the_picture(seed: int) -> None:
    height, width = 180, 320
    for frame in SyntheticClip(ClipOptions(seed, 6, (height, width), num_people=4)):
        x, y, v = np.moveaxis(frame.keypoints, -1, 0)
        inside = (x > -0.5) & (x < width - 0.5) & (y > -0.5) & (y < height - 0.5)
        assert np.array_equal(v == 1, inside)
        assert not (frame.occluded & ~inside).any()
        for person, track in enumerate(frame.track_ids):
            for k in np.flatnonzero(inside[person]):
                shown = frame.mask[round(float(y[person, k])), round(float(x[person, k]))]
                assert frame.occluded[person, k] == (shown not in (0, track + 1))


@pytest.mark.slow
def test_whoever_is_nearer_covers_the_other() -> None:
    covered = 0
    for seed in range(6):
        clip = SyntheticClip(ClipOptions(seed, 10, SMALL, num_people=4))
        for index, frame in enumerate(clip):
            for person, k in zip(*np.nonzero(frame.occluded), strict=True):
                x, y = np.rint(frame.keypoints[person, k, :2]).astype(int)
                depths = [p.points[index, POINT["pelvis"], 2] for p in clip.scene.people]
                assert depths[frame.mask[y, x] - 1] < depths[frame.track_ids[person]]
                covered += 1
    assert covered > 20


@pytest.mark.slow
@few
@given(seeds)
def test_boxes_lie_in_the_picture_and_contain_the_visible_joints(seed: int) -> None:
    for frame in SyntheticClip(ClipOptions(seed, 6, SMALL, num_people=3)):
        low, high = frame.boxes[:, :2], frame.boxes[:, :2] + frame.boxes[:, 2:]
        assert (low >= 0).all()
        assert (high <= SMALL[::-1]).all()
        assert (frame.boxes[:, 2:] > 0).all()
        for person, points in enumerate(frame.keypoints):
            visible = points[points[:, 2] == 1, :2]
            assert (visible >= low[person] - 1.5).all()
            assert (visible <= high[person] + 0.5).all()


@pytest.mark.slow
@few
@given(seeds)
def test_head_boxes_hold_the_head_and_little_else(seed: int) -> None:
    head = [POSETRACK.keypoints.index(name) for name in ("nose", "head_bottom", "head_top")]
    for frame in SyntheticClip(ClipOptions(seed, 4, SMALL, num_people=2)):
        for points, (x, y, width, height) in zip(frame.keypoints[:, head, :2], frame.head_boxes, strict=True):
            length = np.hypot(*(points[1] - points[2]))
            assert (points >= (x - 0.2 * length, y - 0.01)).all()
            assert (points <= (x + width + 0.2 * length, y + height + 0.01)).all()
            assert width <= 1.3 * length
            assert height <= 1.2 * length


def test_the_camera_projects_as_a_pinhole_does() -> None:
    camera = Camera((100, 201), focal=500, height=1.5, horizon=40, pan=(0, 0), period=1, start=0)
    expected = [[100, 40], [200, 40], [100, 190], [100, 115]]
    points = np.array([[0, 1.5, 5], [1, 1.5, 5], [0, 0, 5], [0, 0, 10]])
    np.testing.assert_allclose(camera.project(points, 0), expected)


@pytest.mark.slow
@few
@given(seeds)
def test_people_and_background_pan_together(seed: int) -> None:
    camera = SyntheticClip(ClipOptions(seed, 1, SMALL)).scene.camera
    point = np.array([[0.3, 1.0, 5.0]])
    moved = camera.project(point, 2.0) - camera.project(point, 0.5)
    np.testing.assert_allclose(moved[0], camera.shift(2.0) - camera.shift(0.5))
    background = clip_module.Background(camera, np.random.default_rng(seed))
    first, second = background.at(0.5).astype(np.float32), background.at(2.0).astype(np.float32)
    matrix = np.float32([[1, 0, moved[0, 0]], [0, 1, moved[0, 1]]])
    inner = (slice(50, -50), slice(90, -90))  # the pan is at most 12 % of the width to either side
    moved_difference = np.abs(cv2.warpAffine(first, matrix, SMALL[::-1])[inner] - second[inner]).mean()
    assert moved_difference < 4.5  # resampling the grain


# The body


@few
@given(seeds)
def test_bones_are_rigid_and_as_long_as_the_body_says(seed: int) -> None:
    for person in walkers(seed):
        body = person.body
        bones = {("head_bottom", "head_top"): body.head}
        for side in ("left", "right"):
            bones |= {
                (f"{side}_hip", f"{side}_knee"): body.thigh, (f"{side}_knee", f"{side}_ankle"): body.shin,
                (f"{side}_shoulder", f"{side}_elbow"): body.upper_arm, (f"{side}_elbow", f"{side}_wrist"): body.forearm,
            }  # fmt: skip
        bones |= {("left_hip", "right_hip"): 2 * body.hips, ("left_shoulder", "right_shoulder"): 2 * body.shoulders}
        for (a, b), length in bones.items():
            np.testing.assert_allclose(np.linalg.norm(joint(person, a) - joint(person, b), axis=-1), length, rtol=1e-9)


@few
@given(seeds)
def test_people_stand_on_the_ground_and_upright(seed: int) -> None:
    for person in walkers(seed):
        feet = np.stack([joint(person, f"{side}_{end}")[:, 1] for side in ("left", "right") for end in ("heel", "toe")])
        assert feet.min() > 0
        assert feet.min(axis=0).max() < (0.14 if person.gait.action == "run" else 0.06) * person.body.stature / 1.7
        height = joint(person, "head_top")[:, 1] / person.body.stature
        assert height.min() > 0.8
        assert height.max() < 1.08


@few
@given(seeds)
def test_left_is_to_the_left_of_the_way_people_go(seed: int) -> None:
    """The way somebody goes comes from the positions here, independently of the headings of the generator."""
    checked = 0
    for person in walkers(seed):
        if person.gait.speed == 0:
            continue
        ground = (joint(person, "left_hip") + joint(person, "right_hip"))[:, [0, 2]] / 2
        way = ground[4:] - ground[:-4]
        way /= np.linalg.norm(way, axis=-1, keepdims=True)
        left = np.stack([-way[:, 1], way[:, 0]], axis=-1)  # seen from above, x to the right and z up the page
        middle = slice(2, -2)
        for part in ("hip", "shoulder", "knee", "ankle", "wrist"):
            across = (joint(person, f"left_{part}") - joint(person, f"right_{part}"))[middle][:, [0, 2]]
            assert ((across * left).sum(axis=-1) > 0.01).mean() > (0.99 if part in ("hip", "shoulder") else 0.8), part
        nose = (joint(person, "nose") - joint(person, "head_bottom"))[middle][:, [0, 2]]
        assert ((nose * way).sum(axis=-1) > 0).all()
        for chain, sense in ((("hip", "knee", "ankle"), -1), (("shoulder", "elbow", "wrist"), 1)):
            for side in (
                "left",
                "right",
            ):  # knees bend backwards, elbows forwards: a sense of rotation, seen from the side
                joints = [joint(person, f"{side}_{part}")[middle] for part in chain]
                flat = [np.stack([(j[:, [0, 2]] * way).sum(axis=-1), j[:, 1]]) for j in joints]  # (forward, up)
                (a, b), (c, d) = flat[1] - flat[0], flat[2] - flat[1]
                assert (sense * (a * d - b * c) > 0).all(), chain
        checked += 1
    assert checked  # the first person always goes somewhere


@pytest.mark.parametrize(("heading", "left_minus_right"), [(np.pi / 2, -1), (-np.pi / 2, 1)])
def test_left_in_the_picture(heading: float, left_minus_right: int) -> None:
    """Who walks away has the left shoulder on the left of the picture; who comes, on the right."""
    person = posed("walk", heading)
    camera = Camera(SMALL, 200, 1.4, 60, (0, 0), 1, 0)
    x = camera.project(person.points[0], 0)[:, 0]
    for part in ("shoulder", "hip"):
        assert np.sign(x[POINT[f"left_{part}"]] - x[POINT[f"right_{part}"]]) == left_minus_right


@pytest.mark.parametrize(
    ("heading", "seen"), [(-np.pi / 2, "front"), (0.0, "right"), (np.pi / 2, "back"), (np.pi, "left")]
)
def test_the_texture_turns_with_the_body(heading: float, seen: str) -> None:
    """A head painted in four colours shows the camera the side that it turns to it."""
    colours = {"back": (255, 0, 0), "right": (0, 255, 0), "front": (0, 0, 255), "left": (255, 255, 0)}
    texture = np.zeros((64, 128, 3), np.float32)
    for column in range(128):  # the middle column is the front, and the angle grows to the left
        texture[:, column] = list(colours.values())[int(((column + 16) % 128) // 32)]
    person = posed("stand", heading)
    painter = PersonPainter(person, np.random.default_rng(0))
    painter.parts = [dataclasses.replace(part, texture=texture) for part in painter.parts if part.head][:1]
    camera = Camera((300, 300), 500, 1.5, 150, (0, 0), 1, 0)
    canvas = Canvas(np.zeros((300, 300, 3), np.uint8), np.array([0.0, 0.0, 1.0]))
    painter.draw(canvas, camera, 0, 0.0, 1)
    rows, columns = np.nonzero(canvas.mask)
    pixel = to_bytes(canvas.image)[int(rows.mean()), int(columns.mean())]
    assert tuple(pixel > 60) == tuple(channel > 0 for channel in colours[seen])


def posed(action: str, heading: float) -> DrawnPerson:
    """Somebody four metres in front of the camera, for two frames."""
    rng = np.random.default_rng(1)
    body, look = Body.random(rng), clip_module.Look.random(rng)
    gait = dataclasses.replace(Gait.random(rng, body, action), start=0.0)
    route = clip_module.Route(np.array([[0.0, 4.0]] * 2), np.full(2, heading))
    return clip_module.build_person(body, look, gait, route, FPS)


@few
@given(seeds)
def test_motion_is_continuous(seed: int) -> None:
    for person in walkers(seed):
        speed = np.linalg.norm(np.diff(person.points, axis=0), axis=-1) * FPS  # [F-1, K] m/s
        assert speed.max() < (14 if person.gait.action == "run" else 7)
        if person.gait.speed:
            pelvis = speed[:, POINT["pelvis"]]
            assert 0.7 * person.gait.speed < np.median(pelvis) < 1.5 * person.gait.speed


@pytest.mark.slow
@few
@given(seeds, st.sampled_from([(640, 32), (32, 640), (360, 640), (640, 360)]), st.sampled_from([1, 25, 120]))
def test_nobody_comes_too_near_whatever_the_format_and_the_frame_rate(
    seed: int, size: tuple[int, int], fps: float
) -> None:
    for person in clip_module.build_scene(ClipOptions(seed, 300, size, 2, fps)).people:
        assert person.points[..., 2].min() > 0.7


@pytest.mark.slow
def test_every_action_and_every_view_occurs() -> None:
    people = [person for seed in range(40) for person in walkers(seed, 2)]
    assert {person.gait.action for person in people} == set(ACTIONS)
    quarters = {int(np.floor((person.facing[0, 0] + np.pi / 4) / (np.pi / 2))) % 4 for person in people}
    assert quarters == {0, 1, 2, 3}
    counts = {len(clip_module.build_scene(ClipOptions(seed, 1, SMALL, None, FPS)).people) for seed in range(40)}
    assert counts == {1, 2, 3, 4}


@pytest.mark.slow
def test_most_people_are_in_the_picture_and_a_long_clip_does_not_run_empty() -> None:
    shown = [
        len(SyntheticClip(ClipOptions(seed, 1000, SMALL, num_people=3))[index].boxes)
        for seed in range(4)
        for index in (0, 999)
    ]
    assert np.mean(shown) > 2


def test_no_people_is_a_clip_too(tmp_path: Path) -> None:
    clip = SyntheticClip(ClipOptions(0, 2, SMALL, num_people=0))
    assert all(frame.keypoints.shape == (0, 15, 3) and frame.boxes.shape == (0, 4) for frame in clip)
    assert json.loads(write_clip(clip, tmp_path, video=False).read_text())["annotations"] == []


# Files


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_what_is_written(tmp_path: Path) -> None:
    clip = SyntheticClip(ClipOptions(41, 5, SMALL, num_people=4, fps=2))
    # two frames a second: enough happens in five that somebody leaves, somebody is cut off and somebody covered
    assert any(frame.track_ids.tolist() != list(range(len(frame.track_ids))) for frame in clip)
    assert any((frame.keypoints[..., 2] == 0).any() for frame in clip)
    assert any(frame.occluded.any() for frame in clip)
    path = write_clip(clip, tmp_path)
    name = "000041_synthetic"
    frames = {f"images/val/{name}/{i:06d}.jpg" for i in range(5)}
    assert path == tmp_path / "annotations" / "val" / f"{name}.json"
    assert files(tmp_path) == {f"annotations/val/{name}.json", f"{name}.mp4", *frames}

    data = json.loads(path.read_text())
    assert data["categories"] == [POSETRACK_CATEGORY]
    assert [image["file_name"] for image in data["images"]] == sorted(frames)
    assert [image["id"] for image in data["images"]] == [10000410000 + i for i in range(5)]
    for image in data["images"]:
        assert (image["frame_id"], image["vid_id"], image["nframes"]) == (image["id"], "000041", 5)
        assert (image["height"], image["width"], image["is_labeled"]) == (*SMALL, True)
        assert image["ignore_regions_x"] == image["ignore_regions_y"] == []
    assert len({annotation["id"] for annotation in data["annotations"]}) == len(data["annotations"])

    for number, frame in enumerate(clip):
        found = [entry for entry in data["annotations"] if entry["image_id"] == 10000410000 + number]
        assert [entry["track_id"] for entry in found] == frame.track_ids.tolist()
        for i, entry in enumerate(found):
            slots = np.array(entry["keypoints"]).reshape(17, 3)
            visible = frame.keypoints[i, :, 2:]
            np.testing.assert_allclose(from_slots(slots), frame.keypoints[i] * visible, atol=6e-4)
            assert not slots[3:5].any()  # ears
            assert entry["num_keypoints"] == visible.sum()
            np.testing.assert_allclose(entry["bbox"], frame.boxes[i], atol=6e-4)
            np.testing.assert_allclose(entry["bbox_head"], frame.head_boxes[i], atol=6e-4)
            assert from_slots(np.array(entry["occluded"])[:, None])[:, 0].tolist() == frame.occluded[i].tolist()
            assert (entry["category_id"], entry["iscrowd"], entry["scores"]) == (1, False, [])
        picture = cv2.imread(str(tmp_path / "images" / "val" / name / f"{number:06d}.jpg"))[..., ::-1]
        assert np.abs(picture.astype(int) - frame.image).mean() < 4


def test_the_keys_are_those_of_posetrack_and_ours(tmp_path: Path) -> None:
    sample = {
        "images": "has_no_densepose is_labeled file_name nframes frame_id vid_id ignore_regions_y ignore_regions_x "
        "id width height",
        "annotations": "bbox_head keypoints track_id image_id bbox scores category_id id iscrowd num_keypoints",
    }
    data = json.loads(write_clip(SyntheticClip(ClipOptions(0, 1, SMALL, 1)), tmp_path, video=False).read_text())
    assert set(data) == {"images", "annotations", "categories", "info"}
    assert set(data["images"][0]) == {*sample["images"].split(), "difficulty"}
    assert set(data["annotations"][0]) == {*sample["annotations"].split(), "occluded", "difficulty"}


def test_the_video_plays_and_starts_fast(tmp_path: Path) -> None:
    clip = SyntheticClip(ClipOptions(1, 6, SMALL, fps=30))
    write_clip(clip, tmp_path, name="000007_street")
    path = tmp_path / "000007_street.mp4"
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 30
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(stream)]
    assert len(frames) == 6
    for drawn, decoded in zip(clip, frames, strict=True):
        assert np.abs(drawn.image.astype(int) - decoded).mean() < 8
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_writing_again_replaces(tmp_path: Path) -> None:
    write_clip(SyntheticClip(ClipOptions(1, 5, SMALL)), tmp_path)
    write_clip(SyntheticClip(ClipOptions(1, 2, SMALL)), tmp_path)
    assert len(list(tmp_path.rglob("*.jpg"))) == 2


@pytest.mark.slow
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError(28, "No space left on device")])
@pytest.mark.parametrize("moment", ["frame", "annotations"])
def test_an_interrupted_run_leaves_nothing(
    tmp_path: Path, error: type[BaseException] | BaseException, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    def on_frame() -> None:
        calls.append(1)
        if len(calls) == 3 and moment == "frame":
            fail()

    clip, calls = SyntheticClip(ClipOptions(1, 4, SMALL)), []
    if moment == "annotations":
        monkeypatch.setattr("sdtc.core.files.json.dumps", fail)
    with pytest.raises(OutputError if isinstance(error, OSError) else error):  # type: ignore[arg-type]
        write_clip(clip, tmp_path, on_frame=on_frame)
    left = files(tmp_path)
    if moment == "frame":
        assert left == set()
    else:  # the pictures are complete; without annotations nobody takes them for a clip
        assert not any(name.endswith((".json", ".part")) for name in left)
    assert not list(tmp_path.rglob("*.part"))


def test_an_interrupted_run_keeps_what_was_there(tmp_path: Path) -> None:
    write_clip(SyntheticClip(ClipOptions(1, 2, SMALL)), tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in files(tmp_path)}

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_clip(SyntheticClip(ClipOptions(1, 3, SMALL, fps=30)), tmp_path, on_frame=fail)
    assert {name: (tmp_path / name).read_bytes() for name in files(tmp_path)} == before


def test_one_frame_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    original = SyntheticClip.__getitem__
    monkeypatch.setattr(SyntheticClip, "__getitem__", lambda self, i: drawn.append(i) or original(self, i))
    seen = []
    write_clip(SyntheticClip(ClipOptions(1, 3, SMALL)), tmp_path, video=False, on_frame=lambda: seen.append(len(drawn)))
    assert seen == [1, 2, 3]


# What is refused


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 1_000_000}, "seed"),
        ({"seed": 0.5}, "seed"),
        ({"num_frames": 0}, "frames"),
        ({"num_frames": 10_001}, "frames"),
        ({"size": (0, 640)}, "height"),
        ({"size": (360, 100_000)}, "width"),
        ({"num_people": -1}, "people"),
        ({"num_people": 21}, "people"),
        ({"fps": 0}, "`fps` is 0"),
        ({"fps": float("nan")}, "`fps` is nan"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], word: str) -> None:
    with pytest.raises(InputError, match=word):
        SyntheticClip(ClipOptions(**arguments))  # type: ignore[arg-type]


def test_a_frame_that_is_not_there() -> None:
    with pytest.raises(IndexError):
        SyntheticClip(ClipOptions(0, 3, SMALL))[3]


@pytest.mark.parametrize("name", ["street", "12345_x", "../000001_x", "000001_a/b", ""])
def test_bad_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"`name` is '.*': expected six digits"):
        write_clip(SyntheticClip(ClipOptions(0, 1, SMALL)), tmp_path, name=name)
    assert files(tmp_path) == set()


def test_an_odd_size_is_fine_for_pictures_but_not_for_video(tmp_path: Path) -> None:
    clip = SyntheticClip(ClipOptions(0, 1, (181, 321)))
    with pytest.raises(InputError, match=r"`size` is 181x321: H\.264 needs an even height and width"):
        write_clip(clip, tmp_path)
    write_clip(clip, tmp_path, video=False)
    assert len(files(tmp_path)) == 2


def test_a_missing_or_unwritable_directory(tmp_path: Path) -> None:
    clip = SyntheticClip(ClipOptions(0, 1, SMALL))
    with pytest.raises(OutputError, match="does not exist"):
        write_clip(clip, tmp_path / "missing")
    (tmp_path / "images").write_text("a file where a folder should be")
    with pytest.raises(OutputError, match="cannot write"):
        write_clip(clip, tmp_path)


# The command


@pytest.mark.slow
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "folder"
    options = f"--output {output} --clips 2 --frames 2 --size 90x160 --people 1 --seed 8 --fps 10".split()
    assert main(options) == 0
    assert str(output) in capsys.readouterr().out
    names = {"000008_synthetic", "000009_synthetic"}
    assert {path.stem for path in (output / "annotations" / "val").iterdir()} == names
    assert {path.stem for path in output.glob("*.mp4")} == names
    assert len(list(output.rglob("*.jpg"))) == 4

    quiet = tmp_path / "quiet"
    assert main([*options[2:], "--output", str(quiet), "--no-video", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert not list(quiet.glob("*.mp4"))


@pytest.mark.parametrize(
    "options",
    ["--size 360", "--size axb", "--size 361x640", "--frames 0", "--people 99", "--fps 0", "--seed -1", "--clips 0",
     "--seed 999999 --clips 2"],
)  # fmt: skip
def test_the_command_refuses_in_one_sentence(tmp_path: Path, options: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*options.split(), "--output", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert message.startswith("sdtc-synth: error: ")
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists() or not files(tmp_path / "out")


def test_the_command_says_when_it_cannot_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["--frames", "1", "--output", str(tmp_path / "file")]) == 1
    assert "cannot write" in capsys.readouterr().err
