"""Videos whose rate of frames changes: people are tracked, resumed and smoothed as at a constant rate."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

import sdtc.runtime
from sdtc.runtime.options import EngineOptions, TrackOptions
from sdtc.runtime.output.results import FrameResult
from sdtc.runtime.output.resume import read_progress
from sdtc.runtime.output.smoothing import smooth
from sdtc.runtime.output.writers import JsonlWriter
from sdtc.runtime.people.detection import Detections
from sdtc.runtime.sources.open import open_source

SIZE = 160, 320  # (H, W)
SECONDS = 5
CONSTANT = np.arange(25 * SECONDS) / 25
# For a second each: 10 frames, 50 frames, 25 frames, …; every fifth of a second has a frame in both videos.
CHANGING = np.concatenate([second + np.arange(rate) / rate for second, rate in enumerate([10, 50, 25, 50, 10])])
LEVELS = 200, 100  # grey values of the two people


def places(time: float) -> list[tuple[float, float, int, int]]:
    """Boxes of two people: one walks to the right, stops and turns; one walks past behind, and comes from the right."""
    right = 20 + 60 * min(time, 2.5) - 60 * max(time - 3, 0)
    return [(right, 20, 30, 80), (270 - 45 * time, 60, 30, 80)]


def write(path: Path, times: np.ndarray) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time in times:
            image = np.full((*SIZE, 3), 20, np.uint8)
            for (x, y, w, h), level in zip(places(time)[::-1], LEVELS[::-1], strict=True):
                image[y : y + h, round(x) : round(x) + w] = level
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.time_base, frame.pts = Fraction(1, 1000), round(1000 * time)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


class ByBrightness:
    """A detector of people of one brightness each; of someone who is half hidden it finds the rest."""

    def __init__(self) -> None:
        self.asked = 0

    def detect(self, frame: np.ndarray) -> Detections:
        self.asked += 1
        boxes = []
        for level in LEVELS:
            y, x = np.nonzero(abs(frame[..., 1].astype(int) - level) < 25)
            if len(x) > 500:
                boxes.append([x.min(), y.min(), x.max() + 1 - x.min(), y.max() + 1 - y.min()])
        return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.full(len(boxes), 0.9, np.float32))


@pytest.fixture(scope="module")
def engine(tiny_bundle):
    with sdtc.runtime.open(tiny_bundle / "model.onnx", EngineOptions(backend="onnxruntime", threads=1)) as engine:
        yield engine


@pytest.fixture(scope="module", params=["mkv", "mp4"])
def videos(request, tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("videos")
    return tuple(
        write(folder / f"{name}.{request.param}", times)
        for name, times in (("constant", CONSTANT), ("changing", CHANGING))
    )


def boxes_by_time(results: list[FrameResult]) -> dict[int, dict[int, np.ndarray]]:
    """The boxes of every person, by time in milliseconds."""
    return {round(1000 * each.time): {pose.track_id: pose.bbox for pose in each.poses} for each in results}


@pytest.mark.slow
@pytest.mark.parametrize("every", [0, 0.2])
def test_people_are_the_same_at_a_rate_that_changes(engine, videos, every) -> None:
    found = []
    for video in videos:
        detector = ByBrightness()
        found.append(list(engine.track(video, TrackOptions(detector=detector, detect_every=every))))
        assert detector.asked == (5 * SECONDS if every else len(found[-1]))
    np.testing.assert_allclose([result.time for result in found[1]], CHANGING, atol=1.5e-3)
    assert len(found[0]) == len(CONSTANT)
    want, got = map(boxes_by_time, found)
    common = sorted(set(want) & set(got))
    assert len(common) >= 5 * SECONDS
    for time in common:
        assert want[time].keys() == got[time].keys()
        for person, box in got[time].items():
            np.testing.assert_allclose(box, want[time][person], atol=3)
    assert {person for boxes in (*want.values(), *got.values()) for person in boxes} == {0, 1}
    # Poses of an untrained network tell nothing; the corners of the boxes move as the people do.
    smoothed = []
    for results in found:
        corners = [
            dataclasses.replace(
                result,
                poses=[
                    dataclasses.replace(
                        pose, keypoints=np.float32([[*pose.bbox[:2], 0.8], [*(pose.bbox[:2] + pose.bbox[2:]), 0.8]])
                    )
                    for pose in result.poses
                ],
            )
            for result in results
        ]
        smoothed.append({round(1000 * each.time): each for each in smooth(corners)})
    apart = []
    for time in common:
        for a, b in zip(smoothed[0][time].poses, smoothed[1][time].poses, strict=True):
            assert a.track_id == b.track_id
            apart.append(np.abs(a.keypoints[:, 0] - b.keypoints[:, 0]).max())
    assert max(apart) < (3 if every else 0.5)  # of 12 pixels from one detection to the next; measured: 2.7 and 0.2
    assert np.mean(apart) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("videos", ["mkv"], indirect=True)
@pytest.mark.parametrize("every", [0, 0.2])
def test_a_resumed_run_knows_the_people_of_a_rate_that_changes(engine, videos, tmp_path, every) -> None:
    _, video = videos
    want = list(engine.track(video, TrackOptions(detector=ByBrightness(), detect_every=every, lookahead=0)))
    for done in (13, 72, 100):
        with JsonlWriter(tmp_path / "p.jsonl") as writer:
            for result in want[:done]:
                writer.write(result)
        with open_source(video) as source:
            progress = read_progress(tmp_path / "p.jsonl", source, 15)
            options = TrackOptions(detector=ByBrightness(), detect_every=every, lookahead=0, resume_from=progress)
            got = list(engine.track(source, options))
        assert [result.index for result in got] == list(range(done, len(CHANGING)))
        for a, b in zip(boxes_by_time(got).values(), boxes_by_time(want[done:]).values(), strict=True):
            assert a.keys() == b.keys()
            for person, box in a.items():
                np.testing.assert_allclose(box, b[person], atol=3 if every else 0.01)
