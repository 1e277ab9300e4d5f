"""Clips from photographs: T frames that look as if a video camera had taken them. NumPy and OpenCV only.

Not in the paper. A photograph shows an annotated person at one moment. Here the picture moves smoothly around that
moment, things pass in front of it, and camera and light degrade it, so that what a network learns from neighbouring
frames it learns on real pixels. The pose does not change: limbs do not move relative to each other but for a small
deformation of the whole picture.

Three kinds of pixels: those of the *image* (the photograph), of a *frame* (a picture of the clip, as large as the
photograph; the middle one, the keyframe, is the photograph itself), and of a *crop*. `StillClip.matrices` lead from the
image to the frames, `sdtc.core.crops.crop_to_image_matrix` from a crop to its frame: every crop is cut from the
photograph by one warp.

`Photometry` is light, focus, noise and compression alone, for crops of any source.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache

import cv2
import numpy as np

from sdtc.core.crops import crop_to_image_matrix, rotation_matrix
from sdtc.core.errors import ConfigError

DISPLAY_GAMMA = 2.2  # pixel values are about the 1/2.2nd power of the light
LOWEST_QUALITY = 15  # of JPEG: blocks of 8 pixels are about all that is left
NOISE_STARTS = 1 << 17  # places in the noise, which is drawn once, at which a frame's can begin
SPRITE = 48  # side of the sprite that an occluder is painted on, pixels
MAX_OCCLUDERS = 2


@dataclass(frozen=True)
class PhotometryConfig:
    """Strengths and probabilities of what camera and light do to a clip.

    Attributes:
        light_chance: probability that a clip is lit in another way than its source.
        exposure: largest change of the light, stops (factors of 2).
        gamma: largest change of the contrast curve's exponent, in the same way a power of 2.
        colour: largest change of the gain of red, green and blue, as a share.
        drift: largest further change from the keyframe to the first and the last frame, as a share of these three.
        defocus_chance: probability that a clip, or a spell of it, is out of focus.
        defocus: largest radius of the disc that a point is spread over, as a share of the crop's height.
        noise_chance: probability that the sensor is noisy.
        noise: largest standard deviation of its noise, of 255 levels.
        jpeg_chance: probability that frames are compressed.
        jpeg_quality: lowest quality, 15 to 100.

    Raises:
        ConfigError: a value is out of its range.
    """

    light_chance: float = 0.8
    exposure: float = 0.8
    gamma: float = 0.3
    colour: float = 0.08
    drift: float = 0.3
    defocus_chance: float = 0.15
    defocus: float = 0.02
    noise_chance: float = 0.4
    noise: float = 8.0
    jpeg_chance: float = 0.25
    jpeg_quality: int = 30

    def __post_init__(self) -> None:
        most = {"exposure": 4.0, "gamma": 2.0, "colour": 0.9, "defocus": 0.1, "noise": 64.0, "jpeg_quality": 100}
        _check_ranges(self, "augmentation.photometry", most, {"jpeg_quality": LOWEST_QUALITY})

    @staticmethod
    def none() -> PhotometryConfig:
        """Return a configuration that leaves every crop as it is."""
        return PhotometryConfig(light_chance=0, defocus_chance=0, noise_chance=0, jpeg_chance=0)


@dataclass(frozen=True)
class StillClipConfig:
    """Strengths and probabilities of the clips that are made of photographs.

    Lengths are shares of the longer side of the person's box. Every clip that moves draws a common strength from 0 to
    1, by which its motion is multiplied, so that slow clips are more frequent than fast ones.

    Attributes:
        motion_chance: probability that the picture moves at all.
        shift: largest speed, lengths per frame.
        zoom: largest growth or shrinkage per frame, as a share.
        rotation: largest rotation per frame, degrees.
        stretch: largest deformation per frame, longer in one direction and shorter across, as a share.
        curvature: largest change of these speeds from the keyframe to the first and the last frame, as a share.
        occluder_chance: probability that something passes in front of the person; a second thing is as likely again.
        occluder_size: largest width and height of it.
        blur_chance: probability of motion blur, in all frames or in a spell of them.
        blur: length of the longest blur by a shake of the camera. Where the picture moves, its own motion blurs too.
        missing_chance: probability that frames are missing: at an end of the clip, where a video begins or ends, or
            one between. The neighbour on the keyframe's side is in their place.
        filled_chance: probability that the photograph's edges are repeated outwards. Else a frame ends where the
            photograph ends, and crops are black beyond, as at the edge of a video.
        photometry: what camera and light do.

    Raises:
        ConfigError: a value is out of its range.
    """

    motion_chance: float = 0.7
    shift: float = 0.06
    zoom: float = 0.02
    rotation: float = 1.5
    stretch: float = 0.015
    curvature: float = 0.5
    occluder_chance: float = 0.35
    occluder_size: float = 0.6
    blur_chance: float = 0.35
    blur: float = 0.08
    missing_chance: float = 0.1
    filled_chance: float = 0.5
    photometry: PhotometryConfig = field(default_factory=PhotometryConfig)

    def __post_init__(self) -> None:
        most = {"shift": 0.5, "zoom": 0.2, "rotation": 20.0, "stretch": 0.1, "occluder_size": 2.0, "blur": 0.5}
        _check_ranges(self, "augmentation.still_clip", most, {})

    @staticmethod
    def none() -> StillClipConfig:
        """Return a configuration whose clips show the photograph T times, as `crop_frame` cuts it."""
        return StillClipConfig(
            motion_chance=0, occluder_chance=0, blur_chance=0, missing_chance=0, filled_chance=0,
            photometry=PhotometryConfig.none(),
        )  # fmt: skip


def _check_ranges(config: object, name: str, most: dict[str, float], least: dict[str, float]) -> None:
    """Check all numbers of a configuration; what has no entry is a share from 0 to 1."""
    for key, value in vars(config).items():
        low, high = least.get(key, 0), most.get(key, 1.0)
        if isinstance(value, int | float) and not low <= value <= high:
            raise ConfigError(f"{name}.{key} is {value}: expected {low} to {high}")


@dataclass(frozen=True)
class Photometry:
    """What camera and light do to the T frames of one clip.

    Attributes:
        curves: uint8 ``[T, 256, 3]``, the new value of each value of red, green and blue; None: as they are.
        defocus: ``[T]``, radius of the disc that a point is spread over, as a share of the crop's height.
        noise: standard deviation of the sensor's noise, of 255 levels.
        noise_starts: ``[T]``, which noise each frame has.
        jpeg_quality: 15 to 100; None: not compressed.
    """

    curves: np.ndarray | None
    defocus: np.ndarray
    noise: float
    noise_starts: np.ndarray
    jpeg_quality: int | None

    def apply(self, crop: np.ndarray, t: int) -> np.ndarray:
        """Return a crop, uint8 ``[H, W, 3]`` RGB, as frame t of the clip shows it."""
        crop = apply_defocus(crop, self.defocus[t] * len(crop))
        if self.curves is not None:
            crop = apply_light(crop, self.curves[t])
        if self.noise:
            crop = apply_noise(crop, self.noise, int(self.noise_starts[t]))
        return crop if self.jpeg_quality is None else apply_jpeg(crop, self.jpeg_quality)


def draw_photometry(num_frames: int, config: PhotometryConfig, rng: np.random.Generator) -> Photometry:
    """Draw what camera and light do to a clip of T frames."""
    curves, defocus, noise, quality = None, np.zeros(num_frames), 0.0, None
    if rng.random() < config.light_chance:
        curves = _draw_curves(num_frames, config, rng)
    if rng.random() < config.defocus_chance:
        defocus = config.defocus * rng.random() * _draw_spell(num_frames, rng)
    if rng.random() < config.noise_chance:
        noise = config.noise * rng.random()
    if rng.random() < config.jpeg_chance:
        quality = int(rng.integers(config.jpeg_quality, 101))
    return Photometry(curves, defocus, noise, rng.integers(NOISE_STARTS, size=num_frames), quality)


def _draw_curves(num_frames: int, config: PhotometryConfig, rng: np.random.Generator) -> np.ndarray:
    """Draw contrast curves that change evenly over time, uint8 ``[T, 256, 3]``."""
    most = np.array([config.exposure, config.gamma, config.colour, config.colour, config.colour])
    level, slope = rng.uniform(-1, 1, (2, 5)) * most
    exposure, gamma, *colour = (level + config.drift * slope * _from_middle(num_frames)[:, None]).T  # [T] each
    gain = 2 ** (exposure / DISPLAY_GAMMA) * (1 + np.stack(colour))  # [3, T]
    values = np.linspace(0, 1, 256) ** (2 ** gamma[:, None])  # [T, 256]
    curves: np.ndarray = np.rint(255 * np.clip(values[..., None] * gain.T[:, None], 0, 1)).astype(np.uint8)
    return curves


def _draw_spell(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Draw how something comes and goes, or is there all the time: 0-1 ``[T]``, 1 in one frame or more."""
    if rng.random() < 0.3:
        return np.ones(num_frames)
    distance = np.abs(np.arange(num_frames) - rng.integers(num_frames)) / rng.uniform(1, 3)
    return (1 - np.minimum(distance, 1) ** 2) ** 2


