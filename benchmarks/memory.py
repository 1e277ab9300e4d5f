"""Does memory stay flat over a long video? Runs an engine over it and watches the process's resident memory.

    python benchmarks/memory.py --engine model.onnx --input long.mp4 [--output runs/memory]

Writes a table to the screen, a row to memory.csv and a plot to memory.png. Needs the extras `dev` and, for the plot,
`train`.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import platform
import sys
from pathlib import Path

import numpy as np
import psutil
from tqdm import tqdm

import sdtc.runtime
from sdtc.errors import command
from sdtc.files import make_directory
from sdtc.runtime.drawing import draw_frame
from sdtc.runtime.video import open_source
from sdtc.runtime.writers import VideoWriter, make_writer

SETTLED = 200  # frames after which nothing may grow: caches, thread pools and the encoder's look-ahead are filled


@command("memory.py")
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/memory"))
    parser.add_argument("--max-frames", type=int)
    args = parser.parse_args(argv)
    make_directory(args.output)

    process = psutil.Process()
    resident, people = [], []
    with sdtc.runtime.open(args.engine) as engine, open_source(args.input) as source:
        skeleton = engine.skeleton
        # All that `sdtc-infer --save-video` does.
        with (
            make_writer(None, args.output / source.name, source.name, skeleton) as poses,
            VideoWriter(args.output / f"{source.name}.mp4", source.fps, lambda r: draw_frame(r, skeleton)) as video,
        ):  # fmt: skip
            for result in tqdm(engine.track(source, max_frames=args.max_frames), total=source.num_frames, disable=None):
                poses.write(result)
                video.write(result)
                resident.append(process.memory_info().rss / 2**20)
                people.append(len(result.poses))

    mib = np.array(resident)
    peak = np.maximum.accumulate(mib)
    settled = min(SETTLED, len(mib) - 1)
    slope = np.polyfit(np.arange(settled, len(mib)), mib[settled:], 1)[0] * 1000 if len(mib) > settled + 2 else 0.0
    row = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {psutil.cpu_count()} CPUs",
        "engine": engine.manifest.name,
        "backend": engine.backend,
        "input": source.name,
        "frames": len(mib),
        "poses": sum(people),
        f"peak_mib_at_{SETTLED}": round(float(peak[settled]), 1),
        "peak_mib_at_end": round(float(peak[-1]), 1),
        "mib_per_1000_frames": round(float(slope), 2),
    }
    for name, value in row.items():
        print(f"{name:<22}{value}")
    _append(args.output / "memory.csv", row)
    _plot(args.output / "memory.png", mib, np.array(people), settled, source.name)
    print(f"wrote {args.output / 'memory.csv'} and {args.output / 'memory.png'}")
    return 0


def _append(path: Path, row: dict) -> None:
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row.keys())
        if fresh:
            writer.writeheader()
        writer.writerow(row)


def _plot(path: Path, mib: np.ndarray, people: np.ndarray, settled: int, name: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (top, bottom) = plt.subplots(2, 1, figsize=(9, 5), sharex=True, height_ratios=[3, 1])
    top.plot(mib, linewidth=1)
    top.axvline(settled, color="grey", linestyle=":")
    top.set_ylabel("resident memory, MiB")
    top.set_ylim(0, 1.1 * mib.max())
    top.set_title(name)
    bottom.plot(people, linewidth=1, color="C1")
    bottom.set_ylabel("people")
    bottom.set_xlabel("frame")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main())
