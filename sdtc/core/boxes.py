"""Person boxes from a JSON file: a COCO detection list, or COCO / PoseTrack annotations. NumPy only.

A detection list is ``[{"image_id", "bbox": [x, y, w, h], "score"}, …]``. Its image ids are read as frame numbers,
except for an input that is named as a PoseTrack sequence (``012834_mpii_test``): if the file has ids of that sequence,
or only ids of other PoseTrack sequences, they are PoseTrack's image ids. An annotation file lists its images, which are
found by file name.

Entries of another category, crowds, and annotations without a box area or a labelled joint are skipped and counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdtc.core.annotation_file import BOX, MIN_SIDE, AnnotationRecord, read_annotation_file
from sdtc.core.errors import InputError
from sdtc.core.posetrack import image_id, sequence_id

MIN_SCORE = 0.2  # detections below are dropped (paper, section 8)
PERSON_CATEGORY = 1  # COCO's and PoseTrack's
MAX_SCORE = 1e6

# Why an entry is skipped; the end of a phrase that begins with their number, "12 …".
NO_AREA = "with no box area"
OTHER_CATEGORY = "of another category"
CROWD = "marked as a crowd"
NO_JOINT = "with no labelled joint"

_Person = tuple[list[float], float, int | None]  # box, score, track id


@dataclass(frozen=True)
class FrameBoxes:
    """The people of one frame.

    Attributes:
        boxes: float32 ``[N, 4]`` (x, y, width, height), image pixels.
        scores: float32 ``[N]``, 0-1.
        track_ids: int64 ``[N]``; None where an entry has no track id, or two have the same one.
    """

    boxes: np.ndarray
    scores: np.ndarray
    track_ids: np.ndarray | None


EMPTY = FrameBoxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), None)


class BoxFile:
    """All boxes of a file, by image.

    Attributes:
        path: of the file.
        by_image: boxes by image id.
        ids: all image ids in the file, of images with boxes and without.
        image_ids: image id by file name, for annotation files; empty for detection lists.
        skipped: number of entries that were skipped, by reason; those of a low score are not counted.
    """

    def __init__(self, path: Path, min_score: float = MIN_SCORE) -> None:
        """Read and check a file.

        Raises:
            InputError: not such a file, or an entry with a value that is not usable (entry and field are named), or
                nothing but entries of other categories than people.
        """
        self.path = path
        self.skipped: Counter[str] = Counter()
        file = read_annotation_file(path, "boxes", or_list=True)
        self.image_ids = {image.file_name: image.id for image in file.images}
        self.ids = set(self.image_ids.values())
        rows: dict[int, list[_Person]] = {}
        for entry in file.annotations:
            image = entry.image_id
            self.ids.add(image)
            person = _read_person(entry, annotated=not file.is_list)
            if isinstance(person, str):
                self.skipped[person] += 1
            elif person[1] >= min_score:
                rows.setdefault(image, []).append(person)
        if file.annotations and self.skipped[OTHER_CATEGORY] == len(file.annotations):
            raise InputError(
                f"boxes file '{path}' has no people: every entry is of another category, the first of category_id "
                f"{file.annotations[0].category_id}; expected category_id {PERSON_CATEGORY}, or none, for a person"
            )
        self.by_image = {image: _pack(people) for image, people in rows.items()}

    @property
    def skipped_phrase(self) -> str:
        """What was skipped and why, e.g. ``"3 with no box area, 12 of another category"``; empty if nothing was."""
        return ", ".join(f"{count:,} {reason}" for reason, count in self.skipped.items())


class SourceBoxes:
    """The boxes of a file that belong to one input.

    Args:
        file: the boxes.
        name: the input's name; if it is that of a PoseTrack sequence, image ids may be PoseTrack's.
        frames: ``(number, file name)`` of every frame, where known in advance; None for a video.
        num_frames: of a video, where its header says.

    Raises:
        InputError: none of the boxes belong to this input, or some belong to frames that it does not have. A PoseTrack
            sequence without boxes, in a file with other PoseTrack sequences, is accepted.
    """

    def __init__(
        self,
        file: BoxFile,
        name: str,
        frames: list[tuple[int, str]] | None = None,
        num_frames: int | None = None,
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
        if frames is not None:
            self._check_known(
                {self.image_id(number, file_name) for number, file_name in frames}, "this input has no such frame"
            )
        elif num_frames is not None:
            self.check_all_seen(num_frames)

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
        """Return the boxes of a frame of (H, W) pixels.

        Raises:
            InputError: a box lies wholly outside the image.
        """
        found = self._file.by_image.get(self.image_id(number, file_name), EMPTY)
        height, width = size
        x, y, w, h = found.boxes.T
        outside = (x >= width) | (y >= height) | (x + w <= 0) | (y + h <= 0)
        if outside.any():
            box = np.round(found.boxes[outside][0], 1).tolist()
            raise InputError(
                f"boxes file '{self._file.path}': box {box} of frame {number} lies outside the {width}x{height} "
                "image; are the boxes those of this input?"
            )
        return found

    def check_all_seen(self, num_frames: int) -> None:
        """Raise InputError if frames beyond a video's end have boxes; for a video of unknown length, call it last."""
        known = {self.image_id(number, None) for number in range(num_frames)}
        self._check_known(known, f"the video has frames 0 to {num_frames - 1}")

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

    def _check_known(self, known: set[int], explanation: str) -> None:
        mine = set(self._file.by_image)
        if self._vid_id is not None:  # boxes of other sequences may be in the same file
            mine = {i for i in mine if i // 10_000 == image_id(self._vid_id, 0) // 10_000}
        elif self._file.image_ids:  # and so may annotations of other folders
            mine &= set(self._ids_of_name.values()) or mine
        if mine and not mine & known:
            raise InputError(
                f"boxes file '{self._file.path}' has no boxes for '{self._name}': its image ids begin with "
                f"{', '.join(map(str, sorted(mine)[:3]))}, this input's with {', '.join(map(str, sorted(known)[:3]))}"
            )
        unknown = sorted(mine - known)
        if unknown:
            raise InputError(
                f"boxes file '{self._file.path}' has boxes for {len(unknown)} frame{'s' if len(unknown) > 1 else ''} "
                f"of '{self._name}' that do not exist, the first {unknown[0]}: {explanation}"
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


def _read_person(entry: AnnotationRecord, annotated: bool) -> _Person | str:
    """Return what an annotation or a detection says, or why it is skipped."""
    if entry.category_id not in (None, PERSON_CATEGORY):
        return OTHER_CATEGORY
    if entry.is_crowd:
        return CROWD
    box = entry.bbox
    if annotated and (box is None or min(box[2:]) < MIN_SIDE):  # PoseTrack's files have such people
        return NO_AREA
    if box is None:
        raise entry.refuse("bbox", BOX)
    if min(box[2:]) < MIN_SIDE:
        raise InputError(f"{entry.where}: bbox {box} has no area")
    keypoints = entry.keypoints if annotated else None  # of a detection, the third numbers can mean anything
    if keypoints is not None and not any(label > 0 for label in keypoints[2::3]):
        return NO_JOINT
    score = entry.score
    if score is not None and abs(score) > MAX_SCORE:
        raise entry.refuse("score", "a number from 0 to 1, or no score for 1")
    return box, 1.0 if score is None else score, entry.track_id


def _pack(people: list[_Person]) -> FrameBoxes:
    boxes, scores, tracks = zip(*people, strict=True)
    known = None not in tracks and len(set(tracks)) == len(tracks)
    return FrameBoxes(
        np.array(boxes, np.float32),
        np.array(scores, np.float32),
        np.array(tracks, np.int64) if known else None,
    )
