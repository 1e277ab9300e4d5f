"""The sound of a video's overlay: reads it from the source file, and gives it to the writer in step with the pictures.

Sound never costs the pictures: whatever is wrong with it becomes one note, and the overlay goes on without.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction

import av
import numpy as np

from sdtc.runtime.sources.base import Sound
from sdtc.runtime.sources.video import open_container, reason

_COPIED = frozenset(("aac", "mp3", "mp3float"))  # what every browser plays in MP4
_PROFILES = frozenset((None, "LC", "HE-AAC", "HE-AACv2"))  # of AAC
_RATES = (44_100, 48_000)  # what sound is encoded at; the last, if the source has another
_BLOCK = 1024  # samples that AAC encodes at a time
_BIT_RATE = 96_000  # per channel
_CLOCK = Fraction(1, 10**9)  # seconds; of copied packets: far finer than samples
_MAX_READ_ERRORS = 100  # in a row, without a packet between them: nothing more will come
_JITTER = 0.005  # seconds: many formats round time stamps to milliseconds, which is no pause in the sound
_JUMP = 1.0  # seconds: by how much a clock must go back to be another recording's
_PATIENCE = 5.0  # seconds of pictures without sound, after its clock jumped and theirs did not, that are worth a note


class SoundTrack:
    """The sound of a video file as packets for MP4, a piece at a time.

    Its times are those of the frames: packets are moved as the frames' time stamps were. Sound before the first picture
    is left out. AAC and MP3 are copied, all else becomes AAC, in mono or stereo.

    Args:
        sound: from a source; what goes wrong is added to its notes.
    """

    def __init__(self, sound: Sound) -> None:
        self._sound = sound
        self._input: av.container.InputContainer | None = None
        self._stream: av.AudioStream | None = None  # of the source; None once nothing more is to come
        self._packets: Iterator[av.Packet | None] = iter(())
        self._pending: av.Packet | None = None  # read, but later than the pictures so far
        self._piece = 0  # index of the piece of the frames' clock that the sound is in
        self._end: float | None = None  # of the last packet, seconds by the frames' clock
        self._jumped = False  # what is pending belongs to a recording that the pictures have not reached
        self._ended = False  # everything was read
        self._until = 0.0  # of the pictures, seconds
        self._damaged, self._told = 0, False
        self._copier: _Copier | None = None
        self._encoder: _Encoder | None = None

    def join(self, file: av.container.OutputContainer) -> None:
        """Add a stream for the sound to a file, before anything is written into it."""
        try:
            self._input = open_container(self._sound.path)
            stream = self._input.streams[self._sound.stream]
            if not isinstance(stream, av.AudioStream) or stream.codec_context is None:
                raise ValueError("no decoder here knows how it is stored")
            name = stream.codec_context.name
            if not stream.codec_context.sample_rate or not stream.codec_context.channels:
                raise ValueError("it has no sample rate or no channels")
            if name in _COPIED and _is_playable(stream):
                self._copier = _Copier(file.add_stream_from_template(stream), stream.codec_context)
            else:
                self._encoder = _Encoder(file, stream.codec_context)
            with suppress(AttributeError):  # older PyAV cannot; MP4, MOV and AVI need not read what is discarded
                for other in self._input.streams:
                    if other.index != stream.index:
                        other.discard = av.stream.Discard.all
            self._stream, self._packets = stream, self._input.demux(stream)
        except (av.FFmpegError, OSError, ValueError, IndexError) as error:
            self.leave_out(reason(error))

    def packets(self, until: float) -> list[av.Packet]:
        """Return the packets up to a time, seconds from the first frame, that were not returned before."""
        out: list[av.Packet] = []
        self._until = until
        try:
            while self._stream is not None and not self._ended:
                packet = self._pending or self._read()
                self._pending = None
                if packet is None:
                    self._ended = True
                    break
                start = self._time(packet)
                if start is None or start >= until:
                    self._pending = packet
                    break
                self._end = start + _duration(packet)
                out += self._convert(packet, start)
            if self._stream is not None and self._encoder is not None:
                out += self._encoder.packets(until)
        except (av.FFmpegError, OSError, ValueError) as error:
            self.leave_out(reason(error))
        return out

    def finish(self) -> list[av.Packet]:
        """Return the packets that wait in the encoder; no more follow."""
        out: list[av.Packet] = []
        if self._stream is not None:
            try:
                out = self._encoder.finish(self._until) if self._encoder else []
            except (av.FFmpegError, ValueError) as error:
                self.leave_out(reason(error))
            if self._jumped and self._end is not None and self._until > self._end + _PATIENCE:
                self.leave_out("its time stamps go back there, but not those of the pictures")
        self._stream = None
        if self._damaged:
            plural = "s" if self._damaged > 1 else ""
            self._note(f"the sound of video '{self._sound.path}' is damaged in {self._damaged} place{plural}")
        return out

    def leave_out(self, why: str) -> None:
        """End the sound here, and note why."""
        self._stream = None
        at = "" if self._end is None else f" from {max(0.0, self._end):.2f} s on"
        self._note(f"the overlay of video '{self._sound.path}' has no sound{at}: {why}")

    def close(self) -> None:
        """Close the source file."""
        self._stream = None
        if self._input is not None:
            with suppress(OSError, av.FFmpegError):
                self._input.close()

    def _note(self, text: str) -> None:
        if not self._told:
            self._sound.notes.append(text)
        self._told = True

    def _read(self) -> av.Packet | None:
        """Return the next packet of the sound; read on after damage; None at the end."""
        assert self._input is not None
        for _ in range(_MAX_READ_ERRORS):
            try:
                for packet in self._packets:
                    if packet is not None and packet.size:
                        return packet
                return None
            except (av.EOFError, IndexError):  # at the end PyAV stumbles over streams that began in the middle
                return None
            except av.FFmpegError:
                self._damaged += 1
                self._packets = self._input.demux(self._stream)
        return None

    def _time(self, packet: av.Packet) -> float | None:
        """Return when a packet begins by the frames' clock; None if that is not known yet."""
        pieces = self._sound.pieces
        if not pieces:
            return None
        stamp = packet.dts if packet.pts is None else packet.pts
        if stamp is None or not packet.time_base:
            return self._end or 0.0
        time = float(stamp * packet.time_base)
        while True:
            start = time + pieces[self._piece][1]
            behind = 0.0 if self._end is None else self._end - start
            if self._piece + 1 == len(pieces):
                break
            begins, offset = pieces[self._piece + 1]
            back = offset - pieces[self._piece][1]
            # Another recording's sound jumps as well, by less if the one before ended early; if it does not, it was
            # the pictures that were late.
            jumps = back > _JUMP and self._end is not None
            if not (behind > min(back / 2, _JUMP) if jumps else time + offset >= begins):
                break
            self._piece += 1
        self._jumped = behind > _JUMP
        return None if self._jumped else start  # a jump that the pictures have still before them

    def _convert(self, packet: av.Packet, start: float) -> list[av.Packet]:
        if packet.is_corrupt:
            self._damaged += 1
            return []
        if self._copier is not None:
            return self._copier.copy(packet, start)
        assert self._stream is not None
        assert self._encoder is not None
        stamp = packet.dts if packet.pts is None else packet.pts
        offset = 0.0 if stamp is None or not packet.time_base else start - float(stamp * packet.time_base)
        try:
            for frame in self._stream.codec_context.decode(packet):
                self._encoder.put(frame, start if frame.time is None else frame.time + offset)
        except av.FFmpegError:
            self._damaged += 1
        return []


