"""What makes a clip hard: difficulty labels, their thresholds, and how the camera degrades the frames over time.

This module draws nothing: `occluders` models occluders, and `render` applies blur, defocus and noise. Blur, defocus and
darkness last a few frames each, so that a frame within two frames often shows what the frame itself does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

DIFFICULTIES = ("occluded", "crossing", "blur", "defocus", "low_light")
# A label holds for a person in a frame if:
OCCLUDED_JOINTS = 3  # at least this many joints in the image are covered by something in front
CROSSING_IOU = 0.35  # the IoU of the box with another person's is larger than this
BLUR_SHARE = 0.05  # the median joint moves by more than this share of the person's height while the shutter is open
DEFOCUS_SHARE = 0.02  # a point is spread over a disc with a radius above this share of the person's height
LOW_LIGHT = 0.25  # less than this share of a plain clip's light reaches the sensor


@dataclass(frozen=True)
class Shake:
    """A short vibration of the camera: a sine wave in a Gaussian window.

    Attributes:
        time: centre of the window, where the wave is at zero, seconds.
        duration: standard deviation of the window, seconds.
        frequency: hertz.
        amplitude: pixels (x, y).
    """

    time: float
    duration: float
    frequency: float
    amplitude: tuple[float, float]

    def shift(self, time: float) -> np.ndarray:
        """Return how far it shifts the image at a time in seconds, pixels ``[2]`` (x, y)."""
        since = time - self.time
        swing = np.sin(2 * np.pi * self.frequency * since) * np.exp(-0.5 * (since / self.duration) ** 2)
        return swing * np.array(self.amplitude)


@dataclass(frozen=True)
class Optics:
    """How the camera degrades the F frames of a clip.

    Attributes:
        shutter: ``[F]``, how long the shutter is open, centred on the moment of the frame, as a share of the time
            between frames; 0: no motion blur.
        defocus: ``[F]``, radius of the disc that a point is spread over, pixels.
        exposure: ``[F]``, share of the light that reaches the sensor.
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
        """Return the optics of a plain clip, which change nothing."""
        return cls(np.zeros(frames), np.zeros(frames), np.ones(frames))


def sample_blur(rng: np.random.Generator, frames: int, height: int, fps: float) -> tuple[np.ndarray, tuple[Shake, ...]]:
    """Sample spells of motion blur, most of them with a shake of the camera.

    Args:
        rng: source of all randomness.
        frames: F, number of frames.
        height: of the image, pixels.
        fps: frames per second.

    Returns:
        The `Optics.shutter` of every frame ``[F]``, and the shakes.
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


def sample_defocus(rng: np.random.Generator, frames: int, height: int) -> np.ndarray:
    """Sample spells in which the lens loses focus and regains it: `Optics.defocus`, radii ``[F]`` in pixels."""
    radius = np.zeros(frames)
    for first, last in _spells(rng, frames, length=(3, 6), gap=(2, 4)):
        pull = np.sin(np.pi * (np.arange(first, last) - first + 1) / (last - first + 1)) ** 2
        radius[first:last] = pull[: last - first] * height * rng.uniform(0.03, 0.045)
    return radius


def sample_low_light(rng: np.random.Generator, frames: int) -> tuple[np.ndarray, float]:
    """Sample a dim clip with even darker spells: `Optics.exposure` of every frame ``[F]``, and `Optics.grain`."""
    exposure = np.full(frames, rng.uniform(0.18, 0.4))
    for first, last in _spells(rng, frames, length=(1, 3), gap=(2, 5)):
        exposure[first:last] *= rng.uniform(0.12, 0.4)
    return exposure, float(rng.uniform(2, 5))


def _spells(
    rng: np.random.Generator, frames: int, length: tuple[int, int], gap: tuple[int, int]
) -> Iterator[tuple[int, int]]:
    """Yield spells of frames (first, last + 1) of random length, with random gaps; the bounds of both are inclusive."""
    first = int(rng.integers(0, gap[1] + 1))
    while first < frames:
        last = first + int(rng.integers(length[0], length[1] + 1))
        yield first, min(last, frames)
        first = last + int(rng.integers(gap[0], gap[1] + 1))


def label_people(
    covered: np.ndarray, boxes: np.ndarray, heights: np.ndarray, smears: np.ndarray, defocus: float, exposure: float
) -> np.ndarray:
    """Return which difficulties hold for the P people of a frame, by the thresholds of this module.

    Args:
        covered: bool ``[P, 15]``, joints in the image that something in front covers.
        boxes: ``[P, 4]`` (x, y, width, height).
        heights: ``[P]``, of the people standing upright in pixels, also if they are partly outside the image.
        smears: ``[P]``, length of the median joint's path while the shutter is open, pixels.
        defocus: as in `Optics`.
        exposure: as in `Optics`.

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
    """Return the IoU ``[P, P]`` of every box with every other, and 0 with itself."""
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    shared = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)  # [P, P, 2]
    both = np.maximum(shared, 0).prod(axis=-1)
    areas = boxes[:, 2:].prod(axis=1)
    iou = both / np.maximum(areas[:, None] + areas - both, 1e-9)
    np.fill_diagonal(iou, 0)
    return iou
