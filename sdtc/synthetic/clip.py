"""A synthetic clip: its scene, determined by the seed, and its frames with exact ground truth. No files.

The whole scene is determined before anything is drawn, each ingredient from its own random stream. So a new
ingredient, or another number of people, does not change the rest of a seed's scene.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from sdtc.core.errors import InputError
from sdtc.core.skeleton import POSETRACK
from sdtc.synthetic.difficulty import DIFFICULTIES, Optics, label_people, sample_blur, sample_defocus, sample_low_light
from sdtc.synthetic.occluders import Occluder, OccluderPainter, sample_occluders
from sdtc.synthetic.people import ACTIONS, POINT, Body, DrawnPerson, Gait, Gesture, Look, Route, Stage, build_person
from sdtc.synthetic.render import Background, Camera, Canvas, PersonPainter, defocus, to_bytes, underexpose

MAX_PEOPLE = 20
MAX_FRAMES = 10_000  # PoseTrack's image ids have four digits for the frame
MAX_SEED = 999_999  # and its video ids have six digits
PERSONAL_SPACE = 0.7  # smallest distance between two people in metres, where the random routes allow it
OCCLUDER = 255  # value of occluders in `RenderedFrame.mask`
GENERATOR = 1  # raise it when the same seed and options give another clip; stored in every annotation file
EXPOSURES = 11  # moments that are averaged into a motion-blurred frame; odd, so that one is the middle of the exposure
# Append only: the order is part of what a seed determines.
_INGREDIENTS = (
    "scene", "background", "person", "texture",
    "crossing", "occluders", "occluder texture", "blur", "defocus", "low_light", "noise", "gesture",
)  # fmt: skip
_JOINTS = len(POSETRACK.keypoints)
_HEAD = [POINT[name] for name in ("jaw", "crown", "head_top", "head_bottom")]


@dataclass(frozen=True)
class RenderedFrame:
    """One rendered frame and its ground truth, for the P people who are at least partly in the image.

    The ground truth is that of the middle of the exposure, also in blurred frames.

    Attributes:
        image: uint8 ``[H, W, 3]`` RGB.
        keypoints: float32 ``[P, 15, 3]`` (x, y, v) in image pixels, in the order of ``sdtc.core.skeleton.POSETRACK``;
            v is 1 inside the image and 0 outside, where x and y are still the joint's position.
        occluded: bool ``[P, 15]``, joints inside the image that another person or an occluder covers.
        boxes: float32 ``[P, 4]`` (x, y, width, height) of the whole person, covered parts included, clipped to the
            image.
        head_boxes: float32 ``[P, 4]``, not clipped, since they measure the size of the head.
        track_ids: int64 ``[P]``, constant for a person throughout the clip.
        mask: uint8 ``[H, W]``, what each pixel shows: 0 the background, 255 (:data:`OCCLUDER`) an occluder, else the
            person of track id + 1.
        difficulty: bool ``[P, 5]``, the labels of ``difficulty.DIFFICULTIES`` that hold for each person.
    """

    image: np.ndarray
    keypoints: np.ndarray
    occluded: np.ndarray
    boxes: np.ndarray
    head_boxes: np.ndarray
    track_ids: np.ndarray
    mask: np.ndarray
    difficulty: np.ndarray


@dataclass(frozen=True)
class ClipOptions:
    """Everything that determines a clip.

    Attributes:
        seed: 0 to 999999; determines everything that the other options leave open.
        num_frames: 1 to 10000.
        size: (H, W) of the frames in pixels, 32 to 8192 each.
        num_people: 0 to 20; None: 1 to 4 by the seed, or 2 to 4 if they are to cross.
        fps: frames per second, 1 to 1000.
        difficulties: those of ``difficulty.DIFFICULTIES`` to add; each leaves the rest of the seed's scene unchanged.
            Crossings and occlusion by other people also happen by chance, and are labelled all the same.
        lively: whether people move their arms, trunks, heads and knees beyond what their gait does.

    Raises:
        InputError: an option is out of range.
    """

    seed: int = 0
    num_frames: int = 60
    size: tuple[int, int] = (360, 640)
    num_people: int | None = None
    fps: float = 25.0
    difficulties: tuple[str, ...] = ()
    lively: bool = False

    def __post_init__(self) -> None:
        height, width = self.size
        checked = {
            "seed": _whole("`seed`", self.seed, 0, MAX_SEED),
            "num_frames": _whole("`num_frames`", self.num_frames, 1, MAX_FRAMES),
            "size": (_whole("the height in `size`", height, 32, 8192), _whole("the width in `size`", width, 32, 8192)),
            "fps": float(self.fps),
            "difficulties": tuple(name for name in DIFFICULTIES if name in self.difficulties),
        }
        if self.num_people is not None:
            _whole("`num_people`", self.num_people, 0, MAX_PEOPLE)
        if not 1 <= self.fps <= 1000:
            raise InputError(f"`fps` is {self.fps}: expected 1 to 1000 frames per second")
        unknown = sorted(set(self.difficulties) - set(DIFFICULTIES))
        if unknown:
            raise InputError(f"`difficulties`: '{unknown[0]}' is unknown: expected some of {', '.join(DIFFICULTIES)}")
        if "crossing" in self.difficulties and self.num_people is not None and self.num_people < 2:
            raise InputError(f"`num_people` is {self.num_people}: the difficulty crossing needs at least 2")
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def to_json(self) -> dict[str, Any]:
        """Return the options as annotation files store them."""
        size, difficulties = list(self.size), list(self.difficulties)
        return {"generator": GENERATOR, **asdict(self), "size": size, "difficulties": difficulties}


@dataclass(frozen=True)
class ClipScene:
    """The scene of a clip: geometry and motion, before rendering.

    Attributes:
        camera: with its pan and shakes.
        people: in the order of their track ids.
        light: unit vector ``[3]`` towards the light: right, down, towards the camera.
        occluders: what passes or stands in front of people.
        optics: blur, defocus and exposure of every frame.
    """

    camera: Camera
    people: tuple[DrawnPerson, ...]
    light: np.ndarray
    occluders: tuple[Occluder, ...]
    optics: Optics


def build_scene(options: ClipOptions) -> ClipScene:
    """Determine the scene of a clip from its options."""
    seed, frames, fps = options.seed, options.num_frames, options.fps
    rng = _stream(seed, "scene")
    sampled = int(rng.integers(1, 5))  # sampled even if unused, so that the camera does not depend on `num_people`
    crossing = "crossing" in options.difficulties
    people = options.num_people
    if people is None:
        people = max(sampled, 2) if crossing else sampled
    height, width = options.size
    # A person 1.75 m tall fills these shares of the image's height at the nearest and farthest place.
    nearest, farthest = rng.uniform(0.7, 1.0), rng.uniform(0.33, 0.45)
    focal = float(rng.uniform(0.95, 1.4)) * max(width, height * 16 / 9)  # keeps people 3 m away in any format
    lens = float(rng.uniform(0.8, 1.6))
    camera = Camera(
        size=options.size,
        focal=focal,
        height=lens,
        # so that the nearest possible person is vertically centred
        horizon=height * ((1 - nearest) / 2 + nearest * (1.75 - lens) / 1.75),
        pan=(float(rng.uniform(0.02, 0.12)) * width, float(rng.uniform(0, 0.02)) * height),
        period=float(rng.uniform(6, 14)),
        start=float(rng.uniform(0, 2 * np.pi)),
    )
    light = np.array([rng.uniform(-0.7, 0.7), -0.5, 0.8])
    stage = Stage(1.75 * focal / (nearest * height), 1.75 * focal / (farthest * height), 0.45 * width / focal)
    crowd: list[DrawnPerson] = []
    routes: list[Route] = []
    for number in range(people):
        rng = _stream(seed, "person", number)
        body, look = Body.random(rng), Look.random(rng)
        crosses = crossing and number % 2 == 1  # the route of the person before
        # The first person always moves: a clip in which nobody does would be a poor test of a video model.
        names = list(ACTIONS)[:2] if number == 0 or crosses else list(ACTIONS)
        shares = np.array([ACTIONS[name] for name in names])
        gait = Gait.random(rng, body, str(rng.choice(names, p=shares / shares.sum())))
        way = _stream(seed, "crossing", number)
        for _ in range(8):
            if crosses:
                route = Route.crossing(way, stage, gait.speed, frames, fps, routes[number - 1])
            else:
                route = Route.random(rng, stage, gait.speed, frames, fps)
            if all(np.hypot(*(route.position - other.position).T).min() > PERSONAL_SPACE for other in routes):
                break
        routes.append(route)
        gesture = Gesture.random(_stream(seed, "gesture", number)) if options.lively else None
        crowd.append(build_person(body, look, gait, route, fps, gesture))
    optics = _sample_optics(options)
    camera = replace(camera, shakes=optics.shakes)
    occluders: tuple[Occluder, ...] = ()
    if "occluded" in options.difficulties:
        occluders = sample_occluders(_stream(seed, "occluders"), camera, tuple(crowd), frames, fps)
    return ClipScene(camera, tuple(crowd), light / np.linalg.norm(light), occluders, optics)


def _sample_optics(options: ClipOptions) -> Optics:
    """Return how the camera degrades the frames of a clip, each difficulty from its own random stream."""
    seed, frames, height = options.seed, options.num_frames, options.size[0]
    optics = Optics.plain(frames)
    if "blur" in options.difficulties:
        shutter, shakes = sample_blur(_stream(seed, "blur"), frames, height, options.fps)
        optics = replace(optics, shutter=shutter, shakes=shakes)
    if "defocus" in options.difficulties:
        optics = replace(optics, defocus=sample_defocus(_stream(seed, "defocus"), frames, height))
    if "low_light" in options.difficulties:
        exposure, grain = sample_low_light(_stream(seed, "low_light"), frames)
        optics = replace(optics, exposure=exposure, grain=grain)
    return optics


class SyntheticClip:
    """A clip of people in motion; iterating renders its frames one by one, the same ones every time.

    Args:
        options: None: the default ones.
    """

    def __init__(self, options: ClipOptions | None = None) -> None:
        self.options = options = options or ClipOptions()
        self.seed, self.num_frames, self.size, self.fps = options.seed, options.num_frames, options.size, options.fps
        self.scene = build_scene(options)
        camera = self.scene.camera
        self._background = Background(camera, _stream(self.seed, "background"))
        self._people = [
            PersonPainter(person, _stream(self.seed, "texture", i)) for i, person in enumerate(self.scene.people)
        ]
        self._occluders = [
            OccluderPainter(occluder, camera, _stream(self.seed, "occluder texture", i))
            for i, occluder in enumerate(self.scene.occluders)
        ]

    def __len__(self) -> int:
        return self.num_frames

    def __iter__(self) -> Iterator[RenderedFrame]:
        return (self[index] for index in range(self.num_frames))

    def __getitem__(self, index: int) -> RenderedFrame:
        """Render one frame, counted from 0."""
        if not 0 <= index < self.num_frames:
            raise IndexError(f"frame {index} of a clip of {self.num_frames}")
        canvas, far_to_near, box_of = self._draw(index)
        tracks = sorted(box_of)
        boxes = np.array([box_of[i] for i in tracks], np.float32).reshape(-1, 4)
        joints = self._joints(tracks, index)
        pixels = np.rint(joints).astype(int)
        inside = ((pixels >= 0) & (pixels < self.size[::-1])).all(axis=-1)  # [P, 15]
        shown = np.zeros(inside.shape, int)  # the label of what the image shows at the joint
        shown[inside] = canvas.mask[pixels[inside][:, 1], pixels[inside][:, 0]]
        label_of = np.argsort(far_to_near) + 1  # of all people and occluders; the nearer, the higher
        occluded = shown > label_of[tracks].reshape(-1, 1)
        image, smears = self._expose(canvas.image, index, tracks)
        exposure, radius = self.scene.optics.exposure[index], self.scene.optics.defocus[index]
        whom = [0, *(i + 1 if i < len(self._people) else OCCLUDER for i in far_to_near)]
        return RenderedFrame(
            image=image,
            keypoints=np.concatenate([joints, inside[..., None]], axis=-1).astype(np.float32),
            occluded=occluded,
            boxes=boxes,
            head_boxes=np.array([self._head_box(i, index) for i in tracks], np.float32).reshape(-1, 4),
            track_ids=np.array(tracks, np.int64),
            mask=np.array(whom, np.uint8)[canvas.mask],
            difficulty=label_people(occluded, boxes, self._heights(tracks, index), smears, radius, exposure),
        )

    def _draw(self, moment: float) -> tuple[Canvas, list[int], dict[int, np.ndarray]]:
        """Draw the scene at a moment counted in frames.

        Returns:
            The canvas; the indices of people and occluders (which follow the people) from far to near, the order of
            their labels (from 1) on the canvas; and by index the boxes ``[4]`` of the people in the image, covered
            parts included.
        """
        scene, time = self.scene, moment / self.fps
        canvas = Canvas(self._background.at(time), scene.light)
        painters: list[PersonPainter | OccluderPainter] = [*self._people, *self._occluders]
        depths = [painter.depth(moment) for painter in painters]
        far_to_near = sorted(range(len(painters)), key=lambda i: -depths[i])
        for i in far_to_near:
            painters[i].shadow(canvas, scene.camera, moment, time)
        boxes: dict[int, np.ndarray] = {}
        for label, i in enumerate(far_to_near, start=1):
            painters[i].draw(canvas, scene.camera, moment, time, label)
            if i < len(self._people):
                box = _mask_box(canvas.mask == label)  # before anything nearer is drawn over it
                if box is not None:
                    boxes[i] = box
        return canvas, far_to_near, boxes

    def _expose(self, image: np.ndarray, index: int, tracks: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Apply the optics to a frame.

        Args:
            image: float32 ``[H, W, 3]``, the sharp scene in the middle of the exposure.
            index: of the frame.
            tracks: the P people in it.

        Returns:
            The image as uint8, and for each person the length ``[P]`` of the median joint's path while the shutter was
            open, pixels.
        """
        optics = self.scene.optics
        smears = np.zeros(len(tracks))
        if optics.shutter[index]:
            moments = index + optics.shutter[index] * np.linspace(-0.5, 0.5, EXPOSURES)
            ways = np.stack([self._joints(tracks, moment) for moment in moments])  # [N, P, 15, 2]
            lengths = np.linalg.norm(np.diff(ways, axis=0), axis=-1).sum(axis=0)  # [P, 15]
            smears = np.median(lengths, axis=1)
            others = np.delete(moments, EXPOSURES // 2)
            image = sum((self._draw(moment)[0].image for moment in others), start=image) / EXPOSURES
        if optics.defocus[index] > 0.5:
            image = defocus(image, optics.defocus[index])
        if optics.grain:
            image = underexpose(image, optics.exposure[index], optics.grain, _stream(self.seed, "noise", index))
        return to_bytes(image), smears

    def _joints(self, tracks: list[int], moment: float) -> np.ndarray:
        """Return the joints ``[P, 15, 2]`` of some people at a moment, image pixels."""
        points = np.array([self.scene.people[i].at(moment)[0][:_JOINTS] for i in tracks]).reshape(-1, _JOINTS, 3)
        return self.scene.camera.project(points, moment / self.fps)

    def _heights(self, tracks: list[int], index: int) -> np.ndarray:
        """Return the heights ``[P]`` that some people would have standing upright at their positions, pixels."""
        people = [self.scene.people[i] for i in tracks]
        return np.array(
            [
                person.body.stature * self.scene.camera.focal / person.points[index, POINT["pelvis"], 2]
                for person in people
            ]
        )

    def _head_box(self, number: int, index: int) -> np.ndarray:
        """Return the box ``[4]`` (x, y, width, height) from the top of the head to the neck, as in PoseTrack."""
        camera, person = self.scene.camera, self.scene.people[number]
        head = person.points[index, _HEAD]  # [4, 3]
        beside = np.array([0.34 * person.body.head * camera.focal / head[0, 2], 0])
        corners = camera.project(head, index / self.fps)
        low, high = corners.min(axis=0) - beside, corners.max(axis=0) + beside
        return np.concatenate([low, high - low])


def _mask_box(mask: np.ndarray) -> np.ndarray | None:
    """Return the box ``[4]`` (x, y, width, height) around the True pixels of a mask; None if there are none."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    return np.array([columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1])


def _stream(seed: int, ingredient: str, number: int = 0) -> np.random.Generator:
    """Return the random stream of one ingredient of a clip."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_INGREDIENTS.index(ingredient), number)))


def _whole(what: str, value: Any, low: int, high: int) -> int:
    """Return a value as an int, or raise an error that calls it `what`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{what} is {value!r}: expected a whole number from {low} to {high}") from None
    if not low <= number <= high:
        raise InputError(f"{what} is {number}: expected {low} to {high}")
    return number
