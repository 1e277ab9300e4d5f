"""Person boxes from a JSON file: a COCO detection list, or COCO / PoseTrack annotations. NumPy only.

A detection list is ``[{"image_id", "bbox": [x, y, w, h], "score"}, …]``. Its image ids are read as frame numbers,
except for an input that is named as a PoseTrack sequence (``012834_mpii_test``): if the file has ids of that sequence,
or only ids of other PoseTrack sequences, they are PoseTrack's image ids. An annotation file lists its images, which are
found by file name.

Entries of another category, crowds, boxes without an area or outside the image, and annotations without a labelled
joint are left out and counted. Track ids are those of the file for a whole input, or for none of it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sdtc.core.annotation_file import (
    BOX,
    MIN_SIDE,
    NO_AREA,
    NO_JOINT,
    OTHER_CATEGORY,
    PERSON_CATEGORY,
    AnnotationRecord,
    left_out_phrase,
    read_annotation_file,
)
from sdtc.core.errors import InputError
from sdtc.core.posetrack import image_id, sequence_id

MIN_SCORE = 0.2  # detections below are dropped (paper, section 8)
MAX_SCORE = 1.01  # a little above 1 is a rounding error
UNTRACKED = -1  # the track id of people who have none; trackers write it too
MAX_FRAMES = 10_000_000_000  # no video has as many, and PoseTrack's image ids begin here

# Why a box is left out, beside the reasons of `sdtc.core.annotation_file`.
LOW_SCORE = f"with a score below {MIN_SCORE}"
NO_IMAGE = "of images that the file does not list"
OUTSIDE = "outside the image"

_Person = tuple[list[float], float, int]  # box, score, track id


@dataclass(frozen=True)
class FrameBoxes:
    """The people of one frame.

    Attributes:
        boxes: float32 ``[N, 4]`` (x, y, width, height), image pixels.
        scores: float32 ``[N]``, 0-1.
        track_ids: int64 ``[N]``, `UNTRACKED` for people without one; None if the input's are not used.
    """

    boxes: np.ndarray
    scores: np.ndarray
    track_ids: np.ndarray | None


EMPTY = FrameBoxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), None)


@dataclass
class InputNotes:
    """What a user should know about the boxes of one input; complete after its last frame.

    Attributes:
        left_out: number of boxes that were left out, by reason.
        first_outside: the first box outside the image, as a phrase; "" if there is none.
        untracked: why the file's track ids are not used; "" if they are, or if there are none.
        read, cut: number of boxes that were read, and of those that are more than half outside the image.
    """

    left_out: Counter[str] = field(default_factory=Counter)
    first_outside: str = ""
    untracked: str = ""
    read: int = 0
    cut: int = 0

    @property
    def sentences(self) -> list[str]:
        """The notes as sentences, without full stops."""
        found = []
        if self.left_out:
            found.append(f"boxes left out: {left_out_phrase(self.left_out)}, the first {self.first_outside}")
        if 2 * self.cut > self.read:
            found.append(
                f"{self.cut:,} of {self.read:,} boxes are more than half outside the image: are they x, y, width, "
                "height in its pixels?"
            )
        if self.untracked:
            found.append(f"track ids of the boxes are not used, because {self.untracked}")
        return found


class BoxFile:
    """All boxes of a file, by image.

    Attributes:
        path: of the file.
        by_image: boxes by image id.
        ids: all image ids in the file, of images with boxes and without.
        image_ids: image id by file name, for annotation files; empty for detection lists.
        skipped: number of entries that were left out, by reason; those of a low score are counted only if there are no
            others.
        inputs: notes on the boxes of each input, by its name.
    """

    def __init__(self, path: Path, min_score: float = MIN_SCORE) -> None:
        """Read and check a file.

        Raises:
            InputError: not such a file, or an entry with a value that is not usable (entry and field are named), or
                nothing but entries of other categories than people, or a list of boxes none of which has an area.
        """
        self.path = path
        self.skipped: Counter[str] = Counter()
        self.inputs: dict[str, InputNotes] = {}
        file = read_annotation_file(path, "boxes", or_list=True)
        self.image_ids = {image.file_name: image.id for image in file.images}
        listed = frozenset(self.image_ids.values())
        self.ids = set(listed)
        rows: dict[int, list[_Person]] = {}
        flat: AnnotationRecord | None = None  # the first without an area
        for entry in file.annotations:
            image = entry.image_id
            if listed and image not in listed:  # else it could be taken for a frame's by its number
                self.skipped[NO_IMAGE] += 1
                continue
            self.ids.add(image)
            person = _read_person(entry, annotated=not file.is_list, min_score=min_score)
            if isinstance(person, str):
                self.skipped[person] += 1
                flat = flat or (entry if person == NO_AREA else None)
            else:
                rows.setdefault(image, []).append(person)
        low = self.skipped.pop(LOW_SCORE, 0)
        if low and not rows:
            self.skipped[LOW_SCORE] = low
        if file.annotations and self.skipped[OTHER_CATEGORY] == len(file.annotations):
            raise InputError(
                f"boxes file '{path}' has no people: every entry is of another category, the first of category_id "
                f"{file.annotations[0].category_id}; expected category_id {PERSON_CATEGORY}, or none, for a person"
            )
        if flat is not None and file.is_list and not rows:
            raise InputError(
                f"{flat.where}: bbox {flat.bbox} has no area, and no other box of the file is usable; expected x, y, "
                "width, height"
            )
        self.by_image = {image: _pack(people) for image, people in rows.items()}

    @property
    def skipped_phrase(self) -> str:
        """What was left out and why, e.g. ``"3 with no box area, 12 of another category"``; empty if nothing was."""
        return left_out_phrase(self.skipped)


class SourceBoxes:
    """The boxes of a file that belong to one input.

    Args:
        file: the boxes.
        name: the input's name; if it is that of a PoseTrack sequence, image ids may be PoseTrack's.
        frames: ``(number, file name)`` of every frame, where known in advance; None for a video, whose header is not
            to be believed: call `check_all_seen` after its last frame.
        partial: whether the frames are only a part of their folder, so that others may have boxes too.

    Attributes:
        notes: what a user should know; also in ``file.inputs``.

    Raises:
        InputError: none of the boxes belong to this input, or some belong to frames that it does not have. A PoseTrack
            sequence without boxes, in a file with other PoseTrack sequences, is accepted.
    """

    def __init__(
        self, file: BoxFile, name: str, frames: list[tuple[int, str]] | None = None, partial: bool = False
    ) -> None:
        self._file, self._name = file, name
        self._ids_of_name: dict[str, int] = {}
        for path, identifier in file.image_ids.items():
            # Images in another folder than this input's are not its own; file names without a folder may be.
            if len(Path(path).parts) < 2 or Path(path).parent.name == name:
                self._ids_of_name[Path(path).name] = identifier
        self._vid_id = self._posetrack_vid_id()
        # Ids of listed images: a frame that the file does not list must not get one of them.
        self._taken = {self._ids_of_name[file_name] for _, file_name in frames or () if file_name in self._ids_of_name}
        if self._taken:
            self._taken |= set(file.image_ids.values()) - set(self._ids_of_name.values())
        self._first_free = max(file.ids, default=-1) + 1
        self._mine = self._find_mine()
        if frames is not None:
            known = {self.image_id(number, file_name) for number, file_name in frames}
            # Where only positions tell which boxes are whose, those of other images could be taken for these.
            if partial and all(each in self._ids_of_name or Path(each).stem.isdecimal() for _, each in frames):
                self._check_some_known(known)
                self._mine &= known
            self._check_known(known, "this input has no such frame")
        elif self._vid_id is None and self._mine and min(self._mine) >= MAX_FRAMES:
            raise self._none_of_input({0, 1, 2})
        self.notes = file.inputs[name] = InputNotes()
        self.notes.untracked = self._why_untracked()
        self._uses_ids = not self.notes.untracked and any((self._ids_of(i) != UNTRACKED).any() for i in self._mine)

    def image_id(self, number: int, file_name: str | None) -> int:
        """Return the file's id of a frame; writers use the same one.

        Args:
            number: the frame number in the file name; of a video, counted from 0.
            file_name: without its folder; None for a frame of a video.

        Returns:
            The id of the listed image with this name. If there is none, the id by the file's convention (PoseTrack's
            ids or frame numbers); if another image has that id, one that is not in the file.
        """
        if file_name is not None and file_name in self._ids_of_name:
            return self._ids_of_name[file_name]
        identifier = number if self._vid_id is None else image_id(self._vid_id, number)
        return self._first_free + number if identifier in self._taken else identifier

    def of_frame(self, number: int, file_name: str | None, size: tuple[int, int]) -> FrameBoxes:
        """Return the boxes of a frame of (H, W) pixels, without those wholly outside; `notes` counts them.

        Returns:
            The boxes; with the file's track ids if they are good for all of this input, else without any.
        """
        found = self._file.by_image.get(self.image_id(number, file_name), EMPTY)
        shown = _visible_share(found.boxes, size)
        inside = shown > 0
        self.notes.read += len(shown)
        self.notes.cut += int((shown < 0.5).sum())
        if not inside.all():
            if not self.notes.first_outside:
                box = np.round(found.boxes[~inside][0].astype(float), 1).tolist()
                self.notes.first_outside = f"{box} of frame {number}, which has {size[1]}x{size[0]} pixels"
            self.notes.left_out[OUTSIDE] += int((~inside).sum())
        ids = found.track_ids[inside] if self._uses_ids and found.track_ids is not None else None
        return FrameBoxes(found.boxes[inside], found.scores[inside], ids)

    def check_all_seen(self, num_frames: int) -> None:
        """After a video's last frame: check that no boxes belong to frames beyond.

        Raises:
            InputError: some do.
        """
        last = num_frames - 1
        explanation = f"the video has frames 0 to {last}"
        if self._mine and min(self._mine) > 0 and max(self._mine) == num_frames and self._vid_id is None:
            explanation += "; frame numbers begin with 0, those of this file probably with 1"
        self._check_known({self.image_id(number, None) for number in range(num_frames)}, explanation)

    def check_any_usable(self) -> None:
        """After the last frame: check that not all boxes of the input were left out.

        Raises:
            InputError: they were; the first is named.
        """
        total = sum(len(self._file.by_image[image].boxes) for image in self._mine)
        if total and self.notes.left_out[OUTSIDE] == total:
            raise InputError(
                f"boxes file '{self._file.path}' has no usable box for '{self._name}': all {total:,} lie outside the "
                f"image, the first {self.notes.first_outside}; are the boxes those of this input?"
            )

    def _posetrack_vid_id(self) -> str | None:
        """Return the input's video id if the file uses PoseTrack's image ids, else None.

        A name may look like that of a sequence by chance, so the ids in the file decide.
        """
        vid_id = sequence_id(self._name)
        if vid_id is None:
            return None
        ids = self._file.ids
        if any(i // 10_000 == image_id(vid_id, 0) // 10_000 for i in ids):
            return vid_id
        if self._ids_of_name:  # the file lists this input's images, under other ids
            return None
        # In a file for a whole split, a sequence may have no boxes at all. Then the file still uses PoseTrack's ids if
        # all its ids have 11 digits, or, where ids were renumbered, if all folders are named as PoseTrack sequences.
        others = all(i // 10_000_000_000 == 1 for i in ids)
        paths = self._file.image_ids
        others = others or (bool(paths) and all(sequence_id(Path(path).parent.name) for path in paths))
        return vid_id if others else None

    def _find_mine(self) -> set[int]:
        """Return the image ids with boxes that belong to this input, as far as ids and file names tell."""
        mine = set(self._file.by_image)
        if self._vid_id is not None:  # boxes of other sequences may be in the same file
            return {i for i in mine if i // 10_000 == image_id(self._vid_id, 0) // 10_000}
        if self._file.image_ids:  # and so may annotations of other folders
            return mine & set(self._ids_of_name.values()) or mine
        return mine

    def _ids_of(self, image: int) -> np.ndarray:
        ids = self._file.by_image[image].track_ids
        assert ids is not None  # only `of_frame` leaves them out
        return ids

    def _why_untracked(self) -> str:
        """Return why the file's track ids cannot be used for this input; "" if they can, or if there are none.

        All ids come from the file, or all from a tracker, whose ids begin with 0: mixed, two people would share one.
        """
        bare, twice, tracked = None, None, False
        for image in sorted(self._mine):
            ids = self._ids_of(image)
            known = ids[ids != UNTRACKED].tolist()
            tracked = tracked or bool(known)
            if bare is None and len(known) < len(ids):
                bare = image
            if twice is None and len(set(known)) < len(known):
                twice = image, max(known, key=known.count)
        if twice is not None:
            return f"image_id {twice[0]} has two boxes with the track id {twice[1]}"
        return f"image_id {bare} has a box without one" if tracked and bare is not None else ""

    def _check_some_known(self, known: set[int]) -> None:
        if self._mine and not self._mine & known:
            raise self._none_of_input(known)

    def _check_known(self, known: set[int], explanation: str) -> None:
        self._check_some_known(known)
        unknown = sorted(self._mine - known)
        if unknown:
            raise InputError(
                f"boxes file '{self._file.path}' has boxes for {len(unknown)} frame{'s' if len(unknown) > 1 else ''} "
                f"of '{self._name}' that do not exist, the first {unknown[0]}: {explanation}"
            )

    def _none_of_input(self, known: set[int]) -> InputError:
        return InputError(
            f"boxes file '{self._file.path}' has no boxes for '{self._name}': its image ids begin with "
            f"{', '.join(map(str, sorted(self._mine)[:3]))}, this input's with "
            f"{', '.join(map(str, sorted(known)[:3]))}"
        )


def read_boxes(path: Path, name: str) -> BoxFile:
    """Read the boxes of one input.

    Args:
        path: a file, or a folder with one file for each input, as PoseTrack distributes its annotations.
        name: the input's name, which is also the name of its file in a folder.

    Raises:
        InputError: as `BoxFile`; or the folder has no file for this input.
    """
    if not path.is_dir():
        return BoxFile(path)
    file = path / f"{name}.json"
    if not file.exists():
        raise InputError(
            f"the folder of boxes '{path}' has no '{file.name}' for the input '{name}': name one file with all boxes, "
            "or a folder with a file named as each input"
        )
    return BoxFile(file)


def _read_person(entry: AnnotationRecord, annotated: bool, min_score: float) -> _Person | str:
    """Return what an annotation or a detection says, or why it is left out."""
    if nobody := entry.why_nobody:
        return nobody
    score = entry.score
    if score is not None and score > MAX_SCORE:
        raise entry.refuse("score", "a number from 0 to 1, or no score for 1")
    score = 1.0 if score is None else min(score, 1.0)
    if score < min_score:
        return LOW_SCORE
    box = entry.bbox
    if box is None and not annotated:  # PoseTrack's files have such people
        raise entry.refuse("bbox", BOX)
    if box is None or min(box[2:]) < MIN_SIDE:
        return NO_AREA
    keypoints = entry.keypoints if annotated else None  # of a detection, the third numbers can mean anything
    if keypoints is not None and not any(label > 0 for label in keypoints[2::3]):
        return NO_JOINT
    track_id = None if entry.fields.get("track_id") == UNTRACKED else entry.track_id
    return box, score, UNTRACKED if track_id is None else track_id


def _pack(people: list[_Person]) -> FrameBoxes:
    boxes, scores, tracks = zip(*people, strict=True)
    return FrameBoxes(np.array(boxes, np.float32), np.array(scores, np.float32), np.array(tracks, np.int64))


def _visible_share(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the share of each box ``[N, 4]`` that lies in an image of (H, W) pixels."""
    places, sides = np.split(boxes.astype(np.float64), 2, axis=1)
    low, high = (np.clip(corner, 0, (size[1], size[0])) for corner in (places, places + sides))
    share: np.ndarray = np.prod((high - low) / sides, axis=1)
    return share
