"""Targets: the Python API with arguments of every shape and value."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from sdtc.core.crops import crop_frame, crop_to_image, expand_boxes, image_to_crop
from sdtc.core.heatmaps import decode_heatmaps
from sdtc.runtime.options import EngineOptions, RunOptions, TrackOptions
from sdtc.runtime.output.results import FrameResult, Pose
from sdtc.runtime.output.smoothing import OneEuro
from sdtc.runtime.people.detection.detector import Detections
from sdtc.runtime.people.tracking import Tracker
from tests.fuzz.corpus import picture
from tests.fuzz.documents import Frames
from tests.fuzz.oracle import Case, attempt, expect

ODD_FLOATS = (0.0, -1.0, 1e-9, 0.03, 0.5, 1.0, 1e9, 1e38, float("nan"), float("inf"), float("-inf"))
ODD_INTS = (0, -1, 1, 2, 3, 5, 1000, 2**31, 2**63, -(2**63))


def _layout(array: np.ndarray, case: Case) -> np.ndarray:
    """Return an equal array that lies otherwise in memory."""
    kind = case.rng.randrange(6)
    if kind == 0:
        return np.asfortranarray(array)
    if kind == 1:
        return array[::-1].copy()[::-1]
    if kind == 2 and array.ndim == 3:
        return np.dstack([array, array])[:, :, : array.shape[2]]
    if kind == 3 and array.ndim == 3:
        return np.ascontiguousarray(array[..., ::-1])[..., ::-1]
    if kind == 4:
        array = array.copy()
        array.setflags(write=False)
    return array


def _break_images(images: list[np.ndarray], case: Case) -> list[Any]:
    rng = case.rng
    at = rng.randrange(len(images))
    image = images[at]
    kind = rng.randrange(9)
    if kind == 0:
        images[at] = image.astype(rng.choice((np.float32, np.uint16, np.int64, bool, np.float64, np.int8)))
    elif kind == 1:
        images[at] = image[..., 0]
    elif kind == 2:
        images[at] = np.dstack([image, image[..., :1]])
    elif kind == 3:
        images[at] = image[:0] if case.chance(0.5) else image[:, :0]
    elif kind == 4:
        images = images[:-1]
    elif kind == 5:
        images = images + images[: rng.randrange(1, 3)]
    elif kind == 6:
        images = []
    elif kind == 7:
        images[at] = image[None]
    else:
        images[at] = image[..., :1]
    return images


def _break_boxes(boxes: np.ndarray, case: Case) -> Any:
    rng = case.rng
    kind = rng.randrange(7)
    if kind < 3 and boxes.size:
        boxes = boxes.astype(np.float64)
        boxes[rng.randrange(len(boxes)), rng.randrange(4)] = rng.choice(ODD_FLOATS)
    elif kind == 3:
        boxes = boxes[:, :3]
    elif kind == 4:
        boxes = boxes.reshape(-1)
    elif kind == 5:
        boxes = boxes[None]
    else:
        boxes = boxes.astype(rng.choice((object, str, complex, bool)))
    return boxes


def engine(case: Case) -> None:
    """`PoseEngine.estimate` and `track`: poses that depend on nothing but the arguments, or an error."""
    rng, engine = case.rng, case.corpus.engine()
    if case.chance(0.3):
        _track(case)
        return
    count = engine.manifest.num_frames
    size = rng.choice(((96, 128), (48, 64), (1, 1), (7, 300), (33, 65)))
    images: list[Any] = [
        picture(rng.randrange(20), (max(size[0], 8), max(size[1], 8)))[: size[0], : size[1]] for _ in range(count)
    ]
    if case.chance(0.3):
        images[rng.randrange(count)] = images[rng.randrange(count)]
    people = rng.randrange(12)
    boxes: Any = np.column_stack([case.arrays.uniform(-20, 100, (people, 2)), case.arrays.uniform(1, 120, (people, 2))])
    boxes = boxes.astype(rng.choice((np.float32, np.float64, np.int64)))
    x, y, w, h = boxes.T
    valid = bool(((x < size[1]) & (y < size[0]) & (x + w > 0) & (y + h > 0)).all())  # each overlaps the frame
    batch_size = rng.choice((None, None, 1, 2, 3, 8, 1000))
    if case.chance(0.5):
        valid = False
        kind = rng.randrange(3)
        if kind == 0:
            images = _break_images(images, case)
        elif kind == 1:
            boxes = _break_boxes(boxes, case)
        else:
            batch_size = rng.choice((0, -1, -8))
    copies = {id(image): np.array(image) for image in images}  # an image that is given twice is encoded once
    plain, plain_boxes = [copies[id(image)] for image in images], np.array(boxes)
    layouts = {id(image): _layout(image, case) if valid else image for image in images}
    given = [layouts[id(image)] for image in images]
    poses, error = attempt(lambda: engine.estimate(given, boxes, batch_size))
    if poses is None:
        expect(not valid, f"valid arguments are refused: {error}")
        return
    expect(poses.shape == (len(boxes), len(engine.skeleton.keypoints), 3), poses.shape)
    expect(poses.dtype == np.float32 and np.isfinite(poses).all(), f"{poses.dtype}, not finite")
    engine.estimate([picture(5, (96, 128))] * count, np.array([[0.0, 0, 50, 90]]))  # leaves other crops in every buffer
    again = engine.estimate(plain, plain_boxes, batch_size)
    expect(np.array_equal(poses, again), f"the same arguments give poses that differ by {_difference(poses, again)}")
    if valid:
        other = engine.estimate(plain, plain_boxes, rng.choice((1, 2, 8)))
        expect(_difference(poses, other) < 0.6, f"another batch size moves poses by {_difference(poses, other)} px")


def _difference(poses: np.ndarray, others: np.ndarray) -> float:
    return float(np.abs(poses - others).max(initial=0))


class OddDetector:
    """A detector of one's own, which answers in every way."""

    def __init__(self, case: Case) -> None:
        self.case, self.rng = case, case.rng
        self.sound = case.chance(0.3)

    def detect(self, frame: np.ndarray) -> Any:
        count = self.rng.randrange(4)
        boxes = np.column_stack(
            [self.case.arrays.uniform(-10, 100, (count, 2)), self.case.arrays.uniform(10, 60, (count, 2))]
        )
        scores = self.case.arrays.uniform(0, 1, count)
        if self.sound:
            return Detections(boxes.astype(np.float32), scores.astype(np.float32))
        kind = self.rng.randrange(7)
        if kind == 0 and count:
            boxes[0, self.rng.randrange(4)] = self.rng.choice(ODD_FLOATS)
        elif kind == 1:
            boxes = boxes[:, :3]
        elif kind == 2:
            scores = scores[:-1]
        elif kind == 3:
            return self.rng.choice((None, [], (boxes, scores), boxes))
        elif kind == 4:
            return Detections(boxes.tolist(), scores.tolist())  # type: ignore[arg-type]
        elif kind == 5 and count:
            scores[0] = self.rng.choice(ODD_FLOATS)
        return Detections(boxes, scores)