def _from_middle(num_frames: int) -> np.ndarray:
    """Return the time of every frame ``[T]``: -1 for the first, 0 for the keyframe, 1 for the last."""
    middle = num_frames // 2
    return (np.arange(num_frames) - middle) / max(middle, 1)


def apply_light(crop: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """Look up each value of a crop, uint8 ``[H, W, 3]``, in the curve of its channel, uint8 ``[256, 3]``."""
    return cv2.LUT(crop, curve[None])


def apply_defocus(crop: np.ndarray, radius: float) -> np.ndarray:
    """Spread every pixel of ``[H, W, 3]`` over a disc with a radius in pixels; up to half a pixel nothing changes."""
    if radius <= 0.5:
        return crop
    offsets = np.arange(-np.ceil(radius), np.ceil(radius) + 1)
    disc = np.clip(radius + 0.5 - np.hypot(offsets, offsets[:, None]), 0, 1)
    return cv2.filter2D(crop, -1, disc / disc.sum(), borderType=cv2.BORDER_REPLICATE)


def apply_motion_blur(crop: np.ndarray, path: np.ndarray) -> np.ndarray:
    """Spread every pixel of ``[H, W, 3]`` over a straight path ``[2]`` (x, y) in pixels, of which it is the middle."""
    length = float(np.hypot(*path))
    if length <= 0.5:
        return crop
    count = 2 * int(np.ceil(length)) + 1
    points = ((np.arange(count) + 0.5) / count - 0.5)[:, None] * path  # [N, 2]
    reach = np.ceil(np.abs(path).max() / 2)
    offsets = np.arange(-reach, reach + 1)  # [K]
    # Each point weighs on its four neighbours, as in bilinear interpolation: their mean is the point.
    across, down = (np.maximum(1 - np.abs(points[:, axis, None] - offsets), 0) for axis in (0, 1))  # [N, K]
    return cv2.filter2D(crop, -1, down.T @ across / len(points), borderType=cv2.BORDER_REPLICATE)


def apply_noise(crop: np.ndarray, sigma: float, start: int) -> np.ndarray:
    """Add normal noise to a crop, uint8 ``[H, W, 3]``.

    Args:
        crop: of any source.
        sigma: standard deviation, of 255 levels.
        start: which noise, 0 to `NOISE_STARTS` - 1: the same number, the same noise.
    """
    noise = _noise()[start : start + crop.size]
    if len(noise) < crop.size:  # a large crop: the same noise several times
        noise = np.resize(noise, crop.size)
    return cv2.add(crop, noise.reshape(crop.shape) * np.float32(sigma), dtype=cv2.CV_8U)


@cache
def _noise() -> np.ndarray:
    """Return standard normal noise, float32. To draw it anew for every frame takes longer than all else here."""
    return np.random.default_rng(0).standard_normal(2 * NOISE_STARTS, dtype=np.float32)


def apply_jpeg(crop: np.ndarray, quality: int) -> np.ndarray:
    """Compress a crop, uint8 ``[H, W, 3]`` RGB, as JPEG of a quality from 0 to 100, and decompress it."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    read = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert read is not None  # it is what was just written
    return cv2.cvtColor(read, cv2.COLOR_BGR2RGB)


@dataclass(frozen=True)
class PassingPatch:
    """Something flat that passes in front of the person, painted at random or cut from the photograph itself.

    Attributes:
        centres: ``[T, 2]`` (x, y), frame pixels.
        size: (width, height), frame pixels.
        angle: by which it is turned, degrees.
        seed: of its shape and its looks.
    """

    centres: np.ndarray
    size: tuple[float, float]
    angle: float
    seed: int

    def paint(self, image: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
        """Paint it about as large as a crop shows it, so that the warp neither blurs nor aliases it.

        Args:
            image: the photograph, uint8 ``[H, W, 3]``.
            scale: crop pixels per frame pixel.

        Returns:
            Colours, uint8 ``[h, w, 3]``, and opacity, 0-1, float32 ``[h, w]``, 0 at the edges.
        """
        rng = np.random.default_rng(self.seed)
        colours, opacity = _paint_colours(image, rng), _paint_opacity(rng)
        width, height = (int(np.clip(round(side * scale), 3, SPRITE)) for side in self.size)
        colours = cv2.resize(colours, (width, height), interpolation=cv2.INTER_AREA)
        opacity = cv2.resize(opacity, (width, height), interpolation=cv2.INTER_AREA)
        return cv2.copyMakeBorder(colours, 1, 1, 1, 1, cv2.BORDER_REPLICATE), np.pad(opacity, 1)

    def draw(self, crop: np.ndarray, sprite: tuple[np.ndarray, np.ndarray], t: int, frame_to_crop: np.ndarray) -> None:
        """Draw it into a crop of frame t.

        Args:
            crop: uint8 ``[H, W, 3]``, changed in place.
            sprite: from `paint`.
            t: the frame.
            frame_to_crop: ``[2, 3]``, from frame pixels to crop pixels.
        """
        colours, opacity = sprite
        height, width = opacity.shape
        unit = np.array(self.size) / (width - 2, height - 2)  # frame pixels per sprite pixel, without its border
        linear = rotation_matrix(self.angle) * unit  # from sprite to frame pixels
        middle = np.array([width - 1, height - 1]) / 2
        to_frame = _affine(linear, self.centres[t] - linear @ middle)
        to_crop = _compose(frame_to_crop, to_frame)
        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]]) - 0.5
        reached = corners @ to_crop[:, :2].T + to_crop[:, 2]
        low = np.maximum(np.floor(reached.min(axis=0)).astype(int), 0)
        high = np.minimum(np.ceil(reached.max(axis=0)).astype(int) + 1, crop.shape[1::-1])
        if (low >= high).any():
            return
        part = crop[low[1] : high[1], low[0] : high[0]]
        to_sprite = cv2.invertAffineTransform(to_crop)
        to_sprite[:, 2] += to_sprite[:, :2] @ low
        flags, size = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, (part.shape[1], part.shape[0])
        front = cv2.warpAffine(colours, to_sprite, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        share = cv2.warpAffine(opacity, to_sprite, size, flags=flags)
        part[:] = cv2.blendLinear(np.ascontiguousarray(part), front, 1 - share, share)


def _paint_colours(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Paint a surface, uint8 ``[SPRITE, SPRITE, 3]``: a piece of the image, or two colours in stripes or shades."""
    if rng.random() < 0.6:
        sides = np.array(image.shape[1::-1])
        linear = rotation_matrix(rng.uniform(0, 360)) * (rng.uniform(0.1, 0.5, 2) * sides / SPRITE)
        middle = rng.uniform(0.1, 0.9, 2) * sides - linear @ [SPRITE / 2, SPRITE / 2]
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        piece = cv2.warpAffine(
            image, _affine(linear, middle), (SPRITE, SPRITE), flags=flags, borderMode=cv2.BORDER_REFLECT_101
        )
        return cv2.convertScaleAbs(piece, alpha=rng.uniform(0.5, 1.3))
    places = np.linspace(0, 1, SPRITE)
    wave = np.cos(rng.uniform(0, 3) * 2 * np.pi * places + rng.uniform(0, 2 * np.pi))
    if rng.random() < 0.4:
        wave = np.sign(wave)  # stripes with edges
    shades = rng.uniform(0, 255, (2, 3))
    shades[1] += rng.uniform(0, 0.6) * (shades[0] - shades[1])
    row = shades[0] + (shades[1] - shades[0]) * (0.5 + 0.5 * wave[:, None])  # [SPRITE, 3]
    fall = np.linspace(1, rng.uniform(0.5, 1), SPRITE)[:, None, None]
    surface: np.ndarray = (row * fall).astype(np.uint8)
    return surface if rng.random() < 0.7 else np.ascontiguousarray(surface.transpose(1, 0, 2))


def _paint_opacity(rng: np.random.Generator) -> np.ndarray:
    """Paint a shape, 0-1, float32 ``[SPRITE, SPRITE]``: a rectangle, or something round with or without corners."""
    opaque = np.ones((SPRITE, SPRITE), np.float32)
    if rng.random() < 0.5:
        return opaque
    count = int(rng.integers(4, 14))
    angles = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * 2 * np.pi / count
    radii = rng.uniform(0.65, 1, count) * SPRITE / 2
    corners = SPRITE / 2 + radii[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])
    opaque[:] = 0
    cv2.fillPoly(opaque, [np.rint(corners).astype(np.int32)], 1.0)
    return cv2.GaussianBlur(opaque, (0, 0), rng.uniform(0.5, 4))


