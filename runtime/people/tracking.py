"""Links the people of one video from frame to frame: boxes in, track ids out. NumPy only; it never looks at pixels.

After ByteTrack (Zhang et al., ECCV 2022): boxes with high scores are matched first, to the predicted boxes of all
tracks; boxes with low scores are matched to the tracks that are left. Unlike in ByteTrack, an unmatched box always
starts a track, because every box given here gets a pose. Appearance is not used, so people who change direction while
they are hidden can be confused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from sdtc.core.errors import InputError
from sdtc.runtime.people.rates import MIN_STEP, ROUNDING, STEP, share

# Gains of the alpha-beta filter at 25 frames a second: the fraction of a prediction error that corrects position,
# velocity and size. Detector boxes jitter by several percent of their size, so velocity and size follow slowly.
POSITION_GAIN, VELOCITY_GAIN, SIZE_GAIN = 0.6, 0.2, 0.3
VELOCITY_DECAY = 0.9  # per `STEP` in which the person is not found: lost people do not walk on for a whole second
PAUSE = 6.0  # times the step before: no rate of frames changes so much from one to the next
MAX_STEADY = 1.0  # seconds that people walk on if nobody looks: longer pauses say nothing about where they are
MAX_LOST = 1.2  # seconds of searching for somebody in vain
MAX_PAUSE = 5.0  # seconds without any search: videos may leave out frames in which nothing moves
NEW_TRACK_REACH = 2.0  # a track seen once has no velocity yet: its box and the candidates are enlarged by this factor


@dataclass
class _Track:
    track_id: int
    centre: np.ndarray  # [2] image pixels
    size: np.ndarray  # [2] image pixels
    time: float  # of the last box, seconds
    search: int  # number of the search that found it
    box_size: np.ndarray  # [2] of the last box, unfiltered, image pixels
    score: float  # of the last box
    velocity: np.ndarray = field(default_factory=lambda: np.zeros(2))  # [2] image pixels per second
    boxes_seen: int = 1
    missed: float | None = None  # time of the first search since then that did not find the person, seconds

    def predict(self, time: float) -> np.ndarray:
        """Return the expected centre at a later time."""
        steady, slowing = self._walk(time)
        return self.centre + self.velocity * (steady + STEP * share(1 - VELOCITY_DECAY, slowing) * _SLOWING)

    def update(self, centre: np.ndarray, size: np.ndarray, score: float, time: float, search: int, step: float) -> None:
        """Update with a box that belongs to this track.

        Args:
            centre, size: ``[2]``, image pixels.
            score: of the box.
            time: seconds.
            search: number of the search.
            step: seconds since the search before, at least `MIN_STEP`.
        """
        gap = max(time - self.time, MIN_STEP)
        predicted = self.predict(time)
        error = centre - predicted
        if self.boxes_seen == 1:
            self.centre = centre
            self.velocity = error / max(gap, STEP)  # of boxes closer in time, jitter would give any velocity
        else:
            position_gain, velocity_gain = gains(step)
            self.centre = predicted + position_gain * error
            _, slowing = self._walk(time)
            self.velocity = self.velocity * VELOCITY_DECAY ** (slowing / STEP) + velocity_gain * error / gap
        self.size = self.size + share(SIZE_GAIN, step) * (size - self.size)
        self.box_size, self.score = size, score
        self.time, self.search, self.missed = time, search, None
        self.boxes_seen += 1

    def _walk(self, time: float) -> tuple[float, float]:
        """Return for how long the person goes on steadily until a later time, and then ever slower; seconds."""
        walked = max(time - self.time, 0.0)
        steady = min(walked, MAX_STEADY)
        if self.missed is not None:
            steady = min(steady, self.missed - self.time)
        return steady, walked - steady


_SLOWING = VELOCITY_DECAY / (1 - VELOCITY_DECAY)  # steps that people go on if they slow down from one to the next
_MODULUS = math.sqrt(1 - POSITION_GAIN)
_ANGLE = math.acos((2 - POSITION_GAIN - VELOCITY_GAIN) / (2 * _MODULUS))


def gains(step: float) -> tuple[float, float]:
    """Return the gains of position and velocity for a step in time.

    Between two boxes, the filter's errors of position and velocity times step change by the matrix ``[[1-a, 1-a],
    [-b, 1-b]]``, whose eigenvalues have the product 1-a and the sum 2-a-b. They are the complex pair ``_MODULUS *
    exp(±i * _ANGLE)`` at 25 frames a second. The gains of another step are those that raise this pair to the power
    step / `STEP`: so errors fade in the same time, and swing at the same frequency, whatever the rate of frames.

    Args:
        step: seconds, above 0.
    """
    steps = step / STEP
    product = _MODULUS ** (2 * steps)
    return 1 - product, 1 + product - 2 * _MODULUS**steps * math.cos(_ANGLE * steps)


class Tracker:
    """Assigns a track id to every box of every frame.

    Args:
        match_iou: a box may continue a track if it overlaps the track's predicted box by at least this IoU.
        high_score: boxes with at least this score are matched first.
        max_lost: for so long a person may be searched for in vain and still keep the id, seconds.
        first_id: track ids start here.
    """

    def __init__(
        self,
        match_iou: float = 0.2,
        high_score: float = 0.5,
        max_lost: float = MAX_LOST,
        first_id: int = 0,
    ) -> None:
        self.match_iou = match_iou
        self.high_score = high_score
        self.max_lost = max_lost
        self._tracks: list[_Track] = []
        self._next_id = first_id
        self._search = 0  # number of the last search
        self._time: float | None = None  # of the last search
        self._step = STEP  # seconds between the last two
        self._paused = False  # before the last

    def __len__(self) -> int:
        """Number of tracks that a box could still continue."""
        return len(self._tracks)

    def update(self, boxes: np.ndarray, scores: np.ndarray, time: float) -> np.ndarray:
        """Link the boxes of one frame to the tracks so far.

        Args:
            boxes: ``[N, 4]``, (x, y, width, height) in image pixels.
            scores: ``[N]``, 0-1.
            time: of the frame, seconds; must not fall from call to call. Frames may be any time apart, also none.

        Returns:
            int64 ``[N]``: track ids from `first_id` on, unique within the frame, never reused.

        Raises:
            InputError: the time falls, or boxes and scores do not belong together.
        """
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        scores = np.asarray(scores, dtype=np.float64).reshape(-1)
        if len(boxes) != len(scores):
            raise InputError(f"the tracker needs one score per box, got {len(boxes)} boxes and {len(scores)} scores")
        time = self._advance(time)
        ids = np.full(len(boxes), -1, dtype=np.int64)
        if self._tracks and len(boxes):
            overlap = self._overlaps(boxes, time)  # [tracks, N]
            free = np.ones(len(self._tracks), dtype=bool)
            for chosen in (scores >= self.high_score, scores < self.high_score):
                rows, columns = np.flatnonzero(free), np.flatnonzero(chosen)
                for i, j in assign(overlap[np.ix_(rows, columns)]):
                    track, n = self._tracks[rows[i]], columns[j]
                    self._continue(track, boxes[n], scores[n], time)
                    ids[n] = track.track_id
                    free[rows[i]] = False
        for n in np.flatnonzero(ids < 0):
            ids[n] = self._next_id
            self._begin(self._next_id, boxes[n], scores[n], time)
            self._next_id += 1
        self._mark_missed(time)
        return ids

    def predict(self, time: float, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Predict where the people of the last update are in a later frame without a search.

        Args:
            time: of the frame, seconds.
            size: (H, W) of the frame; people who have left it are omitted.

        Returns:
            float32 boxes ``[N, 4]``, scores ``[N]`` and int64 track ids ``[N]``.
        """
        there = []
        for track in self._tracks:
            if track.search == self._search:
                x, y = track.predict(time) - track.box_size / 2
                if -track.box_size[0] < x < size[1] and -track.box_size[1] < y < size[0]:
                    there.append((np.array([x, y, *track.box_size]), track.score, track.track_id))
        boxes, scores, ids = zip(*there, strict=True) if there else ((), (), ())
        return np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(ids, np.int64)

    def recall(self, boxes: np.ndarray, scores: np.ndarray, track_ids: Iterable[int], time: float) -> None:
        """Take in a frame whose boxes have ids already, such as the last ones of a run that is resumed.

        Args:
            boxes: ``[N, 4]``, image pixels.
            scores: ``[N]``, 0-1.
            track_ids: ``[N]``, below `first_id`; of several people with the same id only the last is remembered.
            time: as for `update`.

        Raises:
            InputError: the time falls.
        """
        time = self._advance(time)
        tracks = {track.track_id: track for track in self._tracks}
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        for track_id, n in {track_id: n for n, track_id in enumerate(track_ids)}.items():
            if track_id in tracks:
                self._continue(tracks[track_id], boxes[n], float(scores[n]), time)
            else:
                self._begin(track_id, boxes[n], float(scores[n]), time)
        self._mark_missed(time)

    def _advance(self, time: float) -> float:
        """Move on to a search, and drop the tracks that have been lost too long; return its time."""
        if not math.isfinite(time):
            raise InputError(f"the tracker needs the time of each frame in seconds, got {time}")
        if self._time is not None:
            if time < self._time - ROUNDING:
                raise InputError(
                    f"the tracker needs times that do not fall, got {time:g} s after {self._time:g} s: "
                    "use a new Tracker for each video"
                )
            time = max(time, self._time)
            step = max(time - self._time, MIN_STEP)
            self._paused = step > PAUSE * self._step
            self._step = step
        self._time = time
        self._search += 1
        self._tracks = [track for track in self._tracks if not self._is_lost(track, time)]
        return time

    def _is_lost(self, track: _Track, time: float) -> bool:
        if track.missed is None:
            return time - track.time > MAX_PAUSE
        return time - track.missed > self.max_lost + ROUNDING

    def _begin(self, track_id: int, box: np.ndarray, score: float, time: float) -> None:
        centre, size = box[:2] + box[2:] / 2, box[2:]
        self._tracks.append(_Track(track_id, centre, size, time, self._search, size, float(score)))

    def _continue(self, track: _Track, box: np.ndarray, score: float, time: float) -> None:
        track.update(box[:2] + box[2:] / 2, box[2:], float(score), time, self._search, self._step)

    def _mark_missed(self, time: float) -> None:
        """After a search: note who was not found."""
        for track in self._tracks:
            if track.search != self._search and track.missed is None:
                track.missed = time

    def _overlaps(self, boxes: np.ndarray, time: float) -> np.ndarray:
        """IoU of every predicted track with every box ``[tracks, N]``; 0 where it is below ``match_iou``."""
        overlap = self._overlap(boxes, np.stack([t.predict(time) for t in self._tracks]))
        if self._paused:  # people have walked on, unless the frames of the pause are only held up and come now
            overlap = np.maximum(overlap, self._overlap(boxes, np.stack([t.centre for t in self._tracks])))
        return np.where(overlap >= self.match_iou, overlap, 0.0)

    def _overlap(self, boxes: np.ndarray, centres: np.ndarray) -> np.ndarray:
        """IoU of every track, with its centre there ``[tracks, 2]``, with every box ``[tracks, N]``."""
        centres = centres[:, None]  # [tracks, 1, 2]
        sizes = np.stack([t.size for t in self._tracks])[:, None]
        reach = np.array([NEW_TRACK_REACH if t.boxes_seen == 1 else 1.0 for t in self._tracks])[:, None, None]
        box_sizes = boxes[None, :, 2:]
        distance = np.abs(centres - boxes[None, :, :2] - box_sizes / 2)
        sides = np.minimum((sizes + box_sizes) * reach / 2 - distance, np.minimum(sizes, box_sizes) * reach)
        overlap = np.prod(np.clip(sides, 0, None), axis=-1)
        union = (np.prod(sizes, axis=-1) + np.prod(box_sizes, axis=-1)) * reach[..., 0] ** 2 - overlap
        return np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)


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
