"""Occluders, which stand or move in front of the people of a synthetic clip: poles, fences, boards, crates and plants.

An occluder is a flat sprite parallel to the image plane. Each is sampled for one encounter with one person: its width,
and its speed if it moves, are such that it covers a joint for a given number of frames. Most encounters are short, so
that a joint hidden in one frame is usually visible within two frames: a network that sees several frames can use this,
one that sees a single frame cannot.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from sdtc.synthetic.people import POINT, Cloth, DrawnPerson, random_colour
from sdtc.synthetic.render import Camera, Canvas, cloth_texture

FRAMES_PER_ENCOUNTER = 7  # on average
MAX_STANDING = 2  # standing occluders per clip: they stay, and a long clip must not fill up with them
OVERSAMPLING = 2  # sprites are painted at this many times their size, and then shrunk


@dataclass(frozen=True)
class Occluder:
    """A flat upright object, parallel to the image plane. Lengths in metres, in the world coordinates of `people`.

    Attributes:
        kind: a key of :data:`PAINTERS`.
        x: of its centre at `time`.
        z: distance from the camera.
        time: seconds.
        speed: to the right, metres per second; 0 if it stands.
        low, high: heights of its lower and upper edge above the ground.
        width: of the whole object.
        bar: width of one bar of a fence; of other kinds, equal to `width`.
    """

    kind: str
    x: float
    z: float
    time: float
    speed: float
    low: float
    high: float
    width: float
    bar: float


def sample_occluders(
    rng: np.random.Generator, camera: Camera, people: tuple[DrawnPerson, ...], frames: int, fps: float
) -> tuple[Occluder, ...]:
    """Sample the occluders of a clip.

    Args:
        rng: source of all randomness.
        camera: of the clip.
        people: of the clip.
        frames: number of frames.
        fps: frames per second.
    """
    found: list[Occluder] = []
    for start in range(0, frames, FRAMES_PER_ENCOUNTER):
        frame = min(start + int(rng.integers(FRAMES_PER_ENCOUNTER)), frames - 1)
        columns = [camera.project(person.points[frame, POINT["pelvis"]], frame / fps)[0] for person in people]
        shown = [person for person, column in zip(people, columns, strict=True) if 0 <= column < camera.size[1]]
        if shown:
            person = shown[rng.integers(len(shown))]
            may_stand = sum(occluder.speed == 0 for occluder in found) < MAX_STANDING
            found.append(_encounter(rng, camera, person, frame, fps, may_stand))
    return tuple(found)


def _encounter(
    rng: np.random.Generator, camera: Camera, person: DrawnPerson, frame: int, fps: float, may_stand: bool
) -> Occluder:
    """Sample an occluder that is in front of a person in one frame."""
    pelvis = person.points[:, POINT["pelvis"]]
    x, _, z = pelvis[frame]
    before, after = max(frame - 1, 0), min(frame + 1, len(pelvis) - 1)
    # Lateral speed as seen by the camera, in metres per frame at the person's distance.
    drift = z * (pelvis[after, 0] / pelvis[after, 2] - pelvis[before, 0] / pelvis[before, 2]) / max(after - before, 1)
    bar = None
    if may_stand and abs(drift) > 0.015 and rng.random() < 0.6:
        speed = 0.0
        spell = rng.uniform(8, 14) if rng.random() < 0.15 else rng.uniform(2, 4)
        width = float(np.clip(abs(drift) * spell, 0.05, 0.8))
        if width > 0.2:
            kind = str(rng.choice(["board", "crate", "plant"]))
        elif rng.random() < 0.35:
            kind = "pole"
        else:
            kind, bar, width = "fence", width, float(rng.uniform(1.0, 2.5))
    else:
        kind = str(rng.choice(["board", "board", "crate"]))
        width = float(rng.uniform(0.45, 1.2))
        speed = drift + rng.choice([-1, 1]) * width / rng.uniform(1.2, 3.2)
    # Nearer than the person, and smaller in proportion, so that its size in the image is the one sampled.
    nearer = float(rng.uniform(0.5, 0.8))

    def height(share: float) -> float:
        """Return the height at which the line of sight to a share of the person's height meets the occluder, metres."""
        return camera.height - (camera.height - share * person.body.stature) * nearer

    low, high = 0.0, height(float(rng.uniform(0.5, 1.15)))
    if kind == "pole" or (kind in ("board", "plant") and rng.random() < 0.3):  # reaches beyond the top of the image
        high = camera.height + (camera.horizon + 0.1 * camera.size[0]) * z * nearer / camera.focal
        low = 0.0 if kind == "pole" else height(float(rng.uniform(0.1, 0.5)))
    return Occluder(
        kind=kind,
        x=float(x) * nearer,
        z=float(z) * nearer,
        time=frame / fps,
        speed=speed * fps * nearer,
        low=low,
        high=max(high, low + 0.2),
        width=width * nearer,
        bar=(width if bar is None else bar) * nearer,
    )


