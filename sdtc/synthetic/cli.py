"""The command `sdtc-synth`: write synthetic clips with ground truth in PoseTrack18's layout."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sdtc.errors import InputError, command

EPILOG = """\
examples:
  sdtc-synth                                    one clip of 60 frames into ./synthetic
  sdtc-synth --clips 20 --output data/synth     a small data set, seeds 0 to 19
  sdtc-synth --people 3 --size 720x1280 --seed 7
  sdtc-synth --clips 200 --no-video --quiet     pictures and annotations only

what is written, for the clip of seed 7:
  DIR/images/val/000007_synthetic/000000.jpg ...
  DIR/annotations/val/000007_synthetic.json     PoseTrack18 keys, and `occluded` for every keypoint
  DIR/000007_synthetic.mp4
The same seed and options make the same clip.
"""


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="sdtc-synth",
        description="Draw clips of people in motion, with exact ground truth for every frame.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, default=Path("synthetic"), metavar="DIR", help="default: ./synthetic")
    parser.add_argument("--clips", type=int, default=1, metavar="N", help="each with the next seed (default: 1)")
    parser.add_argument("--frames", type=int, default=60, metavar="N", help="in each clip (default: 60)")
    parser.add_argument("--size", default="360x640", metavar="HEIGHTxWIDTH", help="in pixels (default: 360x640)")
    parser.add_argument("--people", type=int, metavar="N", help="in each clip, 0 to 20 (default: 1 to 4, by the seed)")
    parser.add_argument("--fps", type=float, default=25.0, metavar="F", help="frames per second (default: 25)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the first clip (default: 0)")
    parser.add_argument("--no-video", action="store_true", help="no .mp4 beside the pictures")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return parser


@command("sdtc-synth")
def main(argv: Sequence[str] | None = None) -> int:
    """Write the clips; see ``sdtc-synth --help``."""
    args = build_parser().parse_args(argv)
    size = _parse_size(args.size)
    if args.clips < 1:
        raise InputError(f"--clips is {args.clips}: expected at least 1")

    # Only now: OpenCV and PyAV take longer to import than --help may take.
    from tqdm import tqdm

    from sdtc.files import make_directory
    from sdtc.synthetic.clip import MAX_SEED, SyntheticClip, write_clip

    last = args.seed + args.clips - 1
    if last > MAX_SEED:
        raise InputError(f"the last of the {args.clips} clips has seed {last}: expected at most {MAX_SEED}")
    clip = SyntheticClip(args.seed, args.frames, size, args.people, args.fps)  # refuses before anything is written
    make_directory(args.output)
    total = args.clips * args.frames
    # `disable=None` draws the bar on a terminal only
    with tqdm(total=total, unit="frame", desc="drawing", disable=True if args.quiet else None) as bar:
        for seed in range(args.seed, last + 1):
            if seed > args.seed:
                clip = SyntheticClip(seed, args.frames, size, args.people, args.fps)
            write_clip(clip, args.output, video=not args.no_video, on_frame=bar.update)
    if not args.quiet:
        clips = "1 clip" if args.clips == 1 else f"{args.clips} clips"
        truth = args.output / "annotations" / "val"
        print(f"wrote {clips} of {args.frames} frames to {args.output}; the ground truth is in {truth}")
    return 0


def _parse_size(text: str) -> tuple[int, int]:
    """``"360x640"`` → (360, 640)."""
    height, _, width = text.lower().partition("x")
    try:
        return int(height), int(width)
    except ValueError:
        raise InputError(f"--size is '{text}': expected HEIGHTxWIDTH in pixels, e.g. 360x640") from None


if __name__ == "__main__":
    raise SystemExit(main())
