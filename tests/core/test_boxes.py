from __future__ import annotations

import itertools
import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sdtc.core.boxes import BoxFile, SourceBoxes
from sdtc.core.errors import InputError

SIZE = (100, 200)


def detections(tmp_path, *entries, **extra):
    path = tmp_path / "boxes.json"
    path.write_text(
        json.dumps([{"image_id": i, "category_id": 1, "bbox": b, "score": s} | extra for i, b, s in entries])
    )
    return path


def test_low_scores_are_dropped(tmp_path) -> None:
    file = BoxFile(detections(tmp_path, (0, [1, 2, 30, 40], 0.9), (0, [5, 5, 9, 9], 0.1), (2, [1, 1, 5, 5], 0.2)))
    boxes = SourceBoxes(file, "video")
    np.testing.assert_array_equal(boxes.of_frame(0, None, SIZE).boxes, [[1, 2, 30, 40]])
    assert len(boxes.of_frame(1, None, SIZE).boxes) == 0
    assert len(boxes.of_frame(2, None, SIZE).boxes) == 1


def test_posetrack_ids_follow_the_name_of_the_sequence(tmp_path) -> None:
    path = detections(tmp_path, (10128340003, [1, 2, 3, 4], 1), (10094730000, [1, 2, 3, 4], 1))
    boxes = SourceBoxes(BoxFile(path), "012834_mpii_test", frames=[(n, f"{n:06d}.jpg") for n in range(5)])
    assert [len(boxes.of_frame(n, None, SIZE).boxes) for n in range(5)] == [0, 0, 0, 1, 0]


def test_a_name_that_only_looks_like_a_sequence_uses_frame_numbers(tmp_path) -> None:
    path = detections(tmp_path, (2, [1, 2, 3, 4], 1))
    assert len(SourceBoxes(BoxFile(path), "123456_holiday").of_frame(2, None, SIZE).boxes) == 1


