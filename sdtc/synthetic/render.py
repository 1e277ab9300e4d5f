"""Rendering of a synthetic scene: camera, background, textures, and bodies drawn from back to front.

Every body part is one primitive, a shaded tube with round ends (:class:`Tube`), anti-aliased from its distance field.
A texture wraps around its part, so that a face, a zip or a print turns with the body, and the front of a person differs
from the back. The contents of the scene come from `people` and `clip`. Coordinates are those of pixel centres, as
everywhere in this package.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from sdtc.synthetic.difficulty import Shake
from sdtc.synthetic.people import POINT, Body, Cloth, DrawnPerson, Look, random_colour

TEXELS = 100  # per metre of cloth
Profile = list[float] | np.ndarray  # half widths along a part


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks along z; a slow pan shifts the image over a larger image plane.

    Attributes:
        size: (H, W) of the image, pixels.
        focal: focal length, pixels.
        height: of the lens above the ground, metres.
        horizon: image row of the horizon.
        pan: amplitude of the pan (x, y), pixels.
        period: of the pan, seconds.
        start: phase of the pan, radians.
        shakes: short vibrations of the camera on top of the pan.
    """

    size: tuple[int, int]
    focal: float
    height: float
    horizon: float
    pan: tuple[float, float]
    period: float
    start: float
    shakes: tuple[Shake, ...] = ()

    def shift(self, time: float) -> np.ndarray:
        """Return the shift of the image at a time in seconds, pixels ``[2]`` (x, y)."""
        angle = 2 * np.pi * time / self.period + self.start
        shift = np.array([self.pan[0] * np.sin(angle), self.pan[1] * np.sin(1.7 * angle)])
        for shake in self.shakes:
            shift += shake.shift(time)
        return shift

    def project(self, points: np.ndarray, time: float) -> np.ndarray:
        """Project world points ``[..., 3]`` in metres to image pixels ``[..., 2]``."""
        per_metre = self.focal / points[..., 2]
        column = (self.size[1] - 1) / 2 + points[..., 0] * per_metre
        row = self.horizon + (self.height - points[..., 1]) * per_metre
        return np.stack([column, row], axis=-1) + self.shift(time)


@dataclass(frozen=True)
class Part:
    """One part of a body: a tube between two points, with a profile of half widths in metres.

    Attributes:
        a, b: its ends, as indices of ``POINTS``.
        wide, deep: half widths of its cross section, to the side and to the front, evenly spaced from a to b.
        texture: ``[h, w, 3]`` RGB 0-255, around the part (middle column: front) and along it, or one colour ``[3]``.
        share: the part ends at this share of the distance from a to b.
        cap: height of the rounding beyond both ends, metres; None: a semicircle.
        nearer: metres by which it counts as nearer when parts are sorted by depth, for parts on top of others.
        head: whether it turns with the head, not with the trunk.
    """

    a: int
    b: int
    wide: np.ndarray
    deep: np.ndarray
    texture: np.ndarray
    share: float = 1.0
    cap: float | None = None
    nearer: float = 0.0
    head: bool = False


@dataclass(frozen=True)
class Tube:
    """One shaded tube in image pixels.

    Attributes:
        a, b: its ends ``[2]`` (x, y).
        radii: ``[K]``, evenly spaced from a to b.
        cap: height of the rounding beyond both ends; None: as high as the radius there.
        texture: as in :class:`Part`.
        turn: angle between the texture's front and the line of sight, radians.
    """

    a: np.ndarray
    b: np.ndarray
    radii: np.ndarray
    cap: float | None
    texture: np.ndarray
    turn: float