class OccluderPainter:
    """Draws one occluder, whose sprite is painted once."""

    def __init__(self, occluder: Occluder, camera: Camera, rng: np.random.Generator) -> None:
        self.occluder = occluder
        scale = camera.focal / occluder.z  # pixels per metre
        sides = occluder.high - occluder.low, occluder.width
        height, width = (max(round(OVERSAMPLING * scale * side), 4) for side in sides)
        fine = PAINTERS[occluder.kind](height, width, max(OVERSAMPLING * scale * occluder.bar, 2.0), rng)
        fine[..., :3] *= fine[..., 3:]
        size = (max(width // OVERSAMPLING, 1), max(height // OVERSAMPLING, 1))
        # a transparent border, so that an edge between two pixels is anti-aliased
        self.sprite = np.pad(cv2.resize(fine, size, interpolation=cv2.INTER_AREA), ((1, 1), (1, 1), (0, 0)))

    def draw(self, canvas: Canvas, camera: Camera, moment: float, time: float, label: int) -> None:
        """Draw the occluder at its position at a time in seconds; `moment` is used by `PersonPainter` only."""
        thing = self.occluder
        top = np.array([thing.x + thing.speed * (time - thing.time), thing.high, thing.z])
        middle = (self.sprite.shape[1] - 1) / 2
        canvas.sprite(self.sprite, camera.project(top, time) - [middle, 1], label)

    def shadow(self, canvas: Canvas, camera: Camera, moment: float, time: float) -> None:
        """Draw the occluder's shadow, if it stands on the ground."""
        thing = self.occluder
        if thing.low == 0:
            ground = np.array([thing.x + thing.speed * (time - thing.time), 0, thing.z])
            half = 0.6 * thing.width * camera.focal / thing.z
            canvas.shadow(camera.project(ground, time), np.array([half, 0.3 * half * camera.height / thing.z]) + 1)

    def depth(self, moment: float) -> float:
        """Return the distance from the camera, metres."""
        return self.occluder.z


def _pole(height: int, width: int, bar: float, rng: np.random.Generator) -> np.ndarray:
    """Paint a round pole, plain or banded: float32 ``[height, width, 4]``, RGB 0-255 and opacity 0-1, as all do."""
    sprite = np.ones((height, width, 4), np.float32)
    across = np.linspace(-0.95, 0.95, width)
    shade = 0.45 + 0.6 * np.sqrt(1 - across**2) - 0.15 * across
    bands = np.arange(height) // max(int(bar * rng.uniform(1, 3)), 2) % 2 if rng.random() < 0.4 else np.zeros(height)
    colours = np.array([random_colour(rng, 40), random_colour(rng, 40)])[bands.astype(int)]  # [height, 3]
    sprite[..., :3] = colours[:, None] * shade[:, None]
    return sprite


def _fence(height: int, width: int, bar: float, rng: np.random.Generator) -> np.ndarray:
    """Paint upright bars and two rails, with gaps between the bars."""
    sprite = np.zeros((height, width, 4), np.float32)
    one = _pole(height, max(round(bar), 2), bar, rng)
    pitch = max(round(bar * rng.uniform(2.2, 3.2)), one.shape[1] + 2)
    for left in range(0, width - one.shape[1] + 1, pitch):
        sprite[:, left : left + one.shape[1]] = one
    thick = max(round(0.35 * bar), 2)
    colour = one[:, one.shape[1] // 2, :3].mean(axis=0) * 0.8
    for row in (int(0.04 * height), int(0.8 * height)):
        sprite[row : row + thick] = [*colour, 1]
    return sprite


def _board(height: int, width: int, bar: float, rng: np.random.Generator) -> np.ndarray:
    """Paint a patterned panel with a frame and some posters."""
    texture = cloth_texture(Cloth.random(rng, plain=0.35), (0.6, 0.6), rng)
    face = np.empty((60, 60, 3), np.float32)
    face[:] = texture if texture.ndim == 1 else cv2.resize(texture, (60, 60))
    face = np.clip(cv2.resize(face, (width, height)), 0, 255).astype(np.uint8)  # OpenCV anti-aliases uint8 images only
    for _ in range(int(rng.integers(0, 5))):
        colour = random_colour(rng, 20)
        low, high = np.sort(rng.uniform(0.05, 0.95, (2, 2)), axis=0)
        corner, other = ((int(x * width), int(y * height)) for x, y in (low, high))
        if rng.random() < 0.6:
            cv2.rectangle(face, corner, other, colour, -1)
        else:
            middle = ((corner[0] + other[0]) // 2, (corner[1] + other[1]) // 2)
            cv2.ellipse(face, middle, (min(width, height) // 5,) * 2, 0, 0, 360, colour, -1, cv2.LINE_AA)
    cv2.rectangle(face, (0, 0), (width - 1, height - 1), random_colour(rng, 20), max(min(width, height) // 14, 2))
    return _opaque(face)


def _crate(height: int, width: int, bar: float, rng: np.random.Generator) -> np.ndarray:
    """Paint planks on a frame with a diagonal brace."""
    wood = np.array([random_colour(rng, 60, 0.4)]) * 0.5 + np.array([[150, 112, 70]]) * rng.uniform(0.3, 0.7)
    planks = int(rng.integers(4, 9))
    tones = wood * rng.uniform(0.75, 1.15, (planks, 1))
    rows = np.arange(height) * planks // height
    grain = rng.normal(0, 5, (height, 1, 1)) + rng.normal(0, 3, (height, width, 1))
    face = np.clip(tones[rows][:, None] + grain, 0, 255).astype(np.uint8)
    face[np.flatnonzero(np.diff(rows, prepend=0))] //= 2
    beam, thick = (wood[0] * 0.75).tolist(), max(min(width, height) // 9, 2)
    cv2.line(face, (0, height - 1), (width - 1, 0), beam, thick, cv2.LINE_AA)
    cv2.rectangle(face, (0, 0), (width - 1, height - 1), beam, 2 * thick)
    return _opaque(face)


def _plant(height: int, width: int, bar: float, rng: np.random.Generator) -> np.ndarray:
    """Paint a bush of leaves with gaps."""
    colour, opaque = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
    green = np.array([rng.uniform(30, 110), rng.uniform(90, 170), rng.uniform(25, 80)])
    leaf = max(0.13 * width, 3.0)
    stalks = [(int(x), int(lean)) for x, lean in zip(*rng.uniform(0.1, 0.9, (2, 9)) * width, strict=True)]
    for foot, head in stalks:
        for layer, tone in ((colour, (green * 0.55).tolist()), (opaque, 255)):
            cv2.line(layer, (foot, height - 1), (head, 0), tone, max(int(leaf / 5), 1), cv2.LINE_AA)
    for _ in range(int(1.6 * height * width / leaf**2)):
        middle = (int(rng.uniform(0.05, 0.95) * width), int(rng.uniform(0.02, 1) * height))
        axes, angle = (int(leaf * rng.uniform(0.6, 1.2)), int(leaf * rng.uniform(0.2, 0.4))), rng.uniform(0, 180)
        for layer, tone in ((colour, (green * rng.uniform(0.5, 1.3)).tolist()), (opaque, 255)):
            cv2.ellipse(layer, middle, axes, angle, 0, 360, tone, -1, cv2.LINE_AA)
    return np.dstack([colour, opaque / np.float32(255)]).astype(np.float32)


def _opaque(face: np.ndarray) -> np.ndarray:
    """Shade a face as lit from above, and add an opacity of 1."""
    light = np.linspace(1.05, 0.8, len(face), dtype=np.float32)[:, None, None]
    return np.dstack([face * light, np.ones(face.shape[:2], np.float32)])


PAINTERS = {"pole": _pole, "fence": _fence, "board": _board, "crate": _crate, "plant": _plant}
