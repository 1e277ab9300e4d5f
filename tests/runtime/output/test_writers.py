from __future__ import annotations

import json

import av
import numpy as np
import pytest

from sdtc.core.errors import InputError, OutputError
from sdtc.core.skeleton import COCO, POSETRACK
from sdtc.runtime.output.drawing import draw_frame, track_color
from sdtc.runtime.output.results import FrameResult, Pose
from sdtc.runtime.output.writers import JsonlWriter, VideoWriter, make_writer


def result(index: int, people: int = 2, joints: int = 15, size=(61, 81), name: str | None = None) -> FrameResult:
    rng = np.random.default_rng(index)
    poses = [
        Pose(
            track_id=10 + person,
            keypoints=np.concatenate([rng.uniform(0, 60, (joints, 2)), rng.uniform(0.1, 1, (joints, 1))], 1).astype(
                np.float32
            ),
            bbox=np.array([5, 6, 20, 30], np.float32),
            bbox_score=0.5,
        )
        for person in range(people)
    ]
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    return FrameResult(index, index, name, 10128340000 + index if name else index, image, poses, time=index / 29.97)


def test_posetrack_json_has_what_an_evaluator_reads(tmp_path) -> None:
    with make_writer("posetrack", tmp_path / "p", "012834_mpii_test", POSETRACK) as writer:
        for index, people in enumerate((2, 0, 1)):
            writer.write(result(index, people, name=f"{index:06d}.jpg"))
    data = json.loads((tmp_path / "p.json").read_text())
    assert [image["id"] for image in data["images"]] == [10128340000, 10128340001, 10128340002]
    assert data["images"][1]["file_name"] == "images/val/012834_mpii_test/000001.jpg"
    assert [a["image_id"] for a in data["annotations"]] == [10128340000, 10128340000, 10128340002]
    annotation = data["annotations"][0]
    assert len(annotation["keypoints"]) == 51
    assert len(annotation["scores"]) == 17
    assert annotation["scores"][3:5] == [0, 0]  # ears
    want = result(0).poses[0]
    np.testing.assert_allclose(annotation["keypoints"][:2], want.keypoints[0, :2], atol=1e-3)
    # slot 5 is the left shoulder, joint 3 of the 15; joint score = heatmap maximum × box score
    assert annotation["scores"][5] == pytest.approx(want.keypoints[3, 2] * 0.5, abs=1e-4)
    assert data["categories"][0]["keypoints"][1] == "head_bottom"


@pytest.mark.parametrize(
    ("skeleton", "joints", "slots"), [(POSETRACK, 15, 17), (COCO, 17, 17)], ids=["posetrack", "coco"]
)
def test_coco_json_is_a_result_list(tmp_path, skeleton, joints, slots) -> None:
    with make_writer("coco", tmp_path / "p", "video", skeleton) as writer:
        for index in range(3):
            writer.write(result(index, joints=joints))
    data = json.loads((tmp_path / "p.json").read_text())
    assert len(data) == 6
    assert {"image_id", "category_id", "keypoints", "score"} <= set(data[0])
    assert len(data[0]["keypoints"]) == 3 * slots
    assert [entry["image_id"] for entry in data] == [0, 0, 1, 1, 2, 2]
    pose = result(0, joints=joints).poses[0]
    assert data[0]["score"] == pytest.approx(pose.keypoints[:, 2].mean() * 0.5, abs=1e-4)


def test_json_lines_can_be_read_while_they_come(tmp_path) -> None:
    with make_writer("jsonl", tmp_path / "p", "video", POSETRACK) as writer:
        for index in range(3):
            writer.write(result(index))
            lines = (tmp_path / "p.jsonl").read_text().splitlines()
            assert [json.loads(line)["frame"] for line in lines] == list(range(index + 1))
    assert len(json.loads(lines[0])["poses"][0]["keypoints"]) == 15


@pytest.mark.parametrize("output_format", ["posetrack", "coco"])
def test_nothing_stands_under_the_final_name_before_the_end(tmp_path, output_format) -> None:
    final = tmp_path / "p.json"
    final.write_text("old result")
    writer = make_writer(output_format, tmp_path / "p", "video", POSETRACK)
    for index in range(4):
        writer.write(result(index))
    assert final.read_text() == "old result"
    writer.close()
    json.loads(final.read_text())
    assert list(tmp_path.iterdir()) == [final]


@pytest.mark.parametrize("output_format", ["posetrack", "coco", "jsonl"])
def test_an_error_in_the_middle_leaves_a_valid_file(tmp_path, output_format) -> None:
    with pytest.raises(KeyboardInterrupt), make_writer(output_format, tmp_path / "p", "video", POSETRACK) as writer:
        writer.write(result(0))
        raise KeyboardInterrupt
    text = next(tmp_path.iterdir()).read_text()
    assert json.loads(text.splitlines()[0] if output_format == "jsonl" else text)


@pytest.mark.parametrize("output_format", ["posetrack", "coco"])
def test_no_frames_give_a_valid_empty_file(tmp_path, output_format) -> None:
    make_writer(output_format, tmp_path / "p", "video", POSETRACK).close()
    data = json.loads((tmp_path / "p.json").read_text())
    assert data == [] or (data["images"], data["annotations"]) == ([], [])


