"""Resolve what the user names as input, and open it as a source of frames."""

from __future__ import annotations

import glob
from pathlib import Path

from sdtc.core.errors import InputError, VideoError
from sdtc.runtime.sources.base import FrameSource
from sdtc.runtime.sources.images import IMAGE_SUFFIXES, ImageSequence
from sdtc.runtime.sources.live import RECONNECT, LiveSource, is_live
from sdtc.runtime.sources.video import VideoFile


def open_source(path: str | Path) -> FrameSource:
    """Open one video file, image file or folder of images; or, given as text, a live source (`live`).

    Raises:
        VideoError: it does not exist, or there is nothing in it to read.
    """
    if is_live(str(path)):
        return LiveSource(str(path))
    path = Path(path)
    if path.is_dir():
        files = [file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
        if not files:
            raise VideoError(f"folder '{path}' holds no images (looked for {', '.join(IMAGE_SUFFIXES)})")
        return ImageSequence(path, files)
    if not path.exists():
        raise VideoError(f"input '{path}' does not exist: expected a video, an image, a folder of images or a glob")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageSequence(path.parent, [path])
    return VideoFile(path)


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
    if Path(spec).exists() or not glob.has_magic(spec):
        return [Path(spec)]
    matches = sorted(Path(match) for match in glob.glob(spec, recursive=True))
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
    return ImageSequence(entry[0].parent, entry) if isinstance(entry, list) else open_source(entry)
