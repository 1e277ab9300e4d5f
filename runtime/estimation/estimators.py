"""Estimators: from windows of frames and person boxes to keypoints, by whole windows or frame by frame.

`WindowEstimator` runs the whole network on T crops of each person. `StreamingEstimator` runs the network in two halves:
it encodes only crops that `token_cache` has no tokens of, and resamples tokens into windows. Both take several
keyframes of several sources at once, cut crops, pad batches below the bundle's smallest batch, and split those above
its largest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sdtc.core.crops import crop_frame
from sdtc.core.errors import EngineError
from sdtc.core.manifest import Manifest
from sdtc.core.resampling import Resampler, token_places
from sdtc.runtime.backends.pool import Pool
from sdtc.runtime.backends.session import Session
from sdtc.runtime.estimation.shared_batches import SharedBatches
from sdtc.runtime.estimation.timing import StageTimes
from sdtc.runtime.estimation.token_cache import SlotPool, TokenCache
from sdtc.runtime.sources.base import Frame


@dataclass(frozen=True)
class KeyframePeople:
    """The people of one keyframe.

    Attributes:
        window: T frames with images, the keyframe in the middle; a frame that replaces missing ones appears several
            times.
        crop_boxes: ``[P, 4]``, image pixels.
        track_ids: ``[P]``.
        known: by index of the other frames and by track id, the crop boxes ``[4]`` of people who were found there.
            Where somebody was not, a box of another frame is used.
    """

    window: Sequence[Frame]
    crop_boxes: np.ndarray
    track_ids: Sequence[int]
    known: Mapping[int, Mapping[int, np.ndarray]] = field(default_factory=dict)


class PoseStream(ABC):
    """Estimates the people of one source, keyframe after keyframe.

    Attributes:
        cache: schedules the tokens; None for whole windows.
    """

    cache: TokenCache | None = None

    @abstractmethod
    def estimate(self, keyframes: Sequence[KeyframePeople], batch_size: int) -> list[np.ndarray]:
        """Estimate the poses of everybody in some consecutive keyframes.

        Args:
            keyframes: in order.
            batch_size: windows per batch.

        Returns:
            For each keyframe, float32 ``[P, J, 3]``: x, y in pixels of the person's crop, score.

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
    def start(self) -> PoseStream:
        """Begin a source."""

    @abstractmethod
    def close(self) -> None:
        """Release the backend."""


@dataclass(frozen=True)
class Request:
    """What a thread wants estimated: keyframes of one source, at most `batch_size` windows per batch."""

    source: PoseStream
    keyframes: Sequence[KeyframePeople]
    batch_size: int


class WindowEstimator(Estimator, PoseStream):
    """The whole network at once: every frame of every window is encoded. It has no state, so it is its own stream.

    Args:
        manifest: the bundle's.
        session: on the graph ``model``.
        times: stage times to record into.
        lanes: how many batches may run at the same time.
    """

    def __init__(self, manifest: Manifest, session: Session, times: StageTimes, lanes: int = 1) -> None:
        self.manifest, self.backend, self._session, self._times = manifest, session.backend, session, times
        T, (H, W) = manifest.num_frames, manifest.input_size
        self._clips = Pool(lambda: np.empty((manifest.batch[2], T, H, W, 3), np.uint8))
        self._batches = SharedBatches(self._run, lanes)

    def start(self) -> PoseStream:
        return self

    def estimate(self, keyframes: Sequence[KeyframePeople], batch_size: int) -> list[np.ndarray]:
        if not any(len(people.crop_boxes) for people in keyframes):  # nothing to wait for
            return [no_poses(self.manifest) for _ in keyframes]
        return self._batches(Request(self, keyframes, batch_size))

    def _run(self, requests: Sequence[Request]) -> list[list[np.ndarray]]:
        people = [each for request in requests for each in request.keyframes]
        everybody = [(each.window, crop_box) for each in people for crop_box in each.crop_boxes]
        found = [no_poses(self.manifest)]
        with self._clips.lend() as memory:
            for part in batches(len(everybody), min(request.batch_size for request in requests)):
                batch = everybody[part]
                clips = memory[: max(len(batch), self.manifest.batch[0])]
                with self._times.stage("crop"):
                    for (window, crop_box), clip in zip(batch, clips, strict=False):
                        self._crop(window, crop_box, clip)
                    clips[len(batch) :] = clips[len(batch) - 1]
                with self._times.stage("pose"):
                    keypoints = self._session.run({"clip": clips}, ("keypoints",))["keypoints"][: len(batch)]
                found.append(checked(keypoints, self.backend))
        return by_request(np.concatenate(found), requests)

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


