"""The people of a synthetic clip: body proportions, looks, routes, gait and forward kinematics. No drawing.

There are two frames of reference, both in metres:

- the body frame ``(forward, left, up)``, with its origin on the ground below the pelvis, in which gaits are defined;
- the world ``(x, y, z)``: x to the right of the image, y up from the ground, z away from the camera. A
  heading of 0 is to the right of the image, a heading of pi/2 away from the camera.

Bones are rigid by construction: every joint is its parent plus a fixed length times a unit direction.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sdtc.core.skeleton import POSETRACK

# First the joints of the ground truth, so that they are `points[..., :15, :]`, then further points for drawing.
POINTS = (
    *POSETRACK.keypoints,
    "left_toe", "right_toe", "left_heel", "right_heel", "left_hand", "right_hand",
    "pelvis", "waist", "collar", "jaw", "crown", "nose_root", "nape", "hair_end",
)  # fmt: skip
POINT = {name: i for i, name in enumerate(POINTS)}

TURN_RADIUS = 1.1  # metres; nobody turns more tightly while moving
ARRIVAL = 1.2  # metres from the goal; above TURN_RADIUS, or a walker could circle its goal for ever
ACTIONS = {"walk": 0.62, "run": 0.13, "stand": 0.13, "wave": 0.12}  # with their probabilities
SKIN = ((246, 212, 186), (232, 190, 158), (204, 152, 114), (160, 110, 78), (112, 74, 52), (78, 52, 38))
HAIR = ((28, 22, 20), (62, 42, 30), (108, 72, 42), (176, 134, 76), (128, 52, 28), (150, 148, 146))
PATTERNS = ("plain", "stripes", "bands", "checks", "noise")
# What lively people move independently of their gait.
GESTURES = (
    *(f"{side}_arm_{how}" for side in ("left", "right") for how in ("raised", "aside", "bent", "inwards")),
    "bend", "lean", "gaze", "left_knee", "right_knee",
)  # fmt: skip


def random_colour(rng: np.random.Generator, darkest: int = 25, saturation: float = 0.75) -> tuple[int, ...]:
    """Sample a realistic RGB colour (0-255): mostly muted, sometimes saturated."""
    hue = 0.5 + 0.5 * np.cos(rng.uniform(0, 2 * np.pi) + np.array([0.0, 2.1, 4.2]))
    value, saturation = rng.uniform(darkest, 240), saturation * rng.beta(1.2, 1.6)
    return tuple((value * (1 - saturation * (1 - hue))).astype(int).tolist())


@dataclass(frozen=True)
class Body:
    """Proportions of one person. Lengths in metres; hips and shoulders are half the distance between the joints."""

    stature: float
    girth: float  # 1 is average
    thigh: float
    shin: float
    hips: float
    trunk: float
    shoulders: float
    upper_arm: float
    forearm: float
    neck: float
    head: float  # head_bottom to head_top

    @classmethod
    def random(cls, rng: np.random.Generator) -> Body:
        """Sample a body: Winter's average segment lengths, each varied by a few per cent."""
        stature = float(np.clip(rng.normal(1.72, 0.1), 1.45, 2.0))
        means = {
            "thigh": 0.243, "shin": 0.243, "hips": 0.053, "trunk": 0.27, "shoulders": 0.108,
            "upper_arm": 0.178, "forearm": 0.148, "neck": 0.048, "head": 0.148,
        }  # fmt: skip
        lengths = {key: stature * mean * float(rng.uniform(0.95, 1.05)) for key, mean in means.items()}
        return cls(stature=stature, girth=float(rng.uniform(0.85, 1.2)), **lengths)


@dataclass(frozen=True)
class Cloth:
    """A fabric: two colours (RGB, 0-255) and the pattern that mixes them."""

    colour: tuple[int, ...]
    second: tuple[int, ...]
    pattern: str

    @classmethod
    def random(cls, rng: np.random.Generator, plain: float, darkest: int = 30) -> Cloth:
        """Sample a fabric, plain with this probability; see :func:`random_colour` for `darkest`."""
        pattern = "plain" if rng.random() < plain else str(rng.choice(PATTERNS[1:]))
        return cls(random_colour(rng, darkest), random_colour(rng, darkest), pattern)


