"""Decides which tokens of a stream are kept, and in which slots, so that a person is encoded once in every frame.

Tokens belong to a person, a frame and the crop box of that frame. A window takes the tokens of its T frames as they
are, each with the crop box that it was encoded in; whoever puts windows together resamples them
(`sdtc.core.resampling`). Where a person was not found in a frame, the nearest box of the window is used.

This module only schedules; it holds no tokens. Estimators keep them in slots, on the host or on a GPU. Memory is
bounded: T slots for each person seen in the last T frames, and those of the keyframes in flight.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


class SlotPool:
    """Numbers of the slots that tokens lie in, for all streams of an estimator; any thread may use it.

    Attributes:
        num_slots: number of slots needed so far; it never shrinks.
    """

    def __init__(self) -> None:
        self.num_slots = 0
        self._free: list[int] = []
        self._lock = threading.Lock()

    def take(self) -> int:
        with self._lock:
            if self._free:
                return heapq.heappop(self._free)  # the lowest, so that few are in use after a crowd
            self.num_slots += 1
            return self.num_slots - 1

    def give_back(self, slots: Sequence[int]) -> None:
        with self._lock:
            for slot in slots:
                heapq.heappush(self._free, slot)


Tokens = tuple[int, np.ndarray]  # the slot of a token map, the crop box [4] that it was encoded in


@dataclass
class _Track:
    """One person's tokens, by frame."""

    last_seen: int  # the last frame with this person
    tokens: dict[int, Tokens] = field(default_factory=dict)


@dataclass(frozen=True)
class Schedule:
    """What one keyframe needs: which tokens to compute, and which ones its windows are made of.

    Attributes:
        encode: (frame, crop box ``[4]``, slot) of all tokens that have to be computed.
        slots: int64 ``[P, T]``, of every person's window.
        crop_boxes: ``[P, T, 4]``, that these tokens were encoded in, image pixels.
    """

    encode: list[tuple[int, np.ndarray, int]]
    slots: np.ndarray
    crop_boxes: np.ndarray


class TokenCache:
    """Schedules the tokens of all people of one source.

    Args:
        num_frames: T.
        slots: to take slots from, shared with other sources.

    Attributes:
        encoded: number of crops that had to be encoded.
        estimated: number of poses that were scheduled.
    """

    def __init__(self, num_frames: int, slots: SlotPool) -> None:
        self.num_frames, self._slots = num_frames, slots
        self.encoded = self.estimated = 0
        self._tracks: dict[int, _Track] = {}
        self._retired: list[int] = []  # no longer wanted, but a schedule that has not run yet may use them

    def __len__(self) -> int:
        """Number of people whose tokens are kept."""
        return len(self._tracks)

    def schedule(
        self,
        frames: Sequence[int],
        crop_boxes: np.ndarray,
        track_ids: Sequence[int],
        known: Mapping[int, Mapping[int, np.ndarray]],
    ) -> Schedule:
        """Take in the people of a keyframe, and return what has to be encoded.

        People of the newest frame are encoded when it comes, so that the work of a new person is spread over several
        keyframes. Several schedules may run together; call `release` after they have run.

        Args:
            frames: indices of the T frames of the window, the keyframe in the middle; one is repeated where frames are
                missing. Keyframes must not decrease from call to call.
            crop_boxes: ``[P, 4]``, of the keyframe's people, image pixels.
            track_ids: ``[P]``; of several people with the same id only the first is remembered.
            known: by index of the window's other frames and by track id, the crop boxes of the people found there.
        """
        keyframe = frames[len(frames) // 2]
        wanted = list(dict.fromkeys(frames))
        for key in [key for key, track in self._tracks.items() if track.last_seen <= keyframe - self.num_frames]:
            self._retire(self._tracks.pop(key), ())
        encode: list[tuple[int, np.ndarray, int]] = []

        def tokens_of(track: _Track, frame: int, boxes: Mapping[int, np.ndarray]) -> Tokens:
            if frame not in track.tokens:
                nearest = min(boxes, key=lambda other: (abs(other - frame), other))
                track.tokens[frame] = self._slots.take(), boxes[nearest]
                encode.append((frame, boxes[nearest], track.tokens[frame][0]))
            return track.tokens[frame]

        slots = np.empty((len(crop_boxes), len(frames)), np.int64)
        used = np.empty((len(crop_boxes), len(frames), 4))
        seen: set[int] = set()
        for person, (track_id, crop_box) in enumerate(zip(track_ids, crop_boxes, strict=True)):
            boxes = {keyframe: crop_box}
            if track_id in seen:  # who this is in other frames is not known
                track = _Track(keyframe)
            else:
                seen.add(track_id)
                track = self._tracks.setdefault(track_id, _Track(keyframe))
                track.last_seen = max(track.last_seen, keyframe)
                boxes |= {frame: known[frame][track_id] for frame in wanted if track_id in known.get(frame, ())}
            self._retire(track, wanted)
            window = [tokens_of(track, frame, boxes) for frame in frames]
            slots[person] = [slot for slot, _ in window]
            used[person] = [box for _, box in window]
            if track is not self._tracks.get(track_id):
                self._retire(track, ())
        newest = frames[-1]
        for track_id, crop_box in known.get(newest, {}).items():
            if track_id not in seen and newest != keyframe:
                track = self._tracks.setdefault(track_id, _Track(newest))
                track.last_seen = max(track.last_seen, newest)
                self._retire(track, wanted)
                tokens_of(track, newest, {newest: crop_box})
        self.encoded += len(encode)
        self.estimated += len(slots)
        return Schedule(encode, slots, used)

    def release(self) -> None:
        """Call this when all schedules have run: slots that are no longer wanted may now be overwritten."""
        self._slots.give_back(self._retired)
        self._retired = []

    def end(self) -> None:
        """Give all slots back: the source has ended, and no schedule will run."""
        for track in self._tracks.values():
            self._retire(track, ())
        self._tracks.clear()
        self.release()

    def _retire(self, track: _Track, wanted: Sequence[int]) -> None:
        """Give up a track's tokens, except those of the wanted frames."""
        for frame in [frame for frame in track.tokens if frame not in wanted]:
            self._retired.append(track.tokens.pop(frame)[0])
