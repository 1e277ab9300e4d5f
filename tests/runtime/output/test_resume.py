"""A run that was killed goes on: nothing lost, nothing done twice, and never behind a file of something else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sdtc.runtime
from sdtc.core.errors import InputError
from sdtc.runtime.cli import main
from sdtc.runtime.options import EngineOptions, TrackOptions
from sdtc.runtime.output.results import FrameResult, Pose
from sdtc.runtime.output.resume import MAX_LINE, Progress, read_progress
from sdtc.runtime.output.writers import JsonlWriter
from sdtc.runtime.people.detection import Detections
from sdtc.runtime.people.rates import MIN_STEP
from sdtc.runtime.people.tracking import MAX_LOST
from sdtc.runtime.sources.images import ImageSequence
from sdtc.runtime.sources.open import open_source
from sdtc.synthetic import ClipOptions, SyntheticClip, write_clip

FRAMES = 60
NAME = "000005_synthetic"


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    write_clip(SyntheticClip(ClipOptions(seed=5, num_frames=FRAMES, size=(120, 160), num_people=3)), folder)
    return folder


@pytest.fixture(scope="module")
def options(tiny_bundle, clip) -> list[str]:
    """A run that gives the same bytes whenever it is made."""
    boxes = clip / "annotations" / "val" / f"{NAME}.json"
    run = ["--engine", tiny_bundle / "model.onnx", "--boxes", boxes, "--format", "jsonl", "--exact", "--threads", 1]
    run += ["--backend", "onnxruntime"]
    return list(map(str, run))


@pytest.fixture(scope="module")
def whole(clip, options, tmp_path_factory) -> bytes:
    """What an uninterrupted run over the video writes."""
    folder = tmp_path_factory.mktemp("whole")
    assert main([*options, "--input", str(clip / f"{NAME}.mp4"), "--output", str(folder), "--quiet"]) == 0
    return (folder / f"{NAME}.jsonl").read_bytes()


@pytest.fixture(scope="module")
def gap(clip, options, tmp_path_factory) -> tuple[list[str], bytes]:
    """Options of a run over twelve images of which the fifth is missing, and what it writes."""
    folder = tmp_path_factory.mktemp("gap")
    images = Path(shutil.copytree(clip / "images" / "val" / NAME, folder / NAME))
    for path in [images / "000004.jpg", *sorted(images.iterdir())[12:]]:
        path.unlink()
    boxes = json.loads((clip / "annotations" / "val" / f"{NAME}.json").read_text())
    kept = {image["id"] for image in boxes["images"] if (images / Path(image["file_name"]).name).exists()}
    boxes["annotations"] = [person for person in boxes["annotations"] if person["image_id"] in kept]
    (folder / "boxes.json").write_text(json.dumps(boxes))
    options = [*options, "--input", str(images), "--boxes", str(folder / "boxes.json"), "--quiet"]
    assert main([*options, "--output", str(folder / "out")]) == 0
    return options, (folder / "out" / f"{NAME}.jsonl").read_bytes()


def lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def one_sentence(text: str) -> str:
    (line,) = text.strip().splitlines()
    assert line.startswith("sdtc-infer: error: ")
    return line


@pytest.mark.slow
def test_killed_in_the_middle_and_resumed_it_is_as_if_nothing_had_happened(clip, options, whole, tmp_path) -> None:
    out = tmp_path / "out"
    file = out / f"{NAME}.jsonl"
    arguments = [*options, "--input", str(clip / f"{NAME}.mp4"), "--output", str(out), "--quiet"]
    process = subprocess.Popen([sys.executable, "-m", "sdtc.runtime.cli", *arguments])
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not file.exists() or file.read_bytes().count(b"\n") < 5):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(60) == -signal.SIGKILL
    left = file.read_bytes()
    assert 5 <= left.count(b"\n") < FRAMES
    assert whole.startswith(left)
    with file.open("ab") as torn:  # a kill in the middle of a write, which cannot be had at will
        torn.write(b'{"frame": 3')
    assert main([*arguments, "--resume"]) == 0
    assert file.read_bytes() == whole
    assert list(out.iterdir()) == [file]


@pytest.mark.slow
@pytest.mark.parametrize("done", [4, *(pytest.param(done, marks=pytest.mark.slow) for done in (0, 1, 5, 11))])
def test_images_are_continued_by_name(gap, tmp_path, done) -> None:
    """Where the first line is torn, there is nothing yet."""
    options, want = gap
    file = tmp_path / f"{NAME}.jsonl"
    file.write_bytes(b"".join(lines(want)[:done]) + lines(want)[done][:-1])
    assert main([*options, "--output", str(tmp_path), "--resume"]) == 0
    assert file.read_bytes() == want


@pytest.mark.slow
def test_windows_of_own_crops_and_smoothing_go_on_too(options, clip, tmp_path) -> None:
    arguments = [*options, "--input", str(clip / f"{NAME}.mp4"), "--quiet", "--smooth"]
    arguments.remove("--exact")
    for name in ("whole", "resumed"):
        assert main([*arguments, "--output", str(tmp_path / name), "--max-frames", "40"]) == 0
    file = tmp_path / "resumed" / f"{NAME}.jsonl"
    file.write_bytes(b"".join(lines(file.read_bytes())[:30]))
    assert main([*arguments, "--output", str(tmp_path / "resumed"), "--max-frames", "40", "--resume"]) == 0
    got, want = (lines((tmp_path / name / f"{NAME}.jsonl").read_bytes()) for name in ("resumed", "whole"))
    assert got[:30] == want[:30]
    apart: list[float] = []
    for a, b in zip(map(json.loads, got), map(json.loads, want), strict=True):
        assert (a["frame"], a["name"]) == (b["frame"], b["name"])
        assert [(p["track_id"], p["bbox"]) for p in a["poses"]] == [(p["track_id"], p["bbox"]) for p in b["poses"]]
        for pose, expected in zip(a["poses"], b["poses"], strict=True):
            apart += np.abs(np.subtract(pose["keypoints"], expected["keypoints"])[:, :2]).max(axis=1).tolist()
    # Windows across the stop are those of boxes that were rounded as they were written, which turns few maxima over.
    assert np.quantile(apart[-30 * 15 :], 0.9) < 0.05


@pytest.mark.slow
def test_without_a_file_it_begins_at_the_beginning(options, clip, whole, tmp_path, capsys) -> None:
    arguments = [*options, "--input", str(clip / f"{NAME}.mp4"), "--output", str(tmp_path), "--resume"]
    assert main([*arguments, "--max-frames", "3"]) == 0
    file = tmp_path / f"{NAME}.jsonl"
    assert lines(file.read_bytes())[:1] == lines(whole)[:1]  # the last two windows end with the last frame
    before = file.stat().st_mtime_ns
    capsys.readouterr()
    assert main([*arguments, "--max-frames", "2"]) == 0  # more than was asked for is there
    out = capsys.readouterr().out
    assert "all 3 frames were done already" in out
    assert "done     0 frames" in out
    assert file.stat().st_mtime_ns == before
    assert main([*arguments, "--max-frames", "5"]) == 0
    assert [json.loads(line)["frame"] for line in lines(file.read_bytes())] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("torn", [b"", b'{"frame": 60, "name'])
def test_what_is_complete_is_left_alone(options, clip, whole, tmp_path, capsys, torn) -> None:
    file = tmp_path / f"{NAME}.jsonl"
    file.write_bytes(whole + torn)
    assert main([*options, "--input", str(clip / f"{NAME}.mp4"), "--output", str(tmp_path), "--resume"]) == 0
    out = capsys.readouterr().out
    assert f"all {FRAMES} frames were done already" in out
    assert "pose 0" not in out  # only decoded, to see that nothing follows
    assert file.read_bytes() == whole


@pytest.mark.slow
def test_each_input_of_a_glob_goes_on_where_it_was(options, clip, whole, tmp_path, capsys) -> None:
    for name in "abcd":
        (tmp_path / "in" / name).mkdir(parents=True)
        shutil.copy(clip / f"{NAME}.mp4", tmp_path / "in" / name / f"{NAME}.mp4")
    out = tmp_path / "out"
    out.mkdir()
    (out / f"{NAME}.jsonl").write_bytes(b"".join(lines(whole)[:8]))  # complete
    (out / f"{NAME}_2.jsonl").write_bytes(whole[:2000])
    (out / f"{NAME}_3.jsonl").write_text("something else\n")
    arguments = ["--input", str(tmp_path / "in" / "*" / "*.mp4"), "--output", str(out), "--max-frames", "8"]
    assert main([*options, *arguments, "--resume", "--quiet"]) == 1
    assert f"line 1 of '{out / NAME}_3.jsonl' is not one that sdtc-infer wrote" in one_sentence(capsys.readouterr().err)
    assert (out / f"{NAME}.jsonl").read_bytes() == b"".join(lines(whole)[:8])
    continued, fresh = ((out / f"{NAME}_{n}.jsonl").read_bytes() for n in (2, 4))
    assert continued == fresh
    assert lines(fresh)[:6] == lines(whole)[:6]  # the last two windows end with the last frame
    assert (out / f"{NAME}_3.jsonl").read_text() == "something else\n"


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--format", "posetrack"], "--resume needs --format jsonl"),
        (["--format", "coco"], "--resume needs --format jsonl"),
        (["--save-video"], "--resume cannot continue half a video"),
        (["--input", "-"], "--resume is for files"),
    ],
)
def test_what_cannot_be_resumed(options, clip, tmp_path, capsys, given, sentence) -> None:
    arguments = ["--input", str(clip / f"{NAME}.mp4"), "--output", str(tmp_path / "out"), "--resume"]
    assert main([*options, *arguments, *given]) == 2
    assert sentence in one_sentence(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_file_of_something_else_is_refused_and_stays(options, clip, whole, gap, tmp_path, capsys) -> None:
    video = lines(whole)
    record = json.loads(video[0])
    pose = record["poses"][0]
    files = {
        b"not json\n": "line 1 of",
        b"[1, 2]\n": "line 1 of",
        b'{"frame": 0, "name": null, "poses": [1]}\n': "line 1 of",
        b'{"frame": 0, "name": null, "poses": [{"track_id": 1}]}\n': "line 1 of",
        b'{"frame": true, "name": null, "poses": []}\n': "line 1 of",
        b"\xff\xfe\x00\n": "line 1 of",
        b"[" * 100_000 + b"\n": "line 1 of",
        video[0] + b'{"frame": 1}\n' + video[2]: "line 2 of",
        json.dumps(record | {"poses": [pose | {"track_id": -1}]}).encode() + b"\n": "line 1 of",
        json.dumps(record | {"poses": [pose | {"bbox": [1, 2, 3]}]}).encode() + b"\n": "line 1 of",
        json.dumps(record | {"poses": [pose | {"bbox_score": float("nan")}]}).encode() + b"\n": "line 1 of",
        video[0] + video[2] + b'{"frame"': "line 2 is frame 2, expected frame 1",
        lines(gap[1])[0]: "line 1 is frame 0 ('000000.jpg'), expected frame 0",
        json.dumps(record | {"poses": [pose | {"keypoints": [[1, 2, 3]] * 17}]}).encode() + b"\n": "poses of 17 joints",
        whole + video[-1].replace(b'"frame": 59', b'"frame": 60'): f"but it ends after {FRAMES}",
        whole + video[0].replace(b'"frame": 0', b'"frame": 60'): "line 61 of",  # its time is before the last line's
        json.dumps(record | {"time": None}).encode() + b"\n": "line 1 of",
        json.dumps(record | {"time": float("inf")}).encode() + b"\n": "line 1 of",
    }  # fmt: skip
    file = tmp_path / f"{NAME}.jsonl"
    arguments = [*options, "--input", str(clip / f"{NAME}.mp4"), "--output", str(tmp_path), "--resume", "--quiet"]
    for data, sentence in files.items():
        file.write_bytes(data)
        assert main(arguments) == 2, sentence
        assert sentence in one_sentence(capsys.readouterr().err)
        assert file.read_bytes() == data
    file.unlink()
    file.mkdir()
    assert main(arguments) == 2
    assert "is a folder already: choose another --output" in one_sentence(capsys.readouterr().err)


def test_a_file_of_more_frames_than_the_folder_has(tmp_path) -> None:
    source = ImageSequence(tmp_path, [tmp_path / "000000.jpg", tmp_path / "000003.jpg"])
    file = tmp_path / "p.jsonl"
    names = ["000000.jpg", None, None, "000003.jpg", "000004.jpg"]
    rows = [json.dumps({"frame": i, "name": name, "time": i / 25, "poses": []}) + "\n" for i, name in enumerate(names)]
    file.write_text("".join(rows[:4]))
    assert read_progress(file, source, 15).frames == source.num_frames
    file.write_text("".join(rows))
    with pytest.raises(InputError, match=r"line 5 is frame 4 \('000004.jpg'\), expected no such frame"):
        read_progress(file, source, 15)


# --- what is read of a file ---------------------------------------------------------------------------------------


class Endless(ImageSequence):
    """A video, as far as names go."""

    def __init__(self) -> None:
        self.path, self.frames = Path("video.mp4"), []


@pytest.fixture
def endless(monkeypatch) -> Endless:
    import itertools

    monkeypatch.setattr("sdtc.runtime.output.resume._names", lambda source: ((i, None) for i in itertools.count()))
    return Endless()


def frame(index: int, ids: list[int], fps: float = 25) -> FrameResult:
    keypoints = np.full((15, 3), index, np.float32)
    poses = [Pose(i, keypoints, np.ones(4, np.float32), 0.5) for i in ids]
    return FrameResult(index, index, None, index, None, poses, time=index / fps)


ids_of_frames = st.lists(st.lists(st.integers(0, 2**40), max_size=3, unique=True), max_size=50)


@pytest.mark.slow
@given(ids_of_frames, st.integers(0, 2**31))
def test_progress_of_a_file_that_ends_anywhere(tmp_path_factory, people, cut) -> None:
    path = tmp_path_factory.mktemp("cut") / "p.jsonl"
    with JsonlWriter(path) as writer:
        for index, ids in enumerate(people):
            writer.write(frame(index, ids))
    data = path.read_bytes()
    data = data[: cut % (len(data) + 1)]
    path.write_bytes(data)
    source = Endless()
    source.frames = [(index, None) for index in range(len(people))]
    done = read_progress(path, source, 15)
    assert done.frames == data.count(b"\n")
    assert done.size == data.rfind(b"\n") + 1
    assert done.torn is (done.size < len(data))
    assert done.next_id == max((i + 1 for ids in people[: done.frames] for i in ids), default=0)
    assert [r.index for r in done.tail] == list(range(max(done.frames - round(25 * MAX_LOST) - 2, 0), done.frames))
    for result in done.tail:
        assert [pose.track_id for pose in result.poses] == people[result.index]
        assert all((pose.keypoints == result.index).all() for pose in result.poses)
    with JsonlWriter(path, keep=done.size) as writer:  # and on it goes
        for index in range(done.frames, len(people)):
            writer.write(frame(index, people[index]))
    assert [json.loads(line)["frame"] for line in path.read_text().splitlines()] == list(range(len(people)))


@pytest.mark.slow
@pytest.mark.parametrize("fps", [0.1, 1, 10, 30, 60, 100, 240, 1000, 1e6])
def test_the_tail_covers_what_a_tracker_remembers_at_any_rate(endless, tmp_path, fps) -> None:
    with JsonlWriter(tmp_path / "p.jsonl") as writer:
        for index in range(2000):
            writer.write(frame(index, [index], fps))
    tail = read_progress(tmp_path / "p.jsonl", endless, 15).tail
    assert [pose.track_id for result in tail for pose in result.poses] == [result.index for result in tail]
    times = [result.time for result in tail]
    assert tail[-1].index == 1999
    assert times[-1] - times[0] >= MAX_LOST or times[0] == 0
    assert len(tail) >= (8 if fps <= 200 else 2)
    assert len(tail) < 2 * (MAX_LOST / MIN_STEP + 2)
    if fps <= 100:
        assert [result.index for result in tail] == list(range(2000 - len(tail), 2000))


@pytest.mark.slow
def test_a_long_file_is_not_held(endless, tmp_path) -> None:
    with JsonlWriter(tmp_path / "p.jsonl") as writer:
        for index in range(10_000):
            writer.write(frame(index, [index, index + 1, index + 2], 1000))
    assert (tmp_path / "p.jsonl").stat().st_size > 10e6
    tracemalloc.start()
    done = read_progress(tmp_path / "p.jsonl", endless, 15)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (done.frames, done.next_id) == (10_000, 10_002)
    assert peak < 2e6


def test_a_line_without_end_is_refused(endless, tmp_path) -> None:
    with (tmp_path / "p.jsonl").open("wb") as file:
        file.truncate(2 * MAX_LINE)  # zeros, none of them on the disk
    with pytest.raises(InputError, match="line 1 of"):
        read_progress(tmp_path / "p.jsonl", endless, 15)


# --- people keep their ids ----------------------------------------------------------------------------------------


class Walking:
    """A detector that is asked frame by frame, from `first` on: one stands, one walks, one comes in frame 5."""

    def __init__(self, first: int = 0) -> None:
        self.frame = first - 1

    def detect(self, frame: np.ndarray) -> Detections:
        self.frame += 1
        boxes = [[20, 20, 40, 60], [10 + 8 * self.frame, 30, 40, 60]]
        boxes += [[100, 5, 20, 30]] if self.frame >= 5 else []
        return Detections(np.array(boxes, np.float32), np.full(len(boxes), 0.9, np.float32))


@pytest.fixture(scope="module")
def noise(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for number in range(9):
        small = rng.integers(0, 256, (15, 20, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:06d}.png"), cv2.resize(small, (160, 120), interpolation=cv2.INTER_CUBIC))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("lookahead", [0, 2])
@pytest.mark.parametrize("mode", [{"exact": True}, {}], ids=["exact", "streaming"])
def test_poses_and_ids_are_those_of_an_uninterrupted_run(tiny_bundle, noise, tmp_path, mode, lookahead) -> None:
    with sdtc.runtime.open(
        tiny_bundle / "model.onnx", EngineOptions(backend="onnxruntime", threads=1, **mode)
    ) as engine:
        want = list(engine.track(noise, TrackOptions(detector=Walking(), lookahead=lookahead)))
        assert {pose.track_id for result in want for pose in result.poses} == {0, 1, 2}
        for done in range(1, 9):
            with JsonlWriter(tmp_path / "p.jsonl") as writer:
                for result in want[:done]:
                    writer.write(result)
            with open_source(noise) as source:
                progress = read_progress(tmp_path / "p.jsonl", source, 15)
                detector = Walking(first=done)
                got = list(
                    engine.track(source, TrackOptions(detector=detector, lookahead=lookahead, resume_from=progress))
                )
            assert [result.index for result in got] == list(range(done, 9))
            for a, b in zip(got, want[done:], strict=True):
                assert a.name == b.name
                for pose, expected in zip(a.poses, b.poses, strict=True):
                    assert pose.track_id == expected.track_id
                    np.testing.assert_allclose(pose.keypoints, expected.keypoints, atol=1e-2)


def test_nobody_new_gets_an_id_of_the_file(tiny_bundle, noise) -> None:
    """Long before the file's end there was a person 40; nobody of its last frames is where people are now."""
    progress = Progress(4, 0, False, 41, [frame(3, [7])])
    with sdtc.runtime.open(tiny_bundle / "model.onnx", EngineOptions(backend="onnxruntime", threads=1)) as engine:
        got = list(engine.track(noise, TrackOptions(detector=Walking(first=4), resume_from=progress)))
    assert {pose.track_id for result in got for pose in result.poses} == {41, 42, 43}


def test_a_path_is_resumed_as_an_open_source_is(tiny_bundle, noise) -> None:
    progress = Progress(7, 0, False, 0, [])
    with sdtc.runtime.open(tiny_bundle / "model.onnx", EngineOptions(backend="onnxruntime", threads=1)) as engine:
        assert [
            result.index for result in engine.track(noise, TrackOptions(detector=Walking(), resume_from=progress))
        ] == [7, 8]
