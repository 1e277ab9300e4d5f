"""PoseTrack 2017, 2018 and 21 annotations, COCO's person keypoints, and synthetic sets. NumPy only.

Layout below a root folder, as the data sets are distributed:

    images/<split>/<sequence>/000000.jpg          2018, 21 and synthetic: six digits, counted from 0
    images/<split>/<sequence>/00000001.jpg        2017: eight digits, counted from 1
    annotations/<split>/<sequence>.json           a file per sequence, or
    annotations/<split>.json                      one COCO-style file for the split

    train2017/000000000139.jpg                    COCO
    annotations/person_keypoints_train2017.json   its name ends with that of the images' folder

`file_name` in the JSON is relative to the root. One without a folder, as COCO's are, is that of an image in the root,
in images/<split>, or in the folder that the annotation file's name ends with, directly in the root or in images.

Annotations of another category, crowds, and annotations without a box area or without a labelled joint (paper, section
8) are skipped, and counted. COCO's joints become PoseTrack's 15; head_bottom and head_top, which COCO lacks, are not
labelled.

A folder of images is a sequence. Its length is what the JSON says (`nframes`, where 1 is a still); where that is
missing or contradicts the numbers of the images, it is found out from the images themselves. COCO's images are stills,
whose numbers are no order, unless the file says otherwise.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sdtc.core.annotation_file import (
    MIN_SIDE,
    NO_AREA,
    NO_JOINT,
    PERSON_RULE,
    AnnotationFile,
    image_folders,
    left_out_phrase,
    read_annotation_file,
)
from sdtc.core.errors import InputError
from sdtc.core.files import visible_files
from sdtc.core.skeleton import COCO
from sdtc.evaluation.ap import head_sizes

NO_TRACK = -1  # the track id of people whose annotation has none
_POSETRACK17_DIGITS = 8
_TRIES = 10  # images that are looked for in every folder before the next folder is tried


@dataclass(frozen=True)
class AnnotatedPerson:
    """One annotated person in one labelled frame: one training sample.

    Attributes:
        image: path of the keyframe.
        image_id: PoseTrack's.
        number: frame number of the keyframe, from its file name; of a still with another name, its image id.
        first, last: numbers of the sequence's first and last frame.
        track_id: the same in all frames of a sequence that show the person; `NO_TRACK` if the file has none.
        box: float32 ``[4]`` (x, y, width, height), image pixels.
        head_box: float32 ``[4]``, or zeros where there is none; see `sdtc.evaluation.ap.head_sizes`.
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
    difficulty: frozenset[str] = frozenset()

    @property
    def is_still(self) -> bool:
        """Whether the image is a photograph: a sequence of one frame."""
        return self.first == self.last

    def frame(self, offset: int) -> Path:
        """Return the path of the supporting frame at an offset; frame numbers are clamped to the sequence."""
        number = min(max(self.number + offset, self.first), self.last)
        if number == self.number:
            return self.image  # a still's name need not be a number
        return self.image.with_name(f"{number:0{len(self.image.stem)}d}{self.image.suffix}")


@dataclass
class AnnotationSet:
    """All people of one split.

    Attributes:
        people: in the order of the files.
        skipped: number of skipped annotations, by reason, as in `sdtc.core.annotation_file`.
        mixed_up: number of people who lost their labels of left and right (`DataConfig.drop_mixed_up`).
    """

    people: list[AnnotatedPerson] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    mixed_up: int = 0

    def tracks(self) -> dict[tuple[Path, int, int], AnnotatedPerson]:
        """Return people by (folder, track id, frame number), to find a person in the supporting frames.

        People who cannot be found in other frames are left out: those without a track id, and those who share one with
        somebody else in the same frame.
        """
        keys = [(person.image.parent, person.track_id, person.number) for person in self.people]
        times = Counter(keys)
        return {
            key: person
            for key, person in zip(keys, self.people, strict=True)
            if person.track_id != NO_TRACK and times[key] == 1
        }


