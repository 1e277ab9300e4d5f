"""Frames from image files, numbered by their names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from sdtc.core.image_file import holds_several, read_image
from sdtc.runtime.sources.base import DEFAULT_FPS, FileSource, Frame

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".avif")
_BOOKKEEPING = frozenset(("thumbs.db", "desktop.ini"))  # what Windows leaves in folders
MAX_GAP = 10  # with more missing numbers per image, the numbers do not count frames


class ImageSequence(FileSource):
    """Image files in the order of their numbers; gaps in the numbering are missing frames.

    Args:
        path: the folder, or the single image, for messages.
        files: the images.
        notes, partial: see `FrameSource`.
    """

    def __init__(self, path: Path, files: Sequence[Path], notes: Sequence[str] = (), partial: bool = False) -> None:
        self.path, self.name, self.partial = path, name_of(path), partial
        self.fps, self.notes = DEFAULT_FPS, list(notes)
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

    @property
    def sequence(self) -> str:
        return name_of(self.path.absolute().parent) if self.path.is_file() else self.name

    def __iter__(self) -> Iterator[Frame]:
        self._begin()
        several: list[Path] = []
        for index, (number, file) in enumerate(self.frames):
            if self._stopped:
                return
            image = None if file is None else self._read(file, several)
            name = None if file is None else file.name
            yield Frame(index, number, name, image, time=index / self.fps)
        if several:
            what = (
                f"'{several[0]}' holds" if len(several) == 1 else f"{len(several)} images, such as '{several[0]}', hold"
            )
            text = f"{what} several pictures: only the first is used; convert animations to videos"
            self.notes = [*self.notes, text]

    def _read(self, file: Path, several: list[Path]) -> np.ndarray | None:
        image = read_image(file)
        with suppress(OSError):
            if image is not None and holds_several(file):
                several.append(file)
        if image is None:
            self._broken.append(file)
            first, count = self._broken[0], len(self._broken)
            self.problems = [
                f"image '{first}' cannot be read and was treated as a missing frame"
                if count == 1
                else f"{count} images cannot be read and were treated as missing frames, the first is '{first}'"
            ]
        return image


def name_of(path: Path) -> str:
    """Return the name of an input for results: that of a folder, or of a file without its suffix."""
    if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
        return path.stem
    return path.absolute().name or "images"


def images_in(folder: Path) -> tuple[list[Path], list[str]]:
    """Return the images of a folder, and sentences about files that are passed over.

    Hidden files are no images, whatever their suffix: macOS leaves a ``._name.jpg`` beside every file that it copies
    to a disk of another system.

    Raises:
        OSError: the folder cannot be read.
    """
    files = [file for file in folder.iterdir() if not file.name.startswith(".") and not file.is_dir()]
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    others = Counter(
        file.suffix.lower() or "no suffix"
        for file in files
        if file.suffix.lower() not in IMAGE_SUFFIXES and file.name.lower() not in _BOOKKEEPING
    )
    if not others:
        return images, []
    kinds = ", ".join(f"{count} of {suffix}" for suffix, count in others.most_common(3))
    more = f" and {len(others) - 3} other kinds" if len(others) > 3 else ""
    return images, [f"files of folder '{folder}' passed over, since they are no images that are read: {kinds}{more}"]


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
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name) if part]
