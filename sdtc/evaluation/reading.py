"""Ground truth and predictions out of JSON files, into the arrays that `sdtc.evaluation.ap` takes.

Ground truth: PoseTrack18 and PoseTrack21 annotations, one file per sequence or all in one COCO-style file.
Predictions: the same layout with `scores` (what `sdtc-infer --format posetrack` writes and PoseTrack's server takes),
or COCO result lists with PoseTrack's 17 slots.

Joints are found by their names in the file's `categories`, as `poseval` does, else taken for PoseTrack's 17 slots. A
joint is absent only if its three numbers are all 0, whatever its visibility says otherwise (`poseval`'s rule too).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from sdtc.core.errors import InputError
from sdtc.core.files import read_json
from sdtc.core.skeleton import POSETRACK_SLOTS
from sdtc.evaluation.ap import JOINTS, GroundTruth, Predictions, head_size

MISSING_SCORE = -9999.0  # of joints whose file has no score for them: they rank last, as in `poseval`
# Where a data set keeps the annotations that one validates on: PoseTrack18 and `sdtc-synth`, then PoseTrack21.
ANNOTATION_FOLDERS = ("", "annotations/val", "posetrack_data/val", "annotations")


@dataclass(frozen=True)
class TruthImage:
    """One image of the ground truth.

    Attributes:
        id: as its file has it.
        file_name: e.g. ``images/val/012834_mpii_test/000000.jpg``.
        annotations: the file that it comes from.
        annotated: whether it has people; if not, it takes no part in AP.
    """

    id: int
    file_name: str
    annotations: Path
    annotated: bool


@dataclass(frozen=True)
class Truth:
    """Ground truth as it was read.

    Attributes:
        people: the arrays; frame i is ``images[i]``.
        images: in the order of the files.
        paths: the files.
    """

    people: GroundTruth
    images: tuple[TruthImage, ...]
    paths: tuple[Path, ...]

    def with_label_of_any(self, labels: Iterable[str]) -> Truth:
        """Return this truth with one more label, "A or B …", on everybody who carries any of some labels.

        Raises:
            InputError: nobody carries one of them.
        """
        wanted = tuple(labels)
        known = sorted(set().union(*self.people.labels))
        for label in wanted:
            if label not in known:
                raise InputError(f"nobody carries the difficulty '{label}': expected some of {', '.join(known) or '-'}")
        union = frozenset([" or ".join(wanted)])
        marked = tuple(mine | union if mine.intersection(wanted) else mine for mine in self.people.labels)
        return replace(self, people=replace(self.people, labels=marked))

    @cached_property
    def _by_id(self) -> dict[int, int]:
        ids = {image.id: frame for frame, image in enumerate(self.images)}
        # Files that all count their images from 0 say nothing by their ids; only names are left then.
        return ids if len(ids) == len(self.images) else {}

    @cached_property
    def _by_name(self) -> dict[str, int]:
        names = [_short(image.file_name) for image in self.images]
        times = Counter(names)
        return {name: frame for frame, name in enumerate(names) if times[name] == 1}

    def find(self, image_id: int, file_name: str | None = None) -> int | None:
        """Return the frame of the ground truth that an image of another file is, or None.

        It is the one with the same id, unless the file name (with its folder) is that of another frame: ids are often
        mere counters, while a name says which picture it is.
        """
        by_name = None if file_name is None else self._by_name.get(_short(file_name))
        return self._by_id.get(image_id) if by_name is None else by_name


@dataclass(frozen=True)
class PredictedPoses:
    """Predictions as they were read or made.

    Attributes:
        people: the arrays, in frames of the ground truth.
        notes: sentences about what was left out or assumed.
    """

    people: Predictions
    notes: tuple[str, ...] = ()


def find_json(paths: Sequence[str | Path], what: str) -> list[Path]:
    """Resolve files and folders to JSON files, in the order given and by name inside a folder.

    Of a folder, the JSON files directly inside it are meant, else those of the first of `ANNOTATION_FOLDERS` that has
    any.

    Raises:
        InputError: a path does not exist, or a folder has no JSON files.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"{what} '{path}' does not exist: expected a JSON file or a folder of them")
        if not path.is_dir():
            found.append(path)
            continue
        for folder in ANNOTATION_FOLDERS:
            files = sorted(file for file in (path / folder).glob("*.json") if not file.name.startswith("."))
            if files:
                found += files
                break
        else:
            raise InputError(
                f"{what} folder '{path}' has no JSON files, neither directly nor in {', '.join(ANNOTATION_FOLDERS[1:])}"
            )
    return found


