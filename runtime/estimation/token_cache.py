"""Decides which tokens of a stream are kept, and in which slots, so that a frame is encoded once for all its windows.

Tokens belong to a frame and a crop box. A window needs the tokens of its T frames in the same box; so a person's box is
*held* from window to window while it still fits, and only the new frame has to be encoded. When the person has moved or
grown too far, the box is updated and the whole window is encoded again.

This module only schedules; it holds no tokens. Estimators keep them in an array of slots, on the host or on a GPU.
Memory is bounded: T slots for each person seen in the last T frames, and those of the keyframes in flight.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

# How far a held box may deviate, as a fraction of its sides. The documentation says what this saves and costs.
HOLD = 0.03


@dataclass
class _Track:
    """One person's held box and tokens."""

    crop_box: np.ndarray  # [4], image pixels
    last_seen: int  # the last keyframe with this person
    slots: dict[int, int] = field(default_factory=dict)  # by frame


@dataclass(frozen=True)
class Schedule:
    """What one keyframe needs: which tokens to compute, and in which slots those of its windows are.

    Attributes:
        crop_boxes: ``[P, 4]``, the boxes used to crop its people, image pixels.
        encode: (frame, person, slot) of all tokens that have to be computed; a person is a row of `crop_boxes`.
        windows: int64 ``[P, T]``, the slots of every person's window.
    """

    crop_boxes: np.ndarray
    encode: list[tuple[int, int, int]]
    windows: np.ndarray


class TokenCache:
    """Schedules the tokens of all people of one source.

    Args:
        num_frames: T.
        hold: how far the centre of a box may move, and its sides may grow or shrink, as a fraction of its sides,
            before it is updated. With 0 every window uses its keyframe's box, as in the paper.

    Attributes:
        num_slots: number of slots needed so far; it never shrinks.
        encoded, reused: number of person crops of windows that had to be encoded, and that were encoded already.
    """

    def __init__(self, num_frames: int, hold: float = HOLD) -> None:
        self.num_frames, self.hold = num_frames, hold
        self.num_slots = self.encoded = self.reused = 0
        self._tracks: dict[int, _Track] = {}
        self._free: list[int] = []
        self._retired: list[int] = []  # no longer wanted, but a schedule that has not run yet may use them

    def __len__(self) -> int:
        """Number of people whose tokens are kept."""
        return len(self._tracks)

    def schedule(
        self, keyframe: int, frames: Sequence[int], crop_boxes: np.ndarray, track_ids: Iterable[int]
    ) -> Schedule:
        """Take in the people of a keyframe, decide whose box is held, and return what has to be encoded.

        Several schedules may run together; call `release` after they have run.

        Args:
            keyframe: its index; must not decrease from call to call.
            frames: indices of the T frames of its window; one is repeated where frames are missing.
            crop_boxes: ``[P, 4]``, image pixels.
            track_ids: ``[P]``; of several people with the same id only the first is remembered.
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
        """Call this when all schedules have run: slots that are no longer wanted may now be overwritten."""
        self._free += self._retired
        self._retired.clear()

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        self.num_slots += 1
        return self.num_slots - 1

    def _retire(self, track: _Track, wanted: Sequence[int]) -> None:
        """Give up a track's tokens, except those of the wanted frames."""
        for frame in [frame for frame in track.slots if frame not in wanted]:
            self._retired.append(track.slots.pop(frame))


def fits(held: np.ndarray, wanted: np.ndarray, hold: float) -> bool:
    """Whether a held crop box ``[4]`` may be used instead of the wanted one."""
    shift = np.abs((held[:2] + held[2:] / 2) - (wanted[:2] + wanted[2:] / 2)) / wanted[2:]
    growth = np.abs(held[2:] / wanted[2:] - 1)
    return bool(max(shift.max(), growth.max()) <= hold)
