"""Person boxes from a JSON file: a COCO detection list, or COCO / PoseTrack annotations. NumPy only.

A detection list is ``[{"image_id", "bbox": [x, y, w, h], "score"}, …]``. Image ids are PoseTrack's for an input named
as a PoseTrack sequence (``012834_mpii_test``) of which the file has ids, and frame numbers for every other input.
Annotations carry their own images, which are found by file name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdtc.errors import InputError
from sdtc.files import read_json
from sdtc.posetrack import image_id, sequence_id

MIN_SCORE = 0.2  # detections below are dropped (paper, section 8)


@dataclass(frozen=True)
class FrameBoxes:
    """The people of one frame.

    Attributes:
        boxes: float32 ``[N, 4]`` (x, y, width, height), image pixels.
        scores: float32 ``[N]``, 0-1.
        track_ids: int64 ``[N]``; None where the file does not say who is who.
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
        image_ids: image id by file name, for annotation files; empty for detection lists.
        skipped: annotations without a usable box, which PoseTrack's own files contain.
    """

    def __init__(self, path: Path, min_score: float = MIN_SCORE) -> None:
        """Read and check a file.

        Raises:
            InputError: not such a file, or an entry with a bad box; the entry is named.
        """
        self.path = path
        self.skipped = 0
        data = read_json(path, "boxes")
        self.image_ids: dict[str, int] = {}
        if isinstance(data, dict):
            self._read_images(data)
            entries, annotations = data["annotations"], True
        elif isinstance(data, list):
            entries, annotations = data, False
        else:
            entries = None
        if not isinstance(entries, list):
            raise InputError(
                f"boxes file '{path}' is neither a list of detections nor annotations with 'images' and 'annotations'"
            )
        rows: dict[int, list[tuple[list[float], float, int | None]]] = {}
        for number, entry in enumerate(entries):
            parsed = self._read_entry(entry, number, annotations)
            if parsed is not None and parsed[2] >= min_score:
                image, box, score, track = parsed
                rows.setdefault(image, []).append((box, score, track))
        self.by_image = {image: _pack(people) for image, people in rows.items()}

    def _read_images(self, data: dict[str, Any]) -> None:
        images = data.get("images")
        if not isinstance(images, list) or "annotations" not in data:
            raise InputError(
                f"boxes file '{self.path}' has the keys {', '.join(list(data)[:5])}: expected 'images' and "
                "'annotations', or a list of detections"
            )
        for number, image in enumerate(images):
            try:
                self.image_ids[str(image["file_name"])] = int(image["id"])
            except (KeyError, TypeError, ValueError):
                raise InputError(
                    f"boxes file '{self.path}': image {number} has no usable 'file_name' and 'id'"
                ) from None

    def _read_entry(
        self, entry: Any, number: int, annotation: bool
    ) -> tuple[int, list[float], float, int | None] | None:
        where = f"boxes file '{self.path}', entry {number}"
        try:
            image = int(entry["image_id"])
            if annotation and not entry.get("bbox"):
                self.skipped += 1
                return None
            box = [float(value) for value in entry["bbox"]]
            score = float(entry.get("score", 1.0))
            track = entry.get("track_id")
            track = None if track is None else int(track)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InputError(f"{where} has no usable 'image_id' and 'bbox' [x, y, width, height]") from None
        if len(box) != 4 or not all(map(math.isfinite, [*box, score])):
            raise InputError(f"{where}: bbox is {entry['bbox']}, expected four finite numbers x, y, width, height")
        if box[2] <= 0 or box[3] <= 0:
            if annotation:  # PoseTrack's files have such people; the field skips them
                self.skipped += 1
                return None
            raise InputError(f"{where}: bbox {box} has no area")
        return image, box, score, track


class SourceBoxes:
    """The boxes of a file that belong to one input.

    Args:
        file: the boxes.
        name: the input's name; a PoseTrack sequence's name decides how image ids are read.
        frames: ``(number, file name)`` of every frame, where known in advance; None for a video.
        num_frames: of a video, where its header says.

    Raises:
        InputError: none of the boxes belong to this input, or some belong to frames that it does not have.
    """

    def __init__(
        self,
        file: BoxFile,
        name: str,
        frames: list[tuple[int, str]] | None = None,
        num_frames: int | None = None,
    ) -> None:
        self._file, self._name = file, name
        vid_id = sequence_id(name)
        # A name may look like a sequence's by chance; the file's own ids decide.
        posetrack = vid_id is not None and any(i // 10_000 == image_id(vid_id, 0) // 10_000 for i in file.by_image)
        self._vid_id = vid_id if posetrack else None
        self._ids_of_name: dict[str, int] = {}
        for path, identifier in file.image_ids.items():
            # Prefer images of the folder of this name; a file for one sequence may not say the folder at all.
            if len(Path(path).parts) < 2 or Path(path).parent.name == name:
                self._ids_of_name[Path(path).name] = identifier
        if frames is not None:
            self._check_known(
                {self.image_id(number, file_name) for number, file_name in frames}, "this input has no such frame"
            )
        elif num_frames is not None:
            self.check_all_seen(num_frames)

    def image_id(self, number: int, file_name: str | None) -> int:
        """Return the id that the file would give a frame."""
        if file_name is not None and file_name in self._ids_of_name:
            return self._ids_of_name[file_name]
        return number if self._vid_id is None else image_id(self._vid_id, number)

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
        """Complain about boxes of frames beyond the end of a video; for one of unknown length, call it at the end."""
        known = {self.image_id(number, None) for number in range(num_frames)}
        self._check_known(known, f"the video has frames 0 to {num_frames - 1}")

    def _check_known(self, known: set[int], explanation: str) -> None:
        mine = set(self._file.by_image)
        if self._vid_id is not None:  # boxes of other sequences are no mistake
            mine = {i for i in mine if i // 10_000 == image_id(self._vid_id, 0) // 10_000}
        elif self._file.image_ids:  # annotations of other folders neither
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


def _pack(people: list[tuple[list[float], float, int | None]]) -> FrameBoxes:
    boxes, scores, tracks = zip(*people, strict=True)
    known = None not in tracks and len(set(tracks)) == len(tracks)
    return FrameBoxes(
        np.array(boxes, np.float32),
        np.array(scores, np.float32),
        np.array(tracks, np.int64) if known else None,
    )