def read_truth(paths: Sequence[str | Path]) -> Truth:
    """Read ground truth.

    A frame takes part if it has any annotation; where the image says ``"is_labeled": false``, only an annotation with
    a labelled joint counts (PoseTrack21 has boxes without poses in such frames). ``difficulty``, a list of labels of
    an annotation, or of its image where the annotation has none, becomes the person's labels.

    Args:
        paths: annotation files, folders of them, or a data set's root folder.

    Raises:
        InputError: a file is missing, damaged, or not such a file; the entry is named.
    """
    files: list[_TruthFile] = []
    for path in find_json(paths, "ground truth"):
        files.append(_TruthFile(path, sum(len(file.images) for file in files)))
    images = [image for file in files for image in file.images]
    times = Counter((image.id, image.file_name) for image in images)
    for (identifier, name), count in times.items():
        if count > 1:
            raise InputError(f"image '{name}' ({identifier}) is in {count} of the ground truth's files: give each once")
    keypoints = np.concatenate([file.keypoints for file in files])
    labels = [mine for file in files for mine in file.labels]
    people = GroundTruth(
        num_frames=len(images),
        frames=np.concatenate([file.frames for file in files]),
        keypoints=keypoints[..., :2],
        labelled=_present(keypoints),
        head_sizes=head_size(np.concatenate([file.head_boxes for file in files])),
        ignore_regions={frame: polygons for file in files for frame, polygons in file.regions.items()},
        labels=tuple(labels) if any(labels) else (),
    )
    return Truth(people, tuple(images), tuple(file.path for file in files))


class _TruthFile:
    """One annotation file; `first` is the frame of its first image.

    Attributes:
        images: all of them.
        frames: int64 ``[G]``.
        keypoints: ``[G, 15, 3]``.
        head_boxes: ``[G, 4]``.
        regions: polygons by frame.
        labels: ``[G]``.
    """

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        where = f"ground truth '{path}'"
        data = _read_annotations(path, "ground truth")
        entries = data["annotations"]
        ids, names = _images(data, where)
        frame_of = {identifier: first + number for number, identifier in enumerate(ids)}
        if len(frame_of) < len(ids):
            twice = Counter(ids).most_common(1)[0][0]
            raise InputError(f"{where} has two images with the id {twice}: the people of each cannot be told apart")
        keypoints = _keypoints(entries, _joint_slots(data, where), f"{where}, annotation")  # [N, 15, 3]
        labelled = np.any(_present(keypoints), axis=1)  # [N]
        image_labels = [_labels(image, f"{where}, image {number}") for number, image in enumerate(data["images"])]

        frames: list[int] = []
        head_boxes: list[list[float]] = []
        labels: list[frozenset[str]] = []
        for number, entry in enumerate(entries):
            at = f"{where}, annotation {number}"
            frame = frame_of.get(_integer(entry, "image_id", at))
            if frame is None:
                raise InputError(f"{at} has image_id {entry['image_id']}, which none of its images has")
            frames.append(frame)
            head_boxes.append(_head_box(entry, at) if labelled[number] else [0.0] * 4)
            labels.append(_labels(entry, at) if "difficulty" in entry else image_labels[frame - first])

        unlabelled = {first + number for number, image in enumerate(data["images"]) if image.get("is_labeled") is False}
        unlabelled -= {frame for frame, any_joint in zip(frames, labelled, strict=True) if any_joint}
        kept = [number for number, frame in enumerate(frames) if frame not in unlabelled]
        self.frames = np.array([frames[i] for i in kept], np.int64)
        self.keypoints = keypoints[kept]
        self.head_boxes = np.array([head_boxes[i] for i in kept], np.float64).reshape(-1, 4)
        self.labels = [labels[i] for i in kept]
        annotated = set(self.frames.tolist())
        self.images = [
            TruthImage(identifier, name, path, first + number in annotated)
            for number, (identifier, name) in enumerate(zip(ids, names, strict=True))
        ]
        regions = {first + i: _polygons(image, f"{where}, image {i}") for i, image in enumerate(data["images"])}
        self.regions = {frame: polygons for frame, polygons in regions.items() if polygons}