def _track(case: Case) -> None:
    """Run over frames with a detector of one's own."""
    rng, engine = case.rng, case.corpus.engine()
    frames, detector = rng.randrange(1, 6), OddDetector(case)
    options = TrackOptions(
        detector=detector,
        detect_every=rng.choice((0, 0, 0.05, 0.1, 1)),
        batch_size=rng.choice((None, 1, 3)),
        max_frames=rng.choice((None, None, 2)),
        lookahead=rng.choice((None, 0, 1)),
    )
    results, error = attempt(lambda: list(engine.track(Frames("clip", frames, case.chance(0.5)), options)))
    if results is None:
        expect(not detector.sound, f"a sound detector is refused: {error}")
        return
    expect(len(results) == min(frames, options.max_frames or frames), f"{len(results)} results of {frames} frames")
    for number, result in enumerate(results):
        expect(result.number == number, f"frame {result.number} instead of {number}")
        expect(len({pose.track_id for pose in result.poses}) == len(result.poses), "two people share an id")
        for pose in result.poses:
            expect(np.isfinite(pose.keypoints).all() and np.isfinite(pose.bbox).all(), "poses that are not finite")
            expect(np.isfinite(pose.bbox_score), f"a box with the score {pose.bbox_score}")


def functions(case: Case) -> None:
    """Options, tracker, smoothing, crops and heatmaps."""
    case.rng.choice((_options, _tracker, _smoothing, _crops, _heatmaps))(case)


def _options(case: Case) -> None:
    rng = case.rng
    for make, integers, floats in (
        (TrackOptions, ("batch_size", "max_frames", "lookahead"), ("detect_every",)),
        (EngineOptions, ("threads",), ()),
        (RunOptions, ("person_class",), ("min_score",)),
    ):
        values: dict[str, Any] = {name: rng.choice(ODD_INTS) for name in integers if case.chance(0.5)}
        values |= {name: rng.choice(ODD_FLOATS) for name in floats if case.chance(0.5)}
        made, _ = attempt(partial(make, **values))
        for name, value in values.items():
            if made is not None:
                expect(value == value, f"{make.__name__}({name}={value}) is accepted")
                expect(name in ("person_class", *floats) or value >= 0, f"{make.__name__}({name}={value}) is accepted")


