"""Whether a video file is cut off: how many bytes it lacks, by the sizes that its container states.

Counts of frames and durations in headers say little: they cover hidden frames, sound and subtitles, and cameras that
lose power leave them wrong. The sizes of a container's outermost parts are what players need, so they are right where
the file is whole. Formats without such sizes (MPEG-TS, GIF, live recordings) are never called cut off.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_MAX_PARTS = 100_000  # of a fragmented MP4 of a day
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def missing_bytes(path: Path) -> int:
    """Return how many bytes a file lacks; 0 if it is whole, or if its format does not say.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(12)
        file.seek(0)
        if start[:4] == _EBML:
            end = _end_of_matroska(file)
        elif start[:4] == b"RIFF":
            end = _end_of_riff(file, size)
        elif start[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
            end = _end_of_mp4(file, size)
        else:
            return 0
    return max(end - size, 0)


def _end_of_mp4(file: BinaryIO, size: int) -> int:
    """Return where the last box ends."""
    position = 0
    for _ in range(_MAX_PARTS):
        file.seek(position)
        head = file.read(16)
        if len(head) < 8 or not head[4:8].isascii() or not head[4:8].strip().isalnum():
            break  # padding or trailing data of another kind
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if length < 8:  # 0: up to the end of the file
            break
        position += length
        if position >= size:
            return position
    return 0


def _end_of_matroska(file: BinaryIO) -> int:
    """Return where the segment ends."""
    head = file.read(1024)
    position = 4
    length, width = _ebml_size(head[position : position + 8])
    position += width + length
    if head[position : position + 4] != _SEGMENT:
        return 0
    position += 4
    length, width = _ebml_size(head[position : position + 8])
    return position + width + length if length else 0


def _ebml_size(data: bytes) -> tuple[int, int]:
    """Return a size and the number of bytes that it takes; the size is 0 if it is unknown, as in live recordings."""
    width = 9 - data[0].bit_length() if data and data[0] else 9
    if len(data) < width or width > 8:
        return 0, 0
    value = int.from_bytes(data[:width], "big") & ((1 << 7 * width) - 1)
    return (0 if value == (1 << 7 * width) - 1 else value), width


def _end_of_riff(file: BinaryIO, size: int) -> int:
    """Return where the last RIFF part ends; recorders that lost power leave sizes of 0 or of all ones."""
    position = 0
    for _ in range(_MAX_PARTS):
        file.seek(position)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] != b"RIFF" or length in (0, 0xFFFFFFFF):
            break
        position += 8 + length + length % 2
        if position >= size:
            return position
    return 0
