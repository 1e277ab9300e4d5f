"""`PoseEngine.track_all`: several sources at once, of which some stall, flood, hang up or fail."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

import sdtc.runtime
from sdtc.core.errors import EngineError, InputError, SdtcError, VideoError
from sdtc.runtime.options import EngineOptions, TrackOptions
from sdtc.runtime.people.detection import Detections
from sdtc.runtime.sources.base import Frame, FrameSource
from sdtc.runtime.sources.live import LiveSource
from tests.runtime.senders import fifo, server, stream


@pytest.fixture(scope="module")
def engine(tiny_bundle):
    with sdtc.runtime.open(tiny_bundle / "model.onnx", EngineOptions(backend="onnxruntime", threads=1)) as engine:
        yield engine


@dataclass
class Everybody:
    """A detector that finds one person in every picture."""

    def detect(self, frame: np.ndarray) -> Detections:
        return Detections(np.array([[8, 4, 30, 40]], np.float32), np.array([0.9], np.float32))


ONE = TrackOptions(detector=Everybody())


class Endless(FrameSource):
    """A source without end, as fast as it is read; it counts how far that is."""

    def __init__(self, fails_at: int | None = None, error: type[Exception] = VideoError) -> None:
        self.path, self.name, self.fps, self.num_frames, self.problems = Path("endless"), "endless", 25.0, None, []
        self.read, self._fails_at, self._error, self.ended = 0, fails_at, error, False

    def __iter__(self):
        try:
            image = np.full((48, 64, 3), 90, np.uint8)
            while True:
                if self.read == self._fails_at:
                    raise self._error("it broke")
                yield Frame(self.read, self.read, None, image)
                self.read += 1
        finally:
            self.ended = True


def folder(path: Path, count: int, seed: int = 0) -> Path:
    path.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(path / f"{number:06d}.png"), cv2.resize(small, (64, 48), interpolation=cv2.INTER_CUBIC))
    return path


def our_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sdtc-")]


def test_results_are_those_of_each_alone(engine, tmp_path) -> None:
    sources = {name: folder(tmp_path / name, 5 + 3 * seed, seed) for seed, name in enumerate("abc")}
    alone = {name: list(engine.track(source, ONE)) for name, source in sources.items()}
    together: dict[str, list] = {name: [] for name in sources}
    for name, result in engine.track_all(sources, ONE):
        together[name].append(result)
    for name, results in together.items():
        assert [result.index for result in results] == list(range(len(alone[name])))
        for got, want in zip(results, alone[name], strict=True):
            assert [pose.track_id for pose in got.poses] == [pose.track_id for pose in want.poses] == [0]
            np.testing.assert_allclose(got.poses[0].keypoints, want.poses[0].keypoints, atol=1e-3)
    assert not our_threads()


def test_the_same_file_twice_with_options_of_its_own(engine, tmp_path) -> None:
    path, boxes = folder(tmp_path / "a", 6), tmp_path / "boxes.json"
    boxes.write_text(json.dumps([{"image_id": n, "bbox": [5, 5, 20, 30], "score": 1} for n in range(6)] * 2))
    options = {"left": TrackOptions(boxes=boxes), "right": TrackOptions(detector=Everybody(), max_frames=3)}
    people: dict[str, list[int]] = {"left": [], "right": [], "other": []}
    for name, result in engine.track_all({"left": path, "right": path, "other": path}, options):
        people[name].append(len(result.poses))
    assert people == {"left": [2] * 6, "right": [1] * 3, "other": [0] * 6}  # HOG finds nobody in noise


def test_a_stall_a_hang_up_and_a_flood_hold_up_nobody(engine, tmp_path) -> None:
    """While a pipe gives nothing, the others are complete and in order, and an endless source leaves them a share."""
    frames = folder(tmp_path / "frames", 30)
    flood = Endless()
    seen: dict[str, list[int]] = {"stalls": [], "hangs up": [], "file": [], "flood": []}
    with (
        fifo(tmp_path / "pipe", stream(12), 600.0) as pipe,
        server([stream(15)]) as address,
        LiveSource(address, reconnect=0) as caller,
    ):
        sources = {"stalls": pipe, "hangs up": caller, "file": frames, "flood": flood}
        results = engine.track_all(sources, ONE)
        for name, result in results:
            seen[name].append(result.index)
            if [len(seen[name]) for name in ("stalls", "hangs up", "file")] == [8, 15, 30]:
                break
        # FFmpeg holds two frames of the pipe back, and two are looked ahead at.
        results.close()
        assert caller.problems == []
    for name, indices in seen.items():
        assert indices == list(range(len(indices))), name
    assert len(seen["flood"]) > 1
    assert flood.ended
    assert not our_threads()


def test_a_slow_consumer_makes_all_sources_wait(engine) -> None:
    sources = {"a": Endless(), "b": Endless()}
    results = engine.track_all(sources, ONE)
    for _ in range(6):
        next(results)
    before = -1, -1
    while before != (now := (sources["a"].read, sources["b"].read)):  # until nothing moves any more
        before = now
        time.sleep(0.3)
    assert max(now) < 40
    results.close()
    assert all(source.ended for source in sources.values())
    assert not our_threads()


def test_sources_that_fail_end_alone_and_are_named(engine, tmp_path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    sources = {"good": folder(tmp_path / "good", 20), "bad": tmp_path / "empty.mp4", "breaks": Endless(fails_at=7)}
    seen: dict[str, int] = dict.fromkeys(sources, 0)
    with pytest.raises(InputError, match=r"2 of 3 sources failed: 'bad': .*is empty.*; 'breaks': it broke") as caught:
        for name, _ in engine.track_all(sources, ONE):
            seen[name] += 1
    assert (seen["good"], seen["bad"], seen["breaks"]) == (20, 0, 7)  # all that it gave
    assert isinstance(caught.value.__cause__, VideoError)
    with pytest.raises(SdtcError, match="1 of 1 sources failed") as caught:
        list(engine.track_all({"x": Endless(0, EngineError)}))
    assert not isinstance(caught.value, InputError)


def test_what_an_opened_file_lacks_is_an_error(engine, tmp_path) -> None:
    path = folder(tmp_path / "a", 4)
    (path / "000001.png").write_bytes(b"broken")
    results = engine.track_all({"a": path, "b": folder(tmp_path / "b", 4)}, ONE)
    assert [next(results) is not None for _ in range(8)] == [True] * 8
    with pytest.raises(InputError, match=r"1 of 2 sources failed: 'a': .*000001.png' cannot be read"):
        next(results)


def test_a_bug_ends_all_and_is_raised(engine) -> None:
    class Odd(Everybody):
        def detect(self, frame: np.ndarray) -> Detections:
            while flood.read < 20:
                time.sleep(0.01)
            raise ZeroDivisionError("of the detector")

    flood = Endless()
    with pytest.raises(ZeroDivisionError, match="of the detector"):
        for _ in engine.track_all(
            {"flood": flood, "odd": Endless()}, {"flood": ONE, "odd": TrackOptions(detector=Odd())}
        ):
            time.sleep(0.02)  # slower than the flood, so that there is always a result to take
            assert flood.read < 500
    assert flood.ended
    assert not our_threads()


@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_a_bug_is_raised_however_busy_the_consumer_is(engine, seconds) -> None:
    """The other sources have ended by the time that it takes the next result."""

    class Odd(Everybody):
        def detect(self, frame: np.ndarray) -> Detections:
            busy.wait(60)
            raise ZeroDivisionError("of the detector")

    flood, busy = Endless(), threading.Event()
    with pytest.raises(ZeroDivisionError, match="of the detector"):
        for _ in engine.track_all(
            {"odd": Endless(), "flood": flood}, {"flood": ONE, "odd": TrackOptions(detector=Odd())}
        ):
            busy.set()
            time.sleep(seconds)
    assert flood.ended
    assert not our_threads()


def test_a_thread_that_cannot_be_started_ends_those_before_it(engine, monkeypatch) -> None:
    start, first = threading.Thread.start, Endless()

    def refused(self) -> None:
        if self.name == "sdtc-second":
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        list(engine.track_all({"first": first, "second": Endless(), "third": Endless()}, ONE))
    assert first.ended or not first.read
    assert not our_threads()


def test_closing_while_sources_are_still_connecting(engine, tmp_path) -> None:
    """A pipe that nobody writes into, and one that is open and silent."""
    with fifo(tmp_path / "silent", 600.0) as silent, fifo(tmp_path / "started", stream(12), 600.0) as started:
        results = engine.track_all({"silent": silent, "started": started}, ONE)
        next(results)
        start = time.monotonic()
        results.close()
        assert time.monotonic() - start < 10
        while our_threads():  # FFmpeg is let go of within a tenth of a second
            assert time.monotonic() - start < 10
            time.sleep(0.05)


def test_sources_and_options_that_cannot_be(engine, tmp_path) -> None:
    source = Endless()
    for sources, sentence in [
        ({}, "`sources` is empty"),
        (["a.mp4"], "`sources` is of type list: expected dict"),
        ({"a": None}, r"`sources\['a'\]` is None: expected a path"),
        ({"a": "tcp://host:1/x", "b": "TCP://HOST:1/x"}, "one live or open source twice, as 'a' and 'b'"),
        ({"a": source, "b": source}, "one live or open source twice, as 'a' and 'b'"),
        ({"a": "0", "b": "/dev/video0"}, "one live or open source twice, as 'a' and 'b'"),
    ]:
        with pytest.raises(InputError, match=sentence):
            engine.track_all(sources)
    both = {"a": tmp_path / "a.mp4", "b": tmp_path / "b.mp4"}
    for options, sentence in [
        (TrackOptions(boxes="boxes.json"), "give options by the name of the source"),
        ({"c": TrackOptions()}, "`options` is for 'c', which is none of the sources: a, b"),
        ({"a": 3}, r"`options\['a'\]` is of type int: expected TrackOptions"),
        (3, "`options` is of type int"),
    ]:
        with pytest.raises(InputError, match=sentence):
            engine.track_all(both, options)
