"""Frames from live sources: webcams, network streams and pipes, decoded in a thread of their own.

Not for files (`video`), which never drop frames and never keep the reader waiting. A network stream or camera that
breaks or stalls is reconnected, with growing pauses between attempts; a pipe ends when its writer closes it. Every such
event is a line in the log ``sdtc.live``. Frames are handed on in order of arrival, whatever the sender's clock says.
"""

from __future__ import annotations

import logging
import os
import re
import select
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit

import av

from sdtc.core.errors import InputError, VideoError
from sdtc.core.h264 import ColorTags
from sdtc.runtime.sources.base import DEFAULT_FPS, GAP, Frame, FrameSource
from sdtc.runtime.sources.handover import Handover
from sdtc.runtime.sources.video import moving_picture, pixel_aspect, reason, upright

LOG = logging.getLogger("sdtc.live")
OPEN_TIMEOUT = 10.0  # seconds until an address that does not answer is given up
STALL = 5.0  # seconds without a frame, after which a connection counts as lost
RECONNECT = 30.0  # seconds of trying to reconnect
FIRST_PAUSE, LAST_PAUSE = 0.5, 10.0  # seconds between two attempts, doubled each time
TELL_AGAIN, TELL_DROPS = 1.0, 10.0  # seconds between two log lines of one kind, and of dropped frames
TS_PACKET = 188  # bytes
JUMP = 10.0  # seconds that a sender's clock may run ahead of ours between two frames

_HTTP = "http,https,httpproxy,tcp,tls,crypto"
# Protocols that FFmpeg may open for each scheme: a playlist or session description must not reach a local file.
PROTOCOLS = {
    "rtsp": "tcp",
    "rtsps": "tls,tcp",
    "rtmp": "rtmp,tcp",
    "rtmps": "rtmps,tls,tcp",
    "http": _HTTP,
    "https": _HTTP,
    "tcp": "tcp",
    "udp": "udp",
    "srt": "srt",
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
# By default FFmpeg analyses 5 s (here in µs) and 20 frames of a stream before it returns the first frame.
_QUICK_START = {"analyzeduration": "1000000", "fpsprobesize": "2"}
_FOR_PIPES = "a pipe cannot be rewound: send MPEG-TS, Matroska, or fragmented MP4"


Opener = Callable[[str, ExitStack, "_Reader"], av.container.InputContainer]


def live_name(spec: str) -> str:
    """Return the name that a live source has for its results.

    Raises:
        InputError: the address has an unknown scheme.
    """
    return _resolve(spec)[1]


def live_title(spec: str) -> str:
    """Return what a live source is called in messages, without passwords.

    Raises:
        InputError: the address has an unknown scheme.
    """
    return _resolve(spec)[0]


def is_live(spec: str) -> bool:
    """Whether an input is a camera (``0``, ``/dev/video0``), a network address, ``-``, or the path of a pipe."""
    if spec == "-" or _SCHEME.match(spec):
        return True
    with suppress(OSError, ValueError):
        mode = os.stat(spec).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)
    return spec.isdecimal() or re.fullmatch(r"/dev/video\d+", spec) is not None


