"""Finds the fastest backend for a bundle: measured once per bundle, machine and library versions, and cached.

First the backends are timed with all processors. Then the fastest of them is timed with one thread, because a small
network often gains nothing from more threads, and one thread leaves the other processors to decoding and detection. If
there is only one candidate, nothing is measured.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from sdtc.core.errors import OutputError, SdtcError
from sdtc.core.files import cache_folder, make_directory, read_json, write_json
from sdtc.core.manifest import Manifest
from sdtc.runtime.backends.choice import Choice, available_cpus, cpu_candidates, open_session
from sdtc.runtime.backends.session import Session

RUNS, SECONDS = 10, 1.0  # a graph is run this many times, or for this long
MAX_CACHE_BYTES = 1 << 16


@dataclass(frozen=True)
class Opened:
    """The sessions of a bundle, and how they were chosen.

    Attributes:
        choice: without ``"auto"``.
        threads: CPU threads.
        sessions: on the requested graphs.
        measured: a sentence on what was just measured, or "".
    """

    choice: Choice
    threads: int
    sessions: list[Session]
    measured: str = ""


def open_sessions(
    manifest: Manifest, directory: Path, choice: Choice, graphs: Sequence[str], threads: int | None = None
) -> Opened:
    """Open some graphs of a bundle, in the fastest backend if the choice contains ``"auto"``.

    Args:
        manifest: the bundle's.
        directory: the folder of its files.
        choice: from `sdtc.runtime.backends.choice.choose`.
        graphs: their names.
        threads: CPU threads; one or all that this process may use, whichever is faster, if not given.

    Raises:
        BundleError: a file is missing or was changed.
        EngineError: the backend cannot run it, or none of them can.
        MissingExtraError: the backend is not installed.
    """
    every = threads or available_cpus()
    candidates = cpu_candidates(choice) if choice.device == "cpu" else [choice]
    counts = [every] if threads or choice.device != "cpu" else sorted({every, 1}, reverse=True)
    if len(candidates) == len(counts) == 1:
        return Opened(candidates[0], every, _open(manifest, directory, candidates[0], graphs, every))
    cache = cache_folder("backends") / f"{_key(manifest, candidates, graphs, counts)}.json"
    if (known := _read(cache, candidates, counts)) is not None:
        return Opened(*known, _open(manifest, directory, known[0], graphs, known[1]))

    trials: list[_Trial] = []

    def race(choices: Sequence[Choice], count: int, best: _Trial | None = None) -> _Trial:
        """Return the fastest of some candidates and the best so far, and close all others."""
        for number, candidate in enumerate(choices, start=1):
            try:
                trial = _Trial(candidate, count, _open(manifest, directory, candidate, graphs, count))
            except SdtcError:
                if number == len(choices) and best is None:
                    raise
                continue  # a processor without bf16, for example
            trials.append(trial)
            if best is not None and trial.milliseconds > best.milliseconds:
                trial.close()
                continue
            if best is not None:
                best.close()
            best = trial
        assert best is not None
        return best

    best = race(candidates, every)
    if 1 in counts and every > 1:
        best = race([best.choice], 1, best)
    how_long = "from now on"
    try:
        make_directory(cache.parent)
        facts = {"backend": best.choice.backend, "precision": best.choice.precision, "threads": best.threads}
        write_json(cache, facts | {"milliseconds": {str(trial): trial.milliseconds for trial in trials}})
    except OutputError:
        how_long = "this time, and measured again the next, as the cache cannot be written"
    listed = ", ".join(f"{trial} {trial.milliseconds:.1f} ms" for trial in trials)
    return Opened(best.choice, best.threads, best.sessions, f"{listed} for one person: {best} is used {how_long}")


class _Trial:
    """The sessions of one candidate, and the milliseconds that one run of all of them takes."""

    def __init__(self, choice: Choice, threads: int, sessions: list[Session]) -> None:
        self.choice, self.threads, self.sessions = choice, threads, sessions
        self.milliseconds = 1e3 * sum(_time(session) for session in sessions)

    def __str__(self) -> str:
        plural = "s" if self.threads > 1 else ""
        return f"{self.choice.backend} {self.choice.precision} on {self.threads} thread{plural}"

    def close(self) -> None:
        for session in self.sessions:
            session.close()


def _open(manifest: Manifest, directory: Path, choice: Choice, graphs: Sequence[str], threads: int) -> list[Session]:
    with ExitStack() as stack:
        sessions = [stack.enter_context(open_session(manifest, directory, choice, graph, threads)) for graph in graphs]
        stack.pop_all()
    return sessions


def _time(session: Session) -> float:
    """Return the shortest run with a batch of one, in seconds: load from other programs must not decide the choice."""
    rng = np.random.default_rng(0)
    inputs = {
        name: rng.integers(0, 256, [side or 1 for side in spec.shape]).astype(spec.dtype)
        for name, spec in session.inputs.items()
    }
    session.run(inputs)  # the first one also allocates
    times: list[float] = []
    while len(times) < RUNS and (sum(times) < SECONDS or not times):
        start = time.perf_counter()
        session.run(inputs)
        times.append(time.perf_counter() - start)
    return min(times)


def _key(manifest: Manifest, candidates: Sequence[Choice], graphs: Sequence[str], counts: Sequence[int]) -> str:
    """Return a cache key of everything that the result depends on."""
    facts = [
        [manifest.files[manifest.graphs[graph].onnx] for graph in graphs],
        [(candidate.backend, candidate.precision, _version(candidate.backend)) for candidate in candidates],
        counts,
        _processor(),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith("model name")), "") + next(
        (line for line in lines if line.startswith("flags")), platform.machine()
    )


def _read(path: Path, candidates: Sequence[Choice], counts: Sequence[int]) -> tuple[Choice, int] | None:
    """Return the choice in a cache file; None if there is no file, or its content is not one of the candidates."""
    try:
        data = read_json(path, "cache", MAX_CACHE_BYTES)
    except SdtcError:
        return None
    if not isinstance(data, dict) or data.get("threads") not in counts:
        return None
    named = (data.get("backend"), data.get("precision"))
    return next(((each, data["threads"]) for each in candidates if (each.backend, each.precision) == named), None)
