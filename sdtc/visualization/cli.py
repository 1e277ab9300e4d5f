"""The command `sdtc-visualize`: the paper's figures of any clip and checkpoint, as PNG."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdtc.core.command_line import command, say
from sdtc.core.errors import InputError, require

if TYPE_CHECKING:
    from sdtc.model.config import ModelConfig
    from sdtc.visualization.panels import Page

# Figures of the paper, and the file that each becomes.
FILES = {
    "6": "figure6-contexts.png",
    "7": "figure7-poses.png",
    "8": "figure8-masks.png",
    "11": "figure11-features.png",
    "12": "figure12-heatmaps.png",
    "13": "figure13-failures.png",
    "overlay": "overlay.png",
}
JOINTS = "nose,left_wrist,right_wrist,left_ankle,right_ankle"
MOST = 24  # panels in a row or people on a page
_DESCRIPTION = "Draw Figures 6, 7, 8, 11, 12 and 13 of the paper, and an overlay, of any clip and checkpoint."
_EPILOG = f"""figures:
  6        context maps O_S and O_M (Eq. 6) over the keyframe's crop
  7        poses over frames, above the annotated ones
  8        what tube masks and frame masks leave of a window
  11       features R_P, R_F, aggregated M and R, and F, beside the keyframe's crop
  12       true heatmaps above predicted ones
  13       the people with the largest errors
  overlay  predictions over the ground truth

examples:
  sdtc-synth --clips 2 --frames 20 --output data          a data set to try it on
  sdtc-visualize --checkpoint ckpt.pth --data data        everything, of the first clip, into ./figures
  sdtc-visualize --checkpoint ckpt.pth --data data --figures 6,11 --clip 000001_synthetic --frame 7 --person 0
  sdtc-visualize --checkpoint ckpt.pth --data data --figures 6 --channels 3,17,42
  sdtc-visualize --checkpoint ckpt.pth --data data --figures 8 --mask-ratio 0.75 --seed 3
  sdtc-visualize --checkpoint ckpt.pth --data posetrack18 --figures 13 --count 12 --device cuda

The data lie as PoseTrack distributes them, images/<split>/<sequence>/ and annotations/<split>/, or as sdtc-synth writes
them. Figures 6, 8, 11 and 12 are about one person in one keyframe: without --frame the one nearest to the middle of the
clip, without --person whoever is largest in it. Figures 7 and overlay spread --count annotated frames over the clip.
Figure 13 looks at everybody in the split, or with --clip in that clip. Everything uses the annotated boxes.

A figure that a network has nothing to show in is left out, with a line that says why; asked for by --figures, it is an
error.

files, written to --output:
  {", ".join(FILES.values())}

Exit codes: 0 done, 1 something broke, 2 unusable input, 130 interrupted."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sdtc-visualize",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    required = parser.add_argument_group("required")
    required.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="a PyTorch checkpoint")
    required.add_argument("--data", type=Path, required=True, metavar="ROOT", help="a data set in PoseTrack's layout")
    what = parser.add_argument_group("what to draw")
    what.add_argument("--figures", metavar="LIST", help=f"some of {','.join(FILES)} (default: all that there are)")
    what.add_argument("--split", default="val", help="of the data set (default: %(default)s)")
    what.add_argument("--clip", metavar="NAME", help="a folder of images (default: the first)")
    what.add_argument("--frame", type=int, metavar="N", help="the keyframe, as its file is numbered")
    what.add_argument("--person", type=int, metavar="TRACK_ID", help="in the keyframe")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--count", type=int, default=6, metavar="N",
        help="channels of 6, frames of 7 and overlay, people of 13 (default: %(default)s)",
    )  # fmt: skip
    how.add_argument("--channels", metavar="LIST", help="of 6 (default: those that vary most over the picture)")
    how.add_argument("--joints", default=JOINTS, metavar="LIST", help="of 12 (default: %(default)s)")
    how.add_argument("--mask-ratio", type=float, metavar="R", help="of 8 (default: the checkpoint's, or 0.5)")
    how.add_argument("--seed", type=int, default=0, metavar="S", help="of the masks of 8 (default: %(default)s)")
    how.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: %(default)s")
    how.add_argument(
        "--output", type=Path, default=Path("figures"), metavar="DIR", help="where to write (default: ./%(default)s)"
    )
    how.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return parser


