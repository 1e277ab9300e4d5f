"""How long does a keyframe take, frame by frame, in whole windows, and with what one would use instead?

    python benchmarks/latency.py [--preset tiny base] [--people 1 8] [--height 480] [--output runs/latency]
    python benchmarks/latency.py --people 1 2 4 8 --height 480 1080 --repeats 3      # everything: hours
    python benchmarks/latency.py --engine bundle/model.onnx --people 1 2 4 8         # one bundle, without PyTorch
    python benchmarks/latency.py --case torch onnxruntime-streaming --preset tiny    # some ways only

In one run, over the same rendered clip, people and boxes: PyTorch on a sliding window (what research code does), the
same under torch.compile, the same network by a plain torch.onnx.export in ONNX Runtime, Hugging Face's ViTPose of the
same backbone on every frame, and the bundle with every backend that is here, in whole windows (`--exact`) and frame
by frame (streaming); auto is what `--backend auto --precision auto` chooses. Presets are exported once, with weights
that were never trained: times do not depend on them. People are given, not detected; their boxes wander by --drift of
their width a frame, and the share of frames that could be reused is printed.

Every case runs in a process of its own, so that memory, first results and crashes are its own; with --repeats the
cases take turns, and medians over the turns count. A case ends after --frames keyframes and 2 seconds, or after
--budget seconds and 5 keyframes. What is measured:

    keyframes/s   ours: as fast as they come (decoding, detection and poses overlap, waiting keyframes are batched), all
                  of the time counted; others: one after the other, by the median keyframe, which forgives them the rest
    p50 p95 p99   of a keyframe's time from asking for the last frame that it needs to its poses, one at a time, and of
                  each stage's. A live source's look-ahead of δ frames comes on top
    load, first   from asking for the engine (imports included) until it is open, and until the first poses are there;
                  where auto has not seen the bundle yet, it measures in this time (and memory)
    memory        the most that the process held
    ms a person   1000 / (keyframes/s × people)
    x PyTorch     keyframes/s over those of PyTorch's sliding window

Prints a table, appends rows with machine and versions to latency.csv, draws latency.png where matplotlib is
installed, and says how the ratios compare that this project promises.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import latency_case
import numpy as np
from latency_case import HEIGHTS, MIN_KEYFRAMES, ON_GPU, PERCENTILES, WAYS, LatencyCase
from latency_report import STAGES, draw, find_row, promises, table
from tqdm import tqdm

from sdtc.core.command_line import command
from sdtc.core.errors import EngineError, InputError
from sdtc.core.files import make_directory
from sdtc.runtime.backends.choice import available_cpus
from sdtc.runtime.output.results import FrameResult

LIBRARIES = ("numpy", "onnxruntime", "openvino", "torch", "transformers")
CLIP_FRAMES = 48  # it is played again and again
EXPORT_SECONDS = 1800  # an export that takes longer has hung


@command("latency.py")
def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    _check(args)
    make_directory(args.output)
    ways = _present(args)
    targets = _targets(args, ways)
    clips = {height: _clip(args.output / f"clip-{height}.mp4", height) for height in args.height}

    cases = [
        LatencyCase(
            way, preset, str(args.output / preset), str(bundle), str(clips[height]), height, people, args.drift,
            args.threads, args.frames, args.budget, args.limit,
        )
        for preset, bundle in targets.items()
        for height in args.height
        for people in args.people
        for way in ways
    ]  # fmt: skip
    answers: dict[LatencyCase, list[dict[str, Any]]] = {case: [] for case in cases}
    failed: dict[tuple[str, str], int] = {}  # with how many people
    rows: list[dict[str, Any]] = []
    try:
        with tqdm(total=len(cases) * args.repeats, unit="case", disable=None, leave=False) as bar:
            for case in cases * args.repeats:  # they take turns: a machine that slows down does so for all of them
                bar.set_postfix_str(f"{case.preset} {case.way}, {case.people} people, {case.height}p")
                if case.people < failed.get((case.preset, case.way), case.people + 1):
                    try:
                        answers[case].append(_run_child(asdict(case), case.limit))
                    except EngineError as error:
                        failed[case.preset, case.way] = case.people  # with more, it would fail or take too long too
                        tqdm.write(
                            f"note: {case.preset}, {WAYS[case.way].title}, {case.people} people: {error}",
                            file=sys.stderr,
                        )
                bar.update()
    finally:  # what is measured is kept, whatever comes next
        rows += _rows(answers, args)
        _append(args.output / "latency.csv", rows)
    if not rows:
        raise EngineError("nothing could be measured: see the notes above")
    print(table(rows))
    print("\n".join(["", *promises(rows), ""]))
    print(f"wrote {args.output / 'latency.csv'}")
    if draw(args.output / "latency.png", rows):
        print(f"wrote {args.output / 'latency.png'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, metavar="FILE", help="measure this bundle only, without PyTorch")
    parser.add_argument("--preset", nargs="+", default=["tiny", "base"], metavar="NAME", help="default: tiny base")
    parser.add_argument("--case", nargs="+", metavar="NAME", help=f"some of: {', '.join(WAYS)} (default: all that run)")
    parser.add_argument("--people", type=int, nargs="+", default=[1, 8], metavar="N", help="default: 1 8")
    parser.add_argument(
        "--height", type=int, nargs="+", default=[480], metavar="H", help="of the frames: 480, 1080 (default: 480)"
    )
    parser.add_argument("--drift", type=float, default=0.0, metavar="S", help="a frame (default: people stand still)")
    parser.add_argument("--frames", type=int, default=24, metavar="N", help="timed keyframes (default: %(default)s)")
    parser.add_argument(
        "--budget", type=float, default=20.0, metavar="S",
        help=f"seconds after which {MIN_KEYFRAMES} keyframes are enough (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=float, default=600.0, metavar="S", help="seconds that a case may take (default: %(default)g)"
    )
    parser.add_argument(
        "--repeats", type=int, default=1, metavar="N", help="turns, of which medians count (default: 1)"
    )
    parser.add_argument(
        "--threads", type=int, default=available_cpus(), metavar="N",
        help="CPU threads of everything but auto, which chooses (default: all that may be used, %(default)s)",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, default=Path("runs/latency"), metavar="DIR", help="default: %(default)s")
    return parser


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot be measured, before anything is.

    Raises:
        InputError: an argument is out of range, or an older latency.csv has other columns.
    """
    for option, values in (
        ("people", args.people), ("frames", [args.frames]), ("repeats", [args.repeats]),
        ("threads", [args.threads]),
    ):  # fmt: skip
        if min(values) < 1:
            raise InputError(f"--{option} is {min(values)}: expected at least 1")
    if not args.drift >= 0:
        raise InputError(f"--drift is {args.drift}: expected a share of a box's width, at least 0")
    for option, value in (("budget", args.budget), ("limit", args.limit)):
        if not value > 0:
            raise InputError(f"--{option} is {value}: expected seconds, more than 0")
    if unknown := [height for height in args.height if height not in HEIGHTS]:
        raise InputError(f"--height is {unknown[0]}: expected some of {', '.join(map(str, HEIGHTS))}")
    if unknown := [name for name in args.case or () if name not in WAYS]:
        raise InputError(f"--case is '{unknown[0]}': expected some of {', '.join(WAYS)}")
    path = args.output / "latency.csv"
    if path.is_file() and path.stat().st_size:
        with path.open(newline="", encoding="utf-8") as file:
            head = next(csv.reader(file), [])
        if head != list(_COLUMNS):
            raise InputError(f"'{path}' has other columns than this benchmark writes: move it away, or choose --output")


