"""The rules for PoseTrack and COCO files, which boxes, evaluation and training share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sdtc.core.annotation_file import AnnotationFile, AnnotationRecord, ImageRecord, read_annotation_file
from sdtc.core.errors import InputError
from sdtc.core.posetrack import from_slots
from sdtc.core.skeleton import COCO, POSETRACK, POSETRACK_SLOTS


def read(tmp_path: Path, data: Any, noun: str = "boxes", or_list: bool = False) -> AnnotationFile:
    path = tmp_path / "x.json"
    path.write_text(json.dumps(data))
    return read_annotation_file(path, noun, or_list)


def annotation(**fields: Any) -> AnnotationRecord:
    return AnnotationRecord("annotation 7", fields)


def image(**fields: Any) -> ImageRecord:
    return ImageRecord("image 7", fields)


def test_fields_are_checked_when_they_are_asked_for(tmp_path) -> None:
    """Poses can be scored whatever their boxes hold."""
    entry = {"image_id": 1, "bbox": "here", "track_id": -1, "score": 0.5}
    (person,) = read(tmp_path, {"images": [], "annotations": [entry]}).annotations
    assert (person.image_id, person.score) == (1, 0.5)
    with pytest.raises(InputError, match=r"^boxes file '.*x\.json', annotation 0: bbox is 'here', expected four"):
        _ = person.bbox
    with pytest.raises(InputError, match="annotation 0: track_id is -1, expected a whole number"):
        _ = person.track_id


def test_values_are_shown_in_jsons_words(tmp_path) -> None:
    with pytest.raises(InputError, match=r"^boxes file '.*x\.json' is null: expected a list under 'images'"):
        read(tmp_path, None)
    with pytest.raises(InputError, match="entry 0 is false: expected an object"):
        read(tmp_path, [False], or_list=True)
    with pytest.raises(InputError, match=r"bbox is \[1, null, true\], expected four"):
        _ = annotation(bbox=[1, None, True]).bbox


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, ""),
        ({"category_id": 1, "iscrowd": 0}, ""),
        ({"category_id": "1", "iscrowd": None}, ""),
        ({"category_id": 0}, "of another category"),
        ({"category_id": 2, "iscrowd": 1}, "of another category"),
        ({"category_id": 1, "iscrowd": 1}, "marked as a crowd"),
        ({"iscrowd": True}, "marked as a crowd"),
    ],
    ids=str,
)
def test_who_is_a_person(fields, why) -> None:
    assert annotation(**fields).why_nobody == why


def test_a_list_only_where_it_is_allowed(tmp_path) -> None:
    assert len(read(tmp_path, [{}], or_list=True).annotations) == 1
    with pytest.raises(InputError, match=r"^ground truth file '.*' is \[\{\}\]: expected a list under 'images'"):
        read(tmp_path, [{}], "ground truth")


def test_what_is_optional() -> None:
    bare = annotation(image_id=1)
    absent = (bare.bbox, bare.head_box, bare.keypoints, bare.score, bare.scores(17), bare.track_id, bare.difficulty)
    assert set(absent) == {None}
    empty = annotation(bbox=[], bbox_head=None, scores=[], difficulty=None)
    assert (empty.bbox, empty.head_box, empty.scores(17)) == (None, None, None)
    assert empty.difficulty == frozenset()  # says so, so the image's labels do not hold for this person
    assert (image().num_frames, image().size, image().ignore_regions, image().is_labeled) == (None, None, [], True)
    assert image(nframes=0, width=0, height=60).size is None


@pytest.mark.parametrize("value", [30, 30.0, "30"], ids=repr)
def test_counts_as_programs_write_them(value) -> None:
    assert image(nframes=value).num_frames == 30


@pytest.mark.parametrize("key", ["width", "height"])
@pytest.mark.parametrize("value", [-1, "80", float("nan"), [80], True], ids=repr)
def test_sizes_that_are_none(key, value) -> None:
    with pytest.raises(InputError, match=f"image 7: {key} is .*, expected a number of pixels"):
        _ = image(**{"width": 80, "height": 60, key: value}).size


@pytest.mark.parametrize("names", [POSETRACK_SLOTS, POSETRACK.keypoints, POSETRACK.keypoints[::-1], None], ids=str)
def test_joints_are_found_by_name(tmp_path, names) -> None:
    """Without names, they are PoseTrack's 17 slots."""
    by_name = dict(zip(POSETRACK_SLOTS, np.arange(51.0).reshape(17, 3), strict=True))
    points = np.concatenate([by_name[name] for name in names or POSETRACK_SLOTS])
    categories = {"categories": [{"keypoints": names}]} if names else {}
    file = read(tmp_path, {"images": [], "annotations": [{"keypoints": points.tolist()}], **categories})
    np.testing.assert_array_equal(file.joints(file.annotations), [from_slots(np.arange(51.0).reshape(17, 3))])
    assert file.joints([]).shape == (0, 15, 3)


