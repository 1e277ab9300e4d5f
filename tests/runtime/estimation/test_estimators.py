"""Batches of people and of keyframes, on sessions that are simple enough to say what comes out."""

from __future__ import annotations

import dataclasses
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdtc.core.crops import crop_frame
from sdtc.core.errors import EngineError
from sdtc.core.manifest import Manifest
from sdtc.core.resampling import Resampler, token_places
from sdtc.runtime.backends.session import TensorSpec
from sdtc.runtime.estimation.estimators import Estimator, KeyframePeople, StreamingEstimator, WindowEstimator
from sdtc.runtime.estimation.timing import StageTimes
from sdtc.runtime.sources.base import Frame

T, H, W, L, C, J = 5, 32, 48, 6, 3, 15
GRID = (2, 3)


class Fake:
    """A session whose tokens are mean colours of patches, and whose keypoints are a sum over a window's tokens.

    Attributes:
        batches: sizes of the batches so far.
        seconds: that a run takes.
        refuse: a token of this value makes a pose that is not finite.
    """

    backend = "fake"

    def __init__(self, graph: str) -> None:
        self.graph, self.batches = graph, []
        self.inputs = {"tokens": TensorSpec((None, T, L, C), np.dtype(np.float32))}
        self.outputs: dict[str, TensorSpec] = {}
        self.seconds, self.refuse = 0.0, np.nan

    def run(self, inputs, outputs=None):
        ((name, value),) = inputs.items()
        self.batches.append(len(value))
        time.sleep(self.seconds)
        if name == "frames":
            return {"tokens": tokens_of(value)}
        tokens = value if name == "tokens" else tokens_of(value.reshape(-1, H, W, 3)).reshape(-1, T, L, C)
        # The order of frames and tokens matters.
        sums = np.einsum("btlc,t,l->b", tokens, np.arange(1, T + 1) ** 2, np.arange(1, L + 1))
        sums[(tokens == self.refuse).any(axis=(1, 2, 3))] = np.nan
        return {"keypoints": np.tile(sums[:, None, None], (1, J, 3)).astype(np.float32)}

    def close(self) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


def tokens_of(crops: np.ndarray) -> np.ndarray:
    patches = crops.reshape(len(crops), GRID[0], 16, GRID[1], 16, 3)
    return patches.mean(axis=(2, 4), dtype=np.float32).reshape(len(crops), L, C)


@pytest.fixture(scope="module")
def manifest(tiny_bundle) -> Manifest:
    manifest = Manifest.load(tiny_bundle / "model.json")
    return dataclasses.replace(manifest, input_size=(H, W), token_shape=(L, C), token_grid=GRID, batch=(1, 4, 8))


def streaming(manifest: Manifest, lanes: int = 1) -> StreamingEstimator:
    return StreamingEstimator(manifest, Fake("encoder"), Fake("temporal"), StageTimes(), lanes)


def whole(manifest: Manifest, lanes: int = 1) -> WindowEstimator:
    return WindowEstimator(manifest, Fake("model"), StageTimes(), lanes)


def keyframes(count: int, people: int, seed: int = 0, speed: float = 0.3) -> list[KeyframePeople]:
    """Everybody wanders; the number of people changes from frame to frame."""
    rng = np.random.default_rng(seed)
    frames = [Frame(i, i, None, rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for i in range(count)]
    boxes = np.concatenate([rng.uniform(0, 20, (people, 2)), rng.uniform(10, 30, (people, 2))], axis=1)
    found = []
    for t in range(count):
        boxes = boxes + rng.normal(0, [speed, speed, 0, 0], boxes.shape)
        here = np.flatnonzero(rng.random(people) < 0.8)
        window = [frames[min(max(t + offset, 0), count - 1)] for offset in range(-2, 3)]
        found.append(KeyframePeople(window, boxes[here], here.tolist()))
    known = {t: dict(zip(each.track_ids, each.crop_boxes, strict=True)) for t, each in enumerate(found)}
    return [dataclasses.replace(each, known=known) for each in found]


def run(estimator: Estimator, work: list[KeyframePeople], together: int) -> list[np.ndarray]:
    stream = estimator.start()
    found = [
        poses for start in range(0, len(work), together) for poses in stream.estimate(work[start : start + together], 8)
    ]
    stream.end()
    return found


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000), people=st.integers(0, 5), together=st.integers(1, 5), speed=st.sampled_from([0, 2]))
def test_keyframes_in_one_batch_give_what_they_give_one_by_one(manifest, seed, people, together, speed) -> None:
    work = keyframes(12, people, seed, speed)
    for make in (streaming, whole):
        one_by_one, batched = run(make(manifest), work, 1), run(make(manifest), work, together)
        assert len(one_by_one) == len(batched) == 12
        for points, other_points, frame in zip(one_by_one, batched, work, strict=True):
            assert points.shape == (len(frame.crop_boxes), J, 3)
            np.testing.assert_allclose(other_points, points, rtol=1e-5)


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 1000), together=st.integers(1, 5))
def test_windows_of_people_who_stand_still_are_whole_windows(manifest, seed, together) -> None:
    work = keyframes(10, 3, seed, speed=0)
    session = Fake("model")
    for frame, points in zip(work, run(streaming(manifest), work, together), strict=True):
        for point, box in zip(points, frame.crop_boxes, strict=True):
            clip = np.stack([crop_frame(each.image, box, (H, W)) for each in frame.window])
            np.testing.assert_allclose(point, session.run({"clip": clip[None]})["keypoints"][0], rtol=1e-5)


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 1000), together=st.integers(1, 5))
def test_windows_of_people_who_move_are_resampled_from_their_own_crops(manifest, seed, together) -> None:
    walk = np.random.default_rng(seed).normal(0, [2, 2, 1, 1], (10, 4)).cumsum(axis=0)
    boxes = np.maximum(np.array([2, 3, 20, 25]) + walk, 5)
    known = {t: {0: box} for t, box in enumerate(boxes)}
    work = [KeyframePeople(each.window, boxes[[t]], [0], known) for t, each in enumerate(keyframes(10, 0, seed))]
    session = Fake("temporal")
    for frame, points in zip(work, run(streaming(manifest), work, together), strict=True):
        box, tokens = frame.crop_boxes[0], []
        for each in frame.window:
            own = frame.known[each.index][0]
            encoded = tokens_of(crop_frame(each.image, own, (H, W))[None])[0]
            out = np.empty((1, L, C), np.float32)
            Resampler(GRID, C).gather([encoded], token_places(manifest, own, box)[None], out)
            tokens.append(out[0])
        want = session.run({"tokens": np.stack(tokens)[None]})["keypoints"][0]
        np.testing.assert_allclose(points[0], want, rtol=1e-5)


