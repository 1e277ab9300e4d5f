"""A synthetic clip: what is in the scene (from the seed), its frames with exact ground truth, and writing them.

The scene is decided completely before anything is drawn, each ingredient from its own random stream, so that a
new ingredient or another number of people leaves the rest of a seed's scene as it is.
"""

from __future__ import annotations

import operator
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from sdtc.errors import InputError, OutputError
from sdtc.files import atomic_write, write_json
from sdtc.posetrack import POSETRACK_CATEGORY, image_id, sequence_id, to_slots
from sdtc.skeleton import POSETRACK
from sdtc.synthetic.people import ACTIONS, POINT, Body, Gait, Look, Person, Route, Stage, build_person
from sdtc.synthetic.render import Background, Camera, Canvas, PersonPainter

MAX_PEOPLE = 20
MAX_FRAMES = 10_000  # PoseTrack's image ids have four digits for the frame
MAX_SEED = 999_999  # and its video ids six
PERSONAL_SPACE = 0.7  # metres between two people, where the random routes allow it
JPEG_QUALITY = 95
VIDEO_CRF = 18
_INGREDIENTS = ("scene", "background", "person", "texture")  # append only: the order is part of every seed
_JOINTS = len(POSETRACK.keypoints)
_HEAD = [POINT[name] for name in ("jaw", "crown", "head_top", "head_bottom")]


@dataclass(frozen=True)
class Frame:
    """One frame and its ground truth, for the P people who are at least partly in the picture.

    Attributes:
        image: uint8 ``[H, W, 3]`` RGB.
        keypoints: float32 ``[P, 15, 3]`` (x, y, v) in image pixels, in the order of ``sdtc.skeleton.POSETRACK``;
            v is 1 inside the picture and 0 outside, where x and y still say where the joint is.
        occluded: bool ``[P, 15]``, joints inside the picture that another person covers.
        boxes: float32 ``[P, 4]`` (x, y, width, height) of the whole drawn person, clipped to the picture.
        head_boxes: float32 ``[P, 4]``, not clipped, since they measure the size of the head.
        track_ids: int64 ``[P]``, the same number for a person through the whole clip.
        mask: uint8 ``[H, W]``, whom each pixel shows: 0 nobody, otherwise track id + 1.
    """

    image: np.ndarray
    keypoints: np.ndarray
    occluded: np.ndarray
    boxes: np.ndarray
    head_boxes: np.ndarray
    track_ids: np.ndarray
    mask: np.ndarray


@dataclass(frozen=True)
class Scene:
    """What there is in a clip; nothing here is a pixel.

    Attributes:
        light: unit vector ``[3]`` towards the light: right, down, towards the camera.
    """

    camera: Camera
    people: tuple[Person, ...]
    light: np.ndarray


def build_scene(seed: int, frames: int, size: tuple[int, int], people: int | None, fps: float) -> Scene:
    """Decide everything about a clip from its seed; arguments as in :class:`SyntheticClip`."""
    rng = _stream(seed, "scene")
    drawn = int(rng.integers(1, 5))  # drawn even if not wanted, so that the camera does not depend on it
    people = drawn if people is None else people
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
    crowd: list[Person] = []
    routes: list[Route] = []
    for number in range(people):
        rng = _stream(seed, "person", number)
        body, look = Body.random(rng), Look.random(rng)
        # The first person always goes somewhere: a clip in which nobody does would be a poor test of a video model.
        names = list(ACTIONS)[:2] if number == 0 else list(ACTIONS)
        shares = np.array([ACTIONS[name] for name in names])
        gait = Gait.random(rng, body, str(rng.choice(names, p=shares / shares.sum())))
        for _ in range(8):
            route = Route.random(rng, stage, gait.speed, frames, fps)
            if all(np.hypot(*(route.position - other.position).T).min() > PERSONAL_SPACE for other in routes):
                break
        routes.append(route)
        crowd.append(build_person(body, look, gait, route, fps))
    return Scene(camera, tuple(crowd), light / np.linalg.norm(light))


