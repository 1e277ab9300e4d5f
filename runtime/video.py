"""Frames from video files and image folders, one at a time, in order; never a whole video in memory.

What breaks in the middle ends or skips, and is told in `problems` when everything readable has been handed out.
"""

from __future__ import annotations

import glob
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from sdtc.errors import InputError, VideoError
from sdtc.images import read_image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MAX_FRAMES = 10_000_000  # four days; a header that promises more is damaged
DEFAULT_FPS = 25.0  # of image folders, which do not say
MAX_GAP = 10  # where more than this many are missing per present image, numbers do not count frames


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
        num_frames: how many there should be; None where nobody knows.
        problems: sentences about what could not be read; complete after the iteration.
        live: frames come when they come (`sdtc.runtime.live`), with the time at which they did, and `GAP` between.
        drop_late: frames that nobody is ready for make room for newer ones.
        dropped: how many have.
    """

    path: Path
    name: str
    fps: float
    num_frames: int | None
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


class VideoFile(FrameSource):
    """A video file, decoded by FFmpeg's libraries.

    Raises:
        VideoError: missing, empty, or not a video.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.stem
        self.problems: list[str] = []
        if path.stat().st_size == 0:
            raise VideoError(f"video '{path}' is empty (0 bytes)")
        try:
            self._container = av.open(str(path.absolute()))  # a relative name with a colon would be a protocol
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(f"'{path}' cannot be opened as a video: {reason(error)}") from None
        if not self._container.streams.video:
            self._container.close()
            raise VideoError(f"'{path}' has no video stream")
        self._stream = self._container.streams.video[0]
        self._stream.thread_type = "AUTO"
        self._last_time: float | None = None  # seconds, of the last frame
        self._lock, self._closed = threading.Lock(), False
        self.fps = float(self._stream.average_rate or self._stream.base_rate or DEFAULT_FPS)
        frames = self._stream.frames
        self.num_frames = frames if 0 < frames <= MAX_FRAMES else None  # headers are not to be trusted

    def __iter__(self) -> Iterator[Frame]:
        count = 0
        error = None
        for count, image in enumerate(self._decode(), start=1):
            if isinstance(image, Exception):
                error, count = image, count - 1
                break
            yield Frame(count - 1, count - 1, None, image)
        if self._closed:  # by someone who has seen enough
            return
        reached = f"frame {count - 1} ({count / self.fps:.2f} s)"
        if count == 0:
            why = reason(error) if error else "it holds no frames"
            self.problems.append(f"no frame of video '{self.path}' can be decoded: {why}")
        elif error is not None:
            self.problems.append(
                f"video '{self.path}' breaks after {reached}: {reason(error)}; what was decoded before is kept"
            )
        elif promised := self._promised_more_than(count):
            self.problems.append(
                f"video '{self.path}' is cut off: it ends after {reached}, its header promises {promised}; what was "
                "decoded is kept"
            )

    def _promised_more_than(self, count: int) -> str:
        """Return what the header promises, if that is clearly more than what came; "" if not."""
        if self.num_frames:  # a few frames less are an edit list's doing, not damage
            return f"{self.num_frames} frames" if count < 0.98 * self.num_frames - 2 else ""
        duration = (self._container.duration or 0) / av.time_base  # Matroska and the like count no frames
        last = (self._last_time or 0.0) + 1 / self.fps
        return f"{duration:.2f} s" if last < 0.97 * duration - 3 / self.fps else ""

    def _decode(self) -> Iterator[np.ndarray | Exception]:
        """Yield images; where the file breaks, what the decoder still holds, and then the error."""
        frames = self._container.decode(self._stream)
        try:
            while (image := self._next(frames)) is not None:
                yield image
        except av.FFmpegError as error:
            # Several frames are decoded at once: those before the break are not lost with it.
            held: list[np.ndarray] = []
            with self._lock, suppress(av.FFmpegError):
                if not self._closed:
                    held += (upright(frame) for frame in self._stream.codec_context.decode(None))
            yield from held
            yield error

    def _next(self, frames: Iterator[av.VideoFrame]) -> np.ndarray | None:
        """Decode one frame; None at the end, and after `close`, which may come from another thread."""
        with self._lock:
            frame = None if self._closed else next(frames, None)
            if frame is None:
                return None
            self._last_time = frame.time
            return upright(frame)

    def close(self) -> None:
        with self._lock:  # a container that is closed while it decodes takes the process down
            self._closed = True
            self._container.close()


