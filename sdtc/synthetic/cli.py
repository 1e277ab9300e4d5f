"""The command `sdtc-synth`: writes synthetic clips, or a whole labelled set of them, in PoseTrack18's layout."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdtc.core.command_line import command, given_path, say
from sdtc.core.errors import InputError
from sdtc.synthetic.difficulty import DIFFICULTIES

if TYPE_CHECKING:
    from sdtc.synthetic.clip import ClipOptions

EPILOG = """\
examples:
  sdtc-synth                                    one clip of 60 frames into ./synthetic
  sdtc-synth --clips 20 --output data/synth     a small data set, seeds 0 to 19
  sdtc-synth --people 3 --size 720x1280 --seed 7
  sdtc-synth --difficulty occluded,blur         the first clip again, with occluders and motion blur
  sdtc-synth --set train --output data/synth    the training set: 200 clips of 40 frames of 288x384
  sdtc-synth --set val --output data/synth      the validation set: 40 clips

difficulties:
  occluded    poles, fences, boards, crates and plants in front of people
  crossing    every second person crosses the path of another
  blur        motion blur from long exposures and a shaking camera
  defocus     the lens loses focus for a few frames
  low_light   dark, noisy frames

written for the clip of seed 7:
  DIR/images/val/000007_synthetic/000000.jpg ...
  DIR/annotations/val/000007_synthetic.json     PoseTrack18's keys; also `occluded` for every keypoint, `difficulty` for
                                                every person and image, and the options in `info`
  DIR/000007_synthetic.mp4
The same seed and options give the same clip, with any number of workers. In a set, every other clip is plain and the
others have two difficulties each; the two sets share no seed. Run the same command again to continue an interrupted
set.
"""

# Default values for single clips, and for sets.
CLIP_DEFAULTS = {"output": Path("synthetic"), "clips": 1, "frames": 60, "size": "360x640", "seed": 0, "video": True}
SET_DEFAULTS = {"output": Path("data/synthetic"), "frames": 40, "size": "288x384", "video": False}
SET_CLIPS = {"train": 200, "val": 40}


def build_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(
        prog="sdtc-synth",
        description="Render clips of people in motion, with exact ground truth for every frame.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output",
        type=given_path,
        metavar="DIR",
        help="folder to write to (default: synthetic; for sets data/synthetic)",
    )
    parser.add_argument("--set", choices=SET_CLIPS, help="write a labelled set instead of single clips")
    parser.add_argument("--clips", type=int, metavar="N", help="number of clips (default: 1; train 200, val 40)")
    parser.add_argument("--frames", type=int, metavar="N", help="number of frames per clip (default: 60; for sets 40)")
    parser.add_argument(
        "--size", metavar="HEIGHTxWIDTH", help="size of the frames in pixels (default: 360x640; for sets 288x384)"
    )
    parser.add_argument("--fps", type=float, default=25.0, metavar="F", help="frames per second (default: 25)")
    parser.add_argument(
        "--people", type=int, metavar="N", help="number of people per clip, 0 to 20 (default: 1 to 4, by the seed)"
    )
    parser.add_argument("--seed", type=int, metavar="S", help="seed of the first clip; the next has S+1 (default: 0)")
    parser.add_argument(
        "--difficulty", metavar="LIST", help=f"difficulties to add, some of {','.join(DIFFICULTIES)} (default: none)"
    )
    parser.add_argument(
        "--lively", action="store_true", help="people also gesture, bend and squat (always on for sets)"
    )
    parser.add_argument(
        "--video", action=argparse.BooleanOptionalAction, help="also write an .mp4 per clip (default: not for sets)"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="number of processes (default: one per CPU core)")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return parser


_OPTIONS = {
    "num_frames": "--frames", "num_people": "--people", "difficulties": "--difficulty", "root": "--output",
}  # fmt: skip


@command("sdtc-synth", options=_OPTIONS)
def main(argv: Sequence[str] | None = None) -> int:
    """Write the clips; see ``sdtc-synth --help``."""
    args = _parse(argv)
    # Imported only now: `--help` should not wait for OpenCV and PyAV.
    from tqdm import tqdm

    from sdtc.core.files import make_directory
    from sdtc.synthetic.benchmark import missing_clips, summarise, write_clips

    clips = _choose(args)
    make_directory(args.output)
    split = args.set or "val"
    missing = missing_clips(clips, args.output, split) if args.set else clips
    existing = len(clips) - len(missing)
    # `disable=None` shows the bar on a terminal only
    with tqdm(
        total=len(clips) * args.frames, initial=existing * args.frames, unit="frame", desc="rendering",
        disable=True if args.quiet else None,
    ) as bar:  # fmt: skip
        write_clips(missing, args.output, split, args.video, args.workers, bar.update)
    if not args.quiet:
        number = "1 clip" if len(missing) == 1 else f"{len(missing)} clips"
        others = f" ({existing} existed already)" if existing else ""
        truth = args.output / "annotations" / split
        say(f"wrote {number} of {args.frames} frames to {args.output}{others}; the ground truth is in {truth}")
        if args.set:
            say(f"the {split} set: {summarise(args.output, split)}")
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse and check the arguments, and fill in the defaults."""
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
    """Return the options of all clips that the arguments ask for."""
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
