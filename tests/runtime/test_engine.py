"""The engine over whole inputs: the same poses as doing it by hand, in PyTorch, frame by frame."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import sdtc.runtime
from sdtc.core.crops import crop_frame, crop_to_image, expand_boxes
from sdtc.core.errors import InputError, VideoError
from sdtc.export.graphs import WholeWindow
from sdtc.model import load_checkpoint
from sdtc.model.decoding import decode_heatmaps
from sdtc.runtime.options import EngineOptions, TrackOptions
from sdtc.runtime.people.detection import Detections
from sdtc.runtime.sources.open import open_source

SIZE = (128, 96)


@pytest.fixture(scope="module")
def engine(tiny_bundle):
    with sdtc.runtime.open(tiny_bundle / "model.onnx", EngineOptions(backend="onnxruntime", exact=True)) as engine:
        yield engine


@pytest.fixture(scope="module")
def streaming(tiny_bundle):
    with sdtc.runtime.open(tiny_bundle / "model.onnx", EngineOptions(backend="onnxruntime")) as engine:
        yield engine


@pytest.fixture
def folder(tmp_path, rng) -> Path:
    """Nine frames of 120x160 smooth noise, the fifth missing, and boxes for them."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in [0, 1, 2, 3, 5, 6, 7, 8]:
        small = rng.integers(0, 256, (15, 20, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f"{number:06d}.png"), cv2.resize(small, (160, 120), interpolation=cv2.INTER_CUBIC))
    return folder


def boxes_file(tmp_path: Path, numbers=(0, 3, 8), per_frame: int = 3) -> Path:
    rng = np.random.default_rng(1)
    entries = [
        {"image_id": n, "bbox": [*rng.uniform(0, 80, 2), *rng.uniform(20, 60, 2)], "score": 0.9}
        for n in numbers
        for _ in range(per_frame)
    ]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(entries))
    return path


def pose_by_hand(network: WholeWindow, window: list[np.ndarray], box) -> np.ndarray:
    """Keypoints ``[15, 3]`` of one person in the middle of a window: x, y in image pixels, score."""
    crop_box = expand_boxes(np.array(box, np.float32), SIZE)
    clip = np.stack([crop_frame(image, crop_box, SIZE) for image in window])
    with torch.inference_mode():
        keypoints = network(torch.from_numpy(clip[None]))[0][0].numpy()
    return np.concatenate([crop_to_image(keypoints[:, :2], crop_box, SIZE), keypoints[:, 2:]], axis=1)


