"""The command `sdtc-train`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sdtc.core.command_line import command, given_path, say
from sdtc.core.errors import require

_DESCRIPTION = "Train an SDTC network from a YAML configuration."
_EPILOG = """examples:
  sdtc-train tiny-synthetic                              a configuration that comes with the package
  sdtc-train my.yaml --set epochs=20 --set model.delta=1
  sdtc-train my.yaml --output runs/train/a --resume      continue a run that was stopped or crashed
  torchrun --standalone --nproc-per-node 4 -m sdtc.training.cli my.yaml    on 4 GPUs

written to the output folder:
  best.pth       the weights with the highest validation AP
  last.pth       the latest weights, and the state that --resume continues from
  log.csv, curves.png, tensorboard/              losses, learning rate, validation AP and speed of every epoch
export/to_trt.py exports either checkpoint.

The keys of a configuration are the fields of TrainConfig in sdtc/training/train_config.py; the configurations of the
package are in sdtc/training/configs."""
# Hints that errors of the library cannot give, as they do not know of the command line.
_OPTIONS = {"batch_size": "it with --set batch_size=N", "precision='no'": "--set precision=no", "changes": "--set"}


@command("sdtc-train", options=_OPTIONS)
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="sdtc-train",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", help="a YAML file, or the name of one that comes with the package")
    parser.add_argument(
        "--set", action="append", metavar="KEY=VALUE",
        help="change a value of the configuration, with dots for nested keys; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=given_path, metavar="DIR", help="folder of the run (default: runs/train/CONFIG)"
    )
    parser.add_argument("--resume", action="store_true", help="continue from last.pth in the output folder")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
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
        say(f"{output}: {trainer.step} steps, {config.epochs} epochs{best}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
