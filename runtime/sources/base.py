"""What every source of frames is: one frame at a time, in order; never a whole video in memory.

What breaks in the middle ends or skips, and is told in `problems` when everything readable has been handed out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

DEFAULT_FPS = 25.0  # of image folders, which do not say


@dataclass(frozen=True)
class Frame:
    """One frame of a source.

    Attributes:
        index: position from 0, missing frames included.
        number: the number in the file name; the index for videos.
        name: file name; None for videos.
        image: uint8 ``[H, W, 3]`` RGB; None where the file is missing or broken.
        received: when it came from a live source, `time.monotonic` seconds; 0 for files.
    """

    index: int
    number: int
    name: str | None
    image: np.ndarray | None
    received: float = 0.0


GAP = Frame(-1, -1, None, None)  # stands between frames of a live source: nothing comes, what follows is apart


class FrameSource(ABC):
    """An iterable of frames and a context manager.

    Attributes:
        path: what was opened.
        name: short name for outputs.
        fps: frames per second.
        num_frames: how many there should be; None if that is not known.
        listing: number and file name of every frame, None for the name of a missing one; None for videos.
        problems: sentences about what could not be read; complete after the iteration.
        live: frames come when they come (`live`), with the time at which they did, and `GAP` between.
        drop_late: frames that nobody is ready for make room for newer ones.
        dropped: how many have.
    """

    path: Path
    name: str
    fps: float
    num_frames: int | None
    listing: Sequence[tuple[int, str | None]] | None = None
    problems: list[str]
    live: bool = False
    drop_late: bool = False
    dropped: int = 0

    @abstractmethod
    def __iter__(self) -> Iterator[Frame]: ...

    def stop(self) -> None:  # noqa: B027  (files are never waited for)
        """End the iteration soon, also while it waits for a frame; from any thread."""

    def close(self) -> None:  # noqa: B027  (an image folder holds nothing open)
        """Release the files."""

    def __enter__(self) -> FrameSource:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