def test_annotations_are_found_by_file_name_and_keep_track_ids(tmp_path) -> None:
    path = tmp_path / "gt.json"
    path.write_text(
        json.dumps(
            {
                "images": [
                    {"file_name": "images/val/000001_a/000000.jpg", "id": 77},
                    {"file_name": "images/val/000002_b/000000.jpg", "id": 88},
                ],
                "annotations": [
                    {"image_id": 77, "bbox": [1, 2, 3, 4], "track_id": 5},
                    {"image_id": 77, "bbox": [9, 2, 3, 4], "track_id": 3},
                    {"image_id": 77, "bbox": [0, 0, 0, 0], "track_id": 6},
                    {"image_id": 77, "bbox": [], "track_id": 7},
                    {"image_id": 88, "bbox": [50, 2, 3, 4], "track_id": 1},
                ],
            }
        )
    )
    file = BoxFile(path)
    assert file.skipped == {"with no box area": 2}
    found = SourceBoxes(file, "000001_a", frames=[(0, "000000.jpg")]).of_frame(0, "000000.jpg", SIZE)
    assert found.track_ids is not None
    assert found.track_ids.tolist() == [5, 3]


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([(0, [1, 2, 0, 4], 1)], r"bbox \[1, 2, 0, 4\] has no area"),
        ([(0, [1, 2, 5, -4], 1)], "has no area"),
        ([(0, [1, 2, float("nan"), 4], 1)], "four finite numbers"),
        ([(0, [1, 2, 3], 1)], "four finite numbers"),
        ([(0, "box", 1)], "bbox is 'box', expected four finite numbers"),
        ([(0, None, 1)], "bbox is null, expected four finite numbers"),
        ([(0, [1, 2, "3", 4], 1)], "four finite numbers"),
        ([(0, [1, 2, True, 4], 1)], "four finite numbers"),
        ([(0, [1, 2, math.inf, 4], 1)], "four finite numbers"),
        ([(0, [1, 2, 2e39, 4], 1)], "expected .* at most 1,000,000 pixels"),
        ([(0, [1, 2, 3, 10**400], 1)], "expected .* at most 1,000,000 pixels"),
        ([(0, [-1.1e6, 2, 3, 4], 1)], "expected .* at most 1,000,000 pixels"),
        ([(0, [1, 2, 1e-50, 4], 1)], "has no area"),
        ([("x", [1, 2, 3, 4], 1)], "image_id is 'x', expected a whole number"),
        ([(None, [1, 2, 3, 4], 1)], "image_id is null, expected a whole number"),
        ([(True, [1, 2, 3, 4], 1)], "image_id is true, expected a whole number"),
        ([(1.7, [1, 2, 3, 4], 1)], "image_id is 1.7, expected a whole number"),
        ([("1.0", [1, 2, 3, 4], 1)], "image_id is '1.0', expected a whole number"),
        ([("²", [1, 2, 3, 4], 1)], "image_id is '²', expected a whole number"),
        ([(-1, [1, 2, 3, 4], 1)], "image_id is -1, expected a whole number"),
        ([(math.inf, [1, 2, 3, 4], 1)], "image_id is inf, expected a whole number"),
        ([(2**63, [1, 2, 3, 4], 1)], "image_id is 9223372036854775808, expected a whole number"),
        ([(0, [1, 2, 3, 4], None)], "score is null, expected a number"),
        ([(0, [1, 2, 3, 4], "1")], "score is '1', expected a number"),
        ([(0, [1, 2, 3, 4], math.nan)], "score is nan, expected a number"),
        ([(0, [1, 2, 3, 4], 1e39)], "score is 1e\\+39, expected a number"),
        ([(0, [1, 2, 3, 4], 87)], "score is 87, expected a number from 0 to 1"),
    ],
)
def test_bad_boxes_name_the_entry(tmp_path, entries, sentence) -> None:
    with pytest.raises(InputError, match=f"entry 0.*{sentence}"):
        BoxFile(detections(tmp_path, *entries))


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        ({"track_id": 2**63}, "track_id is 9223372036854775808, expected a whole number from 0 to"),
        ({"track_id": 0.5}, "track_id is 0.5"),
        ({"track_id": -2}, "track_id is -2"),
        ({"track_id": "person_1"}, "track_id is 'person_1', expected a whole number"),
        ({"category_id": "person"}, "category_id is 'person'"),
        ({"category_id": 1.5}, "category_id is 1.5"),
    ],
    ids=str,
)
def test_bad_fields_name_the_entry_and_themselves(tmp_path, extra, sentence) -> None:
    with pytest.raises(InputError, match=rf"boxes\.json', entry 0: {sentence}"):
        BoxFile(detections(tmp_path, (0, [1, 2, 3, 4], 1), **extra))


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        (5, "entry 0 is 5: expected an object"),
        ({"bbox": [1, 2, 3, 4]}, "entry 0 has no usable 'image_id': expected a whole number from 0 to"),
        ({"image_id": 0}, "entry 0 has no usable 'bbox': expected four finite numbers x, y, width, height"),
    ],
    ids=["number", "image_id", "bbox"],
)
def test_entries_that_lack_something(tmp_path, entry, sentence) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps([entry]))
    with pytest.raises(InputError, match=sentence):
        BoxFile(tmp_path / "boxes.json")


@pytest.mark.parametrize("image", [3, 3.0, "3", "0003"], ids=repr)
def test_ids_as_programs_write_them(tmp_path, image) -> None:
    file = BoxFile(detections(tmp_path, (image, [1, 2, 3, 4], 1), track_id="7"))
    assert list(file.by_image) == [3]
    assert file.by_image[3].track_ids is not None
    assert file.by_image[3].track_ids.tolist() == [7]


def test_the_largest_values_stay_finite(tmp_path) -> None:
    file = BoxFile(detections(tmp_path, (2**63 - 1, [-1e6, 1e6, 1e6, 1e6], 1), track_id=2**63 - 1))
    (boxes,) = file.by_image.values()
    assert boxes.boxes.tolist() == [[-1e6, 1e6, 1e6, 1e6]]
    assert boxes.track_ids is not None
    assert boxes.track_ids.tolist() == [2**63 - 1]


def test_a_number_of_thousands_of_digits(tmp_path) -> None:
    (tmp_path / "boxes.json").write_text('[{"image_id": ' + "9" * 5_000 + "}]")
    with pytest.raises(InputError, match="whole number of thousands of digits"):
        BoxFile(tmp_path / "boxes.json")


