"""The interface of every source of frames: one frame at a time, in order; never a whole video in memory.

A source that breaks in the middle ends early or skips frames. After the last readable frame, `problems` says so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdtc.core.h264 import ColorTags

DEFAULT_FPS = 25.0  # of image folders, which have no frame rate of their own


@dataclass(frozen=True)
class Frame:
    """One frame of a source.

    Attributes:
        index: position from 0, missing frames included.
        number: the number in the file name; the index for videos.
        name: file name; None for videos.
        image: uint8 ``[H, W, 3]`` RGB; None where the file is missing or broken.
        received: when it arrived from a live source, `time.monotonic` seconds; 0 for files.
        time: seconds from the first frame: by the time stamps of a video, by `DEFAULT_FPS` for images, by arrival for
            live sources. It never falls from one frame to the next; frames that a network held up have almost the same.
        wall_clock: when it arrived from a live source, seconds since 1970; 0 for files.
        pixel_aspect: width of a pixel relative to its height; 1 unless the video is anamorphic.
    """

    index: int
    number: int
    name: str | None
    image: np.ndarray | None
    received: float = 0.0
    time: float = 0.0
    wall_clock: float = 0.0
    pixel_aspect: float = 1.0


GAP = Frame(-1, -1, None, None)  # marks a pause or break of a live source: the frames around it are not neighbours


@dataclass(frozen=True)
class Sound:
    """Where to find the sound of a video file, and how its time stamps become the times of frames.

    Attributes:
        path: the file.
        stream: index of the sound in it.
        pieces: of the frames' clock, growing while frames are read: `Frame.time` from which on a piece counts, and what
            it adds to time stamps, both in seconds. More than one where time stamps go back.
        notes: those of the source; what cannot be heard is added to them.
    """

    path: Path
    stream: int
    pieces: Sequence[tuple[float, float]]
    notes: list[str]


class FrameSource(ABC):
    """An iterable of frames and a context manager.

    Attributes:
        path: what was opened.
        name: short name for outputs.
        fps: frames per second.
        num_frames: expected number of frames, for progress bars; None if unknown. Headers of videos can be wrong.
        partial: whether the images are only some of those in their folder.
        listing: number and file name of every frame, None for the name of a missing one; None for videos.
        colors: how the colours of a video are stored; None for images, and before the first frame.
        sound: of a video file; None if it has none, and for all other sources.
        problems: sentences about what could not be read; complete after the iteration.
        notes: sentences about what was passed over on purpose.
        live: frames arrive in real time (`live`), with their time of arrival, and with `GAP` at pauses and breaks.
        drop_late: frames that arrive faster than they are processed are dropped; the newest is kept.
        dropped: number of frames dropped so far.
    """

    path: Path
    name: str
    fps: float
    num_frames: int | None
    listing: Sequence[tuple[int, str | None]] | None = None
    partial: bool = False
    colors: ColorTags | None = None
    sound: Sound | None = None
    problems: list[str]
    notes: Sequence[str] = ()
    live: bool = False
    drop_late: bool = False
    dropped: int = 0

    @property
    def sequence(self) -> str:
        """Name of the sequence that the frames belong to, as PoseTrack's files have it."""
        return self.name

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]: ...

    def stop(self) -> None:  # noqa: B027  (a source that is never waited for needs none)
        """End the iteration soon, even while it waits for a frame; may be called from any thread."""

    def close(self) -> None:  # noqa: B027  (an image folder holds nothing open)
        """Release the files."""

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class FileSource(FrameSource):
    """Files, which are never waited for: `stop` takes effect at the next frame.

    Files can be read again, and whoever has read them stops them: an iteration is ended only by a `stop` while it goes
    on, and the first one also by a `stop` before it.
    """

    _begun = False
    _stopped = False

    def stop(self) -> None:
        self._stopped = True

    def _begin(self) -> None:
        """Begin an iteration."""
        self._stopped = self._stopped and not self._begun
        self._begun = True
