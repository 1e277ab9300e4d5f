"""What noisy person boxes cost: AP of streaming and of whole windows, with boxes that are off in every frame.

    python benchmarks/box_noise.py --truth data/synthetic --images data/synthetic/images/val --engine bundle \\
        --sigma 0 0.03 0.06 [--backend onnxruntime] [--output runs/box-noise]

Detectors shake: from frame to frame their boxes are off in place and size. Streaming encodes a person in each frame's
own box and resamples; `--exact` crops all frames of a window with the keyframe's box. For every sigma the annotated
boxes get normal noise, independent in every frame: on the centre, as a share of the box's width and height, and on the
logarithms of width and height. Both ways run with the same boxes, the same in every run, and their poses are evaluated
as `sdtc-eval` does. People keep the annotated track ids, so no tracker takes part.

Prints a table and appends a row for each run to box_noise.csv. Needs the extra `dev`.
"""

from __future__ import annotations

import argparse
import datetime
import glob
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from csv_rows import append_rows

import sdtc.runtime
from sdtc.core.command_line import command
from sdtc.core.errors import InputError, SdtcError
from sdtc.core.files import make_directory, read_json, write_json
from sdtc.evaluation.ap import evaluate
from sdtc.evaluation.reading import Truth, read_predictions, read_truth
from sdtc.runtime.engine import PoseEngine
from sdtc.runtime.options import EngineOptions, RunOptions
from sdtc.runtime.run import Run
from sdtc.training.augmentation import BoxNoise

LARGEST = 0.5  # of sigma: boxes are elsewhere then
MAX_ANNOTATION_BYTES = 1 << 30


@command("box_noise.py")
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--truth", type=Path, required=True, metavar="FOLDER",
        help="annotations in PoseTrack's layout: a folder of files, or a data set's root",
    )  # fmt: skip
    parser.add_argument(
        "--images", type=Path, required=True, metavar="FOLDER",
        help="has a folder of images for each annotation file, named like it",
    )  # fmt: skip
    parser.add_argument("--engine", type=Path, required=True, metavar="FILE", help="a bundle with PoseTrack's joints")
    parser.add_argument(
        "--sigma", type=float, nargs="+", default=[0.0, 0.03, 0.06], metavar="S",
        help="standard deviations of the noise, as shares of a box's sides (default: 0 0.03 0.06)",
    )  # fmt: skip
    parser.add_argument("--backend", default="auto", help="backend to run (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: chosen by the backend)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/box-noise"), metavar="DIR",
        help="folder of the results (default: %(default)s)",
    )  # fmt: skip
    args = parser.parse_args(argv)
    if bad := [sigma for sigma in args.sigma if not 0 <= sigma <= LARGEST]:
        raise InputError(f"--sigma is {bad[0]:g}: expected 0 to {LARGEST:g}, a share of a box's sides")
    make_directory(args.output)
    truth = read_truth([args.truth])

    rows: list[dict[str, Any]] = []
    for exact in (False, True):
        options = EngineOptions(backend=args.backend, threads=args.threads, exact=exact)
        with sdtc.runtime.open(args.engine, options) as engine:
            for sigma in args.sigma:
                rows.append(measure(engine, truth, args.images, sigma))
                append_rows(args.output / "box_noise.csv", [rows[-1]])
    print(table(rows))
    print(f"wrote {args.output / 'box_noise.csv'}")
    return 0


def write_noisy(annotations: Sequence[Path], folder: Path, sigma: float) -> None:
    """Write annotation files again, with noise on the boxes; it is the same in every run."""
    rng = np.random.default_rng(0)
    for path in annotations:
        content = read_json(path, "ground truth", MAX_ANNOTATION_BYTES)
        people = [person for person in content["annotations"] if "bbox" in person]
        boxes = BoxNoise(sigma, sigma).add(np.array([person["bbox"] for person in people], float).reshape(-1, 4), rng)
        for person, box in zip(people, boxes.round(3).tolist(), strict=True):
            person["bbox"] = box
        write_json(folder / path.name, content)


def measure(engine: PoseEngine, truth: Truth, images: Path, sigma: float) -> dict[str, Any]:
    """Run an engine over all images with noisy boxes, and return a row of the results.

    Raises:
        SdtcError: an input failed.
    """
    before = engine.encoded
    with tempfile.TemporaryDirectory() as folder:
        boxes, poses = Path(folder, "boxes"), Path(folder, "poses")
        boxes.mkdir()
        write_noisy(truth.paths, boxes, sigma)
        run = RunOptions(output=poses, format="posetrack", boxes=boxes)
        summary = Run(f"{glob.escape(str(images))}/*", run, progress=True).execute(engine)
        if summary.interrupted:
            raise KeyboardInterrupt
        if summary.problems:
            raise SdtcError("; ".join(summary.problems))
        found = evaluate(truth.people, read_predictions([poses], truth).people)
    # Whole windows are not counted by the engine: all T crops of every pose are encoded.
    encoded = engine.encoded - before if engine.streaming else engine.manifest.num_frames * summary.poses
    return {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {psutil.cpu_count()} CPUs",
        "engine": engine.manifest.name,
        "backend": engine.backend,
        "frames": summary.frames,
        "sigma": sigma,
        "mode": "streaming" if engine.streaming else "exact",
        "poses": summary.poses,
        "crops_encoded": encoded,
        "ap": round(found.scores.total, 1),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the AP of both modes by sigma, and the crops that streaming encoded per pose."""
    lines = [f"{'sigma':>6} {'streaming':>10} {'--exact':>8}   crops per pose"]
    for sigma in dict.fromkeys(row["sigma"] for row in rows):
        stream, exact = (
            next(row for row in rows if (row["sigma"], row["mode"]) == (sigma, mode)) for mode in ("streaming", "exact")
        )
        crops = [row["crops_encoded"] / max(row["poses"], 1) for row in (stream, exact)]
        lines.append(
            f"{sigma * 100:4.3g} % {stream['ap']:10.1f} {exact['ap']:8.1f}   {crops[0]:.2f}, --exact {crops[1]:.2f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
