from __future__ import annotations

import json

import numpy as np
import pytest

from sdtc.boxes import BoxFile, SourceBoxes
from sdtc.errors import InputError

SIZE = (100, 200)


def detections(tmp_path, *entries, **extra):
    path = tmp_path / "boxes.json"
    path.write_text(
        json.dumps([{"image_id": i, "category_id": 1, "bbox": b, "score": s} | extra for i, b, s in entries])
    )
    return path


def test_low_scores_are_dropped(tmp_path) -> None:
    file = BoxFile(detections(tmp_path, (0, [1, 2, 30, 40], 0.9), (0, [5, 5, 9, 9], 0.1), (2, [1, 1, 5, 5], 0.2)))
    boxes = SourceBoxes(file, "video", num_frames=3)
    np.testing.assert_array_equal(boxes.of_frame(0, None, SIZE).boxes, [[1, 2, 30, 40]])
    assert len(boxes.of_frame(1, None, SIZE).boxes) == 0
    assert len(boxes.of_frame(2, None, SIZE).boxes) == 1


def test_posetrack_ids_follow_the_name_of_the_sequence(tmp_path) -> None:
    path = detections(tmp_path, (10128340003, [1, 2, 3, 4], 1), (10094730000, [1, 2, 3, 4], 1))
    boxes = SourceBoxes(BoxFile(path), "012834_mpii_test", frames=[(n, f"{n:06d}.jpg") for n in range(5)])
    assert [len(boxes.of_frame(n, None, SIZE).boxes) for n in range(5)] == [0, 0, 0, 1, 0]


def test_a_name_that_only_looks_like_a_sequence_uses_frame_numbers(tmp_path) -> None:
    path = detections(tmp_path, (2, [1, 2, 3, 4], 1))
    assert len(SourceBoxes(BoxFile(path), "123456_holiday", num_frames=4).of_frame(2, None, SIZE).boxes) == 1


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
    assert file.skipped == 2
    found = SourceBoxes(file, "000001_a", frames=[(0, "000000.jpg")]).of_frame(0, "000000.jpg", SIZE)
    assert found.track_ids is not None
    assert found.track_ids.tolist() == [5, 3]


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([(0, [1, 2, 0, 4], 1)], "has no area"),
        ([(0, [1, 2, 5, -4], 1)], "has no area"),
        ([(0, [1, 2, float("nan"), 4], 1)], "four finite numbers"),
        ([(0, [1, 2, 3], 1)], "four finite numbers"),
        ([(0, "box", 1)], "no usable"),
        ([("x", [1, 2, 3, 4], 1)], "no usable"),
    ],
)
def test_bad_boxes_name_the_entry(tmp_path, entries, sentence) -> None:
    with pytest.raises(InputError, match=f"entry 0.*{sentence}"):
        BoxFile(detections(tmp_path, *entries))


@pytest.mark.parametrize("text", ["", "{", '"x"', "{}", '{"images": []}', '{"images": [{}], "annotations": []}'])
def test_other_files_are_refused(tmp_path, text) -> None:
    path = tmp_path / "boxes.json"
    path.write_text(text)
    with pytest.raises(InputError, match="boxes file"):
        BoxFile(path)


def test_missing_file() -> None:
    from pathlib import Path

    with pytest.raises(InputError, match="does not exist"):
        BoxFile(Path("nowhere.json"))


def test_frames_that_do_not_exist(tmp_path) -> None:
    file = BoxFile(detections(tmp_path, (0, [1, 2, 3, 4], 1), (99, [1, 2, 3, 4], 1)))
    with pytest.raises(
        InputError, match=r"1 frame of 'video' that do not exist, the first 99: the video has frames 0 to 9"
    ):
        SourceBoxes(file, "video", num_frames=10)
    unknown_length = SourceBoxes(file, "video")
    with pytest.raises(InputError, match="first 99"):
        unknown_length.check_all_seen(10)


def test_boxes_of_another_input(tmp_path) -> None:
    file = BoxFile(detections(tmp_path, (10128340003, [1, 2, 3, 4], 1)))
    with pytest.raises(InputError, match="has no boxes for 'video'"):
        SourceBoxes(file, "video", num_frames=10)


@pytest.mark.parametrize("box", [[200, 0, 5, 5], [0, 100, 5, 5], [-9, 0, 9, 5], [0, -9, 5, 9]])
def test_boxes_outside_the_image(tmp_path, box) -> None:
    boxes = SourceBoxes(BoxFile(detections(tmp_path, (0, box, 1))), "video", num_frames=1)
    with pytest.raises(InputError, match="outside the 200x100 image"):
        boxes.of_frame(0, None, SIZE)


def test_boxes_partly_outside_are_fine(tmp_path) -> None:
    boxes = SourceBoxes(BoxFile(detections(tmp_path, (0, [-5, -5, 20, 500], 1))), "video", num_frames=1)
    assert len(boxes.of_frame(0, None, SIZE).boxes) == 1


def test_real_posetrack_files(real_data) -> None:
    annotations = real_data / "posetrack18" / "annotations"
    detected = BoxFile(annotations / "test_posetrack18_human_detections.json")
    frames = [(0, "000000.jpg")]
    for name in ("003418_mpii_test", "009473_mpii_test", "012834_mpii_test"):
        truth = BoxFile(annotations / "val" / f"{name}.json")
        assert len(SourceBoxes(detected, name, frames).of_frame(0, "000000.jpg", (1080, 1920)).boxes) > 1
        assert len(SourceBoxes(truth, name, frames).of_frame(0, "000000.jpg", (1080, 1920)).boxes) >= 1
    total = BoxFile(annotations / "test_posetrack18_val.json")
    assert sum(len(boxes.boxes) for boxes in total.by_image.values()) + total.skipped == 14
    assert sum(len(boxes.boxes) for boxes in detected.by_image.values()) == 186  # of 278, at score 0.2 and above
