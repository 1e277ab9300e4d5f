"""One input of a run and the files that it gets: read, estimated, drawn and written, in the thread that calls it.

Not for what the inputs of a run have to do with each other: see `sdtc.runtime.run`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

from sdtc.core.boxes import BoxFile, read_boxes
from sdtc.core.errors import InputError, OutputError, SdtcError, VideoError
from sdtc.core.files import locked
from sdtc.runtime.engine import PoseEngine
from sdtc.runtime.estimation.timing import Durations
from sdtc.runtime.options import RunOptions
from sdtc.runtime.output.bars import input_bar
from sdtc.runtime.output.drawing import draw_frame
from sdtc.runtime.output.results import FrameResult
from sdtc.runtime.output.resume import Progress, read_progress
from sdtc.runtime.output.smoothing import smooth
from sdtc.runtime.output.writers import JsonlWriter, VideoWriter, Writer, make_writer
from sdtc.runtime.people.detection import Detector
from sdtc.runtime.pipeline import overlap
from sdtc.runtime.sources.base import FrameSource
from sdtc.runtime.sources.open import open_input

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Shared:
    """What the inputs of a run have in common.

    Attributes:
        engine: estimates the poses.
        options: of the run.
        boxes: the one file of boxes for all inputs, if there is one.
        detector: finds the people where there are no boxes.
        tell: called with a line of text about what is skipped, resumed or already complete.
        bars: show progress bars.
        alone: there is only one input, so that lines about it need not name it.
    """

    engine: PoseEngine
    options: RunOptions
    boxes: BoxFile | None
    detector: str | Detector
    tell: Tell
    bars: bool
    alone: bool


@dataclass(frozen=True)
class Outputs:
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


class InputRun:
    """One input and its files; when it is stopped and on errors, the files are finished with the results so far.

    Args:
        shared: what it has in common with other inputs.
        entry: the input, as `find_inputs` returned it.
        files: its own.

    Attributes:
        name: of the input; no other input of the run has the same.
        live: it is a live source.
        frames, poses, people: how many there were.
        files: those that were written.
        problems, notes: see `sdtc.runtime.run.RunSummary`.
        latency: of a live source, as a sentence; "" if there were no frames.
        error: why there are no results at all, or None.
        bug: an error that this package does not raise on purpose, or None.
    """

    def __init__(self, shared: Shared, entry: str | Path | list[Path], files: Outputs) -> None:
        self.name, self.live = files.stem.name, isinstance(entry, str)
        self.frames = self.poses = self.people = 0
        self.files: list[Path] = []
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.latency = ""
        self.error: SdtcError | None = None
        self.bug: BaseException | None = None
        self._shared, self._engine, self._options = shared, shared.engine, shared.options
        self._entry, self._outputs = entry, files
        self._writers: list[Writer] = []
        self._latencies, self._waits = Durations(), Durations()
        self._stopped = threading.Event()
        self._source: FrameSource | None = None  # also one that is still being opened

    def execute(self) -> None:
        """Run to the end, or until `stop`. Nothing is raised: see `error` and `bug`."""
        try:
            if not self._stopped.is_set():
                self._execute()
        except SdtcError as error:
            if self._counts(error):
                self.error = error
        except BaseException as error:  # raised again in the thread that started this one
            self.bug = error

    def stop(self) -> None:
        """End soon, also while a live source is waited for; may be called from any thread, any number of times."""
        self._stopped.set()
        if self._source is not None:
            self._source.stop()

    def explain(self, error: SdtcError) -> str:
        """Return the message of an error, with the input's name if there are others and the message may lack it."""
        return str(error) if isinstance(error, VideoError | OutputError) else self._named(str(error))

    def _execute(self) -> None:
        with ExitStack() as stack:
            for file in self._outputs.all:
                stack.enter_context(locked(file))
            options = self._options
            late = (options.drop_late, options.reconnect) if self.live else (False, None)
            source = stack.enter_context(open_input(self._entry, *late, opening=self._opening))
            self._opening(source)
            boxes = self._boxes_for(source)
            done = self._read_progress(source)
            if done is not None and self._is_complete(done, source):
                self._keep_complete(done)
            else:
                self._run(source, boxes, done)

    def _opening(self, source: FrameSource) -> None:
        self._source = source
        if self._stopped.is_set():  # `stop` may not have seen it
            self.stop()

    def _run(self, source: FrameSource, boxes: BoxFile | None, done: Progress | None) -> None:
        track_ids: set[int] = set()
        try:
            with ExitStack() as stack:
                bar = stack.enter_context(
                    input_bar(
                        self._shared.bars,
                        source.name if self._shared.alone else self.name,
                        self._expected(source),
                        done.frames if done else 0,
                        keep=self._shared.alone,
                    )
                )
                results = self._results(source, boxes, done)
                stack.callback(results.close)
                try:
                    for result in results:
                        if self._stopped.is_set():  # a file that `stop` ended early lacks the frames after this one
                            break
                        if not self._writers:  # only now: an input without frames leaves no files
                            self._open_writers(stack, source, done)
                        self._write(result, source)
                        track_ids.update(pose.track_id for pose in result.poses)
                        bar.set_postfix(people=len(result.poses), refresh=False)
                        bar.update()
                except SdtcError as error:
                    if self.frames == 0:
                        raise
                    if self._counts(error):
                        self.problems.append(f"{self.explain(error)} (frames before this are kept)")
                else:
                    if done is not None and not self.frames and not self._stopped.is_set():
                        self._keep_complete(done)
        except SdtcError as error:  # also of a file that cannot be finished, as on a full disk
            if self.frames == 0:
                raise
            if self._counts(error):
                self.problems.append(self.explain(error))
        notes = boxes.inputs.get(source.sequence) if boxes else None
        for sentence in notes.sentences if notes else ():
            self._note(f"{self.name}: {sentence}")
        if self._latencies.count:
            self.latency = self._describe_latency(source)
        self.people = len(track_ids)
        for note in source.notes:
            self._note(note)  # it names the path
        self.problems += source.problems
        self.files = [writer.path for writer in self._writers if writer.path.exists()]

    def _counts(self, error: SdtcError) -> bool:
        """Whether an error says something: that a source is too short, or gives no frame, follows from stopping it."""
        return not (self._stopped.is_set() and isinstance(error, InputError))

    def _boxes_for(self, source: FrameSource) -> BoxFile | None:
        """Return the boxes of the input, or None if the detector finds its people."""
        folder = self._options.boxes
        if folder is None:
            return None
        if self._shared.boxes is not None:
            boxes = copy(self._shared.boxes)
            boxes.inputs = {}  # other inputs run at the same time, and may have the same name
            return boxes
        # A photo's own file comes before that of its folder.
        own = (folder / f"{source.name}.json").exists()
        boxes = read_boxes(folder, source.name if own else source.sequence)
        if boxes.skipped_phrase:
            self._note(self._named(f"boxes left out: {boxes.skipped_phrase}"))
        return boxes

    def _results(
        self, source: FrameSource, boxes: BoxFile | None, done: Progress | None
    ) -> Generator[FrameResult, None, None]:
        """Return the results; they are estimated in a thread of their own, while files are written."""
        track = replace(self._options.track, boxes=boxes, detector=self._shared.detector, resume_from=done)
        poses: Iterator[FrameResult] = self._engine.track(source, track)
        if self._options.smooth:
            poses = smooth(poses, done.tail if done else ())
        return overlap(poses, 0 if source.drop_late else 2, "pose", source.stop)

    def _open_writers(self, stack: ExitStack, source: FrameSource, done: Progress | None) -> None:
        if done is not None:
            self._writers.append(JsonlWriter(self._outputs.results, keep=done.size))
        else:
            writer = make_writer(self._options.format, self._outputs.stem, source.sequence, self._engine.skeleton)
            self._writers.append(writer)
        stack.enter_context(self._writers[0])
        if self._outputs.video is not None:
            self._writers.append(VideoWriter(self._outputs.video, source.fps, self._draw, source.colors, source.sound))
            stack.enter_context(self._writers[1])

    def _draw(self, result: FrameResult):  # type: ignore[no-untyped-def]
        return draw_frame(result, self._engine.skeleton, self._options.min_score)

    def _write(self, result: FrameResult, source: FrameSource) -> None:
        for writer in self._writers:
            with self._engine.times.stage("video" if isinstance(writer, VideoWriter) else "write"):
                writer.write(result)
        if source.live:
            self._latencies.add(result.latency)
            self._waits.add(result.waited)
        self.frames += 1
        self.poses += len(result.poses)

    def _expected(self, source: FrameSource) -> int | None:
        expected, max_frames = source.num_frames, self._options.track.max_frames
        if max_frames is None:
            return expected
        return min(expected, max_frames) if expected else max_frames

    def _read_progress(self, source: FrameSource) -> Progress | None:
        """Return how far an earlier run got, if it is to be resumed and has left a file."""
        if not self._options.resume or not self._outputs.results.exists():
            return None
        return read_progress(self._outputs.results, source, len(self._engine.skeleton.keypoints))

    def _is_complete(self, done: Progress, source: FrameSource) -> bool:
        limit = self._options.track.max_frames
        # What a video's header says proves nothing: whether more frames follow shows when it is decoded.
        length = None if source.listing is None else len(source.listing)
        if done.frames == length or done.frames >= (limit or float("inf")):
            return True
        self._shared.tell(f"resume   {self._outputs.results}, {done.frames} frames are done and skipped")
        return False

    def _keep_complete(self, done: Progress) -> None:
        """Keep a complete file as it is, but cut off a torn line at its end."""
        if done.torn:
            JsonlWriter(self._outputs.results, keep=done.size).close()
        self._shared.tell(f"complete {self._outputs.results}, all {done.frames} frames were done already")

    def _describe_latency(self, source: FrameSource) -> str:
        lookahead = self._options.track.lookahead
        lookahead = self._engine.manifest.delta if lookahead is None else lookahead
        p50, p95, p99 = (
            f"p{100 * share:.0f} {1000 * self._latencies.percentile(share):.0f} ms" for share in (0.5, 0.95, 0.99)
        )
        return (
            f"{p50}, {p95}, {p99} (of which look-ahead {lookahead} frames, "
            f"{1000 * self._waits.percentile(0.5):.0f} ms); {source.dropped} frames dropped"
        )

    def _named(self, text: str) -> str:
        return text if self._shared.alone else f"{self.name}: {text}"

    def _note(self, text: str) -> None:
        self.notes.append(text)
        self._shared.tell(f"note     {text}")
