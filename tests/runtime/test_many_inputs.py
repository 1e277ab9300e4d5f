"""Several inputs in one run: at once, each with its own files and its own end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

import sdtc.runtime
from sdtc.core.errors import InputError, OutputError
from sdtc.runtime.cli import main
from sdtc.runtime.options import EngineOptions, RunOptions, TrackOptions
from sdtc.runtime.output import bars
from sdtc.runtime.output.bars import live_log
from sdtc.runtime.output.writers import VideoWriter
from sdtc.runtime.people.detection import Detections
from sdtc.runtime.run import Run, run_inputs
from sdtc.runtime.sources.images import ImageSequence
from sdtc.runtime.sources.open import find_all_inputs
from sdtc.runtime.sources.video import VideoFile
from tests.runtime.senders import fifo, server, stream


@pytest.fixture(scope="module")
def engine(tiny_bundle):
    with sdtc.runtime.open(tiny_bundle / "model.onnx", EngineOptions(backend="onnxruntime", threads=1)) as engine:
        yield engine


class Everybody:
    """A detector that finds one person in every picture, counts the calls that it is in, and waits if it is told to."""

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.inside = self.most = self.calls = 0
        self._gate = gate

    def detect(self, frame: np.ndarray) -> Detections:
        self.inside += 1
        self.calls += 1
        self.most = max(self.most, self.inside)
        if self._gate is not None:
            self._gate.wait(60)
        time.sleep(0.002)
        self.inside -= 1
        return Detections(np.array([[8, 4, 30, 40]], np.float32), np.array([0.9], np.float32))


def folder(path: Path, count: int, seed: int = 0, size: tuple[int, int] = (64, 48)) -> Path:
    path.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(path / f"{number:06d}.png"), cv2.resize(small, size, interpolation=cv2.INTER_CUBIC))
    return path


def options(output: Path, detector: object = None, **others) -> RunOptions:
    track = TrackOptions(detector=detector or Everybody(), max_frames=others.pop("max_frames", None))
    return RunOptions(output=output, format="jsonl", track=track, **others)


def numbers(path: Path) -> list[int]:
    return [json.loads(line)["frame"] for line in path.read_text().splitlines()]


def our_threads() -> list[str]:
    """Threads of ours that do not end: on a busy machine, one that reads a pipe takes a while to see that it should."""
    deadline = time.monotonic() + 20
    while True:
        names = [thread.name for thread in threading.enumerate() if thread.name.startswith("sdtc-")]
        if not names or time.monotonic() > deadline:
            return names
        time.sleep(0.02)


# --- files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_input_gives_what_it_gives_alone(engine, tmp_path, jobs) -> None:
    inputs = [folder(tmp_path / name, 4 + 2 * seed, seed) for seed, name in enumerate("abcd")]
    for path in inputs:
        run_inputs(engine, path, options(tmp_path / "alone", jobs=1, smooth=True))
    summary = run_inputs(engine, inputs, options(tmp_path / "together", jobs=jobs, smooth=True, save_video=True))
    assert (summary.frames, summary.poses, summary.people, summary.problems) == (28, 28, 4, [])
    names = [f"{name}.{suffix}" for name in "abcd" for suffix in ("jsonl", "mp4")]
    assert [path.name for path in summary.files] == names  # in the order of the inputs
    for name in "abcd":
        alone, together = (tmp_path / where / f"{name}.jsonl" for where in ("alone", "together"))
        for one, other in zip(alone.read_text().splitlines(), together.read_text().splitlines(), strict=True):
            one, other = json.loads(one), json.loads(other)
            for pose, want in zip(other["poses"], one["poses"], strict=True):
                np.testing.assert_allclose(pose["keypoints"], want["keypoints"], atol=2e-3)
                assert pose["track_id"] == want["track_id"] == 0
    assert not our_threads()


@pytest.mark.parametrize(("jobs", "expected"), [(1, 1), (3, 3), (None, None)])
def test_so_many_files_are_worked_on_at_once(engine, tmp_path, monkeypatch, jobs, expected) -> None:
    from sdtc.runtime import run
    from sdtc.runtime.input_run import InputRun

    inside, most, lock = 0, 0, threading.Lock()
    execute = InputRun.execute

    def counted(self) -> None:
        nonlocal inside, most
        if self.live:
            execute(self)
            return
        with lock:
            inside, most = inside + 1, max(most, inside + 1)
        time.sleep(0.5)
        execute(self)
        with lock:
            inside -= 1

    monkeypatch.setattr(InputRun, "execute", counted)
    inputs: list = [folder(tmp_path / f"files{number}", 1) for number in range(6)]
    with fifo(tmp_path / "pipe", stream(3)) as pipe:  # it is beside them, and makes no room when it ends
        run_inputs(engine, [pipe, *inputs], options(tmp_path / "out", jobs=jobs))
    assert most == (expected or run.default_jobs())


def test_inputs_of_one_name_have_files_and_boxes_notes_of_their_own(engine, tmp_path) -> None:
    inputs = [folder(tmp_path / "a" / "clip", 3), folder(tmp_path / "b" / "clip", 6, size=(80, 60))]
    boxes = tmp_path / "boxes.json"
    entries = [{"image_id": n, "bbox": [5, 5, 20, 30], "score": 1} for n in range(3)]
    boxes.write_text(json.dumps([*entries, {"image_id": 0, "bbox": [900, 5, 20, 30], "score": 1}]))
    told: list[str] = []
    given = RunOptions(output=tmp_path / "out", boxes=boxes, format="jsonl", save_video=True, jobs=2)
    summary = Run(inputs, given, told.append).execute(engine)
    assert [path.name for path in summary.files] == ["clip.jsonl", "clip.mp4", "clip_2.jsonl", "clip_2.mp4"]
    assert [len(numbers(path)) for path in summary.files[::2]] == [3, 6]
    assert summary.problems == []
    outside = "boxes left out: 1 outside the image, the first [900.0, 5.0, 20.0, 30.0] of frame 0, which has"
    assert summary.notes == [f"clip: {outside} 64x48 pixels", f"clip_2: {outside} 80x60 pixels"]
    assert sorted(told) == [f"note     {note}" for note in summary.notes]


def test_inputs_that_fail_leave_the_others_alone(engine, tmp_path) -> None:
    """Problems are in the order of the inputs, whichever failed first; what has the name of an input says so."""
    (tmp_path / "empty.mp4").write_bytes(b"")
    broken = folder(tmp_path / "broken", 5)
    (broken / "000002.png").write_bytes(b"broken")
    boxes = tmp_path / "boxes"
    boxes.mkdir()
    for name in ("a", "broken"):
        (boxes / f"{name}.json").write_text(json.dumps([{"image_id": 0, "bbox": [5, 5, 20, 30], "score": 1}]))
    inputs = [broken, tmp_path / "empty.mp4", folder(tmp_path / "c", 2), folder(tmp_path / "a", 9), tmp_path / "no.mp4"]
    given = RunOptions(output=tmp_path / "out", boxes=boxes, format="jsonl", jobs=4)
    summary = run_inputs(engine, inputs, given)
    assert [path.name for path in summary.files] == ["broken.jsonl", "a.jsonl"]
    assert numbers(tmp_path / "out" / "a.jsonl") == list(range(9))
    assert len(summary.problems) == 4
    for problem, sentence in zip(
        summary.problems,
        [
            "000002.png' cannot be read",
            "empty.mp4' is empty",
            "c: the folder of boxes '.*' has no 'c.json'",
            "not exist",
        ],
        strict=True,
    ):
        assert re.search(sentence, problem), problem
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jsonl", "broken.jsonl"]


def test_a_bug_ends_the_run_and_is_raised(engine, tmp_path) -> None:
    class Odd(Everybody):
        def detect(self, frame: np.ndarray) -> Detections:
            if self.calls == 40:
                raise ZeroDivisionError("of the detector")
            return super().detect(frame)

    inputs = [folder(tmp_path / name, 60) for name in "abcd"]
    with pytest.raises(ZeroDivisionError, match="of the detector"):
        run_inputs(engine, inputs, options(tmp_path / "out", Odd(), jobs=2))
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["a.jsonl", "b.jsonl"]  # those that had begun, and no lock
    for name in written:
        found = numbers(tmp_path / "out" / name)
        assert found == list(range(len(found)))
    assert not our_threads()


def test_a_detector_of_the_callers_own_is_asked_by_one_thread_at_a_time(engine, tmp_path) -> None:
    detector = Everybody()
    inputs = [folder(tmp_path / name, 30) for name in "abc"]
    run_inputs(engine, inputs, options(tmp_path / "out", detector, jobs=3))
    assert (detector.calls, detector.most) == (90, 1)
    with pytest.raises(InputError, match="`detector` is the class Everybody"):
        run_inputs(engine, inputs, options(tmp_path / "out", Everybody, jobs=3))


def test_max_frames_and_resume_are_for_each_input(engine, tmp_path) -> None:
    inputs = [folder(tmp_path / name, 4 + 8 * (name != "b")) for name in "abc"]
    first = run_inputs(engine, inputs, options(tmp_path / "out", max_frames=5))
    assert first.frames == 5 + 4 + 5
    told: list[str] = []
    second = Run(inputs, options(tmp_path / "out", resume=True), told.append).execute(engine)
    assert second.frames == 7 + 7
    assert [numbers(tmp_path / "out" / f"{name}.jsonl") for name in "abc"] == [list(range(n)) for n in (12, 4, 12)]
    assert sorted(line.split(",")[0] for line in told) == [
        f"complete {tmp_path / 'out' / 'b.jsonl'}", *(f"resume   {tmp_path / 'out' / f'{name}.jsonl'}" for name in "ac")
    ]  # fmt: skip


# --- inputs that cannot be -------------------------------------------------------------------------------------------


def test_an_input_that_appears_twice(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.mp4", "1.png", "2.png"):
        Path(name).write_bytes(name.encode())
    os.symlink("a.mp4", "soft.mov")
    os.link("a.mp4", "hard.mkv")
    os.mkfifo("pipe")
    os.symlink("pipe", "same pipe")
    os.link("1.png", "3.png")
    Path("clips").mkdir()
    for specs, names in [
        (["a.mp4", "*.mp4"], "'a.mp4'"),
        (["a.mp4", "./a.mp4"], "'a.mp4'"),
        (["a.mp4", str(tmp_path / "a.mp4")], f"'a.mp4' and '{tmp_path / 'a.mp4'}'"),
        (["a.mp4", "soft.mov"], "'a.mp4' and 'soft.mov'"),
        (["b.mp4", "hard.mkv", "a.mp4"], "'hard.mkv' and 'a.mp4'"),
        (["clips", "b.mp4", "clips/"], "'clips'"),
        (["2.png", "*.png"], "'2.png'"),
        (["no.mp4", "no.mp4"], "'no.mp4'"),
        (["-", "a.mp4", "-"], "'standard input'"),
        (["0", "1", "/dev/video0"], r"'camera '0'' and 'camera '/dev/video0''"),
        (["pipe", "same pipe"], "'pipe 'pipe'' and 'pipe 'same pipe''"),
        (["rtsp://u:secret@host/x", "RTSP://u:secret@HOST/x"], "'stream 'rtsp://host/x'' and "),
    ]:
        with pytest.raises(InputError) as caught:
            find_all_inputs(specs)
        assert f"`source` has an input twice, {names}" in str(caught.value), (specs, str(caught.value))
        assert str(caught.value).endswith(": name every input once")
        assert "secret" not in str(caught.value)
    for specs in (["*.png"], ["a.mp4", "b.mp4"], ["0", "1"], ["rtsp://host/x", "rtsp://host/X"], ["-", "pipe"]):
        find_all_inputs(specs)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--input", "{a}", "{in}/*"], "--input has an input twice, '{a}'"),
        (["--input", "{a}", "--input", "{a}"], "--input has an input twice, '{a}'"),
        (["--input", "{a}", "{b}", "--jobs", "0"], "--jobs is 0: expected at least 1"),
        (["--input", "{a}", "{b}", "--drop-late"], "--drop-late and --reconnect are for cameras"),
        (["--input", "{a}", "0", "--resume"], "--resume is for files"),
        (["--input", "{a}", "foo://host"], "'foo' addresses are not supported for --input"),
    ],
)
def test_the_command_says_what_cannot_be(tiny_bundle, tmp_path, capsys, arguments, sentence) -> None:
    places = {"in": tmp_path / "in", "a": folder(tmp_path / "in" / "a", 1), "b": folder(tmp_path / "in" / "b", 1)}
    command = ["--engine", tiny_bundle / "model.onnx", "--backend", "onnxruntime", "--output", tmp_path / "out"]
    command += [each.format(**places) for each in arguments]
    assert main([*map(str, command), "--format", "jsonl", "--quiet"]) == 2
    err = capsys.readouterr().err
    assert sentence.format(**places) in err
    assert len(err.splitlines()) == 1
    assert not list((tmp_path / "out").glob("*"))


# --- live sources -----------------------------------------------------------------------------------------------------


def test_live_sources_of_all_kinds_and_a_file(engine, tmp_path) -> None:
    """One stalls, one hangs up, one does not exist, one floods: each has its own end, and the others are complete."""
    frames = [folder(tmp_path / name, 20) for name in ("file", "file too")]
    with (
        fifo(tmp_path / "stalls", stream(12), 3.0, stream(20, start=12)) as stalls,
        fifo(tmp_path / "floods", *[stream(40)] * 5) as floods,
        server([stream(15)]) as address,
    ):
        inputs = ["77", stalls, address, *frames, floods]
        summary = run_inputs(engine, inputs, options(tmp_path / "out", jobs=1, reconnect=0, drop_late=False))
    (gone,) = summary.problems
    assert "there is no /dev/video77" in gone
    names = [path.stem for path in summary.files]
    assert names == ["stalls", re.sub(r"\W+", "_", address.partition("://")[2]), "file", "file too", "floods"]
    counts = []
    for path in summary.files:
        found = numbers(path)
        assert found == list(range(len(found))), path
        counts.append(len(found))
    assert counts == [32, 15, 20, 20, 200]
    assert list(summary.latency) == [names[0], names[1], names[4]]
    assert all(re.match(r"p50 \d+ ms, p95", sentence) for sentence in summary.latency.values())
    assert not our_threads()


def test_a_flood_starves_nobody(engine, tmp_path) -> None:
    """A file is done while a pipe still has a thousand frames to give."""
    order: list[str] = []

    class Watched(Everybody):
        def detect(self, frame: np.ndarray) -> Detections:
            order.append("flood" if frame.mean() < 250 and frame.shape == (48, 64, 3) else "file")
            return super().detect(frame)

    path = folder(tmp_path / "file", 1)
    for number in range(30):
        cv2.imwrite(str(path / f"{number:06d}.png"), np.full((60, 80, 3), 255, np.uint8))
    with fifo(tmp_path / "pipe", *[stream(50)] * 4) as pipe:
        summary = run_inputs(engine, [pipe, path], options(tmp_path / "out", Watched()))
    assert summary.frames == 230
    last = max(index for index, who in enumerate(order) if who == "file")
    assert order[:last].count("flood") < 200


def test_the_command_names_what_belongs_to_which_input(tiny_bundle, tmp_path, capsys) -> None:
    command = ["--engine", tiny_bundle / "model.onnx", "--backend", "onnxruntime", "--format", "jsonl"]
    with fifo(tmp_path / "left", stream(10)) as left, fifo(tmp_path / "right", stream(11)) as right:
        code = main([*map(str, [*command, "--output", tmp_path / "out", "--input", left, right])])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert re.findall(r"^latency  (\w+)  p50 \d+ ms", out, re.MULTILINE) == ["left", "right"]
    wrote = [Path(line.split()[-1]).name for line in out.splitlines() if line.startswith("wrote")]
    assert wrote == ["left.jsonl", "right.jsonl"]
    assert "\ndone     21 frames" in out


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_every_input(tiny_bundle, tmp_path, how) -> None:
    """Files at work and waiting, a pipe that has stalled, one that never gave a frame, and one that nobody opened."""
    files = [folder(tmp_path / f"file{number}", 1000) for number in range(3)]
    out = tmp_path / "out"
    os.mkfifo(tmp_path / "unopened")
    with fifo(tmp_path / "silent", 600.0) as silent, fifo(tmp_path / "stalled", stream(12), 600.0) as stalled:
        inputs = [silent, *files, stalled, tmp_path / "unopened"]
        command = [
            sys.executable, "-m", "sdtc.runtime.cli", "--engine", tiny_bundle / "model.onnx", "--input", *inputs,
            "--backend", "onnxruntime", "--output", out, "--jobs", "2", "--save-video",
        ]  # fmt: skip
        handler = signal.default_int_handler if how == signal.SIGINT else signal.SIG_DFL
        process = subprocess.Popen(
            list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
            preexec_fn=lambda: signal.signal(how, handler),
        )  # fmt: skip
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and len(list(out.glob(".*.mp4*"))) < 3:
            time.sleep(0.05)
        time.sleep(0.5)
        for _ in range(50):  # an impatient user
            os.kill(process.pid, how)
            time.sleep(0.005)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, (process.returncode, stderr)
    assert stderr.splitlines()[-1].startswith("sdtc-infer: interrupted after ")
    assert "error" not in stderr
    assert {path.name for path in out.iterdir()} == {
        f"{name}.{suffix}" for name in ("file0", "file1", "stalled") for suffix in ("json", "mp4")
    }
    for name in ("file0", "file1", "stalled"):
        count = len(json.loads((out / f"{name}.json").read_text())["images"])
        assert 0 < count < 1000
        with av.open(str(out / f"{name}.mp4")) as container:
            assert abs(sum(1 for _ in container.decode(video=0)) - count) <= 1
    assert "latency  stalled  p50" in stdout


def test_signal_handlers_are_as_before(engine, tmp_path) -> None:
    seen: list[object] = []

    class Looking(Everybody):
        def detect(self, frame: np.ndarray) -> Detections:
            seen.append(signal.getsignal(signal.SIGINT))
            return super().detect(frame)

    def own(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    path = folder(tmp_path / "a", 3)
    try:
        for handler in (signal.default_int_handler, signal.SIG_IGN, own):
            signal.signal(signal.SIGINT, handler)
            run_inputs(engine, path, options(tmp_path / "out", Looking()))
            assert signal.getsignal(signal.SIGINT) is handler
            assert (seen[-1] is handler) == (handler is not signal.default_int_handler)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("own", [False, True], ids=["default handler", "own handler"])
def test_an_interrupt_of_a_run_in_python(engine, tmp_path, own) -> None:
    class Interrupting(Everybody):
        def detect(self, frame: np.ndarray) -> Detections:
            if self.calls == 50:
                os.kill(os.getpid(), signal.SIGINT)
            return super().detect(frame)

    def handler(*arguments: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handler if own else signal.default_int_handler)
    try:
        inputs = [folder(tmp_path / name, 300) for name in "abc"]
        summary = run_inputs(engine, inputs, options(tmp_path / "out", Interrupting(), jobs=2))
    finally:
        signal.signal(signal.SIGINT, before)
    assert summary.interrupted
    assert (summary.problems, [path.name for path in summary.files]) == ([], ["a.jsonl", "b.jsonl"])
    assert summary.frames == sum(len(numbers(path)) for path in summary.files) < 300
    assert not our_threads()


def test_live_sources_that_a_glob_names(engine, tmp_path) -> None:
    """They are live as if they were named one by one: all at once, with their options, and an interrupt ends them."""
    given = options(tmp_path / "out", jobs=1, drop_late=True, reconnect=0)
    (tmp_path / "pipes").mkdir()
    with fifo(tmp_path / "pipes" / "a", 600.0), fifo(tmp_path / "pipes" / "b", stream(30), 600.0):
        with pytest.raises(InputError, match="`resume=True` is for files"):
            Run(str(tmp_path / "pipes" / "*"), options(tmp_path / "out", resume=True))
        run = Run(str(tmp_path / "pipes" / "*"), given)
        summaries: list = []
        thread = threading.Thread(target=lambda: summaries.append(run.execute(engine)), daemon=True)
        thread.start()
        deadline = time.monotonic() + 60
        while not list((tmp_path / "out").glob("b.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.05)
        run.interrupt()
        thread.join(30)
        assert not thread.is_alive()
    (summary,) = summaries
    assert (summary.interrupted, summary.problems) == (True, [])
    assert [path.name for path in summary.files] == ["b.jsonl"]
    assert not our_threads()


@pytest.mark.parametrize("kind", ["images", "video"])
def test_an_interrupt_while_a_resumed_run_skips_what_is_done(engine, tmp_path, monkeypatch, kind) -> None:
    path = folder(tmp_path / "a", 60)
    if kind == "video":
        path = tmp_path / "a.mp4"
        path.write_bytes(stream(60))
    run_inputs(engine, path, options(tmp_path / "out", max_frames=50))
    before = (tmp_path / "out" / "a.jsonl").read_bytes()
    cls = ImageSequence if kind == "images" else VideoFile
    iterate = cls.__iter__
    read = threading.Event()

    def slow(self):
        for frame in iterate(self):
            read.set()
            time.sleep(0.2)
            yield frame

    monkeypatch.setattr(cls, "__iter__", slow)
    run = Run(path, options(tmp_path / "out", resume=True))
    begin = time.monotonic()

    def interrupt() -> None:
        read.wait(60)
        run.interrupt()

    threading.Thread(target=interrupt).start()
    summary = run.execute(engine)
    assert time.monotonic() - begin < 6  # skipping takes ten seconds
    assert (summary.interrupted, summary.frames, summary.problems) == (True, 0, [])
    assert (tmp_path / "out" / "a.jsonl").read_bytes() == before
    assert not our_threads()


def test_an_interrupt_changes_no_pose(engine, tmp_path, monkeypatch) -> None:
    """No window is written that lacks the frames which the interrupt has kept from being read."""
    path = folder(tmp_path / "a", 60)
    run_inputs(engine, path, options(tmp_path / "whole"))
    iterate = ImageSequence.__iter__

    def pausing(self):
        for frame in iterate(self):
            yield frame
            if frame.index == 20:
                time.sleep(1)  # until everything that is complete has been written
                run.interrupt()
                time.sleep(0.5)

    monkeypatch.setattr(ImageSequence, "__iter__", pausing)
    run = Run(path, options(tmp_path / "out"))
    assert 0 < run.execute(engine).frames < 60
    whole, found = ((tmp_path / name / "a.jsonl").read_text().splitlines() for name in ("whole", "out"))
    for line, want in zip(found, whole[: len(found)], strict=True):
        got = json.loads(line)["poses"][0]["keypoints"]
        np.testing.assert_allclose(got, json.loads(want)["poses"][0]["keypoints"], atol=2e-3)


def test_an_overlay_that_cannot_be_finished_leaves_the_account_of_the_rest(engine, tmp_path, monkeypatch) -> None:
    close = VideoWriter.close

    def full(self) -> None:
        close(self)
        raise OutputError(f"cannot write '{self.path}': No space left on device")

    monkeypatch.setattr(VideoWriter, "close", full)
    path = folder(tmp_path / "a", 5)
    (path / "000002.png").write_bytes(b"broken")
    summary = run_inputs(engine, path, options(tmp_path / "out", save_video=True))
    assert (summary.frames, summary.people) == (5, 1)
    assert "a.jsonl" in [path.name for path in summary.files]
    overlay, image = summary.problems
    assert overlay == f"cannot write '{tmp_path / 'out' / 'a.mp4'}': No space left on device"
    assert "000002.png' cannot be read" in image


def test_a_thread_that_cannot_be_started_ends_the_run(engine, tmp_path, monkeypatch) -> None:
    start = threading.Thread.start

    def refused(self) -> None:
        if self.name == "sdtc-b":
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refused)
    inputs = [folder(tmp_path / name, 20) for name in "ab"]
    with pytest.raises(RuntimeError, match="can't start new thread"):
        run_inputs(engine, inputs, options(tmp_path / "out", jobs=2))
    assert not our_threads()


# --- the terminal -----------------------------------------------------------------------------------------------------


class Screen:
    """A terminal of a few lines: what stands on it after carriage returns, line feeds and moves of the cursor."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self.lines: list[str] = [""]
        self.row = self.column = self.widest = 0

    def write(self, text: str) -> int:
        for piece in re.findall(r"\x1b\[A|[\r\n]|[^\r\n\x1b]+", text):
            if piece == "\r":
                self.column = 0
            elif piece == "\n":
                self.row, self.column = self.row + 1, 0
                self.lines += [""] * (self.row + 1 - len(self.lines))
            elif piece == "\x1b[A":
                self.row -= 1
                assert self.row >= 0
            else:
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + piece + line[self.column + len(piece) :]
                self.column += len(piece)
        self.widest = max(self.widest, sum(bool(line.strip()) for line in self.lines))
        return len(text)

    def flush(self) -> None: ...

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        raise OSError(25, "not a terminal")

    @property
    def shown(self) -> list[str]:
        return [line.rstrip() for line in self.lines if line.strip()]