class LiveSource(FrameSource):
    """A camera, a network stream or a pipe. Opening waits for the first frame; it can be iterated once.

    `Frame.index` counts the frames handed on, so that windows and the tracker see consecutive frames; `Frame.number`
    counts the frames that arrived, so that its gaps show which were dropped.

    Args:
        spec: see `is_live`.
        drop_late: keep the newest frame, and drop frames that arrive faster than they are taken. Without it the sender
            waits, if it can.
        reconnect: how long to try to reconnect to a lost camera or network stream, seconds; 0 for never. A pipe, and a
            recording of known length, are never opened again.
        stall: seconds without a frame, after which a camera or network stream counts as lost.
        opening: called with the source before it waits for its first frame, so that another thread can `stop` it.

    Raises:
        InputError: the address has an unknown scheme, or `reconnect` is negative.
        VideoError: no frame arrives.
    """

    live = True

    def __init__(
        self,
        spec: str,
        drop_late: bool = False,
        reconnect: float = RECONNECT,
        stall: float = STALL,
        opening: Callable[[FrameSource], None] | None = None,
    ) -> None:
        if not reconnect >= 0:
            raise InputError(f"`reconnect` is {reconnect}: expected seconds, or 0 for never")
        self.path, self.num_frames, self.problems = Path(spec), None, []
        self.drop_late, self.dropped = drop_late, 0
        self._reconnect, self._stall = reconnect, stall
        self._shown, self.name, self._open = _resolve(spec)
        self._pipe = self._open is _open_pipe
        self._spec = spec
        self._stopped = threading.Event()
        self._size: tuple[int, ...] = ()
        self._first_number, self._last_number = 0, -1  # of this connection, and of the last frame
        self._dropped_before = 0
        self._logged: dict[str, tuple[float, int]] = {}  # by kind of event: time of its line, and how many since
        try:
            if opening is not None:
                opening(self)
            why = self._connect(None if self._pipe else OPEN_TIMEOUT + stall)
        except BaseException:  # Ctrl-C
            self.stop()
            raise
        if why:
            raise VideoError(f"{self._shown} gives no video: {why}")
        self.fps = self._reader.fps

    def __iter__(self) -> Iterator[Frame]:
        index, start = 0, 0.0
        while not self._stopped.is_set():
            reader = self._reader
            if not reader.frames.wait(self._stall):
                if not self._pipe or self.drop_late:
                    yield GAP
                if not self._continue_after_stall(index):
                    return
                continue
            taken = reader.frames.take()
            if not taken:
                if self._stopped.is_set():
                    return
                yield GAP
                if not self._continue_after_end(index):
                    return
                continue
            ((count, frame, received),) = taken
            try:
                image = upright(frame)
            except (av.FFmpegError, ValueError):  # a pixel format that cannot be converted
                reader.damaged += 1
                continue
            if frame.time is not None:
                self._check_clock(reader, frame.time, received)
            self._check_size(image.shape)
            self._count_drops(reader)
            self._last_number = self._first_number + count
            self.colors = self.colors or ColorTags.of(frame)
            start = received if index == 0 else start
            yield Frame(
                index, self._last_number, None, image, received,
                time=received - start,
                wall_clock=time.time() - (time.monotonic() - received),
                pixel_aspect=pixel_aspect(reader.aspect, frame),
            )  # fmt: skip
            index += 1

    def stop(self) -> None:
        self._stopped.set()
        if hasattr(self, "_reader"):  # else `_connect` closes it when it has made it
            self._reader.frames.close()

    def close(self) -> None:
        self.stop()
        self._reader.thread.join(0.5)  # a read that blocks in FFmpeg ends with its time-out: see _Reader

    def _connect(self, timeout: float | None) -> str:
        """Open the source and wait for the first frame; return why there is none, or ""."""
        self._reader = _Reader(self._spec, self._open, self.drop_late)
        if self._stopped.is_set():  # `stop` may not have seen this reader
            self._reader.frames.close()
        arrived = self._reader.frames.wait(self._stall if self._pipe else timeout)
        if not arrived and self._pipe:
            self._log("wait", "waiting for the first frame")
            arrived = self._reader.frames.wait(timeout)
        if self._reader.count:
            return ""
        self._reader.frames.close()
        if not arrived:
            return f"nothing came within {timeout:.0f} s"
        return _explain(self._reader.frames.error) or (
            "it ended before the first frame" + (f"; {_FOR_PIPES}" if self._pipe else "")
        )

    def _continue_after_stall(self, index: int) -> bool:
        silence = f"no frame for {self._stall:g} s"
        if not self._pipe:
            return self._try_to_reconnect(silence, index)
        start = time.monotonic()
        self._log("stall", silence, logging.WARNING)
        self._reader.frames.wait()
        if not self._stopped.is_set():
            self._log("continues", f"continues after {self._stall + time.monotonic() - start:.1f} s")
        return not self._stopped.is_set()

    def _continue_after_end(self, index: int) -> bool:
        why = _explain(self._reader.frames.error)
        if not self._pipe and not self._reader.length:
            return self._try_to_reconnect(why, index)
        if why or (why := self._reader.what_is_missing()):
            self._give_up(why, index)
        return False

    def _try_to_reconnect(self, why: str, index: int) -> bool:
        """Try to reconnect until that works or its time is over; return whether it has worked."""
        lost, start, pause = self._reader, time.monotonic(), FIRST_PAUSE
        lost.frames.close()
        lost.thread.join(0.2)  # a camera must be released first
        self._first_number = self._last_number + 1
        self._dropped_before += lost.frames.dropped
        if not self._reconnect or lost.length:
            if why:
                self._give_up(why, index)
            else:
                self._log("end", "the sender ended the stream")
            return False
        why = why or "the sender ended the stream"
        self._log("lost", f"{why}; reconnecting for up to {self._reconnect:g} s", logging.WARNING)
        while (left := start + self._reconnect - time.monotonic()) > 0:
            if self._stopped.wait(min(pause, left)):
                return False
            failure = self._connect(min(OPEN_TIMEOUT + self._stall, max(left, 1.0)))
            if self._stopped.is_set():
                return False
            if not failure:
                self._log("back", f"is back after {time.monotonic() - start:.1f} s")
                return True
            pause = min(2 * pause, LAST_PAUSE)
            self._log("not yet", f"not back yet: {failure}; next try in {pause:g} s")
        self._give_up(f"{why}, and it did not come back within {self._reconnect:g} s", index)
        return False

    def _give_up(self, why: str, index: int) -> None:
        self.problems.append(f"{self._shown} ends after {index} frames: {why}; what was decoded before is kept")

    def _check_clock(self, reader: _Reader, theirs: float, ours: float) -> None:
        """Log, once per connection, that the sender's time stamps jump; nothing depends on them."""
        before, reader.clocks = reader.clocks, (theirs, ours)
        if before is None or reader.clock_jump_logged:
            return
        step = theirs - before[0]
        if 0 <= step <= ours - before[1] + JUMP:
            return
        reader.clock_jump_logged = True
        how = f"back by {-step:.2f} s" if step < 0 else f"ahead by {step:.2f} s"
        text = f"its clock jumps {how}; frames are taken in order of arrival"
        self._log("clock", text, logging.WARNING)

    def _check_size(self, shape: tuple[int, ...]) -> None:
        if self._size and shape != self._size:
            (old_height, old_width), (height, width) = self._size[:2], shape[:2]
            text = f"its frame size changes from {old_width}x{old_height} to {width}x{height}"
            self._log("size", text, logging.WARNING)
        self._size = shape

    def _count_drops(self, reader: _Reader) -> None:
        before, self.dropped = self.dropped, self._dropped_before + reader.frames.dropped
        if self.dropped > before:
            self._log("drops", f"late frames dropped so far: {self.dropped}", every=TELL_DROPS)

    def _log(self, kind: str, text: str, level: int = logging.INFO, every: float = TELL_AGAIN) -> None:
        """Write a line to the log, unless there was one of its kind a moment ago."""
        now = time.monotonic()
        last, suppressed = self._logged.get(kind, (-every, 0))
        if now - last < every:
            self._logged[kind] = last, suppressed + 1
            return
        self._logged[kind] = now, 0
        more = f" (and {suppressed} times before, not logged)" if suppressed and kind != "drops" else ""
        LOG.log(level, "%s: %s%s", self._shown, text, more)