def read(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def test_poses_equal_pytorch_by_hand(engine, folder, tmp_path, tiny_checkpoint) -> None:
    path = boxes_file(tmp_path)
    entries = json.loads(path.read_text())
    network = WholeWindow(load_checkpoint(tiny_checkpoint).network)
    images = [read(path) for path in sorted(folder.iterdir())]
    images.insert(4, None)
    windows_by_hand = {0: [0, 0, 0, 1, 2], 3: [1, 2, 3, 3, 5], 8: [6, 7, 8, 8, 8]}  # frame 4 is missing: keyframe 3
    results = list(engine.track(folder, TrackOptions(boxes=path)))
    assert [len(result.poses) for result in results] == [3, 0, 0, 3, 0, 0, 0, 0, 3]
    assert results[4].image is None
    for number, window in windows_by_hand.items():
        mine = [entry["bbox"] for entry in entries if entry["image_id"] == number]
        for pose, box in zip(results[number].poses, mine, strict=True):
            want = pose_by_hand(network, [images[i] for i in window], box)
            np.testing.assert_allclose(pose.keypoints[:, :2], want[:, :2], atol=0.02)
            np.testing.assert_allclose(pose.keypoints[:, 2], want[:, 2], atol=1e-4)
            np.testing.assert_allclose(pose.bbox, box, rtol=1e-5)


class Wandering:
    """A detector that finds one person who stands, and one who walks a fifth of a box a frame."""

    def __init__(self) -> None:
        self.frame = -1

    def detect(self, frame: np.ndarray) -> Detections:
        self.frame += 1
        boxes = [[20, 20, 40, 60], [10 + 8 * self.frame, 30, 40, 60]]
        return Detections(np.array(boxes, np.float32), np.full(2, 0.9, np.float32))


def test_people_who_stand_are_seen_in_whole_windows_and_each_is_encoded_once_a_frame(engine, streaming, folder) -> None:
    """Missing frames and both ends: the same to a hundredth of a pixel."""
    assert streaming.streaming
    assert not engine.streaming
    before = streaming.encoded, streaming.estimated
    want, got = (list(e.track(folder, TrackOptions(detector=Wandering()))) for e in (engine, streaming))
    assert len(want) == len(got) == 9
    for a, b in zip(want, got, strict=True):
        assert [pose.track_id for pose in b.poses] == [pose.track_id for pose in a.poses] == [0, 1][: len(a.poses)]
        for expected, pose in zip(a.poses[:1], b.poses[:1], strict=True):
            np.testing.assert_allclose(pose.keypoints[:, :2], expected.keypoints[:, :2], atol=0.01)
            np.testing.assert_allclose(pose.keypoints[:, 2], expected.keypoints[:, 2], atol=1e-4)
    assert streaming.encoded - before[0] == streaming.estimated - before[1] == 2 * 8  # also the one who walks


def test_people_who_walk_are_seen_in_windows_of_their_own_crops(streaming, folder, tiny_checkpoint) -> None:
    """By hand in PyTorch: tokens of every frame in its own box, sampled by `grid_sample` where the keyframe's are."""
    network = load_checkpoint(tiny_checkpoint).network.eval()
    images = {result.index: result.image for result in streaming.track(folder, TrackOptions(detector=Wandering()))}
    boxes = {
        n: expand_boxes(np.array([10.0 + 8 * k, 30, 40, 60]), SIZE) for k, n in enumerate([0, 1, 2, 3, 5, 6, 7, 8])
    }
    (h, w), (H, W) = network.config.grid, SIZE
    # The first token is centred at pixel 5.5: patches of 16 pixels, from 2 pixels outside of the crop on.
    x, y = np.meshgrid(5.5 + 16 * np.arange(w), 5.5 + 16 * np.arange(h))
    for result in streaming.track(folder, TrackOptions(detector=Wandering())):
        if result.index == 4:
            continue
        key, window = boxes[result.index], []
        for offset in range(-2, 3):
            n = min(max(result.index + offset, 0), 8)
            box = boxes[n := result.index if n == 4 else n]
            with torch.inference_mode():
                tokens = network.encode(torch.from_numpy(crop_frame(images[n], box, SIZE)[None]))  # [1, L, C]
            at_x = (key[0] + x / (W - 1) * key[2] - box[0]) / box[2] * (W - 1)  # in pixels of that crop
            at_y = (key[1] + y / (H - 1) * key[3] - box[1]) / box[3] * (H - 1)
            at = np.stack([(at_x - 5.5) / 16 / (w - 1), (at_y - 5.5) / 16 / (h - 1)], axis=-1) * 2 - 1
            maps = tokens.transpose(1, 2).reshape(1, -1, h, w)
            sampled = torch.nn.functional.grid_sample(
                maps, torch.from_numpy(at[None].astype(np.float32)), padding_mode="border", align_corners=True
            )
            window.append(sampled.flatten(2).transpose(1, 2))
        with torch.inference_mode():
            keypoints = decode_heatmaps(network.temporal(torch.stack(window, dim=1)), SIZE)[0].numpy()
        np.testing.assert_allclose(
            result.poses[1].keypoints[:, :2], crop_to_image(keypoints[:, :2], key, SIZE), atol=0.02
        )
        np.testing.assert_allclose(result.poses[1].keypoints[:, 2], keypoints[:, 2], atol=1e-4)


def test_a_detector_that_misses_somebody_costs_one_crop(streaming, folder) -> None:
    class Blinking(Wandering):
        def detect(self, frame: np.ndarray) -> Detections:
            found = super().detect(frame)
            return Detections(found.boxes[1:], found.scores[1:]) if self.frame == 3 else found

    before = streaming.encoded, streaming.estimated
    results = list(streaming.track(folder, TrackOptions(detector=Blinking())))
    assert [len(result.poses) for result in results] == [2, 2, 2, 1, 0, 2, 2, 2, 2]
    assert (streaming.encoded - before[0], streaming.estimated - before[1]) == (16, 15)


def test_what_one_source_left_is_not_found_in_the_next(streaming, folder, tmp_path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for path in folder.iterdir():
        cv2.imwrite(str(other / path.name), 255 - cv2.imread(str(path)))
    alone = list(streaming.track(other, TrackOptions(detector=Wandering())))
    both = zip(
        streaming.track(folder, TrackOptions(detector=Wandering())),
        streaming.track(other, TrackOptions(detector=Wandering())),
        strict=True,
    )
    for want, (_, got) in zip(alone, both, strict=True):
        for a, b in zip(want.poses, got.poses, strict=True):
            np.testing.assert_array_equal(a.keypoints, b.keypoints)


@pytest.mark.slow
@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_lookahead_clamps_what_is_not_there_yet(engine, folder, lookahead) -> None:
    clamped, waited = (
        list(engine.track(folder, TrackOptions(detector=Wandering(), lookahead=n))) for n in (lookahead, 2)
    )
    assert [result.index for result in clamped] == list(range(9))
    same = [
        np.allclose(a.poses[0].keypoints, b.poses[0].keypoints, atol=1e-5)
        for a, b in zip(clamped, waited, strict=True)
        if a.poses
    ]
    assert same[-1]  # the last frame never has anything after it
    assert all(same) is (lookahead == 2)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2, 100])
