"""The runtime's heart: an engine bundle that turns windows of frames and boxes into poses, and runs over a source.

Over a source, decoding, detection and estimation are stages that run at the same time (`sdtc.runtime.pipeline`).

One engine, many inputs: `open` it once, `track` as often as needed.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdtc.core.boxes import EMPTY, BoxFile, FrameBoxes, SourceBoxes
from sdtc.core.crops import crop_to_image, expand_boxes
from sdtc.core.errors import InputError, VideoError
from sdtc.core.manifest import FLAVOURS, Manifest, find_manifest
from sdtc.core.posetrack import image_id, sequence_id
from sdtc.runtime.backends.choice import Choice, choose
from sdtc.runtime.backends.probe import open_sessions
from sdtc.runtime.backends.session import Session
from sdtc.runtime.estimation.device_estimator import streaming_estimator
from sdtc.runtime.estimation.estimators import Estimator, KeyframePeople, PoseStream, WindowEstimator
from sdtc.runtime.estimation.timing import StageTimes
from sdtc.runtime.estimation.token_cache import HOLD
from sdtc.runtime.output.results import FrameResult, Pose
from sdtc.runtime.output.resume import Progress
from sdtc.runtime.people.detection import Detector, make_detector
from sdtc.runtime.people.tracking import Tracker
from sdtc.runtime.pipeline import overlap, overlap_batches
from sdtc.runtime.sources.base import GAP, Frame, FrameSource
from sdtc.runtime.sources.images import ImageSequence
from sdtc.runtime.sources.open import check_max_frames, open_source
from sdtc.runtime.sources.windows import check_lookahead, windows

READ_AHEAD = 2  # frames that wait to be searched
IN_FLIGHT = 4  # keyframes that wait for their poses: as many are estimated at once
MAX_HOLD = 0.5  # a box that is off by more no longer holds the person


@dataclass(frozen=True)
class _Found:
    """A keyframe, its window (empty where the keyframe is missing), and its people."""

    keyframe: Frame
    window: list[Frame]
    who: FrameBoxes
    track_ids: np.ndarray

    def poses(self, keypoints: np.ndarray) -> list[Pose]:
        """Make poses of ``[P, J, 3]``."""
        everybody = zip(self.track_ids, keypoints, self.who.boxes, self.who.scores, strict=True)
        return [Pose(int(track_id), points, box, float(score)) for track_id, points, box, score in everybody]

    def times(self) -> tuple[float, float, float]:
        """Return when a live keyframe came, the seconds since, and how many of them its window waited; 0 for files."""
        received = self.keyframe.received
        if not received:
            return 0.0, 0.0, 0.0
        return received, time.monotonic() - received, max(frame.received for frame in self.window) - received


class PoseEngine:
    """An engine bundle, opened; a context manager.

    Args:
        path: `model.plan`, `model.onnx`, `model.json` or the bundle's folder.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        backend: one of `backends.arguments.BACKENDS`; ``"auto"`` measures which one is the fastest here, once.
        threads: CPU threads; one or all that this process may use, whichever is faster, if not given.
        exact: run whole windows, each in its keyframe's boxes, as the paper does; else frames are encoded once, in
            boxes that are held from frame to frame, where the bundle has the graphs for it.
        hold: how far a held box may be off, see `sdtc.runtime.estimation.token_cache.TokenCache`.
        precision: what a CPU computes in: ``"fp32"``, ``"bf16"`` or ``"int8"`` (OpenVINO, on processors that have
            them), or ``"auto"`` for the fastest.

    Attributes:
        manifest: the bundle's.
        skeleton: names and limbs of the keypoints.
        backend: what runs, and where, for people.
        notice: a sentence where something else runs than was asked for, or "".
        measured: a sentence about backends that were just compared, or "".
        streaming: whether frames are encoded once.
        times: seconds by stage, over everything that this engine has run.
        encoded, reused: frames of windows that were encoded, and that had been before, over everything; 0 unless
            streaming.

    Raises:
        BundleError: the bundle is missing, damaged or of a newer schema.
        EngineError: it cannot run here.
        InputError: `hold` is not a share.
    """

    def __init__(
        self,
        path: str | Path,
        device: str = "auto",
        backend: str = "auto",
        threads: int | None = None,
        exact: bool = False,
        hold: float = HOLD,
        precision: str = "fp32",
    ) -> None:
        if not 0 <= hold <= MAX_HOLD:
            raise InputError(f"--hold is {hold}: expected 0 (every box as it is) to {MAX_HOLD}")
        manifest_path = find_manifest(Path(path))
        manifest = Manifest.load(manifest_path)
        choice = choose(manifest, Path(path).suffix != ".onnx", backend, device, precision=precision)
        times = StageTimes()
        estimator: Estimator
        notice = choice.notice
        with ExitStack() as stack:
            graphs = ("encoder", "temporal") if not exact and _can_stream(manifest, choice) else ("model",)
            opened = open_sessions(manifest, manifest_path.parent, choice, graphs, threads)
            sessions = [stack.enter_context(session) for session in opened.sessions]
            if len(sessions) == 2:
                estimator, why_on_cpu = streaming_estimator(
                    manifest, manifest_path.parent, sessions[0], sessions[1], times
                )
                notice = notice or why_on_cpu
            else:
                estimator = WindowEstimator(manifest, sessions[0], times)
            stack.pop_all()
        self._start(manifest, estimator, times, notice, hold)
        self.measured = opened.measured

    @classmethod
    def from_session(cls, manifest: Manifest, session: Session) -> PoseEngine:
        """Run a session that is already open, such as a network that was never exported.

        Args:
            manifest: says what the session takes and gives; its files are never looked at.
            session: takes ``clip`` and gives ``keypoints`` as the whole-window graph does; closed with the engine.
        """
        engine = cls.__new__(cls)
        times = StageTimes()
        engine._start(manifest, WindowEstimator(manifest, session, times), times, "", 0.0)
        return engine

    def _start(self, manifest: Manifest, estimator: Estimator, times: StageTimes, notice: str, hold: float) -> None:
        self.manifest = manifest
        self.skeleton = manifest.get_skeleton()
        self.notice, self.measured = notice, ""
        self.times = times
        self.backend = estimator.backend
        self.streaming = not isinstance(estimator, WindowEstimator)
        self.encoded = self.reused = 0
        self._estimator = estimator
        self._hold = hold

    def estimate(self, images: list[np.ndarray], boxes: np.ndarray, batch_size: int | None = None) -> np.ndarray:
        """Estimate the poses of all people in one keyframe.

        Args:
            images: the T frames of the window, uint8 ``[H, W, 3]`` RGB, the keyframe in the middle; a frame that
                stands in for a missing one is the same array. Where all of it runs on a GPU, anything there with
                ``__cuda_array_interface__`` is taken where it lies.
            boxes: ``[P, 4]`` person boxes in the keyframe, image pixels.
            batch_size: people at once; the bundle's maximum if not given.

        Returns:
            float32 ``[P, J, 3]``: x, y in image pixels, score 0-1.
        """
        first = {id(image): index for index, image in reversed(list(enumerate(images)))}
        window = [Frame(first[id(image)], first[id(image)], None, image) for image in images]
        people = self._people(window, boxes, range(len(boxes)))
        stream = self._estimator.start(0.0)
        try:
            return self._estimate(stream, [people], batch_size)[0]
        finally:
            stream.end()

    def _people(self, window: Sequence[Frame], boxes: np.ndarray, track_ids: Iterable[int]) -> KeyframePeople:
        crop_boxes = expand_boxes(boxes, self.manifest.input_size, self.manifest.crop_scale)  # [P, 4]
        return KeyframePeople(window, crop_boxes, [int(track_id) for track_id in track_ids])

    def _estimate(
        self, stream: PoseStream, keyframes: Sequence[KeyframePeople], batch_size: int | None
    ) -> list[np.ndarray]:
        """Estimate by keyframe, as `estimate` returns it."""
        largest = self.manifest.batch[2]
        found = []
        for keypoints, crop_boxes in stream.estimate(keyframes, min(batch_size or largest, largest)):
            points = crop_to_image(keypoints[..., :2], crop_boxes[:, None], self.manifest.input_size)
            found.append(np.concatenate([points, keypoints[..., 2:]], axis=-1).astype(np.float32))
        return found

    def track(
        self,
        source: str | Path | FrameSource,
        boxes: str | Path | BoxFile | None = None,
        detector: str | Detector = "hog",
        batch_size: int | None = None,
        max_frames: int | None = None,
        lookahead: int | None = None,
        detect_every: int = 1,
        resume_from: Progress | None = None,
    ) -> Generator[FrameResult, None, None]:
        """Run over a video, an image folder or a live source.

        Args:
            source: path of a video, image or folder, what `sdtc.runtime.sources.live.is_live` knows, or an open source.
            boxes: JSON file of person boxes; the detector is not used then.
            detector: ``"hog"``, path of an ONNX detector, or any object with ``detect(image)``.
            batch_size: people at once; the bundle's maximum if not given.
            max_frames: stop after so many frames.
            lookahead: frames to wait for after a keyframe, 0 to δ; δ, the paper's, if not given. Frames of the window
                that are not there yet are replaced by the newest one.
            detect_every: run the detector on every k-th frame; in between people go on as they went.
            resume_from: where an earlier run got to. Frames that it did are decoded, no more, and not yielded.

        Yields:
            A result for every frame (every further one), in order, also where nobody is. What could not be read is in
            ``source.problems`` afterwards; without a source of your own, it is raised.

        Raises:
            InputError: boxes that do not belong to the source, one that ends before the frames that are done, and
                other unusable arguments.
            VideoError: the source cannot be opened, or broke in the middle (after the last good frame).
        """
        check_max_frames(max_frames)
        if batch_size is not None and batch_size < 1:
            raise InputError(f"--batch-size is {batch_size}: expected at least 1")
        check_lookahead(lookahead, self.manifest.delta)
        if detect_every < 1:
            raise InputError(f"--detect-every is {detect_every}: expected at least 1")
        if boxes is not None and detect_every > 1:
            raise InputError("--detect-every is for detectors: with --boxes every frame has its own")
        if not isinstance(source, FrameSource):
            with open_source(source) as opened:
                yield from self.track(
                    opened, boxes, detector, batch_size, max_frames, lookahead, detect_every, resume_from
                )
                if opened.problems:
                    raise VideoError("; ".join(opened.problems))
            return
        people = PeopleFinder(source, boxes, detector)
        stream = self._estimator.start(self._hold)
        decoded = self._timed(source, max_frames)
        if not source.live:  # which decodes in a thread of its own
            decoded = overlap(decoded, READ_AHEAD, "decode")
        in_flight = 0 if source.drop_late else IN_FLIGHT  # what waits grows old
        keyframes = windows(decoded, self.manifest.delta, lookahead)
        found = overlap_batches(
            self._find(people, keyframes, detect_every, resume_from), in_flight, "detect", source.stop
        )
        count = resume_from.frames if resume_from else 0
        try:
            for batch in found:
                seen = [self._people(item.window, item.who.boxes, item.track_ids) for item in batch if item.window]
                keypoints = iter(self._estimate(stream, seen, batch_size))
                for item in batch:
                    frame, poses = item.keyframe, item.poses(next(keypoints)) if item.window else []
                    count = frame.number + 1  # of all that came, also where late ones were dropped
                    identifier = people.image_id(frame)
                    yield FrameResult(
                        frame.index, frame.number, frame.name, identifier, frame.image, poses, *item.times()
                    )
        finally:
            # Whatever happened, and whoever still holds the error: nobody reads the source when this has ended.
            found.close()
            decoded.close()
            if stream.cache is not None:
                self.encoded += stream.cache.encoded
                self.reused += stream.cache.reused
            stream.end()
        if max_frames is None:
            people.check_end(count)

    def _find(
        self,
        people: PeopleFinder,
        stream: Iterable[tuple[Frame, list[Frame]]],
        detect_every: int,
        done: Progress | None,
    ) -> Iterator[_Found]:
        """Add to every window the people of its keyframe, and their track ids; leave out keyframes that are done."""
        tracker = done.make_tracker(detect_every) if done else Tracker(interval=detect_every)
        due = 0  # the next keyframe that is searched
        seen = 0
        for keyframe, window in stream:
            seen += 1
            if done and keyframe.index < done.frames:
                continue
            who, track_ids = EMPTY, np.zeros(0, np.int64)
            if keyframe.image is not None:
                with self.times.stage("detect"):
                    if keyframe.index < due:
                        boxes, scores, track_ids = tracker.predict(keyframe.index, keyframe.image.shape[:2])
                        who = FrameBoxes(boxes, scores, track_ids)
                    else:
                        due = keyframe.index + detect_every
                        who = people.find(keyframe, keyframe.image)
                        if who.track_ids is None:
                            track_ids = tracker.update(who.boxes, who.scores, keyframe.index)
                        else:
                            track_ids = who.track_ids
            yield _Found(keyframe, window, who, track_ids)
        if done and seen < done.frames:
            raise InputError(
                f"{done.frames} frames of '{people.name}' are done, but it ends after {seen}: they are of another "
                "input, choose another --output"
            )

    def close(self) -> None:
        """Release the backend."""
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


def _can_stream(manifest: Manifest, choice: Choice) -> bool:
    """Whether the bundle has the network's two halves, as this backend needs them."""
    pair = [manifest.graphs[name] for name in ("encoder", "temporal") if name in manifest.graphs]
    return len(pair) == 2 and (choice.backend not in FLAVOURS or all(files.plan for files in pair))


