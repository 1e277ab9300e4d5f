"""Draw docs/animation.webp, the moving picture of the README: a clip, and the overlay that `sdtc-infer` draws.

make demo                       renders the clip and estimates its poses
python docs/animation.py        reads them from runs/demo; needs Pillow, which the extra `train` brings
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
CLIP = "000007_synthetic.mp4"
EVERY = 2  # keep every second frame of 25 a second
SIZE = (448, 252)  # width and height of each half, pixels


def frames(video: Path, count: int) -> list[np.ndarray]:
    """Return every `EVERY`-th of the first frames of a video, RGB, scaled to `SIZE`."""
    with av.open(str(video)) as container:
        decoded = islice(container.decode(video=0), 0, count, EVERY)
        return [cv2.resize(frame.to_ndarray(format="rgb24"), SIZE, interpolation=cv2.INTER_AREA) for frame in decoded]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--demo", type=Path, default=ROOT / "runs" / "demo", help="what `make demo` wrote")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "animation.webp")
    parser.add_argument("--frames", type=int, default=100, help="of the clip (default: %(default)s)")
    args = parser.parse_args()
    videos = [args.demo / folder / CLIP for folder in ("clip", "poses")]
    if missing := [str(video) for video in videos if not video.is_file()]:
        raise SystemExit(f"animation.py: error: there is no '{missing[0]}': run  make demo  first")
    halves = zip(*(frames(video, args.frames) for video in videos), strict=True)
    pictures = [Image.fromarray(np.concatenate(pair, axis=1)) for pair in halves]
    pictures[0].save(
        args.output, save_all=True, append_images=pictures[1:], duration=40 * EVERY, loop=0, quality=60, method=6
    )


if __name__ == "__main__":
    main()
