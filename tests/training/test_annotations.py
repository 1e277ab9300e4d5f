from __future__ import annotations

import dataclasses
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdtc.core.boxes import BoxFile
from sdtc.core.errors import InputError
from sdtc.core.skeleton import COCO, POSETRACK
from sdtc.evaluation.reading import read_predictions, read_truth
from sdtc.synthetic import ClipOptions, SyntheticClip, write_clip
from sdtc.training.annotations import NO_TRACK, measure_heads, read_annotations


def entry(**changes) -> dict:
    keypoints = np.tile([10.0, 20.0, 1.0], 17)
    keypoints[9:15] = 0  # ears
    base = {
        "image_id": 1,
        "track_id": 4,
        "bbox": [1, 2, 30, 40],
        "bbox_head": [3, 4, 5, 6],
        "keypoints": keypoints.tolist(),
    }
    return base | changes


def write_set(root: Path, entries: list[dict], images: list[dict] | None = None, name: str = "000002.jpg") -> Path:
    folder = root / "images" / "val" / "000007_seq"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / name), np.zeros((60, 80, 3), np.uint8))
    listed = [{"id": 1, "file_name": f"images/val/000007_seq/{name}", "nframes": 30, "width": 80, "height": 60}]
    annotations = root / "annotations" / "val"
    annotations.mkdir(parents=True)
    (annotations / "000007_seq.json").write_text(
        json.dumps({"images": listed if images is None else images, "annotations": entries})
    )
    return root


def test_a_person_is_read(tmp_path) -> None:
    people = read_annotations(write_set(tmp_path, [entry()]), "val").people
    assert len(people) == 1
    person = people[0]
    assert (person.number, person.first, person.last, person.track_id) == (2, 0, 29, 4)
    assert person.keypoints.shape == (15, 3)
    np.testing.assert_array_equal(person.box, [1, 2, 30, 40])
    assert person.frame(-5).name == "000000.jpg"  # clamped
    assert person.frame(1).name == "000003.jpg"
    assert person.frame(99).name == "000029.jpg"


def test_posetrack_2017_counts_from_one(tmp_path) -> None:
    person = read_annotations(write_set(tmp_path, [entry()], name="00000002.jpg").resolve(), "val")
    assert (person.people[0].first, person.people[0].last) == (1, 30)
    assert person.people[0].frame(-9).name == "00000001.jpg"


def test_joints_outside_the_image_are_not_labelled(tmp_path) -> None:
    keypoints = np.array(entry()["keypoints"]).reshape(17, 3)
    keypoints[0, 0], keypoints[16, 1] = -3, 60
    person = read_annotations(write_set(tmp_path, [entry(keypoints=keypoints.ravel().tolist())]), "val").people[0]
    assert person.keypoints[:, 2].tolist() == [0, *[1] * 13, 0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"bbox": [1, 2, 0, 40]}, "with no box area"),
        ({"bbox": []}, "with no box area"),
        ({"bbox": [1, 2, 30, 1e-4]}, "with no box area"),
        ({"bbox": None}, "with no box area"),
        ({"keypoints": [0.0] * 51}, "with no labelled joint"),
        ({"keypoints": []}, "with no labelled joint"),
        ({"iscrowd": 1}, "marked as a crowd"),
        ({"iscrowd": True, "bbox": None, "keypoints": None}, "marked as a crowd"),
        ({"category_id": 2}, "of another category"),
        ({"category_id": 2, "keypoints": [1.0] * 6}, "of another category"),
    ],
    ids=str,
)
def test_unusable_people_are_skipped_and_counted(tmp_path, change, reason) -> None:
    result = read_annotations(write_set(tmp_path, [entry(), entry(**change)]), "val")
    assert len(result.people) == 1
    assert result.skipped == {reason: 1}