def _tracker(case: Case) -> None:
    rng = case.rng
    tracker = Tracker(first_id=rng.choice((0, 7, 2**40)))
    time, seen, clean = 0.0, set(), True
    with np.errstate(all="ignore"):
        for _ in range(rng.randrange(1, 8)):
            time += rng.choice((0.04, 0.04, 0.033, 0.1, 1.6, 0.0, 1e-9, 1e9))
            count = rng.randrange(5)
            boxes = np.column_stack([case.arrays.uniform(0, 100, (count, 2)), case.arrays.uniform(0, 50, (count, 2))])
            if count and case.chance(0.2):
                boxes[rng.randrange(count), rng.randrange(4)] = rng.choice(ODD_FLOATS)
                clean = False
            scores = case.arrays.uniform(0, 1, count)
            ids, _ = attempt(partial(tracker.update, boxes, scores, time))
            if ids is not None:
                expect(len(ids) == count == len(set(ids.tolist())), f"ids {ids} for {count} boxes")
                seen.update(ids.tolist())
                predicted, _ = attempt(partial(tracker.predict, time + 0.04, (100, 100)))
                if predicted is not None and clean:
                    expect(np.isfinite(predicted[0]).all() and set(predicted[2].tolist()) <= seen, predicted)


def _smoothing(case: Case) -> None:
    rng = case.rng
    made, _ = attempt(lambda: OneEuro(rng.choice((2.0, *ODD_FLOATS)), rng.choice((8.0, *ODD_FLOATS))))
    if made is None:
        return
    time = 0.0
    for frame in range(rng.randrange(1, 6)):
        time += rng.choice((0.04, 0.04, 0.2, 4.0, 0.0, 1e-9))
        scale = rng.choice((1.0, 100.0, 1e6))
        keypoints = case.arrays.uniform(-scale, scale, (15, 3)).astype(np.float32)
        keypoints[:, 2] = case.arrays.uniform(0, 1, 15)
        box = np.float32([0, 0, rng.choice((0, 1e-3, 50, 1e6)), 60])
        with np.errstate(all="ignore"):
            result = made(FrameResult(frame, frame, None, frame, None, [Pose(0, keypoints, box, 1.0)], time=time))
        points = result.poses[0].keypoints
        expect(points.dtype == np.float32 and np.isfinite(points).all(), "a smoothed pose that is not finite")
        expect(np.array_equal(points[:, 2], keypoints[:, 2]), "smoothing changes scores")
        expect(np.abs(points[:, :2]).max() <= 1.01e6, f"a point is smoothed to {np.abs(points[:, :2]).max()}")


def _crops(case: Case) -> None:
    rng = case.rng
    size = rng.choice(((64, 48), (256, 192), (8, 8)))
    box = [rng.uniform(-200, 200), rng.uniform(-200, 200), 10 ** rng.uniform(-3, 6), 10 ** rng.uniform(-3, 6)]
    crop_box = expand_boxes(np.array(box, rng.choice((np.float32, np.float64))), size)
    points = case.arrays.uniform(0, 100, (5, 2))
    back = crop_to_image(image_to_crop(points, crop_box, size), crop_box, size)
    expect(np.allclose(back, points, atol=1e-3), f"mapped there and back, points move by {np.abs(back - points).max()}")
    frame = picture(1, (40, 60))
    crop = crop_frame(_layout(frame, case), crop_box, size)
    out = np.full((*size, 3), 7, np.uint8)
    again = crop_frame(np.array(frame), crop_box, size, out)
    expect(crop.shape == (*size, 3) and crop.dtype == np.uint8, crop.shape)
    expect(np.array_equal(crop, again) and np.array_equal(out, again), "a crop depends on memory")


def _heatmaps(case: Case) -> None:
    rng = case.rng
    height, width = rng.choice(((16, 12), (2, 2), (64, 48), (3, 2)))
    heatmaps = case.arrays.normal(0, rng.choice((1e-20, 1.0, 1e30)), (rng.randrange(3), 15, height, width)).astype(
        np.float32
    )
    if case.chance(0.2):
        heatmaps[...] = rng.choice((0.0, 1.0, -1.0, 5.0))
    if case.chance(0.2) and heatmaps.size:
        heatmaps.flat[rng.randrange(heatmaps.size)] = rng.choice((float("inf"), float("-inf")))
    with np.errstate(all="ignore"):
        keypoints = decode_heatmaps(heatmaps, (64, 48))
    expect(keypoints.shape == (*heatmaps.shape[:2], 3) and np.isfinite(keypoints).all(), "joints that are not finite")
    x, y, score = keypoints[..., 0], keypoints[..., 1], keypoints[..., 2]
    inside = (x >= 0) & (x <= 47) & (y >= 0) & (y <= 63) & (score >= 0) & (score <= 1)
    expect(inside.all(), "joints outside the crop, or scores outside 0 to 1")
