"""Runs targets in forked children, so that a hang, a crash of a library or a full memory ends one case, not the run.

A child takes one seed after another until its time is up, and says in a pipe which one it is at. One that takes longer
than `LIMIT` over a seed is ended from within by `faulthandler`, which leaves the stack of every thread, or by its
parent. Needs a system that can fork.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import resource
import select
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from tests.fuzz.corpus import Corpus
from tests.fuzz.oracle import Case, WrongAnswerError
from tests.fuzz.targets import TARGETS, Target

LIMIT = 20.0  # seconds for one case
THREADS_END = 3.0  # seconds after a case until all of its threads must have ended
MEMORY = 12 << 30  # bytes of address space for a child
KEPT_FOLDERS = 3  # of failures that look alike, so many leave their files


@dataclass(frozen=True)
class Failure:
    """A seed that found something.

    Attributes:
        target: its name.
        seed: the case's.
        kind: what failures that look alike have in common.
        text: traceback or stacks.
    """

    target: str
    seed: int
    kind: str
    text: str


@dataclass
class Report:
    """What a run found.

    Attributes:
        cases: number of cases, by target.
        slowest: seconds and seed of the slowest case, by target.
        failures: in the order in which they were found.
        crashes: of libraries, by target, where the target says that these are not this package's fault.
    """

    cases: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, tuple[float, int]] = field(default_factory=lambda: defaultdict(lambda: (0.0, 0)))
    failures: list[Failure] = field(default_factory=list)
    crashes: Counter[str] = field(default_factory=Counter)

    def table(self) -> str:
        """Return the summary: a line for each target, then one for each kind of failure."""
        lines = [f"{'target':12} {'cases':>8} {'failures':>8} {'crashes':>8} {'slowest':>9}  its seed"]
        for name, count in self.cases.items():
            failures = sum(failure.target == name for failure in self.failures)
            seconds, seed = self.slowest[name]
            lines.append(f"{name:12} {count:8} {failures:8} {self.crashes[name]:8} {seconds:7.2f} s  {seed}")
        alike = defaultdict(list)
        for failure in self.failures:
            alike[f"{failure.target}: {failure.kind}"].append(failure)
        for kind, found in alike.items():
            seeds = ", ".join(str(failure.seed) for failure in found[:5]) + (" …" if len(found) > 5 else "")
            example = (found[0].text.strip().splitlines() or [""])[-1]
            lines.append(f"{len(found):5} × {kind}; seeds {seeds}\n        {example:.200}")
        return "\n".join(lines)


class Runner:
    """Runs cases and keeps what they found.

    Args:
        corpus: valid input.
        log: folder of a file for each failure; created.
    """

    def __init__(self, corpus: Corpus, log: Path) -> None:
        self.corpus, self.log, self.report = corpus, log, Report()
        self._folders: Counter[str] = Counter()
        log.mkdir(parents=True, exist_ok=True)

    def prepare(self, target: Target) -> None:
        """Make the valid input of a target, in a child, and import here what every child will need."""
        process = os.fork()
        if process == 0:
            try:
                target.prepare(self.corpus)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        if os.waitpid(process, 0)[1]:
            raise RuntimeError(f"the valid input of {target.name} cannot be made")
        for module in target.modules:
            import_module(module)

    def run(self, target: Target, seeds: Sequence[int], seconds: float = float("inf")) -> int:
        """Run a target on seeds, in order, until the time is up; return how many were run."""
        done, end = 0, time.monotonic() + seconds
        while done < len(seeds) and (time.monotonic() < end or not done):
            done += self._child(target, seeds[done:], end)
        return done

    def _child(self, target: Target, seeds: Sequence[int], end: float) -> int:
        """Run seeds in a child; return after the last one, or after one that ended the child."""
        reader, writer = os.pipe()
        scratch = Path(tempfile.mkdtemp(prefix="sdtc-fuzz-"))
        process = os.fork()
        if process == 0:
            os.close(reader)
            with os.fdopen(writer, "w", buffering=1) as pipe:
                _work(target, seeds, end, self.corpus, scratch, pipe)
            os._exit(0)
        os.close(writer)
        try:
            return self._listen(target, process, reader, scratch)
        finally:
            os.close(reader)
            shutil.rmtree(scratch, ignore_errors=True)

    def _listen(self, target: Target, process: int, reader: int, scratch: Path) -> int:
        current, count, rest = None, 0, b""
        while True:
            if not select.select([reader], [], [], LIMIT + 10)[0]:
                os.kill(process, signal.SIGKILL)
            piece = os.read(reader, 1 << 16)
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "start" in message:
                    current = message["start"]
                    continue
                self._record(target, message, scratch)
                current, count = None, count + 1
            if not piece:
                break
        status = os.waitpid(process, 0)[1]
        if current is not None:
            text = _tail(scratch / "faults")
            hung = "Timeout" in text or os.WTERMSIG(status) == signal.SIGKILL
            kind = f"takes more than {LIMIT:.0f} s" if hung else f"ends the process (status {status})"
            self.report.cases[target.name] += 1
            if target.may_crash and not hung:
                self.report.crashes[target.name] += 1
            else:
                self._keep(Failure(target.name, current, kind, text), scratch)
            count += 1
        elif status:
            raise RuntimeError(f"the child of {target.name} ended with status {status}: {_tail(scratch / 'output')}")
        return count

    def _record(self, target: Target, message: dict[str, Any], scratch: Path) -> None:
        name, seed = target.name, message["seed"]
        self.report.cases[name] += 1
        self.report.slowest[name] = max(self.report.slowest[name], (message["seconds"], seed))
        if message["error"]:
            self._keep(Failure(name, seed, message["kind"], message["error"]), scratch)

    def _keep(self, failure: Failure, scratch: Path) -> None:
        self.report.failures.append(failure)
        stem = f"{failure.target}-{failure.seed}"
        text = f"python -m tests.fuzz --target {failure.target} --seed {failure.seed} --cases 1\n\n{failure.kind}\n\n"
        (self.log / f"{stem}.txt").write_text(text + failure.text, encoding="utf-8", errors="backslashreplace")
        self._folders[failure.target + failure.kind] += 1
        files = scratch / str(failure.seed)
        if files.is_dir() and self._folders[failure.target + failure.kind] <= KEPT_FOLDERS:
            shutil.rmtree(self.log / stem, ignore_errors=True)
            shutil.copytree(files, self.log / stem, symlinks=True)
        _remove(files)


def _work(target: Target, seeds: Sequence[int], end: float, corpus: Corpus, scratch: Path, pipe: IO[str]) -> None:
    """Run the cases of a child, and tell the parent about each."""
    output = os.open(scratch / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number in (1, 2):
        os.dup2(output, number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    gc.freeze()  # what the parent has imported needs no collection
    with (scratch / "faults").open("w") as faults:
        faulthandler.enable(faults)
        for seed in seeds:
            folder = scratch / str(seed)
            folder.mkdir()
            print(json.dumps({"start": seed}), file=pipe)
            faulthandler.dump_traceback_later(LIMIT, exit=True, file=faults)
            start = time.perf_counter()
            error = kind = ""
            try:
                target.run(Case(seed, folder, corpus))
                _check_threads()
            except BaseException as caught:
                error, kind = "".join(traceback.format_exception(caught)), _kind(caught)
            seconds = time.perf_counter() - start
            faulthandler.cancel_dump_traceback_later()
            print(json.dumps({"seed": seed, "seconds": seconds, "error": error, "kind": kind}), file=pipe)
            if not error:  # else the parent keeps the files
                _remove(folder)
            if time.monotonic() > end:
                break
        faulthandler.disable()


def _remove(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(folder, ignore_errors=True)


def _check_threads() -> None:
    """Raise unless the threads that the case started have ended, or end soon."""
    until = time.monotonic() + THREADS_END
    while left := [thread.name for thread in threading.enumerate() if thread.name.startswith("sdtc-")]:
        gc.collect()  # a generator that an error has left open ends its thread
        if time.monotonic() > until:
            raise AssertionError(f"threads are left: {left}")
        time.sleep(0.01)


def _kind(error: BaseException) -> str:
    """Return what failures of one cause have in common: the error, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, WrongAnswerError):
        frame = [frame for frame in frames if Path(frame.filename).name != "oracle.py"][-1]
        return f"wrong answer, {Path(frame.filename).name}:{frame.lineno}"
    return f"{type(error).__name__} in {Path(frames[-1].filename).name}:{frames[-1].name}"


def _tail(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")[-20_000:] if path.exists() else ""


def find(names: Sequence[str]) -> list[Target]:
    """Return targets by name; all of them if none is given."""
    return [target for target in TARGETS if not names or target.name in names]