def test_only_people_are_read(tmp_path) -> None:
    """Category 3 is a car in COCO's lists; an entry without a category is a person."""
    entry = {"image_id": 0, "bbox": [1, 2, 3, 4], "score": 1}
    entries = [{"category_id": c} | entry for c in (3, 1, "1", None, 2, 3)] + [entry, {"iscrowd": 1} | entry]
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    file = BoxFile(tmp_path / "boxes.json")
    assert len(file.by_image[0].boxes) == 4
    assert file.skipped == {"of another category": 3, "marked as a crowd": 1}
    assert file.skipped_phrase == "3 of another category, 1 marked as a crowd"


def test_nothing_but_other_categories(tmp_path) -> None:
    path = detections(tmp_path, (0, [1, 2, 3, 4], 1), (0, [1, 2, 3, 4], 1), category_id=3)
    with pytest.raises(InputError, match=r"has no people: every entry is of another category, .* category_id 3; expec"):
        BoxFile(path)


def annotations(tmp_path: Path, images: dict[str, int], *entries: dict[str, Any]) -> Path:
    path = tmp_path / "annotations.json"
    listed = [{"file_name": name, "id": identifier} for name, identifier in images.items()]
    path.write_text(json.dumps({"images": listed, "annotations": list(entries)}))
    return path


def test_annotations_that_are_nobody_to_estimate(tmp_path) -> None:
    person = {"image_id": 7, "bbox": [1, 2, 3, 4], "category_id": 1, "iscrowd": False}
    path = annotations(
        tmp_path,
        {"000000.jpg": 7},
        person | {"keypoints": [5, 5, 0, 6, 6, 2]},
        person | {"keypoints": [5, 5, 0, 6, 6, 0]},
        person | {"keypoints": []},
        person,
        person | {"iscrowd": True},
        person | {"category_id": 3, "bbox": [1, 2, 0, 0]},
        person | {"bbox": [1, 2, 0, 4]},
        person | {"bbox": None},
    )
    file = BoxFile(path)
    assert len(file.by_image[7].boxes) == 2
    want = {"with no labelled joint": 2, "marked as a crowd": 1, "of another category": 1, "with no box area": 2}
    assert file.skipped == want
    assert BoxFile(detections(tmp_path, (0, [1, 2, 3, 4], 1))).skipped_phrase == ""


def test_detections_keep_keypoints_of_any_label(tmp_path) -> None:
    """A list of poses gives boxes too, whatever its third numbers mean."""
    assert len(BoxFile(detections(tmp_path, (0, [1, 2, 3, 4], 1), keypoints=[5, 5, 0])).by_image[0].boxes) == 1


@pytest.mark.parametrize("keypoints", ["x", [1, 2], [1, 2, "3"], [[1, 2, 3]], [1, 2, None]], ids=str)
def test_keypoints_that_cannot_be_judged(tmp_path, keypoints) -> None:
    path = annotations(tmp_path, {"a.jpg": 0}, {"image_id": 0, "bbox": [1, 2, 3, 4], "keypoints": keypoints})
    with pytest.raises(InputError, match=r"annotation 0: keypoints is .* expected three numbers x, y, label"):
        BoxFile(path)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (5, " is 5: expected an object"),
        ({"id": 1}, " has no usable 'file_name': expected the name of a file"),
        ({"file_name": "a.jpg"}, " has no usable 'id': expected a whole number"),
        ({"file_name": 5, "id": 1}, ": file_name is 5, expected the name of a file"),
        ({"file_name": "a", "id": 1.5}, ": id is 1.5, expected a whole number"),
        ({"file_name": "a", "id": -1}, ": id is -1, expected a whole number"),
    ],
    ids=str,
)
def test_bad_images_are_named(tmp_path, image, sentence) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps({"images": [image], "annotations": []}))
    with pytest.raises(InputError, match=f"image 0{sentence}"):
        BoxFile(tmp_path / "boxes.json")


