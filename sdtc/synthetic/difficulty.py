"""What makes a clip hard: the labels, the thresholds above which they hold, and how the camera misbehaves over time.

Nothing here is a pixel; `occluders` is what gets in the way, `render` how any of it looks. Blur, defocus and darkness
come in spells of a few frames, so that a neighbour within two frames often shows what the frame itself does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

DIFFICULTIES = ("occluded", "crossing", "blur", "defocus", "low_light")
# A label holds for a person in a frame if:
OCCLUDED_JOINTS = 3  # at least so many of the joints in the picture are covered by something in front
CROSSING_IOU = 0.35  # the box overlaps somebody else's by more than this IoU
BLUR_SHARE = 0.05  # the median joint moves by more than this share of the person's height while the shutter is open
DEFOCUS_SHARE = 0.02  # a point is spread over a disc whose radius is above this share of the person's height
LOW_LIGHT = 0.25  # less than this share of a plain clip's light reaches the sensor


@dataclass(frozen=True)
class Shake:
    """A short vibration of the camera, through the middle of its swing at its strongest moment.

    Attributes:
        time: of that moment, seconds.
        duration: standard deviation in time, seconds.
        frequency: hertz.
        amplitude: in pixels (x, y).
    """

    time: float
    duration: float
    frequency: float
    amplitude: tuple[float, float]

    def shift(self, time: float) -> np.ndarray:
        """How far it moves the picture, pixels ``[2]`` (x, y)."""
        since = time - self.time
        swing = np.sin(2 * np.pi * self.frequency * since) * np.exp(-0.5 * (since / self.duration) ** 2)
        return swing * np.array(self.amplitude)


@dataclass(frozen=True)
class Optics:
    """The camera over the F frames of a clip; the defaults of a plain clip are all neutral.

    Attributes:
        shutter: ``[F]`` how long the shutter is open around the moment of the frame, as a share of the time between
            frames; 0 freezes all motion.
        defocus: ``[F]`` radius of the disc that a point becomes, pixels.
        exposure: ``[F]`` share of the light that reaches the sensor.
        grain: standard deviation of the sensor's noise, of 255 levels.
        shakes: vibrations of the camera.
    """

    shutter: np.ndarray
    defocus: np.ndarray
    exposure: np.ndarray
    grain: float = 0.0
    shakes: tuple[Shake, ...] = ()

    @classmethod
    def plain(cls, frames: int) -> Optics:
        """A perfect camera."""
        return cls(np.zeros(frames), np.zeros(frames), np.ones(frames))


def plan_blur(rng: np.random.Generator, frames: int, height: int, fps: float) -> tuple[np.ndarray, tuple[Shake, ...]]:
    """Decide when the shutter stays open: its ``[F]`` shares, and the shakes of a hand that goes with most of them.

    Args:
        height: of the picture, pixels.
    """
    shutter, shakes = np.zeros(frames), []
    for first, last in _spells(rng, frames, length=(1, 3), gap=(2, 4)):
        shutter[first:last] = rng.uniform(0.8, 1.0)
        strength = height * rng.uniform(0.025, 0.065) * (rng.random() < 0.9)
        angle = rng.uniform(0, 2 * np.pi)
        shake = Shake(
            time=float(rng.uniform(first, last - 1)) / fps,
            duration=0.45 * (last - first) / fps,
            frequency=float(rng.uniform(0.35, 0.6)) * fps,
            amplitude=(float(strength * np.cos(angle)), float(strength * np.sin(angle))),
        )
        shakes.append(shake)
    return shutter, tuple(shakes)


def plan_defocus(rng: np.random.Generator, frames: int, height: int) -> np.ndarray:
    """Decide when the lens loses its focus and finds it again: radii ``[F]`` in pixels."""
    radius = np.zeros(frames)
    for first, last in _spells(rng, frames, length=(3, 6), gap=(2, 4)):
        pull = np.sin(np.pi * (np.arange(first, last) - first + 1) / (last - first + 1)) ** 2
        radius[first:last] = pull[: last - first] * height * rng.uniform(0.03, 0.045)
    return radius


def plan_low_light(rng: np.random.Generator, frames: int) -> tuple[np.ndarray, float]:
    """Decide how dark it is: exposures ``[F]`` of a dim clip whose light flickers, and the noise."""
    exposure = np.full(frames, rng.uniform(0.18, 0.4))
    for first, last in _spells(rng, frames, length=(1, 3), gap=(2, 5)):
        exposure[first:last] *= rng.uniform(0.12, 0.4)
    return exposure, float(rng.uniform(2, 5))


def _spells(
    rng: np.random.Generator, frames: int, length: tuple[int, int], gap: tuple[int, int]
) -> Iterator[tuple[int, int]]:
    """Runs of frames, first and one past the last, with random lengths and gaps (both ends included) between them."""
    first = int(rng.integers(0, gap[1] + 1))
    while first < frames:
        last = first + int(rng.integers(length[0], length[1] + 1))
        yield first, min(last, frames)
        first = last + int(rng.integers(gap[0], gap[1] + 1))


def label_people(
    covered: np.ndarray, boxes: np.ndarray, heights: np.ndarray, smears: np.ndarray, defocus: float, exposure: float
) -> np.ndarray:
    """Say which difficulties hold for the P people of a frame; the thresholds are those of this module.

    Args:
        covered: bool ``[P, 15]``, joints in the picture that something in front hides.
        boxes: ``[P, 4]`` (x, y, width, height).
        heights: ``[P]`` of the upright people in pixels, whether or not all of them is in the picture.
        smears: ``[P]``, way of the median joint in the picture while the shutter is open, pixels.
        defocus: radius in pixels.
        exposure: share of the light.

    Returns:
        bool ``[P, 5]`` in the order of :data:`DIFFICULTIES`.
    """
    labels = np.zeros((len(heights), len(DIFFICULTIES)), bool)
    labels[:, 0] = covered.sum(axis=1) >= OCCLUDED_JOINTS
    labels[:, 1] = (_overlaps(boxes) > CROSSING_IOU).any(axis=1)
    labels[:, 2] = smears > BLUR_SHARE * heights
    labels[:, 3] = defocus > DEFOCUS_SHARE * heights
    labels[:, 4] = exposure < LOW_LIGHT
    return labels


def _overlaps(boxes: np.ndarray) -> np.ndarray:
    """IoU ``[P, P]`` of every box with every other, 0 with itself."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    shared = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)  # [P, P, 2]
    both = np.maximum(shared, 0).prod(axis=-1)
    areas = boxes[:, 2:].prod(axis=1)
    iou = both / np.maximum(areas[:, None] + areas - both, 1e-9)
    np.fill_diagonal(iou, 0)
    return iou
