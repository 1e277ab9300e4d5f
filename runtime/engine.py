"""The pose engine: an opened bundle that estimates poses in one window of frames, or over a whole source.

Over a source, decoding, detection and estimation are stages that run concurrently (`sdtc.runtime.pipeline`). Open an
engine once with `open`, and `track` any number of sources with it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdtc.core.crops import crop_to_image, expand_boxes
from sdtc.core.errors import EngineError, InputError, VideoError
from sdtc.core.manifest import Manifest, find_manifest
from sdtc.runtime.backends.choice import choose
from sdtc.runtime.backends.session import CLOSED, Session
from sdtc.runtime.check import check_boxes, check_images, check_number, check_path, check_type, check_whole
from sdtc.runtime.estimation.choose_estimator import open_estimator
from sdtc.runtime.estimation.estimators import Estimator, KeyframePeople, PoseStream, WindowEstimator
from sdtc.runtime.estimation.timing import StageTimes
from sdtc.runtime.estimation.token_cache import HOLD
from sdtc.runtime.options import EngineOptions, TrackOptions
from sdtc.runtime.output.results import FrameResult, Pose
from sdtc.runtime.output.resume import Progress
from sdtc.runtime.people.finder import FramePeople, PeopleFinder
from sdtc.runtime.people.tracking import Tracker
from sdtc.runtime.pipeline import overlap, overlap_batches
from sdtc.runtime.sources.base import GAP, Frame, FrameSource
from sdtc.runtime.sources.open import open_source
from sdtc.runtime.sources.windows import windows
from sdtc.runtime.track_all import track_all

READ_AHEAD = 2  # decoded frames that may wait for detection
IN_FLIGHT = 4  # keyframes that may wait for their poses; all that wait are estimated in one batch


@dataclass(frozen=True)
class _Found:
    """A keyframe, its window (empty if the keyframe is missing), and the people in it."""

    keyframe: Frame
    window: list[Frame]
    people: FramePeople

    def result(self, keypoints: np.ndarray | None) -> FrameResult:
        """Return the frame's result with the people's keypoints ``[P, J, 3]``, or None if there are none."""
        frame, people = self.keyframe, self.people
        poses = []
        if keypoints is not None:
            everybody = zip(people.track_ids, keypoints, people.boxes, people.scores, strict=True)
            poses = [Pose(int(track_id), points, box, float(score)) for track_id, points, box, score in everybody]
        live = {}
        if frame.received:
            live = {
                "received": frame.received,
                "latency": time.monotonic() - frame.received,
                "waited": max(other.received for other in self.window) - frame.received,
            }
        return FrameResult(
            frame.index, frame.number, frame.name, people.image_id, frame.image, poses,
            time=frame.time, wall_clock=frame.wall_clock, pixel_aspect=frame.pixel_aspect, **live,
        )  # fmt: skip


class PoseEngine:
    """An opened engine bundle (see `open`); a context manager.

    Any number of threads may call its methods at the same time, and track different sources. Each iteration of `track`
    belongs to one thread at a time. Calls that run when it is closed end first, or raise `EngineError`.

    Args:
        manifest: the bundle's.
        estimator: estimates the poses; closed together with the engine.
        times: stage times, which the estimator also records into.
        hold: how far a held box may deviate, see `sdtc.runtime.estimation.token_cache.TokenCache`.
        notice: see Attributes.
        measured: see Attributes.

    Attributes:
        manifest: the bundle's.
        files: of the bundle, which results must not replace.
        skeleton: names and limbs of the keypoints.
        backend: name, version and device of the backend, for display.
        notice: a sentence if something else runs than was requested, else "".
        measured: a sentence on the backends that were just compared, or "".
        streaming: whether each frame is encoded only once.
        times: seconds by stage, over everything that this engine has run.
        encoded, reused: person crops of windows that were encoded, and those whose tokens were in the cache, over
            everything that this engine has run; 0 unless streaming.
    """

    def __init__(
        self,
        manifest: Manifest,
        estimator: Estimator,
        times: StageTimes,
        hold: float = HOLD,
        notice: str = "",
        measured: str = "",
    ) -> None:
        self.manifest = manifest
        self.files: tuple[Path, ...] = ()
        self.skeleton = manifest.get_skeleton()
        self.notice, self.measured = notice, measured
        self.times = times
        self.backend = estimator.backend
        self.streaming = not isinstance(estimator, WindowEstimator)
        self.encoded = self.reused = 0
        self._estimator = estimator
        self._hold = hold
        self._closed = False
        self._counting = threading.Lock()

    @classmethod
    def from_session(cls, manifest: Manifest, session: Session) -> PoseEngine:
        """Make an engine of a session that is already open, such as a network that was never exported.

        Args:
            manifest: describes the session's inputs and outputs; its files are not read.
            session: takes ``clip`` and returns ``keypoints`` like the whole-window graph; closed with the engine.
        """
        times = StageTimes()
        return cls(manifest, WindowEstimator(manifest, session, times), times)

    def estimate(
        self,
        images: Sequence[np.ndarray] | np.ndarray,
        boxes: np.ndarray | Sequence[Sequence[float]],
        batch_size: int | None = None,
        pixel_aspect: float = 1.0,
    ) -> np.ndarray:
        """Estimate the poses of all people in one keyframe.

        Args:
            images: the T frames of the window, uint8 ``[H, W, 3]`` RGB, the keyframe in the middle; where a frame
                replaces a missing one, both are the same array. If everything runs on the GPU, arrays with
                ``__cuda_array_interface__`` are read in place.
            boxes: ``[P, 4]`` person boxes (x, y, width, height) in the keyframe, image pixels.
            batch_size: people per batch; the bundle's maximum if not given.
            pixel_aspect: width of a pixel relative to its height, for frames of anamorphic videos.

        Returns:
            float32 ``[P, J, 3]``: x, y in image pixels, score 0-1.

        Raises:
            InputError: images or boxes of another number, type, shape or size; values that are not finite; boxes
                without area or outside the frame.
            EngineError: the backend failed, or the engine is closed.
        """
        self._check_open()
        frames = check_images(images, self.manifest.num_frames, self._estimator.on_device)
        boxes = check_boxes(boxes, frames[self.manifest.delta])
        check_whole("batch_size", batch_size, 1)
        check_number("pixel_aspect", pixel_aspect, 0.1, 10, "a ratio from 0.1 to 10, 1 for square pixels")
        first = {id(image): index for index, image in reversed(list(enumerate(frames)))}
        window = [Frame(first[id(image)], first[id(image)], None, image, pixel_aspect=pixel_aspect) for image in frames]
        people = self._people(window, boxes, range(len(boxes)))
        stream = self._estimator.start(0.0)
        try:
            return self._estimate(stream, [people], batch_size)[0]
        finally:
            stream.end()

    def _people(self, window: Sequence[Frame], boxes: np.ndarray, track_ids: Iterable[int]) -> KeyframePeople:
        pixel_aspect = window[len(window) // 2].pixel_aspect
        crop_boxes = expand_boxes(boxes, self.manifest.input_size, self.manifest.crop_scale, pixel_aspect)  # [P, 4]
        return KeyframePeople(window, crop_boxes, [int(track_id) for track_id in track_ids])

    def _estimate(
        self, stream: PoseStream, keyframes: Sequence[KeyframePeople], batch_size: int | None
    ) -> list[np.ndarray]:
        """Return the poses of each keyframe, in the form that `estimate` returns."""
        self._check_open()
        largest = self.manifest.batch[2]
        found = []
        for keypoints, crop_boxes in stream.estimate(keyframes, min(batch_size or largest, largest)):
            points = crop_to_image(keypoints[..., :2], crop_boxes[:, None], self.manifest.input_size)
            found.append(np.concatenate([points, keypoints[..., 2:]], axis=-1).astype(np.float32))
        return found

    def track(
        self, source: str | Path | FrameSource, options: TrackOptions | None = None
    ) -> Generator[FrameResult, None, None]:
        """Run over a video, an image folder or a live source.

        Args:
            source: path of a video, image or folder; a live address as `sdtc.runtime.sources.live.is_live` knows it; or
                an open source.
            options: see `TrackOptions`; its defaults if not given.

        Yields:
            A result for every frame, in order, also for frames without people; with `TrackOptions.resume_from`, only
            for frames that are not done yet. What could not be read is listed in ``source.problems`` afterwards, or
            raised if the engine opened the source itself.

        Raises:
            InputError: the boxes do not belong to the source, the source is shorter than the part that is done, or
                an option is unusable.
            VideoError: the source cannot be opened, or broke off in the middle (raised after the last good frame).
        """
        self._check_open()
        options = TrackOptions() if options is None else options
        check_type("options", options, TrackOptions)
        options.check_lookahead(self.manifest.delta)
        if not isinstance(source, FrameSource):
            check_path("source", source)
            with open_source(source) as opened:
                yield from self.track(opened, options)
                if opened.problems:
                    raise VideoError("; ".join(opened.problems))
            return
        done = options.resume_from
        tracker = done.make_tracker(options.detect_every) if done else Tracker(interval=options.detect_every)
        finder = PeopleFinder(source, options.boxes, options.detector, tracker)
        stream = self._estimator.start(self._hold)
        decoded = self._timed(source, options.max_frames)
        if not source.live:  # a live source decodes in a thread of its own
            decoded = overlap(decoded, READ_AHEAD, "decode")
        in_flight = 0 if source.drop_late else IN_FLIGHT  # a queue would add latency
        keyframes = windows(decoded, self.manifest.delta, options.lookahead)
        found = overlap_batches(self._find(finder, keyframes, source, done), in_flight, "detect", source.stop)
        count = done.frames if done else 0
        try:
            for batch in found:
                work = [
                    self._people(item.window, item.people.boxes, item.people.track_ids) for item in batch if item.window
                ]
                keypoints = iter(self._estimate(stream, work, options.batch_size))
                for item in batch:
                    count = item.keyframe.number + 1  # of all frames that arrived, including those dropped as late
                    yield item.result(next(keypoints) if item.window else None)
        finally:
            # Nothing reads the source from here on, even if the traceback of an error still refers to the generators.
            found.close()
            decoded.close()
            if stream.cache is not None:
                with self._counting:
                    self.encoded += stream.cache.encoded
                    self.reused += stream.cache.reused
            stream.end()
        if options.max_frames is None:
            finder.check_end(count)

    def track_all(
        self,
        sources: Mapping[str, str | Path | FrameSource],
        options: TrackOptions | Mapping[str, TrackOptions] | None = None,
    ) -> Generator[tuple[str, FrameResult], None, None]:
        """Run over several sources at once, each in a thread of its own: one that stalls or fails holds up no other.

        A consumer that is slower than the sources makes them wait; a source that drops late frames drops them. Closing
        the generator ends all threads, and closes the sources that were opened here.

        Args:
            sources: by a name of your own, what `track` takes.
            options: for all sources; or by name, with defaults for those that are not named. Boxes and `resume_from`
                are for one source each.

        Yields:
            The name of a source and a result; those of each source are in order, and come as `track` gives them.

        Raises:
            InputError: sources or options that cannot be used; a live source appears twice.
            SdtcError: sources failed. It is raised when the others have ended, and says which failed and why; an
                `InputError` if all of these errors are.
        """
        self._check_open()
        return track_all(self.track, sources, options)

    def _find(
        self,
        finder: PeopleFinder,
        keyframes: Iterable[tuple[Frame, list[Frame]]],
        source: FrameSource,
        done: Progress | None,
    ) -> Iterator[_Found]:
        """Find the people of every keyframe; skip keyframes that an earlier run has done."""
        seen = 0
        for keyframe, window in keyframes:
            seen += 1
            if done and keyframe.index < done.frames:
                continue
            if keyframe.image is None:
                yield _Found(keyframe, window, finder.find(keyframe))
                continue
            with self.times.stage("detect"):
                people = finder.find(keyframe)
            yield _Found(keyframe, window, people)
        if done and seen < done.frames:
            raise InputError(
                f"{done.frames} frames of '{source.name}' are done, but it ends after {seen}: those results belong to "
                "another input, choose another `output`"
            )

    def _check_open(self) -> None:
        if self._closed:
            raise EngineError(CLOSED)

    def close(self) -> None:
        """Release the backend."""
        self._closed = True
        self._estimator.close()

    def __enter__(self) -> PoseEngine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _timed(self, source: FrameSource, max_frames: int | None) -> Generator[Frame, None, None]:
        frames = iter(source)
        count = 0
        while max_frames is None or count < max_frames:
            with self.times.stage("receive" if source.live else "decode"):
                frame = next(frames, None)
            if frame is None:
                return
            count += frame is not GAP
            yield frame


def open(path: str | Path, options: EngineOptions | None = None) -> PoseEngine:
    """Open an engine bundle: ``with sdtc.runtime.open("model.plan") as engine: …``.

    Args:
        path: `model.plan`, `model.onnx`, `model.json` or the bundle's folder.
        options: see `EngineOptions`; its defaults if not given.

    Raises:
        BundleError: the bundle is missing, damaged or of a newer schema.
        EngineError: the bundle cannot run on this machine.
        InputError: an option does not apply to this bundle or backend.
    """
    options = EngineOptions() if options is None else options
    check_type("options", options, EngineOptions)
    check_path("path", path)
    manifest_path = find_manifest(Path(path))
    manifest = Manifest.load(manifest_path)
    wants_plan = Path(path).suffix != ".onnx"
    choice = choose(manifest, wants_plan, options.backend, options.device, precision=options.precision)
    times = StageTimes()
    opened = open_estimator(manifest, manifest_path.parent, choice, options.threads, options.exact, times)
    hold = HOLD if options.hold is None else options.hold
    engine = PoseEngine(manifest, opened.estimator, times, hold, opened.notice, opened.measured)
    engine.files = (manifest_path, *(manifest_path.parent / name for name in manifest.files))
    if options.hold is not None and not engine.streaming:
        engine.close()
        raise InputError(
            "`hold` is for bundles with the streaming pair of graphs, which this one does not have: leave it out, or "
            "export the checkpoint again"
        )
    return engine
