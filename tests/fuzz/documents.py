"""Targets: what people write or programs leave as text: boxes, annotations, results to resume, configurations."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sdtc.core.annotation_file import read_annotation_file
from sdtc.core.boxes import BoxFile
from sdtc.core.posetrack import POSETRACK_CATEGORY
from sdtc.runtime.output.results import FrameResult, Pose
from sdtc.runtime.output.resume import read_progress
from sdtc.runtime.output.writers import JsonlWriter
from sdtc.runtime.people.finder import PeopleFinder
from sdtc.runtime.people.tracking import Tracker
from sdtc.runtime.sources.base import Frame, FrameSource
from tests.fuzz.mutate import json_bytes, mutate_bytes, mutate_json, odd_value
from tests.fuzz.oracle import Case, attempt, check_no_leftovers, expect, run_command, strict_json

SIZE = 120, 160  # (H, W) of frames


class Frames(FrameSource):
    """Grey frames from memory.

    Args:
        name: of the source.
        count: of the frames.
        listed: whether they have file names, like a folder of images.
        known: whether their number is known in advance.
    """

    def __init__(self, name: str, count: int, listed: bool, known: bool = True) -> None:
        self.path, self.name, self.fps, self.problems = Path(name), name, 25.0, []
        self._count = count
        self.num_frames = count if known or listed else None
        self.listing = [(number, f"{number:06d}.jpg") for number in range(count)] if listed else None

    def __iter__(self) -> Iterator[Frame]:
        image = np.full((*SIZE, 3), 127, np.uint8)
        for number in range(self._count):
            name = self.listing[number][1] if self.listing else None
            yield Frame(number, number, name, image, time=number / self.fps)


def make_boxes(case: Case, frames: int, annotated: bool, name: str = "clip") -> Any:
    """Return valid boxes of up to three people in some frames: a detection list, or annotations."""
    rng = case.rng
    first = 0 if not annotated else rng.choice((0, 100))
    tracked, scored = case.chance(0.5), case.chance(0.7)
    entries = []
    for frame in range(frames):
        for person in range(rng.randrange(4)):
            box = [rng.uniform(-20, 120), rng.uniform(-20, 90), rng.uniform(25, 80), rng.uniform(25, 90)]
            entry: dict[str, Any] = {"image_id": first + frame, "bbox": [round(value, 2) for value in box]}
            if case.chance(0.5) or annotated:
                entry["category_id"] = 1
            if scored:
                entry["score"] = round(rng.random(), 3)
            if tracked:
                entry["track_id"] = person
            if annotated and case.chance(0.5):
                entry["keypoints"] = [50, 50, 1] * 17
            entries.append(entry)
    if not annotated:
        return entries
    images = [{"id": first + frame, "file_name": f"images/val/{name}/{frame:06d}.jpg"} for frame in range(frames)]
    return {"images": images, "annotations": entries, "categories": [POSETRACK_CATEGORY]}


def valid_boxes(data: Any) -> dict[int, list[list[float]]] | None:
    """Return by image id the boxes that a run must use: a reader of its own, which knows no mercy.

    None if the file has an entry that can be read in more than one way: a value of another type than the usual.
    """
    annotated = isinstance(data, dict)
    found: dict[int, list[list[float]]] = defaultdict(list)
    entries = data.get("annotations") if annotated else data
    if not isinstance(entries, list):
        return None
    for entry in entries:
        if not isinstance(entry, dict) or type(entry.get("image_id")) is not int or entry["image_id"] < 0:
            return None
        box, score = entry.get("bbox"), entry.get("score", 1.0)
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
            return None
        if not _is_number(score) or abs(score) > 1e6 or max(map(abs, box)) > 1e6:
            return None
        if type(entry.get("category_id", 1)) is not int or type(entry.get("iscrowd", 0)) is not int:
            return None
        track = entry.get("track_id", 0)
        if type(track) is not int or not 0 <= track < 2**63 - 1:
            return None
        points = entry.get("keypoints", [0, 0, 1])
        if not isinstance(points, list) or len(points) % 3 or not all(_is_number(value) for value in points):
            return None
        labelled = any(label > 0 for label in points[2::3]) or not points or not annotated
        if entry.get("category_id", 1) == 1 and not entry.get("iscrowd") and labelled and min(box[2:]) >= 1e-3:
            x, y, w, h = np.array(box, np.float32)
            if score >= 0.2 and x < SIZE[1] and y < SIZE[0] and x + w > 0 and y + h > 0:
                found[entry["image_id"]].append(box)
    return found


def boxes(case: Case) -> None:
    """Boxes of a source: everybody who is validly there is found in the right frame, with an id of their own."""
    frames, annotated, listed = case.rng.randrange(1, 6), case.chance(0.5), case.chance(0.5)
    data = make_boxes(case, frames, annotated)
    intact = case.chance(0.1)
    if not intact:
        data = mutate_json(data, case.rng)
    content, as_is = json_bytes(data, case.rng, 0 if intact else 0.2)
    path = case.folder / "boxes.json"
    path.write_bytes(content)
    source = Frames("clip", frames, listed, case.chance(0.7))

    def find() -> list[Any]:
        finder = PeopleFinder(source, BoxFile(path), "hog", Tracker())
        found = [finder.find(frame) for frame in source]
        finder.check_end(frames)
        return found

    found, error = attempt(find)
    if found is None:
        wrong_ids = annotated and not listed  # image ids from 100 on are no frames of a video
        expect(not intact or wrong_ids or "outside" in error or not data, f"valid boxes are refused: {error}")
        return
    for people in found:
        expect(people.boxes.shape == (len(people.scores), 4), people.boxes.shape)
        expect(np.isfinite(people.boxes).all() and np.isfinite(people.scores).all(), "numbers that are not finite")
        expect(len(set(people.track_ids.tolist())) == len(people.boxes), f"two people share an id: {people.track_ids}")
        expect((people.boxes[:, 2:] > 0).all(), f"a box without area: {people.boxes}")
    wanted = valid_boxes(data) if as_is else None
    if wanted is None or (not intact and annotated):
        return
    for people in found:
        box_list = np.array(wanted.get(people.image_id, []), np.float32).reshape(-1, 4)
        expect(
            people.boxes.shape == box_list.shape and np.array_equal(people.boxes, box_list),
            f"image {people.image_id} has the boxes {box_list.tolist()}, found were {people.boxes.tolist()}",
        )


def _is_number(value: Any) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False


def make_annotations(case: Case, sequences: int) -> dict[str, Any]:
    """Return annotations of up to two people in three images of some sequences, as PoseTrack has them."""
    rng, images, people = case.rng, [], []
    for sequence in range(sequences):
        for number in range(3):
            identifier = 10000000000 + sequence * 10000 + number
            image = {"id": identifier, "file_name": f"images/val/00000{sequence}_x/{number:06d}.jpg", "nframes": 3}
            if case.chance(0.3):
                image |= {
                    "height": 48,
                    "width": 64,
                    "is_labeled": True,
                    "ignore_regions_x": [[1, 9, 9]],
                    "ignore_regions_y": [[1, 1, 9]],
                }
            images.append(image)
            for person in range(rng.randrange(3)):
                points = [
                    value
                    for _ in range(17)
                    for value in (rng.uniform(0, 63), rng.uniform(0, 47), rng.choice((0, 1, 1)))
                ]
                people.append(
                    {
                        "id": len(people), "image_id": identifier, "category_id": 1, "track_id": person,
                        "bbox": [5.0, 5, 30, 40.5], "bbox_head": [10, 6, 8, 8], "keypoints": points,
                    }
                )  # fmt: skip
                if case.chance(0.3):
                    people[-1] |= {"scores": [rng.random() for _ in range(17)], "difficulty": ["blur"]}
    return {"images": images, "annotations": people, "categories": [POSETRACK_CATEGORY]}


def annotations(case: Case) -> None:
    """Annotations and predictions, read by training and by `sdtc-eval`."""
    from sdtc.evaluation.cli import main
    from sdtc.training.annotations import read_annotations

    truth = make_annotations(case, case.rng.choice((1, 2)))
    poses: Any = json.loads(json.dumps(truth))
    for pose in poses["annotations"]:
        pose["scores"] = [case.rng.random() for _ in range(17)]
    if case.chance(0.4):
        poses = [{**pose, "score": case.rng.random()} for pose in poses["annotations"]]
    intact, which = case.chance(0.05), case.rng.randrange(3)
    if not intact and which != 1:
        truth = mutate_json(truth, case.rng)
    if not intact and which != 0:
        poses = mutate_json(poses, case.rng)
    folder = case.folder / "annotations" / "val"
    folder.mkdir(parents=True)
    content, as_is = json_bytes(truth, case.rng, 0 if intact else 0.1)
    (folder / "truth.json").write_bytes(content)
    (case.folder / "poses.json").write_bytes(json_bytes(poses, case.rng, 0 if intact else 0.1)[0])
    for image in range(6):
        path = case.folder / f"images/val/00000{image // 3}_x/{image % 3:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    attempt(lambda: read_annotation_file(case.folder / "poses.json", "predictions", or_list=True))
    people, error = attempt(lambda: read_annotations(case.folder, "val"))
    if people is not None and as_is:
        count = len(truth["annotations"])
        kept = len(people.people)
        expect(kept + sum(people.skipped.values()) == count, f"{kept} people and {people.skipped} of {count}")
        for person in people.people:
            expect(np.isfinite(person.keypoints).all() and np.isfinite(person.box).all(), "joints that are not finite")
            expect(np.isfinite(person.head_box).all() and min(person.box[2:]) > 0, "a box without area")
            expect(
                person.first <= person.number <= person.last,
                f"frame {person.number} of {person.first} to {person.last}",
            )
    if intact:
        expect(people is not None or not truth["annotations"] or "no usable" in error, error)

    output = case.folder / "score.json"
    done = run_command(
        main,
        [
            "--truth", str(folder / "truth.json"), "--predictions", str(case.folder / "poses.json"),
            "--output", str(output),
            *(["--ignore-extra"] if case.chance(0.5) else []),
        ],
    )  # fmt: skip
    expect(output.exists() == (done.code == 0), f"exit code {done.code}, and the output exists: {output.exists()}")
    if output.exists():
        strict_json(output.read_text(encoding="utf-8"))
    check_no_leftovers(case.folder)
    if intact and truth["annotations"] and poses:
        expect(done.code == 0, done.err)


def resume(case: Case) -> None:
    """Results of an earlier run: what is accepted are complete lines that `JsonlWriter` could have written."""
    rng, frames, listed = case.rng, case.rng.randrange(1, 8), case.chance(0.4)
    source = Frames("clip", frames, listed)
    path = case.folder / "clip.jsonl"
    results = []
    with JsonlWriter(path) as writer:
        for frame in source:
            poses = [
                Pose(
                    person,
                    case.arrays.uniform(0, 1, (15, 3)).astype(np.float32),
                    np.float32([1, 2, 30, 40]),
                    rng.random(),
                )
                for person in range(rng.randrange(3))
            ]
            results.append(
                FrameResult(frame.index, frame.number, frame.name, frame.number, None, poses, time=frame.time)
            )
            writer.write(results[-1])
    text = path.read_bytes()
    kind = rng.randrange(8)
    if kind < 3:
        lines = text.splitlines()
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(mutate_json(json.loads(lines[at]), rng)).encode()
        text = b"\n".join(lines) + rng.choice((b"\n", b""))
    elif kind < 5:
        text = text[: rng.randrange(len(text) + 1)]
    elif kind < 7:
        text = mutate_bytes(text, rng)
    path.write_bytes(text)
    progress, error = attempt(lambda: read_progress(path, source, 15))
    expect(path.read_bytes() == text, "the file was changed")
    if progress is None:
        expect(kind in (0, 1, 2, 5, 6), f"complete lines are refused: {error}")
        return
    complete = text[: progress.size]
    expect(complete.count(b"\n") == progress.frames and complete[-1:] in (b"", b"\n"), "half a line counts")
    expect(b"\n" not in text[progress.size :], "complete lines are not counted")
    expect(progress.torn == (len(text) > progress.size), "torn is wrong")
    used = -1
    for number, line in enumerate(complete.splitlines()):
        record = json.loads(line)
        expect(record["frame"] == number, f"line {number} is frame {record['frame']}")
        used = max([used, *(pose["track_id"] for pose in record["poses"])])
    expect(progress.next_id == used + 1, f"the next id is {progress.next_id}, ids to {used} are used")
    tracker = progress.make_tracker()
    end = progress.tail[-1].time if progress.tail else 0.0
    ids = tracker.update(np.float32([[1, 2, 30, 40], [100, 2, 30, 40]]), np.ones(2), end)
    expect(len(set(ids.tolist())) == 2, "two people share an id")


CONFIG = """
train: {root: data/train, split: train}
val: {root: data/val, split: val, annotations: null}
model: {preset: tiny, delta: 1}
augmentation: {rotation: 30.0}
optimizer: adamw
epochs: 3
milestones: [1, 2]
learning_rate: 1.0e-3
batch_size: 8
masked: false
precision: bf16
seed: 1
"""
_KEYS = (
    "epochs", "batch_size", "learning_rate", "masked", "milestones", "model.delta", "model.preset", "model", "train",
    "train.root", "val", "seed", "sigma", "workers", "optimizer", "augmentation.rotation", "model.backbone.width", "x",
    "", ".", "train.", "model.input_size", "device", "backbone", "model.name", "gamma", "weight_decay", "save_seconds",
)  # fmt: skip


def config(case: Case) -> None:
    """A training configuration: every number in it is finite, of its type, and the one that was given."""
    import yaml

    from sdtc.training.train_config import TrainConfig, load_config

    rng, changes = case.rng, []
    data = yaml.safe_load(CONFIG)
    kind = rng.randrange(4)
    if kind == 0:
        content = mutate_bytes(CONFIG.encode(), rng)
    elif kind == 1:
        content = CONFIG.encode()
        for _ in range(rng.randrange(1, 3)):
            value = odd_value(rng)
            text = rng.choice(
                (
                    str(value),
                    json.dumps(value),
                    "3e-3",
                    "1_000",
                    "0x10",
                    "1:30",
                    "yes",
                    "~",
                    "{a",
                    "!!python/object:os.x {}",
                    "&a [*a]",
                )
            )
            changes.append(f"{rng.choice(_KEYS)}{rng.choice(('=', '=', '=', '', ':'))}{text}")
    else:
        data = mutate_json(data, rng)
        content = json_bytes(data, rng, 0.1)[0] if kind == 2 else yaml.safe_dump(_without_surrogates(data)).encode()
    path = case.folder / "config.yaml"
    path.write_bytes(content)
    made, _ = attempt(lambda: load_config(str(path), changes))
    if made is None:
        return
    expect(isinstance(made, TrainConfig), type(made))
    for name, value in _numbers(made, ""):
        expect(math.isfinite(value), f"{name} is {value}")
    for name in ("epochs", "batch_size", "seed", "workers", "threads", "validate_every", "warmup_steps"):
        expect(type(getattr(made, name)) is int, f"{name} is {getattr(made, name)!r}")
    if kind == 2 and isinstance(data, dict):
        for name in ("epochs", "batch_size", "seed", "learning_rate", "precision", "optimizer"):
            if name in data:
                expect(
                    getattr(made, name) == data[name] or getattr(made, name) == float(data[name]),
                    f"{name} is {data[name]!r}, and was read as {getattr(made, name)!r}",
                )


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if hasattr(value, "__dataclass_fields__"):
        for field in value.__dataclass_fields__:
            yield from _numbers(getattr(value, field), f"{name}.{field}")
    elif isinstance(value, tuple):
        for item in value:
            yield from _numbers(item, name)
    elif isinstance(value, float):
        yield name, value


def _without_surrogates(value: Any) -> Any:
    """Return a value with text that YAML can be written with."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return [_without_surrogates(item) for item in value] if isinstance(value, list) else value