def test_bars_leave_nothing_on_the_terminal(engine, tmp_path, monkeypatch) -> None:
    """One for each input at work and a total; lines of text come above; at the end only these lines are there."""
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdout", screen)
    (tmp_path / "x.txt").write_text("")
    inputs = [folder(tmp_path / name, 20) for name in "abcde"]
    for path in inputs:
        (path / "notes.txt").write_text("")  # passed over, which is told
    frames: list[list[str]] = []
    write = Screen.write

    def watched(self, text: str) -> int:
        written = write(self, text)
        frames.append(self.shown)
        return written

    monkeypatch.setattr(Screen, "write", watched)

    def tell(text: str) -> None:
        screen.write(text + "\n")

    with live_log(quiet=False), fifo(tmp_path / "pipe", stream(12)) as pipe:
        Run([*inputs, pipe], options(tmp_path / "out", jobs=2), tell, progress=True).execute(engine)
        log = bars.logging.getLogger("sdtc.live")
        log.info("the end")
    assert [line.split()[0] for line in screen.shown] == ["note"] * 5 + ["live"]
    everything = "\n".join("\n".join(each) for each in frames)
    assert re.search(r"[1-4]/5 files", everything)
    assert re.search(r"a: .*20 ?.*people=1", everything)
    assert re.search(r"pipe: ", everything)
    at_once = [sum(bool(re.match(r"[a-e]: |pipe: ", line)) for line in each) for each in frames]
    assert max(at_once) == 3


def test_the_bar_of_the_only_input_stays(engine, tmp_path, monkeypatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    Run(folder(tmp_path / "a", 5), options(tmp_path / "out"), progress=True).execute(engine)
    (line,) = screen.shown
    assert line.startswith("a: 100%")
    assert "5/5" in line
