"""The command `sdtc-init`: an untrained checkpoint to start from."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sdtc.core.command_line import command
from sdtc.core.errors import InputError, require
from sdtc.model.config import PRESETS, get_preset

_DESCRIPTION = "Write an untrained checkpoint of a preset, with a pretrained ViTPose backbone where one is given."
_EPILOG = """examples:
  sdtc-init tiny --output tiny.pth
  sdtc-init base --backbone vitpose-b.pth --output base.pth

The file exports and runs like any other; its poses mean nothing until it is trained, and every command says so."""


@command("sdtc-init")
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="sdtc-init", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("preset", metavar="PRESET", help=", ".join(PRESETS))
    parser.add_argument("--output", type=Path, metavar="FILE", help=".pth or .safetensors (default: PRESET.pth)")
    parser.add_argument(
        "--backbone", type=Path, metavar="FILE", help="a ViTPose file: original, mmpose 1.x or Hugging Face"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the fresh weights (default: %(default)s)")
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
    print(f"{output}: {config.name}, {source}untrained")
    return 0


if __name__ == "__main__":
    sys.exit(main())