def test_a_split_without_people_says_why(tmp_path) -> None:
    entries = [entry(category_id=2), entry(category_id=2), entry(iscrowd=1), entry(bbox=[])]
    sentence = (
        "has no usable annotation in split 'val': 2 of another category, 1 marked as a crowd, 1 with no box area; "
        "a person has category_id 1, or none, and no iscrowd"
    )
    with pytest.raises(InputError, match=f"{sentence}$"):
        read_annotations(write_set(tmp_path, entries), "val")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"keypoints": [1.0] * 45}, r"keypoints is .*\(45 values\), expected 51 finite"),
        ({"keypoints": [float("nan")] * 51}, r"keypoints is \[nan, .* expected 51 finite"),
        ({"bbox": [1, 2, float("inf"), 4]}, r"bbox is \[1, 2, inf, 4\], expected four finite"),
        ({"bbox": "here"}, "bbox is 'here', expected four finite numbers"),
        ({"image_id": 2}, "image_id is 2, expected the id of one of the file's images"),
        ({"image_id": None}, "image_id is null, expected a whole number"),
    ],
    ids=str,
)
def test_damaged_annotations_name_the_place(tmp_path, change, sentence) -> None:
    with pytest.raises(InputError, match=rf"000007_seq\.json', annotation 1.*{sentence}"):
        read_annotations(write_set(tmp_path, [entry(), entry(**change)]), "val")


def test_annotations_without_ids_lengths_and_head_boxes(tmp_path) -> None:
    """Where there is no other image either, the window is the keyframe; and nobody is found again."""
    bare = entry()
    del bare["track_id"], bare["bbox_head"]
    images = [{"id": 1, "file_name": "images/val/000007_seq/000002.jpg"}]
    entries = [bare, bare | {"track_id": None, "bbox_head": []}, bare | {"track_id": -1, "bbox_head": None}]
    result = read_annotations(write_set(tmp_path, entries, images), "val")
    assert [person.track_id for person in result.people] == [NO_TRACK] * 3
    assert [(person.first, person.number, person.last) for person in result.people] == [(2, 2, 2)] * 3
    assert not any(person.head_box.any() for person in result.people)
    assert [result.people[0].frame(offset).name for offset in (-1, 1)] == ["000002.jpg"] * 2
    assert result.tracks() == {}


def extent(root: Path) -> tuple[int, int]:
    (person,) = read_annotations(root, "val").people
    return person.first, person.last


def image_of(name: str, **changes) -> dict:
    return {"id": 1, "file_name": f"images/val/000007_seq/{name}"} | changes


@pytest.mark.parametrize(
    ("name", "others", "want"),
    [
        ("000002.jpg", ["000000.jpg", "000001.jpg", "000003.jpg", "000004.jpg"], (0, 4)),
        ("00000002.jpg", ["00000001.jpg", "00000003.jpg"], (1, 3)),  # PoseTrack17
        ("000002.jpg", ["000009.jpg"], (2, 9)),  # a gap
        ("000102.jpg", ["000101.jpg", "000103.jpg"], (101, 103)),  # cut out of a longer one
        ("000002.jpg", ["._000003.jpg", "000004.png", "0000005.jpg", "poster.jpg", "000006.jpg.part"], (2, 2)),
    ],
    ids=str,
)
def test_a_length_that_is_not_told_is_that_of_the_images(tmp_path, name, others, want) -> None:
    root = write_set(tmp_path, [entry()], [image_of(name)], name)
    for other in others:
        (root / "images" / "val" / "000007_seq" / other).touch()
    assert extent(root) == want


def test_a_length_is_also_that_of_the_images_that_the_file_lists(tmp_path) -> None:
    """PoseTrack lists images without people too; they need not be there."""
    listed = [image_of("000002.jpg"), image_of("000007.jpg", id=2, is_labeled=False), image_of("000001.jpg", id=3)]
    assert extent(write_set(tmp_path, [entry()], listed)) == (1, 7)


@pytest.mark.parametrize(
    ("nframes", "want"),
    [
        (30, (0, 29)),  # what the file says, whatever is there: PoseTrack's samples come without the other frames
        (3, (0, 2)),
        (2, (2, 4)),  # frame 2 is none of two frames, 0 and 1
        (1, (2, 2)),  # a still: its neighbours in the folder are other pictures
        (0, (2, 4)),
    ],
)
def test_a_length_that_does_not_fit_is_not_believed(tmp_path, nframes, want) -> None:
    root = write_set(tmp_path, [entry()], [image_of("000002.jpg", nframes=nframes)])
    for number in (3, 4):
        (root / "images" / "val" / "000007_seq" / f"{number:06d}.jpg").touch()
    assert extent(root) == want


