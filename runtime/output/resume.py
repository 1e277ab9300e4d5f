"""How far an interrupted run got: reads the JSON lines that it left, and checks them against the input.

A line is one frame, written in a single call; only the last line can be torn, and a torn line does not count. The file
is read line by line and only its end is kept in memory: the tracker and the smoothing filter start from it, so that
people keep their ids and poses do not jump. Nothing here writes.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdtc.core.annotation_file import MAX_ID
from sdtc.core.errors import InputError
from sdtc.core.files import text_of
from sdtc.runtime.output.results import FrameResult, Pose
from sdtc.runtime.people.rates import MIN_STEP, ROUNDING
from sdtc.runtime.people.tracking import MAX_LOST, Tracker
from sdtc.runtime.sources.base import FrameSource

MAX_LINE = 64 << 20  # bytes; a pose takes about 500
MIN_TAIL = 8  # frames: the tracker and the smoothing filter know how people move, also where frames are rare


@dataclass(frozen=True)
class Progress:
    """How far a file of JSON lines got with its input.

    Attributes:
        frames: number of complete lines, one per frame, from the input's first frame on.
        size: bytes of these lines.
        torn: whether an incomplete line follows.
        next_id: the smallest track id above all ids in the file.
        tail: the last frames, as far back as a tracker remembers, without some if there are hundreds a second; their
            images are None.
    """

    frames: int
    size: int
    torn: bool
    next_id: int
    tail: list[FrameResult]

    def make_tracker(self) -> Tracker:
        """Return a tracker that knows the people of the last frames, and gives other people ids that the file lacks."""
        tracker = Tracker(first_id=self.next_id)
        for result in self.tail:
            boxes, scores = [pose.bbox for pose in result.poses], [pose.bbox_score for pose in result.poses]
            tracker.recall(np.array(boxes), np.array(scores), [pose.track_id for pose in result.poses], result.time)
        return tracker


def read_progress(path: Path, source: FrameSource, num_joints: int) -> Progress:
    """Read how far an earlier run got.

    Args:
        path: a file of `sdtc.runtime.output.writers.JsonlWriter`.
        source: the input that it should belong to: the numbers and names of frames must agree.
        num_joints: J of the model.

    Raises:
        InputError: the file belongs to another input or model, or was not written by `JsonlWriter`.
    """
    frames, size, torn, next_id = 0, 0, False, 0
    tail, before = _Tail(), -math.inf
    expected = _names(source)
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE):
                if not line.endswith(b"\n") and len(line) < MAX_LINE:
                    torn = True
                    break
                record, ids = _parse(line)
                if record is None or record["time"] < before:
                    raise _invalid_line(path, frames)
                found, want = (record["frame"], record["name"]), next(expected, None)
                if found != want:
                    raise InputError(
                        f"'{path}' is not of the input '{source.path}': its line {frames + 1} is {_describe(found)}, "
                        f"expected {_describe(want)}; move it away or choose another `output`"
                    )
                next_id = max([next_id, *(track_id + 1 for track_id in ids)])
                before = record["time"]
                tail.append(frames, record)
                frames, size = frames + 1, size + len(line)
    except OSError as error:
        raise InputError(f"'{path}' cannot be read to resume it: {error.strerror}") from None
    results = []
    for index, record in tail.frames:
        result = _result(record, index)
        if result is None:
            raise _invalid_line(path, index)
        results.append(result)
    joints = {len(pose.keypoints) for result in results for pose in result.poses} - {num_joints}
    if joints:
        raise InputError(
            f"'{path}' has poses of {joints.pop()} joints, this model gives {num_joints}: it was written with another "
            "engine, choose that one or another `output`"
        )
    return Progress(frames, size, torn, next_id, results)


class _Tail:
    """The last frames of a file: all that a tracker remembers, in bounded memory whatever the rate of frames.

    Attributes:
        frames: index and object of their lines.
    """

    def __init__(self) -> None:
        self.frames: deque[tuple[int, Any]] = deque()

    def append(self, index: int, record: Any) -> None:
        # Of three frames so close together the one in the middle tells nothing more.
        if len(self.frames) > 1 and record["time"] - self.frames[-2][1]["time"] < MIN_STEP:
            self.frames.pop()
        self.frames.append((index, record))
        # A person who is not found in the second frame was in the first.
        while len(self.frames) > MIN_TAIL and record["time"] - self.frames[1][1]["time"] > MAX_LOST + ROUNDING:
            self.frames.popleft()


def _invalid_line(path: Path, index: int) -> InputError:
    return InputError(
        f"line {index + 1} of '{path}' is not one that sdtc-infer wrote, so `resume=True` cannot continue the file: "
        "move it away or choose another `output`"
    )


def _names(source: FrameSource) -> Iterator[tuple[int, str | None]]:
    """Yield number and name of every frame that the source should have; for a video, without end."""
    if source.listing is None:
        return ((number, None) for number in itertools.count())
    return ((number, None if name is None else text_of(name)) for number, name in source.listing)


def _describe(frame: tuple[Any, Any] | None) -> str:
    if frame is None:
        return "no such frame"
    return f"frame {frame[0]!r:.30}" + ("" if frame[1] is None else f" ({frame[1]!r:.100})")


def _parse(line: bytes) -> tuple[Any, list[int]]:
    """Return a line's object and the track ids in it; None if `JsonlWriter` cannot have written it."""
    try:
        record = json.loads(line)
        ids = [pose["track_id"] for pose in record["poses"]]
        good = type(record["frame"]) is int and "name" in record
        good = good and type(record["time"]) in (int, float) and math.isfinite(record["time"])
        good = good and all(type(track_id) is int and 0 <= track_id < MAX_ID for track_id in ids)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None, []
    return (record, ids) if good else (None, [])


def _result(record: Any, index: int) -> FrameResult | None:
    """Return a line's frame with its poses; None if they are malformed."""
    poses = []
    try:
        for pose in record["poses"]:
            keypoints, box = np.array(pose["keypoints"], np.float32), np.array(pose["bbox"], np.float32)
            score = float(pose["bbox_score"])
            if keypoints.shape[1:] != (3,) or box.shape != (4,):
                return None
            if not np.isfinite([*keypoints.flat, *box, score]).all():
                return None
            poses.append(Pose(pose["track_id"], keypoints, box, score))
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
    time = float(record["time"])
    return FrameResult(index, record["frame"], record["name"], record["frame"], None, poses, time=time)