def measure_heads(people: Sequence[AnnotatedPerson]) -> tuple[np.ndarray, np.ndarray]:
    """Return the head sizes of people, and which of them are estimates, see `sdtc.evaluation.ap.head_sizes`."""
    joints = np.stack([person.keypoints for person in people])  # [P, 15, 3]
    boxes, head_boxes = (np.stack([getattr(person, name) for person in people]) for name in ("box", "head_box"))
    return head_sizes(head_boxes, joints[..., :2], joints[..., 2] > 0, boxes)


def read_annotations(root: Path, split: str, annotations: Path | None = None) -> AnnotationSet:
    """Read one split.

    Args:
        root: the data set's folder, see above.
        split: ``"train"`` or ``"val"``.
        annotations: a folder or file of annotations in another place.

    Raises:
        InputError: a file is missing or damaged, or an annotation is not usable; the place is named.
    """
    result, lengths = AnnotationSet(), _Lengths()
    for path in _annotation_files(root, split, annotations):
        _read_file(path, root, split, lengths, result)
    if not result.people:
        why = f"{left_out_phrase(result.skipped)}; {PERSON_RULE}" if result.skipped else "its files list none"
        raise InputError(f"'{root}' has no usable annotation in split '{split}': {why}")
    missing = [image for image in dict.fromkeys(p.image for p in result.people) if not os.path.isfile(image)]
    if missing:
        raise InputError(
            f"{len(missing)} labelled images are missing below '{root}', the first is '{missing[0]}': expected the "
            "layout images/<split>/<sequence>/<frame>.jpg, or COCO's, <split>2017/<image>.jpg"
        )
    return result


def _annotation_files(root: Path, split: str, annotations: Path | None) -> list[Path]:
    if not root.is_dir():
        raise InputError(f"data folder '{root}' does not exist")
    folder = root / "annotations"
    candidates = [folder / split, folder / f"{split}.json", folder / f"person_keypoints_{split}2017.json"]
    if annotations:
        candidates = [annotations]
    for candidate in candidates:
        if candidate.is_file():
            return [candidate]
        if candidate.is_dir() and (files := visible_files(candidate, "*.json")):
            return files
    raise InputError(f"no annotations found: looked for {' and '.join(map(str, candidates))}")


def _read_file(path: Path, root: Path, split: str, lengths: _Lengths, result: AnnotationSet) -> None:
    file = read_annotation_file(path, "annotation")
    file.expect_poses()
    images = _find_images(file, path, root, split)
    nframes = [image.num_frames for image in file.images]
    if file.skeleton == COCO:
        nframes = [length or 1 for length in nframes]
    kept = []
    for entry, number in zip(file.annotations, file.image_numbers(), strict=True):
        if nobody := entry.why_nobody:
            result.skipped[nobody] += 1
            continue
        box = entry.bbox
        if box is None or min(box[2:]) < MIN_SIDE:
            result.skipped[NO_AREA] += 1
        elif not entry.keypoints:
            result.skipped[NO_JOINT] += 1
        elif entry.fields.get("scores") and "id" not in entry.fields:
            raise InputError(
                f"{entry.where} has scores and no id: the file holds predictions, not annotations; remove 'scores' "
                "from the poses to train on them"
            )
        else:
            kept.append((entry, box, images[number], file.images[number].size))
    joints = file.joints([entry for entry, *_ in kept])  # [N, 15, 3]
    extents = lengths.find(images, nframes)
    stills = {image for image, length in zip(images, nframes, strict=True) if length == 1}
    for keypoints, (entry, box, image, size) in zip(joints.astype(np.float32), kept, strict=True):
        if size is not None:  # PoseTrack has joints that were extrapolated beyond the picture
            x, y = keypoints[:, 0], keypoints[:, 1]
            keypoints[(x < 0) | (y < 0) | (x >= size[1]) | (y >= size[0]), 2] = 0
        keypoints[:, 2] = keypoints[:, 2] > 0
        if not keypoints[:, 2].any():
            result.skipped[NO_JOINT] += 1
            continue
        if image.stem.isdecimal():
            number = int(image.stem)
            first, last = extents[image]
        elif image in stills:
            number = first = last = entry.image_id
        else:
            raise InputError(
                f"{entry.where}: image '{image.name}' has no frame number as its name: expected one, or 'nframes' of 1 "
                "for a still"
            )
        track_id = None if entry.fields.get("track_id") == NO_TRACK else entry.track_id
        person = AnnotatedPerson(
            image=image,
            image_id=entry.image_id,
            number=number,
            first=first,
            last=last,
            track_id=NO_TRACK if track_id is None else track_id,
            box=np.array(box, np.float32),
            head_box=np.array(entry.head_box or [0] * 4, np.float32),
            keypoints=keypoints,
            difficulty=entry.difficulty or frozenset(),
        )
        result.people.append(person)


