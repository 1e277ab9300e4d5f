"""Smoother poses for display: the One-Euro filter (Casiez, Roussel, Vogel, CHI 2012), per person and joint.

A low-pass filter whose cut-off frequency rises with speed: joints at rest do not jitter, fast joints do not lag. Speeds
are in box sizes per second, so that one setting suits people near and far. Scores are not changed, but a joint with a
low score moves less: its position is mostly guessed, so it stays where it was last seen.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from sdtc.core.errors import InputError
from sdtc.runtime.output.results import FrameResult, Pose

MIN_CUTOFF = 2.0  # Hz, at rest
BETA = 8.0  # Hz for every box size per second
SPEED_CUTOFF = 1.0  # Hz, for the speed itself
FORGET = 1.0  # seconds without a person, after which the filter starts again


@dataclass
class _State:
    frame: int
    time: float  # seconds
    points: np.ndarray  # [J, 2] image pixels
    speed: np.ndarray  # [J, 2] pixels per second


class OneEuro:
    """The filter of all people of one source.

    Args:
        fps: frames per second.
        min_cutoff: Hz; lower is steadier.
        beta: Hz for every box size per second; higher lags less.

    Raises:
        InputError: a value is not above 0, or not finite.
    """

    def __init__(self, fps: float, min_cutoff: float = MIN_CUTOFF, beta: float = BETA) -> None:
        for name, value in (("fps", fps), ("min_cutoff", min_cutoff), ("beta", beta)):
            if not 0 < value < math.inf:
                raise InputError(f"`{name}` is {value}: expected more than 0, and finite")
        self.fps, self.min_cutoff, self.beta = fps, min_cutoff, beta
        self._states: dict[int, _State] = {}

    def __call__(self, result: FrameResult) -> FrameResult:
        """Return a frame's result with filtered poses; call it with frames in order."""
        now = result.time
        self._states = {key: state for key, state in self._states.items() if state.time >= now - FORGET}
        return dataclasses.replace(result, poses=[self._filter(pose, result.index, now) for pose in result.poses])

    def recall(self, result: FrameResult) -> None:
        """Take in a frame that is filtered already, such as the last ones of a run that is resumed."""
        for pose in result.poses:
            points, now = pose.keypoints[:, :2].astype(np.float64), result.time
            at_rest = _State(result.index - 1, now - 1 / self.fps, points, np.zeros_like(points))
            state = self._states.get(pose.track_id, at_rest)
            speed = _speed(state, points, max(now - state.time, 0.5 / self.fps))
            self._states[pose.track_id] = _State(result.index, now, points, speed)

    def _filter(self, pose: Pose, frame: int, now: float) -> Pose:
        points, scores = pose.keypoints[:, :2].astype(np.float64), pose.keypoints[:, 2:]
        state = self._states.get(pose.track_id)
        if state is None or frame <= state.frame:
            self._states[pose.track_id] = _State(frame, now, points, np.zeros_like(points))
            return pose
        seconds = max(now - state.time, 0.5 / self.fps)  # frames that a network has held up arrive all at once
        speed = _speed(state, points, seconds)
        size = max(float(pose.bbox[2:].max()), 1.0)
        fast = np.linalg.norm(speed, axis=1, keepdims=True) / size  # [J, 1] box sizes per second
        share = _share(self.min_cutoff + self.beta * fast, seconds) * np.clip(scores, 0.05, 1.0) ** 0.5
        points = state.points + share * (points - state.points)
        self._states[pose.track_id] = _State(frame, now, points, speed)
        return dataclasses.replace(pose, keypoints=np.concatenate([points, scores], axis=1).astype(np.float32))


def smooth(results: Iterable[FrameResult], fps: float, done: Iterable[FrameResult] = ()) -> Iterator[FrameResult]:
    """Filter the results of `PoseEngine.track`, frame by frame.

    Args:
        results: the frames.
        fps: frames per second.
        done: filtered frames before them, from the run that is resumed.
    """
    one_euro = OneEuro(fps)
    for result in done:
        one_euro.recall(result)
    for result in results:
        yield one_euro(result)


def _speed(state: _State, points: np.ndarray, seconds: float) -> np.ndarray:
    """Return the filtered speed after new points ``[J, 2]``, pixels per second."""
    return state.speed + _share(SPEED_CUTOFF, seconds) * ((points - state.points) / seconds - state.speed)


def _share(cutoff: float | np.ndarray, seconds: float) -> np.ndarray:
    """Return the weight of a new value in a first-order low-pass filter, 0-1."""
    rate = 2 * np.pi * np.asarray(cutoff) * seconds
    return rate / (1 + rate)
