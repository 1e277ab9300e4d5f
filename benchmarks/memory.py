"""Memory leak test: runs an engine over many frames and measures the resident memory of the process.

    python benchmarks/memory.py --engine bundle/model.onnx --frames 20000 --people 6 [--threads 1]
    python benchmarks/memory.py --engine bundle/model.onnx --input long.mp4 [--output runs/memory]

Without --input, the frames are a short rendered clip that repeats endlessly, and the boxes are those of random people
who appear, walk and leave. So neither decoding nor detection takes time, and the command fails if memory grows. It
prints a table, appends a row to memory.csv and, if matplotlib is installed, draws memory.png. Needs the extra `dev`,
and `train` for the plot.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import itertools
import platform
import sys
from array import array
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import psutil
from csv_rows import append_rows
from tqdm import tqdm

import sdtc.runtime
from sdtc.core.command_line import command
from sdtc.core.errors import InputError, SdtcError
from sdtc.core.files import make_directory
from sdtc.runtime.options import EngineOptions, TrackOptions
from sdtc.runtime.output.drawing import draw_frame
from sdtc.runtime.output.writers import VideoWriter, make_writer
from sdtc.runtime.people.detection import Detections, Detector, make_detector
from sdtc.runtime.people.detection.detector import make_detections
from sdtc.runtime.sources.base import Frame, FrameSource
from sdtc.runtime.sources.open import open_source
from sdtc.synthetic import ClipOptions, SyntheticClip

EVERY = 10  # frames between two measurements: few enough that the measurements do not look like growth themselves
SETTLED = 200  # frames after which nothing may grow: caches, thread pools and the encoder's look-ahead are filled
WARM_UP = 0.1  # share of a run that the fit leaves out, as the allocator needs longer to settle than SETTLED frames
BLOCKS = 20  # of frames; the means of blocks are nearly independent, single frames are not
# KiB per 1,000 frames that do no harm: 36 MiB in 20 hours of video. A real leak is larger: for `tiny`, the tokens of
# one person in one frame are 12 KiB, and 1,000 frames bring dozens of new people.
HARMLESS = 20.0


class RandomWalkers:
    """A detector that takes no time: boxes of random people who appear, walk and leave, determined by a seed.

    Args:
        people: largest number at a time; on average, two thirds of them are in the frame.
        size: (H, W) of the frames, pixels.
        seed: of the random people.
    """

    def __init__(self, people: int, size: tuple[int, int], seed: int = 0) -> None:
        self._rng, self._size = np.random.default_rng(seed), size
        self._there = np.zeros(people, bool)
        self._frames_left = np.zeros(people, int)  # until they appear or leave
        self._centres, self._sizes, self._steps = np.zeros((3, people, 2))  # pixels, pixels, pixels per frame

    def detect(self, frame: np.ndarray) -> Detections:
        rng, (height, width) = self._rng, self._size
        for person in np.flatnonzero(self._frames_left == 0):
            there = not self._there[person]
            self._there[person] = there
            self._frames_left[person] = rng.integers(*((40, 160) if there else (20, 80)))
            tall = rng.uniform(0.3, 0.8) * height
            self._centres[person] = rng.uniform((0, tall / 2), (width, height - tall / 2))
            self._sizes[person] = tall * rng.uniform(0.35, 0.5), tall
            self._steps[person] = rng.uniform(-0.02, 0.02) * tall, 0  # from a stroll to a run
        self._frames_left -= 1
        self._centres += self._steps
        shaken = self._centres + rng.normal(0, 0.005, self._centres.shape) * self._sizes
        corners = np.concatenate([shaken - self._sizes / 2, shaken + self._sizes / 2], axis=1)[self._there]
        return make_detections(corners, np.full(len(corners), 0.9), self._size)


class EndlessFrames(FrameSource):
    """Eight rendered frames in an endless loop."""

    def __init__(self, size: tuple[int, int] = (288, 384)) -> None:
        self.path, self.name, self.fps = Path("endless"), "endless", 25.0
        self.num_frames, self.problems = None, []
        self.size = size
        self._images = [frame.image for frame in SyntheticClip(ClipOptions(seed=0, num_frames=8, size=size))]

    def again(self) -> EndlessFrames:
        """Return another source of the same images."""
        return copy.copy(self)

    def __iter__(self) -> Iterator[Frame]:
        for index, image in enumerate(itertools.cycle(self._images)):
            yield Frame(index, index, None, image, time=index / self.fps)


@command("memory.py")
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, required=True, metavar="FILE", help="model.onnx of a bundle")
    parser.add_argument(
        "--input", type=Path, metavar="PATH", help="a video or folder of images (default: an endless rendered clip)"
    )
    parser.add_argument(
        "--people", type=int, default=6, metavar="N",
        help="largest number of people at a time, without --input (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--frames", "--max-frames", type=int, metavar="N",
        help="number of frames (default: all of --input; 20000 without it)",
    )  # fmt: skip
    parser.add_argument("--backend", default="auto", help="backend to run (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: chosen by the backend)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/memory"), metavar="DIR",
        help="folder of the results (default: %(default)s)",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if args.people < 1:
        raise InputError(f"--people is {args.people}: expected at least 1")
    make_directory(args.output)
    frames = args.frames or (None if args.input else 20_000)

    process = psutil.Process()
    resident, people = array("f"), array("B")  # MiB and number of people, at every tenth frame
    count = num_poses = num_tracks = 0
    with (
        sdtc.runtime.open(args.engine, EngineOptions(backend=args.backend, threads=args.threads)) as engine,
        open_source(args.input) if args.input else EndlessFrames() as source,
    ):
        skeleton = engine.skeleton
        walkers = RandomWalkers(args.people, source.size) if isinstance(source, EndlessFrames) else None
        detector: Detector = walkers or make_detector("hog")
        # The same as `sdtc-infer --save-video`; without --input, no video is written.
        video = VideoWriter(args.output / f"{source.name}.mp4", source.fps, lambda r: draw_frame(r, skeleton))
        with (
            make_writer(None, args.output / source.name, source.name, skeleton) as poses,
            video if args.input else nullcontext(),
        ):
            results = engine.track(source, TrackOptions(detector=detector, max_frames=frames))
            for result in tqdm(results, total=frames or source.num_frames, disable=None):
                poses.write(result)
                if args.input:
                    video.write(result)
                if count % EVERY == 0:
                    resident.append(process.memory_info().rss / 2**20)
                    people.append(min(len(result.poses), 255))
                count += 1
                num_poses += len(result.poses)
                num_tracks = max([num_tracks, *(pose.track_id + 1 for pose in result.poses)])  # the tracker's

    mib = np.array(resident)
    peak = np.maximum.accumulate(mib)
    settled = min(SETTLED // EVERY, len(mib) - 1)
    slope, error = fit_slope(mib)
    row = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {psutil.cpu_count()} CPUs",
        "engine": engine.manifest.name,
        "backend": engine.backend,
        "input": source.name,
        "frames": count,
        "poses": num_poses,
        "tracks": num_tracks,
        f"peak_mib_at_{SETTLED}": round(float(peak[settled]), 1),
        "peak_mib_at_end": round(float(peak[-1]), 1),
        "kib_per_1000_frames": round(slope, 1),
        "standard_error": round(error, 1),
    }
    for name, value in row.items():
        print(f"{name:<22}{value}")
    append_rows(args.output / "memory.csv", [row])
    print(f"wrote {args.output / 'memory.csv'}")
    _plot(args.output / "memory.png", mib, np.array(people), slope, source.name)
    if not args.input and slope > max(2 * error, HARMLESS):
        raise SdtcError(
            f"resident memory grows by {slope:.0f} ± {error:.0f} KiB per 1,000 frames, expected 0 within two "
            f"standard errors or below {HARMLESS:.0f}: something is kept for every frame or person"
        )
    return 0


def fit_slope(mib: np.ndarray) -> tuple[float, float]:
    """Fit a line to resident memory after the warm-up.

    Args:
        mib: MiB at every tenth frame (`EVERY`).

    Returns:
        Its slope and the standard error of the slope, KiB per 1,000 frames; 0 and infinity if there are too few frames.
    """
    start = _start(mib)
    length = (len(mib) - start) // BLOCKS
    if length < 1:
        return 0.0, float("inf")
    blocks = mib[len(mib) - BLOCKS * length :].reshape(BLOCKS, length).mean(1) * 1024  # KiB
    x = (np.arange(BLOCKS) - (BLOCKS - 1) / 2) * length * EVERY / 1000  # thousands of frames
    slope = (x @ blocks) / (x @ x)
    off = blocks - blocks.mean() - slope * x
    return float(slope), float(np.sqrt(off @ off / (BLOCKS - 2) / (x @ x)))


def _start(mib: np.ndarray) -> int:
    """Return the index of the first measurement after the warm-up."""
    return min(max(SETTLED // EVERY, int(WARM_UP * len(mib))), len(mib) - 1)


def _plot(path: Path, mib: np.ndarray, people: np.ndarray, slope: float, name: str) -> None:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return
    figure = Figure(figsize=(9, 5))
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    frames, start = EVERY * np.arange(len(mib)), _start(mib)
    top.plot(frames, mib, linewidth=1)
    x = frames[start:]
    top.plot(x, mib[start:].mean() + slope / 1024 * (x - x.mean()) / 1000, color="C3", linestyle="--", linewidth=1)
    top.axvline(x[0], color="grey", linestyle=":")
    top.set_ylabel("resident memory, MiB")
    top.set_ylim(0, 1.1 * mib.max())
    top.set_title(f"{name}: {slope:+.1f} KiB per 1,000 frames")
    bottom.plot(frames, people, linewidth=1, color="C1")
    bottom.set_ylabel("people")
    bottom.set_xlabel("frame")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
