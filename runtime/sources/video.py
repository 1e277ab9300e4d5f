"""Frames of video files, decoded by FFmpeg's libraries, and functions that `live` shares.

What cannot be decoded is skipped and counted, and its frames are missing frames, so that the numbers of later frames
are those that the file gives them. Headers are not believed: see `sdtc.runtime.sources.truncation`.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from sdtc.core.errors import VideoError
from sdtc.core.h264 import ColorTags
from sdtc.runtime.sources.base import DEFAULT_FPS, Frame, FrameSource
from sdtc.runtime.sources.truncation import missing_bytes

MAX_FRAMES = 10_000_000  # four days of video; a header that promises more is damaged
MAX_READ_ERRORS = 100  # in a row, without a packet between them: nothing more will come
# Recordings of these formats begin anywhere; frames before the first keyframe are not missing, they were never there.
_JOINED = frozenset(("mpegts", "mpeg", "h264", "hevc"))
_REORDER = 10  # seconds: a frame that counts as missing does not come out that late any more
_STILL_BRANDS = frozenset(("heic", "heix", "heim", "heis", "mif1", "avif"))  # of photographs, often stored in tiles


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
            self._container = _open(path)
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
        frames = self._stream.frames
        self.num_frames = frames if 0 < frames <= MAX_FRAMES else None

    def __iter__(self) -> Iterator[Frame]:
        clock = _Clock(self.fps)
        lost, first_lost = 0, (0, 0.0)  # missing frames; index and time of the first one
        missing = 0
        with suppress(OSError):
            missing = missing_bytes(self.path)
        frames = _Frames(self._container, self._stream, cut_off=missing > 0)
        index = 0
        while (found := self._next(frames)) is not None:
            image, time, pixel_aspect = found
            time = clock.time(time)
            if image is None:
                first_lost = first_lost if lost else (index, time)
                lost += 1
            yield Frame(index, index, None, image, time=time, pixel_aspect=pixel_aspect)
            index += 1
        if not self._closed:  # else by the consumer, which needs no more frames
            self.notes = self._what_is_odd(frames)
            self.problems += self._what_is_wrong(index, clock.last, lost, first_lost, frames, missing)

    def _next(self, frames: _Frames) -> tuple[np.ndarray | None, float | None, float] | None:
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

    def _what_is_odd(self, frames: _Frames) -> list[str]:
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
        self, count: int, end: float, lost: int, first_lost: tuple[int, float], frames: _Frames, missing: int
    ) -> list[str]:
        if count == lost:
            why = reason(frames.error) if frames.error else "it holds no frames"
            return [f"no frame of video '{self.path}' can be decoded: {why}"]
        problems = []
        if lost:
            plural = "s" if lost > 1 else ""
            problems.append(
                f"{lost} frame{plural} of video '{self.path}' cannot be decoded and counted as missing, "
                f"the first is frame {first_lost[0]} ({first_lost[1]:.2f} s)"
            )
        elif (places := frames.errors + frames.silent * (frames.silent > 1.2 * frames.frames)) and not missing:
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

    def close(self) -> None:
        with self._lock:  # closing a container while it decodes crashes the process
            self._closed = True
            self._container.close()


class _Frames:
    """Decodes the frames of a stream in the order in which they are shown, and finds out which are missing.

    The decoder returns an error for a packet that it cannot decode, often several packets later, since it decodes
    several at once. So the lost frames are found by their time stamps: those that were read, but did not come out
    although later ones did. Not every packet has a frame of its own (the second field of an interlaced picture has
    none), so unless every packet had a frame before, at most as many frames are missing as there were errors.

    Args:
        container: the file.
        stream: its moving picture.
        cut_off: whether the file's end is missing: then so are its last frames, and they do not count.

    Attributes:
        errors: packets and frames that are damaged.
        frames: frames that came out.
        skipped: packets before the first frame that could not be decoded, of a recording that may begin anywhere.
        silent: packets that gave no frame, although nothing is known to be damaged.
        error: the first error.
        end: where the last packet of any stream ends, seconds: sound may go on when the pictures have ended.
        broken: the error that ended the reading before the file's end, if any.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream, cut_off: bool) -> None:
        self._container, self._stream, self._cut_off = container, stream, cut_off
        self._packets = container.demux()
        self._ready: list[tuple[av.VideoFrame | None, float | None]] = []  # reversed
        self._waiting: list[int] = []  # heap of the time stamps of packets whose frames have not come out yet
        self._latest = 0  # the largest of all that were read
        self._unexplained: list[int] = []  # for each error whose frame is not found yet: `_latest` at the time
        self._suspect = False  # packets are missing, or recordings were joined
        self._last_dts: int | None = None
        self._before: set[int] = set()  # as `_waiting`, of packets before the time stamps began anew
        self._ended = False
        self._all_have_frames = True  # so far, every packet had a frame of its own or an error
        self._joined = container.format.name in _JOINED
        self._decoded_any = not self._joined
        self._given_up: set[int] = set()  # time stamps of frames that count as missing
        self._reorder = int(_REORDER / stream.time_base) if stream.time_base else 0
        self.errors = self.frames = self.skipped = self.silent = 0
        self.end = 0.0
        self.error: Exception | None = None
        self.broken: Exception | None = None

    def next(self) -> tuple[av.VideoFrame | None, float | None] | None:
        """Return the next frame and its time, seconds; no frame where it is missing; None at the end."""
        while not self._ready:
            if self._ended:
                return None
            self._ready = self._decode_packet()[::-1]
        return self._ready.pop()

    def _decode_packet(self) -> list[tuple[av.VideoFrame | None, float | None]]:
        packet = self._read_packet()
        out: list[tuple[av.VideoFrame | None, float | None]] = []
        self._suspect = self._suspect or (packet is not None and packet.is_corrupt)
        if packet is not None and packet.dts is not None:
            if self._last_dts is not None and packet.dts < self._last_dts:
                self._begin_anew()
            self._last_dts = packet.dts
        if packet is not None and packet.pts is not None and not packet.is_discard:
            heapq.heappush(self._waiting, packet.pts)
            self._latest = max(self._latest, packet.pts)
        try:
            frames = self._stream.codec_context.decode(packet)
        except av.EOFError:
            frames = []
        except av.FFmpegError as error:
            frames = []
            if self._decoded_any:
                self.errors += 1
                self.error = self.error or error
                if packet is not None and packet.pts is None:
                    out.append((None, None))
                elif packet is None or not packet.is_discard:
                    self._unexplained.append(self._latest)
            else:
                self.skipped += 1
                self.error = self.error or error
        for frame in frames:
            self._decoded_any = True
            self.errors += frame.is_corrupt
            if frame.pts in self._before:
                self._before.remove(frame.pts)
                out.append((frame, self._seconds(frame.pts)))
                continue
            self._before.clear()
            if frame.pts in self._given_up:  # out of order behind damage, when it counted as missing already
                continue
            lost = self._lost_before(frame.pts)
            if self._joined and not self.frames:
                self.skipped, lost = self.skipped + len(lost) + self.silent, []
                self.silent, self._all_have_frames = 0, True
            self.frames += 1
            out += lost
            out.append((frame, self._seconds(frame.pts)))
        if packet is None:
            self._ended = True
            never = self._joined and not self.frames
            out += [] if self._cut_off or never else self._lost_before(None)
        return out

    def _begin_anew(self) -> None:
        """Time stamps begin anew, as where recordings were joined: those before and after cannot be compared."""
        self._before = set(self._waiting)
        self._waiting, self._unexplained, self._latest = [], [], 0
        self._given_up = set()

    def _lost_before(self, pts: int | None) -> list[tuple[None, float | None]]:
        """Return the missing frames before a frame that has come out, or before the end."""
        if pts is None and not self._ended:
            return []
        passed = []
        while self._waiting and (pts is None or self._waiting[0] <= pts):
            passed.append(heapq.heappop(self._waiting))
        if pts is not None and passed and passed[-1] == pts:
            passed.pop()  # the frame itself
        lost = passed[: len(self._unexplained)]
        # Decoders drop frames that need others, and at the end whatever they cannot decode, without a word.
        if self._all_have_frames and (pts is None or self.errors or self._suspect):
            lost = passed
            self.errors = max(self.errors, len(lost))
        self._given_up = {each for each in self._given_up if pts is None or each > pts - self._reorder} | set(lost)
        self.silent += len(passed) - len(lost)
        self._all_have_frames = self._all_have_frames and len(passed) == len(lost)
        self._unexplained = self._unexplained[len(lost) :]
        if pts is not None:
            self._unexplained = [latest for latest in self._unexplained if latest >= pts]
        return [(None, self._seconds(each)) for each in lost]

    def _seconds(self, pts: int | None) -> float | None:
        base = self._stream.time_base
        return None if pts is None or not base else float(pts * base)

    def _read_packet(self) -> av.Packet | None:
        """Return the next packet of the pictures; read on after damage; None at the end."""
        failures = 0
        while failures < MAX_READ_ERRORS:
            try:
                packet = next(self._packets, None)
            except av.EOFError:
                return None
            except av.FFmpegError as error:
                self.broken = error
                self._packets = self._container.demux()
                failures += 1
                continue
            if packet is not None and packet.pts is not None and packet.time_base:
                self.end = max(self.end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet is None or (packet.stream_index == self._stream.index and packet.size):
                return packet
        return None


class _Clock:
    """Turns the time stamps of frames into seconds from the first frame, strictly growing.

    Time stamps can be absent, repeated, or begin again, as where recordings were joined.
    """

    def __init__(self, fps: float) -> None:
        self._step = 1 / fps if 1 <= fps <= 1000 else 1 / DEFAULT_FPS
        self._offset: float | None = None
        self.last = -self._step

    def time(self, stamp: float | None) -> float:
        """Return the time of the next frame."""
        expected = self.last + self._step
        if stamp is None:
            self.last = expected
        else:
            if self._offset is None or stamp + self._offset <= self.last:
                self._offset = expected - stamp
            self.last = stamp + self._offset
        return self.last


def _open(path: Path) -> av.container.InputContainer:
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
