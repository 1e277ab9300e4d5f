"""Writes a synthetic clip in PoseTrack18's layout: images, annotations and, optionally, a video.

Files are written under temporary names and the annotations are renamed last, so that an incomplete clip is never
mistaken for a complete one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sdtc.core.errors import InputError, OutputError
from sdtc.core.files import atomic_write
from sdtc.core.h264 import H264Writer
from sdtc.core.posetrack import POSETRACK_CATEGORY, image_id, sequence_id, to_slots
from sdtc.synthetic.clip import RenderedFrame, SyntheticClip
from sdtc.synthetic.difficulty import DIFFICULTIES

JPEG_QUALITY = 95
VIDEO_CRF = 18


def write_clip(
    clip: SyntheticClip,
    directory: str | Path,
    video: bool = True,
    name: str | None = None,
    *,
    split: str = "val",
    on_frame: Callable[[], Any] | None = None,
) -> Path:
    """Write a clip in PoseTrack18's layout, with one frame in memory at a time.

    Writes ``images/<split>/<name>/%06d.jpg``, ``annotations/<split>/<name>.json`` and, with `video`, ``<name>.mp4``.
    The annotations appear last: where they exist, the clip is complete. Besides PoseTrack's keys, they contain ``info``
    (the options of the clip), ``occluded`` for every keypoint, and ``difficulty`` for every person and every image: the
    labels of ``difficulty.DIFFICULTIES`` that hold for the person, or for anyone in the image.

    Args:
        clip: the clip to render and write.
        directory: the data set's folder; must exist.
        video: whether to write a video as well.
        name: of the sequence, six digits (the video id) and then e.g. ``_street``; None: the seed and ``_synthetic``.
        split: ``"train"`` or ``"val"``, the name of the folder.
        on_frame: called after every frame, for a progress bar.

    Returns:
        The path of the annotations.

    Raises:
        InputError: the name is not usable, or a video is to be written and the size is odd.
        OutputError: the directory is missing or cannot be written.
    """
    root = Path(directory)
    name = f"{clip.seed:06d}_synthetic" if name is None else name
    vid_id = sequence_id(name)
    if vid_id is None or Path(name).name != name:
        raise InputError(f"`name` is '{name}': expected six digits and then e.g. '_street'")
    if video and (clip.size[0] % 2 or clip.size[1] % 2):
        size = f"{clip.size[0]}x{clip.size[1]}"
        raise InputError(f"`size` is {size}: H.264 needs an even height and width, so change it or use `video=False`")
    if not root.is_dir():
        raise OutputError(f"the folder '{root}' does not exist: create it or choose another")
    images, annotations = [], []
    annotation_path = root / "annotations" / split / f"{name}.json"
    try:
        annotation_path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            folder = stack.enter_context(_folder_replacing(root / "images" / split / name))
            movie = None
            if video:
                temporary = stack.enter_context(atomic_write(root / f"{name}.mp4"))
                movie = stack.enter_context(H264Writer(temporary, clip.fps, clip.size, crf=VIDEO_CRF))
            for number, frame in enumerate(clip):
                _write_jpeg(folder / f"{number:06d}.jpg", frame.image)
                if movie:
                    movie.write(frame.image)
                images.append(_image_entry(clip, frame, f"images/{split}/{name}/{number:06d}.jpg", vid_id, number))
                annotations.extend(_annotation_entries(frame, image_id(vid_id, number)))
                if on_frame:
                    on_frame()
        document = {
            "info": clip.options.to_json(),
            "categories": [POSETRACK_CATEGORY],
            "images": images,
            "annotations": annotations,
        }
        with atomic_write(annotation_path) as temporary:
            temporary.write_text(json.dumps(document), encoding="utf-8")  # not indented: a third of the size
    except OSError as error:
        raise OutputError(f"cannot write '{name}' to '{root}': {error.strerror or error}") from error
    return annotation_path


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


def _image_entry(clip: SyntheticClip, frame: RenderedFrame, file_name: str, vid_id: str, number: int) -> dict[str, Any]:
    return {
        "has_no_densepose": True,
        "is_labeled": True,
        "file_name": file_name,
        "nframes": clip.num_frames,
        "frame_id": image_id(vid_id, number),
        "vid_id": vid_id,
        "ignore_regions_y": [],
        "ignore_regions_x": [],
        "id": image_id(vid_id, number),
        "width": clip.size[1],
        "height": clip.size[0],
        "difficulty": _names(np.any(frame.difficulty, axis=0)),
    }


def _annotation_entries(frame: RenderedFrame, image: int) -> list[dict[str, Any]]:
    """Return a frame's annotations; joints outside the image are zeros, as in PoseTrack."""
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
            "difficulty": _names(frame.difficulty[i]),
        }
        for i, track in enumerate(frame.track_ids)
    ]


def _names(labels: np.ndarray) -> list[str]:
    return [name for name, holds in zip(DIFFICULTIES, labels, strict=True) if holds]


def _rounded(values: np.ndarray) -> list[float]:
    """Return values rounded to thousandths of a pixel, which keeps the files small."""
    return [round(float(value), 3) for value in values]
