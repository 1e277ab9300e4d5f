"""Frames of video files, decoded by FFmpeg's libraries, and functions that `live` shares.

Headers are not believed: `sdtc.runtime.sources.video_frames` finds out which frames are missing, and
`sdtc.runtime.sources.truncation` whether the file's end is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from sdtc.core.errors import VideoError
from sdtc.core.h264 import ColorTags
from sdtc.runtime.sources.base import DEFAULT_FPS, FileSource, Frame, Sound
from sdtc.runtime.sources.truncation import missing_bytes
from sdtc.runtime.sources.video_frames import DecodedFrames, FrameClock

MAX_FRAMES = 10_000_000  # four days of video; a header that promises more is damaged
_STILL_BRANDS = frozenset(("heic", "heix", "heim", "heis", "mif1", "avif"))  # of photographs, often stored in tiles


class VideoFile(FileSource):
    """A video file, decoded by FFmpeg's libraries.

    Raises:
        VideoError: missing, empty, or not a video.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.stem
        self.problems: list[str] = []
        self.notes: list[str] = []
        if path.stat().st_size == 0:
            raise VideoError(f"video '{path}' is empty (0 bytes)")
        try:
            self._container = open_container(path)
        except (av.FFmpegError, ValueError) as error:
            raise VideoError(f"'{path}' cannot be opened as a video: {reason(error)}") from None
        try:
            if self._container.metadata.get("major_brand", "").strip() in _STILL_BRANDS:
                raise VideoError("it is a photograph (HEIC or AVIF): convert it to JPEG or PNG")
            self._stream = moving_picture(self._container)
        except VideoError as error:
            self._container.close()
            raise VideoError(f"'{path}' has no video that can be read: {error}") from None
        self._stream.thread_type = "AUTO"
        self._lock, self._closed = threading.Lock(), False
        self.fps = float(self._stream.average_rate or self._stream.base_rate or DEFAULT_FPS)
        self._clock = FrameClock(self.fps)
        sound = self._container.streams.best("audio", related=self._stream)
        if sound is not None:
            self.sound = Sound(path, sound.index, self._clock.pieces, self.notes)
        frames = self._stream.frames
        self.num_frames = frames if 0 < frames <= MAX_FRAMES else None

    def __iter__(self) -> Iterator[Frame]:
        self._begin()
        clock = self._clock
        lost, first_lost = 0, (0, 0.0)  # missing frames; index and time of the first one
        missing = 0
        with suppress(OSError):
            missing = missing_bytes(self.path)
        frames = DecodedFrames(self._container, self._stream, cut_off=missing > 0)
        index, ended = 0, False
        try:
            while not (self._stopped or ended):
                found = self._next(frames)
                if found is None:
                    ended = True
                    continue
                image, time, pixel_aspect = found
                time = clock.time(time)
                if image is None:
                    first_lost = first_lost if lost else (index, time)
                    lost += 1
                yield Frame(index, index, None, image, time=time, pixel_aspect=pixel_aspect)
                index += 1
        except GeneratorExit:  # the consumer needs no more frames, but those that it had may lack some
            self.problems += self._what_is_lost(lost, first_lost)
            raise
        if not ended:  # by `stop`
            self.problems += self._what_is_lost(lost, first_lost)
        elif not self._closed:  # else by the consumer, which needs no more frames
            self.notes += self._what_is_odd(frames)
            self.problems += self._what_is_wrong(index, clock.last, lost, first_lost, frames, missing)

    def _next(self, frames: DecodedFrames) -> tuple[np.ndarray | None, float | None, float] | None:
        """Decode one frame; None at the end, and after `close`, which may come from another thread."""
        with self._lock:
            if self._closed:
                return None
            found = frames.next()
            if found is None:
                return None
            frame, time = found
            if frame is None:
                return None, time, 1.0
            if self.colors is None:
                self.colors = ColorTags.of(frame)
            try:
                return upright(frame), time, pixel_aspect(self._stream.sample_aspect_ratio, frame)
            except (av.FFmpegError, ValueError):  # a pixel format that cannot be converted
                frames.errors += 1
                return None, time, 1.0

    def _what_is_odd(self, frames: DecodedFrames) -> list[str]:
        """Return sentences about what may be damage, and may be as it should be."""
        notes = []
        # Of interlaced video one of every two packets gives no frame.
        if 0 < frames.silent <= max(1, 0.8 * frames.frames):
            notes.append(
                f"packets of video '{self.path}' that gave no frame: {frames.silent}; if frames are missing there, "
                "later ones are numbered too low"
            )
        if frames.skipped:
            plural = "s" if frames.skipped > 1 else ""
            notes.append(
                f"the first {frames.skipped} packet{plural} of video '{self.path}' cannot be decoded, as where a "
                "recording begins in the middle of a broadcast; frame 0 is the first that can"
            )
        return notes

    def _what_is_wrong(
        self, count: int, end: float, lost: int, first_lost: tuple[int, float], frames: DecodedFrames, missing: int
    ) -> list[str]:
        if count == lost:
            why = reason(frames.error) if frames.error else "it holds no frames"
            return [f"no frame of video '{self.path}' can be decoded: {why}"]
        problems = self._what_is_lost(lost, first_lost)
        places = frames.errors + frames.silent * (frames.silent > 1.2 * frames.frames)
        if places and not lost and not missing:
            plural = "s" if places > 1 else ""
            problems.append(
                f"video '{self.path}' is damaged in {places} place{plural}: frames there may look wrong, and so "
                "may their poses"
            )
        # Only Matroska's duration is that of what was written; other headers count hidden frames, or guess.
        promised = (self._container.duration or 0) / av.time_base if "matroska" in self._container.format.name else 0
        lacks = frames.end < 0.97 * promised - 3 / self.fps
        if missing or frames.broken or lacks:
            why = f"{missing:,} bytes are missing" if missing else f"its header promises {promised:.2f} s"
            why = reason(frames.broken) if frames.broken and not missing else why
            problems.append(
                f"video '{self.path}' is cut off after frame {count - 1} ({end:.2f} s): {why}; what was decoded is kept"
            )
        return problems

    def _what_is_lost(self, lost: int, first: tuple[int, float]) -> list[str]:
        if not lost:
            return []
        plural = "s" if lost > 1 else ""
        return [
            f"{lost} frame{plural} of video '{self.path}' cannot be decoded and counted as missing, "
            f"the first is frame {first[0]} ({first[1]:.2f} s)"
        ]

    def close(self) -> None:
        with self._lock:  # closing a container while it decodes crashes the process
            self._closed = True
            self._container.close()