@pytest.mark.parametrize("mode", ["engine", "streaming"])
def test_batches_of_any_size_give_the_same_poses(request, mode, folder, tmp_path, batch_size) -> None:
    engine = request.getfixturevalue(mode)
    path = boxes_file(tmp_path, numbers=(2,), per_frame=11)  # more than the bundle takes at once
    want = list(engine.track(folder, TrackOptions(boxes=path)))[2].poses
    got = list(engine.track(folder, TrackOptions(boxes=path, batch_size=batch_size)))[2].poses
    assert len(want) == len(got) == 11
    for a, b in zip(want, got, strict=True):
        np.testing.assert_allclose(a.keypoints, b.keypoints, atol=1e-3)


@pytest.mark.parametrize("exact", [True, False])
def test_a_smallest_batch_above_one_is_filled_up(tiny_bundle, folder, tmp_path, engine, exact) -> None:
    import dataclasses

    path = boxes_file(tmp_path, numbers=(2,), per_frame=2)
    want = list(engine.track(folder, TrackOptions(boxes=path)))[2].poses
    with sdtc.runtime.open(tiny_bundle / "model.onnx", EngineOptions(backend="onnxruntime", exact=exact)) as other:
        other._estimator.manifest = dataclasses.replace(other.manifest, batch=(4, 4, 8))
        got = list(other.track(folder, TrackOptions(boxes=path)))[2].poses
    assert len(got) == 2
    np.testing.assert_allclose(got[1].keypoints, want[1].keypoints, atol=1e-3)