def test_stills_of_one_folder_are_stills_whatever_their_numbers(tmp_path) -> None:
    listed = [image_of("000002.jpg", nframes=1), image_of("000003.jpg", id=2, nframes=1)]
    assert extent(write_set(tmp_path, [entry()], listed)) == (2, 2)


def test_a_folder_is_listed_once(tmp_path, monkeypatch) -> None:
    root = write_set(tmp_path, [entry()], [image_of("000002.jpg")])
    first = root / "annotations" / "val" / "000007_seq.json"
    for copy in range(3):
        (first.parent / f"{copy}.json").write_text(first.read_text())
    listed = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda folder: listed.append(folder) or listdir(folder))
    assert len(read_annotations(root, "val").people) == 4
    assert [path for path in listed if Path(path).name == "000007_seq"] == [root / "images" / "val" / "000007_seq"]


def test_a_track_id_that_two_people_share_in_a_frame_tells_nothing_there(tmp_path) -> None:
    images = [image_of("000002.jpg"), image_of("000003.jpg", id=2)]
    people = [entry(), entry(bbox=[5, 2, 30, 40]), entry(track_id=5), entry(track_id=None), entry(image_id=2)]
    root = write_set(tmp_path, people, images)
    shutil.copy(root / "images/val/000007_seq/000002.jpg", root / "images/val/000007_seq/000003.jpg")
    tracks = read_annotations(root, "val").tracks()
    assert sorted((track, number) for _, track, number in tracks) == [(4, 3), (5, 2)]


def coco_entry(image_id: int, **changes) -> dict:
    """One annotation as COCO has them: eyes and ears too, and label 1 for a joint that is hidden."""
    points = np.array([[3.0 * j, 2.0 * j, 2 - j % 2] for j in range(17)])
    points[4] = 0  # the right ear
    base = {
        "id": 10 * image_id, "image_id": image_id, "category_id": 1, "iscrowd": 0, "num_keypoints": 16, "area": 300.5,
        "bbox": [1.5, 2, 30, 40], "keypoints": points.ravel().tolist(), "segmentation": [],
    }  # fmt: skip
    return base | changes


def write_coco(root: Path, entries: list[dict], folder: str = "train2017", names=("000000000139.jpg",), **more) -> Path:
    (root / folder).mkdir(parents=True)
    images = []
    for number, name in enumerate(names):
        cv2.imwrite(str(root / folder / name), np.zeros((60, 80, 3), np.uint8))
        images.append({"id": number + 1, "file_name": name, "width": 80, "height": 60, **more})
    category = {"id": 1, "name": "person", "keypoints": list(COCO.keypoints), "skeleton": [[16, 14]]}
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / "person_keypoints_train2017.json").write_text(
        json.dumps({"info": {}, "images": images, "annotations": entries, "categories": [category]})
    )
    return root


def test_coco_is_read_as_posetracks_joints(tmp_path) -> None:
    """Neighbours in the folder are no neighbouring frames; crowds and people without joints are skipped."""
    entries = [
        coco_entry(2), coco_entry(1, iscrowd=1, keypoints=[0] * 51, num_keypoints=0, segmentation={"counts": [1]}),
        coco_entry(3, keypoints=[0] * 51, num_keypoints=0),
    ]  # fmt: skip
    names = ["000000000138.jpg", "000000000139.jpg", "000000000140.jpg"]
    found = read_annotations(write_coco(tmp_path, entries, names=names), "train")
    assert found.skipped == {"marked as a crowd": 1, "with no labelled joint": 1}
    (person,) = found.people
    assert person.image == tmp_path / "train2017" / "000000000139.jpg"
    assert [person.frame(offset) for offset in (-2, 0, 1)] == [person.image] * 3
    assert (person.track_id, person.image_id) == (NO_TRACK, 2)
    for name, (x, y, v) in zip(POSETRACK.keypoints, person.keypoints.tolist(), strict=True):
        if name in COCO.keypoints:
            j = COCO.keypoints.index(name)
            assert (x, y, v) == (3 * j, 2 * j, 1)
        else:
            assert (x, y, v) == (0, 0, 0)


