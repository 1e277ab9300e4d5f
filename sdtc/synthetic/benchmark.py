"""The labelled sets: which clips they consist of, making them with several processes, and what is in them.

A set is a run of seeds. Every other clip is plain; the others have two difficulties each, in turn. Everybody is lively:
a gait is so regular that one frame tells where a hidden joint is, and then the other frames are worth nothing.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sdtc.core.errors import InputError, SdtcError
from sdtc.core.files import read_json
from sdtc.core.posetrack import from_slots
from sdtc.synthetic.clip import ClipOptions, SyntheticClip
from sdtc.synthetic.difficulty import DIFFICULTIES
from sdtc.synthetic.writing import write_clip

FIRST_SEED = {"train": 100_000, "val": 500_000}  # away from the small seeds, of which everybody draws demo clips
MAX_CLIPS = 400_000
DELTA = 2  # frames to either side that the network of the paper sees


def set_clips(split: str, clips: int, num_frames: int, size: tuple[int, int], fps: float) -> list[ClipOptions]:
    """The clips of a set; a longer set begins with the same ones.

    Args:
        split: ``"train"`` or ``"val"``.
        clips: how many.
        num_frames: of each clip.
        size: (H, W) in pixels.
        fps: frames per second.
    """
    seeds = range(FIRST_SEED[split], FIRST_SEED[split] + clips)
    return [ClipOptions(seed, num_frames, size, None, fps, recipe(seed), lively=True) for seed in seeds]


def recipe(seed: int) -> tuple[str, ...]:
    """The difficulties of a set's clip: none for even seeds, two for odd ones; twenty seeds hold every pair once."""
    number, odd = divmod(seed, 2)
    first = number % 5
    second = (first + 1 + number // 5 % 2) % 5
    return tuple(name for i, name in enumerate(DIFFICULTIES) if odd and i in (first, second))


def missing_clips(wanted: Sequence[ClipOptions], root: Path, split: str) -> list[ClipOptions]:
    """The clips of a set that a folder does not hold yet; more clips of the same set may be there.

    Raises:
        InputError: the folder holds other clips, or clips that were made with other options.
    """
    found = set()
    for path in sorted((root / "annotations" / split).glob("*.json")):
        data = read_json(path, "annotations")
        info = data.get("info") if isinstance(data, dict) else None
        info = info if isinstance(info, dict) else {}
        seed = info.get("seed")
        if not isinstance(seed, int) or not 0 <= seed - FIRST_SEED[split] < MAX_CLIPS:
            raise InputError(f"'{path}' is no clip of the {split} set: choose another --output, or move it away")
        expected = replace(wanted[0], seed=seed, difficulties=recipe(seed)).to_json()
        different = [key for key in expected if info.get(key) != expected[key]]
        if different:
            key = different[0]
            raise InputError(
                f"'{path}' was made with {key} {info.get(key)}, now it is {expected[key]}: choose another --output, "
                "the same options, or delete the old set"
            )
        found.add(seed)
    return [options for options in wanted if options.seed not in found]


def write_clips(
    clips: Sequence[ClipOptions],
    root: Path,
    split: str = "val",
    video: bool = False,
    workers: int = 1,
    on_frames: Callable[[int], Any] = lambda _: None,
) -> None:
    """Draw clips and write them, each by one of several processes; the files do not depend on how many there are.

    Args:
        clips: what to draw.
        root: the folder; must exist.
        split: ``"train"`` or ``"val"``.
        video: whether to write videos, too.
        workers: processes.
        on_frames: called with the number of frames that were just finished, for a progress bar.

    Raises:
        InputError: options that are out of range.
        OutputError: the folder cannot be written. What is complete stays, and nothing that is not.
        SdtcError: a worker died.
    """
    workers = min(workers, len(clips))
    if workers <= 1:
        for options in clips:
            clip = SyntheticClip(**vars(options))
            write_clip(clip, root, video, split=split, on_frame=lambda: on_frames(1))
        return
    # A forked process would inherit OpenCV's threads in whatever state they are.
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker) as pool:
        tasks = [pool.submit(_write, options, root, split, video) for options in clips]
        try:
            for task in as_completed(tasks):
                on_frames(task.result())
        except BrokenProcessPool:
            raise SdtcError("a drawing process was killed (out of memory?): try again with fewer --workers") from None
        except BaseException:
            pool.shutdown(cancel_futures=True)  # clips already begun are finished
            raise


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the first one decides
    cv2.setNumThreads(1)  # there is a process for every core

    def die_with_parent() -> None:
        parent = parent_process()
        if parent:
            parent.join()
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True).start()


def _write(options: ClipOptions, root: Path, split: str, video: bool) -> int:
    """Write one clip and return its number of frames."""
    write_clip(SyntheticClip(**vars(options)), root, video, split=split)
    return options.num_frames


@dataclass(frozen=True)
class Summary:
    """What is in a set.

    Attributes:
        clips, frames: how many.
        people: people in all frames together, each counted in every frame.
        shares: share of `people` for which each difficulty holds.
        plain: share for which none does.
        hidden: joints that are in the picture but covered.
        recoverable: share of `hidden` that are seen within :data:`DELTA` frames.
    """

    clips: int
    frames: int
    people: int
    shares: dict[str, float]
    plain: float
    hidden: int
    recoverable: float

    def __str__(self) -> str:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items())
        return (
            f"{self.clips} clips, {self.frames:,} frames, {self.people:,} people in them: plain {self.plain:.0%}, "
            f"{shares}; of {self.hidden:,} covered joints {self.recoverable:.0%} are seen within {DELTA} frames"
        )


def summarise(root: Path, split: str) -> Summary:
    """Read a set's annotations and count.

    Raises:
        InputError: an annotation file cannot be read.
    """
    clips = frames = people = hidden = recovered = plain = 0
    counts = dict.fromkeys(DIFFICULTIES, 0)
    for path in sorted((root / "annotations" / split).glob("*.json")):
        data = read_json(path, "annotations")
        number = {image["id"]: i for i, image in enumerate(data["images"])}
        tracks = sorted({person["track_id"] for person in data["annotations"]})
        covered, seen = np.zeros((2, len(tracks), len(number), 15), bool)
        for person in data["annotations"]:
            place = tracks.index(person["track_id"]), number[person["image_id"]]
            inside = from_slots(np.array(person["keypoints"]).reshape(17, 3))[:, 2] > 0
            behind = from_slots(np.array(person["occluded"])[:, None])[:, 0]
            covered[place], seen[place] = inside & behind, inside & ~behind
            plain += not person["difficulty"]
            for name in person["difficulty"]:
                counts[name] += 1
        hidden += int(covered.sum())
        recovered += int((covered & _near(seen)).sum())
        clips, frames, people = clips + 1, frames + len(number), people + len(data["annotations"])
    shares = {name: count / max(people, 1) for name, count in counts.items()}
    return Summary(clips, frames, people, shares, plain / max(people, 1), hidden, recovered / max(hidden, 1))


def _near(seen: np.ndarray) -> np.ndarray:
    """Whether ``[P, F, 15]`` holds in a frame within :data:`DELTA` of each."""
    padded = np.pad(seen, ((0, 0), (DELTA, DELTA), (0, 0)))
    return np.any([padded[:, i : i + seen.shape[1]] for i in range(2 * DELTA + 1)], axis=0)
