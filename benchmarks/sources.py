"""One engine, many sources: throughput of files, and the latency of live sources beside others that stall and hang up.

    python benchmarks/sources.py --engine bundle                    # four sources of two people, one source of eight
    python benchmarks/sources.py --engine bundle --live 10          # ten minutes of four live sources
    python benchmarks/sources.py --engine bundle --files 'clips/*.mp4' --jobs 1 2 4 [--boxes FOLDER]

Files: the same people in one source, and shared out to several (`PoseEngine.track_all`), in turn in one process;
medians of poses a second and their ratio. Boxes are given, and move by 2 % of their width a frame.

Live: a process of its own encodes one picture stream (H.264 in MPEG-TS, 12.5 frames/s, in real time) and sends it over
TCP. First one source is run alone. Then four are run at once: two that are well, one that stalls for four seconds in
every minute, and one that hangs up after a third of the time. The latency of those that are well is compared with that
of the one alone, with and without the look-ahead, and the memory of the process is fitted by a line (`memory.py`).

Jobs: the same files by `sdtc-infer`'s own run, with several numbers of `--jobs` in turn; medians. The default of
`--jobs` was chosen by it.

Prints a table, appends a row to sources.csv, live.csv or jobs.csv, and fails if a promise is broken: 0.95 of the
throughput, 1.2 of the latency, memory that is flat. Needs the extra `dev`.
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import platform
import socket
import sys
import tempfile
import threading
import time
from array import array
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
from csv_rows import append_rows
from latency_case import MovingPeople
from memory import EndlessFrames, fit_slope
from tqdm import tqdm

import sdtc.runtime
from sdtc.core.command_line import command
from sdtc.core.errors import InputError, SdtcError
from sdtc.core.files import make_directory
from sdtc.runtime.engine import PoseEngine
from sdtc.runtime.options import EngineOptions, RunOptions, TrackOptions
from sdtc.runtime.output.results import FrameResult
from sdtc.runtime.run import run_inputs
from sdtc.synthetic import ClipOptions, SyntheticClip

SIZE = (288, 384)
DRIFT = 0.02  # by which people move in a frame, as a share of their width
FPS = 12.5  # of live sources
STALL, EVERY = 4.0, 60.0  # seconds; after five without a frame the runtime connects anew
HARMLESS = 100.0  # KiB a minute: what an allocator does over ten minutes; one kept frame a second would be 20,000


@command("sources.py")
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, required=True, metavar="FILE", help="a bundle")
    parser.add_argument("--live", type=float, metavar="MINUTES", help="measure live sources for so long")
    parser.add_argument("--files", metavar="GLOB", help="measure --jobs over these files")
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2, 4], metavar="N", help="default: 1 2 4")
    parser.add_argument("--boxes", type=Path, metavar="FOLDER", help="boxes of --files (default: HOG finds people)")
    parser.add_argument("--sources", type=int, default=4, metavar="N", help="sources (default: %(default)s)")
    parser.add_argument("--people", type=int, default=2, metavar="N", help="people a source (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=300, metavar="N", help="frames a file (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="runs of each (default: %(default)s)")
    parser.add_argument("--backend", default="auto", help="backend to run (default: %(default)s)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: chosen by the backend)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/sources"), metavar="DIR",
        help="folder of the results (default: %(default)s)",
    )  # fmt: skip
    args = parser.parse_args(argv)
    for name in ("sources", "people", "frames", "repeats", "jobs"):
        if np.min(getattr(args, name)) < 1:
            raise InputError(f"--{name} is {np.min(getattr(args, name))}: expected at least 1")
    if args.live is not None and not 0.1 <= args.live <= 24 * 60:
        raise InputError(f"--live is {args.live}: expected minutes, 0.1 to 1440")
    make_directory(args.output)
    with sdtc.runtime.open(args.engine, EngineOptions(backend=args.backend, threads=args.threads)) as engine:
        row = {
            "date": datetime.date.today().isoformat(),
            "machine": f"{platform.machine()}, {psutil.cpu_count()} CPUs",
            "engine": engine.manifest.name,
            "backend": engine.backend,
        }
        if args.files is not None:
            for found in _jobs(engine, args):
                _report(row | found, args.output / "jobs.csv")
            return 0
        row |= {"sources": args.sources if args.live is None else 4, "people": args.people}
        row |= _throughput(engine, args) if args.live is None else _live(engine, args)
    _report(row, args.output / ("sources.csv" if args.live is None else "live.csv"))
    if args.live is None:
        _promise(row["ratio"] >= 0.95, "several sources are slower than 0.95 of one")
    else:
        _promise(row["latency_ratio"] <= 1.2, "the latency beside others is more than 1.2 of that alone")
        leaks = row["kib_per_minute"] > max(2 * row["standard_error"], HARMLESS)
        _promise(not leaks, "memory grows")
    return 0


def _report(row: dict[str, Any], path: Path) -> None:
    """Print a row, and append it to a CSV file."""
    for name, value in row.items():
        print(f"{name:<32}{value}")
    append_rows(path, [row])
    print(f"wrote {path}")


def _jobs(engine: PoseEngine, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure a run over files with several numbers of jobs, in turn."""
    seconds: dict[int, list[float]] = defaultdict(list)
    track = TrackOptions(max_frames=args.frames)
    frames = 0
    for _ in tqdm(range(args.repeats), disable=None):
        for jobs in args.jobs:
            with tempfile.TemporaryDirectory() as folder:
                options = RunOptions(output=Path(folder), jobs=jobs, boxes=args.boxes, track=track)
                summary = run_inputs(engine, args.files, options)
            if summary.interrupted:
                raise KeyboardInterrupt
            if summary.problems:
                raise SdtcError("; ".join(summary.problems))
            seconds[jobs].append(summary.seconds)
            frames = summary.frames
    first = float(np.median(seconds[args.jobs[0]]))
    people = "boxes" if args.boxes else "hog"
    return [
        {"people": people, "frames": frames, "jobs": jobs, "repeats": args.repeats}
        | {"seconds": round(float(np.median(found)), 2), "over_the_first": round(float(np.median(found)) / first, 3)}
        for jobs, found in seconds.items()
    ]


