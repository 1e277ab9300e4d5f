"""A synthetic clip: what is in the scene (from the seed), and its frames with exact ground truth. No files.

The scene is decided completely before anything is drawn, each ingredient from its own random stream, so that a
new ingredient or another number of people leaves the rest of a seed's scene as it is.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from sdtc.core.errors import InputError
from sdtc.core.skeleton import POSETRACK
from sdtc.synthetic.difficulty import DIFFICULTIES, Optics, label_people, plan_blur, plan_defocus, plan_low_light
from sdtc.synthetic.occluders import Occluder, OccluderPainter, plan_occluders
from sdtc.synthetic.people import ACTIONS, POINT, Body, DrawnPerson, Gait, Gesture, Look, Route, Stage, build_person
from sdtc.synthetic.render import Background, Camera, Canvas, PersonPainter, defocus, to_bytes, underexpose

MAX_PEOPLE = 20
MAX_FRAMES = 10_000  # PoseTrack's image ids have four digits for the frame
MAX_SEED = 999_999  # and its video ids six
PERSONAL_SPACE = 0.7  # metres between two people, where the random routes allow it
OCCLUDER = 255  # in `RenderedFrame.mask`: nobody, but something in front of people
GENERATOR = 1  # raise it when the same seed and options begin to make another clip; written into every annotation file
EXPOSURES = 11  # moments that are averaged into a blurred picture; odd, so that the middle is one of them
# append only: the order is part of every seed
_INGREDIENTS = (
    "scene", "background", "person", "texture",
    "crossing", "occluders", "occluder texture", "blur", "defocus", "low_light", "noise", "gesture",
)  # fmt: skip
_JOINTS = len(POSETRACK.keypoints)
_HEAD = [POINT[name] for name in ("jaw", "crown", "head_top", "head_bottom")]


@dataclass(frozen=True)
class RenderedFrame:
    """One frame and its ground truth, for the P people who are at least partly in the picture.

    Attributes:
        image: uint8 ``[H, W, 3]`` RGB.
        keypoints: float32 ``[P, 15, 3]`` (x, y, v) in image pixels, in the order of ``sdtc.core.skeleton.POSETRACK``;
            v is 1 inside the picture and 0 outside, where x and y still say where the joint is.
        occluded: bool ``[P, 15]``, joints inside the picture that another person or a thing in front covers.
        boxes: float32 ``[P, 4]`` (x, y, width, height) of the whole drawn person, clipped to the picture.
        head_boxes: float32 ``[P, 4]``, not clipped, since they measure the size of the head.
        track_ids: int64 ``[P]``, the same number for a person through the whole clip.
        mask: uint8 ``[H, W]``, whom each pixel shows: 0 nobody, 255 (:data:`OCCLUDER`) something in front of people,
            otherwise track id + 1.
        difficulty: bool ``[P, 5]``, the labels of ``difficulty.DIFFICULTIES`` that hold for each person.

    All of it is the truth at the middle of the exposure, also where the image is blurred.
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
    """All that decides a clip; the arguments of :class:`SyntheticClip`."""

    seed: int = 0
    num_frames: int = 60
    size: tuple[int, int] = (360, 640)
    num_people: int | None = None
    fps: float = 25
    difficulties: tuple[str, ...] = ()
    lively: bool = False

    def to_json(self) -> dict[str, Any]:
        """What an annotation file says about how it was made."""
        size, difficulties = list(self.size), list(self.difficulties)
        return {"generator": GENERATOR, **asdict(self), "size": size, "difficulties": difficulties}


@dataclass(frozen=True)
class ClipScene:
    """What there is in a clip; nothing here is a pixel.

    Attributes:
        light: unit vector ``[3]`` towards the light: right, down, towards the camera.
    """

    camera: Camera
    people: tuple[DrawnPerson, ...]
    light: np.ndarray
    occluders: tuple[Occluder, ...]
    optics: Optics


