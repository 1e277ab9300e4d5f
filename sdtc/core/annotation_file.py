"""PoseTrack and COCO files, read by one set of rules: annotations, detections and poses. NumPy only.

Two layouts are read: an annotation file ``{"images": […], "annotations": […], "categories": […]}``, as PoseTrack18,
PoseTrack21 and COCO have it, and a plain list of entries, as COCO's results are. Whose joints a pose has is told by the
names in the file's first category; where there are none, by who reads it.

The layout is checked when a file is read, a field when it is asked for: poses can be scored whatever their boxes hold.
Numbers are JSON numbers and finite; ids and counts may also be written as 3.0 or "3", as some programs do. Which
entries are people is the same for all readers (`AnnotationRecord.why_nobody`). Which of the people are skipped and how
images are matched is up to `sdtc.core.boxes`, `sdtc.evaluation.reading` and `sdtc.training.annotations`.
"""

from __future__ import annotations

import math
import re
import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sdtc.core.errors import InputError
from sdtc.core.files import read_json
from sdtc.core.numbers import whole_number
from sdtc.core.skeleton import COCO, POSETRACK, POSETRACK_SLOTS, Skeleton

MAX_ID = 2**63 - 1
MAX_PIXELS = 1e6  # no image is larger; what lies beyond would overflow somewhere further on
BOX = f"four finite numbers x, y, width, height of at most {MAX_PIXELS:,.0f} pixels"
MIN_SIDE = 1e-3  # pixels: a box with a shorter side has no area
PERSON_CATEGORY = 1  # COCO's and PoseTrack's
PERSON_RULE = f"a person has category_id {PERSON_CATEGORY}, or none, and no iscrowd"

# Why an entry is left out; the end of a phrase that begins with their number, "12 …".
OTHER_CATEGORY = "of another category"
CROWD = "marked as a crowd"
NO_AREA = "with no box area"
NO_JOINT = "with no labelled joint"

_DIGITS = re.compile(r"[0-9]{1,19}")
_NUMBERS = frozenset((int, float))  # the exact types: to Python, true and false are whole numbers too


class _InJson(reprlib.Repr):
    """Shows a value shortened, with JSON's words for what Python calls None, True and False."""

    def repr_NoneType(self, value: None, level: int) -> str:  # noqa: N802  (the name that `reprlib` looks for)
        return "null"

    def repr_bool(self, value: bool, level: int) -> str:
        return "true" if value else "false"


_shown = _InJson().repr


@dataclass(frozen=True, slots=True)
class _Record:
    """One JSON object of a file. Every property raises InputError if its field is not usable.

    Attributes:
        where: what messages call it, e.g. ``"boxes file 'x.json', annotation 7"``.
        fields: as JSON has them.
    """

    where: str
    fields: dict[str, Any]

    def refuse(self, key: str, expected: str) -> InputError:
        """Return the error that says what a field is and what was expected instead."""
        if key not in self.fields:
            return InputError(f"{self.where} has no usable '{key}': expected {expected}")
        value = self.fields[key]
        count = f" ({len(value)} values)" if isinstance(value, list) and len(value) > 6 else ""  # not all are shown
        return InputError(f"{self.where}: {key} is {_shown(value)}{count}, expected {expected}")

    @property
    def difficulty(self) -> frozenset[str] | None:
        """Labels such as ``"occluded"``; None where the record has no such field."""
        labels = self.fields.get("difficulty") or []
        if not isinstance(labels, list) or not all(isinstance(label, str) and label for label in labels):
            raise self.refuse("difficulty", "a list of labels")
        return frozenset(labels) if "difficulty" in self.fields else None

    def _whole(self, key: str) -> int:
        value = self.fields.get(key)
        number = int(value) if isinstance(value, str) and _DIGITS.fullmatch(value) else whole_number(value)
        if number is None or not 0 <= number <= MAX_ID:
            raise self.refuse(key, f"a whole number from 0 to {MAX_ID}")
        return number

    def _optional_whole(self, key: str) -> int | None:
        return None if self.fields.get(key) is None else self._whole(key)

    def _list(self, key: str, count: int, expected: str) -> list[float] | None:
        values = self.fields.get(key)
        if values is None or values == []:
            return None
        if not _are_finite(values) or len(values) != count:
            raise self.refuse(key, expected)
        return values