def read_predictions(paths: Sequence[str | Path], truth: Truth, ignore_extra: bool = False) -> PredictedPoses:
    """Read predictions and find their frames in the ground truth.

    A joint's score is the file's score for the joint (`scores`, or the keypoint's third number in a COCO list whose
    third numbers are not all 0, 1 or 2), else the pose's `score`, else `MISSING_SCORE`.

    Args:
        paths: files, or folders of them.
        truth: what they are about.
        ignore_extra: leave out poses in images that the ground truth does not have, instead of refusing them.

    Raises:
        InputError: a file is missing, damaged, or not such a file; an image is in two files; no image, or not every
            image with a pose in it, is in the ground truth.
    """
    files = [_PredictionFile(path, truth) for path in find_json(paths, "predictions")]
    seen: dict[int, Path] = {}
    for file in files:
        for frame in file.known:
            if seen.setdefault(frame, file.path) != file.path:
                raise InputError(
                    f"predictions for image '{truth.images[frame].file_name}' are in '{seen[frame]}' and in "
                    f"'{file.path}': give each image once"
                )
    extra = [name for file in files for name in file.extra]
    listed = [name for file in files for name in file.listed]
    if listed and not seen:
        raise InputError(
            f"no image of the predictions is in the ground truth: theirs begin with {listed[0]}, the ground truth's "
            f"with {truth.images[0].id} ('{truth.images[0].file_name}'); images are matched by id and by file name"
        )
    if extra and not ignore_extra:
        raise InputError(
            f"there are predictions for {_count(len(extra), 'image')} that the ground truth does not have, the first "
            f"{extra[0]}: give the ground truth of all of them, or leave them out with --ignore-extra"
        )
    notes = [f"{_count(len(extra), 'image')} with predictions left out, not in the ground truth"] if extra else []
    unscored = sum(file.unscored for file in files)
    if unscored:
        notes.append(f"{_count(unscored, 'pose')} without any score: their joints rank last, so AP means little")
    keypoints = np.concatenate([file.keypoints for file in files])
    people = Predictions(
        frames=np.concatenate([file.frames for file in files]),
        keypoints=keypoints[..., :2],
        predicted=_present(keypoints),
        scores=np.concatenate([file.scores for file in files]),
    )
    return PredictedPoses(people, tuple(notes))


class _PredictionFile:
    """One file of predictions.

    Attributes:
        frames: int64 ``[P]``, of the poses whose image the ground truth has.
        keypoints: ``[P, 15, 3]``.
        scores: ``[P, 15]``.
        known: frames that the file speaks of, with or without poses.
        listed: names of all its images.
        extra: names of images with poses that the ground truth does not have.
        unscored: poses without any score.
    """

    def __init__(self, path: Path, truth: Truth) -> None:
        self.path = path
        where = f"predictions '{path}'"
        if path.suffix == ".jsonl":
            raise InputError(f"{where} are JSON lines: run  sdtc-infer --format posetrack  instead")
        data = read_json(path, "predictions")
        if isinstance(data, list):
            entries, slots = data, _joint_slots({}, where)
            ids = [_integer(entry, "image_id", f"{where}, entry {i}") for i, entry in enumerate(entries)]
            frame_of = {identifier: truth.find(identifier) for identifier in ids}
            name_of = {identifier: f"id {identifier}" for identifier in frame_of}
            points = _keypoints(entries, slots, f"{where}, entry")
            # A file whose third numbers are all flags has no scores there.
            scores = points[..., 2] if not np.isin(points[..., 2], (0, 1, 2)).all() else None
        else:
            data = _check_annotations(data, path, "predictions")
            entries, slots = data["annotations"], _joint_slots(data, where)
            image_ids, names = _images(data, where)
            frame_of = {i: truth.find(i, name) for i, name in zip(image_ids, names, strict=True)}
            name_of = {i: f"'{name}' (id {i})" for i, name in zip(image_ids, names, strict=True)}
            if len(frame_of) < len(image_ids):
                raise InputError(f"{where} list image id {Counter(image_ids).most_common(1)[0][0]} twice")
            ids = [_integer(entry, "image_id", f"{where}, annotation {i}") for i, entry in enumerate(entries)]
            for number, identifier in enumerate(ids):
                if identifier not in frame_of:
                    raise InputError(
                        f"{where}, annotation {number} has image_id {identifier}, which none of its images has"
                    )
            points = _keypoints(entries, slots, f"{where}, annotation")
            scores = None
        frames = [frame_of[identifier] for identifier in ids]
        found = [frame for frame in frame_of.values() if frame is not None]
        if len(set(found)) < len(found):
            twice = truth.images[Counter(found).most_common(1)[0][0]].file_name
            raise InputError(f"{where}: two of its images are image '{twice}' of the ground truth, by id or by name")
        kept = [number for number, frame in enumerate(frames) if frame is not None]
        self.frames = np.array([frames[i] for i in kept], np.int64)
        self.keypoints = points[kept]
        self.known = set(found)
        self.listed = list(name_of.values())
        self.extra = [name_of[i] for i in dict.fromkeys(ids) if frame_of[i] is None]
        if scores is None:
            scores = _scores(entries, slots, f"{where}, {'entry' if isinstance(data, list) else 'annotation'}")
        self.scores = scores[kept]
        self.unscored = int((self.scores == MISSING_SCORE).all(axis=1).sum())


