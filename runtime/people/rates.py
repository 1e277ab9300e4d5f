"""Filters over frames that come at any rate: gains are given for 25 frames a second, and hold for any step in time."""

from __future__ import annotations

import numpy as np

STEP = 0.04  # seconds between the frames for which gains are given
# Frames that a network held up arrive all at once. Their own steps would make all gains 0, and what they show would be
# ignored; shorter steps than this are rare in videos.
MIN_STEP = 0.01  # seconds
ROUNDING = 0.002  # seconds by which a difference of time stamps may be off: many files hold whole milliseconds


def share(gain: float | np.ndarray, seconds: float) -> float | np.ndarray:
    """Return the gain of a first-order filter for a step of another length: two half steps do what a whole one does.

    Args:
        gain: for a step of `STEP`, 0-1.
        seconds: the step.
    """
    return 1 - (1 - gain) ** (seconds / STEP)