class _Reader:
    """One connection: a thread that opens it and decodes; no other thread touches FFmpeg's objects.

    A blocking read cannot be cancelled from outside, and closing its container meanwhile crashes the process. So a
    consumer that has waited long enough closes `frames` and leaves; the thread ends when the read does, by its time-out
    at the latest (a camera driver may have none).

    Attributes:
        frames: (number within the connection, decoded frame, time of arrival).
        count: frames decoded.
        fps: frames per second.
        length: duration of a recording, seconds; 0 for a stream that has no end.
        aspect: the stream's sample aspect ratio; None if it is not stated.
        pipe: the pipe that is read, if it is one.
        damaged: packets after the first frame that could not be decoded.
        clocks: the sender's clock and ours, seconds, at the last frame handed on; set by the source.
        clock_jump_logged: whether a jump of the sender's clock was logged; set by the source.
    """

    def __init__(
        self,
        spec: str,
        open_container: Opener,
        drop_late: bool,
    ) -> None:
        self.frames: Handover[tuple[int, av.VideoFrame, float]] = Handover(1, drop_late)
        self.count = self.damaged = 0
        self.pipe: _Pipe | None = None
        self.clocks: tuple[float, float] | None = None
        self.fps, self.length, self.clock_jump_logged = DEFAULT_FPS, 0.0, False
        self._spec, self._open = spec, open_container
        self._last_time, self._format = 0.0, ""
        self.aspect: Fraction | None = None
        self.thread = threading.Thread(target=self._run, name="sdtc-live", daemon=True)
        self.thread.start()

    def what_is_missing(self) -> str:
        """After the end: return what a pipe or recording lacks, or ""."""
        if self.damaged:
            return f"packets that cannot be decoded: {self.damaged}"
        if self._format == "mpegts" and self.pipe and self.pipe.size % TS_PACKET:
            return "it breaks off in the middle of a packet"
        if self._last_time < 0.97 * self.length - 3 / self.fps:
            return f"it is cut off at {self._last_time:.2f} s, its header promises {self.length:.2f} s"
        return ""

    def _run(self) -> None:
        error: Exception | None = None
        try:
            with ExitStack() as stack:
                self._decode(self._open(self._spec, stack, self))
        except Exception as caught:
            error = caught
        self.frames.end(error)

    def _decode(self, container: av.container.InputContainer) -> None:
        stream = moving_picture(container)
        self.aspect = stream.sample_aspect_ratio
        stream.thread_type = "SLICE"  # decoding several frames at once would delay the output by as many
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        self.fps = rate if 1 <= rate <= 240 else DEFAULT_FPS  # some streams report the rate of their clock
        self._format = container.format.name
        # For a fragmented MP4 the duration covers only the part that was there at first, unless that was all of it.
        if container.size > 0 or "mp4" not in self._format:
            self.length = max(0.0, (container.duration or 0) / av.time_base)
        try:
            for packet in container.demux():  # of all streams: sound may go on when the pictures have ended
                if packet.stream_index != stream.index:
                    self._note_end(packet)
                    continue
                try:
                    frames = cast(list[av.VideoFrame], packet.decode())
                except av.InvalidDataError:  # the next packet may be intact
                    self.damaged += self.count > 0  # before the first frame this is normal: we joined in the middle
                    continue
                if not self._hand_on(frames):
                    return
        except av.FFmpegError:
            with suppress(av.FFmpegError):  # frames from before the break are still in the decoder
                self._hand_on(stream.codec_context.decode(None))
            raise

    def _note_end(self, packet: av.Packet) -> None:
        if packet.pts is not None and packet.time_base:
            self._last_time = max(self._last_time, float((packet.pts + (packet.duration or 0)) * packet.time_base))

    def _hand_on(self, frames: list[av.VideoFrame]) -> bool:
        for frame in frames:
            now = time.monotonic()
            self._last_time = max(self._last_time, frame.time or 0.0)
            self.count += 1
            if not self.frames.put((self.count - 1, frame, now)):
                return False
        return True


