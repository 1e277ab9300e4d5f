"""Batches of people and of keyframes, on sessions that are simple enough to say what comes out."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdtc.core.crops import crop_frame
from sdtc.core.manifest import Manifest
from sdtc.runtime.backends.session import TensorSpec
from sdtc.runtime.estimation.estimators import Estimator, KeyframePeople, StreamingEstimator, WindowEstimator
from sdtc.runtime.estimation.timing import StageTimes
from sdtc.runtime.sources.base import Frame

T, H, W, L, C, J = 5, 8, 6, 2, 3, 15


class Fake:
    """A session whose tokens are the mean colour of a crop, and whose keypoints are a sum over a window's tokens."""

    backend = "fake"

    def __init__(self, graph: str) -> None:
        self.graph, self.batches = graph, []
        self.inputs = {"tokens": TensorSpec((None, T, L, C), np.dtype(np.float32))}
        self.outputs: dict[str, TensorSpec] = {}

    def run(self, inputs):
        ((name, value),) = inputs.items()
        self.batches.append(len(value))
        if name == "frames":
            return {"tokens": tokens_of(value)}
        tokens = value if name == "tokens" else tokens_of(value.reshape(-1, H, W, 3)).reshape(-1, T, L, C)
        sums = np.einsum("btlc,t->b", tokens, np.arange(1, T + 1) ** 2)  # the order of frames matters
        return {"keypoints": np.tile(sums[:, None, None], (1, J, 3)).astype(np.float32)}

    def close(self) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


def tokens_of(crops: np.ndarray) -> np.ndarray:
    return np.tile(crops.reshape(len(crops), -1, 3).mean(1, dtype=np.float32)[:, None], (1, L, 1))


@pytest.fixture(scope="module")
def manifest(tiny_bundle) -> Manifest:
    manifest = Manifest.load(tiny_bundle / "model.json")
    return dataclasses.replace(manifest, input_size=(H, W), token_shape=(L, C), batch=(1, 4, 8))


def streaming(manifest: Manifest) -> StreamingEstimator:
    return StreamingEstimator(manifest, Fake("encoder"), Fake("temporal"), StageTimes())


def whole(manifest: Manifest) -> WindowEstimator:
    return WindowEstimator(manifest, Fake("model"), StageTimes())


def keyframes(count: int, people: int, seed: int = 0) -> list[KeyframePeople]:
    """Everybody wanders, some far; the number of people changes from frame to frame."""
    rng = np.random.default_rng(seed)
    frames = [Frame(i, i, None, rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for i in range(count)]
    boxes = np.concatenate([rng.uniform(0, 20, (people, 2)), rng.uniform(10, 30, (people, 2))], axis=1)
    found = []
    for t in range(count):
        boxes = boxes + rng.normal(0, [0.3, 0.3, 0, 0], boxes.shape)
        here = np.flatnonzero(rng.random(people) < 0.8)
        window = [frames[min(max(t + offset, 0), count - 1)] for offset in range(-2, 3)]
        found.append(KeyframePeople(window, boxes[here], here.tolist()))
    return found


def run(
    estimator: Estimator, work: list[KeyframePeople], together: int, hold: float
) -> list[tuple[np.ndarray, np.ndarray]]:
    stream = estimator.start(hold)
    return [
        poses for start in range(0, len(work), together) for poses in stream.estimate(work[start : start + together], 8)
    ]


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000), people=st.integers(0, 5), together=st.integers(1, 5), hold=st.sampled_from([0, 0.05]))
def test_keyframes_in_one_batch_give_what_they_give_one_by_one(manifest, seed, people, together, hold) -> None:
    work = keyframes(12, people, seed)
    for make in (streaming, whole):
        one_by_one, batched = run(make(manifest), work, 1, hold), run(make(manifest), work, together, hold)
        assert len(one_by_one) == len(batched) == 12
        for (points, boxes), (other_points, other_boxes), frame in zip(one_by_one, batched, work, strict=True):
            assert points.shape == (len(frame.crop_boxes), J, 3)
            np.testing.assert_array_equal(other_boxes, boxes)
            np.testing.assert_allclose(other_points, points, rtol=1e-5)


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 1000), together=st.integers(1, 5), hold=st.sampled_from([0.0, 0.05]))
def test_every_window_is_made_of_its_own_crops(manifest, seed, together, hold) -> None:
    work = keyframes(10, 3, seed)
    session = Fake("model")
    for frame, (points, boxes) in zip(work, run(streaming(manifest), work, together, hold), strict=True):
        for point, box in zip(points, boxes, strict=True):
            clip = np.stack([crop_frame(each.image, box, (H, W)) for each in frame.window])
            np.testing.assert_allclose(point, session.run({"clip": clip[None]})["keypoints"][0], rtol=1e-5)


def test_everybody_s_new_frames_are_one_batch(manifest) -> None:
    estimator, work = streaming(manifest), keyframes(6, 4)
    stream = estimator.start(0.5)
    for frame in work[:3]:
        stream.estimate([frame], 8)
    before = len(estimator.encoder.batches), len(estimator.temporal.batches)
    stream.estimate(work[3:5], 8)
    assert len(estimator.encoder.batches) == before[0] + 1
    assert len(estimator.temporal.batches) == before[1] + 1
    assert estimator.temporal.batches[-1] == sum(len(frame.crop_boxes) for frame in work[3:5])


def test_two_hundred_people_are_split(manifest) -> None:
    estimator, work = streaming(manifest), keyframes(3, 200)
    stream = estimator.start(0.05)
    found = stream.estimate(work, 8)
    assert [len(points) for points, _ in found] == [len(frame.crop_boxes) for frame in work]
    assert max(estimator.temporal.batches) == 8
    assert max(estimator.encoder.batches) <= 8