Crop = tuple[Frame, np.ndarray, int]  # a frame to encode, the crop box [4], the slot for its tokens


@dataclass(frozen=True)
class Plan:
    """What a request needs.

    Attributes:
        request: the request.
        crops: to be encoded.
        slots: int64 ``[P, T]``, of everybody's window.
        places: float32 ``[P, T, 4]``, where the keyframe's tokens lie in those of the slots
            (`sdtc.core.resampling.token_places`).
    """

    request: Request
    crops: list[Crop]
    slots: np.ndarray
    places: np.ndarray


def make_plan(manifest: Manifest, cache: TokenCache, request: Request) -> Plan:
    """Schedule a request."""
    crops: list[Crop] = []
    T = manifest.num_frames
    slots, used, own = [np.zeros((0, T), np.int64)], [np.zeros((0, T, 4))], [np.zeros((0, 4))]
    for people in request.keyframes:
        by_index = {frame.index: frame for frame in people.window}
        frames = [frame.index for frame in people.window]
        schedule = cache.schedule(frames, people.crop_boxes, people.track_ids, people.known)
        crops += [(by_index[frame], crop_box, slot) for frame, crop_box, slot in schedule.encode]
        slots.append(schedule.slots)
        used.append(schedule.crop_boxes)
        own.append(people.crop_boxes.reshape(-1, 4))
    places = token_places(manifest, np.concatenate(used), np.concatenate(own)[:, None])
    return Plan(request, crops, np.concatenate(slots), places)


class TokenEstimator(Estimator):
    """The network in two halves, whose tokens are kept from keyframe to keyframe.

    Args:
        manifest: the bundle's.
        lanes: how many batches may run at the same time.
    """

    def __init__(self, manifest: Manifest, lanes: int = 1) -> None:
        self.manifest = manifest
        self.slots = SlotPool()
        self._batches = SharedBatches(self.run, lanes)

    def start(self) -> PoseStream:
        return TokenStream(self, TokenCache(self.manifest.num_frames, self.slots))

    def estimate(self, plan: Plan) -> list[np.ndarray]:
        """Return the poses of each keyframe of a plan's request."""
        return self._batches(plan)

    @abstractmethod
    def run(self, plans: Sequence[Plan]) -> list[list[np.ndarray]]:
        """Return the poses of each keyframe of each plan's request; it may run again after it has failed."""

    def forget(self, source: PoseStream) -> None:
        """Release what is kept of a source that has ended."""


class TokenStream(PoseStream):
    """One source of a `TokenEstimator`, with its tokens."""

    cache: TokenCache

    def __init__(self, estimator: TokenEstimator, cache: TokenCache) -> None:
        self._estimator, self.cache = estimator, cache

    def estimate(self, keyframes: Sequence[KeyframePeople], batch_size: int) -> list[np.ndarray]:
        try:
            plan = make_plan(self._estimator.manifest, self.cache, Request(self, keyframes, batch_size))
            if not plan.crops and not len(plan.slots):  # nothing to wait for
                return [no_poses(self._estimator.manifest) for _ in keyframes]
            return self._estimator.estimate(plan)
        finally:
            self.cache.release()

    def end(self) -> None:
        self.cache.end()
        self._estimator.forget(self)