class _Copier:
    """Moves packets to a stream as they are."""

    def __init__(self, track: av.AudioStream, source: av.AudioCodecContext) -> None:
        self._track = track
        self._length = source.frame_size / source.sample_rate  # seconds; of every packet, 0 if not known
        self._next: float | None = None  # when the last packet ends

    def copy(self, packet: av.Packet, start: float) -> list[av.Packet]:
        """Return a packet as it is to be written, none if it is over before the first picture, or not later in time."""
        length = self._length or _duration(packet)
        if self._next is not None:
            if abs(start - self._next) < _JITTER:
                start = self._next
            elif start < self._next:
                return []
        if start + 2 * length <= 0:  # the decoder needs one more packet before the first that is heard
            return []
        self._next = start + length
        packet.stream, packet.time_base = self._track, _CLOCK
        packet.pts = packet.dts = round(start / _CLOCK)
        packet.duration = round(length / _CLOCK)
        return [packet]


class _Encoder:
    """Encodes decoded sound as AAC, in blocks at whole multiples of their length; pauses have no blocks."""

    def __init__(self, file: av.container.OutputContainer, source: av.AudioCodecContext) -> None:
        self._rate = source.sample_rate if source.sample_rate in _RATES else _RATES[-1]
        self._layout = "mono" if source.channels == 1 else "stereo"
        channels = 1 if source.channels == 1 else 2
        self._track = file.add_stream("aac", rate=self._rate, layout=self._layout)
        self._track.codec_context.bit_rate = channels * _BIT_RATE
        self._blocks: deque[tuple[int, np.ndarray]] = deque()  # complete ones ``[channels, _BLOCK]`` and their index
        self._block = np.zeros((channels, _BLOCK), np.float32)
        self._index, self._filled = 0, 0  # of the block, and up to where samples were put into it
        self._next: float | None = None  # when the last frame ends
        self._resampler: av.AudioResampler | None = None
        self._format: tuple[str, str, int] | None = None  # that the resampler is for

    def put(self, frame: av.AudioFrame, start: float) -> None:
        """Add a decoded frame."""
        found = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._resampler is None or found != self._format:
            self._resampler, self._format = av.AudioResampler("fltp", self._layout, self._rate), found
        if self._next is not None and abs(start - self._next) < _JITTER:
            start = self._next
        self._next = start + frame.samples / frame.sample_rate
        frame.time_base = Fraction(1, frame.sample_rate)
        frame.pts = round(start * frame.sample_rate)
        for piece in self._resampler.resample(frame):
            if piece.pts is not None and piece.time_base:
                self._place(piece.to_ndarray(), round(piece.pts * piece.time_base * self._rate))

    def packets(self, until: float) -> list[av.Packet]:
        """Return the packets of complete blocks that begin before a time, seconds."""
        out: list[av.Packet] = []
        while self._blocks and self._blocks[0][0] * _BLOCK < until * self._rate:
            index, block = self._blocks.popleft()
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=self._layout)
            frame.sample_rate, frame.time_base, frame.pts = self._rate, Fraction(1, self._rate), index * _BLOCK
            out += self._track.encode(frame)
        return out

    def finish(self, until: float) -> list[av.Packet]:
        """Return the packets of all that is left before a time, seconds."""
        self._complete_block(self._index + 1)
        return [*self.packets(until), *self._track.encode(None)]

    def _place(self, samples: np.ndarray, start: int) -> None:
        """Put samples ``[channels, N]`` where they begin, counted from the first frame; none twice, none before it."""
        skipped = max(0, self._index * _BLOCK + self._filled - start)
        samples, start = samples[:, skipped:], start + skipped
        while samples.shape[1]:
            index, place = divmod(start, _BLOCK)
            if index > self._index:
                self._complete_block(index)
            count = min(_BLOCK - place, samples.shape[1])
            self._block[:, place : place + count] = samples[:, :count]
            self._filled = place + count
            samples, start = samples[:, count:], start + count

    def _complete_block(self, following: int) -> None:
        """Keep the block, if there is anything in it, and begin the one with the given index."""
        if self._filled:
            self._blocks.append((self._index, self._block))
            self._block = np.zeros_like(self._block)
        self._index, self._filled = following, 0


def _is_playable(stream: av.AudioStream) -> bool:
    """Whether MP4 and browsers take the packets of a stream of AAC or MP3."""
    context = stream.codec_context
    if context.name == "aac":
        return bool(context.extradata) and context.profile in _PROFILES  # else each packet has its own header
    return context.sample_rate >= 16_000


def _duration(packet: av.Packet) -> float:
    return float((packet.duration or 0) * packet.time_base) if packet.time_base else 0.0
