"""The command `sdtc-init`: writes an untrained checkpoint."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sdtc.core.command_line import command, given_path, say
from sdtc.core.errors import InputError, require
from sdtc.model.config import PRESETS, get_preset

_DESCRIPTION = "Write an untrained checkpoint of a preset, optionally with a pretrained ViTPose backbone."
_EPILOG = """examples:
  sdtc-init tiny --output tiny.pth
  sdtc-init base --backbone vitpose-b.pth --output base.pth

The checkpoint can be exported and run like any other. Its poses mean nothing until it is trained; commands that use it
print a note. To train with a pretrained backbone, set `backbone` in the configuration of sdtc-train instead."""


@command("sdtc-init")
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="sdtc-init", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("preset", metavar="PRESET", help=f"the network's size: {', '.join(PRESETS)}")
    parser.add_argument(
        "--output", type=given_path, metavar="FILE", help="file to write, .pth or .safetensors (default: PRESET.pth)"
    )
    parser.add_argument(
        "--backbone", type=given_path, metavar="FILE",
        help="take the backbone from this file: a ViTPose (original, mmpose 1.x or Hugging Face names) or an sdtc "
        "checkpoint, of the preset's width and depth",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="seed of the random weights (default: %(default)s)")
    args = parser.parse_args(argv)
    config = get_preset(args.preset)
    if not 0 <= args.seed < 2**63:
        raise InputError(f"--seed is {args.seed}: expected a whole number from 0 to {2**63 - 1}")

    torch = require("torch", "export", "sdtc-init")
    from sdtc.model.builder import build
    from sdtc.model.checkpoint import load_backbone, save_checkpoint

    torch.manual_seed(args.seed)
    network = build(config)
    source = f"backbone from {args.backbone} ({load_backbone(network, args.backbone)}), " if args.backbone else ""
    output = args.output or Path(f"{args.preset}.pth")
    save_checkpoint(output, network, trained=False)
    say(f"{output}: {config.name}, {source}untrained")
    return 0


if __name__ == "__main__":
    sys.exit(main())
