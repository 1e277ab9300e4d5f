"""One engine, many threads: every call gives what it gives alone, to the byte."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

import sdtc.runtime
from sdtc.core.errors import EngineError
from sdtc.runtime.backends.pool import Pool
from sdtc.runtime.engine import PoseEngine
from sdtc.runtime.estimation.timing import StageTimes
from sdtc.runtime.options import EngineOptions, TrackOptions
from sdtc.runtime.people.detection import Detections

BACKENDS = ["onnxruntime", "openvino"]
CALLS = int(os.environ.get("SDTC_THREAD_CALLS", "96"))  # 4000 for 8 threads of 500 calls


@dataclass
class EveryBox:
    """A detector that finds as many people everywhere as the brightness of the first pixel says."""

    def detect(self, frame: np.ndarray) -> Detections:
        count = 1 + int(frame[0, 0, 0]) % 3
        boxes = [[10 + 25 * k, 10 + 5 * k, 40, 80] for k in range(count)]
        return Detections(np.array(boxes, np.float32), np.full(count, 0.9, np.float32))


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "openvino":
        pytest.importorskip("openvino")
    return str(request.param)


@pytest.fixture
def tiny_interval():
    """Threads take turns a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def pictures(seed: int, count: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (count, 15, 20, 3), dtype=np.uint8)
    return [cv2.resize(image, (160, 120), interpolation=cv2.INTER_CUBIC) for image in small]


def calls(engine: PoseEngine, people: int = 3) -> list[tuple]:
    """Return arguments of `estimate`: other frames, numbers of people and batch sizes in each."""
    rng = np.random.default_rng(people)
    found = []
    for seed in range(8):
        boxes = np.column_stack(
            [rng.uniform(0, 80, (1 + seed % people, 2)), rng.uniform(20, 70, (1 + seed % people, 2))]
        )
        found.append((pictures(seed), boxes, 1 + seed % 4))
    return found


@pytest.mark.parametrize("exact", [False, True], ids=["frame by frame", "whole windows"])
def test_estimate_from_many_threads(tiny_bundle, backend, exact, tiny_interval) -> None:
    with sdtc.runtime.open(
        tiny_bundle / "model.onnx", EngineOptions(backend=backend, threads=1, exact=exact)
    ) as engine:
        arguments = calls(engine)
        alone = [engine.estimate(*each) for each in arguments]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda n: engine.estimate(*arguments[n % 8]), range(CALLS)))
    for number, poses in enumerate(together):
        np.testing.assert_array_equal(poses, alone[number % 8], err_msg=f"call {number}")


@pytest.mark.parametrize("exact", [False, True], ids=["frame by frame", "whole windows"])
def test_tracking_two_videos_at_once(tiny_bundle, backend, exact, tmp_path, tiny_interval) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        for number, image in enumerate(pictures(seed, 8)):
            cv2.imwrite(str(tmp_path / name / f"{number:06d}.png"), image)
    with sdtc.runtime.open(
        tiny_bundle / "model.onnx", EngineOptions(backend=backend, threads=1, exact=exact)
    ) as engine:

        def track(name: str) -> list[np.ndarray]:
            results = engine.track(tmp_path / name, TrackOptions(detector=EveryBox()))
            return [np.stack([pose.keypoints for pose in result.poses]) for result in results]

        alone = {name: track(name) for name in "ab"}
        for _ in range(2):
            with ThreadPoolExecutor(4) as pool:
                together = list(pool.map(track, "abab"))
            for name, poses in zip("abab", together, strict=True):
                for got, want in zip(poses, alone[name], strict=True):
                    # How many keyframes fall into one batch depends on timing, and the last bits on the batch.
                    np.testing.assert_allclose(got, want, atol=1e-3)


def test_closing_while_other_threads_estimate(tiny_bundle, backend) -> None:
    engine = sdtc.runtime.open(tiny_bundle / "model.onnx", EngineOptions(backend=backend, threads=1))
    arguments = calls(engine)[0]
    want = engine.estimate(*arguments)
    outcomes: list[object] = []

    def work() -> None:
        try:
            while True:
                np.testing.assert_array_equal(engine.estimate(*arguments), want)
        except Exception as error:
            outcomes.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    engine.close()
    for thread in threads:
        thread.join(60)
    assert len(outcomes) == 4
    assert all(isinstance(each, EngineError) and "closed: open it again" in str(each) for each in outcomes), outcomes
    engine.close()  # twice is once
    with pytest.raises(EngineError, match="closed"):
        next(engine.track(Path("nothing.mp4")))


def test_stage_times_of_many_threads_add_up(tiny_interval) -> None:
    times = StageTimes()

    def work(_: int) -> None:
        for _ in range(500):
            with times.stage("pose"):
                pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert times.durations["pose"].count == 4000
    assert sum(times.durations["pose"]._buckets.values()) == 4000


def test_a_pool_lends_each_object_to_one_call(tiny_interval) -> None:
    made: list[list[int]] = []

    def make() -> list[int]:
        made.append([])
        return made[-1]

    pool = Pool(make)
    inside: dict[int, int] = {}

    def work(_: int) -> None:
        for _ in range(300):
            with pool.lend() as item:
                assert inside.setdefault(id(item), threading.get_ident()) == threading.get_ident()
                inside.pop(id(item))

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(work, range(8)))
    assert 1 <= len(made) <= 8
    with pytest.raises(KeyError), pool.lend():
        raise KeyError
    assert len(pool._free) == len(made)