def test_video_is_h264_that_browsers_play(tmp_path) -> None:
    with VideoWriter(tmp_path / "v.mp4", 29.97, lambda r: draw_frame(r, POSETRACK)) as writer:
        for index in range(12):
            writer.write(result(index))
        missing = FrameResult(12, 12, None, 12, None, time=12 / 29.97)
        writer.write(missing)  # the picture stands still
        assert not (tmp_path / "v.mp4").exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "v.mp4"]
    data = (tmp_path / "v.mp4").read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")  # index in front
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.width, stream.height) == (80, 60)  # odd sides lose a pixel
        assert float(stream.average_rate) == pytest.approx(29.97, abs=0.01)
        assert len(list(container.decode(stream))) == 13


def test_video_shows_one_picture_after_the_other(tmp_path) -> None:
    def draw(result: FrameResult) -> np.ndarray | None:
        return None if result.index == 3 else np.full((48, 64, 3), 20 + 40 * result.index, np.uint8)

    with VideoWriter(tmp_path / "v.mp4", 25, draw) as writer:
        for index in range(6):
            writer.write(result(index))
    with av.open(str(tmp_path / "v.mp4")) as container:
        means = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(video=0)]
    np.testing.assert_allclose(means, [20, 60, 100, 100, 180, 220], atol=3)


def test_video_of_images_of_several_sizes(tmp_path) -> None:
    with VideoWriter(tmp_path / "v.mp4", 25, lambda r: r.image) as writer:
        writer.write(result(0))
        writer.write(result(1, size=(200, 300)))
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert len(list(container.decode(video=0))) == 2


def test_posetrack_format_needs_posetracks_joints(tmp_path) -> None:
    with pytest.raises(InputError, match="use coco or jsonl"):
        make_writer("posetrack", tmp_path / "p", "video", COCO)
    with pytest.raises(InputError, match="expected one of posetrack, coco, jsonl"):
        make_writer("xml", tmp_path / "p", "video", COCO)


@pytest.mark.parametrize("output_format", ["posetrack", "coco", "jsonl"])
def test_a_folder_that_is_gone(tmp_path, output_format) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        make_writer(output_format, tmp_path / "gone" / "p", "video", POSETRACK)


def test_drawing_marks_joints_and_leaves_the_frame_alone() -> None:
    frame = result(0, people=1, size=(400, 400))
    image = np.zeros_like(frame.image)
    frame = FrameResult(0, 0, None, 0, image, frame.poses)
    drawn = draw_frame(frame, POSETRACK, min_score=0.5)
    assert not image.any()
    color = np.array(track_color(frame.poses[0].track_id))
    for x, y, score in frame.poses[0].keypoints:
        if score >= 0.5:
            patch = drawn[int(y) : int(y) + 2, int(x) : int(x) + 2].reshape(-1, 3)
            assert (np.abs(patch.astype(int) - color).sum(1) < 120).any()
    assert draw_frame(FrameResult(0, 0, None, 0, None), POSETRACK) is None