class ImageRecord(_Record):
    """One image of an annotation file."""

    __slots__ = ()

    @property
    def id(self) -> int:
        return self._whole("id")

    @property
    def file_name(self) -> str:
        name = self.fields.get("file_name")
        if not isinstance(name, str) or not name:
            raise self.refuse("file_name", "the name of a file")
        return name

    @property
    def is_labeled(self) -> bool:
        """False only where the file says so: PoseTrack21 has boxes without poses in such images."""
        return self.fields.get("is_labeled") is not False

    @property
    def size(self) -> tuple[float, float] | None:
        """(H, W) in pixels; None where the file does not say both."""
        sides = []
        for key in ("height", "width"):
            side = self.fields.get(key) or 0
            if not _are_finite([side]) or side < 0:
                raise self.refuse(key, "a number of pixels")
            sides.append(side)
        return (sides[0], sides[1]) if all(sides) else None

    @property
    def num_frames(self) -> int | None:
        """Frames of the image's sequence (``nframes``); None where the file does not say."""
        return self._optional_whole("nframes") or None

    @property
    def ignore_regions(self) -> list[np.ndarray]:
        """Polygons, each float64 ``[K, 2]``: joints inside take no part in an evaluation."""
        sides = [self.fields.get(key) or [] for key in ("ignore_regions_x", "ignore_regions_y")]
        if any(isinstance(side, list) and side and not isinstance(side[0], list) for side in sides):
            sides = [[side] for side in sides]  # one region, not in a list of its own
        fits = all(isinstance(side, list) and all(map(_are_finite, side)) for side in sides)
        if not fits or [len(part) for part in sides[0]] != [len(part) for part in sides[1]]:
            raise InputError(
                f"{self.where}: ignore_regions_x and ignore_regions_y are not lists of as many finite numbers each"
            )
        return [np.array(region, np.float64).T for region in zip(*sides, strict=True)]


class AnnotationRecord(_Record):
    """One person of a file: an annotation, a detection or a pose. What is optional is None where it is absent."""

    __slots__ = ()

    @property
    def image_id(self) -> int:
        return self._whole("image_id")

    @property
    def category_id(self) -> int | None:
        return self._optional_whole("category_id")

    @property
    def track_id(self) -> int | None:
        return self._optional_whole("track_id")

    @property
    def is_crowd(self) -> bool:
        return bool(self.fields.get("iscrowd") == 1)  # or true

    @property
    def why_nobody(self) -> str:
        """Why the entry is not one person, `OTHER_CATEGORY` or `CROWD`; "" if it is."""
        if self.category_id not in (None, PERSON_CATEGORY):
            return OTHER_CATEGORY
        return CROWD if self.is_crowd else ""

    @property
    def bbox(self) -> list[float] | None:
        """x, y, width, height in image pixels."""
        return self._box("bbox")

    @property
    def head_box(self) -> list[float] | None:
        """``bbox_head``: x, y, width, height in image pixels."""
        return self._box("bbox_head")

    @property
    def area(self) -> float | None:
        """Of the person's segment, square pixels."""
        if self.fields.get("area") is None:
            return None
        if not _are_finite([self.fields["area"]]) or self.fields["area"] < 0:
            raise self.refuse("area", "a number of square pixels")
        return float(self.fields["area"])

    @property
    def num_keypoints(self) -> int | None:
        return self._optional_whole("num_keypoints")

    @property
    def keypoints(self) -> list[float] | None:
        """x, y and visibility (or score) of joint after joint; see `AnnotationFile.joints`, which checks more."""
        points = self.fields.get("keypoints")
        if points is None:
            return None
        if not _are_numbers(points) or len(points) % 3:
            raise self.refuse("keypoints", "three numbers x, y, label for every joint")
        return points

    @property
    def score(self) -> float | None:
        if "score" not in self.fields:
            return None
        if not _are_finite([self.fields["score"]]):
            raise self.refuse("score", "a number, or no score at all")
        return float(self.fields["score"])

    def scores(self, count: int) -> list[float] | None:
        """Return the scores of `count` joints; PoseTrack's own files have an empty list, which is None too."""
        return self._list("scores", count, f"{count} finite numbers, one for each joint")

    def _box(self, key: str) -> list[float] | None:
        box = self._list(key, 4, BOX)
        if box is not None and max(map(abs, box)) > MAX_PIXELS:
            raise self.refuse(key, BOX)
        return box


