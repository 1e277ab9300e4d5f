"""Writing H.264 video: the one place that opens the encoder, for overlay videos and synthetic clips alike.

Temporary names and error messages are the callers' business: this writes one file from front to back.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


class H264Writer:
    """An MP4 file with one H.264 stream that browsers play: yuv420p, the index in front of the pictures.

    As a context manager it calls :meth:`close` after success and :meth:`abandon` after an exception.

    Args:
        path: the file; its suffix is free, the format is always MP4.
        fps: frames per second.
        size: (H, W) of the frames in pixels, both even.
        crf: constant rate factor of libx264, 0 (lossless) to 51; lower is larger and better.
        preset: libx264's trade of encoding speed for file size, e.g. ``"veryfast"``.

    Raises:
        OSError, av.FFmpegError: here and in every method, if the file cannot be written or the encoder does not start.
    """

    def __init__(
        self, path: str | Path, fps: float, size: tuple[int, int], *, crf: int, preset: str = "medium"
    ) -> None:
        # An absolute path, since FFmpeg takes what stands before a colon for a protocol.
        self._file = av.open(str(Path(path).absolute()), "w", format="mp4", options={"movflags": "+faststart"})
        self._stream = self._file.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(1001), options={"crf": str(crf), "preset": preset}
        )
        self._stream.height, self._stream.width = self.size = size
        self._stream.pix_fmt = "yuv420p"

    def write(self, image: np.ndarray) -> None:
        """Add a frame, uint8 ``[H, W, 3]`` RGB of the size that was given."""
        self._file.mux(self._stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))

    def close(self) -> None:
        """Encode the frames that wait in the encoder, and finish the file."""
        self._file.mux(self._stream.encode(None))
        self._file.close()

    def abandon(self) -> None:
        """Close the file without the frames that wait in the encoder; what is left is not meant to be kept."""
        self._file.close()

    def __enter__(self) -> H264Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()
