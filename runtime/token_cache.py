"""The tokens of the people in a stream, so that a frame is encoded once and serves every window that holds it.

Tokens belong to a frame and a crop box. A window wants the tokens of its T frames in one and the same box; so a
person's box is *held* from window to window while it still fits, and only a new frame has to be encoded. When the
person has moved or grown too far, the box is taken anew and the window encoded again.

Memory is bounded: T frames of tokens for each person seen in the last T frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

# How far a box may be off, in shares of its sides: see the README for what it saves and costs.
HOLD = 0.03


@dataclass
class Track:
    """One person's held box and tokens.

    Attributes:
        crop_box: ``[4]``, image pixels.
        tokens: ``[T, L, C]``; frame i lies in slot i mod T.
        frames: int64 ``[T]``, the frame in each slot; -1 for none.
        last_seen: the last keyframe that this person was in.
    """

    crop_box: np.ndarray
    tokens: np.ndarray
    frames: np.ndarray
    last_seen: int


class TokenCache:
    """Tokens by person, of one source.

    Args:
        num_frames: T.
        token_shape: (L, C).
        dtype: of the tokens.
        hold: how far the centre of a box may move, and its sides may grow or shrink, in shares of its sides, before
            it is taken anew. With 0 every window is exactly its keyframe's box, as the paper has it.

    Attributes:
        encoded, reused: how many frames of windows had to be encoded, and how many were there already.
    """

    def __init__(self, num_frames: int, token_shape: tuple[int, int], dtype: np.dtype, hold: float = HOLD) -> None:
        self.num_frames, self.token_shape, self.dtype, self.hold = num_frames, token_shape, dtype, hold
        self.encoded = self.reused = 0
        self._tracks: dict[int, Track] = {}

    def __len__(self) -> int:
        """Number of people whose tokens are kept."""
        return len(self._tracks)

    def update(self, keyframe: int, crop_boxes: np.ndarray, track_ids: Iterable[int]) -> list[Track]:
        """Take in the people of a keyframe and decide whose box is held.

        Args:
            keyframe: its index; must not shrink from call to call.
            crop_boxes: ``[P, 4]``, image pixels.
            track_ids: ``[P]``; of two people with the same id only the first is remembered.

        Returns:
            Their tracks, in order; those whose box was taken anew are empty.
        """
        expired = [key for key, track in self._tracks.items() if track.last_seen <= keyframe - self.num_frames]
        for key in expired:
            del self._tracks[key]
        found: list[Track] = []
        for track_id, crop_box in zip(track_ids, crop_boxes, strict=True):
            track = self._tracks.get(int(track_id))
            if track is None or any(track is other for other in found):
                tokens = np.empty((self.num_frames, *self.token_shape), self.dtype)
                track = Track(crop_box, tokens, np.full(self.num_frames, -1, np.int64), keyframe)
                self._tracks.setdefault(int(track_id), track)
            elif not fits(track.crop_box, crop_box, self.hold):
                track.crop_box = crop_box
                track.frames[:] = -1
            track.last_seen = keyframe
            found.append(track)
        return found

    def missing(self, track: Track, frames: Sequence[int]) -> list[int]:
        """Say which frames of a window have to be encoded for a person, and count them; a slot is theirs from now on.

        Args:
            track: from `update`.
            frames: indices of the window's frames; the same one several times where frames are missing.
        """
        wanted = list(dict.fromkeys(frames))
        new = [frame for frame in wanted if track.frames[frame % self.num_frames] != frame]
        for frame in new:
            track.frames[frame % self.num_frames] = frame
        self.encoded += len(new)
        self.reused += len(wanted) - len(new)
        return new


def fits(held: np.ndarray, wanted: np.ndarray, hold: float) -> bool:
    """Whether a held crop box ``[4]`` may stand for the wanted one."""
    shift = np.abs((held[:2] + held[2:] / 2) - (wanted[:2] + wanted[2:] / 2)) / wanted[2:]
    growth = np.abs(held[2:] / wanted[2:] - 1)
    return bool(max(shift.max(), growth.max()) <= hold)
