"""The command `sdtc-synth`: write synthetic clips, or a whole labelled set of them, in PoseTrack18's layout."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdtc.core.command_line import command
from sdtc.core.errors import InputError
from sdtc.synthetic.difficulty import DIFFICULTIES

if TYPE_CHECKING:
    from sdtc.synthetic.clip import ClipOptions

EPILOG = """\
examples:
  sdtc-synth                                    one clip of 60 frames into ./synthetic
  sdtc-synth --clips 20 --output data/synth     a small data set, seeds 0 to 19
  sdtc-synth --people 3 --size 720x1280 --seed 7
  sdtc-synth --difficulty occluded,blur         the same clip with things in front of people, and a shaky camera
  sdtc-synth --set train --output data/synth    the labelled set to train on: 200 clips of 40 frames of 288x384
  sdtc-synth --set val --output data/synth      and its 40 clips to evaluate on

what is written, for the clip of seed 7:
  DIR/images/val/000007_synthetic/000000.jpg ...
  DIR/annotations/val/000007_synthetic.json     PoseTrack18 keys; `occluded` for every keypoint, `difficulty` for
                                                every person and image, and in `info` the options
  DIR/000007_synthetic.mp4
The same seed and options make the same clip, with any number of workers. In a set, every other clip is plain and the
others have two difficulties each; the sets share no seed. A set that was interrupted goes on where it stopped.
"""

# What holds if it is not said: of single clips, and of sets.
CLIP_DEFAULTS = {"output": Path("synthetic"), "clips": 1, "frames": 60, "size": "360x640", "seed": 0, "video": True}
SET_DEFAULTS = {"output": Path("data/synthetic"), "frames": 40, "size": "288x384", "video": False}
SET_CLIPS = {"train": 200, "val": 40}


def build_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="sdtc-synth",
        description="Draw clips of people in motion, with exact ground truth for every frame.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: ./synthetic; of sets ./data/synthetic")
    parser.add_argument("--set", choices=SET_CLIPS, help="write a labelled set, and not just clips")
    parser.add_argument("--clips", type=int, metavar="N", help="how many (default: 1; train 200, val 40)")
    parser.add_argument("--frames", type=int, metavar="N", help="in each clip (default: 60; sets 40)")
    parser.add_argument("--size", metavar="HEIGHTxWIDTH", help="in pixels (default: 360x640; sets 288x384)")
    parser.add_argument("--fps", type=float, default=25.0, metavar="F", help="frames per second (default: 25)")
    parser.add_argument("--people", type=int, metavar="N", help="in each clip, 0 to 20 (default: 1 to 4, by the seed)")
    parser.add_argument("--seed", type=int, metavar="S", help="of the first clip (default: 0)")
    parser.add_argument("--difficulty", metavar="LIST", help=f"some of {','.join(DIFFICULTIES)} (default: none)")
    parser.add_argument(
        "--lively", action="store_true", help="people gesture, bend and squat as they go (sets: always)"
    )
    parser.add_argument(
        "--video", action=argparse.BooleanOptionalAction, help="an .mp4 beside the pictures (default: not for sets)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes that draw (default: one for every core)")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return parser


@command("sdtc-synth")
def main(argv: Sequence[str] | None = None) -> int:
    """Write the clips; see ``sdtc-synth --help``."""
    args = _parse(argv)
    # Only now: OpenCV and PyAV take longer to import than --help may take.
    from tqdm import tqdm

    from sdtc.core.files import make_directory
    from sdtc.synthetic.benchmark import missing_clips, summarise, write_clips
    from sdtc.synthetic.clip import SyntheticClip

    clips = _choose(args)
    SyntheticClip(**vars(clips[0]))  # refuses before anything is written
    make_directory(args.output)
    split = args.set or "val"
    missing = missing_clips(clips, args.output, split) if args.set else clips
    there = len(clips) - len(missing)
    # `disable=None` draws the bar on a terminal only
    with tqdm(
        total=len(clips) * args.frames, initial=there * args.frames, unit="frame", desc="drawing",
        disable=True if args.quiet else None,
    ) as bar:  # fmt: skip
        write_clips(missing, args.output, split, args.video, args.workers, bar.update)
    if not args.quiet:
        number = "1 clip" if len(missing) == 1 else f"{len(missing)} clips"
        besides = f", beside {there} that were there" if there else ""
        truth = args.output / "annotations" / split
        print(f"wrote {number} of {args.frames} frames to {args.output}{besides}; the ground truth is in {truth}")
        if args.set:
            print(f"the {split} set: {summarise(args.output, split)}")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse, check, and fill in what holds if it is not said."""
    args = build_parser().parse_args(argv)
    if args.set:
        for name in ("people", "seed", "difficulty"):
            if getattr(args, name) is not None:
                raise InputError(f"--set {args.set} decides --{name} for every clip: leave one of them out")
    defaults = SET_DEFAULTS | {"clips": SET_CLIPS[args.set]} if args.set else CLIP_DEFAULTS
    for name, value in (defaults | {"workers": os.cpu_count() or 1}).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for name in ("clips", "workers"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} is {getattr(args, name)}: expected at least 1")
    return args


def _choose(args: argparse.Namespace) -> list[ClipOptions]:
    """The clips that the command is to write."""
    from sdtc.synthetic.benchmark import MAX_CLIPS, set_clips
    from sdtc.synthetic.clip import MAX_SEED, ClipOptions

    size = _parse_size(args.size)
    if args.set:
        if args.clips > MAX_CLIPS:
            raise InputError(f"--clips is {args.clips}: a set has at most {MAX_CLIPS}")
        return set_clips(args.set, args.clips, args.frames, size, args.fps)
    last = args.seed + args.clips - 1
    if last > MAX_SEED:
        raise InputError(f"the last of the {args.clips} clips has seed {last}: expected at most {MAX_SEED}")
    difficulties = tuple(args.difficulty.split(",")) if args.difficulty else ()
    return [
        ClipOptions(seed, args.frames, size, args.people, args.fps, difficulties, args.lively)
        for seed in range(args.seed, last + 1)
    ]


def _parse_size(text: str) -> tuple[int, int]:
    """``"360x640"`` → (360, 640)."""
    height, _, width = text.lower().partition("x")
    try:
        return int(height), int(width)
    except ValueError:
        raise InputError(f"--size is '{text}': expected HEIGHTxWIDTH in pixels, e.g. 360x640") from None


if __name__ == "__main__":
    raise SystemExit(main())
