"""The command `sdtc-visualize`: the paper's figures for any checkpoint and data set, as PNG files."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sdtc.core.command_line import command, given_path, say
from sdtc.core.errors import InputError, require

if TYPE_CHECKING:
    from sdtc.model.config import ModelConfig
    from sdtc.visualization.panels import Page

# The figures of the paper, and the file that each is written to.
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
MOST = 24  # panels in a row, or people on a page
_DESCRIPTION = "Draw Figures 6, 7, 8, 11, 12 and 13 of the paper, and an overlay, for any checkpoint and data set."
_EPILOG = f"""figures:
  6        context maps O_S and O_M (Eq. 6) over the keyframe's crop
  7        predicted poses in several frames, above the annotated ones
  8        a window under a tube mask and under a frame mask
  11       features R_P, R_F, aggregated M and R, and F, beside the keyframe's crop
  12       target heatmaps above predicted ones
  13       the people with the largest errors
  overlay  predicted poses over the annotated ones

examples:
  sdtc-synth --clips 2 --frames 20 --output data          a data set to try it with
  sdtc-visualize --checkpoint ckpt.pth --data data        all figures of the first clip, into ./figures
  sdtc-visualize --checkpoint ckpt.pth --data data --figures 6,11 --clip 000001_synthetic --frame 7 --person 0
  sdtc-visualize --checkpoint ckpt.pth --data data --figures 6 --channels 3,17,42
  sdtc-visualize --checkpoint ckpt.pth --data data --figures 8 --mask-ratio 0.75 --seed 3
  sdtc-visualize --checkpoint ckpt.pth --data posetrack18 --figures 13 --count 12 --device cuda

The data set has PoseTrack's layout, images/<split>/<sequence>/ and annotations/<split>/; sdtc-synth writes it too.
Figures 6, 8, 11 and 12 show one person in one keyframe: by default the annotated frame nearest to the middle of the
clip, and the person with the largest box in it. Figure 7 and the overlay show --count annotated frames, evenly spread
over the clip. Figure 13 is chosen from all people in the split, or in the clip if --clip is given. All poses are
predicted in the annotated boxes.

A figure that does not apply to the network is skipped, and a line says why. If --figures asks for it, that is an error.

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
    required.add_argument(
        "--checkpoint", type=given_path, required=True, metavar="FILE",
        help="a PyTorch checkpoint, or the name of one that comes with the package, e.g. tiny",
    )  # fmt: skip
    required.add_argument(
        "--data", type=given_path, required=True, metavar="ROOT", help="a data set in PoseTrack's layout"
    )
    what = parser.add_argument_group("what to draw")
    what.add_argument(
        "--figures", metavar="LIST", help=f"figures to draw, some of {','.join(FILES)} (default: all that apply)"
    )
    what.add_argument("--split", default="val", help="split of the data set (default: %(default)s)")
    what.add_argument("--clip", metavar="NAME", help="clip to show, the name of its image folder (default: the first)")
    what.add_argument(
        "--frame", type=int, metavar="N",
        help="keyframe, the number in its file name (default: the annotated frame nearest to the middle of the clip)",
    )  # fmt: skip
    what.add_argument(
        "--person", type=int, metavar="TRACK_ID",
        help="person to show, by its track id (default: the one with the largest box in the keyframe)",
    )  # fmt: skip
    how = parser.add_argument_group("how to draw it")
    how.add_argument(
        "--count", type=int, default=6, metavar="N",
        help="number of channels in figure 6, of frames in figure 7 and the overlay, and of people in figure 13 "
        "(default: %(default)s)",
    )  # fmt: skip
    how.add_argument(
        "--channels", metavar="LIST",
        help="channels in figure 6 (default: those with the largest variance over the image)",
    )  # fmt: skip
    how.add_argument("--joints", default=JOINTS, metavar="LIST", help="joints in figure 12 (default: %(default)s)")
    how.add_argument(
        "--mask-ratio", type=float, metavar="R",
        help="share of patches or frames that figure 8 masks (default: the checkpoint's mask ratio, or 0.5 if it is 0)",
    )  # fmt: skip
    how.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of the masks in figure 8 (default: %(default)s)"
    )
    how.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to run (default: %(default)s)"
    )
    how.add_argument(
        "--output",
        type=given_path,
        default=Path("figures"),
        metavar="DIR",
        help="folder to write to (default: %(default)s)",
    )
    how.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return parser


@command("sdtc-visualize")
def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    requested = None if args.figures is None else _figures(args.figures)
    channels = None if args.channels is None else _channels(args.channels)
    joints = _names("--joints", args.joints)
    if not 1 <= args.count <= MOST:
        raise InputError(f"--count is {args.count}: expected 1 to {MOST}")
    if args.mask_ratio is not None and not 0 <= args.mask_ratio <= 0.95:
        raise InputError(f"--mask-ratio is {args.mask_ratio}: expected 0 to 0.95")
    if not 0 <= args.seed < 1 << 63:
        raise InputError(f"--seed is {args.seed}: expected 0 to 2^63 - 1")

    # Imported only now: `--help` and mistyped options should not wait for torch.
    for module in ("torch", "matplotlib"):
        require(module, "train", "sdtc-visualize")
    from sdtc.core.files import make_directory
    from sdtc.evaluation.torch_session import choose_device
    from sdtc.model.checkpoint import load_checkpoint
    from sdtc.training.annotations import read_annotations
    from sdtc.visualization.inside import unavailable
    from sdtc.visualization.scene import FigureScene
    from sdtc.visualization.selection import select

    device = choose_device(args.device)
    checkpoint = load_checkpoint(args.checkpoint)
    config = checkpoint.network.config
    _check_names(config, channels or [], joints)
    annotations = read_annotations(args.data, args.split)
    selection = select(annotations, args.clip, args.frame, args.person)
    candidates = (  # for figure 13
        [i for found in selection.frames.values() for i in found] if args.clip else range(len(annotations.people))
    )
    missing = unavailable(config)
    for figure in requested or ():
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
        say(f"running  {len(candidates):,} people for figure 13", quiet=args.quiet)
        where = f"of {selection.clip}" if args.clip else f"of split '{args.split}'"
        return scene.failures(candidates, args.count, f"From {len(candidates):,} annotations {where}; {name}.")

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
        if requested and figure not in requested:
            continue
        if figure in missing:
            say(f"skipped  figure {figure}: {missing[figure]}", quiet=args.quiet)
            continue
        draw[figure]().save(args.output / file)
        say(f"wrote    {args.output / file}", quiet=args.quiet)
    return 0


def _names(option: str, value: str) -> list[str]:
    """Split a list at its commas, and drop duplicates."""
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
    """Reject channels and joints that a network does not have, before any work is done."""
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
