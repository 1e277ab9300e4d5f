"""Links the people of one video from frame to frame: boxes in, track ids out. NumPy only; it never looks at pixels.

After ByteTrack (Zhang et al., ECCV 2022): boxes with high scores are matched first, to the predicted boxes of all
tracks; boxes with low scores are matched to the tracks that are left. Unlike in ByteTrack, an unmatched box always
starts a track, because every box given here gets a pose. Appearance is not used, so people who change direction while
they are hidden can be confused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from sdtc.core.errors import InputError

# Gains of the alpha-beta filter: the fraction of a prediction error that corrects position, velocity and size. Detector
# boxes jitter by several percent of their size, so velocity and size follow slowly.
POSITION_GAIN, VELOCITY_GAIN, SIZE_GAIN = 0.6, 0.2, 0.3
VELOCITY_DECAY = 0.9  # per search in which the person is not found: lost people do not walk on for a whole second
MAX_LOST = 30  # frames
NEW_TRACK_REACH = 2.0  # a track seen once has no velocity yet: its box and the candidates are enlarged by this factor


@dataclass
class _Track:
    track_id: int
    centre: np.ndarray  # [2] image pixels
    size: np.ndarray  # [2] image pixels
    last_frame: int
    box_size: np.ndarray  # [2] of the last box, unfiltered, image pixels
    score: float  # of the last box
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))  # [2] image pixels per frame
    interval: int = 1  # a search runs on every so many frames
    boxes_seen: int = 1

    def predict(self, frame_index: int) -> np.ndarray:
        """Return the expected centre in a later frame."""
        searches = self._searches(frame_index)
        frames = (frame_index - self.last_frame) / searches  # frames without a search do not slow the person down
        return self.centre + self.velocity * (frames * (1 - VELOCITY_DECAY**searches) / (1 - VELOCITY_DECAY))

    def update(self, centre: np.ndarray, size: np.ndarray, score: float, frame_index: int) -> None:
        """Update with a box that belongs to this track."""
        gap = frame_index - self.last_frame
        predicted = self.predict(frame_index)
        error = centre - predicted
        gain = (POSITION_GAIN, VELOCITY_GAIN) if self.boxes_seen > 1 else (1.0, 1.0)
        self.centre = predicted + gain[0] * error
        self.velocity = self.velocity * VELOCITY_DECAY ** (self._searches(frame_index) - 1) + gain[1] * error / gap
        self.size = self.size + SIZE_GAIN * (size - self.size)
        self.box_size, self.score = size, score
        self.last_frame = frame_index
        self.boxes_seen += 1

    def _searches(self, frame_index: int) -> int:
        """Return how many searches there were since the person was last seen, up to and including a later frame."""
        return -((self.last_frame - frame_index) // self.interval)


class Tracker:
    """Assigns a track id to every box of every frame.

    Args:
        match_iou: a box may continue a track if it overlaps the track's predicted box by at least this IoU.
        high_score: boxes with at least this score are matched first.
        max_lost: for this many frames a person may be missing and still keep the id.
        interval: a search runs, and `update` is called, on every so many frames.
        first_id: track ids start here.
    """

    def __init__(
        self,
        match_iou: float = 0.2,
        high_score: float = 0.5,
        max_lost: int = MAX_LOST,
        interval: int = 1,
        first_id: int = 0,
    ) -> None:
        self.interval = interval
        self.match_iou = match_iou
        self.high_score = high_score
        self.max_lost = max_lost
        self._tracks: list[_Track] = []
        self._next_id = first_id
        self._last_frame: int | None = None

    def __len__(self) -> int:
        """Number of tracks that a box could still continue."""
        return len(self._tracks)

    def update(self, boxes: np.ndarray, scores: np.ndarray, frame_index: int) -> np.ndarray:
        """Link the boxes of one frame to the tracks so far.

        Args:
            boxes: ``[N, 4]``, (x, y, width, height) in image pixels.
            scores: ``[N]``, 0-1.
            frame_index: of the frame; must grow from call to call, gaps are allowed.

        Returns:
            int64 ``[N]``: track ids from `first_id` on, unique within the frame, never reused.

        Raises:
            InputError: the frame index does not grow, or boxes and scores do not belong together.
        """
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        scores = np.asarray(scores, dtype=np.float64).reshape(-1)
        if len(boxes) != len(scores):
            raise InputError(f"the tracker needs one score per box, got {len(boxes)} boxes and {len(scores)} scores")
        self._advance(frame_index)
        ids = np.full(len(boxes), -1, dtype=np.int64)
        if self._tracks and len(boxes):
            overlap = self._overlaps(boxes, frame_index)  # [tracks, N]
            free = np.ones(len(self._tracks), dtype=bool)
            for chosen in (scores >= self.high_score, scores < self.high_score):
                rows, columns = np.flatnonzero(free), np.flatnonzero(chosen)
                for i, j in assign(overlap[np.ix_(rows, columns)]):
                    track, n = self._tracks[rows[i]], columns[j]
                    track.update(boxes[n, :2] + boxes[n, 2:] / 2, boxes[n, 2:], scores[n], frame_index)
                    ids[n] = track.track_id
                    free[rows[i]] = False
        for n in np.flatnonzero(ids < 0):
            ids[n] = self._next_id
            centre, size = boxes[n, :2] + boxes[n, 2:] / 2, boxes[n, 2:]
            self._tracks.append(
                _Track(self._next_id, centre, size, frame_index, size, float(scores[n]), interval=self.interval)
            )
            self._next_id += 1
        return ids

    def predict(self, frame_index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predict where the people of the last update are in a later frame without a search.

        Args:
            frame_index: of the frame.
            size: (H, W) of the frame; people who have left it are omitted.

        Returns:
            float32 boxes ``[N, 4]``, scores ``[N]`` and int64 track ids ``[N]``.
        """
        there = []
        for track in self._tracks:
            if track.last_frame == self._last_frame:
                x, y = track.predict(frame_index) - track.box_size / 2
                if -track.box_size[0] < x < size[1] and -track.box_size[1] < y < size[0]:
                    there.append((np.array([x, y, *track.box_size]), track.score, track.track_id))
        boxes, scores, ids = zip(*there, strict=True) if there else ((), (), ())
        return np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(ids, np.int64)

    def recall(self, boxes: np.ndarray, scores: np.ndarray, track_ids: Iterable[int], frame_index: int) -> None:
        """Take in a frame whose boxes have ids already, such as the last ones of a run that is resumed.

        Args:
            boxes: ``[N, 4]``, image pixels.
            scores: ``[N]``, 0-1.
            track_ids: ``[N]``, below `first_id`; of several people with the same id only the last is remembered.
            frame_index: as for `update`.

        Raises:
            InputError: the frame index does not grow.
        """
        self._advance(frame_index)
        tracks = {track.track_id: track for track in self._tracks}
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        for track_id, n in {track_id: n for n, track_id in enumerate(track_ids)}.items():
            centre, size, score = boxes[n, :2] + boxes[n, 2:] / 2, boxes[n, 2:], float(scores[n])
            if track_id in tracks:
                tracks[track_id].update(centre, size, score, frame_index)
            else:
                self._tracks.append(_Track(track_id, centre, size, frame_index, size, score, interval=self.interval))

    def _advance(self, frame_index: int) -> None:
        """Move on to a frame, and drop the tracks that have been lost too long."""
        if self._last_frame is not None and frame_index <= self._last_frame:
            raise InputError(
                f"the tracker needs growing frame indices, got {frame_index} after {self._last_frame}: "
                "use a new Tracker for each video"
            )
        self._last_frame = frame_index
        # a person unseen in all frames between: last_frame + 1 ... frame_index - 1
        self._tracks = [t for t in self._tracks if frame_index - t.last_frame - 1 <= self.max_lost]

    def _overlaps(self, boxes: np.ndarray, frame_index: int) -> np.ndarray:
        """IoU of every predicted track with every box ``[tracks, N]``; 0 where it is below ``match_iou``."""
        centres = np.stack([t.predict(frame_index) for t in self._tracks])[:, None]  # [tracks, 1, 2]
        sizes = np.stack([t.size for t in self._tracks])[:, None]
        reach = np.array([NEW_TRACK_REACH if t.boxes_seen == 1 else 1.0 for t in self._tracks])[:, None, None]
        box_sizes = boxes[None, :, 2:]
        distance = np.abs(centres - boxes[None, :, :2] - box_sizes / 2)
        sides = np.minimum((sizes + box_sizes) * reach / 2 - distance, np.minimum(sizes, box_sizes) * reach)
        overlap = np.prod(np.clip(sides, 0, None), axis=-1)
        union = (np.prod(sizes, axis=-1) + np.prod(box_sizes, axis=-1)) * reach[..., 0] ** 2 - overlap
        iou = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
        return np.where(iou >= self.match_iou, iou, 0.0)