@dataclass(frozen=True)
class AnnotationFile:
    """A file as it was read.

    Attributes:
        where: what messages call it, e.g. ``"boxes file 'x.json'"``.
        images: empty for a list of entries.
        annotations: or the entries of the list.
        categories: as JSON has them.
        is_list: whether the file is a plain list, without images and categories.
    """

    where: str
    images: tuple[ImageRecord, ...]
    annotations: tuple[AnnotationRecord, ...]
    categories: Any
    is_list: bool

    def unique_ids(self) -> list[int]:
        """Return the ids of the images, in their order.

        Raises:
            InputError: two images have the same one.
        """
        ids = [image.id for image in self.images]
        if len(set(ids)) < len(ids):
            twice = Counter(ids).most_common(1)[0][0]
            raise InputError(
                f"{self.where} has two images with the id {twice}: the people of each cannot be told apart"
            )
        return ids

    def image_numbers(self) -> list[int]:
        """Return for each annotation which of the images it belongs to, from 0.

        Raises:
            InputError: it belongs to none of them, or two images have the same id.
        """
        number_of = {identifier: number for number, identifier in enumerate(self.unique_ids())}
        numbers = []
        for annotation in self.annotations:
            number = number_of.get(annotation.image_id)
            if number is None:
                raise annotation.refuse("image_id", "the id of one of the file's images")
            numbers.append(number)
        return numbers

    def joints(self, annotations: Sequence[AnnotationRecord], skeleton: Skeleton = POSETRACK) -> np.ndarray:
        """Return the keypoints of some annotations of this file, in the order of a skeleton.

        Joints that the file's poses lack are zeros: head_bottom and head_top of COCO's.

        Returns:
            float64 ``[N, J, 3]``: x, y in image pixels and the third number as it is.

        Raises:
            InputError: an annotation has no keypoints, too few, too many, or some that are not finite, or too far away.
        """
        names = self.joint_names(skeleton)
        count = len(names)
        rows = []
        for annotation in annotations:
            points = annotation.keypoints
            if points is None or len(points) != 3 * count or not _no_infinity(points):
                raise annotation.refuse("keypoints", f"{3 * count} finite numbers: x, y and label of {count} joints")
            rows.append(points)
        joints = np.array(rows, np.float64).reshape(-1, count, 3)
        for far in np.flatnonzero((np.abs(joints) > MAX_PIXELS).any(axis=(1, 2)))[:1]:
            raise annotations[far].refuse("keypoints", f"numbers of at most {MAX_PIXELS:,.0f}")
        found = np.zeros((len(joints), len(skeleton.keypoints), 3))
        mine = [j for j, name in enumerate(skeleton.keypoints) if name in names]
        found[:, mine] = joints[:, [names.index(skeleton.keypoints[j]) for j in mine]]
        return found

    @cached_property
    def skeleton(self) -> Skeleton | None:
        """The skeleton whose joints all have a name in the file's first category; None if it names no joints.

        Raises:
            InputError: it names others.
        """
        names = self._names
        if names is None:
            return None
        for skeleton in (POSETRACK, COCO):
            if set(skeleton.keypoints).issubset(names):
                return skeleton
        missing = [joint for joint in POSETRACK.keypoints if joint not in names]
        raise InputError(
            f"{self.where} names {len(names)} joints, but not {', '.join(missing[:4])}: expected PoseTrack's "
            f"{len(POSETRACK_SLOTS)} slots or its {len(POSETRACK.keypoints)} joints, or COCO's {len(COCO.keypoints)}"
        )

    def joint_names(self, skeleton: Skeleton = POSETRACK) -> list[str]:
        """Return the names of a pose's joints in the file's order.

        Args:
            skeleton: whose joints they are where the file names none: COCO's 17, or PoseTrack's 17 slots.
        """
        if self.skeleton is None:
            return list(COCO.keypoints if skeleton == COCO else POSETRACK_SLOTS)
        assert self._names is not None
        return self._names

    @property
    def _names(self) -> list[str] | None:
        first = self.categories[0] if isinstance(self.categories, list) and self.categories else None
        names = (first.get("keypoints") if isinstance(first, dict) else None) or None
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise InputError(f"{self.where}: its category's keypoints is {_shown(names)}, expected a list of names")
        return names

    def expect_poses(self) -> None:
        """Check that the file is about poses.

        Raises:
            InputError: its annotations are boxes or captions, and none has keypoints.
        """
        kinds = {"bbox": "boxes", "caption": "captions"}
        has = [what for key, what in kinds.items() if any(key in entry.fields for entry in self.annotations)]
        if has and not any("keypoints" in entry.fields for entry in self.annotations):
            raise InputError(
                f"{self.where} has {has[0]} but no keypoints, as a detector's results or COCO's instances_*.json: "
                "expected poses, as in person_keypoints_*.json or PoseTrack's files"
            )


