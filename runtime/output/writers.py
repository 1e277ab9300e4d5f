"""Writers of results: PoseTrack18 JSON, COCO keypoints JSON, JSON lines, overlay video.

Every writer streams, so that memory does not grow with the video. In every case `close` leaves a valid file of all
frames written so far, and before that nothing exists under the final name (except for JSON lines, which are meant to be
read while they are written).
"""

from __future__ import annotations

import contextlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from sdtc.core.errors import InputError, OutputError
from sdtc.core.files import shorten, text_of, unique
from sdtc.core.h264 import ColorTags, H264Writer
from sdtc.core.posetrack import POSETRACK_CATEGORY, sequence_id, to_slots
from sdtc.core.skeleton import POSETRACK, Skeleton
from sdtc.runtime.output.results import FrameResult
from sdtc.runtime.output.sound import SoundTrack
from sdtc.runtime.sources.base import Sound

FORMATS = ("posetrack", "coco", "jsonl")


class Writer(ABC):
    """One output file; a context manager that closes it.

    Attributes:
        path: the final file.
    """

    path: Path

    @abstractmethod
    def write(self, result: FrameResult) -> None:
        """Add a frame."""

    @abstractmethod
    def close(self) -> None:
        """Finish the file. Frames written so far are kept, also after an error."""

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class PoseTrackWriter(Writer):
    """PoseTrack18 predictions: 17 slots, a score per joint, every frame listed, with or without people.

    Poses go straight into the file that is renamed at the end. The short list of images is kept in a second file, with
    disk space reserved for it, so that even a full disk leaves valid JSON of all frames written so far.
    """

    def __init__(self, path: Path, sequence: str, skeleton: Skeleton) -> None:
        if skeleton != POSETRACK:
            raise InputError(
                f"`format='posetrack'` needs PoseTrack's joints, this model gives {skeleton.name}'s: use coco or jsonl"
            )
        self.path, self._sequence = path, text_of(sequence)
        self._reserve = _Reserve(path)
        self._images = _Stream(path, _temporary(path, "images"), unlink=True)
        self._file = _Stream(path, _temporary(path, "poses"))
        self._file.write('{"categories": ' + json.dumps([POSETRACK_CATEGORY]) + ',\n"annotations": [\n')

    def write(self, result: FrameResult) -> None:
        identifier = result.image_id
        name = text_of(result.name or f"{result.number:06d}.jpg")
        image = {"file_name": f"images/val/{self._sequence}/{name}", "id": identifier, "frame_id": identifier}
        image |= _times(result)
        vid_id = sequence_id(self._sequence)
        if vid_id is not None:
            image["vid_id"] = vid_id
        self._reserve.hold(self._images.size)
        self._images.write_item(image)
        for pose in result.poses:
            slots = to_slots(pose.keypoints)  # [17, 3]
            scores = slots[:, 2] * pose.bbox_score  # joint score = heatmap maximum × box score
            slots = np.concatenate([slots[:, :2], slots[:, 2:] > 0], axis=1)
            self._file.write_item(
                {
                    "image_id": identifier,
                    "track_id": pose.track_id,
                    "category_id": 1,
                    "keypoints": _numbers(slots),
                    "scores": _numbers(scores, 5),
                    "score": round(pose.score, 5),
                    "bbox": _numbers(pose.bbox),
                }
            )

    def close(self) -> None:
        self._reserve.release()
        self._file.write('\n],\n"images": [\n')
        self._images.copy_to(self._file)
        self._file.write("\n]}\n")
        self._file.finish()


class CocoWriter(Writer):
    """COCO keypoint results: one list entry per pose, as COCO's evaluator loads it."""

    def __init__(self, path: Path, skeleton: Skeleton) -> None:
        self.path = path
        self._posetrack = skeleton == POSETRACK
        self._reserve = _Reserve(path)
        self._reserve.hold(0)
        self._file = _Stream(path, _temporary(path, "poses"))
        self._file.write("[\n")

    def write(self, result: FrameResult) -> None:
        for pose in result.poses:
            keypoints = to_slots(pose.keypoints) if self._posetrack else pose.keypoints
            self._file.write_item(
                {
                    "image_id": result.image_id,
                    "category_id": 1,
                    "keypoints": _numbers(keypoints, 4),
                    "score": round(pose.score, 5),
                    "bbox": _numbers(pose.bbox),
                    "track_id": pose.track_id,
                    **_times(result),
                }
            )

    def close(self) -> None:
        self._reserve.release()
        self._file.write("\n]\n")
        self._file.finish()


