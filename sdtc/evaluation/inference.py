"""Run an engine or a checkpoint on the annotated images of a data set; for the same boxes, as `sdtc-infer` does.

Windows, crops and the mapping back to image pixels are those of the runtime, whatever computes the network.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from sdtc.core.annotation_file import MIN_SIDE, NO_AREA, NO_JOINT, image_folders, left_out_phrase
from sdtc.core.boxes import EMPTY, MIN_SCORE, BoxFile, FrameBoxes
from sdtc.core.errors import InputError, require
from sdtc.core.skeleton import COCO
from sdtc.evaluation.ap import Predictions
from sdtc.evaluation.reading import NO_TRACK, PredictedPoses, Truth, TruthImage
from sdtc.runtime.engine import PoseEngine
from sdtc.runtime.sources.open import open_source
from sdtc.runtime.sources.windows import windows


def open_checkpoint(path: str | Path, device: str = "auto", threads: int | None = None) -> PoseEngine:
    """Open a checkpoint in the place of an engine bundle: PyTorch computes the network, in fp32.

    Args:
        path: a checkpoint of `sdtc.model`.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        threads: CPU threads of the process; PyTorch chooses if not given.

    Raises:
        CheckpointError: the checkpoint cannot be used.
        EngineError: `device` is ``"cuda"`` and there is no usable GPU.
        MissingExtraError: PyTorch is not installed.
    """
    torch = require("torch", "train", "`open_checkpoint`")
    from sdtc.evaluation.torch_session import BATCH, TorchSession, choose_device
    from sdtc.model import load_checkpoint

    if threads is not None:
        torch.set_num_threads(threads)
    checkpoint = load_checkpoint(Path(path))
    return PoseEngine.from_session(
        checkpoint.describe((1, BATCH, BATCH)), TorchSession(checkpoint.network, choose_device(device))
    )


class PeopleBoxes(dict[int, FrameBoxes]):
    """The boxes of people, by frame of the ground truth.

    Attributes:
        people: by frame, whom of the ground truth's people each of its boxes is of, int64 ``[N]``; empty for boxes of a
            detector.
        notes: sentences about what was left out.
    """

    def __init__(
        self,
        boxes: Mapping[int, FrameBoxes],
        left_out: Mapping[str, int],
        people: Mapping[int, np.ndarray] | None = None,
    ) -> None:
        super().__init__(boxes)
        self.people = dict(people or {})
        self.notes = (f"boxes left out: {left_out_phrase(left_out)}",) if left_out else ()


def predictions_in_boxes(truth: Truth, boxes: PeopleBoxes, poses: PredictedPoses) -> np.ndarray | None:
    """Return which prediction was made in each annotated person's own box.

    Args:
        truth: the ground truth.
        boxes: of its people.
        poses: from `predict`, in these boxes.

    Returns:
        int64 ``[G]``, -1 for people without a pose; None if the boxes are a detector's.
    """
    if not boxes.people:
        return None
    order = np.argsort(poses.people.frames, kind="stable")  # every frame's in the order of its boxes
    owners = [boxes.people[frame] for frame in np.unique(poses.people.frames).tolist()]
    found = np.full(len(truth.people.frames), -1)
    found[np.concatenate([np.zeros(0, np.int64), *owners])] = order
    return found


def truth_boxes(truth: Truth) -> PeopleBoxes:
    """Return the annotated boxes by frame, with score 1; people without a box area or a labelled joint are skipped.

    Raises:
        InputError: a box is not usable, or nobody in the ground truth has one.
    """
    left_out: Counter[str] = Counter()
    rows: dict[int, list[int]] = {}
    found: dict[int, list[list[float]]] = {}
    for row, (frame, annotation) in enumerate(zip(truth.people.frames.tolist(), truth.annotations, strict=True)):
        box, keypoints = annotation.bbox, annotation.keypoints
        if box is None or min(box[2:]) < MIN_SIDE:
            left_out[NO_AREA] += 1
        elif not any(label > 0 for label in (keypoints or [])[2::3]):
            left_out[NO_JOINT] += 1
        else:
            rows.setdefault(frame, []).append(row)
            found.setdefault(frame, []).append(box)
    if left_out and not found:
        raise InputError(
            f"the ground truth has no boxes to look for people in ({left_out_phrase(left_out)}): give a detector's "
            "with `boxes`"
        )
    frames = {
        frame: FrameBoxes(np.array(boxes, np.float32), np.ones(len(boxes), np.float32), None)
        for frame, boxes in found.items()
    }
    return PeopleBoxes(frames, left_out, {frame: np.array(owners, np.int64) for frame, owners in rows.items()})


def file_boxes(path: str | Path, truth: Truth) -> PeopleBoxes:
    """Read detector boxes by frame; boxes of images outside the ground truth are skipped.

    Args:
        path: a COCO detection list with the ground truth's image ids, or annotations. Boxes below
            `sdtc.core.boxes.MIN_SCORE` are dropped (paper, section 8), but none where COCO's AP is meant.
        truth: the ground truth, whose frames are meant.

    Raises:
        InputError: not such a file, or none of its boxes is of an image of the ground truth.
    """
    file = BoxFile(Path(path), 0.0 if truth.people.skeleton == COCO else MIN_SCORE)
    names = {identifier: name for name, identifier in file.image_ids.items()}
    found = {}
    for identifier, boxes in file.by_image.items():
        frame = truth.find(identifier, names.get(identifier))
        if frame is not None:
            found[frame] = boxes
    if file.by_image and not found:
        raise InputError(
            f"boxes file '{path}' has no boxes for any image of the ground truth: its image ids begin with "
            f"{min(file.by_image)}, the ground truth's with {truth.images[0].id}"
        )
    return PeopleBoxes(found, file.skipped)


def find_images(truth: Truth, folder: Path | None = None) -> dict[Path, dict[str, int]]:
    """Find the annotated images on disk.

    Args:
        truth: the ground truth with their file names.
        folder: where to look; if not given, in the folders above the annotations.

    Returns:
        By folder of images, the ground truth's frame of each file name.

    Raises:
        InputError: images are missing; the first is named.
    """
    found: dict[Path, dict[str, int]] = {}
    missing: list[TruthImage] = []
    places: dict[tuple[Path, PurePosixPath], Path | None] = {}  # by annotation file and folder in it
    for frame, image in enumerate(truth.images):
        if not image.annotated:
            continue
        name = PurePosixPath(image.file_name.replace("\\", "/"))
        key = (image.annotations, name.parent)
        if key not in places:
            bases = [folder] if folder is not None else list(image.annotations.resolve().parents)[:4]
            places[key] = _folder_of(name, bases, image.annotations)
        place = places[key]
        if place is None or not os.path.isfile(place / name.name):
            missing.append(image)
        else:
            found.setdefault(place, {})[name.name] = frame
    if missing:
        count = f"{len(missing)} of the ground truth's images" if len(missing) > 1 else "an image of the ground truth"
        where = f"'{folder}'" if folder is not None else "the folders above the annotations"
        raise InputError(
            f"{count} cannot be found in {where}, the first '{missing[0].file_name}': give the data set's root with "
            "`folder`"
        )
    return found


def _folder_of(name: PurePosixPath, bases: list[Path], annotations: Path) -> Path | None:
    """Return the folder with an image: its path below a base, first as a whole, then without its first folders.

    An image whose name has no folder, as COCO's, may lie in any of `image_folders`.
    """
    for base in bases:
        for folder in image_folders(annotations, "val") if len(name.parts) == 1 else ():
            if os.path.isfile(base / folder / name):
                return base / folder
        for parts in (name.parts[start:] for start in range(len(name.parts))):
            if os.path.isfile(base / Path(*parts)):
                return (base / Path(*parts)).parent
    return None


def predict(
    engine: PoseEngine,
    truth: Truth,
    boxes: Mapping[int, FrameBoxes],
    images: Mapping[Path, Mapping[str, int]],
    batch_size: int | None = None,
    on_frame: Callable[[], object] | None = None,
) -> PredictedPoses:
    """Estimate the poses in all annotated frames.

    Args:
        engine: an open bundle, or a checkpoint from `open_checkpoint`.
        truth: the ground truth.
        boxes: people by frame, from `truth_boxes` or `file_boxes`.
        images: from `find_images`.
        batch_size: people in a batch; the engine's maximum if not given.
        on_frame: called after every annotated frame, for a progress bar.

    Returns:
        Poses whose joint scores are heatmap maximum × box score.

    Raises:
        InputError: the engine's joints are not the ground truth's.
        VideoError: a folder of images cannot be read.
    """
    skeleton = truth.people.skeleton
    if engine.skeleton != skeleton:
        raise InputError(
            f"the model gives the {len(engine.skeleton.keypoints)} joints of the skeleton '{engine.skeleton.name}', "
            f"the ground truth has those of '{skeleton.name}': expected the same"
        )
    frames: list[np.ndarray] = [np.zeros(0, np.int64)]
    poses: list[np.ndarray] = [np.zeros((0, len(skeleton.keypoints), 3), np.float32)]
    notes: list[str] = []
    for folder, names in images.items():
        with open_source(folder) as source:
            for keyframe, window in windows(source, engine.manifest.delta):
                frame = names.get(keyframe.name or "")
                if frame is None:
                    continue
                found = boxes.get(frame, EMPTY)
                if window and len(found.boxes):  # no window where the keyframe cannot be read
                    if truth.images[frame].still:
                        window = [keyframe] * len(window)
                    pictures = [image.image for image in window if image.image is not None]  # that is, all of them
                    keypoints = engine.estimate(pictures, found.boxes, batch_size)  # [P, 15, 3]
                    keypoints[..., 2] *= found.scores[:, None]
                    frames.append(np.full(len(keypoints), frame))
                    poses.append(keypoints)
                if on_frame:
                    on_frame()
            notes += source.problems
    keypoints = np.concatenate(poses).astype(np.float64)
    people = Predictions(
        frames=np.concatenate(frames),
        keypoints=keypoints[..., :2],
        predicted=np.ones(keypoints.shape[:2], bool),
        scores=keypoints[..., 2],
        skeleton=skeleton,
    )
    tracks = np.full(len(keypoints), NO_TRACK)
    return PredictedPoses(people, keypoints[..., 2].mean(axis=1), tracks, tuple(notes))