class Everywhere:
    """A detector that always finds one person and counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def detect(self, frame: np.ndarray) -> Detections:
        self.calls += 1
        height, width = frame.shape[:2]
        return Detections(np.array([[0, 0, width, height]], np.float32), np.array([0.8], np.float32))


def test_any_object_with_detect_is_a_detector(engine, folder) -> None:
    detector = Everywhere()
    results = list(engine.track(folder, TrackOptions(detector=detector)))
    assert detector.calls == 8  # not for the missing frame
    assert [len(result.poses) for result in results] == [1, 1, 1, 1, 0, 1, 1, 1, 1]
    assert {pose.track_id for result in results for pose in result.poses} == {0}
    assert results[0].poses[0].score == pytest.approx(results[0].poses[0].keypoints[:, 2].mean() * 0.8)


def test_max_frames_stops_early(engine, folder) -> None:
    assert [r.index for r in engine.track(folder, TrackOptions(detector=Everywhere(), max_frames=3))] == [0, 1, 2]


def test_frames_without_people_are_results_too(engine, folder, tmp_path) -> None:
    path = tmp_path / "none.json"
    path.write_text("[]")
    assert [len(r.poses) for r in engine.track(folder, TrackOptions(boxes=path))] == [0] * 9


def test_bad_arguments(engine, folder, tmp_path) -> None:
    with pytest.raises(InputError, match="`max_frames` is 0"):
        next(engine.track(folder, TrackOptions(max_frames=0)))
    with pytest.raises(InputError, match="`batch_size` is 0"):
        next(engine.track(folder, TrackOptions(batch_size=0)))
    with pytest.raises(InputError, match="`lookahead` is 3: expected 0 to 2"):
        next(engine.track(folder, TrackOptions(lookahead=3)))
    with pytest.raises(VideoError, match="does not exist"):
        next(engine.track(tmp_path / "nothing.mp4"))
    with pytest.raises(InputError, match="do not exist, the first 50"):
        next(engine.track(folder, TrackOptions(boxes=boxes_file(tmp_path, numbers=(0, 50)))))


def test_a_broken_image_is_raised_after_the_last_frame(engine, folder) -> None:
    (folder / "000002.png").write_bytes(b"broken")
    seen = []
    with pytest.raises(VideoError, match=r"000002\.png"):
        for result in engine.track(folder, TrackOptions(detector=Everywhere())):
            seen.append(result.index)
    assert seen == list(range(9))


def test_an_open_source_keeps_its_problems(engine, folder) -> None:
    (folder / "000002.png").write_bytes(b"broken")
    with open_source(folder) as source:
        assert len(list(engine.track(source, TrackOptions(detector=Everywhere())))) == 9
        assert len(source.problems) == 1


def test_no_stage_outlives_an_error(streaming, folder, tmp_path) -> None:
    """A source that is closed while a thread still decodes it takes the process down."""
    import threading

    path = tmp_path / "outside.json"
    path.write_text(json.dumps([{"image_id": 0, "bbox": [1000, 1, 50, 50], "score": 1}]))
    with pytest.raises(InputError, match="outside") as caught:
        list(streaming.track(folder, TrackOptions(boxes=path)))
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("sdtc-")] == []
    assert caught.value.__traceback__ is not None  # it is still held, and with it every frame on the way


def test_stage_times_are_kept(engine, streaming, folder) -> None:
    """Once for what is done once: nine frames and their end, and eight of them, in which people are."""
    for each, stages in ((engine, ("pose",)), (streaming, ("encode", "gather", "temporal"))):
        before = {name: durations.count for name, durations in each.times.durations.items()}
        list(each.track(folder, TrackOptions(detector=Everywhere(), batch_size=1)))
        times = {name: durations.count - before.get(name, 0) for name, durations in each.times.durations.items()}
        if each is streaming:  # keyframes that wait are encoded together
            assert 1 <= times["crop"] == times["encode"] <= 8
            times |= {"crop": 8, "encode": 8}
        assert times == {"decode": 10, "detect": 8, "crop": 8, **dict.fromkeys(stages, 8)}
        assert set(each.times.seconds) == set(times)
        assert all(seconds > 0 for seconds in each.times.seconds.values())


def test_posetrack_frames_with_detector_boxes(engine, real_data, tiny_checkpoint) -> None:
    """The labelled frames, whose neighbours are missing: every window is the keyframe five times."""
    sequence = real_data / "posetrack18" / "images" / "val" / "009473_mpii_test"
    boxes = real_data / "posetrack18" / "annotations" / "test_posetrack18_human_detections.json"
    results = list(engine.track(sequence, TrackOptions(boxes=boxes)))
    assert len(results) == 1
    assert len(results[0].poses) > 10
    network = WholeWindow(load_checkpoint(tiny_checkpoint).network)
    (path,) = sequence.iterdir()
    for pose in results[0].poses[::4]:
        want = pose_by_hand(network, [read(path)] * 5, pose.bbox)
        np.testing.assert_allclose(pose.keypoints[:, :2], want[:, :2], atol=0.1)
        np.testing.assert_allclose(pose.keypoints[:, 2], want[:, 2], atol=1e-4)


class Walker:
    """Someone who walks steadily, found on every frame that is searched."""

    def __init__(self, step: int) -> None:
        self.step, self.asked = step, 0

    def detect(self, frame: np.ndarray) -> Detections:
        box = [10 + 4 * self.step * self.asked, 30, 40, 60]
        self.asked += 1
        return Detections(np.array([box], np.float32), np.array([0.9], np.float32))


def test_between_detections_people_go_on(engine, folder) -> None:
    (folder / "000004.png").write_bytes((folder / "000003.png").read_bytes())
    every, third = Walker(1), Walker(3)
    want = list(engine.track(folder, TrackOptions(detector=every)))
    got = list(engine.track(folder, TrackOptions(detector=third, detect_every=0.12)))
    assert (every.asked, third.asked) == (9, 3)
    assert [[pose.track_id for pose in result.poses] for result in got] == [[0]] * 9
    # From the second detection on it is known how fast they walk.
    for a, b in zip(want[4:], got[4:], strict=True):
        np.testing.assert_allclose(b.poses[0].bbox, a.poses[0].bbox, atol=0.5)
    with pytest.raises(InputError, match="`detect_every` is for detectors"):
        next(engine.track(folder, TrackOptions(boxes=folder, detect_every=0.2)))


class Crowd:
    """A detector that finds 200 people, who walk a little unless windows are resampled."""

    def __init__(self, speed: float = 0.0) -> None:
        self.frame, self.speed = -1, speed

    def detect(self, frame: np.ndarray) -> Detections:
        self.frame += 1
        x, y = np.divmod(np.arange(200), 10)
        boxes = np.stack([7.0 * x + self.frame * self.speed, 10.0 * y, np.full(200, 8.0), np.full(200, 16.0)], axis=1)
        return Detections(boxes.astype(np.float32), np.full(200, 0.9, np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False])
def test_two_hundred_people_are_split_into_batches(tiny_bundle, tiny_checkpoint, folder, monkeypatch, exact) -> None:
    from sdtc.runtime.backends.onnxruntime_session import OnnxRuntimeSession

    batches: dict[str, list[int]] = {}
    run = OnnxRuntimeSession.run

    def counting(self, inputs, outputs=None):
        for name, value in inputs.items():
            batches.setdefault(name, []).append(len(value))
        return run(self, inputs, outputs)

    monkeypatch.setattr(OnnxRuntimeSession, "run", counting)
    with sdtc.runtime.open(tiny_bundle / "model.onnx", EngineOptions(backend="onnxruntime", exact=exact)) as engine:
        largest = engine.manifest.batch[2]
        results = list(engine.track(folder, TrackOptions(detector=Crowd(0.1 if exact else 0), max_frames=4)))
    assert [len(result.poses) for result in results] == [200] * 4
    network = WholeWindow(load_checkpoint(tiny_checkpoint).network)
    images = [read(folder / f"{number:06d}.png") for number in (0, 0, 0, 1, 2)]
    boxes = Crowd().detect(images[0]).boxes
    for number in (0, largest - 1, largest, 100, 199):  # on both sides of where batches meet
        want = pose_by_hand(network, images, boxes[number])
        np.testing.assert_allclose(results[0].poses[number].keypoints, want, atol=0.02)
    assert len({pose.track_id for result in results for pose in result.poses}) == 200
    if exact:
        assert batches.keys() == {"clip"}
        assert max(batches["clip"]) == largest
    else:
        assert batches.keys() == {"frames", "tokens"}
        assert max(batches["tokens"]) == largest
        assert max(batches["frames"]) <= largest  # never more crops than windows
