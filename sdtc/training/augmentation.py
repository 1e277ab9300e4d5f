"""Augmentation of one training sample: which part of each frame becomes its crop. NumPy only.

Scale and rotation are sampled from clipped normal distributions, half-body crops and flips with fixed probabilities
(paper, sections 5 and 8). All T frames of a sample get the same of these; the noise of the boxes is every frame's own,
as a detector's is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sdtc.core.crops import CROP_SCALE, crop_to_image_matrix, expand_boxes, rotation_matrix
from sdtc.core.errors import ConfigError
from sdtc.core.resampling import TokenLayout, token_places
from sdtc.core.skeleton import POSETRACK, Skeleton
from sdtc.training.still_clips import PhotometryConfig, StillClipConfig

_LOWER_BODY = frozenset(
    i for i, name in enumerate(POSETRACK.keypoints) if name.split("_")[-1] in ("hip", "knee", "ankle")
)


@dataclass(frozen=True)
class BoxNoise:
    """Normal noise on the person boxes of a window, each frame's its own: what a detector's boxes are like.

    Attributes:
        centre: σ of the displacement, as a share of the box's width and height.
        size: σ of the logarithms of the box's width and height.
        correlation: of the noise in neighbouring frames, 0 to 1; its σ stays the same. 0: independent, as a detector
            shakes; 1: the same in all frames, as a detector that is wrong in the same way each time.

    Raises:
        ConfigError: a value is out of its range.
    """

    centre: float = 0.0
    size: float = 0.0
    correlation: float = 0.0

    def __post_init__(self) -> None:
        for name, most in {"centre": 0.5, "size": 0.5, "correlation": 1.0}.items():
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"augmentation.box_noise.{name} is {getattr(self, name)}: expected 0 to {most}")

    def add(self, boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the boxes ``[T, 4]`` of successive frames with noise."""
        if not (self.centre or self.size):
            return boxes
        noise = rng.normal(size=boxes.shape)
        fresh = np.sqrt(1 - self.correlation**2)
        for t in range(1, len(noise)):
            noise[t] = self.correlation * noise[t - 1] + fresh * noise[t]
        centres = boxes[:, :2] + (0.5 + self.centre * noise[:, :2]) * boxes[:, 2:]
        sizes = boxes[:, 2:] * np.exp(self.size * noise[:, 2:])
        return np.concatenate([centres - sizes / 2, sizes], axis=1)


@dataclass(frozen=True)
class AugmentationConfig:
    """Strengths and probabilities of the augmentations.

    Attributes:
        scale: σ and largest deviation of the scale from 1.
        box_noise: noise of the person boxes; not in the paper. A network that was trained on exact boxes only is less
            accurate on boxes of a detector.
        rotation: σ and largest absolute rotation, degrees.
        rotation_chance: probability that a sample is rotated.
        half_body_chance: probability that a sample with more than `half_body_joints` visible joints is cropped to its
            upper or lower half.
        flip_chance: probability that a sample is mirrored.
        still_clip: how a photograph becomes a clip (`sdtc.training.still_clips`); None: T times the photo.
        photometry: what camera and light do to frames of a sequence; None: nothing. `still_clip` has one of its own.

    Raises:
        ConfigError: a value is out of its range.
    """

    scale: float = 0.35
    box_noise: BoxNoise = field(default_factory=BoxNoise)
    rotation: float = 45.0
    rotation_chance: float = 0.6
    half_body_chance: float = 0.3
    half_body_joints: int = 8
    flip_chance: float = 0.5
    still_clip: StillClipConfig | None = None
    photometry: PhotometryConfig | None = None

    def __post_init__(self) -> None:
        chances = ("rotation_chance", "half_body_chance", "flip_chance")
        for name, most in {"scale": 0.9, "rotation": 180.0, **dict.fromkeys(chances, 1.0)}.items():
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"augmentation.{name} is {getattr(self, name)}: expected 0 to {most}")

    @staticmethod
    def none() -> AugmentationConfig:
        """Return a configuration without any augmentation."""
        return AugmentationConfig(scale=0, rotation=0, rotation_chance=0, half_body_chance=0, flip_chance=0)