def test_everybody_s_new_frames_are_one_batch(manifest) -> None:
    estimator, work = streaming(manifest), keyframes(6, 4)
    stream = estimator.start()
    for frame in work[:3]:
        stream.estimate([frame], 8)
    before = len(estimator.encoder.batches), len(estimator.temporal.batches)
    stream.estimate(work[3:5], 8)
    assert len(estimator.encoder.batches) == before[0] + 1
    assert len(estimator.temporal.batches) == before[1] + 1
    assert estimator.temporal.batches[-1] == sum(len(frame.crop_boxes) for frame in work[3:5])


def test_two_hundred_people_are_split(manifest) -> None:
    estimator, work = streaming(manifest), keyframes(3, 200)
    stream = estimator.start()
    found = stream.estimate(work, 8)
    assert [len(points) for points in found] == [len(frame.crop_boxes) for frame in work]
    assert max(estimator.temporal.batches) == 8
    assert max(estimator.encoder.batches) <= 8


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("make", [streaming, whole])
def test_sources_that_wait_share_batches_and_nothing_else(manifest, make, lanes) -> None:
    clips = [keyframes(15, 2, seed, speed=1) for seed in range(6)]
    want = [run(make(manifest), clip, 1) for clip in clips]
    estimator = make(manifest, lanes)
    sessions = [estimator.encoder, estimator.temporal] if make is streaming else [estimator._session]
    for session in sessions:
        session.seconds = 0.002  # so that others come while it runs
    found: list[list[np.ndarray]] = [[] for _ in clips]

    def work(number: int) -> None:
        found[number] = run(estimator, clips[number], 1)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(clips))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for got, expected in zip(found, want, strict=True):
        for points, other in zip(got, expected, strict=True):
            np.testing.assert_allclose(points, other, rtol=1e-5)
    people = max(len(each.crop_boxes) for clip in clips for each in clip)
    assert max(sessions[-1].batches) > people  # windows of several sources in one batch
    if make is streaming:
        pool = estimator.slots
        assert sorted(pool._free) == list(range(pool.num_slots))  # all are given back
        assert pool.num_slots <= len(clips) * (5 + 3) * people


@pytest.mark.parametrize("make", [streaming, whole])
def test_keyframes_without_people_wait_for_nobody(manifest, make, monkeypatch) -> None:
    estimator = make(manifest)
    monkeypatch.setattr(estimator, "_batches", None)
    found = estimator.start().estimate(keyframes(3, 0), 8)
    assert [points.shape for points in found] == [(0, J, 3)] * 3


def test_a_source_that_breaks_does_not_break_those_beside_it(manifest) -> None:
    estimator = streaming(manifest)
    good, bad = keyframes(12, 2, 1), keyframes(12, 2, 2)
    for frame in bad[0].window:
        frame.image[...] = 255
    want = run(streaming(manifest), good, 1)
    estimator.temporal.refuse = 255.0
    estimator.temporal.seconds = estimator.encoder.seconds = 0.002
    found: list = []
    errors: list = []

    def work() -> None:
        found.extend(run(estimator, good, 1))

    def broken() -> None:
        for _ in range(12):
            try:
                run(estimator, bad[:1], 1)
            except EngineError as error:
                errors.append(str(error))

    threads = [threading.Thread(target=work), threading.Thread(target=broken)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(errors) == 12
    assert all("not finite" in error for error in errors)
    for points, other in zip(found, want, strict=True):
        np.testing.assert_allclose(points, other, rtol=1e-5)