def _find_images(file: AnnotationFile, path: Path, root: Path, split: str) -> list[Path]:
    """Return the paths of a file's images; of names without a folder, all in the first folder that has some."""
    names = [image.file_name for image in file.images]
    bare = [name for name in names if Path(name).name == name]
    folders = [root / folder for folder in image_folders(path, split)]
    tried = bare[:_TRIES]
    home = next((folder for folder in folders if any(os.path.isfile(folder / name) for name in tried)), root)
    return [(home if Path(name).name == name else root) / name for name in names]


@dataclass(frozen=True)
class _Sequence:
    """What the images of a sequence share: their folder, and how many digits and which suffix their names have."""

    folder: Path
    digits: int
    suffix: str


class _Lengths:
    """Finds the numbers of the first and the last frame of sequences; every folder is listed once."""

    def __init__(self) -> None:
        self._listed: dict[Path, dict[_Sequence, tuple[int, int]]] = {}

    def find(self, images: Sequence[Path], nframes: Sequence[int | None]) -> dict[Path, tuple[int, int]]:
        """Return first and last number by image, for the images of one file and what it says of their lengths."""
        numbers: dict[_Sequence, list[int]] = {}
        lengths: dict[_Sequence, int] = {}
        for image, length in zip(images, nframes, strict=True):
            if image.stem.isdecimal() and length != 1:
                sequence = _sequence_of(image)
                numbers.setdefault(sequence, []).append(int(image.stem))
                lengths[sequence] = max(lengths.get(sequence, 0), length or 0)
        extents = {sequence: self._extent(sequence, numbers[sequence], lengths[sequence]) for sequence in numbers}
        alone = {image: (int(image.stem), int(image.stem)) for image in images if image.stem.isdecimal()}
        return {image: extents.get(_sequence_of(image), itself) for image, itself in alone.items()}

    def _extent(self, sequence: _Sequence, annotated: list[int], length: int) -> tuple[int, int]:
        first = 1 if sequence.digits == _POSETRACK17_DIGITS else 0
        last = first + length - 1
        if first <= min(annotated) and max(annotated) <= last:
            return first, last
        found = [*annotated, *self._on_disk(sequence.folder).get(sequence, ())]  # no length, or one that does not fit
        return min(found), max(found)

    def _on_disk(self, folder: Path) -> dict[_Sequence, tuple[int, int]]:
        if folder not in self._listed:
            found: dict[_Sequence, tuple[int, int]] = {}
            with suppress(OSError):  # a missing folder has no frames
                for name in map(Path, os.listdir(folder)):
                    if name.stem.isdecimal():
                        sequence, number = _sequence_of(folder / name), int(name.stem)
                        low, high = found.get(sequence, (number, number))
                        found[sequence] = min(low, number), max(high, number)
            self._listed[folder] = found
        return self._listed[folder]


def _sequence_of(image: Path) -> _Sequence:
    return _Sequence(image.parent, len(image.stem), image.suffix)