class ImageSequence(FrameSource):
    """Image files in the order of their numbers; gaps in the numbering are missing frames.

    Args:
        path: the folder, for messages.
        files: the images.
    """

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        self.path, self.name = path, path.absolute().name or "images"
        self.fps = DEFAULT_FPS
        self.problems: list[str] = []
        self._broken: list[Path] = []
        ordered = sorted(files, key=lambda file: (_natural(file.name), file.name))
        numbers = _frame_numbers(ordered)
        self.frames: list[tuple[int, Path | None]] = []  # number and file, missing frames included
        for number, file in zip(numbers, ordered, strict=True):
            if self.frames and _gaps_are_missing_frames(numbers):
                self.frames += [(missing, None) for missing in range(self.frames[-1][0] + 1, number)]
            self.frames.append((number, file))
        self.num_frames = len(self.frames)

    def __iter__(self) -> Iterator[Frame]:
        for index, (number, file) in enumerate(self.frames):
            image = None if file is None else self._read(file)
            yield Frame(index, number, None if file is None else file.name, image)

    def _read(self, file: Path) -> np.ndarray | None:
        image = read_image(file)
        if image is None:
            self._broken.append(file)
            first, count = self._broken[0], len(self._broken)
            self.problems = [
                f"image '{first}' cannot be read and was treated as a missing frame"
                if count == 1
                else f"{count} images cannot be read and were treated as missing frames, the first is '{first}'"
            ]
        return image


def open_source(path: str | Path) -> FrameSource:
    """Open one video file, image file or folder of images; or, given as text, a live source (`sdtc.runtime.live`).

    Raises:
        VideoError: it does not exist, or holds nothing to read.
    """
    from sdtc.runtime.live import LiveSource, is_live  # which needs the classes above

    if is_live(str(path)):
        return LiveSource(str(path))
    path = Path(path)
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
        if not files:
            raise VideoError(f"folder '{path}' holds no images (looked for {', '.join(IMAGE_SUFFIXES)})")
        return ImageSequence(path, files)
    if not path.exists():
        raise VideoError(f"input '{path}' does not exist: expected a video, an image, a folder of images or a glob")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageSequence(path.parent, [path])
    return VideoFile(path)


def find_inputs(spec: str) -> list[str | Path | list[Path]]:
    """Resolve ``--input``: a live source, a path, or a glob that names videos, folders or images.

    Returns:
        What :func:`open_source` takes, live sources as text; the images of one folder, matched by a glob, stay
        together as a list.

    Raises:
        VideoError: nothing matches.
    """
    from sdtc.runtime.live import is_live

    if is_live(spec):
        return [spec]
    if Path(spec).exists() or not glob.has_magic(spec):
        return [Path(spec)]
    matches = sorted(Path(match) for match in glob.glob(spec, recursive=True))
    if not matches:
        raise VideoError(f"no file matches the input '{spec}'")
    inputs: list[str | Path | list[Path]] = []
    folders: dict[Path, list[Path]] = {}
    for match in matches:
        if match.suffix.lower() in IMAGE_SUFFIXES and match.is_file():
            if match.parent not in folders:
                folders[match.parent] = []
                inputs.append(folders[match.parent])
            folders[match.parent].append(match)
        else:
            inputs.append(match)
    return inputs


def open_input(entry: str | Path | list[Path], drop_late: bool = False, reconnect: float | None = None) -> FrameSource:
    """Open what :func:`find_inputs` returned one of.

    Args:
        entry: one of them.
        drop_late, reconnect: of a live source, see `sdtc.runtime.live.LiveSource`.

    Raises:
        InputError: files are never dropped from, nor connected to.
        VideoError: see `open_source`.
    """
    if isinstance(entry, str):
        from sdtc.runtime.live import RECONNECT, LiveSource

        return LiveSource(entry, drop_late, RECONNECT if reconnect is None else reconnect)
    if drop_late or reconnect is not None:
        raise InputError(
            "--drop-late and --reconnect are for cameras, network streams and pipes: leave them out for files"
        )
    return ImageSequence(entry[0].parent, entry) if isinstance(entry, list) else open_source(entry)


def upright(frame: av.VideoFrame) -> np.ndarray:
    image = frame.to_ndarray(format="rgb24")
    quarter_turns = round(getattr(frame, "rotation", 0) / 90) % 4  # phones store how they were held
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


def _frame_numbers(files: Sequence[Path]) -> list[int]:
    """Return a number for each file: its name's digits where all names are digits, else its position."""
    stems = [file.stem for file in files]
    if all(re.fullmatch(r"\d{1,18}", stem) for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(len(files)))


def _gaps_are_missing_frames(numbers: Sequence[int]) -> bool:
    """Whether numbers count the frames of a video; those of a photo collection or time stamps are far apart."""
    return numbers[-1] - numbers[0] < MAX_GAP * len(numbers)


def _natural(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]


def reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text[:200] or type(error).__name__


def check_max_frames(max_frames: int | None) -> None:
    """Refuse a limit that leaves nothing to do."""
    if max_frames is not None and max_frames < 1:
        raise InputError(f"--max-frames is {max_frames}: expected at least 1")