class _Pipe:
    """A pipe as FFmpeg reads it; it also ends when the consumer of the frames stops.

    Attributes:
        size: bytes read.
    """

    def __init__(self, descriptor: int, frames: Handover) -> None:
        self._descriptor, self._frames = descriptor, frames
        self.size = 0
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)

    def read(self, size: int) -> bytes:
        while not self._frames.closed:
            if self._poll.poll(100):  # ms
                data = os.read(self._descriptor, size)
                self.size += len(data)
                return data
        return b""


def _open_pipe(spec: str, stack: ExitStack, reader: _Reader) -> av.container.InputContainer:
    if not hasattr(select, "poll"):
        raise VideoError("pipes cannot be read on this system: give a file or an address")
    if spec == "-":
        descriptor = 0
        if os.isatty(descriptor):
            raise VideoError("it is a terminal; pipe a video into it")
    else:
        descriptor = os.open(spec, os.O_RDONLY | os.O_NONBLOCK)  # else opening would wait for a writer
        stack.callback(os.close, descriptor)
    options = _QUICK_START | {"protocol_whitelist": "none"}  # a playlist must not open anything
    reader.pipe = _Pipe(descriptor, reader.frames)
    return stack.enter_context(av.open(reader.pipe, "r", options=options, metadata_errors="replace"))


