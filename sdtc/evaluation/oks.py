"""COCO's average precision of keypoints, by object keypoint similarity (OKS). `faster-coco-eval` computes it.

It equals what `pycocotools` prints for a result list of image_id, category_id, keypoints and score: at most 20 poses in
an image; crowds and people without a labelled joint are neither to be found nor to be missed, and poses on them count
nowhere; images without people count too. The areas of poses are those of their keypoints' extent, also where a list
has boxes.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np

from sdtc.core.annotation_file import BOX, AnnotationRecord
from sdtc.core.errors import InputError, require
from sdtc.core.skeleton import COCO
from sdtc.evaluation.reading import PredictedPoses, Truth

# In COCO's order: over OKS from 0.5 to 0.95, at 0.5, at 0.75, and of people of 32² to 96² and above 96² square pixels.
COLUMNS = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")


def evaluate_oks(truth: Truth, poses: PredictedPoses) -> dict[str, float]:
    """Return COCO's AP and AR of keypoints.

    Args:
        truth: COCO's person keypoints, from `read_truth`.
        poses: with COCO's joints, and scores of the poses as wholes.

    Returns:
        Percent by column of `COLUMNS`; NaN where no person is of that size.

    Raises:
        InputError: the joints are not COCO's, or an annotation has no box or no area.
        MissingExtraError: faster-coco-eval is not installed.
    """
    library = require_library()
    for what, skeleton in (("the ground truth has", truth.people.skeleton), ("the poses have", poses.people.skeleton)):
        if skeleton != COCO:
            raise InputError(
                f"COCO's AP is of the skeleton '{COCO.name}': {what} the joints of the skeleton '{skeleton.name}'"
            )
    dataset = library.COCO()
    dataset.dataset = {
        "info": {},
        "images": [{"id": frame} for frame in range(len(truth.images))],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": _annotations(truth),
    }
    dataset.createIndex()
    found = dataset.loadRes(_results(poses))
    evaluation = library.COCOeval_faster(dataset, found, "keypoints")
    evaluation.run()
    values = np.array(evaluation.stats, np.float64)
    return dict(zip(COLUMNS, np.where(values < 0, np.nan, 100 * values).tolist(), strict=True))


def require_library() -> ModuleType:
    """Import faster-coco-eval, or say which extra to install."""
    return require("faster_coco_eval", "eval", "COCO's AP")


def _annotations(truth: Truth) -> list[dict[str, Any]]:
    """Return people and crowds as the library takes them, with ids from 1."""
    people = [*zip(truth.people.frames.tolist(), truth.annotations, strict=True), *truth.crowds]
    return [_annotation(number, frame, record) for number, (frame, record) in enumerate(people, start=1)]


def _annotation(identifier: int, frame: int, record: AnnotationRecord) -> dict[str, Any]:
    box, area, keypoints = record.bbox, record.area, record.keypoints or [0] * (3 * len(COCO.keypoints))
    if box is None:
        raise record.refuse("bbox", BOX)
    if area is None:
        raise record.refuse("area", "a number of square pixels: OKS is measured in the area of the person's segment")
    labelled = sum(label > 0 for label in keypoints[2::3])
    return {
        "id": identifier,
        "image_id": frame,
        "category_id": 1,
        "bbox": box,
        "area": area,
        "iscrowd": int(record.is_crowd),
        "keypoints": keypoints,
        "num_keypoints": labelled if record.num_keypoints is None else record.num_keypoints,
    }


def _results(poses: PredictedPoses) -> list[dict[str, Any]]:
    people = poses.people
    joints = np.concatenate([people.keypoints, np.ones((*people.scores.shape, 1))], axis=-1)  # [P, 17, 3]
    rows = joints.reshape(len(joints), 3 * len(COCO.keypoints))
    return [
        {"image_id": frame, "category_id": 1, "keypoints": row, "score": score}
        for frame, row, score in zip(people.frames.tolist(), rows.tolist(), poses.scores.tolist(), strict=True)
    ]
