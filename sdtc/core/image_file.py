"""Reading image files. NumPy and OpenCV only."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Literal

import cv2
import numpy as np

MAX_SIDE = 32_767  # OpenCV's warping takes no larger images
# No PNG or JPEG is as dense as this: PNG's compression ends at 8,256 pixels of one bit in a byte, and JPEG takes
# at least a bit for a block of 8 x 8.
MAX_PIXELS_PER_BYTE = 10_000
_PNG_SIGNATURE, _JPEG_SIGNATURE = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of the segments that hold the size


def read_image(path: Path) -> np.ndarray | None:
    """Return an image file as uint8 ``[H, W, 3]`` RGB, or None if it is missing, broken or too large.

    Of a file with several pictures it is the first, see `holds_several`.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)  # cv2.imread cannot open every path on every system
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) and not _is_damaged(data.data) else None
    except (OSError, cv2.error):
        return None
    if image is None or max(image.shape) > MAX_SIDE:
        return None
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def holds_several(path: Path) -> bool:
    """Whether an image file holds more than one picture: an animation, or a document with pages. It reads the header.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(1 << 16)
        if head[:4] in (b"II*\0", b"MM\0*"):
            return _has_second_page(file, "little" if head[:1] == b"I" else "big")
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X":
        return bool(head[20] & 2) if len(head) > 20 else False
    if head[:4] == b"\x89PNG":
        return b"acTL" in head.split(b"IDAT")[0]
    if head[:4] == b"GIF8":  # each picture of an animation has a graphic control extension
        return head.count(b"\x21\xf9\x04") > 1
    return head[4:12] == b"ftypavis"


def _has_second_page(file: BinaryIO, order: Literal["little", "big"]) -> bool:
    """Whether a TIFF file's first directory names a second one."""
    file.seek(4)
    first = int.from_bytes(file.read(4), order)
    file.seek(first)
    entries = int.from_bytes(file.read(2), order)
    file.seek(first + 2 + 12 * entries)
    return int.from_bytes(file.read(4), order) > 0


def _is_damaged(data: memoryview) -> bool:
    """Whether a PNG or JPEG file claims more than it can hold, or an animated PNG has other checksums than it says.

    OpenCV's decoders allocate and fill what a header claims, whatever follows it: a damaged one costs seconds and
    gigabytes, and can give a grey picture.
    """
    height = width = 0
    if data[:8] == _PNG_SIGNATURE:
        height, width = _number(data[20:24]), _number(data[16:20])
        at, name, animated = 8, b"", False
        while at < len(data) and name != b"IEND":  # chunk after chunk: length, name, contents, checksum
            start, at, name = at + 4, at + 12 + _number(data[at : at + 4]), bytes(data[at + 4 : at + 8])
            if at > len(data):
                return True
            # OpenCV's reader of animations goes on behind damage, and crashes the process.
            animated = animated or name == b"acTL"
            if animated and zlib.crc32(data[start : at - 4]) != _number(data[at - 4 : at]):
                return True
    elif data[:2] == _JPEG_SIGNATURE:
        at = 2
        while data[at : at + 1] == b"\xff" and at + 9 <= len(data):  # segment after segment: marker, length, contents
            if data[at + 1] in _JPEG_FRAMES:
                height, width = _number(data[at + 5 : at + 7]), _number(data[at + 7 : at + 9])
                break
            at += 2 + _number(data[at + 2 : at + 4])
    return height * width > MAX_PIXELS_PER_BYTE * len(data)


def _number(data: memoryview) -> int:
    return int.from_bytes(data, "big")


class ImageCache:
    """A cache in front of `read_image`: images are decoded once and kept in memory, at 3 bytes a pixel.

    Args:
        paths: the images to cache; others are read from disk each time.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self._images = {path: read_image(path) for path in paths}

    def __call__(self, path: Path) -> np.ndarray | None:
        """Return the image or None, as :func:`read_image`; do not modify it, since it is shared."""
        return self._images[path] if path in self._images else read_image(path)