def test_long_lists_are_counted_in_messages() -> None:
    with pytest.raises(InputError, match=r"scores is \[1, 1, 1, 1, 1, 1, \.\.\.\] \(16 values\), expected 17 finite"):
        annotation(scores=[1] * 16).scores(17)


@pytest.mark.parametrize(
    "value", [None, float("inf"), float("nan"), 3.7, True, "3.0", "three", -1, 2**64, [3], {}], ids=repr
)
def test_ids_that_are_none(value) -> None:
    with pytest.raises(InputError, match=r"image 7: id is .*, expected a whole number"):
        _ = image(id=value).id
    with pytest.raises(InputError, match=r"image_id is .*, expected a whole number"):
        _ = annotation(image_id=value).image_id
    if value is not None:
        with pytest.raises(InputError, match=r"track_id is .*, expected a whole number"):
            _ = annotation(track_id=value).track_id


def test_cocos_joints_are_posetracks_but_for_two(tmp_path) -> None:
    points = np.arange(51.0).reshape(17, 3)
    entries = [{"keypoints": points.ravel().tolist()}]
    file = read(tmp_path, {"images": [], "annotations": entries, "categories": [{"keypoints": list(COCO.keypoints)}]})
    assert file.skeleton == COCO
    np.testing.assert_array_equal(file.joints(file.annotations, COCO), [points])
    found = file.joints(file.annotations)[0]
    for name, joint in zip(POSETRACK.keypoints, found, strict=True):
        known = points[COCO.keypoints.index(name)] if name in COCO.keypoints else np.zeros(3)
        np.testing.assert_array_equal(joint, known)
    assert np.flatnonzero(~found.any(axis=1)).tolist() == [1, 2]  # head_bottom and head_top


def test_a_file_without_names_has_the_joints_that_the_reader_expects(tmp_path) -> None:
    points = np.arange(51.0).reshape(17, 3)
    file = read(tmp_path, {"images": [], "annotations": [{"keypoints": points.ravel().tolist()}]})
    assert file.skeleton is None
    np.testing.assert_array_equal(file.joints(file.annotations), [from_slots(points)])
    np.testing.assert_array_equal(file.joints(file.annotations, COCO), [points])


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["nose", "left_eye"], r"names 2 joints, but not head_bottom, head_top, left_shoulder, right_sho.*COCO's 17"),
        ([1, 2], r"keypoints is \[1, 2\], expected a list of names"),
        ("nose", r"keypoints is 'nose', expected a list of names"),
    ],
    ids=str,
)  # fmt: skip
def test_other_joints_are_refused(tmp_path, names, sentence) -> None:
    with pytest.raises(InputError, match=sentence):
        read(tmp_path, {"images": [], "annotations": [], "categories": [{"keypoints": names}]}).joints([])


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({"image_id": 1, "bbox": [1, 2, 3, 4], "score": 1}, "is a list of detections, a result file: expected annotat"),
        ({"image_id": 1, "keypoints": [1, 2, 3] * 17, "score": 1}, "is a list of poses, a result file: expected annot"),
    ],
    ids=["detections", "poses"],
)
def test_results_are_named(tmp_path, entry, sentence) -> None:
    with pytest.raises(InputError, match=sentence):
        read(tmp_path, [entry])


@pytest.mark.parametrize("far", [1e7, -1e300])
def test_joints_too_far_away_to_be_measured(tmp_path, far) -> None:
    path = tmp_path / "poses.json"
    path.write_text(
        json.dumps([{"image_id": 0, "keypoints": [1, 2, 1] * 17}, {"image_id": 0, "keypoints": [1, far, 1] * 17}])
    )
    file = read_annotation_file(path, "predictions", or_list=True)
    assert file.joints(file.annotations[:1]).shape == (1, 15, 3)
    with pytest.raises(InputError, match=r"entry 1: keypoints is .*, expected numbers of at most 1,000,000"):
        file.joints(file.annotations)