@pytest.mark.parametrize("folder", [".", "images/train", "train2017", "images/train2017"])
def test_where_cocos_images_may_lie(tmp_path, folder) -> None:
    """Their file names have no folder."""
    root = write_coco(tmp_path / "root", [coco_entry(1)], folder)
    assert read_annotations(root, "train").people[0].image.samefile(root / folder / "000000000139.jpg")
    elsewhere = root / "annotations" / "person_keypoints_train2017.json"
    (root / "annotations").rename(root / "labels")
    assert read_annotations(root, "train", root / "labels" / elsewhere.name).people
    with pytest.raises(InputError, match=r"no annotations found: looked for .*person_keypoints_train2017.json"):
        read_annotations(root, "train")


def test_missing_images_of_coco_are_counted_once(tmp_path) -> None:
    root = write_coco(tmp_path, [coco_entry(1), coco_entry(1)])
    (root / "train2017" / "000000000139.jpg").unlink()
    with pytest.raises(InputError, match=r"1 labelled images are missing .*000000000139.jpg'.*<split>2017/<image>.jpg"):
        read_annotations(root, "train")


def test_stills_may_have_any_name(tmp_path) -> None:
    root = write_coco(tmp_path, [coco_entry(1), coco_entry(2)], names=["COCO_train2014_000000000009.jpg", "dog.png"])
    people = read_annotations(root, "train").people
    assert [person.frame(1).name for person in people] == ["COCO_train2014_000000000009.jpg", "dog.png"]
    assert people[0].number != people[1].number


def test_clips_with_cocos_joints_say_how_long_they_are(tmp_path) -> None:
    entries = [coco_entry(1)]
    root = write_coco(tmp_path, entries, names=["000004.jpg", "000005.jpg"], nframes=9)
    person = read_annotations(root, "train").people[0]
    assert (person.first, person.last, person.frame(1).name) == (0, 8, "000005.jpg")


def test_a_frame_of_a_sequence_needs_a_number(tmp_path) -> None:
    with pytest.raises(
        InputError, match=r"image 'a.jpg' has no frame number as its name: .*'nframes' of 1 for a still"
    ):
        read_annotations(write_set(tmp_path, [entry()], name="a.jpg"), "val")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([{"image_id": 1, "bbox": [1, 2, 3, 4], "score": 0.9}], "is a list of detections, a result file"),
        ([{"image_id": 1, "keypoints": [1, 2, 0.5] * 17, "score": 0.9}], "is a list of poses, a result file"),
        ({"annolist": []}, "is in the old PoseTrack17 format"),
        ({"annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4], "category_id": 18}]}, "has boxes but no keypoints"),
        ({"annotations": [{"image_id": 1, "caption": "a dog"}]}, "has captions but no keypoints"),
        ({"annotations": [entry(scores=[0.5] * 17)]}, "annotation 0 has scores and no id: the file holds predictions"),
        ({"annotations": [], "categories": [{"keypoints": ["wing", "tail"]}]}, "names 2 joints, but not nose"),
    ],
    ids=["detections", "poses", "posetrack17", "instances", "captions", "predictions", "other joints"],
)  # fmt: skip
def test_files_of_the_other_kind_are_named(tmp_path, content, sentence) -> None:
    if isinstance(content, dict) and "annotations" in content:
        content = {"images": [{"id": 1, "file_name": "1.jpg", "nframes": 1}], **content}
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=sentence):
        read_annotations(tmp_path, "train", tmp_path / "a.json")


def test_two_images_of_one_id_are_refused(tmp_path) -> None:
    """Everybody was taken for a person of the last one."""
    root = write_set(tmp_path, [entry()], [image_of("000002.jpg"), image_of("000003.jpg")])
    with pytest.raises(InputError, match="has two images with the id 1: the people of each cannot be told apart"):
        read_annotations(root, "val")


def test_heads_without_a_box_are_measured_by_joints_or_boxes(tmp_path) -> None:
    keypoints = np.array(entry()["keypoints"]).reshape(17, 3)
    keypoints[2, 0] += 14  # head_top, so far from head_bottom
    joints = keypoints.ravel().tolist()
    keypoints[2] = 0
    people = [
        entry(),
        entry(bbox_head=[], keypoints=joints),
        entry(bbox_head=[3, 4, 0, 0], keypoints=keypoints.ravel().tolist()),
    ]
    sizes, estimated = measure_heads(read_annotations(write_set(tmp_path, people), "val").people)
    np.testing.assert_allclose(sizes, [0.6 * 61**0.5, 14 * 6 / 7, 0.14 * 40])
    assert estimated.tolist() == [False, True, True]