def _read_annotations(path: Path, what: str) -> dict[str, Any]:
    return _check_annotations(read_json(path, what), path, what)


def _check_annotations(data: Any, path: Path, what: str) -> dict[str, Any]:
    """Check that a file has images and annotations, each a list of objects."""
    if isinstance(data, dict) and "annolist" in data:
        raise InputError(
            f"{what} '{path}' is in the old PoseTrack17 format ('annolist'): convert it with convert.py of poseval"
        )
    for key in ("images", "annotations"):
        values = data.get(key) if isinstance(data, dict) else None
        if not isinstance(values, list):
            has = f"has the keys {', '.join(list(data)[:5])}" if isinstance(data, dict) else f"is {data!r:.40}"
            raise InputError(f"{what} '{path}' {has}: expected a list under '{key}', as PoseTrack's files have")
        for number, value in enumerate(values):
            if not isinstance(value, dict):
                raise InputError(f"{what} '{path}': entry {number} of '{key}' is {value!r:.40}: expected an object")
    return data


def _images(data: dict[str, Any], where: str) -> tuple[list[int], list[str]]:
    """Return ids and file names of a file's images."""
    ids, names = [], []
    for number, image in enumerate(data["images"]):
        ids.append(_integer(image, "id", f"{where}, image {number}"))
        name = image.get("file_name")
        if not isinstance(name, str) or not name:
            raise InputError(f"{where}, image {number} has no usable 'file_name'")
        names.append(name)
    return ids, names


def _joint_slots(data: dict[str, Any], where: str) -> tuple[int, list[int]]:
    """Return how many slots a pose of this file has, and the slot of each of the 15 joints."""
    categories = data.get("categories")
    first = categories[0] if isinstance(categories, list) and categories else None
    names = first.get("keypoints") if isinstance(first, dict) else None
    if not names:
        names = list(POSETRACK_SLOTS)
    if not isinstance(names, list):
        raise InputError(f"{where}: 'keypoints' of its category is {names!r:.40}: expected a list of names")
    missing = [joint for joint in JOINTS if joint not in names]
    if missing:
        raise InputError(
            f"{where} names {len(names)} joints, but not {', '.join(missing[:4])}: expected PoseTrack's "
            f"{len(POSETRACK_SLOTS)} slots or its {len(JOINTS)} joints"
        )
    return len(names), [names.index(joint) for joint in JOINTS]


def _keypoints(entries: list[Any], slots: tuple[int, list[int]], where: str) -> np.ndarray:
    """Return the keypoints of all entries ``[N, 15, 3]``, checked; absent joints are zeros."""
    count, order = slots
    rows = []
    for number, entry in enumerate(entries):
        points = entry.get("keypoints") if isinstance(entry, dict) else None
        if not isinstance(points, list):
            raise InputError(f"{where} {number} has no list 'keypoints': expected x, y and visibility of every joint")
        if len(points) != 3 * count:
            raise InputError(
                f"{where} {number} has {len(points)} numbers in 'keypoints' ({len(points) / 3:g} joints): expected "
                f"{3 * count}, x, y and visibility of {count} slots"
            )
        rows.append(points)
    array = _numbers(rows, f"{where} %d has a keypoint that is not a finite number")
    return array.reshape(-1, count, 3)[:, order]


