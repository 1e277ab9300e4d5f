"""Smoother poses for display: the One-Euro filter (Casiez, Roussel, Vogel, CHI 2012), per person and joint.

A low-pass filter whose cut-off frequency rises with speed: joints at rest do not jitter, fast joints do not lag. Speeds
are in box sizes per second, so that one setting suits people near and far. Scores are not changed, but a joint with a
low score moves less: its position is mostly guessed, so it stays where it was last seen.

Frames may come at any rate, also a changing one: what moves steadily lags by the same time, and its speed is the same.
Only trembling is damped less where frames are rare, since fewer of them are averaged.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from sdtc.core.errors import InputError
from sdtc.runtime.output.results import FrameResult, Pose
from sdtc.runtime.people.rates import MIN_STEP, STEP

MIN_CUTOFF = 2.0  # Hz, at rest
BETA = 8.0  # Hz for every box size per second
SPEED_CUTOFF = 1.0  # Hz, for the speed itself
FORGET = 1.0  # seconds without a person, after which the filter starts again


@dataclass
class _State:
    time: float  # seconds
    points: np.ndarray  # [J, 2] image pixels, filtered
    speed: np.ndarray  # [J, 2] pixels per second


class OneEuro:
    """The filter of all people of one source.

    Args:
        min_cutoff: Hz; lower is steadier.
        beta: Hz for every box size per second; higher lags less.

    Raises:
        InputError: a value is not above 0, or not finite.
    """

    def __init__(self, min_cutoff: float = MIN_CUTOFF, beta: float = BETA) -> None:
        for name, value in (("min_cutoff", min_cutoff), ("beta", beta)):
            if not 0 < value < math.inf:
                raise InputError(f"`{name}` is {value}: expected more than 0, and finite")
        self.min_cutoff, self.beta = min_cutoff, beta
        self._states: dict[int, _State] = {}

    def __call__(self, result: FrameResult) -> FrameResult:
        """Return a frame's result with filtered poses; call it with frames in order."""
        now = result.time
        self._states = {key: state for key, state in self._states.items() if state.time >= now - FORGET}
        return dataclasses.replace(result, poses=[self._filter(pose, now) for pose in result.poses])

    def recall(self, result: FrameResult) -> None:
        """Take in a frame that is filtered already, such as the last ones of a run that is resumed."""
        now = result.time
        for pose in result.poses:
            points = pose.keypoints[:, :2].astype(np.float64)
            state = self._states.get(pose.track_id)
            speed = np.zeros_like(points)
            if state is not None and now >= state.time:
                seconds = max(now - state.time, MIN_STEP)
                # By how much the unfiltered points were further away than the filtered ones is known by the gain.
                gain = self._gain(state.speed, pose)
                speed = _speed(state, (points - state.points) / _share(gain, seconds), gain, seconds)
            self._states[pose.track_id] = _State(now, points, speed)

    def _filter(self, pose: Pose, now: float) -> Pose:
        points, scores = pose.keypoints[:, :2].astype(np.float64), pose.keypoints[:, 2:]
        state = self._states.get(pose.track_id)
        if state is None or now < state.time:
            self._states[pose.track_id] = _State(now, points, np.zeros_like(points))
            return pose
        seconds = max(now - state.time, MIN_STEP)
        speed = _speed(state, points - state.points, self._gain(state.speed, pose), seconds)
        points = state.points + _share(self._gain(speed, pose), seconds) * (points - state.points)
        self._states[pose.track_id] = _State(now, points, speed)
        return dataclasses.replace(pose, keypoints=np.concatenate([points, scores], axis=1).astype(np.float32))

    def _gain(self, speed: np.ndarray, pose: Pose) -> np.ndarray:
        """Return the weight of new points at 25 frames a second ``[J, 1]``, for a speed ``[J, 2]`` in pixels/s."""
        size = max(float(pose.bbox[2:].max()), 1.0)
        fast = np.linalg.norm(speed, axis=1, keepdims=True) / size  # [J, 1] box sizes per second
        return _low_pass(self.min_cutoff + self.beta * fast) * np.clip(pose.keypoints[:, 2:], 0.05, 1.0) ** 0.5


def smooth(results: Iterable[FrameResult], done: Iterable[FrameResult] = ()) -> Iterator[FrameResult]:
    """Filter the results of `PoseEngine.track`, frame by frame.

    Args:
        results: the frames.
        done: filtered frames before them, from the run that is resumed.
    """
    one_euro = OneEuro()
    for result in done:
        one_euro.recall(result)
    for result in results:
        yield one_euro(result)


def _speed(state: _State, ahead: np.ndarray, gain: np.ndarray, seconds: float) -> np.ndarray:
    """Return the filtered speed after new points, pixels per second.

    New points are ahead of filtered ones by more than they have moved: by so much more as the filter lags, whatever the
    time between two frames. So the distance is brought to what it would be at 25 frames a second, where `BETA` holds.

    Args:
        state: before the new points.
        ahead: ``[J, 2]``, by how much the new points are ahead of the filtered ones, pixels.
        gain: ``[J, 1]`` of the filter at 25 frames a second.
        seconds: since the state.
    """
    apparent = ahead * _share(gain, seconds) / (gain * seconds)
    return state.speed + _share(_low_pass(SPEED_CUTOFF), seconds) * (apparent - state.speed)


def _low_pass(cutoff: float | np.ndarray) -> np.ndarray:
    """Return the weight of a new value in a first-order low-pass filter at 25 frames a second, above 0 and up to 1."""
    rate = np.clip(2 * np.pi * np.asarray(cutoff) * STEP, 1e-12, 1e12)
    return rate / (1 + rate)


def _share(gain: float | np.ndarray, seconds: float) -> float | np.ndarray:
    """Return the weight of new values for another time between frames: what moves steadily lags by the same time.

    Args:
        gain: the weight at 25 frames a second.
        seconds: since the frame before.
    """
    return gain * seconds / (gain * seconds + (1 - gain) * STEP)
