"""Writing H.264 video: the one place that opens the encoder, for overlay videos and synthetic clips alike.

Temporary names and error messages are the callers' business: this writes one file from front to back.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Protocol, Self

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

_CLOCK = Fraction(1, 90_000)  # seconds; time stamps of all usual frame rates are whole numbers of it
_LONGEST = 2**29  # of its ticks, 99 minutes: MP4 cannot hold pictures much farther apart
_SOUND_STEP = 1.0  # seconds of sound that are asked for at a time; all of them are in memory
_UNSPECIFIED = 2
# FFmpeg converts with the matrix of BT.601 where none is stated. Of RGB, which has no matrix, BT.709 is made.
_MATRICES = {1: Colorspace.ITU709, 4: Colorspace.FCC, 5: Colorspace.ITU601, 6: Colorspace.ITU601,
             7: Colorspace.SMPTE240M, 9: Colorspace.BT2020, _UNSPECIFIED: Colorspace.ITU601}  # fmt: skip


@dataclass(frozen=True)
class ColorTags:
    """How a video's colours are stored, in the numbers of ITU-T H.273; players show a video by these.

    Attributes:
        matrix, primaries, transfer: 1 for BT.709, 2 for unspecified, and so on.
        range: 1 for 16-235, 2 for 0-255, 0 for unspecified.
    """

    matrix: int = 1
    primaries: int = 1
    transfer: int = 1
    range: int = 1

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Self:
        """Return those of a decoded frame; BT.709 if it is stored in a way that H.264 in yuv420p cannot have."""
        matrix, full = int(frame.colorspace), int(frame.color_range)
        if matrix not in _MATRICES:
            return cls()
        return cls(matrix, int(frame.color_primaries), int(frame.color_trc), full if full in (0, 1, 2) else 0)


class Accompaniment(Protocol):
    """Sound that goes with the pictures. Its methods raise nothing: what cannot be read is not there."""

    def join(self, file: av.container.OutputContainer) -> None:
        """Add a stream to a file, before anything is written into it."""

    def packets(self, until: float) -> list[av.Packet]:
        """Return the packets up to a time, seconds, that were not returned before."""

    def finish(self) -> list[av.Packet]:
        """Return the packets that wait in the encoder; no more follow."""

    def leave_out(self, why: str) -> None:
        """End the sound here."""

    def close(self) -> None:
        """Release what it holds."""


class H264Writer:
    """An MP4 file with one H.264 stream that browsers play: yuv420p, the index in front of the pictures.

    As a context manager it calls :meth:`close` after success and :meth:`abandon` after an exception.

    Args:
        path: the file; its suffix is free, the format is always MP4.
        fps: frames per second.
        size: (H, W) of the frames in pixels, both even.
        crf: constant rate factor of libx264, 0 (lossless) to 51; lower is larger and better.
        preset: libx264's trade of encoding speed for file size, e.g. ``"veryfast"``.
        pixel_aspect: width of a pixel relative to its height.
        colors: how to store the colours; untagged if not given.
        sound: to write between the pictures, which then need times; it ends with them, and is closed with the file.

    Raises:
        OSError, av.FFmpegError: here and in every method, if the file cannot be written or the encoder does not start.
    """

    def __init__(
        self,
        path: str | Path,
        fps: float,
        size: tuple[int, int],
        *,
        crf: int,
        preset: str = "medium",
        pixel_aspect: float = 1.0,
        colors: ColorTags | None = None,
        sound: Accompaniment | None = None,
    ) -> None:
        name, self._opened = str(Path(path).absolute()), None  # else what stands before a colon would be a protocol
        try:
            name.encode()
        except UnicodeEncodeError:  # a name in another encoding, which PyAV cannot pass on
            self._opened = Path(path).open("w+b")  # noqa: SIM115  (closed together with the container)
        options = {} if self._opened else {"movflags": "+faststart"}  # FFmpeg reopens the file for this, by its name
        self._file = av.open(self._opened or name, "w", format="mp4", options=options)
        self._stream = self._file.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": str(crf), "preset": preset}
        )
        self._stream.height, self._stream.width = self.size = size
        self._stream.pix_fmt = "yuv420p"
        if pixel_aspect != 1:
            self._stream.codec_context.sample_aspect_ratio = Fraction(pixel_aspect).limit_denominator(1000)
        self._colors, self._last, self._skipped = colors, -1, 0
        self._sound, self._step, self._sounded = sound, 1 / fps, 0.0  # up to where it was asked for, seconds
        if sound is not None:
            sound.join(self._file)
        if colors is not None:
            context = self._stream.codec_context
            context.colorspace, context.color_range = colors.matrix, colors.range
            context.color_primaries, context.color_trc = colors.primaries, colors.transfer

    def write(self, image: np.ndarray, time: float | None = None) -> None:
        """Add a frame.

        Args:
            image: uint8 ``[H, W, 3]`` RGB of the size that was given.
            time: when it is shown, seconds, more than that of the frame before; by `fps` if not given. Give it for all
                frames or for none. Longer pauses than MP4 can have are shortened.
        """
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        if self._colors is not None:
            full = self._colors.range == ColorRange.JPEG
            frame = frame.reformat(
                format="yuv420p",
                dst_colorspace=_MATRICES[self._colors.matrix],
                dst_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
            )
        if time is not None:
            frame.time_base = self._stream.codec_context.time_base = _CLOCK
            ticks = max(round(time / _CLOCK) - self._skipped, self._last + 1)
            if self._last >= 0 and ticks - self._last > _LONGEST:  # a camera that was away over night
                self._skipped += ticks - self._last - _LONGEST
                ticks = self._last + _LONGEST
                if self._sound is not None:
                    self._sound.leave_out("the pictures pause for longer than MP4 can hold")
            frame.pts = self._last = ticks
        self._file.mux(self._stream.encode(frame))
        if time is not None and self._sound is not None:
            self._add_sound(self._sound, self._last * float(_CLOCK))

    def close(self) -> None:
        """Encode the frames that wait in the encoder, and finish the file."""
        self._file.mux(self._stream.encode(None))
        if self._sound is not None and self._last >= 0:
            self._add_sound(self._sound, self._last * float(_CLOCK) + self._step)
            self._mux_sound(self._sound, self._sound.finish())
        self.abandon()

    def abandon(self) -> None:
        """Close the file without the frames that wait in the encoder; what is left is not meant to be kept."""
        try:
            self._file.close()
        finally:
            if self._sound is not None:
                self._sound.close()
            if self._opened is not None:
                self._opened.close()

    def _add_sound(self, sound: Accompaniment, until: float) -> None:
        """Write the sound up to a time, seconds, in small steps: between two pictures there can be an hour of it."""
        while self._sounded < until:
            self._sounded = min(self._sounded + _SOUND_STEP, until)
            self._mux_sound(sound, sound.packets(self._sounded))

    def _mux_sound(self, sound: Accompaniment, packets: list[av.Packet]) -> None:
        try:
            self._file.mux(packets)
        except (av.InvalidDataError, av.ArgumentError) as error:  # packets that MP4 does not take; not a full disk
            sound.leave_out(error.strerror or str(error))

    def __enter__(self) -> H264Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()
