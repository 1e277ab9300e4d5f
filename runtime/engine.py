"""The runtime's heart: an engine bundle that turns windows of frames and boxes into poses, and runs over a source.

One engine, many inputs: `open` it once, `track` as often as needed.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sdtc.boxes import BoxFile, FrameBoxes, SourceBoxes
from sdtc.crops import crop_frame, crop_to_image, expand_boxes
from sdtc.errors import EngineError, InputError, VideoError
from sdtc.manifest import Manifest, find_manifest
from sdtc.posetrack import image_id, sequence_id
from sdtc.runtime.detection import Detector, make_detector
from sdtc.runtime.results import FrameResult, Pose
from sdtc.runtime.sessions import Session, choose, open_session
from sdtc.runtime.tracking import Tracker
from sdtc.runtime.video import Frame, FrameSource, ImageSequence, check_max_frames, open_source
from sdtc.runtime.windows import windows


class StageTimes:
    """Seconds spent by stage.

    Attributes:
        seconds: by stage name, in the order of first use.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start


class PoseEngine:
    """An engine bundle, opened; a context manager.

    Args:
        path: `model.plan`, `model.onnx`, `model.json` or the bundle's folder.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        backend: ``"auto"`` or one of `sdtc.runtime.sessions.BACKENDS`.
        threads: CPU threads; all that this process may use if not given.

    Attributes:
        manifest: the bundle's.
        skeleton: names and limbs of the keypoints.
        notice: a sentence where something else runs than was asked for, or "".
        times: seconds by stage, over everything that this engine has run.

    Raises:
        BundleError: the bundle is missing, damaged or of a newer schema.
        EngineError: it cannot run here.
    """

    def __init__(
        self, path: str | Path, device: str = "auto", backend: str = "auto", threads: int | None = None
    ) -> None:
        manifest_path = find_manifest(Path(path))
        manifest = Manifest.load(manifest_path)
        choice = choose(manifest, Path(path).suffix != ".onnx", backend, device)
        session = open_session(manifest, manifest_path.parent, choice, threads=threads)
        self._start(manifest, session, choice.notice)

    @classmethod
    def from_session(cls, manifest: Manifest, session: Session) -> PoseEngine:
        """Run a session that is already open, such as a network that was never exported.

        Args:
            manifest: says what the session takes and gives; its files are never looked at.
            session: takes ``clip`` and gives ``keypoints`` as the whole-window graph does; closed with the engine.
        """
        engine = cls.__new__(cls)
        engine._start(manifest, session, "")
        return engine

    def _start(self, manifest: Manifest, session: Session, notice: str) -> None:
        self.manifest = manifest
        self.skeleton = manifest.get_skeleton()
        self.notice = notice
        self.times = StageTimes()
        self._session = session
        self.backend = session.backend
        T, (H, W) = manifest.num_frames, manifest.input_size
        self._clips = np.empty((manifest.batch[2], T, H, W, 3), np.uint8)  # reused by every batch

    def estimate(self, images: list[np.ndarray], boxes: np.ndarray, batch_size: int | None = None) -> np.ndarray:
        """Estimate the poses of all people in one keyframe.

        Args:
            images: the T frames of the window, uint8 ``[H, W, 3]`` RGB, the keyframe in the middle.
            boxes: ``[P, 4]`` person boxes in the keyframe, image pixels.
            batch_size: people at once; the bundle's maximum if not given.

        Returns:
            float32 ``[P, J, 3]``: x, y in image pixels, score 0-1.
        """
        manifest = self.manifest
        size = manifest.input_size
        crop_boxes = expand_boxes(boxes, size, manifest.crop_scale)  # [P, 4]
        smallest, _, largest = manifest.batch
        step = min(batch_size or largest, largest)
        keypoints = np.empty((len(boxes), len(self.skeleton.keypoints), 3), np.float32)
        for start in range(0, len(boxes), step):
            batch = crop_boxes[start : start + step]
            with self.times.stage("crop"):
                clips = self._crop(images, batch, smallest)
            with self.times.stage("pose"):
                out = self._session.run({"clip": clips})["keypoints"][: len(batch)]
            if not np.isfinite(out).all():
                raise EngineError(
                    f"the engine ({self.backend}) answered with values that are not finite: export the checkpoint "
                    "again, with --precision fp32 if it was fp16"
                )
            keypoints[start : start + step, :, :2] = crop_to_image(out[..., :2], batch[:, None], size)
            keypoints[start : start + step, :, 2] = out[..., 2]
        return keypoints

    def track(
        self,
        source: str | Path | FrameSource,
        boxes: str | Path | BoxFile | None = None,
        detector: str | Detector = "hog",
        batch_size: int | None = None,
        max_frames: int | None = None,
    ) -> Iterator[FrameResult]:
        """Run over a video or an image folder.

        Args:
            source: path of a video, image or folder, or an open source.
            boxes: JSON file of person boxes; the detector is not used then.
            detector: ``"hog"``, path of an ONNX detector, or any object with ``detect(image)``.
            batch_size: people at once; the bundle's maximum if not given.
            max_frames: stop after so many frames.

        Yields:
            A result for every frame, in order, also where nobody is. What could not be read is in
            ``source.problems`` afterwards; without a source of your own, it is raised.

        Raises:
            InputError: boxes that do not belong to the source, and other unusable arguments.
            VideoError: the source cannot be opened, or broke in the middle (after the last good frame).
        """
        check_max_frames(max_frames)
        if batch_size is not None and batch_size < 1:
            raise InputError(f"--batch-size is {batch_size}: expected at least 1")
        if not isinstance(source, FrameSource):
            with open_source(Path(source)) as opened:
                yield from self.track(opened, boxes, detector, batch_size, max_frames)
                if opened.problems:
                    raise VideoError("; ".join(opened.problems))
            return
        people = PeopleFinder(source, boxes, detector)
        tracker = Tracker()
        frames = self._timed(source, max_frames)
        count = 0
        for count, (keyframe, images) in enumerate(windows(frames, self.manifest.delta), start=1):  # noqa: B007
            poses: list[Pose] = []
            if keyframe.image is not None:
                with self.times.stage("detect"):
                    found = people.find(keyframe, keyframe.image)
                    track_ids = found.track_ids
                    if track_ids is None:
                        track_ids = tracker.update(found.boxes, found.scores, keyframe.index)
                keypoints = self.estimate(images, found.boxes, batch_size)
                poses = [
                    Pose(int(track_id), points, box, float(score))
                    for track_id, points, box, score in zip(
                        track_ids, keypoints, found.boxes, found.scores, strict=True
                    )
                ]
            identifier = people.image_id(keyframe)
            yield FrameResult(keyframe.index, keyframe.number, keyframe.name, identifier, keyframe.image, poses)
        if max_frames is None:
            people.check_end(count)

    def close(self) -> None:
        """Release the backend."""
        self._session.close()

    def __enter__(self) -> PoseEngine:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _crop(self, images: list[np.ndarray], crop_boxes: np.ndarray, smallest: int) -> np.ndarray:
        """Cut ``[B, T, H, W, 3]`` out of the window; at least `smallest` windows, the last ones repeated."""
        count = max(len(crop_boxes), smallest)
        clips = self._clips[:count]
        for person, crop_box in enumerate(crop_boxes):
            for t, image in enumerate(images):
                if t and image is images[t - 1]:  # a clamped or missing frame
                    clips[person, t] = clips[person, t - 1]
                else:
                    crop_frame(image, crop_box, self.manifest.input_size, out=clips[person, t])
        clips[len(crop_boxes) :] = clips[len(crop_boxes) - 1]
        return clips

    def _timed(self, source: FrameSource, max_frames: int | None) -> Iterator[Frame]:
        frames = iter(source)
        count = 0
        while max_frames is None or count < max_frames:
            with self.times.stage("decode"):
                frame = next(frames, None)
            if frame is None:
                return
            count += 1
            yield frame


class PeopleFinder:
    """The boxes of a keyframe: from a file, or from a detector."""

    def __init__(self, source: FrameSource, boxes: str | Path | BoxFile | None, detector: str | Detector) -> None:
        self._detector: Detector | None = None
        self._boxes: SourceBoxes | None = None
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


def open(path: str | Path, device: str = "auto", backend: str = "auto", threads: int | None = None) -> PoseEngine:
    """Open an engine bundle; see :class:`PoseEngine`."""
    return PoseEngine(path, device, backend, threads)