@dataclass(frozen=True)
class StillClip:
    """One clip of T frames, made of a photograph of one person.

    Attributes:
        matrices: ``[T, 2, 3]``, from image pixels to frame pixels; the identity at the keyframe, in the middle.
        boxes: ``[T, 4]`` (x, y, width, height), the person's box in every frame, frame pixels; it is upright, and holds
            all of the moved box.
        blur: ``[T, 2]`` (x, y), the path of a point while the shutter is open, frame pixels.
        occluders: what passes in front.
        filled: whether the photograph's edges are repeated outwards; else frames are black beyond its size.
        photometry: what camera and light do.
    """

    matrices: np.ndarray
    boxes: np.ndarray
    blur: np.ndarray
    occluders: tuple[PassingPatch, ...]
    filled: bool
    photometry: Photometry

    def keypoints(self, keypoints: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
        """Return where the joints are in every frame.

        Args:
            keypoints: ``[J, 3]`` (x, y, v), image pixels.
            image_size: (H, W) of the photograph.

        Returns:
            float32 ``[T, J, 3]``, frame pixels; v is 0 also for joints that have left the picture.
        """
        moved = np.einsum("tij,kj->tki", self.matrices[:, :, :2], keypoints[:, :2]) + self.matrices[:, None, :, 2]
        visibility = np.tile(keypoints[:, 2], (len(self.matrices), 1))
        if not self.filled:
            last = np.array(image_size[::-1]) - 1
            still = (self.matrices == _IDENTITY).all(axis=(1, 2))[:, None]  # as annotated, whatever that is
            visibility *= ((moved >= 0) & (moved <= last)).all(axis=-1) | still
        return np.concatenate([moved, visibility[..., None]], axis=-1).astype(np.float32)

    def render(
        self, image: np.ndarray, crop_boxes: np.ndarray, size: tuple[int, int], rotation: float = 0.0
    ) -> np.ndarray:
        """Cut the crops of all frames out of the photograph.

        Args:
            image: the photograph, uint8 ``[H_image, W_image, 3]`` RGB.
            crop_boxes: ``[T, 4]``, of each frame, frame pixels; see `sdtc.core.crops.expand_boxes`.
            size: (H, W) of the crops.
            rotation: of all crops, as in `crop_frame`.

        Returns:
            uint8 ``[T, H, W, 3]``.
        """
        clip = np.empty((len(self.matrices), *size, 3), np.uint8)
        scale = (size[0] - 1) / float(np.mean(crop_boxes[:, 3]))
        sprites = [patch.paint(image, scale) for patch in self.occluders]
        for t, crop_box in enumerate(crop_boxes):
            to_frame = crop_to_image_matrix(crop_box, size, rotation)
            to_crop = cv2.invertAffineTransform(to_frame)
            path = to_crop[:, :2] @ self.blur[t]
            # What is beyond the frame is black as in `crop_frame`, but it does not blur into the picture.
            plain = not self.filled and (self.matrices[t] == _IDENTITY).all()
            plain = plain and not path.any() and not self.photometry.defocus[t]
            crop = cv2.warpAffine(
                image,
                _compose(cv2.invertAffineTransform(self.matrices[t]), to_frame),
                size[::-1],
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_CONSTANT if plain else cv2.BORDER_REPLICATE,
            )
            for patch, sprite in zip(self.occluders, sprites, strict=True):
                patch.draw(crop, sprite, t, to_crop)
            crop = self.photometry.apply(apply_motion_blur(crop, path), t)
            clip[t] = crop if self.filled else _blacken_outside(crop, to_frame, image.shape[:2])
        return clip


def _blacken_outside(crop: np.ndarray, to_frame: np.ndarray, frame_size: tuple[int, int]) -> np.ndarray:
    """Return a crop that is black wherever `crop_frame` sees nothing of its frame."""
    height, width = crop.shape[:2]
    inside = None
    for (across, down, start), side in zip(to_frame.tolist(), frame_size[::-1], strict=True):
        ends = [start + x * across + y * down for x in (0, width - 1) for y in (0, height - 1)]
        if min(ends) <= -1 or max(ends) >= side:
            place = start + across * np.arange(width) + down * np.arange(height)[:, None]  # [H, W], frame pixels
            within = (place > -1) & (place < side)
            inside = within if inside is None else inside & within
    return crop if inside is None else cv2.copyTo(crop, inside.view(np.uint8))


def draw_still_clip(box: np.ndarray, num_frames: int, config: StillClipConfig, rng: np.random.Generator) -> StillClip:
    """Draw how a photograph becomes a clip.

    Args:
        box: of the person ``[4]`` (x, y, width, height), image pixels.
        num_frames: T, odd. A clip of one frame does not move.
        config: strengths and probabilities.
        rng: source of all randomness.
    """
    box = np.asarray(box, np.float64)
    length, centre = float(box[2:].max()), box[:2] + box[2:] / 2
    matrices, paths = _draw_motion(centre, length, num_frames, config, rng)
    blur = np.zeros((num_frames, 2))
    if rng.random() < config.blur_chance:
        angle = rng.uniform(0, 2 * np.pi)
        shake = length * config.blur * rng.random() * np.array([np.cos(angle), np.sin(angle)])
        blur = rng.random() * paths + _draw_spell(num_frames, rng)[:, None] * shake
    occluders: list[PassingPatch] = []
    while len(occluders) < MAX_OCCLUDERS and rng.random() < config.occluder_chance:
        occluders.append(_draw_occluder(box, num_frames, config, rng))
    clip = StillClip(
        matrices=matrices,
        boxes=_move_box(box, matrices),
        blur=blur,
        occluders=tuple(occluders),
        filled=bool(rng.random() < config.filled_chance),
        photometry=draw_photometry(num_frames, config.photometry, rng),
    )
    if num_frames > 1 and rng.random() < config.missing_chance:
        return _take_frames(clip, _draw_shown(num_frames, rng))
    return clip


def _draw_motion(
    centre: np.ndarray, length: float, num_frames: int, config: StillClipConfig, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a smooth motion.

    Returns:
        The matrices ``[T, 2, 3]`` of `StillClip`, and how far the person's centre moves per frame ``[T, 2]``.
    """
    middle = num_frames // 2
    strength = rng.random() if rng.random() < config.motion_chance and middle else 0.0
    angles, sizes = rng.uniform(0, 2 * np.pi, 2), rng.random(2)
    velocity, bend = sizes[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])  # [2] (x, y) each
    bend *= sizes[0]
    rates, bends = rng.uniform(-1, 1, (2, 4))  # of zoom, rotation and stretch along two axes
    bends *= rates
    most = np.array([config.zoom, config.rotation, config.stretch / np.sqrt(2), config.stretch / np.sqrt(2)])
    time, late = np.arange(num_frames) - middle, _from_middle(num_frames)
    # Speeds change evenly, by `curvature` at most between the middle and either end: the integral of 1 + curvature * u.
    way, bent = (strength * each[:, None] for each in (time, config.curvature * late * time / 2))
    shifts = config.shift * length * (way * velocity + bent * bend)  # [T, 2]
    paths = config.shift * length * strength * (velocity + config.curvature * late[:, None] * bend)
    matrices = np.empty((num_frames, 2, 3))
    for t, (zoom, turn, along, askew) in enumerate(most * (way * rates + bent * bends)):
        linear = np.exp(zoom) * rotation_matrix(turn) @ np.array([[1 + along, askew], [askew, 1 - along]])
        matrices[t] = _affine(linear, centre + shifts[t] - linear @ centre)
    matrices[middle] = _IDENTITY  # exactly
    return matrices, paths


def _draw_occluder(box: np.ndarray, num_frames: int, config: StillClipConfig, rng: np.random.Generator) -> PassingPatch:
    """Draw something that covers a place of the box in one frame, and most of its places for a few frames only."""
    length = float(box[2:].max())
    width, height = config.occluder_size * length * rng.uniform(0.25, 1, 2)
    tall = rng.random() < 0.35
    if tall:  # a pole, or the edge of something: beyond the upper and lower end of what crops show
        width, height = 0.6 * width * rng.random() + 0.02 * length, 6 * length
    # Narrow things may stand; the wider, the faster.
    slowest = 0.0 if width < 0.2 * length else width / 3.5
    speed = rng.choice([-1, 1]) * rng.uniform(slowest, max(width, 0.15 * length))
    climb = 0.0 if tall else rng.uniform(-0.3, 0.3) * speed
    met = box[:2] + rng.uniform(0.05, 0.95, 2) * box[2:]
    time = np.arange(num_frames)[:, None] - rng.integers(num_frames)
    angle = rng.uniform(-15, 15) if tall else rng.uniform(-90, 90)
    return PassingPatch(met + time * [speed, climb], (width, height), float(angle), int(rng.integers(1 << 31)))


def _draw_shown(num_frames: int, rng: np.random.Generator) -> np.ndarray:
    """Draw which frame is shown in the place of each ``[T]``, where some are missing; never the keyframe."""
    shown, middle = np.arange(num_frames), num_frames // 2
    first = int(rng.integers(1, middle + 1))  # counted from an end: the first that is there
    if rng.random() < 0.5:
        shown[:first] = first
    else:
        shown[first - 1] = first
    return shown if rng.random() < 0.5 else num_frames - 1 - shown[::-1]


def _take_frames(clip: StillClip, shown: np.ndarray) -> StillClip:
    """Return a clip that shows these frames ``[T]`` of another."""
    photometry = clip.photometry
    return replace(
        clip,
        matrices=clip.matrices[shown],
        boxes=clip.boxes[shown],
        blur=clip.blur[shown],
        occluders=tuple(replace(patch, centres=patch.centres[shown]) for patch in clip.occluders),
        photometry=replace(
            photometry,
            curves=None if photometry.curves is None else photometry.curves[shown],
            defocus=photometry.defocus[shown],
            noise_starts=photometry.noise_starts[shown],
        ),
    )


def _move_box(box: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    """Return the upright boxes ``[T, 4]`` around a box ``[4]`` that is moved by matrices ``[T, 2, 3]``."""
    x, y, width, height = box
    corners = np.array([[x, y], [x + width, y], [x, y + height], [x + width, y + height]])
    moved = np.einsum("tij,kj->tki", matrices[:, :, :2], corners) + matrices[:, None, :, 2]  # [T, 4, 2]
    low, high = moved.min(axis=1), moved.max(axis=1)
    return np.concatenate([low, high - low], axis=1)


_IDENTITY = np.array([[1.0, 0, 0], [0, 1, 0]])


def _affine(linear: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Return the affine map ``[2, 3]`` with a linear part ``[2, 2]`` and a shift ``[2]``."""
    matrix = np.empty((2, 3))
    matrix[:, :2], matrix[:, 2] = linear, shift
    return matrix


def _compose(second: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Return the affine map ``[2, 3]`` that applies one after another."""
    return _affine(second[:, :2] @ first[:, :2], second[:, :2] @ first[:, 2] + second[:, 2])