@dataclass(frozen=True)
class Look:
    """What a person looks like, apart from the shape of the body. Colours are RGB, 0-255."""

    skin: tuple[int, ...]
    hair: tuple[int, ...]
    hair_style: str  # "short", "long" or "bald"
    beard: bool
    shirt: Cloth
    front: str  # what distinguishes the chest from the back: "zip", "print" or "collar"
    sleeves: float  # number of arm bones that are covered: 0.6 short, 2 long (upper arm and forearm)
    trousers: Cloth
    legs: float  # number of leg bones that are covered: 1 shorts, 2 long
    shoes: tuple[int, ...]

    @classmethod
    def random(cls, rng: np.random.Generator) -> Look:
        """Sample a look."""
        skin = np.clip(np.array(SKIN[rng.integers(len(SKIN))]) + rng.integers(-8, 9), 0, 255)
        return cls(
            skin=tuple(skin.tolist()),
            hair=HAIR[rng.integers(len(HAIR))],
            hair_style=str(rng.choice(["short", "long", "bald"], p=[0.55, 0.35, 0.1])),
            beard=bool(rng.random() < 0.15),
            shirt=Cloth.random(rng, plain=0.3),
            front=str(rng.choice(["zip", "print", "collar"])),
            sleeves=float(rng.choice([0.6, 2.0])),
            trousers=Cloth.random(rng, plain=0.6, darkest=15),
            legs=float(rng.choice([1.0, 2.0], p=[0.3, 0.7])),
            shoes=random_colour(rng, 25),
        )


@dataclass(frozen=True)
class Gait:
    """How a person moves. Angles in radians, speed in m/s, stride (two steps) in metres."""

    action: str  # a key of ACTIONS
    speed: float
    stride: float
    start: float  # phase at time 0, in strides
    arm_swing: float
    elbow: float
    lean: float
    side: int  # the waving arm, or the leg that bears the weight first: +1 left, -1 right

    @classmethod
    def random(cls, rng: np.random.Generator, body: Body, action: str) -> Gait:
        """Sample the gait of a body for an action, a key of :data:`ACTIONS`."""
        low, high = {"walk": (0.9, 1.6), "run": (2.3, 3.2)}.get(action, (0.0, 0.0))
        speed = float(rng.uniform(low, high))
        run = action == "run"
        return cls(
            action=action,
            speed=speed,
            # people lengthen their stride with about the square root of speed
            stride=body.stature * float(np.sqrt(max(speed, 0.1))) * (0.78 if run else 0.73),
            start=float(rng.random()),
            arm_swing=np.radians(rng.uniform(30, 42) if run else rng.uniform(14, 30)) if speed else 0.0,
            elbow=np.radians(rng.uniform(75, 95) if run else rng.uniform(8, 25)),
            lean=np.radians(rng.uniform(6, 11) if run else rng.uniform(-1, 5)),
            side=int(rng.choice([-1, 1])),
        )


@dataclass(frozen=True)
class Gesture:
    """What a lively person does besides its gait: arms, trunk, head and knees follow smooth random curves.

    Unlike in a plain gait, the rest of the body does not tell where they are: a hidden wrist can only be found in
    another frame.
    """

    strength: float  # weight of the arms' curves against the gait, 0 to 1
    rates: np.ndarray  # [GESTURES, 2] hertz
    phases: np.ndarray  # [GESTURES, 3] radians

    @classmethod
    def random(cls, rng: np.random.Generator) -> Gesture:
        """Sample the curves of a person."""
        return cls(
            strength=float(rng.uniform(0.6, 1.0)),
            rates=rng.uniform([0.1, 0.25], [0.3, 0.6], (len(GESTURES), 2)),
            phases=rng.uniform(0, 2 * np.pi, (len(GESTURES), 3)),
        )

    def curves(self, time: np.ndarray) -> dict[str, np.ndarray]:
        """Return smooth curves ``[F]`` from 0 to 1, by the names in :data:`GESTURES`, for times ``[F]`` in seconds."""
        angles = 2 * np.pi * self.rates.T[..., None] * time + self.phases.T[:2, :, None]  # [2, GESTURES, F]
        first, second = np.sin(angles)
        return dict(zip(GESTURES, 0.5 + 0.5 * np.sin(2 * first + 1.2 * second + self.phases[:, 2:]), strict=True))


