"""A few seeds of every target, and those that found something once: what `python -m tests.fuzz` does for hours.

The cases run in children of a process of its own, so that a hang or a crash of a library is a failure like any other.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASES = {  # so many seeds of each target from 0 on, besides those that are kept
    "video": 60, "images": 40, "boxes": 150, "annotations": 25, "resume": 150, "config": 60, "manifest": 150,
    "bundle": 10, "checkpoint": 12, "calls": 15, "functions": 100, "run": 10,
}  # fmt: skip


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the first test that needs some valid input leaves it for the others."""
    return tmp_path_factory.mktemp("corpus")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="needs a system that can fork")
@pytest.mark.parametrize("name", CASES)
def test_no_traceback_no_hang_no_wrong_answer(name, corpus, tmp_path) -> None:
    command = [
        sys.executable, "-m", "tests.fuzz", "--replay", "--target", name, "--cases", str(CASES[name]),
        "--corpus", str(corpus), "--log", str(tmp_path / "log"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{name:12}" in done.stdout


def test_what_the_runner_finds(tmp_path) -> None:
    """A hang, a crash, an error without a name and a thread that stays are failures; the cases after them are run."""
    program = f"""
import os, signal, sys, threading, time
from pathlib import Path
import tests.fuzz.runner as runner
from tests.fuzz.corpus import Corpus
from tests.fuzz.oracle import expect
from tests.fuzz.targets import Target

def run(case):
    (case.folder / "input").write_text(str(case.seed))
    if case.seed == 1:
        time.sleep(60)
    if case.seed == 2:
        os.kill(os.getpid(), signal.SIGSEGV)
    if case.seed == 3:
        {{}}["x"]
    expect(case.seed != 4, "four is wrong")
    if case.seed == 7:
        threading.Thread(target=time.sleep, args=(9,), name="sdtc-left", daemon=True).start()

runner.LIMIT, runner.THREADS_END = 1.0, 0.2
found = runner.Runner(Corpus(Path({str(tmp_path / "corpus")!r})), Path({str(tmp_path / "log")!r}))
assert found.run(Target("x", run), range(8)) == 8
assert found.report.cases["x"] == 8, found.report.cases
for failure in found.report.failures:
    print(failure.seed, failure.kind)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        "1 takes more than 1 s",
        "2 ends the process (status 11)",
        "3 KeyError in <string>:run",
        "4 wrong answer, <string>:17",
        "7 AssertionError in runner.py:_check_threads",
    ], done.stdout + done.stderr
    assert (tmp_path / "log" / "x-3" / "input").read_text() == "3"
    assert "in run" in (tmp_path / "log" / "x-1.txt").read_text()  # where it hung