def build_scene(
    seed: int,
    frames: int,
    size: tuple[int, int],
    people: int | None,
    fps: float,
    difficulties: Collection[str] = (),
    lively: bool = False,
) -> ClipScene:
    """Decide everything about a clip from its seed; arguments as in :class:`SyntheticClip`."""
    rng = _stream(seed, "scene")
    drawn = int(rng.integers(1, 5))  # drawn even if not wanted, so that the camera does not depend on it
    crossing = "crossing" in difficulties
    if people is None:
        people = max(drawn, 2) if crossing else drawn
    height, width = size
    # A person 1.75 m tall fills these shares of the picture's height at the nearest and farthest place.
    nearest, farthest = rng.uniform(0.7, 1.0), rng.uniform(0.33, 0.45)
    focal = float(rng.uniform(0.95, 1.4)) * max(width, height * 16 / 9)  # keeps everybody 3 m away in any format
    lens = float(rng.uniform(0.8, 1.6))
    camera = Camera(
        size=size,
        focal=focal,
        height=lens,
        # so that the nearest person is in the middle of the picture from head to toe
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
        crosses = crossing and number % 2 == 1  # the way of the person before
        # The first person always goes somewhere: a clip in which nobody does would be a poor test of a video model.
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
        gesture = Gesture.random(_stream(seed, "gesture", number)) if lively else None
        crowd.append(build_person(body, look, gait, route, fps, gesture))
    optics = _plan_optics(seed, frames, height, fps, difficulties)
    camera = replace(camera, shakes=optics.shakes)
    occluders: tuple[Occluder, ...] = ()
    if "occluded" in difficulties:
        occluders = plan_occluders(_stream(seed, "occluders"), camera, tuple(crowd), frames, fps)
    return ClipScene(camera, tuple(crowd), light / np.linalg.norm(light), occluders, optics)


def _plan_optics(seed: int, frames: int, height: int, fps: float, difficulties: Collection[str]) -> Optics:
    """What the camera does to the pictures of a clip, each difficulty from its own random stream."""
    optics = Optics.plain(frames)
    if "blur" in difficulties:
        shutter, shakes = plan_blur(_stream(seed, "blur"), frames, height, fps)
        optics = replace(optics, shutter=shutter, shakes=shakes)
    if "defocus" in difficulties:
        optics = replace(optics, defocus=plan_defocus(_stream(seed, "defocus"), frames, height))
    if "low_light" in difficulties:
        exposure, grain = plan_low_light(_stream(seed, "low_light"), frames)
        optics = replace(optics, exposure=exposure, grain=grain)
    return optics


class SyntheticClip:
    """A clip of drawn people in motion; iterating draws its frames one by one, always the same ones.

    Args:
        seed: 0 to 999999; decides everything else.
        num_frames: 1 to 10000.
        size: (H, W) of the picture in pixels.
        num_people: 0 to 20; drawn from 1 to 4 if not given, or from 2 to 4 if they are to cross.
        fps: frames per second.
        difficulties: which of ``difficulty.DIFFICULTIES`` are made to happen; each leaves the rest of the seed's scene
            as it is. Occlusion by people and crossings also happen by chance, and are labelled all the same.
        lively: whether people move their arms, trunks, heads and knees as they like, and not only as their gait does.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self,
        seed: int = 0,
        num_frames: int = 60,
        size: tuple[int, int] = (360, 640),
        num_people: int | None = None,
        fps: float = 25,
        difficulties: Collection[str] = (),
        lively: bool = False,
    ) -> None:
        self.seed = _whole("the seed", seed, 0, MAX_SEED)
        self.num_frames = _whole("the number of frames", num_frames, 1, MAX_FRAMES)
        self.size = (_whole("the height", size[0], 32, 8192), _whole("the width", size[1], 32, 8192))
        if num_people is not None:
            _whole("the number of people", num_people, 0, MAX_PEOPLE)
        if not 1 <= fps <= 1000:
            raise InputError(f"the frame rate is {fps}: expected 1 to 1000 frames per second")
        self.fps = float(fps)
        unknown = sorted(set(difficulties) - set(DIFFICULTIES))
        if unknown:
            raise InputError(f"the difficulty '{unknown[0]}' is unknown: expected some of {', '.join(DIFFICULTIES)}")
        if "crossing" in difficulties and num_people is not None and num_people < 2:
            raise InputError(f"the number of people is {num_people}: a crossing needs at least 2")
        self.difficulties = tuple(name for name in DIFFICULTIES if name in difficulties)
        self.options = ClipOptions(
            self.seed, self.num_frames, self.size, num_people, self.fps, self.difficulties, lively
        )
        self.scene = build_scene(self.seed, self.num_frames, self.size, num_people, fps, self.difficulties, lively)
        camera = self.scene.camera
        self._background = Background(camera, _stream(seed, "background"))
        self._people = [
            PersonPainter(person, _stream(seed, "texture", i)) for i, person in enumerate(self.scene.people)
        ]
        self._things = [
            OccluderPainter(thing, camera, _stream(seed, "occluder texture", i))
            for i, thing in enumerate(self.scene.occluders)
        ]

    def __len__(self) -> int:
        return self.num_frames

    def __iter__(self) -> Iterator[RenderedFrame]:
        return (self[index] for index in range(self.num_frames))

    def __getitem__(self, index: int) -> RenderedFrame:
        """Draw one frame, counted from 0."""
        if not 0 <= index < self.num_frames:
            raise IndexError(f"frame {index} of a clip of {self.num_frames}")
        canvas, far_to_near, box_of = self._draw(index)
        tracks = sorted(box_of)
        boxes = np.array([box_of[i] for i in tracks], np.float32).reshape(-1, 4)
        joints = self._joints(tracks, index)
        pixels = np.rint(joints).astype(int)
        inside = ((pixels >= 0) & (pixels < self.size[::-1])).all(axis=-1)  # [P, 15]
        shown = np.zeros(inside.shape, int)  # the label of what the picture shows where a joint is
        shown[inside] = canvas.mask[pixels[inside][:, 1], pixels[inside][:, 0]]
        label_of = np.argsort(far_to_near) + 1  # of everybody and everything; the nearer, the higher
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
            The canvas; the numbers of the people and then of the things from far to near, which is how they are
            labelled (from 1) on it; and the boxes ``[4]`` of the people in the picture, as if nothing covered them.
        """
        scene, time = self.scene, moment / self.fps
        canvas = Canvas(self._background.at(time), scene.light)
        painters: list[PersonPainter | OccluderPainter] = [*self._people, *self._things]
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
        """Make of the frozen scene what the camera records.

        Args:
            image: float32 ``[H, W, 3]``, the scene in the middle of the exposure.
            tracks: the P people.

        Returns:
            The picture, uint8, and the way ``[P]`` of each person's median joint while the shutter was open, pixels.
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
        """Where the joints of some people are at a moment, image pixels ``[P, 15, 2]``."""
        points = np.array([self.scene.people[i].at(moment)[0][:_JOINTS] for i in tracks]).reshape(-1, _JOINTS, 3)
        return self.scene.camera.project(points, moment / self.fps)

    def _heights(self, tracks: list[int], index: int) -> np.ndarray:
        """How high some people are when they stand upright where they are, pixels ``[P]``."""
        people = [self.scene.people[i] for i in tracks]
        return np.array(
            [
                person.body.stature * self.scene.camera.focal / person.points[index, POINT["pelvis"], 2]
                for person in people
            ]
        )

    def _head_box(self, number: int, index: int) -> np.ndarray:
        """From the top of the head to the neck, as PoseTrack has it; ``[4]`` (x, y, width, height)."""
        camera, person = self.scene.camera, self.scene.people[number]
        head = person.points[index, _HEAD]  # [4, 3]
        beside = np.array([0.34 * person.body.head * camera.focal / head[0, 2], 0])
        corners = camera.project(head, index / self.fps)
        low, high = corners.min(axis=0) - beside, corners.max(axis=0) + beside
        return np.concatenate([low, high - low])


def _mask_box(mask: np.ndarray) -> np.ndarray | None:
    """The box ``[4]`` (x, y, width, height) around the true pixels of a mask; None if there are none."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(columns):
        return None
    return np.array([columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1])


def _stream(seed: int, ingredient: str, number: int = 0) -> np.random.Generator:
    """The random stream of one ingredient of a clip."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_INGREDIENTS.index(ingredient), number)))


def _whole(what: str, value: int, low: int, high: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{what} is {value!r}: expected a whole number from {low} to {high}") from None
    if not low <= number <= high:
        raise InputError(f"{what} is {number}: expected {low} to {high}")
    return number
