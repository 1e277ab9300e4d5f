"""Images as they are on disk: whole, and with headers that promise what no file can hold."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdtc.core.image_file import read_image


def picture(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x % 256, y % 256, (x + y) % 256], axis=-1).astype(np.uint8)


def png_of_size(data: bytes, height: int, width: int) -> bytes:
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def jpeg_of_size(data: bytes, height: int, width: int) -> bytes:
    at = data.index(b"\xff\xc0") if b"\xff\xc0" in data else data.index(b"\xff\xc2")
    return data[: at + 5] + struct.pack(">HH", height, width) + data[at + 9 :]


@pytest.mark.parametrize("options", [[], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]])
def test_a_header_that_promises_what_no_file_holds_is_not_decoded(tmp_path, monkeypatch, options) -> None:
    """Such a JPEG of 1,500 bytes took 15 s and 6 GB, and was a picture."""
    jpeg = cv2.imencode(".jpg", picture(48, 64), options)[1].tobytes()
    png = cv2.imencode(".png", picture(48, 64))[1].tobytes()
    at = png.index(b"IDAT")
    files = {
        "a.jpg": jpeg_of_size(jpeg, 32_000, 32_000),
        "b.png": png_of_size(png, 32_000, 32_000),
        "c.png": png[: at - 4] + b"\x7f\xff\xff\xff" + png[at:],  # 2 GB, which took 4 s
        "d.png": png[:-20],
    }
    decoded = []
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: decoded.append(arguments))
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        assert read_image(tmp_path / name) is None
    assert not decoded


@pytest.mark.parametrize(
    ("suffix", "options", "image"),
    [
        (".png", [], np.zeros((4000, 6000, 3), np.uint8)),  # the densest files that there are: one colour
        (".png", [cv2.IMWRITE_PNG_COMPRESSION, 9], np.zeros((4000, 6000), np.uint8)),
        (".png", [cv2.IMWRITE_PNG_BILEVEL, 1, cv2.IMWRITE_PNG_COMPRESSION, 9], np.zeros((8000, 8000), np.uint8)),
        (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 1, cv2.IMWRITE_JPEG_OPTIMIZE, 1], np.zeros((4000, 6000, 3), np.uint8)),
        (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_OPTIMIZE, 1], np.zeros((4000, 6000), np.uint8)),
        (".png", [], picture(1, 1)),
        (".bmp", [], picture(30, 40)),
    ],
)
def test_dense_files_are_read(tmp_path: Path, suffix, options, image) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(cv2.imencode(suffix, image, options)[1].tobytes())
    read = read_image(path)
    assert read is not None
    assert read.shape == (*image.shape[:2], 3)


def test_what_follows_the_end_does_not_matter(tmp_path: Path) -> None:
    """Some programs append: a second picture, a video, a signature."""
    for suffix in (".png", ".jpg"):
        data = cv2.imencode(suffix, picture(30, 40))[1].tobytes()
        path = tmp_path / f"x{suffix}"
        path.write_bytes(data)
        plain = read_image(path)
        path.write_bytes(data + b"\x7f\xff\xff\xffmore" * 99)
        np.testing.assert_array_equal(read_image(path), plain)


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xc0\0\0", b"\x89PNG\r\n\x1a\n", b"x"]
)
def test_stumps_are_no_images(tmp_path, data) -> None:
    (tmp_path / "x.jpg").write_bytes(data)
    assert read_image(tmp_path / "x.jpg") is None


def test_a_damaged_animation_does_not_reach_the_decoder(tmp_path) -> None:
    """OpenCV goes on behind a damaged chunk of an animated PNG, and crashes the process at times."""
    if not hasattr(cv2, "Animation"):
        pytest.skip("this OpenCV writes no animations")
    pictures = cv2.Animation()
    pictures.frames = [np.full((24, 32, 3), 40 * index, np.uint8) for index in range(3)]
    pictures.durations = np.array([40, 40, 40])
    path = tmp_path / "a.png"
    assert cv2.imwriteanimation(str(path), pictures)
    assert read_image(path) is not None
    data = bytearray(path.read_bytes())
    data[data.find(b"fcTL") + 3] = ord("H")
    path.write_bytes(data)
    assert read_image(path) is None
