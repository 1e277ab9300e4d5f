"""The command `python -m sdtc.kernels.report`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from sdtc.core.command_line import command, given_path, say
from sdtc.core.errors import InputError, KernelError
from sdtc.kernels import aot
from sdtc.kernels.report.analysis import describe
from sdtc.kernels.report.cases import SHAPES, cases
from sdtc.kernels.report.grid import broken, grid_table, judge, variants, write_grid
from sdtc.kernels.report.picture import draw
from sdtc.kernels.report.table import table, write_csv

_DESCRIPTION = "Compile every Triton kernel for every architecture, and report the result. Needs no GPU."
_EPILOG = """examples:
  python -m sdtc.kernels.report
  python -m sdtc.kernels.report --arch 80 90 --output report
  python -m sdtc.kernels.report --grid

writes kernels.csv and, where matplotlib is installed, kernels.png; with --grid, kernels-grid.csv. Compiled kernels are
kept in the cache folder (SDTC_CACHE, by default ~/.cache/sdtc)."""


@command("sdtc.kernels.report")
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sdtc.kernels.report",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--arch", type=int, nargs="+", default=aot.ARCHITECTURES, metavar="N", help="e.g. 80 for sm_80 (default: all)"
    )
    parser.add_argument("--preset", default="base", choices=SHAPES, help="whose shapes (default: %(default)s)")
    parser.add_argument(
        "--grid",
        action="store_true",
        help="hold the edges of all shapes that the operators take against the limits of each architecture, instead",
    )
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one for every core)")
    parser.add_argument(
        "--output", type=given_path, default=Path(), metavar="DIR", help="an existing folder (default: here)"
    )
    parser.add_argument("--quiet", action="store_true", help="no table, no progress bar")
    args = parser.parse_args(argv)
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers is {args.workers}: expected at least 1")
    unknown = [f"sm_{arch}" for arch in args.arch if arch not in aot.ARCHITECTURES]
    if unknown:
        known = ", ".join(f"sm_{arch}" for arch in aot.ARCHITECTURES)
        raise KernelError(f"--arch: {unknown[0]} is not supported: expected some of {known}")
    if not args.output.is_dir():
        raise InputError(f"--output: the folder '{args.output}' does not exist: create it or choose another")

    if args.grid:
        return _grid(args)
    work = [
        (case, arch) for case in cases(**SHAPES[args.preset]) for arch in args.arch if aot.supports(arch, case.dtype)
    ]
    with tqdm(total=len(work), unit="kernel", disable=True if args.quiet else None, leave=False) as bar:
        compiled = aot.compile_all([(case.launch, arch) for case, arch in work], args.workers, bar.update)
    rows = [describe(case, result) for (case, _), result in zip(work, compiled, strict=True)]
    say(table(rows), quiet=args.quiet)
    write_csv(args.output / "kernels.csv", rows)
    say(f"wrote {args.output / 'kernels.csv'}", quiet=args.quiet)
    if draw(args.output / "kernels.png", rows):
        say(f"wrote {args.output / 'kernels.png'}", quiet=args.quiet)
    return 0


def _grid(args: argparse.Namespace) -> int:
    chosen = list(variants())
    count = sum(aot.supports(arch, each.dtype) for each in chosen for arch in args.arch)
    with tqdm(total=count, unit="kernel", disable=True if args.quiet else None, leave=False) as bar:
        verdicts = judge(chosen, args.arch, args.workers, bar.update)
    say(grid_table(verdicts), quiet=args.quiet)
    write_grid(args.output / "kernels-grid.csv", verdicts)
    say(f"wrote {args.output / 'kernels-grid.csv'}", quiet=args.quiet)
    return 1 if broken(verdicts) else 0
