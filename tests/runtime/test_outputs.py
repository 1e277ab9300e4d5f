"""What a run writes, and what it must not write over: names, locks, times, colours, and every way to end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

import sdtc.runtime
from sdtc.core.errors import InputError
from sdtc.core.files import MAX_NAME, locked, shorten, text_of
from sdtc.core.skeleton import POSETRACK
from sdtc.runtime.cli import main
from sdtc.runtime.options import EngineOptions, RunOptions, TrackOptions
from sdtc.runtime.output.results import FrameResult
from sdtc.runtime.output.writers import VideoWriter, make_writer
from sdtc.runtime.run import run_inputs

TIMES = [0.0, 0.5, 0.6, 1.6, 1.62, 3.0]


@pytest.fixture(scope="module")
def engine(tiny_bundle):
    with sdtc.runtime.open(tiny_bundle / "model.onnx", EngineOptions(backend="onnxruntime", threads=1)) as engine:
        yield engine


@pytest.fixture
def video(tmp_path) -> Path:
    return write(tmp_path / "in" / "clip.mp4")


@pytest.fixture
def boxes(tmp_path) -> Path:
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps([{"image_id": n, "bbox": [10, 5, 30, 40], "score": 0.9} for n in range(6)]))
    return path


def write(path: Path, colors: tuple[int, int, int, int] | None = None, aspect: Fraction | None = None) -> Path:
    """Write a video of six pictures at irregular times, whose brightness tells the time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(1, 1000)
        if aspect:
            context.sample_aspect_ratio = aspect
        if colors:
            context.colorspace, context.color_range, context.color_primaries, context.color_trc = colors
        for time in TIMES:
            image = np.empty((96, 128, 3), np.uint8)
            image[:] = (200, 40 + round(40 * time), 90)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if colors:
                frame = frame.reformat(format="yuv420p", dst_colorspace=colors[0], dst_color_range=colors[1])
            frame.time_base, frame.pts = Fraction(1, 1000), round(1000 * time)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_photos(folder: Path, count: int = 3) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        cv2.imwrite(str(folder / f"IMG_{number:04d}.jpg"), np.full((96, 128, 3), 90, np.uint8))
    return folder


def run(engine, inputs, output, boxes=None, **options):
    return run_inputs(engine, str(inputs), RunOptions(output=output, boxes=boxes, **options))


# --- names and locks ----------------------------------------------------------------------------------------------


def test_no_output_replaces_an_input(engine, video, boxes, tmp_path) -> None:
    """The overlay of the first recording has the name of the second recording."""
    for name in ("cam1", "cam2"):
        shutil.copytree(video.parent, tmp_path / name)
    before = (tmp_path / "cam2" / "clip.mp4").read_bytes()
    with pytest.raises(InputError, match=r"the result '.*cam2/clip.mp4' would replace a file that is being read"):
        run(engine, tmp_path / "cam*" / "clip.mp4", tmp_path / "cam2", boxes, save_video=True)
    assert (tmp_path / "cam2" / "clip.mp4").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "cam2").iterdir()) == ["clip.mp4"]  # and nothing was written


def test_no_output_replaces_a_file_of_boxes(engine, video, boxes, tmp_path) -> None:
    folder = tmp_path / "boxes"
    folder.mkdir()
    shutil.copy(boxes, folder / "clip.json")
    with pytest.raises(InputError, match="would replace a file that is being read"):
        run(engine, video, folder, folder)
    os.link(folder / "clip.json", tmp_path / "link.json")
    (tmp_path / "out").mkdir()
    os.link(folder / "clip.json", tmp_path / "out" / "clip.json")
    with pytest.raises(InputError, match="would replace a file that is being read"):
        run(engine, video, tmp_path / "out", tmp_path / "link.json")


def test_no_output_replaces_a_file_of_the_bundle(tiny_bundle, video, boxes, tmp_path) -> None:
    """Not even one that the command does not name: the kernels' file, the ONNX graphs."""
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    with sdtc.runtime.open(bundle, EngineOptions(backend="onnxruntime", threads=1, device="cpu")) as engine:
        for name in ("model", "model.kernels"):
            path = video.with_name(f"{name}.mp4")
            shutil.copy(video, path)
            if not (bundle / f"{name}.json").exists():
                continue
            with pytest.raises(InputError, match=f"{name}.json' would replace a file that is being read"):
                run(engine, path, bundle, boxes)
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before


