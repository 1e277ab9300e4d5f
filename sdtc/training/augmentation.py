"""Augmentation of one training sample: which part of the image becomes the crop. NumPy only.

Scale and rotation are sampled from clipped normal distributions, half-body crops and flips with fixed probabilities
(paper, sections 5 and 8). All T frames of a sample get the same augmentation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdtc.core.crops import crop_to_image_matrix, expand_boxes
from sdtc.core.errors import ConfigError
from sdtc.core.skeleton import POSETRACK, Skeleton

_LOWER_BODY = frozenset(
    i for i, name in enumerate(POSETRACK.keypoints) if name.split("_")[-1] in ("hip", "knee", "ankle")
)


@dataclass(frozen=True)
class AugmentationConfig:
    """Strengths and probabilities of the augmentations.

    Attributes:
        scale: σ and largest deviation of the scale from 1.
        shift: largest displacement of the crop box, as a share of its sides; not in the paper. A network that was
            trained on exact boxes only is less accurate on boxes of a detector.
        rotation: σ and largest absolute rotation, degrees.
        rotation_chance: probability that a sample is rotated.
        half_body_chance: probability that a sample with more than `half_body_joints` visible joints is cropped to its
            upper or lower half.
        flip_chance: probability that a sample is mirrored.

    Raises:
        ConfigError: a value is out of its range.
    """

    scale: float = 0.35
    shift: float = 0.0
    rotation: float = 45.0
    rotation_chance: float = 0.6
    half_body_chance: float = 0.3
    half_body_joints: int = 8
    flip_chance: float = 0.5

    def __post_init__(self) -> None:
        chances = ("rotation_chance", "half_body_chance", "flip_chance")
        for name, most in {"scale": 0.9, "shift": 0.9, "rotation": 180.0, **dict.fromkeys(chances, 1.0)}.items():
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"augmentation.{name} is {getattr(self, name)}: expected 0 to {most}")

    @staticmethod
    def none() -> AugmentationConfig:
        """Return a configuration without any augmentation."""
        return AugmentationConfig(scale=0, rotation=0, rotation_chance=0, half_body_chance=0, flip_chance=0)


@dataclass(frozen=True)
class View:
    """One sampled augmentation: how image pixels map to crop pixels.

    Attributes:
        crop_box: float64 ``[4]``, image pixels.
        rotation: degrees, see `sdtc.core.crops.crop_to_image_matrix`.
        flip: whether the crop is mirrored afterwards.
    """

    crop_box: np.ndarray
    rotation: float = 0.0
    flip: bool = False

    def to_crop(self, keypoints: np.ndarray, size: tuple[int, int], skeleton: Skeleton = POSETRACK) -> np.ndarray:
        """Map keypoints ``[..., J, 3]`` from image to crop pixels; those outside the crop get visibility 0."""
        matrix = crop_to_image_matrix(self.crop_box, size, self.rotation)
        points = np.linalg.solve(matrix[:, :2], (keypoints[..., :2] - matrix[:, 2])[..., None])[..., 0]
        height, width = size
        if self.flip:
            points[..., 0] = width - 1 - points[..., 0]
        mapped = np.concatenate([points, keypoints[..., 2:]], axis=-1)
        if self.flip:
            order = np.arange(len(skeleton.keypoints))
            for left, right in skeleton.flip_pairs:
                order[[left, right]] = right, left
            mapped = mapped[..., order, :]
        x, y = mapped[..., 0], mapped[..., 1]
        outside = (x < 0) | (y < 0) | (x > width - 1) | (y > height - 1)
        mapped[..., 2] *= ~outside
        return mapped.astype(np.float32)


def draw_view(
    box: np.ndarray,
    keypoints: np.ndarray,
    size: tuple[int, int],
    config: AugmentationConfig,
    rng: np.random.Generator,
) -> View:
    """Sample an augmentation.

    Args:
        box: person box ``[4]``, image pixels.
        keypoints: of the keyframe, ``[15, 3]``, image pixels.
        size: (H, W) of the crop.
        config: strengths and probabilities.
        rng: source of all randomness.
    """
    visible = np.flatnonzero(keypoints[:, 2] > 0)
    if len(visible) > config.half_body_joints and rng.random() < config.half_body_chance:
        box = _half_body(box, keypoints, visible, rng)
    crop_box = expand_boxes(box, size)
    scale = 1.0 + float(np.clip(rng.normal(0, config.scale), -config.scale, config.scale)) if config.scale else 1.0
    centre = crop_box[:2] + crop_box[2:] / 2
    crop_box = np.concatenate([centre - crop_box[2:] * scale / 2, crop_box[2:] * scale])
    if config.shift:
        crop_box[:2] += rng.uniform(-config.shift, config.shift, 2) * crop_box[2:]
    rotation = 0.0
    if rng.random() < config.rotation_chance:
        rotation = float(np.clip(rng.normal(0, config.rotation), -config.rotation, config.rotation))
    return View(crop_box, rotation, bool(rng.random() < config.flip_chance))


def _half_body(box: np.ndarray, keypoints: np.ndarray, visible: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the box of the upper or the lower half, or the whole box if neither half has three visible joints."""
    lower = np.array([joint in _LOWER_BODY for joint in visible])
    halves = [half for half in (visible[~lower], visible[lower]) if len(half) >= 3]
    if not halves:
        return box
    points = keypoints[halves[rng.integers(len(halves))], :2]
    low, high = points.min(0), points.max(0)
    extent = np.maximum((high - low) * 1.5, 1.0)  # room for the body around the joints
    return np.concatenate([(low + high - extent) / 2, extent])