class SyntheticClip:
    """A clip of drawn people in motion; iterating draws its frames one by one, always the same ones.

    Args:
        seed: 0 to 999999; decides everything else.
        num_frames: 1 to 10000.
        size: (H, W) of the picture in pixels.
        num_people: 0 to 20; drawn from 1 to 4 if not given.
        fps: frames per second.

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
    ) -> None:
        self.seed = _whole("the seed", seed, 0, MAX_SEED)
        self.num_frames = _whole("the number of frames", num_frames, 1, MAX_FRAMES)
        self.size = (_whole("the height", size[0], 32, 8192), _whole("the width", size[1], 32, 8192))
        if num_people is not None:
            _whole("the number of people", num_people, 0, MAX_PEOPLE)
        if not 1 <= fps <= 1000:
            raise InputError(f"the frame rate is {fps}: expected 1 to 1000 frames per second")
        self.fps = fps
        self.scene = build_scene(self.seed, self.num_frames, self.size, num_people, fps)
        self._background = Background(self.scene.camera, _stream(seed, "background"))
        self._painters = [
            PersonPainter(person, _stream(seed, "texture", i)) for i, person in enumerate(self.scene.people)
        ]

    def __len__(self) -> int:
        return self.num_frames

    def __iter__(self) -> Iterator[Frame]:
        return (self[index] for index in range(self.num_frames))

    def __getitem__(self, index: int) -> Frame:
        """Draw one frame, counted from 0."""
        if not 0 <= index < self.num_frames:
            raise IndexError(f"frame {index} of a clip of {self.num_frames}")
        scene, time = self.scene, index / self.fps
        canvas = Canvas(self._background.at(time), scene.light)
        points = [person.points[index] for person in scene.people]
        far_to_near = sorted(range(len(points)), key=lambda i: -points[i][POINT["pelvis"], 2])
        for i in far_to_near:
            self._painters[i].shadow(canvas, scene.camera, index, time)
        boxes: dict[int, np.ndarray] = {}
        for i in far_to_near:
            self._painters[i].draw(canvas, scene.camera, index, time, label=i + 1)
            box = _mask_box(canvas.mask == i + 1)  # before anyone nearer is drawn over it
            if box is not None:
                boxes[i] = box
        tracks = sorted(boxes)
        joints = np.array([scene.camera.project(points[i][:_JOINTS], time) for i in tracks]).reshape(-1, _JOINTS, 2)
        pixels = np.rint(joints).astype(int)
        inside = ((pixels >= 0) & (pixels < self.size[::-1])).all(axis=-1)  # [P, 15]
        shown = np.zeros(inside.shape, int)  # whom the picture shows where a joint is
        shown[inside] = canvas.mask[pixels[inside][:, 1], pixels[inside][:, 0]]
        return Frame(
            image=canvas.finish(),
            keypoints=np.concatenate([joints, inside[..., None]], axis=-1).astype(np.float32),
            occluded=(shown != 0) & (shown != np.array(tracks, int).reshape(-1, 1) + 1),
            boxes=np.array([boxes[i] for i in tracks], np.float32).reshape(-1, 4),
            head_boxes=np.array([self._head_box(i, index) for i in tracks], np.float32).reshape(-1, 4),
            track_ids=np.array(tracks, np.int64),
            mask=canvas.mask,
        )

    def _head_box(self, number: int, index: int) -> np.ndarray:
        """From the top of the head to the neck, as PoseTrack has it; ``[4]`` (x, y, width, height)."""
        camera, person = self.scene.camera, self.scene.people[number]
        head = person.points[index, _HEAD]  # [4, 3]
        beside = np.array([0.34 * person.body.head * camera.focal / head[0, 2], 0])
        corners = camera.project(head, index / self.fps)
        low, high = corners.min(axis=0) - beside, corners.max(axis=0) + beside
        return np.concatenate([low, high - low])


def write_clip(
    clip: SyntheticClip,
    directory: str | Path,
    video: bool = True,
    name: str | None = None,
    *,
    on_frame: Callable[[], Any] | None = None,
) -> Path:
    """Write a clip in PoseTrack18's layout, streaming: one frame is in memory at a time.

    Writes ``images/val/<name>/%06d.jpg``, ``annotations/val/<name>.json`` and, with `video`, ``<name>.mp4``. All of
    them are written under temporary names first; the annotations are renamed last, so where they are, all is.

    Args:
        directory: where to write; must exist.
        name: of the sequence, six digits (the video id) and then e.g. ``_street``; the seed and ``_synthetic`` if
            not given.
        on_frame: called after every frame, for a progress bar.

    Returns:
        The path of the annotations.

    Raises:
        InputError: the name is not usable, or the size is odd, which H.264 cannot hold.
        OutputError: the directory is missing or cannot be written.
    """
    root = Path(directory)
    name = f"{clip.seed:06d}_synthetic" if name is None else name
    vid_id = sequence_id(name)
    if vid_id is None or Path(name).name != name:
        raise InputError(f"the sequence name is '{name}': expected six digits and then e.g. '_street'")
    if video and (clip.size[0] % 2 or clip.size[1] % 2):
        size = f"{clip.size[0]}x{clip.size[1]}"
        raise InputError(f"the size is {size}: H.264 needs an even height and width, so change it or write no video")
    if not root.is_dir():
        raise OutputError(f"the folder '{root}' does not exist: create it or choose another")
    images, annotations = [], []
    annotation_path = root / "annotations" / "val" / f"{name}.json"
    try:
        annotation_path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            folder = stack.enter_context(_folder_replacing(root / "images" / "val" / name))
            movie = None
            if video:
                movie = stack.enter_context(_Movie(stack.enter_context(atomic_write(root / f"{name}.mp4")), clip))
            for number, frame in enumerate(clip):
                _write_jpeg(folder / f"{number:06d}.jpg", frame.image)
                if movie:
                    movie.write(frame.image)
                images.append(_image_entry(clip, name, vid_id, number))
                annotations.extend(_annotation_entries(frame, image_id(vid_id, number)))
                if on_frame:
                    on_frame()
        document = {"categories": [POSETRACK_CATEGORY], "images": images, "annotations": annotations}
        write_json(annotation_path, document)
    except OSError as error:
        raise OutputError(f"cannot write '{name}' to '{root}': {error.strerror or error}") from error
    return annotation_path


class _Movie:
    """An H.264 file being written; a context manager."""

    def __init__(self, path: Path, clip: SyntheticClip) -> None:
        # the temporary name does not say what the file is, so the format does
        self._file = av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
        self._stream = self._file.add_stream("libx264", rate=Fraction(clip.fps).limit_denominator(1001))
        self._stream.height, self._stream.width = clip.size
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": str(VIDEO_CRF)}

    def write(self, image: np.ndarray) -> None:
        self._file.mux(self._stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))

    def __enter__(self) -> _Movie:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._file.mux(self._stream.encode(None))
        self._file.close()


@contextmanager
def _folder_replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary folder; on success it replaces `path`, on any failure it is removed."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_jpeg(path: Path, image: np.ndarray) -> None:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    path.write_bytes(data.tobytes())


def _image_entry(clip: SyntheticClip, name: str, vid_id: str, number: int) -> dict[str, Any]:
    return {
        "has_no_densepose": True,
        "is_labeled": True,
        "file_name": f"images/val/{name}/{number:06d}.jpg",
        "nframes": clip.num_frames,
        "frame_id": image_id(vid_id, number),
        "vid_id": vid_id,
        "ignore_regions_y": [],
        "ignore_regions_x": [],
        "id": image_id(vid_id, number),
        "width": clip.size[1],
        "height": clip.size[0],
    }


def _annotation_entries(frame: Frame, image: int) -> list[dict[str, Any]]:
    """A frame's annotations; joints outside the picture are zeros, as in PoseTrack."""
    slots = to_slots(frame.keypoints * frame.keypoints[..., 2:])
    occluded = to_slots(frame.occluded[..., None])[..., 0]
    return [
        {
            "bbox_head": _rounded(frame.head_boxes[i]),
            "keypoints": _rounded(slots[i].reshape(-1)),
            "track_id": int(track),
            "image_id": image,
            "bbox": _rounded(frame.boxes[i]),
            "scores": [],
            "category_id": 1,
            "id": image * 100 + int(track),
            "iscrowd": False,
            "num_keypoints": int(frame.keypoints[i, :, 2].sum()),
            "occluded": occluded[i].tolist(),
        }
        for i, track in enumerate(frame.track_ids)
    ]


def _rounded(values: np.ndarray) -> list[float]:
    """To a thousandth of a pixel, which keeps the files small."""
    return [round(float(value), 3) for value in values]


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