def _promise(kept: bool, what: str) -> None:
    if not kept:
        raise SdtcError(what)


def _throughput(engine: PoseEngine, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one source with everybody, and several that share them, in turn."""
    frames = EndlessFrames(SIZE)
    rates: dict[int, list[float]] = defaultdict(list)
    for turn in tqdm(range(2 * (args.repeats + 1)), disable=None):
        count = (1, args.sources)[turn % 2]
        people = args.people * args.sources // count
        sources = {str(n): frames.again() for n in range(count)}
        options = {
            name: TrackOptions(detector=MovingPeople(people, SIZE, DRIFT), max_frames=args.frames) for name in sources
        }
        start = time.perf_counter()
        poses = sum(len(result.poses) for _, result in engine.track_all(sources, options))
        if turn >= 2:  # the first of each warms up
            rates[count].append(poses / (time.perf_counter() - start))
    one, several = (float(np.median(rates[count])) for count in (1, args.sources))
    return {
        "frames": args.frames,
        "poses_per_second_of_one_source": round(one, 1),
        "poses_per_second_of_several": round(several, 1),
        "ratio": round(several / one, 3),
    }


def _live(engine: PoseEngine, args: argparse.Namespace) -> dict[str, Any]:
    """Measure a live source alone, then beside others."""
    seconds = 60 * args.live
    with _Camera() as camera:
        alone = _watch(engine, camera, {"alone": "well"}, max(min(seconds / 5, 60), 5), args.people)
        modes = {"first": "well", "second": "well", "stalls": "stalls", "hangs up": "hangs up"}
        beside = _watch(engine, camera, modes, seconds, args.people)
    latencies, waits = (np.concatenate([beside.results[name][n] for name in ("first", "second")]) for n in (0, 1))
    alone_latencies, alone_waits = (np.array(values) for values in alone.results["alone"])
    total, base = 1e3 * float(np.median(latencies)), 1e3 * float(np.median(alone_latencies))
    work, base_work = (1e3 * float(np.median(a - b)) for a, b in ((latencies, waits), (alone_latencies, alone_waits)))
    slope, error = fit_slope(np.array(beside.mib))  # KiB per 1,000 frames of `EVERY` frames apart: here, of samples
    per_minute = 60 * FPS / 1000
    return {
        "minutes": args.live,
        "frames_of_those_that_are_well": len(latencies),
        "frames_of_the_one_that_stalls": len(beside.results["stalls"][0]),
        "frames_until_one_hung_up": len(beside.results["hangs up"][0]),
        "latency_ms_alone": round(base, 1),
        "latency_ms_beside": round(total, 1),
        "latency_ratio": round(total / base, 3),
        "work_ms_alone": round(base_work, 1),
        "work_ms_beside": round(work, 1),
        "mib_at_start": round(beside.mib[0], 1),
        "mib_at_end": round(beside.mib[-1], 1),
        "kib_per_minute": round(slope * per_minute, 1),
        "standard_error": round(error * per_minute, 1),
    }


class _Watch:
    """What was seen: latency and look-ahead of every frame by source, and the memory at every tenth frame of one."""

    def __init__(self) -> None:
        # Arrays: lists of tuples would grow by 340 KiB a minute, and look like a leak of what is measured.
        self.results: dict[str, tuple[array[float], array[float]]] = defaultdict(lambda: (array("f"), array("f")))
        self.mib = array("f")


def _watch(engine: PoseEngine, camera: _Camera, modes: dict[str, str], seconds: float, people: int) -> _Watch:
    process, watch = psutil.Process(), _Watch()
    sources = {name: f"tcp://127.0.0.1:{camera.listen(mode, seconds)}" for name, mode in modes.items()}
    options = {name: TrackOptions(detector=MovingPeople(people, SIZE, DRIFT)) for name in sources}
    first = next(iter(sources))
    results = engine.track_all(sources, options)
    end = time.monotonic() + seconds
    try:
        with tqdm(total=round(seconds), unit="s", disable=None) as bar:
            for name, result in results:
                assert isinstance(result, FrameResult)
                latencies, waits = watch.results[name]
                latencies.append(result.latency)
                waits.append(result.waited)
                if name == first and len(latencies) % 10 == 1:
                    watch.mib.append(process.memory_info().rss / 2**20)
                    bar.update(round(seconds - (end - time.monotonic())) - bar.n)
                if time.monotonic() > end:
                    break
    finally:
        results.close()
    return watch


class _Camera:
    """A process that sends one encoded stream to everybody who connects."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_send_pictures, args=(theirs,), daemon=True)

    def listen(self, mode: str, seconds: float) -> int:
        """Return a port for one connection, which will be well, stall or hang up."""
        self._ours.send((mode, seconds))
        port = self._ours.recv()
        assert isinstance(port, int)
        return port

    def __enter__(self) -> _Camera:
        self._process.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()
        self._process.join()


class _Viewer:
    """One connection, served by a thread of its own: a viewer that reads slowly holds up no other."""

    def __init__(self, mode: str, seconds: float) -> None:
        self.mode, self.seconds = mode, seconds
        self.server = socket.create_server(("127.0.0.1", 0))
        self.pieces: list[tuple[bool, bytes]] = []  # whether it begins with a key picture, bytes
        self.changed = threading.Condition()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        connection, _ = self.server.accept()
        self.server.close()  # nobody comes back after a hang-up
        begin, waiting = time.monotonic(), True
        try:
            while True:
                with self.changed:
                    self.changed.wait_for(lambda: self.pieces)
                    pieces, self.pieces = self.pieces, []
                passed = time.monotonic() - begin
                if self.mode == "hangs up" and passed > self.seconds / 3:
                    return
                if self.mode == "stalls" and passed % EVERY > EVERY - STALL:
                    waiting = True  # for the next key picture, once it goes on
                    continue
                for is_key, piece in pieces:
                    waiting = waiting and not is_key
                    if not waiting:
                        connection.sendall(piece)
        except OSError:  # the viewer has gone
            return
        finally:
            connection.close()


def _send_pictures(pipe: Any) -> None:
    """Encode pictures in real time, and hand each to all viewers."""
    viewers: list[_Viewer] = []
    pictures = [frame.image for frame in SyntheticClip(ClipOptions(seed=0, num_frames=8, size=SIZE))]

    class Buffer:
        """Takes what the muxer writes."""

        def __init__(self) -> None:
            self.content = b""

        def write(self, content: bytes) -> int:
            self.content += bytes(content)
            return len(content)

    buffer = Buffer()
    options = {"mpegts_flags": "resend_headers", "flush_packets": "1"}
    with av.open(buffer, "w", format="mpegts", options=options) as container:
        settings = {"preset": "ultrafast", "tune": "zerolatency", "g": "12"}
        stream = container.add_stream("libx264", rate=25, options=settings)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        start, number = time.monotonic(), 0
        while True:
            while pipe.poll(max(start + number / FPS - time.monotonic(), 0)):
                viewers.append(_Viewer(*pipe.recv()))
                pipe.send(viewers[-1].server.getsockname()[1])
            frame = av.VideoFrame.from_ndarray(pictures[number % len(pictures)], format="rgb24")
            frame.pts = number * 2  # of 25 a second
            packets = stream.encode(frame)
            container.mux(packets)
            number += 1
            piece, buffer.content = buffer.content, b""
            for viewer in viewers:
                with viewer.changed:
                    viewer.pieces.append((any(packet.is_keyframe for packet in packets), piece))
                    viewer.changed.notify_all()


if __name__ == "__main__":
    sys.exit(main())