@dataclass(frozen=True)
class Stage:
    """The ground within view of the camera: its depths in metres, and its half width per metre of depth."""

    near: float
    far: float
    spread: float

    def sample(self, rng: np.random.Generator, margin: float) -> np.ndarray:
        """Sample a point ``[2]`` (x, z); with a margin above 1 it may lie just outside the image."""
        z = float(rng.uniform(self.near, self.far))
        return np.array([rng.uniform(-1, 1) * margin * self.spread * z, z])

    def sample_goal(self, rng: np.random.Generator, place: np.ndarray, distance: float) -> np.ndarray:
        """Sample a point at least `distance` from a place; on a narrow stage it may lie further outside the image."""
        margin = 1.1
        while np.hypot(*((goal := self.sample(rng, margin)) - place)) < distance:
            margin *= 1.2
        return goal


@dataclass(frozen=True)
class Route:
    """Where a person is: position ``[F, 2]`` (x, z) in metres, heading ``[F]`` in radians."""

    position: np.ndarray
    heading: np.ndarray

    @classmethod
    def random(cls, rng: np.random.Generator, stage: Stage, speed: float, frames: int, fps: float) -> Route:
        """Sample a route between random points of the stage, with turns on arcs; without speed, turn on the spot."""
        place = stage.sample(rng, 0.85)
        if speed == 0:
            turn = np.radians(15) * np.sin(np.arange(frames) / fps * 0.6 + rng.uniform(0, 6))
            return cls(np.tile(place, (frames, 1)), rng.uniform(-np.pi, np.pi) + turn)
        return cls._walk(rng, stage, place, stage.sample_goal(rng, place, 2 * ARRIVAL), speed, frames, fps)

    @classmethod
    def crossing(
        cls, rng: np.random.Generator, stage: Stage, speed: float, frames: int, fps: float, other: Route
    ) -> Route:
        """Sample a route that crosses another in the image: at one moment, both people are in one line of sight.

        They walk in opposite directions.

        Args:
            rng: source of all randomness.
            stage: of the clip.
            speed: metres per second.
            frames: number of frames.
            fps: frames per second.
            other: the route to cross.
        """
        moment = int(rng.uniform(0.2, 0.8) * frames)
        x, z = other.position[moment]
        gap = rng.uniform(0.75, 1.2) * rng.choice([-1, 1])
        depth = z + gap if stage.near <= z + gap <= stage.far else z - gap
        place = np.array([x / z * depth, depth])
        angle = rng.uniform(-0.3, 0.3) + (np.pi if np.cos(other.heading[moment]) > 0 else 0.0)
        ahead = 2 * ARRIVAL * np.array([np.cos(angle), np.sin(angle)])
        after = cls._walk(rng, stage, place, place + ahead, speed, frames - moment, fps)
        before = cls._walk(rng, stage, place, place - ahead, speed, moment + 1, fps)  # backwards in time
        return cls(
            np.concatenate([before.position[:0:-1], after.position]),
            np.concatenate([before.heading[:0:-1] - before.heading[0] + angle, after.heading]),
        )

    @classmethod
    def _walk(
        cls, rng: np.random.Generator, stage: Stage, place: np.ndarray, goal: np.ndarray, speed: float, frames: int,
        fps: float,
    ) -> Route:  # fmt: skip
        """Return a route from a place straight to a goal, and from there to random goals."""
        position, heading = np.empty((frames, 2)), np.empty(frames)
        angle = float(np.arctan2(*(goal - place)[::-1]))
        substeps = int(np.ceil(25 / fps))  # at a low frame rate, a whole step could jump over the goal
        step = speed / fps / substeps
        for tick in range(frames * substeps):
            if tick % substeps == 0:
                position[tick // substeps], heading[tick // substeps] = place, angle
            if np.hypot(*(goal - place)) < ARRIVAL:
                goal = stage.sample_goal(rng, place, ARRIVAL)
            wanted = np.arctan2(goal[1] - place[1], goal[0] - place[0])
            turn = (wanted - angle + np.pi) % (2 * np.pi) - np.pi
            angle += float(np.clip(turn, -step / TURN_RADIUS, step / TURN_RADIUS))
            place = place + step * np.array([np.cos(angle), np.sin(angle)])
        return cls(position, heading)


@dataclass(frozen=True)
class DrawnPerson:
    """One person with its motion in all F frames of a clip, as `render.PersonPainter` draws it.

    Attributes:
        body, look, gait: of the person.
        points: ``[F, K, 3]``, world coordinates in metres, in the order of :data:`POINTS`; the first 15 are the joints.
        facing: ``[F, 2]``, world headings of the trunk and of the head, radians.
    """

    body: Body
    look: Look
    gait: Gait
    points: np.ndarray
    facing: np.ndarray

    def at(self, moment: float) -> tuple[np.ndarray, np.ndarray]:
        """Return points ``[K, 3]`` and facing ``[2]`` at a moment counted in frames, interpolated between frames."""
        moment = float(np.clip(moment, 0, len(self.points) - 1))
        now, share = int(moment), moment % 1
        then = min(now + 1, len(self.points) - 1)
        points = self.points[now] + share * (self.points[then] - self.points[now])
        return points, self.facing[now] + share * (self.facing[then] - self.facing[now])


def build_person(
    body: Body, look: Look, gait: Gait, route: Route, fps: float, gesture: Gesture | None = None
) -> DrawnPerson:
    """Move a body along its route: forward kinematics of gait and gestures, mapped to world coordinates.

    Args:
        body, look, gait: of the person.
        route: with F frames.
        fps: frames per second.
        gesture: None: no gestures.
    """
    frames = len(route.heading)
    time = np.arange(frames) / fps
    points, gaze = pose(body, gait, time, gesture)
    cos, sin = np.cos(route.heading)[:, None], np.sin(route.heading)[:, None]
    forward, left, up = points[..., 0], points[..., 1], points[..., 2]
    x = route.position[:, :1] + forward * cos - left * sin
    z = route.position[:, 1:] + forward * sin + left * cos
    facing = np.stack([route.heading, route.heading + gaze], axis=-1)  # [F, 2]
    return DrawnPerson(body, look, gait, np.stack([x, up, z], axis=-1), facing)


def pose(body: Body, gait: Gait, time: np.ndarray, gesture: Gesture | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Compute the forward kinematics of a gait and gestures in the body frame.

    Args:
        body, gait: of the person.
        time: ``[F]`` seconds.
        gesture: None: no gestures.

    Returns:
        Points ``[F, K, 3]`` (forward, left, up) in metres, and the head's rotation to the left ``[F]`` in radians.
    """
    phase = gait.start + time * gait.speed / gait.stride  # of the right leg, in strides
    sway = gait.side * np.sin(2 * np.pi * (0.25 * time + gait.start))  # -1 to 1: shift of weight between the feet
    moving = gait.speed > 0
    beat = np.cos(2 * np.pi * phase) if moving else np.zeros_like(time)  # +1: the right leg is in front
    s, zero = body.stature, np.zeros_like(time)
    at: dict[str, np.ndarray] = {}
    curves = gesture.curves(time) if gesture else {}
    bend, aside = (0.6 * curves["bend"] ** 2, 0.4 * (curves["lean"] - 0.5)) if gesture else (zero, zero)

    # The legs hang from the pelvis; its height is computed from them below.
    pelvis = np.stack([zero, (0.012 * np.sin(2 * np.pi * phase) if moving else 0.03 * sway) * s, zero], axis=-1)
    tilt = 0.0 if moving else -0.03 * sway * s / (body.thigh + body.shin)  # the feet stay while the pelvis sways
    at["pelvis"] = pelvis
    for name, sign, leg_phase in (("left", 1, phase + 0.5), ("right", -1, phase)):
        hip, knee, foot = _leg_angles(gait, body, leg_phase)
        if gesture and not moving:  # squats, and raises a knee
            fold = np.maximum(curves[f"{name}_knee"] - 0.4, 0)
            hip, knee = hip + 1.6 * fold, knee + 2.6 * fold
        spread = sign * (0.02 if moving else 0.08) + tilt
        at[f"{name}_hip"] = pelvis + _turn((0, sign * body.hips, 0), 0.09 * beat)
        at[f"{name}_knee"] = at[f"{name}_hip"] + body.thigh * _hang(hip, spread)
        at[f"{name}_ankle"] = ankle = at[f"{name}_knee"] + body.shin * _hang(hip - knee, spread)
        ahead, below = _turn(_hang(foot + np.pi / 2, 0), sign * 0.12), _hang(foot, 0)  # toes point outwards a little
        at[f"{name}_heel"] = ankle - 0.022 * s * ahead + 0.022 * s * below
        at[f"{name}_toe"] = ankle + 0.095 * s * ahead + 0.026 * s * below

    trunk = -_hang(zero - gait.lean - bend, 0.02 * beat - 0.5 * tilt + aside)  # unit vector up along the spine
    at["waist"] = pelvis + 0.3 * body.trunk * trunk
    shoulders = pelvis + body.trunk * trunk
    at["collar"] = shoulders + 0.9 * body.neck * trunk
    for name, sign in (("left", 1), ("right", -1)):
        arm = _arm_angles(gait, sign, beat, time)
        if gesture:
            free = _free_arm(sign, *(curves[f"{name}_arm_{how}"] for how in ("raised", "aside", "bent", "inwards")))
            arm = tuple(a + gesture.strength * (b - a) for a, b in zip(arm, free, strict=True))
        upper, lower, out_upper, out_lower = arm
        at[f"{name}_shoulder"] = shoulders + _turn((0, sign * body.shoulders, 0), -0.12 * beat)
        at[f"{name}_elbow"] = at[f"{name}_shoulder"] + body.upper_arm * _hang(upper, out_upper)
        at[f"{name}_wrist"] = at[f"{name}_elbow"] + body.forearm * _hang(lower, out_lower)
        at[f"{name}_hand"] = at[f"{name}_wrist"] + 0.06 * s * _hang(lower + 0.15, out_lower)

    gaze = (0.15 if moving else 0.4) * np.sin(2 * np.pi * (0.11 * time + gait.start))
    if gesture:
        gaze = gaze + 1.6 * (curves["gaze"] - 0.5)
    at["head_bottom"] = neck = shoulders + body.neck * trunk
    # (forward, left, up) from the neck, in head lengths; the profile of a head
    head = {
        "head_top": (0.0, 0, 1), "jaw": (0.13, 0, 0.33), "crown": (0.03, 0, 0.68), "nose": (0.46, 0, 0.42),
        "nose_root": (0.36, 0, 0.56), "nape": (-0.2, 0, 0.66), "hair_end": (-0.3, 0, -0.25),
    }  # fmt: skip
    for name, offset in head.items():
        at[name] = neck + _turn(body.head * np.array(offset), gaze)

    points = np.stack([at[name] for name in POINTS], axis=1)  # [F, K, 3]
    soles = np.stack([at[f"{side}_{end}"][:, 2] for side in ("left", "right") for end in ("heel", "toe")])
    # The lowest point of both feet is on the ground. A soft minimum avoids a jerk when the weight changes feet.
    lowest = -np.log(np.exp(-100 * soles).sum(axis=0)) / 100
    hop = 0.035 * s * np.sin(2 * np.pi * phase) ** 2 if gait.action == "run" else 0.0
    points[..., 2] += (0.018 * s - lowest + hop)[:, None]
    return points, gaze


def _leg_angles(gait: Gait, body: Body, phase: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return hip flexion, knee flexion and the foot's pitch (positive: toes up) at a phase; 0 is the heel strike."""
    if gait.speed == 0:
        still = np.zeros_like(phase)
        return still + 0.03, still + 0.06, still
    # The amplitude at which a step is as long as the distance that the body moves, so that feet do not slide.
    run = gait.action == "run"
    reach = gait.stride / (4 * (body.thigh + body.shin)) * (0.8 if run else 1.0)  # runners fly part of the way
    swing = np.arcsin(min(reach, 0.75)) * np.cos(2 * np.pi * phase)
    if run:
        knee = 0.35 + 0.25 * _bump(phase, 0.15, 0.08) + 1.5 * _bump(phase, 0.68, 0.12)
        return swing + 0.3, knee, 0.1 * _bump(phase, 0.0, 0.06) - 1.1 * _bump(phase, 0.6, 0.13)
    knee = 0.08 + 0.2 * _bump(phase, 0.14, 0.06) + 0.95 * _bump(phase, 0.72, 0.09)
    return swing + 0.13, knee, 0.3 * _bump(phase, 0.0, 0.05) - 0.9 * _bump(phase, 0.64, 0.09)


def _arm_angles(
    gait: Gait, sign: int, beat: np.ndarray, time: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return flexion of upper arm and forearm, and their angles to the left, for one side (+1 left, -1 right)."""
    if gait.action == "wave" and sign == gait.side:
        wave = np.sin(2 * np.pi * (1.4 * time + gait.start))
        still = np.zeros_like(time)
        return still - 0.25, still - 0.35, sign * (1.75 + 0.1 * wave), sign * (2.9 + 0.45 * wave)
    swing = gait.arm_swing * beat * sign  # opposite to the leg of the same side
    upper = swing + (-0.1 if gait.action == "run" else 0.02)
    lower = upper + gait.elbow + 0.6 * np.maximum(swing, 0)
    out = np.full_like(time, sign * 0.12)
    return upper, lower, out, (0.2 if gait.action != "run" else -1.2) * out  # a runner's hands come inwards


def _free_arm(
    sign: int, raised: np.ndarray, aside: np.ndarray, bent: np.ndarray, inwards: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the angles of an arm, as in `_arm_angles`, that follows curves ``[F]`` from 0 to 1."""
    upper = -0.4 + 2.9 * raised**1.5  # from behind the back to above the head, more often low than high
    return upper, upper + 0.1 + 2.0 * bent, sign * (0.05 + 1.2 * aside**2), sign * (0.5 - 1.3 * inwards)


def _hang(flexion: np.ndarray, lateral: np.ndarray | float) -> np.ndarray:
    """Return the unit direction ``[F, 3]`` of a hanging limb that is swung forwards and to the left by two angles."""
    flexion, lateral = np.broadcast_arrays(flexion, lateral)
    cos = np.cos(lateral)
    return np.stack([np.sin(flexion) * cos, np.sin(lateral), -np.cos(flexion) * cos], axis=-1)


def _turn(vectors: np.ndarray | tuple[float, ...], angle: np.ndarray | float) -> np.ndarray:
    """Rotate vectors of the body frame to the left about the vertical axis."""
    forward, left, up = np.moveaxis(np.asarray(vectors, dtype=np.float64), -1, 0)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack(np.broadcast_arrays(forward * cos - left * sin, forward * sin + left * cos, up), axis=-1)


def _bump(phase: np.ndarray, centre: float, width: float) -> np.ndarray:
    """Return a smooth bump of height 1 that recurs once per stride."""
    return np.exp((np.cos(2 * np.pi * (phase - centre)) - 1) / (2 * np.pi * width) ** 2)