def _present(keypoints: np.ndarray) -> np.ndarray:
    """Tell which keypoints ``[..., 3]`` are there at all, labelled or predicted."""
    return (keypoints != 0).any(axis=-1)


def _scores(entries: list[Any], slots: tuple[int, list[int]], where: str) -> np.ndarray:
    """Return the joint scores of all entries ``[N, 15]``, from their `scores` or their `score`."""
    count, order = slots
    rows = []
    for number, entry in enumerate(entries):
        scores = entry.get("scores")
        if not scores:  # absent, or empty as in PoseTrack's own files
            scores = [entry.get("score", MISSING_SCORE)] * count
        elif not isinstance(scores, list) or len(scores) != count:
            has = f"{len(scores)} of them" if isinstance(scores, list) else repr(scores)[:40]
            raise InputError(f"{where} {number} has {has} in 'scores': expected one for each of its {count} slots")
        rows.append(scores)
    return _numbers(rows, f"{where} %d has a score that is not a finite number").reshape(-1, count)[:, order]


def _numbers(rows: list[list[Any]], complaint: str) -> np.ndarray:
    """Turn rows of equal length into float64, all at once; `complaint` takes the number of the row that is bad."""
    try:
        array = np.array(rows, np.float64)
        good = np.isfinite(array).all(axis=-1)  # of every row
        if good.all():
            return array
        number = int(good.argmin())
    except (TypeError, ValueError, OverflowError):
        number = next(i for i, row in enumerate(rows) if not _finite(row))
    raise InputError(complaint % number)


def _finite(values: Iterable[Any]) -> bool:
    try:
        return all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    except OverflowError:  # a whole number beyond any float
        return False


def _head_box(entry: dict[str, Any], where: str) -> list[float]:
    box = entry.get("bbox_head")
    if not isinstance(box, list) or len(box) != 4 or not _finite(box):
        has = "no 'bbox_head'" if box is None else f"the bbox_head {box!r:.60}"
        raise InputError(
            f"{where} has labelled joints and {has}: expected four finite numbers x, y, width, height, since distances "
            "are measured in head sizes"
        )
    return [float(value) for value in box]


def _polygons(image: dict[str, Any], where: str) -> list[np.ndarray]:
    """Return an image's ignore regions, each ``[K, 2]``."""
    sides = [image.get(key) or [] for key in ("ignore_regions_x", "ignore_regions_y")]
    if any(isinstance(side, list) and side and not isinstance(side[0], list) for side in sides):
        sides = [[side] for side in sides]  # one region, not in a list of its own
    polygons = []
    fits = all(isinstance(side, list) and all(isinstance(part, list) for part in side) for side in sides)
    if fits and len(sides[0]) == len(sides[1]):
        for xs, ys in zip(*sides, strict=True):
            if len(xs) != len(ys) or not _finite(xs) or not _finite(ys):
                break
            polygons.append(np.array([xs, ys], np.float64).T)
        else:
            return polygons
    raise InputError(f"{where}: ignore_regions_x and ignore_regions_y are not lists of as many finite numbers each")


def _labels(entry: dict[str, Any], where: str) -> frozenset[str]:
    labels = entry.get("difficulty") or []
    if not isinstance(labels, list) or not all(isinstance(label, str) and label for label in labels):
        raise InputError(f"{where} has the difficulty {labels!r:.60}: expected a list of labels")
    return frozenset(labels)


def _integer(entry: Any, key: str, where: str) -> int:
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InputError(f"{where} has no usable '{key}'")
    try:
        return int(value)
    except (ValueError, OverflowError):
        raise InputError(f"{where} has the {key} {value!r:.40}: expected a whole number") from None


def _short(file_name: str) -> str:
    """The last folder and the name: what is the same wherever a data set lies."""
    return "/".join(PurePosixPath(file_name.replace("\\", "/")).parts[-2:])


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
