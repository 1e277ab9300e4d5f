"""Estimators: from windows of frames and person boxes to keypoints, by whole windows or frame by frame.

`WindowEstimator` runs the whole network on T crops of each person. `StreamingEstimator` runs the network in two halves
and encodes only frames that `token_cache` has no tokens of. Both take several keyframes at once, cut crops, pad batches
below the bundle's smallest batch, and split those above its largest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sdtc.core.crops import crop_frame
from sdtc.core.errors import EngineError
from sdtc.core.manifest import Manifest
from sdtc.runtime.backends.pool import Pool
from sdtc.runtime.backends.session import Session
from sdtc.runtime.estimation.timing import StageTimes
from sdtc.runtime.estimation.token_cache import TokenCache
from sdtc.runtime.sources.base import Frame


@dataclass(frozen=True)
class KeyframePeople:
    """The people of one keyframe.

    Attributes:
        window: T frames with images, the keyframe in the middle; a frame that replaces missing ones appears several
            times.
        crop_boxes: ``[P, 4]``, image pixels.
        track_ids: ``[P]``.
    """

    window: Sequence[Frame]
    crop_boxes: np.ndarray
    track_ids: Sequence[int]


Poses = tuple[np.ndarray, np.ndarray]  # float32 [P, J, 3]: x, y in crop pixels, score; [P, 4]: the crop boxes used


class PoseStream(ABC):
    """Estimates the people of one source, keyframe after keyframe.

    Attributes:
        cache: schedules the tokens; None for whole windows.
    """

    cache: TokenCache | None = None

    @abstractmethod
    def estimate(self, keyframes: Sequence[KeyframePeople], batch_size: int) -> list[Poses]:
        """Estimate the poses of everybody in some consecutive keyframes.

        Args:
            keyframes: in order; the keyframe is in the middle of `KeyframePeople.window`.
            batch_size: windows per batch.

        Returns:
            For each keyframe, keypoints and the crop boxes that they refer to.

        Raises:
            EngineError: the backend failed, or its results are not finite.
        """

    def end(self) -> None:  # noqa: B027  (most have nothing to release)
        """Release what belongs to the source, which has ended."""


class Estimator(ABC):
    """Estimates poses, for any number of sources, from any number of threads; a stream belongs to one thread at a time.

    Attributes:
        backend: name, version and device of the backend, for display.
        on_device: whether frames may be on the GPU already.
    """

    backend: str
    on_device: bool = False

    @abstractmethod
    def start(self, hold: float) -> PoseStream:
        """Begin a source.

        Args:
            hold: how far a held box may deviate, see `sdtc.runtime.estimation.token_cache.TokenCache`.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the backend."""


class WindowEstimator(Estimator, PoseStream):
    """The whole network at once: every frame of every window is encoded. It has no state, so it is its own stream.

    Args:
        manifest: the bundle's.
        session: on the graph ``model``.
        times: stage times to record into.
    """

    def __init__(self, manifest: Manifest, session: Session, times: StageTimes) -> None:
        self.manifest, self.backend, self._session, self._times = manifest, session.backend, session, times
        T, (H, W) = manifest.num_frames, manifest.input_size
        self._clips = Pool(lambda: np.empty((manifest.batch[2], T, H, W, 3), np.uint8))  # one for each thread

    def start(self, hold: float) -> PoseStream:
        return self

    def estimate(self, keyframes: Sequence[KeyframePeople], batch_size: int) -> list[Poses]:
        everybody = [(people.window, crop_box) for people in keyframes for crop_box in people.crop_boxes]
        found = [_no_poses(self.manifest)]
        with self._clips.lend() as memory:
            for part in batches(len(everybody), batch_size):
                batch = everybody[part]
                clips = memory[: max(len(batch), self.manifest.batch[0])]
                with self._times.stage("crop"):
                    for (window, crop_box), clip in zip(batch, clips, strict=False):
                        self._crop(window, crop_box, clip)
                    clips[len(batch) :] = clips[len(batch) - 1]
                with self._times.stage("pose"):
                    keypoints = self._session.run({"clip": clips})["keypoints"][: len(batch)]
                found.append(checked(keypoints, self.backend))
        return by_keyframe(np.concatenate(found), [people.crop_boxes for people in keyframes])

    def close(self) -> None:
        self._session.close()

    def _crop(self, window: Sequence[Frame], crop_box: np.ndarray, clip: np.ndarray) -> None:
        """Cut one person's ``[T, H, W, 3]`` out of the window."""
        for t, frame in enumerate(window):
            if t and frame.image is window[t - 1].image:  # a clamped or missing frame
                clip[t] = clip[t - 1]
            else:
                assert frame.image is not None
                crop_frame(frame.image, crop_box, self.manifest.input_size, out=clip[t])