@pytest.mark.slow
def test_mutated_files_only_raise_named_errors(tmp_path) -> None:
    """Whatever is read can be cropped: finite boxes with an area, scores and ids that fit their arrays."""
    values = (
        "null", "true", "1.5", "-1", "3", "1e999", "-1e999", "NaN", "1e39", "1e-60", "9" * 400, "9" * 5000, '"x"',
        '"7"', "[]", "{}", "[null]", "[1, 2, 3, 1e39]", "[0, 0, 1e-46, 9]", "[[1, 2, 3, 4]]", '["1", 2, 3, 4]',
    )  # fmt: skip
    image = {"file_name": "000001.jpg", "id": 1}
    person = {"image_id": 1, "bbox": [1, 2, 3, 4], "score": 1, "category_id": 1, "track_id": 0, "keypoints": [1, 2, 1]}
    places: list[Any] = ["@", ["@"], {"images": "@", "annotations": []}, {"images": [image], "annotations": "@"}]
    for key in [*person, "iscrowd"]:
        places += [[person | {key: "@"}], {"images": [image], "annotations": [person | {key: "@"}]}]
    places += [{"images": [image | {key: "@"}], "annotations": [person]} for key in image]
    frames = [(n, f"{n:06d}.jpg") for n in range(3)]
    path = tmp_path / "boxes.json"
    for place, value in itertools.product(places, values):
        path.write_text(json.dumps(place).replace('"@"', value))
        with suppress(InputError):
            file = BoxFile(path)
            for boxes in file.by_image.values():
                assert np.isfinite(boxes.boxes).all()
                assert (boxes.boxes[:, 2:] > 0).all()
                assert np.isfinite(boxes.scores).all()
            SourceBoxes(file, "000001_a", frames).of_frame(1, "000001.jpg", SIZE)


people = st.fixed_dictionaries(
    {"image_id": st.integers(0, 4), "bbox": st.tuples(*[st.integers(-60, 250)] * 2, *[st.integers(0, 90)] * 2)},
    optional={"score": st.floats(0, 1), "track_id": st.integers(-1, 3), "category_id": st.sampled_from([1, 1, 1, 2])},
)


@pytest.mark.slow
@given(st.lists(people, max_size=12), st.booleans(), st.booleans())
@settings(max_examples=500)
def test_every_box_is_read_or_counted(tmp_path_factory, entries, annotated, listed) -> None:
    path = tmp_path_factory.getbasetemp() / "every_box.json"
    images = [{"file_name": f"{n}.jpg", "id": n} for n in range(5)]
    path.write_text(json.dumps({"images": images, "annotations": entries} if annotated else entries))
    try:
        file = BoxFile(path)
    except InputError:  # no box of a person, or none with an area
        assume(False)
    boxes = SourceBoxes(file, "video", [(n, f"{n}.jpg") for n in range(5)] if listed else None)
    found = [boxes.of_frame(n, f"{n}.jpg" if listed else None, SIZE) for n in range(5)]
    for each in found:
        x, y, width, height = each.boxes.T
        assert ((x < 200) & (y < 100) & (x + width > 0) & (y + height > 0)).all()
    low = sum(entry.get("score", 1) < 0.2 and entry.get("category_id", 1) == 1 for entry in entries)
    low -= file.skipped["with a score below 0.2"]
    counted = boxes.notes.left_out.total() + file.skipped.total() + low
    assert sum(len(each.boxes) for each in found) + counted == len(entries)
    with_ids = [each.track_ids for each in found if len(each.boxes)]
    assert all(ids is None for ids in with_ids) or all(
        ids is not None and len(set(ids.tolist())) == len(ids) and (ids >= 0).all() for ids in with_ids
    )


@pytest.mark.parametrize("text", ["", "{", '"x"', "{}", '{"images": []}', '{"images": [{}], "annotations": []}'])
def test_other_files_are_refused(tmp_path, text) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(text)
    with pytest.raises(InputError, match="boxes file"):
        BoxFile(path)


def test_missing_file() -> None:
    with pytest.raises(InputError, match="does not exist"):
        BoxFile(Path("nowhere.json"))


def test_frames_that_do_not_exist(tmp_path) -> None:
    file = BoxFile(detections(tmp_path, (0, [1, 2, 3, 4], 1), (99, [1, 2, 3, 4], 1)))
    boxes = SourceBoxes(file, "video")
    with pytest.raises(
        InputError, match=r"1 frame of 'video' that do not exist, the first 99: the video has frames 0 to 9$"
    ):
        boxes.check_all_seen(10)
    boxes.check_all_seen(100)
    with pytest.raises(InputError, match="the first 99: this input has no such frame"):
        SourceBoxes(file, "folder", [(n, f"{n}.jpg") for n in range(10)])


