"""Latency and throughput of keyframes: streaming, whole windows, and the alternatives that one would use instead.

    python benchmarks/latency.py [--preset tiny base] [--people 1 8] [--height 480] [--output runs/latency]
    python benchmarks/latency.py --people 1 2 4 8 --height 480 1080 --repeats 3      # everything: hours
    python benchmarks/latency.py --engine bundle/model.onnx --people 1 2 4 8         # one bundle, without PyTorch
    python benchmarks/latency.py --case torch onnxruntime-streaming --preset tiny    # two methods only

One run compares these methods on the same rendered clip with the same boxes:

    torch, torch-compile      PyTorch on a sliding window, as research code does it, and the same with torch.compile
    stock-onnx                the same network in ONNX Runtime, after a plain torch.onnx.export
    vitpose                   Hugging Face's ViTPose with the same backbone, on every frame
    BACKEND-windows           the bundle in whole windows (`sdtc-infer --exact`), on each available backend
    BACKEND-streaming         the bundle streaming; the backend auto stands for `--backend auto --precision auto`

Presets are exported once, with random weights: the times do not depend on them. Boxes are given, not detected. They
move by --drift, a share of their width per frame: 2 % by default, and still ones beside them. Only streaming could
depend on that, so the other methods are measured with the first drift.

Every case runs in its own process, so that its memory, its first result and its crashes do not affect others. With
--repeats, all cases are measured several times in turn, and medians are reported. A case ends after --frames keyframes
and at least 2 seconds, or after --budget seconds with at least 5 keyframes. The results are:

    keyframes/s   throughput. For the bundle: of a run at full speed, in which decoding, detection and pose estimation
                  overlap and waiting keyframes are batched. For the other methods, which run keyframe after keyframe:
                  1 / the median time of a keyframe, which ignores outliers in their favour
    p50 p95 p99   latency of a keyframe, from requesting the last frame of its window to its poses, with one keyframe at
                  a time; and durations of the stages. For a live source, the look-ahead of δ frames comes on top
    load, first   time from the start (before imports) until the engine is open, and until the first poses; if auto has
                  not seen the bundle before, this includes its measurements
    memory        peak memory of the process
    ms a person   1000 / (keyframes/s × people)
    x PyTorch     keyframes/s relative to PyTorch on a sliding window
    crops         that were encoded per person and keyframe

Prints a table and the ratios that this project promises, appends rows with machine and versions to latency.csv, and
draws latency.png if matplotlib is installed.
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
from csv_rows import append_rows
from latency_case import HEIGHTS, METHODS, MIN_KEYFRAMES, ON_GPU, PERCENTILES, LatencyCase
from latency_report import STAGES, draw, find_row, promises, table
from tqdm import tqdm

from sdtc.core.command_line import command
from sdtc.core.errors import EngineError, InputError
from sdtc.core.files import make_directory
from sdtc.runtime.backends.choice import available_cpus
from sdtc.runtime.output.results import FrameResult

LIBRARIES = ("numpy", "onnxruntime", "openvino", "torch", "transformers")
CLIP_FRAMES = 48  # the clip is repeated
EXPORT_SECONDS = 1800  # an export that takes longer has hung


@command("latency.py")
def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    _check(args)
    make_directory(args.output)
    methods = _present(args)
    targets = _targets(args, methods)
    clips = {height: _clip(args.output / f"clip-{height}.mp4", height) for height in args.height}

    cases = [
        LatencyCase(
            method, preset, str(args.output / preset), str(bundle), str(clips[height]), height, people, drift,
            args.threads, args.frames, args.budget, args.limit,
        )
        for preset, bundle in targets.items()
        for height in args.height
        for people in args.people
        for method in methods
        for drift in (args.drift if method.endswith("-streaming") else args.drift[:1])
    ]  # fmt: skip
    answers: dict[LatencyCase, list[dict[str, Any]]] = {case: [] for case in cases}
    failed: dict[tuple[str, str], int] = {}  # smallest number of people at which it failed
    rows: list[dict[str, Any]] = []
    try:
        with tqdm(total=len(cases) * args.repeats, unit="case", disable=None, leave=False) as bar:
            for case in cases * args.repeats:  # in turn, so that a machine that slows down affects all of them
                bar.set_postfix_str(
                    f"{case.preset} {case.method}, {case.people} people, {case.height}p, drift {case.drift:g}"
                )
                if case.people < failed.get((case.preset, case.method), case.people + 1):
                    try:
                        answers[case].append(_run_child(asdict(case), case.limit))
                    except EngineError as error:
                        failed[case.preset, case.method] = case.people  # with more people, it would fail too
                        tqdm.write(
                            f"note: {case.preset}, {METHODS[case.method].title}, {case.people} people: {error}",
                            file=sys.stderr,
                        )
                bar.update()
    finally:  # keep what has been measured, even after an error
        rows += _rows(answers, args)
        if rows:
            append_rows(args.output / "latency.csv", rows)
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
    parser.add_argument(
        "--preset", nargs="+", default=["tiny", "base"], metavar="NAME",
        help="presets to export and measure (default: tiny base)",
    )  # fmt: skip
    parser.add_argument(
        "--case", nargs="+", metavar="NAME",
        help=f"methods to measure, some of {', '.join(METHODS)} (default: all that can run here)",
    )  # fmt: skip
    parser.add_argument(
        "--people", type=int, nargs="+", default=[1, 8], metavar="N", help="numbers of people (default: 1 8)"
    )
    parser.add_argument(
        "--height", type=int, nargs="+", default=[480], metavar="H",
        help="heights of the frames, 480 or 1080 (default: 480)",
    )  # fmt: skip
    parser.add_argument(
        "--drift", type=float, nargs="+", default=[0.02, 0.0], metavar="S",
        help="movements of the boxes per frame, as shares of their width (default: 0.02 0, people who walk and who "
        "stand still)",
    )  # fmt: skip
    parser.add_argument(
        "--frames", type=int, default=24, metavar="N", help="number of timed keyframes (default: %(default)s)"
    )
    parser.add_argument(
        "--budget", type=float, default=20.0, metavar="S",
        help=f"seconds after which {MIN_KEYFRAMES} keyframes are enough (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=float, default=600.0, metavar="S",
        help="seconds after which a case is stopped (default: %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--repeats", type=int, default=1, metavar="N",
        help="number of measurements per case, of which medians are reported (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=int, default=available_cpus(), metavar="N",
        help="CPU threads of all methods but auto, which chooses them (default: all available CPUs, %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--output", type=Path, default=Path("runs/latency"), metavar="DIR",
        help="folder of the results and the exported presets (default: %(default)s)",
    )  # fmt: skip
    return parser


def _check(args: argparse.Namespace) -> None:
    """Check the arguments, before anything is measured.

    Raises:
        InputError: an argument is out of range, or an older latency.csv has other columns.
    """
    for option, values in (
        ("people", args.people), ("frames", [args.frames]), ("repeats", [args.repeats]),
        ("threads", [args.threads]),
    ):  # fmt: skip
        if min(values) < 1:
            raise InputError(f"--{option} is {min(values)}: expected at least 1")
    if bad := [drift for drift in args.drift if not drift >= 0]:
        raise InputError(f"--drift is {bad[0]}: expected a share of a box's width, at least 0")
    for option, value in (("budget", args.budget), ("limit", args.limit)):
        if not value > 0:
            raise InputError(f"--{option} is {value}: expected seconds, more than 0")
    if unknown := [height for height in args.height if height not in HEIGHTS]:
        raise InputError(f"--height is {unknown[0]}: expected some of {', '.join(map(str, HEIGHTS))}")
    if unknown := [name for name in args.case or () if name not in METHODS]:
        raise InputError(f"--case is '{unknown[0]}': expected some of {', '.join(METHODS)}")
    path = args.output / "latency.csv"
    if path.is_file() and path.stat().st_size:
        with path.open(newline="", encoding="utf-8") as file:
            head = next(csv.reader(file), [])
        if head != list(_COLUMNS):
            raise InputError(f"'{path}' has other columns than this benchmark writes: move it away, or choose --output")


def _present(args: argparse.Namespace) -> list[str]:
    """Return the methods that can run here."""
    from sdtc.runtime.backends.cuda import gpu_or_reason

    ours = [name for name, method in METHODS.items() if method.options is not None]
    if args.engine and (foreign := [name for name in args.case or () if name not in ours]):
        raise InputError(f"--case {foreign[0]} needs a preset's checkpoint: leave out --engine")
    wanted = args.case or [
        name
        for name in (ours if args.engine else METHODS)
        if gpu_or_reason()[0] is not None or not name.startswith(tuple(f"{prefix}-" for prefix in ON_GPU))
    ]
    found = []
    for name in dict.fromkeys(wanted):
        if find_spec(METHODS[name].module):
            found.append(name)
        elif args.case or name == "vitpose":
            print(f"note: {METHODS[name].title}: left out: {METHODS[name].module} is not installed", file=sys.stderr)
    if not found:
        raise InputError("none of the cases can run here: install a backend, such as  pip install 'sdtc[cpu]'")
    return found


def _targets(args: argparse.Namespace, methods: Sequence[str]) -> dict[str, Path]:
    """Return the bundles to measure by name, and export presets that have not been exported yet."""
    from sdtc.core.manifest import Manifest, find_manifest
    from sdtc.model.config import get_preset

    if args.engine:
        return {Manifest.load(find_manifest(args.engine)).name: args.engine}
    for preset in args.preset:
        get_preset(preset)
    for preset in args.preset:
        parts = {
            "checkpoint": not (args.output / preset / "checkpoint.pth").exists(),
            "bundle": any(METHODS[method].options is not None for method in methods)
            and not (args.output / preset / "bundle" / "model.json").exists(),
            "stock": "stock-onnx" in methods and not (args.output / preset / "stock.onnx").exists(),
        }
        if any(parts.values()):
            print(f"exporting {preset} …", file=sys.stderr)
            make_directory(args.output / preset)
            _run_child({"preset": preset, "folder": str(args.output / preset)} | parts, EXPORT_SECONDS)
    return {preset: args.output / preset / "bundle" for preset in args.preset}


def _clip(path: Path, height: int) -> Path:
    """Render a clip of two people, forwards and backwards so that it repeats smoothly, as a video if it is missing."""
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
                writer.write(FrameResult(index, index, None, index, image, time=index / 25.0))
    return path


def _run_child(task: dict[str, Any], limit: float) -> dict[str, Any]:
    """Run a task in a fresh process and return its answer.

    Raises:
        EngineError: the task failed, the process died, or it took too long.
    """
    child = subprocess.Popen(
        [sys.executable, latency_case.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = child.communicate(json.dumps(task), timeout=limit)
    except subprocess.TimeoutExpired:
        raise EngineError(f"it took longer than {limit:g} s (--limit)") from None
    finally:  # also after Ctrl-C; this stops compilers that it has started, too
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    if child.returncode < 0:
        raise EngineError(f"the process died of {signal.Signals(-child.returncode).name}")
    try:
        answer = json.loads(out.splitlines()[-1])
    except (IndexError, ValueError):
        last = (err.strip().splitlines() or ["it printed nothing"])[-1]
        raise EngineError(f"the process failed: {last[:300]}") from None
    if "error" in answer:
        raise EngineError(answer["error"])
    return answer


_MACHINE = ("date", "commit", "machine", "cpus", "memory_gib", "python", *LIBRARIES)
_SETTING = ("preset", "case", "backend", "people", "height", "drift", "threads", "repeats", "keyframes")
_FIGURES = (
    "keyframes_per_second",
    "ms_per_person",
    "x_torch",
    "crops_per_pose",
    "load_s",
    "first_result_s",
    "peak_mib",
)
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
    """Return a row for every case that was measured: medians over its repeats."""
    machine = _machine()
    rows = []
    for case, turns in answers.items():
        if not turns:
            continue
        row: dict[str, Any] = dict.fromkeys(_COLUMNS, "") | machine
        row |= {name: getattr(case, name) for name in ("preset", "people", "height", "drift")}
        row |= {"case": case.method, "threads": case.threads, "repeats": len(turns)}
        for name, value in turns[0].items():
            row[name] = value if isinstance(value, str) else float(np.median([turn[name] for turn in turns]))
        row["ms_per_person"] = round(1e3 / (row["keyframes_per_second"] * case.people), 3)
        rows.append(row)
    for row in rows:
        base = find_row(rows, row, case="torch", drift=args.drift[0])
        row["x_torch"] = round(row["keyframes_per_second"] / base["keyframes_per_second"], 3) if base else ""
    return rows


if __name__ == "__main__":
    sys.exit(main())
