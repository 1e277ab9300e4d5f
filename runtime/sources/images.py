"""Frames from image files, numbered by their names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sdtc.core.image_file import read_image
from sdtc.runtime.sources.base import DEFAULT_FPS, Frame, FrameSource

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
MAX_GAP = 10  # with more missing numbers per image, the numbers do not count frames


class ImageSequence(FrameSource):
    """Image files in the order of their numbers; gaps in the numbering are missing frames.

    Args:
        path: the folder, for messages.
        files: the images.
    """

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        self.path, self.name = path, path.absolute().name or "images"
        self.fps = DEFAULT_FPS
        self.problems: list[str] = []
        self._broken: list[Path] = []
        ordered = sorted(files, key=lambda file: (_natural(file.name), file.name))
        numbers = _frame_numbers(ordered)
        self.frames: list[tuple[int, Path | None]] = []  # number and file, missing frames included
        for number, file in zip(numbers, ordered, strict=True):
            if self.frames and _gaps_are_missing_frames(numbers):
                self.frames += [(missing, None) for missing in range(self.frames[-1][0] + 1, number)]
            self.frames.append((number, file))
        self.num_frames = len(self.frames)
        self.listing = [(number, None if file is None else file.name) for number, file in self.frames]

    def __iter__(self) -> Iterator[Frame]:
        for index, (number, file) in enumerate(self.frames):
            image = None if file is None else self._read(file)
            yield Frame(index, number, None if file is None else file.name, image)

    def _read(self, file: Path) -> np.ndarray | None:
        image = read_image(file)
        if image is None:
            self._broken.append(file)
            first, count = self._broken[0], len(self._broken)
            self.problems = [
                f"image '{first}' cannot be read and was treated as a missing frame"
                if count == 1
                else f"{count} images cannot be read and were treated as missing frames, the first is '{first}'"
            ]
        return image


def _frame_numbers(files: Sequence[Path]) -> list[int]:
    """Return a number for each file: the digits of its name if all names are digits, else its position."""
    stems = [file.stem for file in files]
    if all(re.fullmatch(r"\d{1,18}", stem) for stem in stems):
        numbers = [int(stem) for stem in stems]
        if len(set(numbers)) == len(numbers):
            return numbers
    return list(range(len(files)))


def _gaps_are_missing_frames(numbers: Sequence[int]) -> bool:
    """Whether the numbers count the frames of a video; numbers of photos and time stamps are far apart."""
    return numbers[-1] - numbers[0] < MAX_GAP * len(numbers)


def _natural(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]
