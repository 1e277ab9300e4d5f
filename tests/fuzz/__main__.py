"""`python -m tests.fuzz`: fuzz for a while, and print what was found. Exit code 1 if a case failed."""

# ruff: noqa: E402  (the environment first)
from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # a child may not inherit their threads
    os.environ[variable] = "1"

from tests.fuzz.corpus import Corpus
from tests.fuzz.runner import Runner, find
from tests.fuzz.targets import TARGETS

SEEDS = Path(__file__).with_name("seeds.txt")
SLICE = 10.0  # seconds that a target runs until it is the next one's turn


def kept_seeds(name: str) -> list[int]:
    """Return the seeds of a target that found something once."""
    lines = (line.split("#")[0].split() for line in SEEDS.read_text(encoding="utf-8").splitlines())
    return [int(fields[1]) for fields in lines if fields and fields[0] == name]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to fuzz (default: %(default)s)")
    parser.add_argument("--cases", type=int, help="run so many seeds of each target instead, however long that takes")
    parser.add_argument("--replay", action="store_true", help="before that, run the seeds that are kept in seeds.txt")
    parser.add_argument("--target", action="append", default=[], choices=[target.name for target in TARGETS])
    parser.add_argument("--seed", type=int, default=0, help="the first seed; each further case has the next one")
    parser.add_argument(
        "--log", type=Path, default=Path("build/fuzz"), help="folder of what is found (default: %(default)s)"
    )
    parser.add_argument("--corpus", type=Path, default=Path("build/fuzz/corpus"), help="folder of the valid input")
    args = parser.parse_args()

    corpus = Corpus(args.corpus.absolute())
    runner = Runner(corpus, args.log.absolute())
    targets = find(args.target)
    for target in targets:
        runner.prepare(target)
    if args.replay:
        for target in targets:
            runner.run(target, kept_seeds(target.name))
    if args.cases is not None:
        for target in targets:
            runner.run(target, range(args.seed, args.seed + args.cases))
    else:
        following = dict.fromkeys((target.name for target in targets), args.seed)
        end = time.monotonic() + args.seconds
        while time.monotonic() < end:
            for target in targets:
                first, left = following[target.name], end - time.monotonic()
                if left > 0:
                    following[target.name] += runner.run(target, range(first, first + 10**6), min(SLICE, left))
            (args.log / "summary.txt").write_text(runner.report.table() + "\n", encoding="utf-8")
    print(runner.report.table())
    return 1 if runner.report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