@command("sdtc-visualize")
def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    asked = None if args.figures is None else _figures(args.figures)
    channels = None if args.channels is None else _channels(args.channels)
    joints = _names("--joints", args.joints)
    if not 1 <= args.count <= MOST:
        raise InputError(f"--count is {args.count}: expected 1 to {MOST}")
    if args.mask_ratio is not None and not 0 <= args.mask_ratio <= 0.95:
        raise InputError(f"--mask-ratio is {args.mask_ratio}: expected 0 to 0.95")
    if not 0 <= args.seed < 1 << 63:
        raise InputError(f"--seed is {args.seed}: expected 0 to 2^63 - 1")

    # Only now: `--help` and a mistyped option need none of this.
    for module in ("torch", "matplotlib"):
        require(module, "train", "sdtc-visualize")
    from sdtc.core.files import make_directory
    from sdtc.evaluation.torch_session import choose_device
    from sdtc.model.checkpoint import load_checkpoint
    from sdtc.training.annotations import read_annotations
    from sdtc.visualization.inside import unavailable
    from sdtc.visualization.scene import FigureScene
    from sdtc.visualization.selection import has_head, select

    device = choose_device(args.device)
    checkpoint = load_checkpoint(args.checkpoint)
    config = checkpoint.network.config
    _check_names(config, channels or [], joints)
    annotations = read_annotations(args.data, args.split)
    selection = select(annotations, args.clip, args.frame, args.person)
    everybody = (
        [i for found in selection.frames.values() for i in found] if args.clip else range(len(annotations.people))
    )
    missing = unavailable(config)
    if not any(has_head(annotations.people[i]) for i in everybody):
        missing["13"] = "nobody has a head box ('bbox_head') to measure errors by"
    for figure in asked or ():
        if figure in missing:
            raise InputError(f"figure {figure}: {missing[figure]}")
    make_directory(args.output)

    name = f"{args.checkpoint.name} ({config.name}{'' if checkpoint.trained else ', untrained'})"
    if not checkpoint.trained:
        say("note     the checkpoint is untrained: its poses and features mean nothing", quiet=args.quiet)
    scene = FigureScene(checkpoint.network.to(device), annotations, selection, name)
    person = annotations.people[selection.person]
    say(f"clip     {selection.clip}, frame {person.number}, person {person.track_id}", quiet=args.quiet)

    def failures() -> Page:
        say(f"running  {len(everybody):,} people for figure 13", quiet=args.quiet)
        where = f"of {selection.clip}" if args.clip else f"of split '{args.split}'"
        return scene.failures(everybody, args.count, f"From {len(everybody):,} annotations {where}; {name}.")

    draw: dict[str, Callable[[], Page]] = {
        "6": lambda: scene.contexts(channels, args.count),
        "7": lambda: scene.poses_over_frames(args.count),
        "8": lambda: scene.masks(args.mask_ratio, args.seed),
        "11": scene.features,
        "12": lambda: scene.heatmaps(joints),
        "13": failures,
        "overlay": lambda: scene.overlay(args.count),
    }
    for figure, file in FILES.items():
        if asked and figure not in asked:
            continue
        if figure in missing:
            say(f"skipped  figure {figure}: {missing[figure]}", quiet=args.quiet)
            continue
        draw[figure]().save(args.output / file)
        say(f"wrote    {args.output / file}", quiet=args.quiet)
    return 0


def _names(option: str, value: str) -> list[str]:
    """Split a list at its commas, and drop what is there twice."""
    names = list(dict.fromkeys(name.strip() for name in value.split(",") if name.strip()))
    if not 1 <= len(names) <= MOST:
        raise InputError(f"{option} has {len(names)} entries: expected 1 to {MOST}, separated by commas")
    return names


def _figures(value: str) -> list[str]:
    names = _names("--figures", value)
    for name in names:
        if name not in FILES:
            raise InputError(f"unknown figure '{name}': expected some of {', '.join(FILES)}")
    return names


def _channels(value: str) -> list[int]:
    names = _names("--channels", value)
    for name in names:
        if not re.fullmatch("[0-9]{1,9}", name):
            raise InputError(f"--channels has '{name}': expected numbers separated by commas")
    return [int(name) for name in names]


def _check_names(config: ModelConfig, channels: Sequence[int], joints: Sequence[str]) -> None:
    """Complain of channels and joints that a network does not have, before any work."""
    from sdtc.core.skeleton import get_skeleton

    known = get_skeleton(config.skeleton).keypoints
    for joint in joints:
        if joint not in known:
            raise InputError(f"--joints: this network has no joint '{joint}': expected some of {', '.join(known)}")
    for channel in channels:
        if channel >= config.width:
            raise InputError(f"--channels: this network has no channel {channel}: expected 0 to {config.width - 1}")


if __name__ == "__main__":
    sys.exit(main())