class JsonlWriter(Writer):
    """One line per frame, as it comes.

    ``{"frame", "name", "time", "poses": [{"track_id", "bbox", "bbox_score", "score", "keypoints"}]}``; frames of a live
    source also have a ``wall_clock``.

    A line is written in a single system call, so that only a kill during that call can tear the last line.

    Args:
        path: the file.
        keep: bytes of an earlier run's file to keep and continue; the rest is cut off. None to start a new file.
    """

    def __init__(self, path: Path, keep: int | None = None) -> None:
        self.path = path
        self._file = _Stream(path, path, keep=keep)

    def write(self, result: FrameResult) -> None:
        line = {
            "frame": result.number,
            "name": None if result.name is None else text_of(result.name),
            **_times(result),
            "poses": [
                {
                    "track_id": pose.track_id,
                    "bbox": _numbers(pose.bbox),
                    "bbox_score": round(pose.bbox_score, 5),
                    "score": round(pose.score, 5),
                    "keypoints": [_numbers(point, 4) for point in pose.keypoints],
                }
                for pose in result.poses
            ],
        }
        self._file.write(json.dumps(line, allow_nan=False) + "\n")

    def close(self) -> None:
        self._file.finish()


class VideoWriter(Writer):
    """An overlay video, H.264 in MP4; its size is the first picture's, rounded down to even sides.

    Every picture is shown at its frame's time, and looks as in the source: with its shape of pixels and its colours.

    Args:
        path: ends in ``.mp4``.
        fps: frames per second, on average.
        draw: turns a result into the picture to write, RGB, or None where the frame has no picture.
        colors: how the source stores colours; BT.709, which players take videos for, if not given.
        sound: of the source, to be taken along; none if not given.
    """

    def __init__(
        self, path: Path, fps: float, draw: Any, colors: ColorTags | None = None, sound: Sound | None = None
    ) -> None:
        self.path, self._fps, self._draw, self._sound = path, fps, draw, sound
        self._colors = colors or ColorTags()
        self._temporary = _temporary(path, "video")
        self._video: H264Writer | None = None  # opened by the first picture, which has the size
        self._last: np.ndarray | None = None
        self._waiting: list[float] = []  # times of the frames before the first picture

    def write(self, result: FrameResult) -> None:
        image = self._draw(result)
        if image is None:
            image = self._last  # a frame without a picture: repeat the last one
        if image is None:
            self._waiting.append(result.time)  # or show the first that comes
            return
        with self._dropped_on_error():
            if self._video is None:
                size = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
                self._video = H264Writer(
                    self._temporary, self._fps, size, crf=23, preset="veryfast",
                    pixel_aspect=result.pixel_aspect, colors=self._colors,
                    sound=None if self._sound is None else SoundTrack(self._sound),
                )  # fmt: skip
            height, width = self._video.size
            if image.shape[:2] != (height, width):
                image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
            self._last = image
            for time in (*self._waiting, result.time):
                self._video.write(image, time)
            self._waiting.clear()

    def close(self) -> None:
        if self._video is None:
            return
        with self._dropped_on_error():
            self._video.close()
            self._video = None
            with contextlib.suppress(FileNotFoundError):  # Ctrl-C came before the first picture was encoded
                os.replace(self._temporary, self.path)

    @contextlib.contextmanager
    def _dropped_on_error(self) -> Iterator[None]:
        """On an error delete the video: half of it would not play, and on a full disk the poses need its space."""
        with _output_errors(self.path):
            try:
                yield
            except (OSError, av.FFmpegError):
                video, self._video = self._video, None
                with contextlib.suppress(OSError, av.FFmpegError):
                    if video is not None:
                        video.abandon()
                self._temporary.unlink(missing_ok=True)
                raise


LONGEST_SUFFIX = len(".jsonl")


def result_path(output_format: str | None, stem: Path, skeleton: Skeleton) -> Path:
    """Return the file that :func:`make_writer` writes for the same arguments."""
    return stem.with_name(f"{stem.name}.{'jsonl' if _resolve(output_format, skeleton) == 'jsonl' else 'json'}")


