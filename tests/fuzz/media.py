"""Targets: videos and folders of images, read to their end."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from sdtc.runtime.sources.base import FrameSource
from sdtc.runtime.sources.open import open_source
from tests.fuzz.corpus import VIDEOS, Corpus, picture
from tests.fuzz.mutate import mutate_bytes
from tests.fuzz.oracle import Case, attempt, check_sentence, expect

MAX_FRAMES = 2000  # no corpus video has more than 40, and damage makes at most a few of one


def make_videos(corpus: Corpus) -> None:
    for name in VIDEOS:
        corpus.video(name)


def read_all(path: Path) -> tuple[FrameSource | None, list[np.ndarray | None], str]:
    """Read a source to its end; return it, its images, and the error if it cannot be opened."""
    source, error = attempt(lambda: open_source(path))
    if source is None:
        return None, [], error
    images: list[np.ndarray | None] = []
    with source:
        last = -1
        for frame in source:
            expect(frame.index > last, f"frame {frame.index} after {last}")
            last = frame.index
            if frame.image is not None:
                shape = frame.image.shape
                expect(frame.image.dtype == np.uint8 and len(shape) == 3 and shape[2] == 3 and min(shape) > 0, shape)
            images.append(frame.image)
            expect(len(images) < MAX_FRAMES, "frames without end")
    for problem in source.problems:
        check_sentence(problem)
    return source, images, ""


def video(case: Case) -> None:
    """A damaged video: an error, or problems said, or what FFmpeg's libraries decode without a complaint."""
    name = case.rng.choice(sorted(VIDEOS))
    data, intact = case.corpus.video(name), case.chance(0.03)
    suffix = Path(name).suffix if case.chance(0.9) else case.rng.choice((".mp4", ".bin", "", ".mkv", ".MP4"))
    path = case.folder / f"clip{suffix}"
    path.write_bytes(data if intact else mutate_bytes(data, case.rng))
    source, images, error = read_all(path)
    if intact:
        _, _, size, frames, fps, _ = VIDEOS[name]
        expect(source is not None and not source.problems, error or (source and source.problems))
        assert source is not None
        expect(
            [image is not None and image.shape for image in images] == [(*size, 3)] * frames, f"{len(images)} frames"
        )
        expect(abs(source.fps - fps) < 0.01 * fps or suffix == ".gif", f"{source.fps} frames/s, not {fps}")
        return
    if source is None:
        return
    expect(np.isfinite(source.fps) and source.fps > 0, f"{source.fps} frames/s")
    if source.problems or source.notes:
        return
    expect(images, "no frames, and no word about it")
    frames, packets, complaint = _decode(path)
    expect(not complaint, f"{len(images)} frames and no word about: {complaint}")
    expect(len(frames) == len(images), f"{len(images)} frames, FFmpeg's libraries decode {len(frames)}")
    expect(packets <= len(images), f"{packets - len(images)} packets gave no frame, so that later ones count too low")
    damaged = sum(frame.is_corrupt for frame in frames)
    # FFmpeg's threads lose a flag at times: the same file gives other counts from run to run.
    expect(damaged <= 2, f"FFmpeg calls {damaged} of {len(frames)} frames corrupt, and no word about them")


def _decode(path: Path) -> tuple[list[av.VideoFrame], int, str]:
    """Return the frames of a file as they come from FFmpeg, the number of packets, and its error, if any."""
    frames: list[av.VideoFrame] = []
    packets = 0
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            stream = container.streams.best("video")
            if stream is None:
                return [], 0, "no video stream"
            for packet in container.demux(stream):
                packets += packet.size > 0 and not packet.is_discard
                frames += packet.decode()
    except (av.FFmpegError, ValueError) as error:
        return frames, packets, str(error)
    return frames, packets, ""


_NAMES = (
    "{0:06d}",
    "{0}",
    "img_{0}",
    "{0:03d}",
    "é{0}",
    "a b {0}",
    "[{0}]",
    "%0{0}d",
    "x" * 200 + "{0}",
    "{0}.0",
    "-{0}",
    "²{0}",
    "٣{0}",
)
_EXACT = ("plain.png", "plain.bmp", "plain.tiff")


def images(case: Case) -> None:
    """A folder with good, damaged and odd files: every image file is a frame, and damaged ones are said."""
    rng, folder = case.rng, case.folder / "frames"
    folder.mkdir()
    corpus, pattern = case.corpus.images, rng.choice(_NAMES)
    good: dict[str, str] = {}  # file name: which image of the corpus it is
    bad: set[str] = set()
    number = rng.choice((0, 1, 5, 999))
    for _ in range(rng.randrange(1, 7)):
        number += rng.choice((1, 1, 1, 2, 0, 1000))
        kind = rng.choice(sorted(corpus))
        suffix = Path(kind).suffix if case.chance(0.85) else rng.choice((".JPG", ".jpg", ".png", ".tif"))
        name = pattern.format(number) + suffix
        path = folder / name
        if path.is_symlink() or path.exists():
            continue
        what = rng.randrange(10)
        if what < 5:
            path.write_bytes(corpus[kind])
            if kind == "float.tiff":  # its values have no range: not read, and said
                bad.add(name)
            else:
                good[name] = kind
        elif what < 8:
            path.write_bytes(mutate_bytes(corpus[kind], rng))
            bad.add(name)
        elif what == 8:
            path.write_bytes(b"")
            bad.add(name)
        else:
            path.symlink_to(rng.choice(("missing.png", name, str(folder), "/dev/null", "..")))
            bad.add(name)
    for name in ("._" + pattern.format(number) + ".jpg", "Thumbs.db", ".hidden.png", "notes.txt", "sub.png"):
        if case.chance(0.2):
            if name == "sub.png":
                (folder / name).mkdir(exist_ok=True)
            elif not (folder / name).exists():
                (folder / name).write_bytes(b"x" * 99)
    one = rng.choice(sorted([*good, *bad]))
    if case.chance(0.1) and not (folder / one).is_dir():
        source, images, _ = read_all(folder / one)
        names = [one]
    else:
        source, images, _ = read_all(folder)
        names = sorted([*good, *bad])
    if source is None:
        expect(not set(names) & set(good), f"{len(good)} good images were refused")
        return
    assert source.listing is not None
    expect(len(images) == len(source.listing), f"{len(images)} images, {len(source.listing)} listed")
    listed = {name: image for (_, name), image in zip(source.listing, images, strict=True) if name is not None}
    expect(set(listed) - {"sub.png"} <= set(names), f"listed are {sorted(listed)}, there are {names}")
    for name in names:
        if name in good:
            expect(name in listed, f"{name} is no frame")
            _check_image(name, good[name], listed[name])
        elif name in listed and listed[name] is None:
            expect(source.problems, f"{name} cannot be read, and nobody says so")
    numbers = [number for number, _ in source.listing]
    expect(numbers == sorted(set(numbers)), f"frame numbers {numbers}")


def _check_image(name: str, kind: str, image: np.ndarray | None) -> None:
    expect(image is not None, f"{name} is a good image ({kind}) and was not read")
    assert image is not None
    if kind.startswith(("plain", "progressive", "alpha", "deep.png")):
        expected = picture(3, (48, 64))
        difference = np.abs(image.astype(int) - expected).mean() if image.shape == expected.shape else 999
        expect(difference < (0.01 if kind in _EXACT else 12), f"{name} ({kind}) differs by {difference} on average")
