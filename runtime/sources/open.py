"""Resolve what the user names as input, and open it as a source of frames."""

from __future__ import annotations

import glob
from pathlib import Path

from sdtc.core.errors import InputError, VideoError
from sdtc.runtime.sources.base import FrameSource
from sdtc.runtime.sources.images import IMAGE_SUFFIXES, ImageSequence, images_in, name_of
from sdtc.runtime.sources.live import RECONNECT, LiveSource, is_live, live_name
from sdtc.runtime.sources.video import VideoFile


def open_source(path: str | Path) -> FrameSource:
    """Open one video file, image file or folder of images; or, given as text, a live source (`live`).

    Raises:
        VideoError: it does not exist, or there is nothing in it to read.
    """
    if is_live(str(path)):
        return LiveSource(str(path))
    path = Path(path)
    try:
        if path.is_dir():
            files, notes = images_in(path)
            if not files:
                raise VideoError(f"folder '{path}' holds no images (looked for {', '.join(IMAGE_SUFFIXES)})")
            return ImageSequence(path, files, notes)
        if not path.exists():
            raise VideoError(f"input '{path}' does not exist: expected a video, an image, a folder of images or a glob")
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return ImageSequence(path, [path], partial=True)
        return VideoFile(path)
    except OSError as error:  # no permission; a name that is too long
        raise VideoError(f"input '{path}' cannot be read: {error.strerror}") from None


def find_inputs(spec: str) -> list[str | Path | list[Path]]:
    """Resolve what a user names: a live source, a path, or a glob that names videos, folders or images.

    Returns:
        What :func:`open_source` takes, live sources as text; the images of one folder, matched by a glob, stay
        together as a list.

    Raises:
        VideoError: nothing matches.
    """
    if is_live(spec):
        return [spec]
    if _exists(Path(spec)) or not glob.has_magic(spec):
        return [Path(spec)]
    matches = sorted(Path(match) for match in glob.glob(_pattern(spec), recursive=True))
    if not matches:
        raise VideoError(f"no file matches the input '{spec}'")
    inputs: list[str | Path | list[Path]] = []
    folders: dict[Path, list[Path]] = {}
    for match in matches:
        if match.suffix.lower() in IMAGE_SUFFIXES and match.is_file():
            if match.parent not in folders:
                folders[match.parent] = []
                inputs.append(folders[match.parent])
            folders[match.parent].append(match)
        else:
            inputs.append(match)
    return inputs


def _pattern(spec: str) -> str:
    """Return a glob in which the leading folders that exist as they are written are no patterns: ``[2024]/*.mp4``."""
    parts = Path(spec).parts
    known = 0
    while known < len(parts) - 1 and _exists(Path(*parts[: known + 1])):
        known += 1
    return str(Path(*(glob.escape(part) for part in parts[:known]), *parts[known:]))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def input_name(entry: str | Path | list[Path]) -> str:
    """Return the name of an entry that :func:`find_inputs` returned, as the opened source has it; nothing is opened."""
    if isinstance(entry, str):
        return live_name(entry)
    if isinstance(entry, list):
        return name_of(entry[0].parent)
    return name_of(entry) if _exists(entry) and entry.is_dir() else entry.stem


def open_input(entry: str | Path | list[Path], drop_late: bool = False, reconnect: float | None = None) -> FrameSource:
    """Open one of the entries that :func:`find_inputs` returned.

    Args:
        entry: the entry.
        drop_late, reconnect: for a live source, see `sdtc.runtime.sources.live.LiveSource`.

    Raises:
        InputError: `drop_late` or `reconnect` is given for a file.
        VideoError: see `open_source`.
    """
    if isinstance(entry, str):
        return LiveSource(entry, drop_late, RECONNECT if reconnect is None else reconnect)
    if drop_late or reconnect is not None:
        raise InputError(
            "`drop_late` and `reconnect` are for cameras, network streams and pipes: leave them out for files"
        )
    return ImageSequence(entry[0].parent, entry, partial=True) if isinstance(entry, list) else open_source(entry)