class StreamingEstimator(Estimator):
    """The network in two halves: new frames to tokens, and windows of tokens to poses.

    Args:
        manifest: the bundle's.
        encoder, temporal: sessions on the graphs of these names.
        times: stage times to record into.
    """

    def __init__(self, manifest: Manifest, encoder: Session, temporal: Session, times: StageTimes) -> None:
        self.manifest, self.backend, self.times = manifest, encoder.backend, times
        self.encoder, self.temporal = encoder, temporal
        T, (H, W), largest = manifest.num_frames, manifest.input_size, manifest.batch[2]
        dtype = temporal.inputs["tokens"].dtype
        self.token_type = dtype
        # Reused by every batch; one for each thread. The encoder could take T times as many frames at once as there are
        # windows in a batch; on a CPU that would only need more memory.
        self.crops = Pool(lambda: np.empty((largest, H, W, 3), np.uint8))
        self.windows = Pool(lambda: np.empty((largest, T, *manifest.token_shape), dtype))

    def start(self, hold: float) -> PoseStream:
        return _TokenStream(self, TokenCache(self.manifest.num_frames, hold))

    def close(self) -> None:
        self.encoder.close()
        self.temporal.close()


class _TokenStream(PoseStream):
    cache: TokenCache

    def __init__(self, estimator: StreamingEstimator, cache: TokenCache) -> None:
        self._estimator, self.cache = estimator, cache
        self._tokens = np.empty((0, *estimator.manifest.token_shape), estimator.token_type)  # [slots, L, C]

    def estimate(self, keyframes: Sequence[KeyframePeople], batch_size: int) -> list[Poses]:
        work, windows, boxes = schedule_keyframes(self.cache, keyframes)
        # Encode everybody's new frames together: the encoder is fast with large batches.
        self._encode(work)
        keypoints = self._decode(windows, batch_size)
        self.cache.release()
        return by_keyframe(keypoints, boxes)

    def _encode(self, work: Sequence[Work]) -> None:
        """Encode crops of frames, and put the tokens into their slots."""
        estimator, times = self._estimator, self._estimator.times
        known = len(self._tokens)
        if self.cache.num_slots > known:  # twice as many, so that growing stays rare
            grown = np.empty((max(self.cache.num_slots, 2 * known), *self._tokens.shape[1:]), self._tokens.dtype)
            grown[:known] = self._tokens
            self._tokens = grown
        with estimator.crops.lend() as memory:
            for part in batches(len(work), len(memory)):
                batch = work[part]
                crops = memory[: len(batch)]
                with times.stage("crop"):
                    for (frame, crop_box, _), crop in zip(batch, crops, strict=True):
                        assert frame.image is not None
                        crop_frame(frame.image, crop_box, estimator.manifest.input_size, out=crop)
                with times.stage("encode"):
                    self._tokens[[slot for _, _, slot in batch]] = estimator.encoder.run({"frames": crops})["tokens"]

    def _decode(self, slots: np.ndarray, batch_size: int) -> np.ndarray:
        """Turn windows of slots ``[N, T]`` into keypoints ``[N, J, 3]``."""
        estimator = self._estimator
        found = [_no_poses(estimator.manifest)]
        with estimator.windows.lend() as memory:
            for part in batches(len(slots), batch_size):
                batch = slots[part]
                windows = memory[: max(len(batch), estimator.manifest.batch[0])]
                with estimator.times.stage("temporal"):
                    np.take(self._tokens, batch, axis=0, out=windows[: len(batch)])
                    windows[len(batch) :] = windows[len(batch) - 1]
                    keypoints = estimator.temporal.run({"tokens": windows})["keypoints"][: len(batch)]
                found.append(checked(keypoints, estimator.backend))
        return np.concatenate(found)


Work = tuple[Frame, np.ndarray, int]  # a frame to encode, the crop box [4], the slot for its tokens


def schedule_keyframes(
    cache: TokenCache, keyframes: Sequence[KeyframePeople]
) -> tuple[list[Work], np.ndarray, list[np.ndarray]]:
    """Schedule some consecutive keyframes.

    Returns:
        The crops to encode; the slots of everybody's window, int64 ``[P, T]``; the crop boxes of each keyframe.
    """
    work: list[Work] = []
    windows, boxes = [np.zeros((0, cache.num_frames), np.int64)], []
    for people in keyframes:
        by_index = {frame.index: frame for frame in people.window}
        keyframe = people.window[len(people.window) // 2].index
        schedule = cache.schedule(
            keyframe, [frame.index for frame in people.window], people.crop_boxes, people.track_ids
        )
        work += [(by_index[frame], schedule.crop_boxes[person], slot) for frame, person, slot in schedule.encode]
        windows.append(schedule.windows)
        boxes.append(schedule.crop_boxes)
    return work, np.concatenate(windows), boxes


def batches(count: int, size: int) -> Iterator[slice]:
    """Split `count` items into slices of `size`; the last may be smaller."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def by_keyframe(keypoints: np.ndarray, boxes: Sequence[np.ndarray]) -> list[Poses]:
    """Split everybody's keypoints by keyframe, and pair them with the crop boxes of each."""
    ends = np.cumsum([len(each) for each in boxes])
    return list(zip(np.split(keypoints, ends[:-1]), boxes, strict=True)) if boxes else []


def _no_poses(manifest: Manifest) -> np.ndarray:
    return np.zeros((0, len(manifest.keypoints), 3), np.float32)


def checked(keypoints: np.ndarray, backend: str) -> np.ndarray:
    """Return an engine's keypoints, or raise `EngineError` if they are not finite."""
    if not np.isfinite(keypoints).all():
        raise EngineError(
            f"the engine ({backend}) returned values that are not finite: export the checkpoint again, with "
            "`precision='fp32'` if it was fp16"
        )
    return keypoints