def _present(args: argparse.Namespace) -> list[str]:
    """Return the ways that can be tried here."""
    from sdtc.runtime.backends.cuda import gpu_or_reason

    ours = [name for name, way in WAYS.items() if way.options is not None]
    if args.engine and (foreign := [name for name in args.case or () if name not in ours]):
        raise InputError(f"--case {foreign[0]} needs a preset's checkpoint: leave out --engine")
    wanted = args.case or [
        name
        for name in (ours if args.engine else WAYS)
        if gpu_or_reason()[0] is not None or not name.startswith(tuple(f"{prefix}-" for prefix in ON_GPU))
    ]
    found = []
    for name in dict.fromkeys(wanted):
        if find_spec(WAYS[name].module):
            found.append(name)
        elif args.case or name == "vitpose":
            print(f"note: {WAYS[name].title}: left out: {WAYS[name].module} is not installed", file=sys.stderr)
    if not found:
        raise InputError("none of the cases can run here: install a backend, such as  pip install 'sdtc[cpu]'")
    return found


def _targets(args: argparse.Namespace, ways: Sequence[str]) -> dict[str, Path]:
    """Return bundles by name, presets exported where that has not been done."""
    from sdtc.core.manifest import Manifest, find_manifest
    from sdtc.model.config import get_preset

    if args.engine:
        return {Manifest.load(find_manifest(args.engine)).name: args.engine}
    for preset in args.preset:
        get_preset(preset)
    for preset in args.preset:
        parts = {
            "checkpoint": not (args.output / preset / "checkpoint.pth").exists(),
            "bundle": any(WAYS[way].options is not None for way in ways)
            and not (args.output / preset / "bundle" / "model.json").exists(),
            "stock": "stock-onnx" in ways and not (args.output / preset / "stock.onnx").exists(),
        }
        if any(parts.values()):
            print(f"exporting {preset} …", file=sys.stderr)
            make_directory(args.output / preset)
            _run_child({"preset": preset, "folder": str(args.output / preset)} | parts, EXPORT_SECONDS)
    return {preset: args.output / preset / "bundle" for preset in args.preset}