def _open_camera(spec: str, stack: ExitStack, reader: _Reader) -> av.container.InputContainer:
    device = f"/dev/video{spec}" if spec.isdecimal() else spec
    if sys.platform != "linux":
        raise VideoError("cameras are read through Video4Linux, which only Linux has")
    if not Path(device).exists():
        others = ", ".join(sorted(map(str, Path("/dev").glob("video*")))) or "none"
        raise VideoError(f"there is no {device}; cameras of this machine: {others}")
    return stack.enter_context(av.open(device, format="v4l2"))


def _open_stream(spec: str, stack: ExitStack, reader: _Reader) -> av.container.InputContainer:
    scheme = spec.split(":")[0].lower()
    options = _QUICK_START | {
        "protocol_whitelist": PROTOCOLS[scheme],
        "rtsp_transport": "tcp",  # over UDP, lost packets damage the frames
        "overrun_nonfatal": "1",  # UDP data arrives faster than it is read: lose some and continue
    }
    return stack.enter_context(
        av.open(spec, options=options, timeout=(OPEN_TIMEOUT, 2 * STALL), metadata_errors="replace")
    )


def _resolve(spec: str) -> tuple[str, str, Opener]:
    """Return a name for messages (without passwords), a name for files, and the function that opens the input."""
    if spec == "-":
        return "standard input", "stdin", _open_pipe
    if match := _SCHEME.match(spec):
        scheme = match[1].lower()
        if scheme not in PROTOCOLS:
            raise InputError(
                f"'{scheme}' addresses are not supported for `source`: expected one of {', '.join(PROTOCOLS)}"
            )
        try:
            parts = urlsplit(spec)
        except ValueError as error:
            raise InputError(f"the address of `source` cannot be read: {error}") from None
        place = parts.netloc.rpartition("@")[2] + parts.path
        name = re.sub(r"[^A-Za-z0-9]+", "_", place).strip("_")[:80]
        return f"stream '{scheme}://{place}'", name or scheme, _open_stream
    if spec.isdecimal() or not stat.S_ISFIFO(os.stat(spec).st_mode if os.path.exists(spec) else 0):
        return f"camera '{spec}'", f"camera{spec}" if spec.isdecimal() else Path(spec).name, _open_camera
    return f"pipe '{spec}'", Path(spec).stem, _open_pipe


def _explain(error: BaseException | None) -> str:
    """Explain an error to the user who gave the address; "" for no error and for a regular end.

    Raises:
        Exception: an error that the stream has not caused.
    """
    if error is None or isinstance(error, av.EOFError):
        return ""
    if isinstance(error, VideoError):
        return str(error)
    if isinstance(error, av.ExitError | TimeoutError):
        return "it does not answer"
    if isinstance(error, av.ProtocolNotFoundError):
        return "this build of FFmpeg does not speak its protocol"
    if isinstance(error, av.FFmpegError | OSError | ValueError):
        return reason(error)
    raise error