@pytest.mark.parametrize("form", [int, float, str])
def test_ids_as_programs_write_them_mean_the_same_to_every_reader(tmp_path, form) -> None:
    images = [
        {"id": form(1), "file_name": "images/val/000007_seq/000002.jpg", "nframes": form(30), "width": 80, "height": 60}
    ]
    root = write_set(tmp_path, [entry(image_id=form(1), track_id=form(4))], images)
    path = root / "annotations" / "val" / "000007_seq.json"
    (person,) = read_annotations(root, "val").people
    assert (person.image_id, person.track_id, person.last) == (1, 4, 29)
    boxes = BoxFile(path).by_image[1]
    assert boxes.track_ids is not None
    assert boxes.track_ids.tolist() == [4]
    truth = read_truth([path])
    assert (truth.images[0].id, truth.people.frames.tolist()) == (1, [0])
    assert read_predictions([path], truth).people.frames.tolist() == [0]


def test_a_keypoint_that_float32_cannot_hold(tmp_path) -> None:
    keypoints = [1e39, *entry()["keypoints"][1:]]
    with pytest.raises(InputError, match=r"annotation 0: keypoints is .*, expected numbers of at most 1,000,000"):
        read_annotations(write_set(tmp_path, [entry(keypoints=keypoints)]), "val")


def test_files_that_are_missing_or_damaged(tmp_path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_annotations(tmp_path / "nowhere", "val")
    with pytest.raises(InputError, match=r"no annotations found: looked for .*annotations/val and .*val\.json"):
        read_annotations(tmp_path, "val")
    root = write_set(tmp_path, [entry()])
    path = root / "annotations" / "val" / "000007_seq.json"
    text = path.read_text()
    path.write_text(text[:-20])
    with pytest.raises(InputError, match="not valid JSON"):
        read_annotations(root, "val")
    path.write_text('{"annotations": []}')
    with pytest.raises(InputError, match="has the keys annotations: expected a list under 'images'"):
        read_annotations(root, "val")
    path.write_text('{"annotations": [], "images": [{"id": 1}]}')
    with pytest.raises(InputError, match="image 0 has no usable 'file_name'"):
        read_annotations(root, "val")
    path.write_text(text)
    (root / "images" / "val" / "000007_seq" / "000002.jpg").unlink()
    with pytest.raises(InputError, match=r"1 labelled images are missing .*000002\.jpg"):
        read_annotations(root, "val")


def test_synthetic_clips_read_back(tmp_path) -> None:
    clip = SyntheticClip(ClipOptions(seed=3, num_frames=5, size=(120, 160), num_people=2))
    write_clip(clip, tmp_path, video=False)
    people = read_annotations(tmp_path, "val").people
    frame = clip[2]
    mine = {person.track_id: person for person in people if person.number == 2}
    for track, keypoints in zip(frame.track_ids, frame.keypoints, strict=True):
        visible = keypoints[:, 2] > 0
        if visible.any():
            np.testing.assert_allclose(mine[int(track)].keypoints[visible], keypoints[visible], atol=0.01)
    assert people[0].last == 4


def test_real_posetrack_samples(real_data) -> None:
    root = real_data / "posetrack18"
    one_file = read_annotations(root, "val", root / "annotations" / "test_posetrack18_val.json")
    per_sequence = read_annotations(root, "val")
    assert len(one_file.people) == len(per_sequence.people) == 14
    assert {person.last for person in per_sequence.people} == {100, 139, 148}
    for person in one_file.people:
        assert (person.head_box[2:] > 0).all()


def test_estimated_head_sizes_of_real_people_are_nearly_theirs(real_data) -> None:
    people = read_annotations(real_data / "posetrack18", "val").people
    bare = [dataclasses.replace(person, head_box=np.zeros(4, np.float32)) for person in people]
    ratio = measure_heads(bare)[0] / measure_heads(people)[0]
    assert np.abs(np.median(ratio) - 1) < 0.01
    assert ((ratio > 0.6) & (ratio < 1.6)).all()
