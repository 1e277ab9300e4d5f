"""Run an engine over inputs and write files: poses as JSON, and overlay videos. `sdtc-infer` is the command for it.

with sdtc.runtime.open("model.plan") as engine:
    summary = sdtc.runtime.run_inputs(engine, "clips/*.mp4", RunOptions(output=Path("poses"), save_video=True))

Each input is run in a thread of its own (`sdtc.runtime.input_run`): all live sources at once, and beside them a few
files at a time. The thread that calls waits, starts the next file when one has ended, and ends all of them on Ctrl-C.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

import numpy as np

from sdtc.core.boxes import BoxFile
from sdtc.core.command_line import ENDINGS
from sdtc.core.errors import InputError
from sdtc.core.files import MAX_NAME, make_directory, shorten, visible_files
from sdtc.runtime.backends.choice import available_cpus
from sdtc.runtime.check import check_path, check_type
from sdtc.runtime.engine import PoseEngine
from sdtc.runtime.input_run import InputRun, Outputs, Shared, Tell
from sdtc.runtime.options import RunOptions
from sdtc.runtime.output.bars import above_bars, files_bar
from sdtc.runtime.output.writers import LONGEST_SUFFIX, result_path
from sdtc.runtime.people.detection import Detections, Detector, make_detector
from sdtc.runtime.people.detection.detector import check_detector
from sdtc.runtime.sources.open import FOR_LIVE, file_identity, find_all_inputs, input_name

# Six clips on two busy processors took, relative to one at a time, 0.81 of the time with two at once, 0.81 with three
# and 0.76 with four: decoding, detection and writing of one file fill the pauses of another. Each file at work keeps
# about fifteen frames in memory.
MAX_JOBS = 4
LOOK_UP = 0.5  # seconds; on Windows, a signal does not wake a thread that waits for another one


@dataclass
class RunSummary:
    """What a run did.

    Attributes:
        frames, poses, people: totals over all inputs.
        seconds: duration of the run.
        files: the files that were written, in the order of the inputs.
        problems: sentences about what could not be read or processed, in the order of the inputs.
        notes: sentences about what was left out on purpose, such as boxes without an area.
        interrupted: whether Ctrl-C ended the run; the files hold the results so far.
        latency: of live inputs, a sentence by name.
    """

    frames: int = 0
    poses: int = 0
    people: int = 0
    seconds: float = 0.0
    files: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False
    latency: dict[str, str] = field(default_factory=dict)


def default_jobs() -> int:
    """Return how many files are worked on at once, unless the options say."""
    return min(available_cpus(), MAX_JOBS)


def run_inputs(
    engine: PoseEngine, inputs: str | Path | Sequence[str | Path], options: RunOptions | None = None
) -> RunSummary:
    """Run an engine over inputs and write their poses.

    Args:
        engine: from `sdtc.runtime.open`; stays open.
        inputs: a video, an image, a folder of images, a glob that matches several of these, or a live source; or
            several of all these.
        options: see `RunOptions`; its defaults if not given.

    Raises:
        InputError: options or inputs that cannot be used, or an input that appears twice.
        SdtcError: the only input failed. With several inputs, failures are listed in `RunSummary.problems`, and the
            other inputs are still processed.
    """
    return Run(inputs, options).execute(engine)


class Run:
    """A run over inputs. Whatever can be checked without an engine is checked before one is opened.

    Args:
        inputs, options: as for `run_inputs`.
        tell: called with a line of text about what is skipped, resumed or already complete; from the threads of the
            inputs, one at a time.
        progress: show progress bars on stderr if that is a terminal.

    Attributes:
        alone: there is only one input.

    Raises:
        InputError: options or inputs that cannot be used, or an input that appears twice.
    """

    def __init__(
        self,
        inputs: str | Path | Sequence[str | Path],
        options: RunOptions | None = None,
        tell: Tell = lambda text: None,
        progress: bool = False,
    ) -> None:
        self.options = options = RunOptions() if options is None else options
        check_type("options", options, RunOptions)
        if not isinstance(inputs, list | tuple):
            inputs = [inputs]  # type: ignore[list-item]  # checked next
        if not inputs:
            raise InputError("`source` is empty: expected at least one path")
        for each in inputs:
            check_path("source", each)
        self._inputs = find_all_inputs([str(each) for each in inputs])
        any_live = any(isinstance(entry, str) for entry in self._inputs)
        if options.resume and any_live:
            raise InputError("`resume=True` is for files: a live source cannot be read again, run it without `resume`")
        self.alone = len(self._inputs) == 1
        # One file serves all inputs; from a folder, the file of each input is read when that input is run.
        self._boxes = BoxFile(options.boxes) if options.boxes and not options.boxes.is_dir() else None
        self._detector: str | Detector = options.track.detector
        if options.boxes is None:
            if isinstance(self._detector, str | Path):
                given = {"layout": options.detector_layout, "person_class": options.person_class}
                self._detector = make_detector(
                    str(self._detector), **{name: value for name, value in given.items() if value is not None}
                )
            elif not self.alone:
                self._detector = _OneAtATime(self._detector)
        make_directory(options.output)
        if (options.drop_late or options.reconnect is not None) and not any_live:
            raise InputError(FOR_LIVE)
        self._tell_line, self._progress = tell, progress
        self._events: SimpleQueue[InputRun | None] = SimpleQueue()  # what has ended; None is Ctrl-C

    def execute(self, engine: PoseEngine) -> RunSummary:
        """Run all inputs; see `run_inputs`."""
        self.options.track.check_lookahead(engine.manifest.delta)
        start = time.perf_counter()
        summary = RunSummary()
        if self._boxes is not None and self._boxes.skipped_phrase:
            summary.notes.append(f"boxes left out: {self._boxes.skipped_phrase}")
            self._tell(f"note     {summary.notes[0]}")
        outputs = self._name_outputs(engine)  # of all inputs, before anything is written
        shared = Shared(
            engine,
            self.options,
            self._boxes,
            self._detector,
            self._tell,
            bars=self._progress,
            alone=self.alone,
        )
        runs = [InputRun(shared, entry, files) for entry, files in zip(self._inputs, outputs, strict=True)]
        summary.interrupted = self._execute_all(runs)
        for run in runs:
            if run.bug is not None:
                raise run.bug
            if run.error is not None and self.alone:
                raise run.error
            summary.frames += run.frames
            summary.poses += run.poses
            summary.people += run.people
            summary.files += run.files
            summary.problems += [run.explain(run.error)] if run.error is not None else run.problems
            summary.notes += run.notes
            if run.latency:
                summary.latency[run.name] = run.latency
        summary.seconds = time.perf_counter() - start
        return summary

    def interrupt(self) -> None:
        """End the run soon, with valid files; may be called from any thread and from a signal handler."""
        self._events.put(None)

    def _execute_all(self, runs: list[InputRun]) -> bool:
        """Run the inputs until all have ended; return whether Ctrl-C ended them."""
        jobs = self.options.jobs or default_jobs()
        files = deque(run for run in runs if not run.live)
        threads: list[threading.Thread] = []
        interrupted, at_work = False, 0

        def start(run: InputRun) -> None:
            def work() -> None:
                run.execute()
                self._events.put(run)

            nonlocal at_work
            at_work += 1
            threads.append(threading.Thread(target=work, name=f"sdtc-{run.name}", daemon=True))
            threads[-1].start()

        with (
            on_ctrl_c(self.interrupt),
            files_bar(self._progress and len(files) > jobs, len(files)) as bar,
        ):
            try:
                for run in runs:
                    if run.live:
                        start(run)
                for _ in range(min(jobs, len(files))):
                    start(files.popleft())
                while at_work:
                    try:
                        ended = self._events.get(timeout=LOOK_UP)
                    except Empty:
                        continue
                    if ended is not None:
                        at_work -= 1
                        bar.update(not ended.live)
                    if ended is None or ended.bug is not None:
                        interrupted = interrupted or ended is None
                        files.clear()
                        for run in runs:
                            run.stop()
                    elif files and not ended.live:
                        start(files.popleft())
            except KeyboardInterrupt:  # from a signal handler of the caller's own
                interrupted = True
            finally:
                for run in runs:
                    run.stop()
                for thread in threads:
                    if thread.ident is not None:  # else it could not be started
                        thread.join()
        return interrupted

    def _name_outputs(self, engine: PoseEngine) -> list[Outputs]:
        """Return the files of every input: no two inputs share one, and none is a file that this run reads.

        Raises:
            InputError: one would replace a file that is read, or is a folder.
        """
        names = [input_name(entry) for entry in self._inputs]
        read = [*engine.files, *(path for entry in self._inputs for path in _paths(entry))]
        if isinstance(self.options.track.detector, str | Path):
            read.append(Path(self.options.track.detector))
        if self.options.boxes is not None:
            read += [self.options.boxes, *visible_files(self.options.boxes, "*.json")]
        reading = {key for path in read if (key := file_identity(path)) is not None}
        taken: set[str] = set()
        outputs = []
        for name in names:
            stem = self.options.output / _unique(shorten(name, MAX_NAME - LONGEST_SUFFIX - 4), taken)
            results = result_path(self.options.format, stem, engine.skeleton)
            video = stem.with_name(f"{stem.name}.mp4") if self.options.save_video else None
            outputs.append(Outputs(stem, results, video))
            for target in outputs[-1].all:
                if target.is_dir():
                    raise InputError(f"the result '{target}' is a folder already: choose another `output`")
                if file_identity(target) in reading:
                    raise InputError(
                        f"the result '{target}' would replace a file that is being read: choose another folder as "
                        "`output`"
                    )
        return outputs

    def _tell(self, text: str) -> None:
        with above_bars():
            self._tell_line(text)


class _OneAtATime:
    """A detector of the caller's own, which need not know about threads, for inputs that run at the same time."""

    def __init__(self, detector: Detector) -> None:
        check_detector(detector)
        self._detector, self._lock = detector, threading.Lock()

    def detect(self, frame: np.ndarray) -> Detections:
        with self._lock:
            return self._detector.detect(frame)


def _unique(stem: str, taken: set[str]) -> str:
    """Return a name that no other input has, whatever its case: two inputs must not write the same file."""
    name, number = stem, 2
    while name.casefold() in taken:
        name, number = f"{stem}_{number}", number + 1
    taken.add(name.casefold())
    return name


def _paths(entry: str | Path | list[Path]) -> list[Path]:
    """Return the files and folders that an entry of the inputs names; none for a live source."""
    if isinstance(entry, list):
        return entry
    return [entry] if isinstance(entry, Path) else []


@contextmanager
def on_ctrl_c(call: Callable[[], None]) -> Iterator[None]:
    """Call a function where Ctrl-C, or another signal that is handled like it, would raise KeyboardInterrupt.

    So a second one cannot break the closing of files either. Python lets only the main thread set signal handlers.
    """

    def handle(*_: object) -> None:
        call()

    before = {}
    if threading.current_thread() is threading.main_thread():
        for number in ENDINGS:
            if signal.getsignal(number) is signal.default_int_handler:
                before[number] = signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, handler)