def test_frames_counted_from_one(tmp_path) -> None:
    boxes = SourceBoxes(BoxFile(detections(tmp_path, *((n, [1, 2, 3, 4], 1) for n in range(1, 11)))), "video")
    with pytest.raises(InputError, match=r"frame numbers begin with 0, those of this file probably with 1$"):
        boxes.check_all_seen(10)


def test_boxes_of_another_input(tmp_path) -> None:
    file = BoxFile(detections(tmp_path, (10128340003, [1, 2, 3, 4], 1)))
    with pytest.raises(InputError, match="has no boxes for 'video'"):
        SourceBoxes(file, "video")


def test_a_sequence_without_anybody_in_a_file_for_a_whole_split(tmp_path) -> None:
    """Not an error: the file's ids are all PoseTrack's, only of other sequences."""
    path = detections(tmp_path, (10128340000, [1, 2, 3, 4], 1), (10094730005, [1, 2, 3, 4], 0.1))
    frames = [(n, f"{n:06d}.jpg") for n in range(3)]
    boxes = SourceBoxes(BoxFile(path), "000001_mpiinew_test", frames)
    assert [len(boxes.of_frame(n, name, SIZE).boxes) for n, name in frames] == [0, 0, 0]
    assert boxes.image_id(2, "000002.jpg") == 10000010002
    assert len(SourceBoxes(BoxFile(path), "000001_mpiinew_test").of_frame(0, None, SIZE).boxes) == 0
    # Detections too weak to keep still say whose ids these are.
    assert SourceBoxes(BoxFile(path), "009473_mpii_test", frames).image_id(0, None) == 10094730000


@pytest.mark.parametrize("first", [10128340000, 0], ids=["posetrack", "renumbered"])
def test_annotations_of_other_sequences(tmp_path, first) -> None:
    """Ids 0, 1, … of another sequence's images must not be taken for frame numbers of this one."""
    images = {f"images/val/012834_mpii_test/{n:06d}.jpg": first + n for n in range(3)}
    path = annotations(tmp_path, images, {"image_id": first + 1, "bbox": [1, 2, 3, 4]})
    frames = [(n, f"{n:06d}.jpg") for n in range(3)]
    boxes = SourceBoxes(BoxFile(path), "000001_mpiinew_test", frames)
    assert [len(boxes.of_frame(n, name, SIZE).boxes) for n, name in frames] == [0, 0, 0]
    assert len(SourceBoxes(BoxFile(path), "012834_mpii_test", frames).of_frame(1, "000001.jpg", SIZE).boxes) == 1


@pytest.mark.parametrize(
    ("name", "image"),
    [("000001_mpiinew_test", 77), ("street", 10128340000), ("000001_mpiinew_test", 101283400000)],
    ids=["frame-numbers", "not-a-sequence", "12-digits"],
)
def test_boxes_that_are_nobodys_stay_an_error(tmp_path, name, image) -> None:
    path = detections(tmp_path, (image, [1, 2, 3, 4], 1))
    with pytest.raises(InputError, match=f"has no boxes for '{name}'"):
        SourceBoxes(BoxFile(path), name, [(0, "000000.jpg")])


def test_the_id_of_a_frame_is_the_files(tmp_path) -> None:
    images = {"val/a/000001.jpg": 0, "val/a/000002.jpg": 5, "val/b/000000.jpg": 2}
    path = annotations(tmp_path, images, {"image_id": 5, "bbox": [1, 2, 3, 4]}, {"image_id": 2, "bbox": [1, 2, 3, 4]})
    frames = [(n, f"{n:06d}.jpg") for n in range(4)]
    boxes = SourceBoxes(BoxFile(path), "a", frames)
    ids = [boxes.image_id(n, name) for n, name in frames]
    # 0 is frame 1's and 2 is another folder's: frame 0 gets an id that the file does not have, frame 3 its number.
    assert ids == [6, 0, 5, 3]
    assert boxes.image_id(2, None) == 8  # a missing file
    assert [len(boxes.of_frame(n, name, SIZE).boxes) for n, name in frames] == [0, 0, 1, 0]


@pytest.mark.parametrize(("name", "want"), [("video", 3), ("012834_mpii_test", 10128340003)])
def test_the_id_of_a_frame_in_a_file_without_boxes(tmp_path, name, want) -> None:
    (tmp_path / "boxes.json").write_text("[]")
    assert SourceBoxes(BoxFile(tmp_path / "boxes.json"), name).image_id(3, None) == want


