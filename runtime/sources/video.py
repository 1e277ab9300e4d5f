"""Frames of video files, decoded by FFmpeg's libraries, and two functions that `live` shares."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import av
import numpy as np

from sdtc.core.errors import VideoError
from sdtc.runtime.sources.base import DEFAULT_FPS, Frame, FrameSource

MAX_FRAMES = 10_000_000  # four days of video; a header that promises more is damaged


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
        self.num_frames = frames if 0 < frames <= MAX_FRAMES else None  # headers can be wrong

    def __iter__(self) -> Iterator[Frame]:
        count = 0
        error = None
        for count, image in enumerate(self._decode(), start=1):
            if isinstance(image, Exception):
                error, count = image, count - 1
                break
            yield Frame(count - 1, count - 1, None, image)
        if self._closed:  # by the consumer, which needs no more frames
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
        """Return what the header promises, if that is clearly more than what was decoded, else ""."""
        if self.num_frames:  # a few frames less are due to an edit list, not to damage
            return f"{self.num_frames} frames" if count < 0.98 * self.num_frames - 2 else ""
        duration = (self._container.duration or 0) / av.time_base  # Matroska and similar formats store no frame count
        last = (self._last_time or 0.0) + 1 / self.fps
        return f"{duration:.2f} s" if last < 0.97 * duration - 3 / self.fps else ""

    def _decode(self) -> Iterator[np.ndarray | Exception]:
        """Yield images; where the file breaks, the frames that the decoder still holds, and then the error."""
        frames = self._container.decode(self._stream)
        try:
            while (image := self._next(frames)) is not None:
                yield image
        except av.FFmpegError as error:
            # Several frames are decoded at once: those before the break are still in the decoder.
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
        with self._lock:  # closing a container while it decodes crashes the process
            self._closed = True
            self._container.close()


def upright(frame: av.VideoFrame) -> np.ndarray:
    """Return a decoded frame as uint8 ``[H, W, 3]`` RGB, turned by the rotation that the video asks for."""
    image = frame.to_ndarray(format="rgb24")
    quarter_turns = round(getattr(frame, "rotation", 0) / 90) % 4  # phones store their orientation
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


def reason(error: Exception) -> str:
    """Return an error's own words, shortened."""
    text = getattr(error, "strerror", None) or str(error)
    return text[:200] or type(error).__name__