class StreamingEstimator(TokenEstimator):
    """The network in two halves: new crops to tokens, and windows of tokens to poses.

    Args:
        manifest: the bundle's.
        encoder, temporal: sessions on the graphs of these names.
        times: stage times to record into.
        lanes: how many batches may run at the same time.
    """

    def __init__(
        self, manifest: Manifest, encoder: Session, temporal: Session, times: StageTimes, lanes: int = 1
    ) -> None:
        super().__init__(manifest, lanes)
        self.backend, self.times = encoder.backend, times
        self.encoder, self.temporal = encoder, temporal
        T, (H, W), largest = manifest.num_frames, manifest.input_size, manifest.batch[2]
        shape = manifest.token_shape
        self._tokens: list[np.ndarray] = []  # by slot, [L, C]
        # Reused by every batch; one for each lane. The encoder could take T times as many frames at once as there are
        # windows in a batch; on a CPU that would only need more memory.
        self._crops = Pool(lambda: np.empty((largest, H, W, 3), np.uint8))
        self._windows = Pool(
            lambda: (np.empty((largest, T, *shape), np.float32), Resampler(manifest.token_grid, shape[1]))
        )

    def close(self) -> None:
        self.encoder.close()
        self.temporal.close()

    def run(self, plans: Sequence[Plan]) -> list[list[np.ndarray]]:
        # Encode everybody's new frames together: the encoder is fast with large batches.
        self._encode([crop for plan in plans for crop in plan.crops])
        requests = [plan.request for plan in plans]
        slots, places = np.concatenate([p.slots for p in plans]), np.concatenate([p.places for p in plans])
        keypoints = self._decode(slots, places, min(request.batch_size for request in requests))
        return by_request(keypoints, requests)

    def _encode(self, crops: Sequence[Crop]) -> None:
        """Encode crops of frames, and put the tokens into their slots."""
        while len(self._tokens) < self.slots.num_slots:  # appending is safe in several lanes
            self._tokens.append(np.empty(self.manifest.token_shape, np.float32))
        with self._crops.lend() as memory:
            for part in batches(len(crops), len(memory)):
                batch = crops[part]
                images = memory[: len(batch)]
                with self.times.stage("crop"):
                    for (frame, crop_box, _), image in zip(batch, images, strict=True):
                        assert frame.image is not None
                        crop_frame(frame.image, crop_box, self.manifest.input_size, out=image)
                with self.times.stage("encode"):
                    tokens = self.encoder.run({"frames": images})["tokens"]
                    for (_, _, slot), encoded in zip(batch, tokens, strict=True):
                        self._tokens[slot][...] = encoded

    def _decode(self, slots: np.ndarray, places: np.ndarray, batch_size: int) -> np.ndarray:
        """Turn windows of slots ``[N, T]``, sampled at places ``[N, T, 4]``, into keypoints ``[N, J, 3]``."""
        found = [no_poses(self.manifest)]
        with self._windows.lend() as (memory, resampler):
            for part in batches(len(slots), batch_size):
                count = len(slots[part])
                windows = memory[: max(count, self.manifest.batch[0])]
                with self.times.stage("gather"):
                    maps = [self._tokens[slot] for slot in slots[part].flat]
                    resampler.gather(maps, places[part].reshape(-1, 4), windows[:count].reshape(-1, *maps[0].shape))
                    windows[count:] = windows[count - 1]
                with self.times.stage("temporal"):
                    keypoints = self.temporal.run({"tokens": windows}, ("keypoints",))["keypoints"][:count]
                found.append(checked(keypoints, self.backend))
        return np.concatenate(found)


def batches(count: int, size: int) -> Iterator[slice]:
    """Split `count` items into slices of `size`; the last may be smaller."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def by_request(keypoints: np.ndarray, requests: Sequence[Request]) -> list[list[np.ndarray]]:
    """Split everybody's keypoints by request and keyframe."""
    found: list[list[np.ndarray]] = []
    start = 0
    for request in requests:
        found.append([])
        for people in request.keyframes:
            found[-1].append(keypoints[start : start + len(people.crop_boxes)])
            start += len(people.crop_boxes)
    return found


def no_poses(manifest: Manifest) -> np.ndarray:
    return np.zeros((0, len(manifest.keypoints), 3), np.float32)


def checked(keypoints: np.ndarray, backend: str) -> np.ndarray:
    """Return an engine's keypoints, or raise `EngineError` if they are not finite."""
    if not np.isfinite(keypoints).all():
        raise EngineError(
            f"the engine ({backend}) returned values that are not finite: export the checkpoint again, with "
            "`precision='fp32'` if it was fp16"
        )
    return keypoints