def make_writer(output_format: str | None, stem: Path, sequence: str, skeleton: Skeleton) -> Writer:
    """Return the writer of a format; the file is `stem` with the format's suffix.

    If no format is given, it is PoseTrack's for PoseTrack's joints, else COCO's.

    Raises:
        InputError: the format is unknown, or does not fit the skeleton.
    """
    path = result_path(output_format, stem, skeleton)
    output_format = _resolve(output_format, skeleton)
    if output_format == "jsonl":
        return JsonlWriter(path)
    return PoseTrackWriter(path, sequence, skeleton) if output_format == "posetrack" else CocoWriter(path, skeleton)


def check_format(output_format: str) -> None:
    """Raise `InputError` unless a format is one of `FORMATS`."""
    if output_format not in FORMATS:
        raise InputError(f"`format` is '{output_format}': expected one of {', '.join(FORMATS)}")


def _resolve(output_format: str | None, skeleton: Skeleton) -> str:
    output_format = output_format or ("posetrack" if skeleton == POSETRACK else "coco")
    check_format(output_format)
    return output_format


class _Stream:
    """An unbuffered text file: after a failed write it ends with the last complete piece.

    Args:
        final: the name of the finished file, also used in messages.
        path: where to write; `finish` renames it to the final name.
        unlink: remove the name at once, where the system allows it, so that not even a kill leaves the file behind.
        keep: bytes of the existing file to keep; None to start a new file.
    """

    def __init__(self, final: Path, path: Path, unlink: bool = False, keep: int | None = None) -> None:
        self._final, self._path = final, path
        self._items = 0
        with _output_errors(final):
            self._file = path.open("w+b" if keep is None else "r+b", buffering=0)
            if keep is not None:
                self._file.truncate(keep)
                self._file.seek(keep)
            if unlink:
                with contextlib.suppress(OSError):
                    path.unlink()

    @property
    def size(self) -> int:
        """Bytes written."""
        return self._file.tell()

    def write(self, text: str) -> None:
        self._write_bytes(text.encode())

    def write_item(self, value: Any) -> None:
        """Write one more element of a JSON array."""
        self.write((",\n" if self._items else "") + json.dumps(value, allow_nan=False))
        self._items += 1

    def copy_to(self, target: _Stream) -> None:
        """Append everything to another stream, and close this one."""
        self._file.seek(0)
        while piece := self._file.read(1 << 20):
            target._write_bytes(piece)
        self._file.close()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def finish(self) -> None:
        """Close, and give the file its final name."""
        with _output_errors(self._final):
            self._file.close()
            if self._path != self._final:
                os.replace(self._path, self._final)

    def _write_bytes(self, data: bytes) -> None:
        start = self._file.tell()
        rest = memoryview(data)
        with _output_errors(self._final):
            try:
                while rest:
                    rest = rest[self._file.write(rest) :]
            except BaseException:  # a full disk or Ctrl-C may leave a part of the piece
                self._file.truncate(start)
                self._file.seek(start)
                raise


class _Reserve:
    """Disk space that is reserved for the part that must still be written when the disk is full."""

    STEP = 16 << 10

    def __init__(self, path: Path) -> None:
        self._final, self._path = path, _temporary(path, "reserve")
        self._held = 0

    def hold(self, size: int) -> None:
        """Reserve at least `size` bytes, and half a step more.

        Raises:
            OutputError: the disk has no space left.
        """
        if size + self.STEP // 2 <= self._held:
            return
        self._held += self.STEP
        with _output_errors(self._final), self._path.open("ab") as file:
            file.write(bytes(self.STEP))

    def release(self) -> None:
        """Give the space back."""
        self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        raise OutputError(f"cannot write '{path}': {error.strerror or error}") from error


def _temporary(path: Path, part: str) -> Path:
    return path.with_name(f".{shorten(path.name, 80)}.{unique()}.{part}.part")


def _times(result: FrameResult) -> dict[str, float]:
    """Return the times of a frame that files hold: from the first frame and, of a live source, since 1970; seconds."""
    times = {"time": round(result.time, 6)}
    return times | {"wall_clock": round(result.wall_clock, 3)} if result.wall_clock else times


def _numbers(values: Any, digits: int = 3) -> list[float]:
    return [round(float(value), digits) for value in np.ravel(values)]