def test_drawing_shows_limbs_the_box_and_a_label() -> None:
    keypoints = np.array([[20 + 60 * (k % 5), 90 + 90 * (k // 5), 1.0] for k in range(15)], np.float32)
    hidden = POSETRACK.keypoints.index("left_wrist")
    keypoints[hidden, 2] = 0.1
    pose = Pose(track_id=3, keypoints=keypoints, bbox=np.array([10, 40, 300, 270], np.float32), bbox_score=0.5)
    drawn = draw_frame(FrameResult(0, 0, None, 0, np.zeros((360, 360, 3), np.uint8), [pose]), POSETRACK)
    color = np.array(track_color(3))

    def has_color(x: float, y: float) -> bool:
        patch = drawn[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2].reshape(-1, 3)
        return bool((np.abs(patch.astype(int) - color).sum(1) < 120).any())

    shown = [(a, b) for a, b in POSETRACK.limbs if hidden not in (a, b)]
    assert len(shown) == len(POSETRACK.limbs) - 1
    for a, b in shown:
        assert has_color(*keypoints[[a, b], :2].mean(0)), (POSETRACK.keypoints[a], POSETRACK.keypoints[b])
    for x, y in ((10, 200), (310, 200), (200, 310), (310, 310)):  # the box
        assert has_color(x, y)
    label = drawn[30:39, 12:50].reshape(-1, 3)  # above its corner: black on the track's colour
    assert (label == color).all(1).mean() > 0.3
    assert (label.sum(1) < 100).any()


def test_drawing_survives_wild_coordinates() -> None:
    frame = result(0, people=1)
    frame.poses[0].keypoints[:3, :2] = [[np.nan, 1e9], [-1e9, np.inf], [1e30, -1e30]]
    assert draw_frame(frame, POSETRACK, min_score=0.0) is not None


def test_neighbouring_tracks_have_different_colours() -> None:
    colors = [track_color(i) for i in range(6)]
    assert len(set(colors)) == 6


def no_space(*args):
    raise OSError(28, "No space left on device")


def test_a_full_disk_drops_the_video_and_keeps_the_poses(tmp_path, monkeypatch) -> None:
    poses = make_writer("posetrack", tmp_path / "p", "video", POSETRACK)
    video = VideoWriter(tmp_path / "v.mp4", 25, lambda r: r.image)
    with pytest.raises(OutputError, match=r"v\.mp4': No space left"), poses, video:
        for index in range(80):  # past the encoder's look-ahead
            poses.write(result(index))
            video.write(result(index))
            monkeypatch.setattr(video._video, "_file", NoSpace(video._video._file))
    assert [path.name for path in tmp_path.iterdir()] == ["p.json"]
    assert json.loads((tmp_path / "p.json").read_text())["images"]


class NoSpace:
    """A container on a full disk."""

    def __init__(self, container) -> None:
        self.close, self.mux = container.close, no_space


class HalfFull:
    """A raw file that takes half of the next write, and then nothing until something is deleted."""

    def __init__(self, file) -> None:
        self.file, self.full, self.halved = file, True, False

    def write(self, data):
        if not self.full:
            return self.file.write(data)
        if self.halved:
            no_space()
        self.halved = True
        return self.file.write(data[: len(data) // 2])

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("output_format", ["posetrack", "coco", "jsonl"])
def test_a_full_disk_leaves_valid_files_of_whole_poses(tmp_path, output_format) -> None:
    writer = make_writer(output_format, tmp_path / "p", "video", POSETRACK)
    writer.write(result(0))
    stream = writer._file
    stream._file = HalfFull(stream._file)
    with pytest.raises(OutputError, match="No space left"):
        writer.write(result(1))
    if output_format != "jsonl":
        assert any("reserve" in path.name for path in tmp_path.iterdir())  # what makes room for the end
    stream._file.full = False
    writer.close()
    text = next(iter(tmp_path.glob("p.json*"))).read_text()
    assert [path.name.startswith("p.json") for path in tmp_path.iterdir()] == [True]
    if output_format == "jsonl":
        assert [json.loads(line)["frame"] for line in text.splitlines()] == [0]
    elif output_format == "coco":
        assert [pose["image_id"] for pose in json.loads(text)] == [0, 0]
    else:
        data = json.loads(text)
        assert [pose["image_id"] for pose in data["annotations"]] == [0, 0]
        assert [image["id"] for image in data["images"]] == [0, 1]


def test_held_back_space_grows_with_what_it_is_for(tmp_path) -> None:
    writer = make_writer("posetrack", tmp_path / "p", "video", POSETRACK)
    for index in range(600):
        writer.write(result(index, people=0, size=(4, 4)))
        reserve = next(path for path in tmp_path.iterdir() if "reserve" in path.name)
        assert reserve.stat().st_size >= writer._images.size
    writer.close()
    assert len(json.loads((tmp_path / "p.json").read_text())["images"]) == 600


def test_values_that_are_not_finite_never_become_json(tmp_path) -> None:
    bad = result(0)
    bad.poses[0].keypoints[0, 0] = np.nan
    for output_format in ("posetrack", "coco", "jsonl"):
        writer = make_writer(output_format, tmp_path / "p", "video", POSETRACK)
        with pytest.raises(ValueError, match="JSON compliant"):
            writer.write(bad)


class Interrupted:
    """A raw file that Ctrl-C meets in the middle of a line, once."""

    def __init__(self, file) -> None:
        self.file = file

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        raise KeyboardInterrupt

    def __getattr__(self, name):
        return getattr(self.file, name)


@pytest.mark.parametrize("output_format", ["posetrack", "coco", "jsonl"])
def test_ctrl_c_in_the_middle_of_a_write_leaves_whole_pieces(tmp_path, output_format) -> None:
    writer = make_writer(output_format, tmp_path / "p", "video", POSETRACK)
    writer.write(result(0))
    stream, raw = writer._file, writer._file._file
    stream._file = Interrupted(raw)
    with pytest.raises(KeyboardInterrupt):
        writer.write(result(1, people=1))
    stream._file = raw
    writer.close()
    text = next(iter(tmp_path.glob("p.json*"))).read_text()
    assert len([json.loads(line) for line in text.splitlines()] if output_format == "jsonl" else json.loads(text)) > 0


def test_json_lines_go_on_behind_what_is_kept(tmp_path) -> None:
    with JsonlWriter(tmp_path / "p.jsonl") as writer:
        for index in range(3):
            writer.write(result(index))
    size = len("".join((tmp_path / "p.jsonl").read_text().splitlines(keepends=True)[:2]))
    with JsonlWriter(tmp_path / "p.jsonl", keep=size) as writer:
        assert (tmp_path / "p.jsonl").stat().st_size == size
        writer.write(result(7))
    assert [json.loads(line)["frame"] for line in (tmp_path / "p.jsonl").read_text().splitlines()] == [0, 1, 7]
    with pytest.raises(OutputError, match="cannot write"):
        JsonlWriter(tmp_path / "none.jsonl", keep=0)
