"""Decodes the frames of one stream, finds out which are missing, and gives every frame its time.

Damage does not end it: what cannot be decoded is skipped, and its frames are missing frames, so that the numbers of
later frames are those that the file gives them. What the user is told is up to `sdtc.runtime.sources.video`.
"""

from __future__ import annotations

import heapq

import av

from sdtc.runtime.sources.base import DEFAULT_FPS

_MAX_READ_ERRORS = 100  # in a row, without a packet between them: nothing more will come
# Recordings of these formats begin anywhere; frames before the first keyframe are not missing, they were never there.
_JOINED = frozenset(("mpegts", "mpeg", "h264", "hevc"))
_REORDER = 10  # seconds: a frame that counts as missing does not come out that late any more


class DecodedFrames:
    """Decodes the frames of a stream in the order in which they are shown, and finds out which are missing.

    The decoder returns an error for a packet that it cannot decode, often several packets later, since it decodes
    several at once. So the lost frames are found by their time stamps: those that were read, but did not come out
    although later ones did. Not every packet has a frame of its own (the second field of an interlaced picture has
    none), so unless every packet had a frame before, at most as many frames are missing as there were errors.

    Args:
        container: the file.
        stream: its moving picture.
        cut_off: whether the file's end is missing: then so are its last frames, and they do not count. Half a packet
            at its end is not decoded: the decoder's error would come in place of frames that it still holds.

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
        self._following: av.Packet | None = None  # read ahead, behind half a packet
        self._ready: list[tuple[av.VideoFrame | None, float | None]] = []  # reversed
        self._waiting: list[int] = []  # heap of the time stamps of packets whose frames have not come out yet
        self._latest = 0  # the largest of all that were read
        self._unexplained: list[int] = []  # for each error whose frame is not found yet: `_latest` at the time
        self._suspect = False  # packets are missing, or recordings were joined
        self._last_dts: int | None = None
        self._before: set[int] = set()  # as `_waiting`, of packets before the time stamps began anew
        self._ended = False
        self._all_have_frames = True  # so far, every packet had a frame of its own or an error
        self._last_out: int | None = None  # time stamp of the last frame that came out
        self._step: int | None = None  # between frames far from damage, if always the same; 0 if it is not
        self._damaged_at = -(1 << 62)  # `_latest` when damage was last seen
        self._known_errors = 0  # `errors` at that time
        self._joined = container.format.name in _JOINED
        # AVI has no time stamps, and FFmpeg numbers H.264's packets as they come: not as their frames are shown.
        codec = stream.codec_context
        self._unordered = container.format.name == "avi" and codec.name in ("h264", "hevc") and codec.has_b_frames
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
        packet = self._whole_packet()
        stamp = None if packet is None else self._take_in(packet)
        out: list[tuple[av.VideoFrame | None, float | None]] = []
        frames: list[av.VideoFrame] = []
        try:
            frames = self._stream.codec_context.decode(packet)
        except av.EOFError:
            pass
        except av.FFmpegError as error:
            self.error = self.error or error
            if not self._decoded_any:
                self.skipped += 1
            else:
                self.errors += 1
                if packet is not None and (packet.pts is None or self._unordered):
                    out.append((None, None))
                elif packet is None or stamp is not None:
                    self._unexplained.append(self._latest)
        for frame in frames:
            out += self._in_order(frame)
        if packet is None:
            self._ended = True
            never = self._joined and not self.frames
            out += [] if self._cut_off or never else self._lost_before(None)
        return out

    def _take_in(self, packet: av.Packet) -> int | None:
        """Note what a packet promises; return the time stamp of its frame, None if it has none that can be used."""
        if packet.is_corrupt:
            self._suspect, self._damaged_at = True, self._latest
        if packet.dts is not None:
            if self._last_dts is not None and packet.dts < self._last_dts:
                self._begin_anew()
            self._last_dts = packet.dts
        if packet.pts is None or packet.is_discard or self._unordered:
            return None
        heapq.heappush(self._waiting, packet.pts)
        self._latest = max(self._latest, packet.pts)
        return packet.pts

    def _in_order(self, frame: av.VideoFrame) -> list[tuple[av.VideoFrame | None, float | None]]:
        """Return a frame that has come out, behind those that are missing before it."""
        self._decoded_any = True
        self.errors += frame.is_corrupt
        if frame.pts in self._before:
            self._before.remove(frame.pts)
            self._last_out = None
            self.frames += 1
            return [(frame, self._seconds(frame.pts))]
        self.silent += len(self._before)
        self._before.clear()
        if frame.pts in self._given_up:  # out of order behind damage, when it counted as missing already
            return []
        lost = self._lost_before(frame.pts)
        lost += self._vanished_before(frame.pts, len(lost))
        if self._joined and not self.frames:
            self.skipped, lost = self.skipped + len(lost) + self.silent, []
            self.silent, self._all_have_frames = 0, True
        self.frames += 1
        return [*lost, (frame, self._seconds(frame.dts if self._unordered else frame.pts))]

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

    def _vanished_before(self, pts: int | None, lost: int) -> list[tuple[None, float | None]]:
        """Return the missing frames before a frame whose packets are not even there, as gaps near damage show."""
        if self.errors > self._known_errors:
            self._damaged_at, self._known_errors = self._latest, self.errors
        last, self._last_out = self._last_out, pts
        if not self._joined or self._ended or pts is None or last is None or pts <= last:
            return []
        step, near = pts - last, abs(pts - self._damaged_at) < self._reorder
        if not near:
            self._step = step if self._step in (None, step) else 0
        elif self._step and step % self._step == 0 and step < self._reorder // 5:  # else recordings were joined
            return [(None, self._seconds(pts - i * self._step)) for i in range(step // self._step - 1 - lost, 0, -1)]
        return []

    def _seconds(self, pts: int | None) -> float | None:
        base = self._stream.time_base
        return None if pts is None or not base else float(pts * base)

    def _whole_packet(self) -> av.Packet | None:
        """Return the next packet of the pictures, None at the end or before half a packet that is the file's last."""
        packet, self._following = self._following or self._read_packet(), None
        if packet is not None and packet.is_corrupt and self._cut_off:
            self._following = self._read_packet()
            return packet if self._following else None
        return packet

    def _read_packet(self) -> av.Packet | None:
        """Return the next packet of the pictures; read on after damage; None at the end."""
        failures = 0
        while failures < _MAX_READ_ERRORS:
            try:
                packet = next(self._packets, None)
            except (av.EOFError, IndexError):  # at the end PyAV stumbles over streams that began in the middle
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


class FrameClock:
    """Turns the time stamps of frames into seconds from the first frame, which never fall.

    Time stamps can be absent, repeated, or begin again, as where recordings were joined.

    Attributes:
        last: time of the last frame.
        pieces: for the first time stamp, and wherever they go back: the frame's time, and what is added to time stamps
            from there on.
    """

    def __init__(self, fps: float) -> None:
        self._step = 1 / fps if 1 <= fps <= 1000 else 1 / DEFAULT_FPS
        self._offset: float | None = None
        self.last = -self._step
        self.pieces: list[tuple[float, float]] = []

    def time(self, stamp: float | None) -> float:
        """Return the time of the next frame."""
        now = self.last + self._step
        if stamp is not None:
            if self._offset is not None and stamp + self._offset > self.last:
                now = stamp + self._offset
            else:
                self._offset = now - stamp
                self.pieces.append((now, self._offset))
        self.last = now  # not the sum of stamp and offset, whose rounding may let it fall
        return now
