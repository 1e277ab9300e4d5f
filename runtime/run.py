"""Run an engine over inputs and write files: poses as JSON, and overlay videos. `sdtc-infer` is the command for it.

with sdtc.runtime.open("model.plan") as engine:
    summary = sdtc.runtime.run_inputs(engine, "clips/*.mp4", RunOptions(output=Path("poses"), save_video=True))
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from sdtc.core.boxes import BoxFile, read_boxes
from sdtc.core.command_line import ENDINGS
from sdtc.core.errors import InputError, SdtcError
from sdtc.core.files import MAX_NAME, locked, make_directory, shorten, visible_files
from sdtc.runtime.check import check_path, check_type
from sdtc.runtime.engine import PoseEngine
from sdtc.runtime.estimation.timing import Durations
from sdtc.runtime.options import RunOptions
from sdtc.runtime.output.drawing import draw_frame
from sdtc.runtime.output.results import FrameResult
from sdtc.runtime.output.resume import Progress, read_progress
from sdtc.runtime.output.smoothing import smooth
from sdtc.runtime.output.writers import (
    LONGEST_SUFFIX,
    JsonlWriter,
    VideoWriter,
    Writer,
    make_writer,
    result_path,
)
from sdtc.runtime.people.detection import Detector, make_detector
from sdtc.runtime.pipeline import overlap
from sdtc.runtime.sources.base import FrameSource
from sdtc.runtime.sources.live import is_live
from sdtc.runtime.sources.open import find_inputs, input_name, open_input

Tell = Callable[[str], None]


@dataclass
class RunSummary:
    """What a run did.

    Attributes:
        frames, poses, people: totals over all inputs.
        seconds: duration of the run.
        files: the files that were written.
        problems: sentences about what could not be read or processed.
        notes: sentences about what was left out on purpose, such as boxes without an area.
        interrupted: whether Ctrl-C ended the run; the files hold the results so far.
        latency: of live inputs, as a sentence; "" if there were none.
    """

    frames: int = 0
    poses: int = 0
    people: int = 0
    seconds: float = 0.0
    files: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False
    latency: str = ""


def run_inputs(engine: PoseEngine, inputs: str | Path, options: RunOptions | None = None) -> RunSummary:
    """Run an engine over inputs and write their poses.

    Args:
        engine: from `sdtc.runtime.open`; stays open.
        inputs: a video, an image, a folder of images, a glob that matches several of these, or a live source.
        options: see `RunOptions`; its defaults if not given.

    Raises:
        InputError: options or inputs that cannot be used.
        SdtcError: the only input failed. With several inputs, failures are listed in `RunSummary.problems`, and the
            other inputs are still processed.
    """
    return Run(inputs, options).execute(engine)


class Run:
    """A run over inputs. Whatever can be checked without an engine is checked before one is opened.

    Args:
        inputs, options: as for `run_inputs`.
        tell: called with a line of text about what is skipped, resumed or already complete.
        progress: show a progress bar on stderr if that is a terminal.

    Raises:
        InputError: options or inputs that cannot be used.
    """

    def __init__(
        self,
        inputs: str | Path,
        options: RunOptions | None = None,
        tell: Tell = lambda text: None,
        progress: bool = False,
    ) -> None:
        self.options = options = RunOptions() if options is None else options
        check_type("options", options, RunOptions)
        check_path("source", inputs)
        if options.resume and is_live(str(inputs)):
            raise InputError("`resume=True` is for files: a live source cannot be read again, run it without `resume`")
        self._inputs = find_inputs(str(inputs))
        # One file serves all inputs; from a folder, the file of each input is read when that input is run.
        self._boxes = BoxFile(options.boxes) if options.boxes and not options.boxes.is_dir() else None
        self._detector: str | Detector = options.track.detector
        if options.boxes is None and isinstance(self._detector, str | Path):
            given = {"layout": options.detector_layout, "person_class": options.person_class}
            self._detector = make_detector(
                str(self._detector), **{name: value for name, value in given.items() if value is not None}
            )
        make_directory(options.output)
        self._tell, self._progress = tell, progress
        self.notes: list[str] = []

    def execute(self, engine: PoseEngine) -> RunSummary:
        """Run all inputs; see `run_inputs`."""
        self.options.track.check_lookahead(engine.manifest.delta)
        start = time.perf_counter()
        summary = RunSummary(notes=self.notes)
        if self._boxes is not None:
            self._tell_about_skipped(self._boxes)
        outputs = self._name_outputs(engine)  # of all inputs, before anything is written
        for entry, files in zip(self._inputs, outputs, strict=True):
            try:
                with ExitStack() as stack:
                    for file in files.all:
                        stack.enter_context(locked(file))
                    source = stack.enter_context(open_input(entry, self.options.drop_late, self.options.reconnect))
                    _InputRun(self, engine, source, files, summary).execute()
            except SdtcError as error:
                if len(self._inputs) == 1:
                    raise
                summary.problems.append(str(error))  # continue with the other inputs
            if summary.interrupted:
                break
        summary.seconds = time.perf_counter() - start
        return summary

    def _name_outputs(self, engine: PoseEngine) -> list[_Outputs]:
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
        reading = {key for path in read if (key := _identity(path)) is not None}
        taken: set[str] = set()
        outputs = []
        for name in names:
            stem = self.options.output / _unique(shorten(name, MAX_NAME - LONGEST_SUFFIX - 4), taken)
            results = result_path(self.options.format, stem, engine.skeleton)
            video = stem.with_name(f"{stem.name}.mp4") if self.options.save_video else None
            outputs.append(_Outputs(stem, results, video))
            for target in outputs[-1].all:
                if target.is_dir():
                    raise InputError(f"the result '{target}' is a folder already: choose another `output`")
                if _identity(target) in reading:
                    raise InputError(
                        f"the result '{target}' would replace a file that is being read: choose another folder as "
                        "`output`"
                    )
        return outputs

    def boxes_for(self, source: FrameSource) -> BoxFile | None:
        """Return the boxes of an input, or None if the detector finds its people."""
        if self.options.boxes is None or self._boxes is not None:
            return self._boxes
        # A photo's own file comes before that of its folder.
        own = (self.options.boxes / f"{source.name}.json").exists()
        boxes = read_boxes(self.options.boxes, source.name if own else source.sequence)
        self._tell_about_skipped(boxes)
        return boxes

    def _tell_about_skipped(self, boxes: BoxFile) -> None:
        if boxes.skipped_phrase:
            self._note(f"boxes left out: {boxes.skipped_phrase}")

    def _tell_about_input(self, boxes: BoxFile | None, name: str) -> None:
        """Tell what the boxes of an input turned out to be while it was run."""
        notes = boxes.inputs.pop(name, None) if boxes else None
        for sentence in notes.sentences if notes else ():
            self._note(f"{name}: {sentence}")

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self._tell(f"note     {text}")


@dataclass(frozen=True)
class _Outputs:
    """The files that one input gets.

    Attributes:
        stem: their path without a suffix.
        results: the poses.
        video: the overlay, or None.
    """

    stem: Path
    results: Path
    video: Path | None

    @property
    def all(self) -> list[Path]:
        return [self.results] if self.video is None else [self.results, self.video]


class _InputRun:
    """One input and its files; on Ctrl-C and on errors the files are finished with the results so far."""

    def __init__(self, run: Run, engine: PoseEngine, source: FrameSource, files: _Outputs, summary: RunSummary) -> None:
        self.run, self.engine, self.source, self.summary = run, engine, source, summary
        self.options = run.options
        self.boxes = run.boxes_for(source)
        self.files = files
        self.writers: list[Writer] = []
        self.latencies, self.waits = Durations(), Durations()
        self.frames = 0

    def execute(self) -> None:
        done = self._read_progress()
        if done is not None and self._is_complete(done):
            self._keep_complete(done)
            return
        track_ids: set[int] = set()
        with ExitStack() as stack:
            _restore_signals_after(stack)
            bar = stack.enter_context(self._progress_bar(done))
            results = self._results(done)
            stack.callback(results.close)
            try:
                for result in results:
                    if not self.writers:  # only now: an input without frames leaves no files
                        self._open_writers(stack, done)
                    self._write(result)
                    track_ids.update(pose.track_id for pose in result.poses)
                    bar.set_postfix(people=len(result.poses), refresh=False)
                    bar.update()
            except KeyboardInterrupt:
                self.summary.interrupted = True
            except SdtcError as error:
                if self.frames == 0:
                    raise
                self.summary.problems.append(f"{error} (frames before this are kept)")
            else:
                if done is not None and not self.frames:
                    self._keep_complete(done)
            _ignore_signals()  # a second Ctrl-C must not interrupt the closing of the files
        self.run._tell_about_input(self.boxes, self.source.sequence)
        if self.latencies.count:
            self.summary.latency = self._latency()
        self.summary.people += len(track_ids)
        for note in self.source.notes:
            self.run._note(note)
        self.summary.problems += self.source.problems
        self.summary.files += [writer.path for writer in self.writers if writer.path.exists()]

    def _results(self, done: Progress | None) -> Generator[FrameResult, None, None]:
        """Return the results; they are estimated in a thread of their own, while files are written."""
        source, engine = self.source, self.engine
        track = replace(self.options.track, boxes=self.boxes, detector=self.run._detector, resume_from=done)
        poses: Iterator[FrameResult] = engine.track(source, track)
        if self.options.smooth:
            poses = smooth(poses, done.tail if done else ())
        return overlap(poses, 0 if source.drop_late else 2, "pose", source.stop)

    def _open_writers(self, stack: ExitStack, done: Progress | None) -> None:
        if done is not None:
            self.writers.append(JsonlWriter(self.files.results, keep=done.size))
        else:
            writer = make_writer(self.options.format, self.files.stem, self.source.sequence, self.engine.skeleton)
            self.writers.append(writer)
        stack.enter_context(self.writers[0])
        if self.files.video is not None:
            source = self.source
            self.writers.append(VideoWriter(self.files.video, source.fps, self._draw, source.colors, source.sound))
            stack.enter_context(self.writers[1])

    def _draw(self, result: FrameResult):  # type: ignore[no-untyped-def]
        return draw_frame(result, self.engine.skeleton, self.options.min_score)

    def _write(self, result: FrameResult) -> None:
        for writer in self.writers:
            with self.engine.times.stage("video" if isinstance(writer, VideoWriter) else "write"):
                writer.write(result)
        if self.source.live:
            self.latencies.add(result.latency)
            self.waits.add(result.waited)
        self.frames += 1
        self.summary.frames += 1
        self.summary.poses += len(result.poses)

    def _progress_bar(self, done: Progress | None) -> tqdm:
        expected, max_frames = self.source.num_frames, self.options.track.max_frames
        if max_frames is not None:
            expected = min(expected, max_frames) if expected else max_frames
        return tqdm(
            total=expected,
            initial=done.frames if done else 0,
            desc=self.source.name[:24],
            unit="frame",
            disable=None if self.run._progress else True,
            file=_Terminal(),
        )

    def _read_progress(self) -> Progress | None:
        """Return how far an earlier run got, if it is to be resumed and has left a file."""
        if not self.options.resume or not self.files.results.exists():
            return None
        return read_progress(self.files.results, self.source, len(self.engine.skeleton.keypoints))

    def _is_complete(self, done: Progress) -> bool:
        limit = self.options.track.max_frames
        # What a video's header says proves nothing: whether more frames follow shows when it is decoded.
        length = None if self.source.listing is None else len(self.source.listing)
        if done.frames == length or done.frames >= (limit or float("inf")):
            return True
        self.run._tell(f"resume   {self.files.results}, {done.frames} frames are done and skipped")
        return False

    def _keep_complete(self, done: Progress) -> None:
        """Keep a complete file as it is, but cut off a torn line at its end."""
        if done.torn:
            JsonlWriter(self.files.results, keep=done.size).close()
        self.run._tell(f"complete {self.files.results}, all {done.frames} frames were done already")

    def _latency(self) -> str:
        lookahead = self.options.track.lookahead
        lookahead = self.engine.manifest.delta if lookahead is None else lookahead
        p50, p95, p99 = (
            f"p{100 * share:.0f} {1000 * self.latencies.percentile(share):.0f} ms" for share in (0.5, 0.95, 0.99)
        )
        return (
            f"{p50}, {p95}, {p99} (of which look-ahead {lookahead} frames, "
            f"{1000 * self.waits.percentile(0.5):.0f} ms); {self.source.dropped} frames dropped"
        )


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


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what a file has in common with its links; None if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _in_main_thread() -> bool:
    """Whether this is the main thread: Python lets only that one set signal handlers."""
    return threading.current_thread() is threading.main_thread()


def _restore_signals_after(stack: ExitStack) -> None:
    if _in_main_thread():
        for number in ENDINGS:
            stack.callback(signal.signal, number, signal.getsignal(number))


def _ignore_signals() -> None:
    if _in_main_thread():
        for number in ENDINGS:
            signal.signal(number, signal.SIG_IGN)


class _Terminal:
    """stderr for a progress bar: when the terminal is closed or its disk is full, the work goes on without the bar."""

    encoding = getattr(sys.stderr, "encoding", None)

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()

    def fileno(self) -> int:
        return sys.stderr.fileno()


@contextmanager
def live_log(quiet: bool) -> Iterator[None]:
    """Show events of live sources on stderr, above the progress bar."""
    import logging

    class AboveBar(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tqdm.write(self.format(record), file=_Terminal())

    log, handler = logging.getLogger("sdtc.live"), logging.NullHandler() if quiet else AboveBar()
    handler.setFormatter(logging.Formatter("live     %(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