def open_container(path: Path) -> av.container.InputContainer:
    """Open a file by FFmpeg's libraries, whatever its name is.

    Raises:
        OSError, av.FFmpegError, ValueError: it cannot be opened.
    """
    name = str(path.absolute())  # a relative name with a colon would be a protocol
    try:
        name.encode()
    except UnicodeEncodeError:  # a name in another encoding, which PyAV cannot pass on
        return av.open(path.open("rb"), "r", metadata_errors="replace")
    return av.open(name, "r", metadata_errors="replace")


def moving_picture(container: av.container.InputContainer) -> av.VideoStream:
    """Return the video stream that FFmpeg calls the best: not a small preview track, not the cover of a song.

    Raises:
        VideoError: there is none.
    """
    pictures = container.streams.video
    if not pictures:
        raise VideoError("it has no pictures")
    moving = [stream for stream in pictures if not stream.disposition & av.stream.Disposition.attached_pic]
    if not moving:
        raise VideoError("its only picture is a cover")
    moving = [stream for stream in moving if stream.codec_context is not None]
    if not moving:
        raise VideoError("no decoder here knows how its pictures are stored")
    best = container.streams.best("video")
    for stream in moving:
        if best is not None and stream.index == best.index:
            return stream
    return moving[0]


def upright(frame: av.VideoFrame) -> np.ndarray:
    """Return a decoded frame as uint8 ``[H, W, 3]`` RGB, turned by the rotation that the video asks for."""
    image = frame.to_ndarray(format="rgb24")
    turns = _quarter_turns(frame)
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def pixel_aspect(sample_aspect_ratio: Fraction | None, frame: av.VideoFrame) -> float:
    """Return the width of a pixel relative to its height, in the upright frame: 1 unless the video is anamorphic.

    Args:
        sample_aspect_ratio: of the stream.
        frame: a frame of it.
    """
    ratio = float(sample_aspect_ratio or 1)
    if not 0.1 <= ratio <= 10:  # nonsense in the header
        return 1.0
    return 1 / ratio if _quarter_turns(frame) % 2 else ratio


def _quarter_turns(frame: av.VideoFrame) -> int:
    return round(getattr(frame, "rotation", 0) / 90) % 4  # phones store their orientation


def reason(error: Exception) -> str:
    """Return an error's own words, shortened."""
    text = getattr(error, "strerror", None) or str(error)
    return text[:200] or type(error).__name__