def test_boxes_of_a_part_of_a_folder(engine, tmp_path) -> None:
    """Some images of a numbered sequence, and the boxes of all of it: those of the others are no error."""
    folder = tmp_path / "clip"
    folder.mkdir()
    for number in range(6):
        cv2.imwrite(str(folder / f"{number:06d}.jpg"), np.full((96, 128, 3), 90, np.uint8))
    boxes = tmp_path / "b.json"
    boxes.write_text(json.dumps([{"image_id": n, "bbox": [10 + n, 5, 30, 40], "score": 0.9} for n in range(6)]))
    (one,) = run(engine, folder / "000003.jpg", tmp_path / "one", boxes, format="jsonl").files
    assert [line["poses"][0]["bbox"][0] for line in map(json.loads, one.read_text().splitlines())] == [13]
    (some,) = run(engine, folder / "00000[2-4].jpg", tmp_path / "some", boxes, format="jsonl").files
    assert [line["poses"][0]["bbox"][0] for line in map(json.loads, some.read_text().splitlines())] == [12, 13, 14]
    photos = write_photos(tmp_path / "photos")  # only their positions would tell whose the boxes are
    with pytest.raises(InputError, match="that do not exist"):
        run(engine, photos / "IMG_0001.jpg", tmp_path / "photo", boxes, format="jsonl")


def test_a_photo_takes_the_boxes_of_its_own_name(engine, tmp_path) -> None:
    photos, folder = write_photos(tmp_path / "photos"), tmp_path / "boxes"
    folder.mkdir()
    entry = {"image_id": 0, "bbox": [10, 5, 30, 40], "score": 0.9}
    (folder / "IMG_0001.json").write_text(json.dumps([entry]))
    summary = run(engine, photos / "IMG_0001.jpg", tmp_path / "out", folder)
    assert (summary.poses, [file.name for file in summary.files]) == (1, ["IMG_0001.json"])
    with pytest.raises(InputError, match=r"has no 'photos\.json'"):
        run(engine, photos / "IMG_0002.jpg", tmp_path / "out", folder)


def test_a_detector_given_as_a_path_keeps_its_options(engine, video, tmp_path) -> None:
    missing = TrackOptions(detector=tmp_path / "nothing.onnx")
    with pytest.raises(InputError, match="unknown detector layout 'strange'"):
        run(engine, video, tmp_path / "out", detector_layout="strange", track=missing)


