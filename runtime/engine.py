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
from typing import Any

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
class _Seen:
    """A frame, the people found in it, and their crop boxes ``[P, 4]``, image pixels; also by track id."""

    frame: Frame
    people: FramePeople
    crop_boxes: np.ndarray
    by_track_id: dict[int, np.ndarray]

    @property
    def image(self) -> np.ndarray | None:
        return self.frame.image


def _people_of(result: FrameResult | None) -> FramePeople:
    """Return the people of a frame that an earlier run has done; nobody if its result is not remembered."""
    poses = result.poses if result else []
    return FramePeople(
        result.image_id if result else 0,
        np.array([pose.bbox for pose in poses], np.float32).reshape(-1, 4),
        np.array([pose.bbox_score for pose in poses], np.float32),
        np.array([pose.track_id for pose in poses], np.int64),
    )


def _keyframe_people(seen: _Seen, window: Sequence[_Seen]) -> KeyframePeople:
    """Return what the estimator needs of a keyframe and its window."""
    known = {each.frame.index: each.by_track_id for each in window if each is not seen}
    frames = [each.frame for each in window]
    return KeyframePeople(frames, seen.crop_boxes, seen.people.track_ids.tolist(), known)


def _result(seen: _Seen, window: Sequence[_Seen], keypoints: np.ndarray | None) -> FrameResult:
    """Return a frame's result with the people's keypoints ``[P, J, 3]``, or None if there are none."""
    frame, people = seen.frame, seen.people
    poses = []
    if keypoints is not None:
        everybody = zip(people.track_ids, keypoints, people.boxes, people.scores, strict=True)
        poses = [Pose(int(track_id), points, box, float(score)) for track_id, points, box, score in everybody]
    live = {}
    if frame.received:
        live = {
            "received": frame.received,
            "latency": time.monotonic() - frame.received,
            "waited": max(other.frame.received for other in window) - frame.received,
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
        encoded: person crops that were encoded, for all sources of `track` that have ended; 0 unless streaming.
        estimated: poses that were estimated from these.
    """

    def __init__(
        self,
        manifest: Manifest,
        estimator: Estimator,
        times: StageTimes,
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
        self.encoded = self.estimated = 0
        self._estimator = estimator
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
        crop_boxes = self._crop_boxes(boxes, pixel_aspect)
        stream = self._estimator.start()
        try:
            return self._estimate(stream, [KeyframePeople(window, crop_boxes, range(len(boxes)))], batch_size)[0]
        finally:
            stream.end()

    def _crop_boxes(self, boxes: np.ndarray, pixel_aspect: float) -> np.ndarray:
        return expand_boxes(boxes, self.manifest.input_size, self.manifest.crop_scale, pixel_aspect)  # [P, 4]

    def _estimate(
        self, stream: PoseStream, keyframes: Sequence[KeyframePeople], batch_size: int | None
    ) -> list[np.ndarray]:
        """Return the poses of each keyframe, in the form that `estimate` returns."""
        self._check_open()
        largest = self.manifest.batch[2]
        estimated = stream.estimate(keyframes, min(batch_size or largest, largest))
        found = []
        for people, keypoints in zip(keyframes, estimated, strict=True):
            points = crop_to_image(keypoints[..., :2], people.crop_boxes[:, None], self.manifest.input_size)
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
        tracker = done.make_tracker() if done else Tracker()
        finder = PeopleFinder(source, options.boxes, options.detector, tracker, options.detect_every)
        stream = self._estimator.start()
        decoded = self._timed(source, options.max_frames)
        if not source.live:  # a live source decodes in a thread of its own
            decoded = overlap(decoded, READ_AHEAD, "decode")
        in_flight = 0 if source.drop_late else IN_FLIGHT  # a queue would add latency
        seen = self._find(finder, decoded, source, done)
        keyframes = windows(seen, self.manifest.delta, options.lookahead)
        if done:
            keyframes = (pair for pair in keyframes if pair[0].frame.index >= done.frames)
        found = overlap_batches(keyframes, in_flight, "detect", source.stop)
        count = done.frames if done else 0
        try:
            for batch in found:
                work = [_keyframe_people(keyframe, window) for keyframe, window in batch if window]
                keypoints = iter(self._estimate(stream, work, options.batch_size))
                for keyframe, window in batch:
                    count = keyframe.frame.number + 1  # of all frames that arrived, including those dropped as late
                    yield _result(keyframe, window, next(keypoints) if window else None)
        finally:
            # Nothing reads the source from here on, even if the traceback of an error still refers to the generators.
            found.close()
            decoded.close()
            if stream.cache is not None:
                with self._counting:
                    self.encoded += stream.cache.encoded
                    self.estimated += stream.cache.estimated
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
        self, finder: PeopleFinder, frames: Iterable[Frame], source: FrameSource, done: Progress | None
    ) -> Iterator[Any]:
        """Yield `_Seen` for every frame, and pass on `GAP`; the people of frames that are done are in its results."""
        known = {result.index: result for result in done.tail} if done else {}
        count = 0
        for frame in frames:
            if frame is GAP:
                yield GAP
                continue
            count += 1
            if done and frame.index < done.frames:
                finder.pass_over(frame)
                people = _people_of(known.get(frame.index))
            elif frame.image is None:
                people = finder.find(frame)
            else:
                with self.times.stage("detect"):
                    people = finder.find(frame)
            crop_boxes = self._crop_boxes(people.boxes, frame.pixel_aspect)
            # Of several people with the same id the first.
            by_track_id = dict(zip(reversed(people.track_ids.tolist()), reversed(crop_boxes), strict=True))
            yield _Seen(frame, people, crop_boxes, by_track_id)
        if done and count < done.frames:
            raise InputError(
                f"{done.frames} frames of '{source.name}' are done, but it ends after {count}: those results belong to "
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
    engine = PoseEngine(manifest, opened.estimator, times, opened.notice, opened.measured)
    engine.files = (manifest_path, *(manifest_path.parent / name for name in manifest.files))
    return engine
