"""The labelled sets: the clips that they consist of, writing them in several processes, and their statistics.

A set is a range of seeds. Every other clip is plain; the others have two difficulties each, in turn. All people are
lively: a plain gait is so regular that a single frame tells where a hidden joint is, so that the supporting frames
would add nothing.
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
from sdtc.core.files import read_json, visible_files
from sdtc.core.posetrack import from_slots
from sdtc.synthetic.clip import ClipOptions, SyntheticClip
from sdtc.synthetic.difficulty import DIFFICULTIES
from sdtc.synthetic.writing import write_clip

FIRST_SEED = {"train": 100_000, "val": 500_000}  # far from the small seeds, which are used for demo clips
MAX_CLIPS = 400_000
DELTA = 2  # supporting frames on each side, as in the paper's network


def set_clips(split: str, clips: int, num_frames: int, size: tuple[int, int], fps: float) -> list[ClipOptions]:
    """Return the clips of a set; a longer set begins with the same ones.

    Args:
        split: ``"train"`` or ``"val"``.
        clips: number of clips.
        num_frames: of each clip.
        size: (H, W) in pixels.
        fps: frames per second.
    """
    seeds = range(FIRST_SEED[split], FIRST_SEED[split] + clips)
    return [ClipOptions(seed, num_frames, size, None, fps, recipe(seed), lively=True) for seed in seeds]


def recipe(seed: int) -> tuple[str, ...]:
    """Return the difficulties of a set's clip: none for even seeds, two for odd ones; 20 seeds have every pair once."""
    number, odd = divmod(seed, 2)
    first = number % 5
    second = (first + 1 + number // 5 % 2) % 5
    return tuple(name for i, name in enumerate(DIFFICULTIES) if odd and i in (first, second))


def missing_clips(wanted: Sequence[ClipOptions], root: Path, split: str) -> list[ClipOptions]:
    """Return the clips of a set that a folder lacks; it may contain more clips of the same set.

    Args:
        wanted: the clips of the set, from :func:`set_clips`.
        root: the data set's folder.
        split: ``"train"`` or ``"val"``.

    Raises:
        InputError: the folder contains other clips, or clips that were made with other options.
    """
    found = set()
    for path in visible_files(root / "annotations" / split, "*.json"):
        data = read_json(path, "annotations")
        info = data.get("info") if isinstance(data, dict) else None
        info = info if isinstance(info, dict) else {}
        seed = info.get("seed")
        if not isinstance(seed, int) or not 0 <= seed - FIRST_SEED[split] < MAX_CLIPS:
            raise InputError(f"'{path}' is not a clip of the {split} set: choose another `root`, or move it away")
        expected = replace(wanted[0], seed=seed, difficulties=recipe(seed)).to_json()
        different = [key for key in expected if info.get(key) != expected[key]]
        if different:
            key = different[0]
            raise InputError(
                f"'{path}' was made with {key} {info.get(key)}, now it is {expected[key]}: choose another `root` or "
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
    """Render clips and write them, in several processes; the files do not depend on the number of processes.

    Args:
        clips: options of the clips.
        root: the data set's folder; must exist.
        split: ``"train"`` or ``"val"``.
        video: whether to write videos as well.
        workers: number of processes.
        on_frames: called with the number of frames that were just finished, for a progress bar.

    Raises:
        InputError: a clip's size is odd and a video is to be written.
        OutputError: the folder cannot be written. It then contains complete clips only.
        SdtcError: a worker process died.
    """
    workers = min(workers, len(clips))
    if workers <= 1:
        for options in clips:
            write_clip(SyntheticClip(options), root, video, split=split, on_frame=lambda: on_frames(1))
        return
    # Spawned, because a forked process would inherit OpenCV's threads in an undefined state.
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker) as pool:
        tasks = [pool.submit(_write, options, root, split, video) for options in clips]
        try:
            for task in as_completed(tasks):
                on_frames(task.result())
        except BrokenProcessPool:
            raise SdtcError("a worker process was killed (out of memory?): try again with fewer `workers`") from None
        except BaseException:
            pool.shutdown(cancel_futures=True)  # clips that have been started are finished
            raise


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the parent handles it
    cv2.setNumThreads(1)  # every core already has a process

    def die_with_parent() -> None:
        parent = parent_process()
        if parent:
            parent.join()
        os._exit(1)

    threading.Thread(target=die_with_parent, daemon=True).start()


def _write(options: ClipOptions, root: Path, split: str, video: bool) -> int:
    """Write one clip and return its number of frames."""
    write_clip(SyntheticClip(options), root, video, split=split)
    return options.num_frames


@dataclass(frozen=True)
class Summary:
    """Statistics of a set.

    Attributes:
        clips, frames: their numbers.
        people: number of annotated people, counted once per frame.
        shares: share of `people` with each difficulty.
        plain: share of `people` with none.
        hidden: number of joints that are in the image but covered.
        recoverable: share of `hidden` that are visible within :data:`DELTA` frames.
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
    """Read the annotations of a set and return its statistics.

    Raises:
        InputError: an annotation file cannot be read.
    """
    clips = frames = people = hidden = recovered = plain = 0
    counts = dict.fromkeys(DIFFICULTIES, 0)
    for path in visible_files(root / "annotations" / split, "*.json"):
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
    """Return whether each of ``[P, F, 15]`` is True in any frame within :data:`DELTA` frames."""
    padded = np.pad(seen, ((0, 0), (DELTA, DELTA), (0, 0)))
    return np.any([padded[:, i : i + seen.shape[1]] for i in range(2 * DELTA + 1)], axis=0)
