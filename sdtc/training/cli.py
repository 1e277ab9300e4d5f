"""The command `sdtc-train`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sdtc.core.command_line import command
from sdtc.core.errors import require

_DESCRIPTION = "Train an SDTC network as a configuration says."
_EPILOG = """examples:
  sdtc-train tiny-synthetic                              a configuration that comes with the package
  sdtc-train my.yaml --set epochs=20 --set model.delta=1
  sdtc-train my.yaml --output runs/train/a --resume      go on after a stop, of whatever kind
  torchrun --standalone --nproc-per-node 4 -m sdtc.training.cli my.yaml

The output folder gets last.pth (state to resume from), best.pth (by validation AP), log.csv, curves.png and
tensorboard/. Both checkpoints are what export/to_trt.py takes."""


@command("sdtc-train")
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="sdtc-train",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, or the name of one that comes with the package")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="change a value; dots for nested keys")
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: runs/train/CONFIG")
    parser.add_argument("--resume", action="store_true", help="continue from the output folder's last.pth")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)

    for module in ("torch", "accelerate", "yaml"):
        require(module, "train", "sdtc-train")
    from sdtc.core.errors import InputError
    from sdtc.training.train_config import load_config
    from sdtc.training.trainer import LAST, Trainer

    config = load_config(args.config, args.set)
    output = args.output or Path("runs/train") / Path(args.config).stem
    if (output / LAST).exists() and not args.resume:
        raise InputError(f"'{output}' holds a run already: add --resume to continue it, or choose another --output")
    with Trainer(config, output, args.resume, args.quiet) as trainer:
        trainer.run()
    if trainer.rank == 0 and not args.quiet:
        best = f", best validation AP {trainer.best:.1f}" if trainer.validation else ""
        print(f"{output}: {trainer.step} steps, {config.epochs} epochs{best}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