def assign(benefit: np.ndarray) -> list[tuple[int, int]]:
    """Pair rows with columns so that the sum of benefits is largest (shortest augmenting paths, exact).

    Exact rather than greedy because a greedy choice swaps people just where it matters, when they overlap. For 50
    people it takes a few milliseconds, far less than their poses.

    Args:
        benefit: ``[rows, columns]``, not negative; 0 forbids a pair.

    Returns:
        (row, column) pairs with benefits above 0.
    """
    if benefit.shape[0] > benefit.shape[1]:
        return [(i, j) for j, i in assign(benefit.T)]
    rows, columns = benefit.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    row_of = np.full(columns, -1)  # the row paired with each column
    for start in range(rows):
        # Dijkstra over columns from one unpaired row, with reduced costs
        distance, origin = np.full(columns, np.inf), np.full(columns, -1)
        done = np.zeros(columns, dtype=bool)
        row, column, length = start, -1, 0.0
        while row >= 0:
            through = length - benefit[row] - row_price[row] - column_price
            closer = ~done & (through < distance)
            distance[closer], origin[closer] = through[closer], column
            column = int(np.argmin(np.where(done, np.inf, distance)))
            length, row = distance[column], row_of[column]
            done[column] = True
        row_price[start] += length
        finished = done & (row_of >= 0)
        row_price[row_of[finished]] += length - distance[finished]
        column_price[done] += distance[done] - length
        while column >= 0:  # shift the pairs along the path
            previous = origin[column]
            row_of[column] = start if previous < 0 else row_of[previous]
            column = previous
    return [(int(row_of[j]), int(j)) for j in np.flatnonzero(row_of >= 0) if benefit[row_of[j], j] > 0]
