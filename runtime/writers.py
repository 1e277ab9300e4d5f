"""Results to files: PoseTrack18 JSON, COCO keypoints JSON, JSON lines, overlay video.

Every writer streams, so that memory does not grow with the video; whatever happens, `close` leaves a valid file of
all the frames that were written, and nothing under the final name before (JSON lines excepted: they are meant to be
read as they come).
"""

from __future__ import annotations

import contextlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import av
import cv2
import numpy as np

from sdtc.errors import InputError, OutputError
from sdtc.posetrack import POSETRACK_CATEGORY, image_id, sequence_id, to_slots
from sdtc.runtime.results import FrameResult
from sdtc.skeleton import POSETRACK, Skeleton

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
    """PoseTrack18 predictions: 17 slots, a score per joint, every frame listed whether or not anyone is in it."""

    def __init__(self, path: Path, sequence: str, skeleton: Skeleton) -> None:
        if skeleton != POSETRACK:
            raise InputError(
                f"--format posetrack needs PoseTrack's joints, this model gives {skeleton.name}'s: use coco or jsonl"
            )
        self.path, self._sequence = path, sequence
        self._vid_id = sequence_id(sequence)
        self._images, self._annotations = _Spool(path, "images"), _Spool(path, "annotations")

    def write(self, result: FrameResult) -> None:
        identifier = result.number if self._vid_id is None else image_id(self._vid_id, result.number)
        name = result.name or f"{result.number:06d}.jpg"
        image = {"file_name": f"images/val/{self._sequence}/{name}", "id": identifier, "frame_id": identifier}
        if self._vid_id is not None:
            image["vid_id"] = self._vid_id
        self._images.add(image)
        for pose in result.poses:
            slots = to_slots(pose.keypoints)  # [17, 3]
            scores = slots[:, 2] * pose.bbox_score  # joint score = heatmap maximum × box score
            slots = np.concatenate([slots[:, :2], slots[:, 2:] > 0], axis=1)
            self._annotations.add(
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
        with _replacing(self.path) as file:
            file.write('{"categories": ' + json.dumps([POSETRACK_CATEGORY]))
            file.write(',\n"images": [\n')
            self._images.copy_to(file)
            file.write('],\n"annotations": [\n')
            self._annotations.copy_to(file)
            file.write("]}\n")


class CocoWriter(Writer):
    """COCO keypoint results: one list entry per pose, as COCO's evaluator loads it."""

    def __init__(self, path: Path, sequence: str, skeleton: Skeleton) -> None:
        self.path, self._vid_id = path, sequence_id(sequence)
        self._posetrack = skeleton == POSETRACK
        self._poses = _Spool(path, "poses")

    def write(self, result: FrameResult) -> None:
        identifier = result.number if self._vid_id is None else image_id(self._vid_id, result.number)
        for pose in result.poses:
            keypoints = to_slots(pose.keypoints) if self._posetrack else pose.keypoints
            self._poses.add(
                {
                    "image_id": identifier,
                    "category_id": 1,
                    "keypoints": _numbers(keypoints, 4),
                    "score": round(pose.score, 5),
                    "bbox": _numbers(pose.bbox),
                    "track_id": pose.track_id,
                }
            )

    def close(self) -> None:
        with _replacing(self.path) as file:
            file.write("[\n")
            self._poses.copy_to(file)
            file.write("]\n")


class JsonlWriter(Writer):
    """One line a frame, as it goes: ``{"frame", "name", "poses": [{"track_id", "bbox", "score", "keypoints"}]}``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _output_errors(path):
            self._file = path.open("wb", buffering=0)

    def write(self, result: FrameResult) -> None:
        line = {
            "frame": result.number,
            "name": result.name,
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
        data = memoryview((json.dumps(line) + "\n").encode())
        whole_lines = self._file.tell()
        with _output_errors(self.path):
            try:
                while data:
                    data = data[self._file.write(data) :]
            except OSError:  # a full disk may take half of a line
                self._file.truncate(whole_lines)
                raise

    def close(self) -> None:
        with _output_errors(self.path):
            self._file.close()


class VideoWriter(Writer):
    """H.264 in MP4 that a browser plays: yuv420p, even sides, index in front.

    Args:
        path: ends in ``.mp4``.
        fps: frames per second.
        draw: turns a result into the picture to write, RGB, or None for no picture.
    """

    def __init__(self, path: Path, fps: float, draw: Any) -> None:
        self.path, self._draw = path, draw
        self._temporary = _temporary(path, "video")
        self._rate = Fraction(fps).limit_denominator(1001)
        self._container: Any = None
        self._stream: Any = None
        self._last: np.ndarray | None = None

    def write(self, result: FrameResult) -> None:
        image = self._draw(result)
        if image is None:
            image = self._last  # a missing frame: the picture stands still
        if image is None:
            return
        with self._giving_up_on_error():
            if self._stream is None:
                self._open(image.shape)
            if image.shape[:2] != (self._stream.height, self._stream.width):
                image = cv2.resize(image, (self._stream.width, self._stream.height), interpolation=cv2.INTER_AREA)
            self._last = image
            for packet in self._stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                self._container.mux(packet)

    def close(self) -> None:
        if self._container is None:
            return
        with self._giving_up_on_error():
            for packet in self._stream.encode():
                self._container.mux(packet)
            self._container.close()
            self._container = None
            os.replace(self._temporary, self.path)

    @contextlib.contextmanager
    def _giving_up_on_error(self) -> Iterator[None]:
        """On an error drop the video: half of it would not play, and on a full disk the poses need its space."""
        with _output_errors(self.path):
            try:
                yield
            except (OSError, av.FFmpegError):
                container, self._container = self._container, None
                with contextlib.suppress(OSError, av.FFmpegError):
                    if container is not None:
                        container.close()
                self._temporary.unlink(missing_ok=True)
                raise

    def _open(self, shape: tuple[int, ...]) -> None:
        self._container = av.open(str(self._temporary), "w", format="mp4", options={"movflags": "+faststart"})
        self._stream = self._container.add_stream(
            "libx264", rate=self._rate, options={"crf": "23", "preset": "veryfast"}
        )
        self._stream.height, self._stream.width = shape[0] // 2 * 2, shape[1] // 2 * 2
        self._stream.pix_fmt = "yuv420p"


def make_writer(output_format: str | None, stem: Path, sequence: str, skeleton: Skeleton) -> Writer:
    """Return the writer of a format; the file is `stem` with the format's suffix.

    Without a format it is PoseTrack's for PoseTrack's joints, else COCO's.

    Raises:
        InputError: unknown format, or one that the skeleton does not fit.
    """
    output_format = output_format or ("posetrack" if skeleton == POSETRACK else "coco")
    if output_format == "jsonl":
        return JsonlWriter(stem.with_name(f"{stem.name}.jsonl"))
    path = stem.with_name(f"{stem.name}.json")
    if output_format == "posetrack":
        return PoseTrackWriter(path, sequence, skeleton)
    if output_format == "coco":
        return CocoWriter(path, sequence, skeleton)
    raise InputError(f"--format is '{output_format}': expected one of {', '.join(FORMATS)}")


class _Spool:
    """JSON objects on their way into an array: written to an unnamed place on disk, copied at the end."""

    def __init__(self, path: Path, part: str) -> None:
        self._path = _temporary(path, part)
        with _output_errors(path):
            self._file = self._path.open("w+", encoding="utf-8")
            with contextlib.suppress(OSError):  # on systems that allow it, nothing is left behind even by kill -9
                self._path.unlink()
        self._final = path
        self._empty = True

    def add(self, value: Any) -> None:
        with _output_errors(self._final):
            self._file.write(("" if self._empty else ",\n") + json.dumps(value))
        self._empty = False

    def copy_to(self, target: IO[str]) -> None:
        self._file.seek(0)
        while piece := self._file.read(1 << 20):
            target.write(piece)
        target.write("" if self._empty else "\n")
        self._file.close()
        self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[IO[str]]:
    temporary = _temporary(path, "file")
    with _output_errors(path):
        try:
            with temporary.open("w", encoding="utf-8") as file:
                yield file
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _output_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, av.FFmpegError) as error:
        raise OutputError(f"cannot write '{path}': {error.strerror or error}") from error


def _temporary(path: Path, part: str) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{part}.part")


def _numbers(values: Any, digits: int = 3) -> list[float]:
    return [round(float(value), digits) for value in np.ravel(values)]