OUTSIDE = [[200, 0, 5, 5], [0, 100, 5, 5], [-9, 0, 9, 5], [0, -9, 5, 9]]


@pytest.mark.parametrize("box", OUTSIDE, ids=str)
def test_boxes_outside_the_image_are_left_out(tmp_path, box) -> None:
    path = detections(tmp_path, (0, [1, 2, 30, 40], 0.9), (0, box, 0.8), (1, box, 0.8), (1, [5, 5, 9, 9], 1))
    file = BoxFile(path)
    boxes = SourceBoxes(file, "video")
    assert boxes.of_frame(0, None, SIZE).boxes.tolist() == [[1, 2, 30, 40]]
    assert boxes.of_frame(1, None, SIZE).scores.tolist() == [1]
    boxes.check_any_usable()
    assert file.inputs["video"].sentences == [
        f"boxes left out: 2 outside the image, the first {list(map(float, box))} of frame 0, which has 200x100 pixels"
    ]


def test_nothing_but_boxes_outside(tmp_path) -> None:
    boxes = SourceBoxes(BoxFile(detections(tmp_path, *((n, box, 1) for n, box in enumerate(OUTSIDE)))), "video")
    assert [len(boxes.of_frame(n, None, SIZE).boxes) for n in range(4)] == [0] * 4
    with pytest.raises(
        InputError,
        match=r"no usable box for 'video': all 4 lie outside the image, the first \[200.0, 0.0, 5.0, 5.0\] of frame 0",
    ):
        boxes.check_any_usable()


def test_a_part_of_the_boxes_proves_nothing(tmp_path) -> None:
    """A run that is resumed sees the last frames only."""
    boxes = SourceBoxes(BoxFile(detections(tmp_path, (0, [1, 2, 3, 4], 1), (1, OUTSIDE[0], 1))), "video")
    boxes.of_frame(1, None, SIZE)
    boxes.check_any_usable()


def test_boxes_without_an_area_are_left_out(tmp_path) -> None:
    file = BoxFile(detections(tmp_path, (0, [1, 2, 3, 4], 1), (0, [1, 2, 0, 4], 1), (1, [1, 2, 3, -4], 1)))
    assert file.skipped_phrase == "2 with no box area"
    assert len(file.by_image[0].boxes) == 1


@pytest.mark.parametrize("box", [[1, 2, 0, 4], [1, 2, math.nan, 4], None, "box"], ids=str)
def test_what_is_dropped_anyway_is_not_checked(tmp_path, box) -> None:
    file = BoxFile(detections(tmp_path, (0, [1, 2, 3, 4], 1), (0, box, 0.01)))
    assert len(file.by_image[0].boxes) == 1
    assert file.skipped_phrase == ""


def test_nothing_but_low_scores_is_told(tmp_path) -> None:
    assert BoxFile(detections(tmp_path, (0, [1, 2, 3, 4], 0.1))).skipped_phrase == "1 with a score below 0.2"


@pytest.mark.parametrize("box", [[150, 50, 190, 90], [-19000, -10000, 38000, 20000]], ids=["corners", "huge"])
def test_boxes_mostly_outside_are_told(tmp_path, box) -> None:
    file = BoxFile(detections(tmp_path, (0, box, 1), (1, box, 1), (2, [1, 2, 30, 40], 1)))
    boxes = SourceBoxes(file, "video")
    assert [len(boxes.of_frame(n, None, SIZE).boxes) for n in range(3)] == [1, 1, 1]
    (note,) = boxes.notes.sentences
    assert note.startswith("2 of 3 boxes are more than half outside the image: are they x, y, width, height")


def test_boxes_partly_outside_are_fine(tmp_path) -> None:
    boxes = SourceBoxes(BoxFile(detections(tmp_path, (0, [-5, -5, 20, 140], 1))), "video")
    assert len(boxes.of_frame(0, None, SIZE).boxes) == 1
    assert boxes.notes.sentences == []


# Track ids of two frames, and why they are not used.
IDS = {
    "one-missing": ([5, 3], [5, None], "image_id 1 has a box without one"),
    "frame-missing": ([5, 3], [None, None], "image_id 1 has a box without one"),
    "minus-one": ([-1, 3], [5, 3], "image_id 0 has a box without one"),
    "twice": ([5, 3], [3, 3], "image_id 1 has two boxes with the track id 3"),
}