class PeopleFinder:
    """The boxes of a keyframe: from a file, or from a detector."""

    def __init__(self, source: FrameSource, boxes: str | Path | BoxFile | None, detector: str | Detector) -> None:
        self._detector: Detector | None = None
        self._boxes: SourceBoxes | None = None
        self.name = source.name
        self._vid_id = sequence_id(source.name)
        if boxes is None:
            self._detector = make_detector(detector) if isinstance(detector, str) else detector
            return
        file = boxes if isinstance(boxes, BoxFile) else BoxFile(Path(boxes))
        numbered = None
        if isinstance(source, ImageSequence):
            numbered = [(number, path.name) for number, path in source.frames if path is not None]
        self._boxes = SourceBoxes(file, source.name, numbered, source.num_frames)
        self._length_unknown = source.num_frames is None

    def find(self, frame: Frame, image: np.ndarray) -> FrameBoxes:
        """Return the people of a frame."""
        if self._boxes is not None:
            return self._boxes.of_frame(frame.number, frame.name, image.shape[:2])
        assert self._detector is not None
        found = self._detector.detect(image)
        return FrameBoxes(found.boxes, found.scores, None)

    def image_id(self, frame: Frame) -> int:
        """Return what the frame is called in the file of boxes; without one, PoseTrack's id or the frame's number."""
        if self._boxes is not None:
            return self._boxes.image_id(frame.number, frame.name)
        return frame.number if self._vid_id is None else image_id(self._vid_id, frame.number)

    def check_end(self, num_frames: int) -> None:
        """After the last frame: complain about boxes of frames that never came."""
        if self._boxes is not None and self._length_unknown:
            self._boxes.check_all_seen(num_frames)


open = PoseEngine  # sdtc.runtime.open("model.plan"), as one opens a file