@dataclass(frozen=True)
class View:
    """How the image pixels of one frame map to its crop.

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


def draw_views(
    boxes: np.ndarray,
    keypoints: np.ndarray,
    size: tuple[int, int],
    config: AugmentationConfig,
    rng: np.random.Generator,
    shared: bool = False,
) -> list[View]:
    """Sample an augmentation of a window.

    Args:
        boxes: the person's boxes in T frames, the keyframe's in the middle ``[T, 4]``, image pixels.
        keypoints: of the keyframe, ``[15, 3]``, image pixels.
        size: (H, W) of the crops.
        config: strengths and probabilities.
        rng: source of all randomness.
        shared: all frames have the noise of the first: one box cuts them all.

    Returns:
        T views, which share rotation and flip.
    """
    boxes = np.asarray(boxes, np.float64)
    visible = np.flatnonzero(keypoints[:, 2] > 0)
    if len(visible) > config.half_body_joints and rng.random() < config.half_body_chance:
        boxes = _half_bodies(boxes, keypoints, visible, rng)
    scale = 1.0 + float(np.clip(rng.normal(0, config.scale), -config.scale, config.scale)) if config.scale else 1.0
    rotation = 0.0
    if rng.random() < config.rotation_chance:
        rotation = float(np.clip(rng.normal(0, config.rotation), -config.rotation, config.rotation))
    flip = bool(rng.random() < config.flip_chance)
    noisy = config.box_noise.add(boxes, rng)
    crop_boxes = expand_boxes(noisy[[0] * len(noisy)] if shared else noisy, size, CROP_SCALE * scale)
    return [View(crop_box, rotation, flip) for crop_box in crop_boxes]


def window_places(views: Sequence[View], layout: TokenLayout) -> np.ndarray:
    """Return where the tokens of the keyframe's crop lie in the crops of all frames of a window.

    Args:
        views: of the T frames, the keyframe's in the middle, with the same rotation and flip.
        layout: where the tokens of a crop are.

    Returns:
        float32 ``[T, 4]``, see `sdtc.core.resampling.token_places`.
    """
    keyframe = views[len(views) // 2]
    crop_boxes = np.stack([view.crop_box for view in views])
    centres = crop_boxes[:, :2] + crop_boxes[:, 2:] / 2
    # The sides of turned crops are parallel too: seen along them, only the way between the centres is another.
    way = (centres[len(views) // 2] - centres) @ rotation_matrix(keyframe.rotation)
    if keyframe.flip:
        way[:, 0] *= -1
    seen = crop_boxes.copy()
    seen[:, :2] += way + (crop_boxes[:, 2:] - keyframe.crop_box[2:]) / 2
    seen[:, 2:] = keyframe.crop_box[2:]
    return token_places(layout, crop_boxes, seen)


def _half_bodies(boxes: np.ndarray, keypoints: np.ndarray, visible: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return boxes of the upper or the lower half: the keyframe's fits its joints, those of others are the same part.

    The whole boxes are returned if neither half has three visible joints.
    """
    lower = np.array([joint in _LOWER_BODY for joint in visible])
    halves = [half for half in (visible[~lower], visible[lower]) if len(half) >= 3]
    if not halves:
        return boxes
    points = keypoints[halves[rng.integers(len(halves))], :2]
    low, high = points.min(0), points.max(0)
    extent = np.maximum((high - low) * 1.5, 1.0)  # room for the body around the joints
    x, y, width, height = boxes[len(boxes) // 2]
    offset = ((low + high - extent) / 2 - (x, y)) / (width, height)
    return np.concatenate([boxes[:, :2] + offset * boxes[:, 2:], extent / (width, height) * boxes[:, 2:]], axis=1)
