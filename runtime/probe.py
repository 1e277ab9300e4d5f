"""Which backend runs a bundle fastest here? Measured once for a bundle, a machine and its libraries, and remembered.

Where only one backend can run it, nothing is measured.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from sdtc.errors import OutputError, SdtcError
from sdtc.files import cache_folder, make_directory, read_json, write_json
from sdtc.manifest import Manifest
from sdtc.runtime.sessions import Choice, Session, available_cpus, cpu_candidates, open_session

RUNS, SECONDS = 5, 0.5  # a graph is timed so often, or for so long
MAX_CACHE_BYTES = 1 << 16


@dataclass(frozen=True)
class Opened:
    """What runs a bundle.

    Attributes:
        choice: with nothing left open.
        sessions: of the graphs that were asked for.
        measured: a sentence about what was just measured, or "".
    """

    choice: Choice
    sessions: list[Session]
    measured: str = ""


def open_sessions(
    manifest: Manifest, directory: Path, choice: Choice, graphs: Sequence[str], threads: int | None = None
) -> Opened:
    """Open some graphs of a bundle, in the fastest backend where the choice leaves that open.

    Args:
        manifest: the bundle's.
        directory: where its files are.
        choice: from `sdtc.runtime.sessions.choose`.
        graphs: their names; they are loaded at the same time.
        threads: CPU threads; all that this process may use if not given.

    Raises:
        BundleError: a file is missing or was changed.
        EngineError: the backend refuses it, or all of them do.
        MissingExtraError: it is not installed.
    """
    candidates = cpu_candidates(choice) if choice.device == "cpu" else [choice]
    if len(candidates) == 1:
        return Opened(candidates[0], _open(manifest, directory, candidates[0], graphs, threads))
    cache = cache_folder("backends") / f"{_key(manifest, candidates, graphs, threads)}.json"
    if (known := _read(cache, candidates)) is not None:
        return Opened(known, _open(manifest, directory, known, graphs, threads))

    best: Opened | None = None
    milliseconds: dict[str, float] = {}
    for candidate in candidates:
        try:
            sessions = _open(manifest, directory, candidate, graphs, threads)
        except SdtcError:
            if candidate is candidates[-1] and best is None:
                raise
            continue  # a processor without bf16, for example
        name = f"{candidate.backend} {candidate.precision}"
        milliseconds[name] = sum(_time(session) for session in sessions) * 1e3
        if best is not None:
            slower = sessions if milliseconds[name] > min(milliseconds.values()) else best.sessions
            for session in slower:
                session.close()
            if slower is sessions:
                continue
        best = Opened(candidate, sessions)
    assert best is not None
    try:
        make_directory(cache.parent)
        write_json(
            cache,
            {"backend": best.choice.backend, "precision": best.choice.precision, "milliseconds": milliseconds},
        )
    except OutputError:
        pass  # it is measured again next time
    listed = ", ".join(f"{name} {value:.1f} ms" for name, value in milliseconds.items())
    winner = f"{best.choice.backend} {best.choice.precision}"
    return Opened(best.choice, best.sessions, f"{listed} for one person: {winner} is used from now on")


def _open(
    manifest: Manifest, directory: Path, choice: Choice, graphs: Sequence[str], threads: int | None
) -> list[Session]:
    with ThreadPoolExecutor(len(graphs)) as pool, ExitStack() as stack:
        loading = [pool.submit(open_session, manifest, directory, choice, graph, threads) for graph in graphs]
        sessions = [stack.enter_context(each.result()) for each in loading]
        stack.pop_all()
    return sessions


def _time(session: Session) -> float:
    """Return the median seconds of a run with a batch of one."""
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
    return float(np.median(times))


def _key(manifest: Manifest, candidates: Sequence[Choice], graphs: Sequence[str], threads: int | None) -> str:
    """Return a name for everything that the answer depends on."""
    facts = [
        [manifest.files[manifest.graphs[graph].onnx] for graph in graphs],
        [(candidate.backend, candidate.precision, _version(candidate.backend)) for candidate in candidates],
        threads or available_cpus(),
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


def _read(path: Path, candidates: Sequence[Choice]) -> Choice | None:
    """Return the candidate that a file of the cache names; None where there is none, or it says anything else."""
    try:
        data = read_json(path, "cache", MAX_CACHE_BYTES)
    except SdtcError:
        return None
    named = (data.get("backend"), data.get("precision")) if isinstance(data, dict) else None
    return next((each for each in candidates if (each.backend, each.precision) == named), None)