def read_annotation_file(path: Path, noun: str, or_list: bool = False) -> AnnotationFile:
    """Read a file and check its layout.

    Args:
        path: the file.
        noun: what messages call it: ``"boxes"``, ``"ground truth"``, ``"predictions"`` or ``"annotation"``.
        or_list: whether it may be a plain list of entries.

    Raises:
        InputError: missing, too large, not JSON, or of another layout.
    """
    data = read_json(path, noun)
    where = f"{noun} file '{path}'"
    if or_list and isinstance(data, list):
        entries = [AnnotationRecord(*record) for record in _records(data, f"{where}, entry")]
        return AnnotationFile(where, (), tuple(entries), None, is_list=True)
    if isinstance(data, dict) and "annolist" in data:
        raise InputError(
            f"{where} is in the old PoseTrack17 format ('annolist'): convert it with convert.py of poseval"
        )
    for key in ("images", "annotations"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            first = data[0] if isinstance(data, list) and data else None
            if isinstance(first, dict) and ("keypoints" in first or "bbox" in first):
                what = "poses" if "keypoints" in first else "detections"
                raise InputError(
                    f"{where} is a list of {what}, a result file: expected annotations, with a list under '{key}'"
                )
            keys = isinstance(data, dict) and ", ".join(list(data)[:5])
            has = f"has the keys {keys}" if keys else f"is {_shown(data)}"
            other = ", or a list of detections or poses" if or_list else ""
            raise InputError(f"{where} {has}: expected a list under '{key}', as PoseTrack's files have{other}")
    images = tuple(ImageRecord(*record) for record in _records(data["images"], f"{where}, image"))
    people = tuple(AnnotationRecord(*record) for record in _records(data["annotations"], f"{where}, annotation"))
    return AnnotationFile(where, images, people, data.get("categories"), is_list=False)


def image_folders(annotations: Path, split: str) -> tuple[Path, ...]:
    """Return where images whose names have no folder, as COCO's, may lie below a data set's root.

    Args:
        annotations: the file that names them; its own name may end with that of their folder:
            ``person_keypoints_train2017.json``.
        split: ``"train"`` or ``"val"``.
    """
    own = annotations.stem.rsplit("_", 1)[-1]
    return Path(), Path("images", split), Path(own), Path("images", own)


def left_out_phrase(counts: Mapping[str, int]) -> str:
    """Return what was left out and why, from its number by reason: ``"3 with no box area, 12 of another category"``."""
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items())


def _records(values: list[Any], where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what `_Record` takes, for each object of a list."""
    for number, value in enumerate(values):
        if not isinstance(value, dict):
            raise InputError(f"{where} {number} is {_shown(value)}: expected an object")
        yield f"{where} {number}", value


def _are_numbers(values: Any) -> bool:
    return isinstance(values, list) and _NUMBERS.issuperset(map(type, values))


def _are_finite(values: Any) -> bool:
    """Whether a value is a list of finite numbers."""
    return _are_numbers(values) and _no_infinity(values)


def _no_infinity(values: list[float]) -> bool:
    try:
        return all(map(math.isfinite, values))
    except OverflowError:  # a whole number beyond any float
        return False