def _clip(path: Path, height: int) -> Path:
    """Render two people once, to and fro, and write them as a video."""
    if not path.exists():
        from sdtc.runtime.output.writers import VideoWriter
        from sdtc.synthetic import ClipOptions, SyntheticClip

        print(f"rendering {path.name} …", file=sys.stderr)
        images = [
            frame.image
            for frame in SyntheticClip(ClipOptions(seed=0, num_frames=9, size=HEIGHTS[height], num_people=2))
        ]
        there_and_back = images + images[-2:0:-1]
        with VideoWriter(path, 25.0, lambda result: result.image) as writer:
            for index in range(CLIP_FRAMES):
                image = there_and_back[index % len(there_and_back)]
                writer.write(FrameResult(index, index, None, index, image))
    return path


def _run_child(task: dict[str, Any], limit: float) -> dict[str, Any]:
    """Run a task in a fresh process and return its answer.

    Raises:
        EngineError: it failed, died or took too long.
    """
    child = subprocess.Popen(
        [sys.executable, latency_case.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = child.communicate(json.dumps(task), timeout=limit)
    except subprocess.TimeoutExpired:
        raise EngineError(f"it took longer than {limit:g} s (--limit)") from None
    finally:  # also after Ctrl-C; compilers that it has started go with it
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    if child.returncode < 0:
        raise EngineError(f"the process died of {signal.Signals(-child.returncode).name}")
    try:
        answer = json.loads(out.splitlines()[-1])
    except (IndexError, ValueError):
        last = (err.strip().splitlines() or ["it said nothing"])[-1]
        raise EngineError(f"the process failed: {last[:300]}") from None
    if "error" in answer:
        raise EngineError(answer["error"])
    return answer


_MACHINE = ("date", "commit", "machine", "cpus", "memory_gib", "python", *LIBRARIES)
_SETTING = ("preset", "case", "backend", "people", "height", "drift", "threads", "repeats", "keyframes")
_FIGURES = ("keyframes_per_second", "ms_per_person", "x_torch", "reused", "load_s", "first_result_s", "peak_mib")
_COLUMNS = (
    *_MACHINE, *_SETTING, *_FIGURES, *(f"{what}_p{p}_ms" for what in ("latency", *STAGES) for p in PERCENTILES)
)  # fmt: skip


def _machine() -> dict[str, Any]:
    def version(package: str) -> str:
        try:
            return metadata.version(package)  # without importing it
        except metadata.PackageNotFoundError:
            return ""

    model = platform.processor() or platform.machine()
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        model = names[0] if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0.0
    commit = ""
    with suppress(OSError):
        git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit,
        "machine": model,
        "cpus": available_cpus(),
        "memory_gib": round(memory, 1),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def _rows(answers: dict[LatencyCase, list[dict[str, Any]]], args: argparse.Namespace) -> list[dict[str, Any]]:
    """Make a row of every case that has an answer: medians over its turns."""
    machine = _machine()
    rows = []
    for case, turns in answers.items():
        if not turns:
            continue
        row: dict[str, Any] = dict.fromkeys(_COLUMNS, "") | machine
        row |= {name: getattr(case, name) for name in ("preset", "people", "height", "drift")}
        row |= {"case": case.way, "threads": case.threads, "repeats": len(turns)}
        for name, value in turns[0].items():
            row[name] = value if isinstance(value, str) else float(np.median([turn[name] for turn in turns]))
        row["ms_per_person"] = round(1e3 / (row["keyframes_per_second"] * case.people), 3)
        rows.append(row)
    for row in rows:
        base = find_row(rows, row, case="torch")
        row["x_torch"] = round(row["keyframes_per_second"] / base["keyframes_per_second"], 3) if base else ""
    return rows


def _append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append rows to a CSV file, with a head where it is new."""
    if not rows:
        return
    fresh = not path.exists() or not path.stat().st_size
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        if fresh:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
