"""PoseTrack 2017, 2018 and 21 annotations, and synthetic sets written in the same layout. NumPy only.

Layout below a root folder, as the data sets are distributed:

    images/<split>/<sequence>/000000.jpg          2018, 21 and synthetic: six digits, counted from 0
    images/<split>/<sequence>/00000001.jpg        2017: eight digits, counted from 1
    annotations/<split>/<sequence>.json           a file per sequence, or
    annotations/<split>.json                      one COCO-style file for the split

`file_name` in the JSON is relative to the root. Annotations without a box area or without a labelled joint are skipped
(paper, section 8), and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sdtc.core.errors import InputError
from sdtc.core.files import read_json
from sdtc.core.posetrack import from_slots
from sdtc.core.skeleton import POSETRACK_SLOTS

_FRAME_NAME = re.compile(r"^(\d+)$")
_POSETRACK17_DIGITS = 8


@dataclass(frozen=True)
class Person:
    """One annotated person in one labelled frame: one training sample.

    Attributes:
        image: path of the keyframe.
        image_id: PoseTrack's.
        number: of the keyframe, as in its file name.
        first, last: numbers of the sequence's first and last frame.
        track_id: the same person in other frames of the sequence.
        box: float32 ``[4]`` (x, y, width, height), image pixels.
        head_box: float32 ``[4]``, or zeros where there is none.
        keypoints: float32 ``[15, 3]`` (x, y, v), image pixels; v is 0 for unlabelled joints and those outside the
            image.
        difficulty: labels of a synthetic set.
    """

    image: Path
    image_id: int
    number: int
    first: int
    last: int
    track_id: int
    box: np.ndarray
    head_box: np.ndarray
    keypoints: np.ndarray
    difficulty: tuple[str, ...] = ()

    def frame(self, offset: int) -> Path:
        """Return the path of a supporting frame; indices are clamped to the sequence."""
        number = min(max(self.number + offset, self.first), self.last)
        return self.image.with_name(f"{number:0{len(self.image.stem)}d}{self.image.suffix}")


@dataclass
class AnnotationSet:
    """All people of one split.

    Attributes:
        people: in the order of the files.
        skipped: how many annotations were left out, by reason.
    """

    people: list[Person] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def tracks(self) -> dict[tuple[Path, int, int], np.ndarray]:
        """Return keypoints by (folder, track id, frame number), to find a person again in supporting frames."""
        return {(person.image.parent, person.track_id, person.number): person.keypoints for person in self.people}


def read_annotations(root: Path, split: str, annotations: Path | None = None) -> AnnotationSet:
    """Read one split.

    Args:
        root: the data set's folder, see above.
        split: ``"train"`` or ``"val"``.
        annotations: a folder or file of annotations elsewhere.

    Raises:
        InputError: a file is missing or damaged, or an annotation is not usable; the place is named.
    """
    result = AnnotationSet()
    for path in _annotation_files(root, split, annotations):
        _read_file(path, root, result)
    if not result.people:
        raise InputError(
            f"'{root}' has no usable annotation in split '{split}' ({sum(result.skipped.values())} skipped)"
        )
    missing = [person.image for person in result.people if not person.image.is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} labelled images are missing below '{root}', the first is '{missing[0]}': expected the "
            "layout images/<split>/<sequence>/<frame>.jpg"
        )
    return result


def _annotation_files(root: Path, split: str, annotations: Path | None) -> list[Path]:
    if not root.is_dir():
        raise InputError(f"data folder '{root}' does not exist")
    candidates = (
        [annotations] if annotations else [root / "annotations" / split, root / "annotations" / f"{split}.json"]
    )
    for candidate in candidates:
        if candidate.is_file():
            return [candidate]
        if candidate.is_dir() and (files := sorted(candidate.glob("*.json"))):
            return files
    raise InputError(f"no annotations found: looked for {' and '.join(map(str, candidates))}")


def _read_file(path: Path, root: Path, result: AnnotationSet) -> None:
    data = read_json(path, "annotation")
    if not isinstance(data, dict) or not isinstance(data.get("images"), list):
        raise InputError(f"annotation file '{path}' has no list 'images': expected PoseTrack's or COCO's layout")
    if not isinstance(data.get("annotations"), list):
        raise InputError(f"annotation file '{path}' has no list 'annotations'")
    images = dict(_images(path, root, data["images"]))
    for position, entry in enumerate(data["annotations"]):
        where = f"annotation file '{path}', annotation {position}"
        try:
            image = images.get(int(entry["image_id"]))
        except (KeyError, TypeError, ValueError):
            raise InputError(f"{where} has no usable 'image_id'") from None
        if image is None:
            raise InputError(f"{where} belongs to image {entry['image_id']}, which the file does not list")
        person = _person(where, entry, *image)
        if isinstance(person, str):
            result.skipped[person] += 1
        else:
            result.people.append(person)


def _images(path: Path, root: Path, entries: list[Any]) -> Iterator[tuple[int, tuple[Path, dict[str, Any]]]]:
    for position, entry in enumerate(entries):
        try:
            yield int(entry["id"]), (root / str(entry["file_name"]), entry)
        except (KeyError, TypeError, ValueError):
            raise InputError(f"annotation file '{path}': image {position} has no usable 'id' and 'file_name'") from None


def _person(where: str, entry: dict[str, Any], image: Path, about: dict[str, Any]) -> Person | str:
    """Return a person, or why the annotation is skipped."""
    box = _numbers(where, entry, "bbox", 4)
    if box is None or box[2] <= 0 or box[3] <= 0:
        return "no box area"
    values = _numbers(where, entry, "keypoints", 3 * len(POSETRACK_SLOTS))
    if values is None:
        return "no labelled joint"
    keypoints = from_slots(values.reshape(-1, 3)).copy()
    width, height = about.get("width"), about.get("height")
    if width and height:  # PoseTrack has joints that were extrapolated beyond the picture
        x, y = keypoints[:, 0], keypoints[:, 1]
        keypoints[(x < 0) | (y < 0) | (x >= width) | (y >= height), 2] = 0
    keypoints[:, 2] = keypoints[:, 2] > 0
    if not keypoints[:, 2].any():
        return "no labelled joint"
    match = _FRAME_NAME.match(image.stem)
    if match is None:
        raise InputError(f"{where}: image '{image.name}' has no frame number as its name")
    number = int(match[1])
    first = 1 if len(image.stem) == _POSETRACK17_DIGITS else 0
    last = first + int(about.get("nframes") or number - first + 1) - 1
    head_box = _numbers(where, entry, "bbox_head", 4)
    return Person(
        image=image,
        image_id=int(entry["image_id"]),
        number=number,
        first=first,
        last=max(last, number),
        track_id=int(entry.get("track_id", -1)),
        box=box,
        head_box=np.zeros(4, np.float32) if head_box is None else head_box,
        keypoints=keypoints,
        difficulty=tuple(map(str, entry.get("difficulty", ()))),
    )


def _numbers(where: str, entry: dict[str, Any], key: str, count: int) -> np.ndarray | None:
    """Return a list of numbers as float32, or None where it is absent or empty."""
    values = entry.get(key)
    if not values:
        return None
    try:
        array = np.array(values, dtype=np.float32)
    except (TypeError, ValueError):
        raise InputError(f"{where}: '{key}' is not a list of numbers") from None
    if array.shape != (count,):
        hint = " (PoseTrack's 17 slots of x, y, v)" if key == "keypoints" else ""
        raise InputError(f"{where}: '{key}' has {array.size} numbers, expected {count}{hint}")
    if not np.isfinite(array).all():
        raise InputError(f"{where}: '{key}' holds a number that is not finite")
    return array
