"""Which tokens of the people in a stream are kept, and where, so that a frame is encoded once for all its windows.

Tokens belong to a frame and a crop box. A window wants the tokens of its T frames in one and the same box; so a
person's box is *held* from window to window while it still fits, and only a new frame has to be encoded. When the
person has moved or grown too far, the box is taken anew and the window encoded again.

This module schedules; it holds no tokens. Estimators keep them in an array of slots, on the host or on a GPU. Memory is
bounded: T slots for each person seen in the last T frames, and those of the keyframes in flight.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

# How far a box may be off, in shares of its sides: see the README for what it saves and costs.
HOLD = 0.03


@dataclass
class _Track:
    """One person's held box and tokens."""

    crop_box: np.ndarray  # [4], image pixels
    last_seen: int  # the last keyframe that this person was in
    slots: dict[int, int] = field(default_factory=dict)  # by frame


@dataclass(frozen=True)
class Schedule:
    """What one keyframe needs: which tokens to compute, and where those of its windows lie.

    Attributes:
        crop_boxes: ``[P, 4]``, the boxes that its people are cut out in, image pixels.
        encode: (frame, person, slot) of all tokens that are not there yet; persons are rows of `crop_boxes`.
        windows: int64 ``[P, T]``, the slots of every person's window.
    """

    crop_boxes: np.ndarray
    encode: list[tuple[int, int, int]]
    windows: np.ndarray


class TokenCache:
    """Tokens by person, of one source.

    Args:
        num_frames: T.
        hold: how far the centre of a box may move, and its sides may grow or shrink, in shares of its sides, before
            it is taken anew. With 0 every window is exactly its keyframe's box, as the paper has it.

    Attributes:
        num_slots: how many slots are needed so far; it never shrinks.
        encoded, reused: how many frames of windows had to be encoded, and how many were there already.
    """

    def __init__(self, num_frames: int, hold: float = HOLD) -> None:
        self.num_frames, self.hold = num_frames, hold
        self.num_slots = self.encoded = self.reused = 0
        self._tracks: dict[int, _Track] = {}
        self._free: list[int] = []
        self._retired: list[int] = []  # no longer wanted, but perhaps used by a schedule that has not run yet

    def __len__(self) -> int:
        """Number of people whose tokens are kept."""
        return len(self._tracks)

    def schedule(
        self, keyframe: int, frames: Sequence[int], crop_boxes: np.ndarray, track_ids: Iterable[int]
    ) -> Schedule:
        """Take in the people of a keyframe, decide whose box is held, and say what has to be encoded.

        Several schedules may run together; call `release` once they have.

        Args:
            keyframe: its index; must not shrink from call to call.
            frames: the T frames of its window; the same one several times where frames are missing.
            crop_boxes: ``[P, 4]``, image pixels.
            track_ids: ``[P]``; of two people with the same id only the first is remembered.
        """
        for key in [key for key, track in self._tracks.items() if track.last_seen <= keyframe - self.num_frames]:
            self._retire(self._tracks.pop(key), ())
        wanted = list(dict.fromkeys(frames))
        encode: list[tuple[int, int, int]] = []
        windows = np.empty((len(crop_boxes), len(frames)), np.int64)
        held = np.array(crop_boxes, np.float64).reshape(-1, 4)
        seen: set[int] = set()
        for person, (track_id, crop_box) in enumerate(zip(track_ids, crop_boxes, strict=True)):
            known = self._tracks.get(int(track_id))
            again = int(track_id) in seen
            if known is None or again:
                track = _Track(crop_box, keyframe)
                if not again:
                    self._tracks[int(track_id)] = track
            else:
                track = known
                if not fits(track.crop_box, crop_box, self.hold):
                    track.crop_box = crop_box
                    self._retire(track, ())
            seen.add(int(track_id))
            track.last_seen = keyframe
            self._retire(track, wanted)
            for frame in wanted:
                if frame not in track.slots:
                    track.slots[frame] = self._take()
                    encode.append((frame, person, track.slots[frame]))
            windows[person] = [track.slots[frame] for frame in frames]
            held[person] = track.crop_box
            if again:
                self._retire(track, ())
        self.encoded += len(encode)
        self.reused += len(wanted) * len(windows) - len(encode)
        return Schedule(held, encode, windows)

    def release(self) -> None:
        """Everything that was scheduled has run: what nobody wants any more may be overwritten."""
        self._free += self._retired
        self._retired.clear()

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        self.num_slots += 1
        return self.num_slots - 1

    def _retire(self, track: _Track, wanted: Sequence[int]) -> None:
        """Give up a track's tokens but for those of some frames."""
        for frame in [frame for frame in track.slots if frame not in wanted]:
            self._retired.append(track.slots.pop(frame))


def fits(held: np.ndarray, wanted: np.ndarray, hold: float) -> bool:
    """Whether a held crop box ``[4]`` may stand for the wanted one."""
    shift = np.abs((held[:2] + held[2:] / 2) - (wanted[:2] + wanted[2:] / 2)) / wanted[2:]
    growth = np.abs(held[2:] / wanted[2:] - 1)
    return bool(max(shift.max(), growth.max()) <= hold)
