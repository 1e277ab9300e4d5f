"""From the frames of a window and the boxes of its people to keypoints: whole windows, or frame by frame.

`WindowEstimator` runs the whole network over T crops of each person. `StreamingEstimator` runs the bundle's two halves
and encodes only what `sdtc.runtime.token_cache` does not hold. Both cut crops, fill up the smallest batch, and split
what is larger than the largest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from sdtc.crops import crop_frame
from sdtc.errors import EngineError
from sdtc.manifest import Manifest
from sdtc.runtime.sessions import Session
from sdtc.runtime.timing import StageTimes
from sdtc.runtime.token_cache import TokenCache, Track
from sdtc.runtime.video import Frame


class Estimator(ABC):
    """Something that estimates the poses of all people of one keyframe.

    Attributes:
        backend: what runs it, for people.
    """

    backend: str

    def make_cache(self, hold: float) -> TokenCache | None:
        """Return a new cache for one source; None where nothing is cached."""
        return None

    @abstractmethod
    def estimate(
        self,
        window: Sequence[Frame],
        crop_boxes: np.ndarray,
        batch_size: int,
        cache: TokenCache | None = None,
        track_ids: Iterable[int] = (),
    ) -> tuple[np.ndarray, np.ndarray]:
        """Estimate the poses of people in the middle frame.

        Args:
            window: T frames with images; one that stands in for a missing one appears several times.
            crop_boxes: ``[P, 4]``, image pixels.
            batch_size: people at once.
            cache: of this source, from `make_cache`.
            track_ids: ``[P]``, of the people; needed with a cache.

        Returns:
            float32 ``[P, J, 3]``: x, y in crop pixels, score; and the crop boxes that they are in, ``[P, 4]``.

        Raises:
            EngineError: the backend failed, or its answer is not finite.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the backend."""


class WindowEstimator(Estimator):
    """The whole network at once: every frame of every window is encoded.

    Args:
        manifest: the bundle's.
        session: of its graph ``model``.
        times: where seconds are counted.
    """

    def __init__(self, manifest: Manifest, session: Session, times: StageTimes) -> None:
        self.manifest, self.backend, self._session, self._times = manifest, session.backend, session, times
        T, (H, W) = manifest.num_frames, manifest.input_size
        self._clips = np.empty((manifest.batch[2], T, H, W, 3), np.uint8)  # reused by every batch

    def estimate(
        self,
        window: Sequence[Frame],
        crop_boxes: np.ndarray,
        batch_size: int,
        cache: TokenCache | None = None,
        track_ids: Iterable[int] = (),
    ) -> tuple[np.ndarray, np.ndarray]:
        found = [_no_poses(self.manifest)]
        for people in _batches(len(crop_boxes), batch_size):
            with self._times.stage("crop"):
                clips = self._crop(window, crop_boxes[people])
            with self._times.stage("pose"):
                keypoints = self._session.run({"clip": clips})["keypoints"][: len(crop_boxes[people])]
            found.append(_checked(keypoints, self.backend))
        return np.concatenate(found), crop_boxes

    def close(self) -> None:
        self._session.close()

    def _crop(self, window: Sequence[Frame], crop_boxes: np.ndarray) -> np.ndarray:
        """Cut ``[B, T, H, W, 3]`` out of the window; at least the smallest batch, its last windows repeated."""
        count = max(len(crop_boxes), self.manifest.batch[0])
        clips = self._clips[:count]
        for person, crop_box in enumerate(crop_boxes):
            for t, frame in enumerate(window):
                if t and frame.image is window[t - 1].image:  # a clamped or missing frame
                    clips[person, t] = clips[person, t - 1]
                else:
                    assert frame.image is not None
                    crop_frame(frame.image, crop_box, self.manifest.input_size, out=clips[person, t])
        clips[len(crop_boxes) :] = clips[len(crop_boxes) - 1]
        return clips


class StreamingEstimator(Estimator):
    """The network in two halves: new frames into tokens, and windows of tokens into poses.

    Args:
        manifest: the bundle's.
        encoder, temporal: sessions of its two halves.
        times: where seconds are counted.
    """

    def __init__(self, manifest: Manifest, encoder: Session, temporal: Session, times: StageTimes) -> None:
        self.manifest, self.backend, self._times = manifest, encoder.backend, times
        self._encoder, self._temporal = encoder, temporal
        self._dtype = temporal.inputs["tokens"].dtype
        T, (H, W), largest = manifest.num_frames, manifest.input_size, manifest.batch[2]
        self._crops = np.empty((largest * T, H, W, 3), np.uint8)  # both are reused by every batch
        self._windows = np.empty((largest, T, *manifest.token_shape), self._dtype)

    def make_cache(self, hold: float) -> TokenCache:
        return TokenCache(self.manifest.num_frames, self.manifest.token_shape, self._dtype, hold)

    def estimate(
        self,
        window: Sequence[Frame],
        crop_boxes: np.ndarray,
        batch_size: int,
        cache: TokenCache | None = None,
        track_ids: Iterable[int] = (),
    ) -> tuple[np.ndarray, np.ndarray]:
        if cache is None:  # a window on its own: nothing is held over
            cache, track_ids = self.make_cache(0.0), range(len(crop_boxes))
        T = self.manifest.num_frames
        indices = [frame.index for frame in window]
        tracks = cache.update(window[T // 2].index, crop_boxes, track_ids)
        by_index = {frame.index: frame for frame in window}
        # Everybody's new frames together: a batch is what makes the encoder fast.
        self._encode([(track, by_index[index]) for track in tracks for index in cache.missing(track, indices)])
        slots = [index % T for index in indices]
        found = [_no_poses(self.manifest)]
        for people in _batches(len(tracks), batch_size):
            batch = tracks[people]
            windows = self._windows[: max(len(batch), self.manifest.batch[0])]
            for person, track in enumerate(batch):
                np.take(track.tokens, slots, axis=0, out=windows[person])
            windows[len(batch) :] = windows[len(batch) - 1]
            with self._times.stage("temporal"):
                keypoints = self._temporal.run({"tokens": windows})["keypoints"][: len(batch)]
            found.append(_checked(keypoints, self.backend))
        held = np.stack([track.crop_box for track in tracks]) if tracks else crop_boxes
        return np.concatenate(found), held

    def close(self) -> None:
        self._encoder.close()
        self._temporal.close()

    def _encode(self, work: list[tuple[Track, Frame]]) -> None:
        """Encode frames and put the tokens into their slots."""
        for part in _batches(len(work), len(self._crops)):
            batch = work[part]
            crops = self._crops[: len(batch)]
            with self._times.stage("crop"):
                for (track, frame), crop in zip(batch, crops, strict=True):
                    assert frame.image is not None
                    crop_frame(frame.image, track.crop_box, self.manifest.input_size, out=crop)
            with self._times.stage("encode"):
                tokens = self._encoder.run({"frames": crops})["tokens"]
            for (track, frame), frame_tokens in zip(batch, tokens, strict=True):
                track.tokens[frame.index % len(track.tokens)] = frame_tokens


def _batches(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _no_poses(manifest: Manifest) -> np.ndarray:
    return np.zeros((0, len(manifest.keypoints), 3), np.float32)


def _checked(keypoints: np.ndarray, backend: str) -> np.ndarray:
    if not np.isfinite(keypoints).all():
        raise EngineError(
            f"the engine ({backend}) answered with values that are not finite: export the checkpoint again, with "
            "--precision fp32 if it was fp16"
        )
    return keypoints