def test_a_folder_in_the_place_of_a_result_is_told_first(engine, video, boxes, tmp_path) -> None:
    (tmp_path / "out" / "clip.mp4").mkdir(parents=True)
    with pytest.raises(InputError, match=r"the result '.*clip.mp4' is a folder already: choose another `output`"):
        run(engine, video, tmp_path / "out", boxes, save_video=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip.mp4"]


def test_every_photo_has_a_result_of_its_own_name(engine, tmp_path) -> None:
    photos = write_photos(tmp_path / "photos")
    boxes = tmp_path / "b.json"
    boxes.write_text(json.dumps([{"image_id": 0, "bbox": [10, 5, 30, 40], "score": 0.9}]))
    for photo in sorted(photos.iterdir()):
        run(engine, photo, tmp_path / "poses", boxes)
    assert sorted(path.name for path in (tmp_path / "poses").iterdir()) == [f"IMG_{n:04d}.json" for n in range(3)]
    data = json.loads((tmp_path / "poses" / "IMG_0001.json").read_text())
    assert [image["file_name"] for image in data["images"]] == ["images/val/photos/IMG_0001.jpg"]


def test_two_inputs_never_share_a_result(engine, video, boxes, tmp_path) -> None:
    """Also where a file system takes capitals and small letters for the same."""
    for name in ("a/clip", "b/clip", "c/clip_2", "d/Clip"):
        (tmp_path / "many" / name).parent.mkdir(parents=True)
        shutil.copy(video, tmp_path / "many" / f"{name}.mp4")
    summary = run(engine, tmp_path / "many" / "*" / "*.mp4", tmp_path / "out", boxes, format="jsonl")
    names = [path.name for path in summary.files]
    assert names == ["clip.jsonl", "clip_2.jsonl", "clip_2_2.jsonl", "Clip_3.jsonl"]
    assert len({name.casefold() for name in names}) == 4


def test_a_second_run_for_the_same_result_is_refused(engine, video, boxes, tmp_path) -> None:
    with locked(tmp_path / "clip.jsonl"):
        with pytest.raises(InputError, match=r"clip.jsonl' is being written by another run: wait for its end, or"):
            run(engine, video, tmp_path, boxes, format="jsonl")
        run(engine, video, tmp_path, boxes, format="coco")  # another file
        other = [sys.executable, "-c", "import sys; from pathlib import Path; from sdtc.core.files import locked\n"
                 "with locked(Path(sys.argv[1])): pass"]  # fmt: skip
        done = subprocess.run([*other, str(tmp_path / "clip.jsonl")], capture_output=True, text=True, check=False)
        assert "is being written by another run" in done.stderr
    run(engine, video, tmp_path, boxes, format="jsonl")
    assert not list(tmp_path.glob(".*"))


def test_a_lock_goes_from_thread_to_thread(tmp_path) -> None:
    """Never two at once, although each removes the lock file when it is done."""
    inside, most, done = 0, 0, 0
    counting = threading.Lock()

    def work() -> None:
        nonlocal inside, most, done
        while done < 200:
            try:
                with locked(tmp_path / "result.json"):
                    with counting:
                        inside, done = inside + 1, done + 1
                        most = max(most, inside)
                    with counting:
                        inside -= 1
            except InputError:
                continue

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (most, done >= 200) == (1, True)


@pytest.mark.parametrize(
    "name",
    [
        "x" * 236 + " [dQw4w9WgXcQ]",
        "测试视频" * 20 + "测",
        "clip[1] ü 测试 100% %d #?",
        "-dash",
        os.fsdecode(b"caf\xe9"),
    ],
    ids=["as long as can be", "Chinese", "signs", "dash", "Latin-1"],
)
@pytest.mark.parametrize(
    "options", [{"format": "jsonl"}, {"format": "posetrack"}, {"format": "coco", "save_video": True}]
)
def test_names_of_all_kinds(engine, video, boxes, tmp_path, name, options) -> None:
    path = video.rename(video.with_name(f"{name}.mp4"))
    summary = run(engine, path, tmp_path / "out", boxes, **options)
    assert (summary.frames, summary.problems, summary.notes) == (6, [], [])
    assert len(summary.files) == 1 + options.get("save_video", False)
    for file in summary.files:
        assert file.exists()
        assert file.name.startswith(name[:60])
        assert len(os.fsencode(file.name)) <= MAX_NAME
    text = summary.files[0].read_text(encoding="utf-8")
    text.encode()
    assert json.loads(text.splitlines()[0] if options["format"] == "jsonl" else text)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(file.name for file in summary.files)


def test_shorter_names() -> None:
    assert shorten("clip", 10) == "clip"
    long = "测" * 100
    short = shorten(long, 50)
    assert len(short.encode()) <= 50
    assert short.startswith("测" * 13 + "~")
    assert shorten(long + "a", 50) != short
    assert text_of(os.fsdecode(b"caf\xe9")) == "caf\N{REPLACEMENT CHARACTER}"
    assert text_of("测试") == "测试"


# --- times --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output_format", ["jsonl", "posetrack", "coco"])
def test_every_format_says_when(engine, video, boxes, tmp_path, output_format) -> None:
    (file,) = run(engine, video, tmp_path / "out", boxes, format=output_format).files
    if output_format == "jsonl":
        found = [json.loads(line)["time"] for line in file.read_text().splitlines()]
    else:
        data = json.loads(file.read_text())
        found = [entry["time"] for entry in (data["images"] if output_format == "posetrack" else data)]
    np.testing.assert_allclose(found, TIMES, atol=1e-3)


@pytest.mark.parametrize("output_format", ["jsonl", "posetrack", "coco"])
def test_frames_of_a_live_source_also_have_a_wall_clock(tmp_path, output_format) -> None:
    pose = sdtc.runtime.Pose(0, np.ones((15, 3), np.float32), np.ones(4, np.float32), 1.0)
    result = FrameResult(3, 3, None, 3, None, [pose], time=0.12, wall_clock=1_800_000_000.25)
    with make_writer(output_format, tmp_path / "p", "video", POSETRACK) as writer:
        writer.write(result)
    assert '"wall_clock": 1800000000.25' in writer.path.read_text()


def test_results_have_times(engine, video, boxes) -> None:
    results = list(engine.track(video, TrackOptions(boxes=boxes)))
    np.testing.assert_allclose([result.time for result in results], TIMES, atol=1e-3)
    assert {result.wall_clock for result in results} == {0.0}


def test_the_overlay_shows_every_picture_at_its_time(engine, video, tmp_path) -> None:
    nobody = tmp_path / "nobody.json"
    nobody.write_text("[]")
    run(engine, video, tmp_path / "out", nobody, save_video=True)
    shown = []
    for path in (video, tmp_path / "out" / "clip.mp4"):
        with av.open(str(path)) as container:
            frames = list(container.decode(video=0))
        shown.append([(frame.time, frame.to_ndarray(format="rgb24")[..., 1].mean()) for frame in frames])
    np.testing.assert_allclose(shown[1], shown[0], atol=3)
    np.testing.assert_allclose([time for time, _ in shown[1]], TIMES, atol=1e-3)


def test_a_camera_that_was_away_over_night(tmp_path) -> None:
    """MP4 cannot hold such a pause: it is shortened, and everything else is there."""
    times = [0, 0.04, 7 * 3600, 7 * 3600 + 0.04, 30 * 3600, 30 * 3600 + 0.04]
    with VideoWriter(tmp_path / "v.mp4", 25, lambda result: result.image) as writer:
        for index, time in enumerate(times):
            image = np.full((48, 64, 3), 40 * index, np.uint8)
            writer.write(FrameResult(index, index, None, index, image, time=time))
    with av.open(str(tmp_path / "v.mp4")) as container:
        frames = list(container.decode(video=0))
    assert len(frames) == 6
    steps = np.diff([frame.time for frame in frames])
    np.testing.assert_allclose(steps[::2], 0.04, atol=1e-3)
    assert (steps[1::2] > 3600).all()


def test_an_interrupt_before_the_first_picture_is_encoded(tmp_path, monkeypatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(av.VideoFrame, "from_ndarray", interrupt)
    with pytest.raises(KeyboardInterrupt), VideoWriter(tmp_path / "v.mp4", 25, lambda result: result.image) as writer:
        writer.write(FrameResult(0, 0, None, 0, np.zeros((48, 64, 3), np.uint8)))
    assert not list(tmp_path.glob("*.mp4"))


def test_the_overlay_shows_frames_before_the_first_picture_too(tmp_path) -> None:
    """Damaged pictures at the beginning: the first good one stands in for them, and nothing is shifted."""
    pictures = [None, None, np.full((48, 64, 3), 100, np.uint8), np.full((48, 64, 3), 200, np.uint8)]
    with VideoWriter(tmp_path / "v.mp4", 25, lambda result: result.image) as writer:
        for index, image in enumerate(pictures):
            writer.write(FrameResult(index, index, None, index, image, time=index / 25))
    with av.open(str(tmp_path / "v.mp4")) as container:
        shown = [(frame.time, frame.to_ndarray(format="rgb24").mean()) for frame in container.decode(video=0)]
    np.testing.assert_allclose(shown, [(0, 100), (0.04, 100), (0.08, 100), (0.12, 200)], atol=3)


# --- looks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "colors", [(1, 1, 1, 1), (6, 1, 6, 6), (1, 2, 1, 1), None], ids=["709", "601", "full", "untagged"]
)
def test_the_overlay_has_the_colours_of_the_source(engine, tmp_path, colors) -> None:
    nobody = tmp_path / "nobody.json"
    nobody.write_text("[]")
    path = write(tmp_path / "in" / "clip.mp4", colors)
    run(engine, path, tmp_path / "out", nobody, save_video=True)
    looks = []
    for file in (path, tmp_path / "out" / "clip.mp4"):
        with av.open(str(file)) as container:
            frame = next(container.decode(video=0))
            tags = int(frame.colorspace), int(frame.color_range), int(frame.color_primaries), int(frame.color_trc)
            luma = np.array(frame.planes[0], copy=False)
            looks.append((tags, np.frombuffer(luma, np.uint8)[:128].mean()))
    assert looks[0][0] == looks[1][0]
    assert looks[1][1] == pytest.approx(looks[0][1], abs=2)  # what is stored, so what any player shows
    if colors is not None:
        assert looks[0][0] == (colors[0], colors[1], colors[2], colors[3])


def test_the_overlay_of_images_is_tagged(engine, tmp_path) -> None:
    nobody = tmp_path / "nobody.json"
    nobody.write_text("[]")
    run(engine, write_photos(tmp_path / "photos"), tmp_path / "out", nobody, save_video=True)
    with av.open(str(tmp_path / "out" / "photos.mp4")) as container:
        frame = next(container.decode(video=0))
    assert (int(frame.colorspace), int(frame.color_range)) == (1, 1)
    np.testing.assert_allclose(frame.to_ndarray(format="rgb24").mean((0, 1)), 90, atol=3)


def test_an_anamorphic_video_keeps_its_shape(engine, boxes, tmp_path) -> None:
    path = write(tmp_path / "in" / "clip.mp4", aspect=Fraction(64, 45))
    run(engine, path, tmp_path / "out", boxes, save_video=True)
    with av.open(str(tmp_path / "out" / "clip.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.sample_aspect_ratio) == (128, 96, Fraction(64, 45))


def test_a_detector_sees_people_of_an_anamorphic_video_as_they_are(engine, tmp_path) -> None:
    class Wide:
        """A detector that finds whatever is as wide as 0.5 of the picture, in its middle."""

        shapes: list[tuple[int, ...]] = []  # noqa: RUF012

        def detect(self, frame: np.ndarray) -> tuple:
            self.shapes.append(frame.shape)
            height, width = frame.shape[:2]
            return np.array([[0.25 * width, 10, 0.5 * width, height - 20]]), np.array([0.9])

    path = write(tmp_path / "in" / "clip.mp4", aspect=Fraction(64, 45))
    results = list(engine.track(path, TrackOptions(detector=Wide(), max_frames=2)))
    assert set(Wide.shapes) == {(96, 182, 3)}
    np.testing.assert_allclose(results[0].poses[0].bbox, [32, 10, 64, 76], atol=0.1)  # stored pixels
    assert results[0].pixel_aspect == pytest.approx(64 / 45)


# --- ends ---------------------------------------------------------------------------------------------------------


def test_a_full_console_stops_no_run(engine, video, boxes, tmp_path, monkeypatch) -> None:
    """A progress bar on a terminal that is gone: every write fails."""

    class Gone:
        encoding = "utf-8"

        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

        def flush(self) -> None:
            self.write("")

        def isatty(self) -> bool:
            return True

        def fileno(self) -> int:
            raise OSError(5, "Input/output error")

    from sdtc.runtime.run import Run

    monkeypatch.setattr(sys, "stderr", Gone())
    options = RunOptions(output=tmp_path / "out", boxes=boxes, format="jsonl")
    summary = Run(video, options, progress=True).execute(engine)
    monkeypatch.undo()
    assert (summary.frames, summary.problems) == (6, [])
    assert len((tmp_path / "out" / "clip.jsonl").read_text().splitlines()) == 6


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_the_output_of_the_command(tiny_bundle, video, boxes, tmp_path) -> None:
    command = [
        sys.executable, "-m", "sdtc.runtime.cli", "--engine", tiny_bundle / "model.onnx", "--backend", "onnxruntime",
        "--input", video, "--boxes", boxes, "--output", tmp_path / "out", "--format", "jsonl",
    ]  # fmt: skip
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr
    assert len((tmp_path / "out" / "clip.jsonl").read_text().splitlines()) == 6


def test_the_command_in_process_leaves_no_lock(tiny_bundle, video, boxes, tmp_path) -> None:
    arguments = ["--engine", str(tiny_bundle / "model.onnx"), "--input", str(video), "--boxes", str(boxes), "--quiet"]
    assert main([*arguments, "--output", str(tmp_path / "out"), "--backend", "onnxruntime"]) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip.json"]
