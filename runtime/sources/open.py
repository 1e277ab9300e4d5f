"""Resolve what the user names as input, and open it as a source of frames."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from sdtc.core.errors import InputError, VideoError
from sdtc.runtime.sources.base import FrameSource
from sdtc.runtime.sources.images import IMAGE_SUFFIXES, ImageSequence, images_in, name_of
from sdtc.runtime.sources.live import RECONNECT, LiveSource, is_live, live_name, live_title
from sdtc.runtime.sources.video import VideoFile

FOR_LIVE = "`drop_late` and `reconnect` are for cameras, network streams and pipes: leave them out for files"
Opening = Callable[[FrameSource], None]


def open_source(path: str | Path, opening: Opening | None = None) -> FrameSource:
    """Open one video file, image file or folder of images; or, given as text, a live source (`live`).

    Args:
        path: what to open.
        opening: for a live source, see `sdtc.runtime.sources.live.LiveSource`.

    Raises:
        VideoError: it does not exist, or there is nothing in it to read.
    """
    if is_live(str(path)):
        return LiveSource(str(path), opening=opening)
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


def find_all_inputs(specs: Sequence[str]) -> list[str | Path | list[Path]]:
    """Resolve everything that a user names, each as :func:`find_inputs` does.

    Raises:
        VideoError: nothing matches one of them.
        InputError: an input appears twice, under whatever name.
    """
    entries = [entry for spec in specs for entry in find_inputs(spec)]
    known: dict[Hashable, str] = {}
    for entry in entries:
        for name, key in _identities(entry):
            if key in known:
                where = f"'{name}'" if known[key] == name else f"'{known[key]}' and '{name}', which are the same"
                raise InputError(f"`source` has an input twice, {where}: name every input once")
            known[key] = name
    return entries


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
            inputs.append(str(match) if is_live(str(match)) else match)
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


def _identities(entry: str | Path | list[Path]) -> list[tuple[str, Hashable]]:
    """Return, for an input or for each of its images, a name for messages and what it has in common with its links."""
    if isinstance(entry, list):
        # Within a sequence, links may repeat an image.
        return list({identity: (str(path), identity) for path in entry if (identity := file_identity(path))}.values())
    if isinstance(entry, Path):
        return [(str(entry), file_identity(entry) or entry)]
    return [(live_title(entry), live_identity(entry))]


def live_identity(spec: str) -> Hashable:
    """Return what is the same for all ways to name a live source: camera ``0`` is ``/dev/video0``."""
    if spec == "-":
        try:
            found = os.fstat(0)
        except OSError:  # closed
            return spec
        return found.st_dev, found.st_ino
    if "://" in spec:
        parts = urlsplit(spec)
        return parts.scheme.lower(), parts.netloc.lower(), spec.partition("://")[2].partition("/")[2]
    device = f"/dev/video{spec}" if spec.isdecimal() else spec
    return file_identity(Path(device)) or device


def file_identity(path: Path) -> tuple[int, int] | None:
    """Return what a file has in common with its links; None if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def input_name(entry: str | Path | list[Path]) -> str:
    """Return the name of an entry that :func:`find_inputs` returned, as the opened source has it; nothing is opened."""
    if isinstance(entry, str):
        return live_name(entry)
    if isinstance(entry, list):
        return name_of(entry[0].parent)
    return name_of(entry) if _exists(entry) and entry.is_dir() else entry.stem


def open_input(
    entry: str | Path | list[Path],
    drop_late: bool = False,
    reconnect: float | None = None,
    opening: Opening | None = None,
) -> FrameSource:
    """Open one of the entries that :func:`find_inputs` returned.

    Args:
        entry: the entry.
        drop_late, reconnect, opening: for a live source, see `sdtc.runtime.sources.live.LiveSource`.

    Raises:
        InputError: `drop_late` or `reconnect` is given for a file.
        VideoError: see `open_source`.
    """
    if isinstance(entry, str):
        return LiveSource(entry, drop_late, RECONNECT if reconnect is None else reconnect, opening=opening)
    if drop_late or reconnect is not None:
        raise InputError(FOR_LIVE)
    if isinstance(entry, list):
        return ImageSequence(entry[0].parent, entry, partial=True)
    return open_source(entry, opening)