def tracked(tmp_path: Path, *frames: list[int | None]) -> Path:
    entries = [
        {"image_id": image, "bbox": [50 * n, 2, 30, 40], "track_id": track}
        for image, ids in enumerate(frames)
        for n, track in enumerate(ids)
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    return tmp_path / "boxes.json"


@pytest.mark.parametrize("case", IDS)
def test_track_ids_are_used_for_a_whole_input_or_not_at_all(tmp_path, case) -> None:
    first, second, reason = IDS[case]
    boxes = SourceBoxes(BoxFile(tracked(tmp_path, first, second, [8, 9])), "video")
    assert [boxes.of_frame(n, None, SIZE).track_ids for n in range(3)] == [None] * 3
    assert boxes.notes.sentences == [f"track ids of the boxes are not used, because {reason}"]


@pytest.mark.parametrize("ids", [[None, None], [-1, -1]], ids=str)
def test_a_file_without_track_ids_needs_no_note(tmp_path, ids) -> None:
    boxes = SourceBoxes(BoxFile(tracked(tmp_path, ids, ids)), "video")
    assert boxes.of_frame(0, None, SIZE).track_ids is None
    assert boxes.notes.sentences == []


def test_track_ids_stay_with_their_boxes(tmp_path) -> None:
    boxes = SourceBoxes(BoxFile(tracked(tmp_path, [7, 8, 9], [], [9])), "video")
    found = boxes.of_frame(0, None, (100, 90))  # the third box begins at 100
    assert found.track_ids is not None
    assert (found.boxes[:, 0].tolist(), found.track_ids.tolist()) == ([0, 50], [7, 8])


def test_ids_of_another_sequence_do_not_matter(tmp_path) -> None:
    entries = [{"image_id": 10128340000, "bbox": [1, 2, 3, 4], "track_id": 7}]
    entries += [{"image_id": 10094730000, "bbox": [1, 2, 3, 4]}]
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    file = BoxFile(tmp_path / "boxes.json")
    frames = [(0, "000000.jpg")]
    found = SourceBoxes(file, "012834_mpii_test", frames).of_frame(*frames[0], SIZE)
    assert found.track_ids is not None
    assert found.track_ids.tolist() == [7]
    assert SourceBoxes(file, "009473_mpii_test", frames).of_frame(*frames[0], SIZE).track_ids is None
    assert [file.inputs[name].sentences for name in ("012834_mpii_test", "009473_mpii_test")] == [[], []]


def test_real_posetrack_files(real_data) -> None:
    annotations = real_data / "posetrack18" / "annotations"
    detected = BoxFile(annotations / "test_posetrack18_human_detections.json")
    frames = [(0, "000000.jpg")]
    for name in ("003418_mpii_test", "009473_mpii_test", "012834_mpii_test"):
        truth = BoxFile(annotations / "val" / f"{name}.json")
        assert len(SourceBoxes(detected, name, frames).of_frame(0, "000000.jpg", (1080, 1920)).boxes) > 1
        assert len(SourceBoxes(truth, name, frames).of_frame(0, "000000.jpg", (1080, 1920)).boxes) >= 1
    total = BoxFile(annotations / "test_posetrack18_val.json")
    assert sum(len(boxes.boxes) for boxes in total.by_image.values()) + total.skipped.total() == 14
    assert sum(len(boxes.boxes) for boxes in detected.by_image.values()) == 186  # of 278, at score 0.2 and above


def test_people_of_images_that_the_file_does_not_list(tmp_path) -> None:
    """Such an id could be the number of a frame, and its track ids those of other people."""
    images = [{"id": 0, "file_name": "clip/000000.jpg"}, {"id": 5, "file_name": "clip/000001.jpg"}]
    box = {"bbox": [1, 2, 30, 40], "category_id": 1}
    people = [
        {"image_id": 0, "track_id": 0} | box,
        {"image_id": 1, "track_id": 0} | box,
        {"image_id": 1, "track_id": 0} | box,
    ]
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps({"images": images, "annotations": people}))
    file = BoxFile(path)
    assert (sorted(file.by_image), file.ids) == ([0], {0, 5})
    assert file.skipped_phrase == "2 of images that the file does not list"