class Canvas:
    """An image being drawn, float32 ``[H, W, 3]``, and a mask ``[H, W]`` with the label of what each pixel shows.

    The caller chooses the labels; 0 is the background.
    """

    def __init__(self, background: np.ndarray, light: np.ndarray) -> None:
        self.image = background.astype(np.float32)
        self.mask = np.zeros(background.shape[:2], np.uint16)
        self.light = light  # unit vector towards the light: right, down, towards the camera

    def window(self, centre: np.ndarray, reach: np.ndarray) -> tuple[slice, slice] | None:
        """Return the rows and columns of the image within `reach` of points ``[..., 2]``; None if there are none."""
        low = np.floor(np.atleast_2d(centre).min(axis=0) - reach).astype(int)
        high = np.ceil(np.atleast_2d(centre).max(axis=0) + reach).astype(int) + 1
        x0, y0 = np.maximum(low, 0).tolist()
        x1, y1 = np.minimum(high, self.mask.shape[::-1]).tolist()
        return (slice(y0, y1), slice(x0, x1)) if x0 < x1 and y0 < y1 else None

    def shadow(self, centre: np.ndarray, radii: np.ndarray) -> None:
        """Draw a shadow on the ground: darken a soft ellipse."""
        window = self.window(centre, radii)
        if window is None:
            return
        x = (np.arange(window[1].start, window[1].stop, dtype=np.float32) - centre[0]) / radii[0]
        y = (np.arange(window[0].start, window[0].stop, dtype=np.float32) - centre[1]) / radii[1]
        fade = np.clip(1 - x**2 - y[:, None] ** 2, 0, 1)
        self.image[window] *= (1 - 0.5 * fade)[..., None]

    def tube(self, tube: Tube, label: int) -> None:
        """Draw a shaded tube.

        Args:
            tube: in image pixels.
            label: for the mask.
        """
        a, b, radii, cap, texture = tube.a, tube.b, tube.radii, tube.cap, tube.texture
        window = self.window(np.stack([a, b]), radii.max() + 1.0)
        if window is None:
            return
        x = np.arange(window[1].start, window[1].stop, dtype=np.float32) - np.float32(a[0])
        y = (np.arange(window[0].start, window[0].stop, dtype=np.float32) - np.float32(a[1]))[:, None]
        length = max(float(np.hypot(*(b - a))), 1e-3)
        dx, dy = ((b - a) / length).astype(np.float32).tolist()
        along = x * dx + y * dy  # [h, w]
        across = y * dx - x * dy
        inside = np.clip(along, 0, length)
        beyond = along - inside
        if len(radii) == 2:
            radius = inside * np.float32((radii[1] - radii[0]) / length) + np.float32(radii[0])
        else:
            radius = np.interp(inside, np.linspace(0, length, len(radii)), radii).astype(np.float32)
        if cap is not None:
            beyond *= radius / np.float32(cap)
        distance = np.sqrt(across * across + beyond * beyond)
        alpha = np.clip(radius - distance + 0.5, 0, 1)

        # Shading by Lambert's law; the normal of the convex surface follows from the position across the tube.
        right, down, front = self.light
        if cap is None:  # the rounding at a joint is shaded as if the limb continued, or people would look like dolls
            beyond *= 0.3
            distance = np.sqrt(across * across + beyond * beyond)
        rise = np.sqrt(np.maximum(1 - (distance / radius) ** 2, 0))
        side = across * np.float32(dx * down - dy * right) + beyond * np.float32(dx * right + dy * down)
        shade = 0.5 + 0.55 * np.maximum(side / radius + rise * np.float32(front), 0)

        if texture.ndim == 1:
            colour = shade[..., None] * texture
        else:
            texture = _shrink(texture, float(radii.mean()))
            height, width = texture.shape[:2]
            rim = float(radii.mean()) if cap is None else cap
            around = np.float32(tube.turn) + np.arcsin(np.clip(across / radius, -1, 1))
            columns = (around * np.float32(width / (2 * np.pi)) + np.float32(width / 2 - 0.5)) % width
            rows = (along + np.float32(rim)) * np.float32((height - 1) / (length + 2 * rim))
            colour = cv2.remap(texture, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            colour *= shade[..., None]
        under = self.image[window]
        colour -= under
        colour *= alpha[..., None]
        under += colour
        self.mask[window][alpha > 0.5] = label

    def sprite(self, sprite: np.ndarray, corner: np.ndarray, label: int) -> None:
        """Draw a sprite over the image.

        Args:
            sprite: float32 ``[h, w, 4]``, RGB 0-255 premultiplied by the opacity (0-1) in the last channel.
            corner: ``[2]`` (x, y), image pixels of its top left pixel.
            label: for the mask.
        """
        height, width = sprite.shape[:2]
        half = np.array([width, height]) / 2
        window = self.window(corner + half, half + 1)
        if window is None:
            return
        rows, columns = window
        matrix = np.array([[1.0, 0.0, corner[0] - columns.start], [0.0, 1.0, corner[1] - rows.start]])
        moved = cv2.warpAffine(sprite, matrix, (columns.stop - columns.start, rows.stop - rows.start))
        under = self.image[window]
        under *= 1 - moved[..., 3:]
        under += moved[..., :3]
        self.mask[window][moved[..., 3] > 0.5] = label


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Round an image to uint8."""
    return cv2.convertScaleAbs(image)


def defocus(image: np.ndarray, radius: float) -> np.ndarray:
    """Spread every pixel of ``[H, W, 3]`` over a disc with a radius in pixels, as a lens out of focus does."""
    reach = int(np.ceil(radius))
    offsets = np.arange(-reach, reach + 1, dtype=np.float32)
    disc = np.clip(radius + 0.5 - np.hypot(offsets, offsets[:, None]), 0, 1)
    return cv2.filter2D(image, -1, disc / disc.sum(), borderType=cv2.BORDER_REFLECT_101)


def underexpose(image: np.ndarray, exposure: float, grain: float, rng: np.random.Generator) -> np.ndarray:
    """Darken an image (0-255) to a share of its light, and add the sensor's noise (standard deviation `grain`)."""
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    return np.maximum(image * np.float32(exposure) + noise * np.float32(grain), 0)


class PersonPainter:
    """Draws one person, whose textures are made once."""

    def __init__(self, person: DrawnPerson, rng: np.random.Generator) -> None:
        self.person = person
        self.parts = _body_parts(person.body, person.look, rng)

    def draw(self, canvas: Canvas, camera: Camera, moment: float, time: float, label: int) -> None:
        """Draw the person at a moment (counted in frames), part by part from far to near."""
        points, facing = self.person.at(moment)  # [K, 3], [2]
        place = points[POINT["pelvis"]]
        # Direction of the camera, as an angle to the left of the directions that trunk and head face.
        turns = np.arctan2(-place[2], -place[0]) - facing
        starts = points[[part.a for part in self.parts]]
        shares = np.array([part.share for part in self.parts])[:, None]
        ends = starts + shares * (points[[part.b for part in self.parts]] - starts)
        scales = camera.focal / np.stack([starts[:, 2], ends[:, 2]], axis=1)  # pixels per metre
        starts_2d, ends_2d = camera.project(starts, time), camera.project(ends, time)

        # Sorted by the middle of the whole bone, so that a sleeve stays with its arm.
        bones = points[[(part.a, part.b) for part in self.parts], 2]
        depth = bones.mean(axis=1) - [part.nearer for part in self.parts]
        for i in np.argsort(-depth, kind="stable"):
            part = self.parts[i]
            turn = float(turns[int(part.head)])
            half = np.hypot(part.wide * np.cos(turn), part.deep * np.sin(turn))  # half width of the ellipse as seen
            radii = half * np.linspace(scales[i, 0], scales[i, 1], len(half))
            cap = None if part.cap is None else part.cap * scales[i, 0]
            canvas.tube(Tube(starts_2d[i], ends_2d[i], radii, cap, part.texture, turn), label)

    def shadow(self, canvas: Canvas, camera: Camera, moment: float, time: float) -> None:
        """Draw the person's shadow on the ground."""
        place = self.person.at(moment)[0][POINT["pelvis"]] * [1, 0, 1]
        scale = camera.focal / place[2]
        flat = 0.32 * scale * max(0.15, camera.height / place[2])
        canvas.shadow(camera.project(place, time), np.array([0.45 * scale, flat]))

    def depth(self, moment: float) -> float:
        """Return the distance from the camera at a moment counted in frames, metres."""
        return float(self.person.at(moment)[0][POINT["pelvis"], 2])


def _body_parts(body: Body, look: Look, rng: np.random.Generator) -> list[Part]:
    """Return the parts of one body, in metres."""
    s, girth = body.stature, body.girth
    skin, hair, shoes = (np.array(colour, np.float32) for colour in (look.skin, look.hair, look.shoes))
    sleeve = cloth_texture(look.shirt, (0.35, 0.35), rng)
    leg = cloth_texture(look.trousers, (0.5, 0.5), rng)
    parts: list[Part] = []

    def add(a: str, b: str, wide: Profile, texture: np.ndarray, deep: Profile | None = None, **more: Any) -> None:
        """Add a part; half widths are in hundredths of the stature here."""
        across, through = (s / 100 * np.array(profile) for profile in (wide, wide if deep is None else deep))
        parts.append(Part(POINT[a], POINT[b], across, through, texture, **more))

    def dressed(chain: list[str], radii: list[Profile], cloth: np.ndarray, covered: float, nearer: float) -> None:
        """Add a limb of two bones: skin, and cloth over its upper `covered` bones."""
        for bone, profile in enumerate(radii):
            share = min(covered - bone, 1.0)
            if share < 1:
                add(chain[bone], chain[bone + 1], profile, skin, nearer=nearer)
            if share > 0:
                # sampled up to where the cloth ends, so that a short sleeve follows the shape of the arm
                at = np.linspace(0, share, len(profile)) * (len(profile) - 1)
                loose = np.interp(at, range(len(profile)), profile) + (0.35 if share < 1 else 0.15)
                add(chain[bone], chain[bone + 1], loose, cloth, share=share, nearer=nearer + 0.01)

    for side in ("left", "right"):
        thigh, shin = [5.0 * girth, 4.4 * girth, 3.2 * girth], [3.0 * girth, 3.2 * girth, 2.5, 2.0]
        dressed([f"{side}_hip", f"{side}_knee", f"{side}_ankle"], [thigh, shin], leg, look.legs, -0.1)
        add(f"{side}_heel", f"{side}_toe", [2.0, 2.1, 1.6], shoes, nearer=0.03)
        upper, lower = [2.35 * girth, 2.7 * girth, 2.3 * girth], [2.2 * girth, 2.1 * girth, 1.5]
        dressed([f"{side}_shoulder", f"{side}_elbow", f"{side}_wrist"], [upper, lower], sleeve, look.sleeves, 0.12)
        add(f"{side}_wrist", f"{side}_hand", [1.5, 1.9, 1.4], skin, nearer=0.13)

    # The trunk: the pelvis in the cloth of the trousers, and over it the shirt with a front and a back.
    hips = body.hips / s * 100
    chest = body.shoulders / s * 100
    add("pelvis", "waist", [hips + 3.9 * girth, hips + 2.8 * girth], leg, [6.3 * girth, 5.7 * girth], cap=0.03 * s)
    at = [0.0, 0.15, 0.32, 0.5, 0.68, 0.82, 0.91, 0.95, 1.0]  # hem, hips, waist ... shoulders, neck
    belly = [hips + 3.9 * girth, hips + 3.5 * girth, hips + 2.9 * girth]
    wide = np.interp(np.linspace(0, 1, 21), at, [*belly, chest - 1.6, chest, chest + 1, chest + 0.8, 7.2, 3.4])
    deep = np.interp(np.linspace(0, 1, 21), at, np.array([6.6, 6.3, 6.0, 6.4, 7.0, 6.8, 6.0, 4.8, 3.4]) * girth)
    add("pelvis", "collar", wide, _shirt(look, rng), deep, cap=0.012 * s, nearer=0.08)

    # The neck, the head in front of it, the nose and the hair.
    add("collar", "jaw", [3.0, 2.9], skin * 0.9, nearer=0.03)
    head = body.head * 100 / s
    wide, deep = head * np.array([0.21, 0.28, 0.3]), head * np.array([0.25, 0.36, 0.38])
    add("jaw", "crown", wide, _face(look, rng), deep, cap=0.33 * body.head, nearer=0.12, head=True)
    add("nose_root", "nose", head * np.array([0.035, 0.06]), skin, nearer=0.06, head=True)
    if look.hair_style == "long":
        wide, deep = head * np.array([0.27, 0.33, 0.3, 0.2]), head * np.array([0.16, 0.15, 0.14, 0.1])
        add("nape", "hair_end", wide, hair, deep, head=True)
    return parts


def cloth_texture(cloth: Cloth, metres: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Return a fabric as a texture ``[h, w, 3]`` of a size in metres, or as one colour ``[3]`` if it is plain."""
    first, second = np.array(cloth.colour, np.float32), np.array(cloth.second, np.float32)
    if cloth.pattern == "plain":
        return first
    height, width = (round(metre * TEXELS) for metre in metres)
    rows, columns = np.mgrid[:height, :width] / TEXELS
    period = rng.uniform(0.06, 0.13)
    across = np.sin(2 * np.pi * columns * round(metres[1] / period) / metres[1])  # whole periods around
    along = np.sin(2 * np.pi * rows / period)
    if cloth.pattern == "noise":
        padded = np.pad(rng.standard_normal((height, width)), 6, mode="wrap")  # the ends of the texture meet
        mix = cv2.GaussianBlur(padded, (0, 0), 1.5)[6:-6, 6:-6] * 5
    else:
        mix = {"stripes": across, "bands": along, "checks": across * along}[cloth.pattern] * 4
    mix = np.clip(mix * 0.5 + 0.5, 0, 1)[..., None].astype(np.float32)
    return first * (1 - mix) + second * mix


def _shirt(look: Look, rng: np.random.Generator) -> np.ndarray:
    """Return the trunk's texture, hem first: the fabric, with a zip, a print or an open collar in front."""
    height, width = 55, 96
    shirt = np.empty((height, width, 3), np.uint8)  # OpenCV anti-aliases uint8 images only
    shirt[:] = cloth_texture(look.shirt, (height / TEXELS, width / TEXELS), rng)
    centre = width // 2
    if look.front == "zip":
        cv2.line(shirt, (centre, 0), (centre, height), (235, 235, 230), 2, cv2.LINE_AA)
        cv2.line(shirt, (centre + 2, 0), (centre + 2, height), (30, 30, 30), 1, cv2.LINE_AA)
    elif look.front == "print":
        colour = rng.integers(60, 255, 3).tolist()
        cv2.rectangle(shirt, (centre - 7, 28), (centre + 7, 41), colour, -1)
        cv2.circle(shirt, (centre, 34), 5, rng.integers(0, 120, 3).tolist(), -1, cv2.LINE_AA)
    opening = np.array([[centre - 9, height], [centre + 9, height], [centre, height - 13]], np.int32)
    cv2.fillConvexPoly(shirt, opening, look.skin, cv2.LINE_AA)
    return shirt.astype(np.float32)


def _face(look: Look, rng: np.random.Generator) -> np.ndarray:
    """Return the head's texture, chin first: a face in front, ears at the sides, hair on top and at the back."""
    height, width = 64, 128  # the angle to the left of the face is 2 pi / 128 a column
    skin, hair = np.array(look.skin, np.float32), np.array(look.hair, np.float32)
    face = np.full((height, width, 3), skin, np.float32)
    middle = width // 2
    angle = np.abs(np.arange(width) - middle + 0.5) * 2 * np.pi / width  # 0 in front, pi at the back
    if look.hair_style != "bald":
        hairline = np.interp(angle, [0.0, 0.75, 1.0, 1.35, 1.75, 2.1], [49, 46, 36, 33, 26, 12])
        over = np.clip(np.arange(height)[:, None] - hairline + 0.5, 0, 1)[..., None].astype(np.float32)
        strands = hair * (1 + 0.05 * rng.standard_normal((1, width, 1)).astype(np.float32))
        face = face * (1 - over) + strands * over
    if look.beard:
        jaw = np.interp(angle, [0.0, 0.5, 1.1, 1.35, 1.6], [19, 21, 30, 33, 0])
        face[np.arange(height)[:, None] < jaw] = hair * 0.9 + skin * 0.1
    face = np.clip(face, 0, 255).astype(np.uint8)
    dark, white = (hair * 0.6).tolist(), (225, 225, 220)
    for side in (-1, 1):
        eye = middle + side * 9
        cv2.ellipse(face, (eye, 34), (4, 2), 0, 0, 360, white, -1, cv2.LINE_AA)
        cv2.circle(face, (eye, 34), 2, (35, 25, 22), -1, cv2.LINE_AA)
        cv2.line(face, (eye - 5, 40), (eye + 5, 40), dark, 2, cv2.LINE_AA)
        cv2.ellipse(face, (middle + side * 31, 30), (4, 6), 0, 0, 360, (skin * 0.8).tolist(), -1, cv2.LINE_AA)
    cv2.ellipse(face, (middle, 16), (8, 2), 0, 0, 360, (skin * (0.72, 0.45, 0.45)).tolist(), -1, cv2.LINE_AA)
    return face.astype(np.float32)


def _shrink(texture: np.ndarray, radius: float) -> np.ndarray:
    """Halve a texture until it is not much finer than the image's pixels, or it would flicker."""
    while texture.shape[1] > 12 * radius and min(texture.shape[:2]) > 8:
        texture = cv2.resize(texture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return texture


class Background:
    """A cluttered wall and floor, larger than the image, over which the camera pans."""

    def __init__(self, camera: Camera, rng: np.random.Generator) -> None:
        self.camera = camera
        self.margin = np.ceil(np.array(camera.pan)).astype(int) + 1  # (x, y)
        self.plane = _paint_background(camera, self.margin, rng)

    def at(self, time: float) -> np.ndarray:
        """Return the image of the empty scene at a time in seconds, uint8 ``[H, W, 3]``."""
        move = self.camera.shift(time) - self.margin
        matrix = np.array([[1.0, 0.0, move[0]], [0.0, 1.0, move[1]]])
        # The margin is as wide as the pan; beyond it, where a shake may look, the image is mirrored.
        return cv2.warpAffine(self.plane, matrix, self.camera.size[::-1], borderMode=cv2.BORDER_REFLECT_101)


def _paint_background(camera: Camera, margin: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = camera.size[0] + 2 * int(margin[1]), camera.size[1] + 2 * int(margin[0])
    unit = max(camera.size) / 640  # sizes below are in pixels of an image 640 wide
    foot = camera.horizon + margin[1] + 0.05 * height  # the row in which the wall meets the floor
    plane: np.ndarray = random_colour(rng, 60, 0.5) + _noise(rng, (height, width), rng.uniform(8, 22))
    floor: np.ndarray = random_colour(rng, 60, 0.4) + _noise(rng, (512, 512), rng.uniform(5, 14))
    if rng.random() < 0.6:  # tiles, or boards
        floor[:: int(rng.choice([64, 128, 512]))] *= 0.8
        floor[:, :: int(rng.choice([64, 128]))] *= 0.8
        floor = cv2.GaussianBlur(floor, (0, 0), 1.0)
    rows = np.arange(int(foot), height, dtype=np.float32)[:, None]
    columns = np.arange(width, dtype=np.float32)
    depth = camera.focal * camera.height / (rows - camera.horizon - margin[1])  # metres, of the ground in that row
    across = (columns - width / 2) * depth / camera.focal
    # back and forth over the 512 texels, so that the pattern has no seam
    texels = [np.abs(np.broadcast_to(metres * 100, across.shape) % 1022 - 511) for metres in (across + 1.7, depth)]
    texel_x, texel_y = (texel.astype(np.float32) for texel in texels)
    plane[int(foot) :] = cv2.remap(floor, texel_x, texel_y, cv2.INTER_LINEAR)

    plane = np.clip(plane, 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(16, 36))):  # furniture, windows, posters, poles
        layer = plane.copy()
        colour = random_colour(rng, 20)
        x, w, h = rng.uniform(0, width), rng.uniform(10, 110) * unit, rng.uniform(10, 130) * unit
        low = rng.uniform(-0.1, 1.0) * foot if rng.random() < 0.7 else foot + rng.uniform(0, 0.1) * height
        corner, other = (int(x - w / 2), int(low - h)), (int(x + w / 2), int(low))
        kind = rng.integers(5)
        thickness = -1 if rng.random() < 0.8 else int(rng.integers(2, 6))
        if kind <= 2:
            cv2.rectangle(layer, corner, other, colour, thickness, cv2.LINE_AA)
            if thickness < 0 and rng.random() < 0.6:  # panes or shelves
                for row in np.linspace(corner[1], other[1], int(rng.integers(3, 6))).astype(int).tolist():
                    cv2.line(layer, (corner[0], row), (other[0], row), [0.6 * c for c in colour], 2, cv2.LINE_AA)
        elif kind == 3:
            centre, axes = (int(x), int(low - h / 2)), (int(w / 2), int(h / 2))
            cv2.ellipse(layer, centre, axes, rng.uniform(0, 180), 0, 360, colour, thickness, cv2.LINE_AA)
        else:
            end = (int(x + rng.uniform(-40, 40) * unit), int(low - 2 * h))
            cv2.line(layer, (int(x), int(low)), end, colour, int(rng.integers(1, 7)), cv2.LINE_AA)
        opacity = float(rng.uniform(0.6, 1.0))
        plane = cv2.addWeighted(layer, opacity, plane, 1 - opacity, 0)
    grain = rng.normal(0, 3.0, plane.shape).astype(np.float32)
    return cv2.convertScaleAbs(np.maximum(cv2.GaussianBlur(plane, (0, 0), 0.7) + grain, 0))


def _noise(rng: np.random.Generator, shape: tuple[int, int], strength: float) -> np.ndarray:
    """Sample mostly grey noise of several octaves, float32 ``[H, W, 3]`` around 0."""
    noise = np.zeros((*shape, 3), np.float32)
    for octave in range(7):
        cells = [min(side, 2 + side * 3 * 2**octave // max(shape)) for side in shape]
        grid = rng.standard_normal((*cells, 3)).astype(np.float32)
        grid = (0.25 * grid + grid.mean(axis=2, keepdims=True)) * strength * 0.72**octave
        noise += cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC)
    return noise
