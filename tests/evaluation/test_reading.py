"""Ground truth and predictions from files: what is read, how frames are found, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdtc.core.errors import InputError
from sdtc.core.posetrack import POSETRACK_CATEGORY, image_id
from sdtc.core.skeleton import POSETRACK, POSETRACK_SLOTS
from sdtc.evaluation.ap import JOINTS, evaluate
from sdtc.evaluation.reading import MISSING_SCORE, find_json, read_predictions, read_truth

NAMES = [f"images/val/000001_a/{number:06d}.jpg" for number in range(3)]
IDS = [image_id("000001", number) for number in range(3)]


def pose(seed: int = 0) -> list[float]:
    """51 numbers: 15 joints inside a 300-pixel image, the ears zero."""
    points = np.concatenate([np.random.default_rng(seed).uniform(1, 300, (17, 2)).round(2), np.ones((17, 1))], axis=1)
    points[3:5] = 0
    return points.ravel().tolist()


def image(number: int, **more) -> dict:
    return {"id": IDS[number], "file_name": NAMES[number], "is_labeled": True} | more


def person(number: int, seed: int = 0, **more) -> dict:
    return {
        "image_id": IDS[number], "track_id": seed, "bbox": [0, 0, 300, 300], "bbox_head": [10, 10, 30, 40],
        "keypoints": pose(seed), "scores": [],
    } | more  # fmt: skip


def guess(number: int, seed: int = 0, **more) -> dict:
    return {"image_id": IDS[number], "track_id": seed, "keypoints": pose(seed), "scores": [0.5] * 17} | more


def document(images: list, annotations: list, categories=(POSETRACK_CATEGORY,)) -> dict:
    return {"images": images, "annotations": annotations, "categories": list(categories)}


TRUTH = document([image(0), image(1), image(2)], [person(0, 1), person(0, 2), person(1, 3)])


@pytest.fixture
def write(tmp_path):
    def write(name: str, data) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data if isinstance(data, str) else json.dumps(data))
        return path

    return write


@pytest.fixture
def truth(write):
    return read_truth([write("truth.json", TRUTH)])


def total(truth, predictions) -> float:
    return evaluate(truth.people, predictions.people).scores.total


class TestTruth:
    def test_arrays(self, truth) -> None:
        people = truth.people
        assert (people.num_frames, people.frames.tolist()) == (3, [0, 0, 1])
        assert [image.annotated for image in truth.images] == [True, True, False]
        slots = np.array(pose(2)).reshape(17, 3)
        np.testing.assert_array_equal(people.keypoints[1], slots[[0, 1, 2, *range(5, 17)], :2])
        assert people.labelled.all()
        np.testing.assert_allclose(people.head_sizes, 30)
        assert people.labels == ()

    def test_the_real_one_in_either_layout(self, real_data) -> None:
        annotations = real_data / "posetrack18" / "annotations"
        one = read_truth([annotations / "test_posetrack18_val.json"])
        for paths in ([annotations / "val"], [real_data / "posetrack18"], sorted((annotations / "val").iterdir())):
            many = read_truth(paths)
            assert {image.file_name for image in one.images} == {image.file_name for image in many.images}
            assert len(many.people.frames) == len(one.people.frames) == 14
            assert sum(map(len, many.people.ignore_regions.values())) > 10
            assert many.people.labelled.sum() == one.people.labelled.sum()

    def test_joints_are_absent_only_if_all_three_numbers_are_zero(self, write) -> None:
        points = pose()
        points[0:3], points[3:6], points[6:9] = [0, 0, 0], [50, 60, 0], [0, 0, 1]
        truth = read_truth([write("t.json", document([image(0)], [person(0, keypoints=points)]))])
        assert truth.people.labelled[0, :4].tolist() == [False, True, True, True]

    @pytest.mark.parametrize("flag", [True, False, None])
    def test_boxes_without_poses_count_where_the_frame_is_labelled(self, write, flag) -> None:
        """PoseTrack21 annotates boxes without poses in frames that it says are not labelled."""
        empty = {"image_id": IDS[0], "bbox": [0, 0, 9, 9], "bbox_head": [], "keypoints": [0] * 51}
        first = image(0, is_labeled=flag) if flag is not None else {"id": IDS[0], "file_name": NAMES[0]}
        truth = read_truth([write("t.json", document([first, image(1)], [empty, person(1)]))])
        assert truth.people.frames.tolist() == ([1] if flag is False else [0, 1])
        assert truth.images[0].annotated == (flag is not False)

    @pytest.mark.parametrize("head_box", [None, [], [3, 4, 0, 0]], ids=str)
    def test_head_sizes_are_estimated_where_there_is_no_box_and_that_is_said(self, write, head_box) -> None:
        truth = read_truth([write("t.json", document([image(0)], [person(0), person(0, bbox_head=head_box)]))])
        joints = truth.people.keypoints[1]
        neck = np.hypot(*(joints[JOINTS.index("head_top")] - joints[JOINTS.index("head_bottom")]))
        np.testing.assert_allclose(truth.people.head_sizes, [30, neck * 6 / 7])
        (note,) = truth.notes
        assert note.startswith("1 of 2 people have no head box ('bbox_head'): the size of their heads")
        assert read_truth([write("t.json", document([image(0)], [person(0)]))]).notes == ()

    def test_labelled_joints_count_whatever_the_frame_says(self, write) -> None:
        truth = read_truth([write("t.json", document([image(0, is_labeled=False)], [person(0)]))])
        assert truth.images[0].annotated

    def test_joints_by_name(self, write) -> None:
        """A file with its own order of the 15 joints, without ears."""
        names = list(POSETRACK.keypoints)[::-1]
        points = np.array(pose()).reshape(17, 3)[[POSETRACK_SLOTS.index(name) for name in names]]
        data = document([image(0)], [person(0, keypoints=points.ravel().tolist())], [{"keypoints": names}])
        other = read_truth([write("t.json", data)])
        same = read_truth([write("s.json", document([image(0)], [person(0)], [{"name": "person"}]))])
        np.testing.assert_array_equal(other.people.keypoints, same.people.keypoints)

    def test_ignore_regions(self, write) -> None:
        regions = {"ignore_regions_x": [[1, 2, 3], [4, 5, 6, 7]], "ignore_regions_y": [[1, 5, 1], [2, 2, 9, 9]]}
        flat = {"ignore_regions_x": [1, 2, 3], "ignore_regions_y": [1, 5, 1]}  # one region, in no list of its own
        data = document([image(0), image(1, **regions), image(2, **flat)], [person(0)])
        found = read_truth([write("t.json", data)]).people.ignore_regions
        assert {frame: [polygon.tolist() for polygon in polygons] for frame, polygons in found.items()} == {
            1: [[[1, 1], [2, 5], [3, 1]], [[4, 2], [5, 2], [6, 9], [7, 9]]],
            2: [[[1, 1], [2, 5], [3, 1]]],
        }

    def test_difficulty_of_people_or_else_of_their_image(self, write) -> None:
        """Somebody is occluded, so the picture is; whoever stands beside is not."""
        data = document(
            [image(0, difficulty=["dark"]), image(1)],
            [
                person(0, difficulty=["blur"]),
                person(0, 1, difficulty=[]),
                person(0, 2),
                person(1, 3, difficulty=["blur", "crossing"]),
            ],
        )
        labels = read_truth([write("t.json", data)]).people.labels
        assert labels == ({"blur"}, set(), {"dark"}, {"blur", "crossing"})

    def test_difficulty_follows_people_where_others_are_dropped(self, write) -> None:
        empty = person(0, keypoints=[0] * 51, difficulty=["gone"])
        data = document([image(0, is_labeled=False), image(1)], [empty, person(1, difficulty=["blur"])])
        assert read_truth([write("t.json", data)]).people.labels == ({"blur"},)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (json.dumps(TRUTH)[:900], "is not valid JSON: .* at line 1"),
            ([], r"is \[\]: expected a list under 'images'"),
            ({"annotations": []}, "has the keys annotations: expected a list under 'images'"),
            ({"images": []}, "expected a list under 'annotations'"),
            ({"annolist": []}, "old PoseTrack17 format"),
            (document([5], []), "image 0 is 5: expected an object"),
            (document([{"file_name": "a.jpg"}], []), "image 0 has no usable 'id'"),
            (document([{"id": "x", "file_name": "a.jpg"}], []), "image 0: id is 'x', expected a whole number"),
            (document([{"id": 1}], []), "image 0 has no usable 'file_name'"),
            (document([image(0), image(0)], []), f"two images with the id {IDS[0]}"),
            (document([image(0)], [person(1)]), f"annotation 0: image_id is {IDS[1]}, expected the id of one of"),
            (document([image(0)], [{"keypoints": pose()}]), "annotation 0 has no usable 'image_id'"),
            (document([image(0)], [{"image_id": IDS[0]}]), "annotation 0 has no usable 'keypoints': expected 51"),
            (
                document([image(0)], [person(0), person(0, keypoints=pose()[:45])]),
                r"annotation 1: keypoints is .* \(45 values\), expected 51 finite numbers: .* 17 joints",
            ),
            (
                document([image(0)], [person(0)], [{"keypoints": list(POSETRACK.keypoints)}]),
                r"keypoints is .* \(51 values\), expected 45 finite numbers: .* 15 joints",
            ),
            (
                document([image(0)], [person(0)], [{"keypoints": ["nose", "left_eye"]}]),
                "names 2 joints, but not head_bottom, head_top",
            ),
            (
                document([image(0)], [person(0), person(0, keypoints=[float("nan"), *pose()[1:]])]),
                r"annotation 1: keypoints is \[nan, .* 51 finite",
            ),
            (document([image(0)], [person(0, keypoints=[None, *pose()[1:]])]), r"annotation 0: keypoints is \[null, "),
            (document([image(0)], [person(0, keypoints=["a", *pose()[1:]])]), r"annotation 0: keypoints is \['a', "),
            (document([image(0)], [person(0, keypoints=[10**400, *pose()[1:]])]), r"annotation 0: keypoints is \[1000"),
            (
                document([image(0)], [person(0, bbox_head=None, bbox=[], keypoints=[5, 5, 1] + [0] * 48)]),
                "bbox_head is null, expected four .* or a bbox with an area, since distances are measured in head",
            ),
            (document([image(0)], [person(0, bbox_head=[1, 2, 3])]), r"bbox_head is \[1, 2, 3\], expected four"),
            (document([image(0)], [person(0, bbox_head=[1, 2, 3, float("inf")])]), "expected four finite"),
            (document([image(0, ignore_regions_x=[[1, 2]])], []), "image 0: ignore_regions_x"),
            (document([image(0, ignore_regions_x=[[1, 2]], ignore_regions_y=[[1]])], []), "image 0: ignore_regions_x"),
            (document([image(0, ignore_regions_x=5)], []), "image 0: ignore_regions_x"),
            (document([image(0)], [person(0, difficulty="blur")]), "difficulty is 'blur', expected a list"),
        ],
    )  # fmt: skip
    def test_refusals_are_one_sentence_that_names_the_file(self, write, data, message) -> None:
        path = write("bad.json", data)
        with pytest.raises(InputError, match=message) as caught:
            read_truth([path])
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_the_same_image_in_two_files(self, write) -> None:
        with pytest.raises(InputError, match=r"000000.jpg' \(10000010000\) is in 2 of the ground truth's files"):
            read_truth([write("a.json", TRUTH), write("b.json", TRUTH)])


class TestNobody:
    """Entries of another category and crowds are no people, to boxes, training and evaluation alike."""

    @pytest.mark.parametrize("change", [{"category_id": 2}, {"iscrowd": 1}], ids=str)
    def test_the_truth_is_that_of_the_people(self, write, change) -> None:
        """Those who are none may have any keypoints, or none at all."""
        people = [person(0, 1), person(1, 3)]
        others = [person(0, 2, bbox=None) | change, person(2, 4, keypoints=[1.0] * 6, bbox=[]) | change]
        found = read_truth([write("t.json", document([image(0), image(1), image(2)], people + others))])
        want = read_truth([write("s.json", document([image(0), image(1), image(2)], people))])
        assert found.people.frames.tolist() == [0, 1]
        np.testing.assert_array_equal(found.people.keypoints, want.people.keypoints)
        assert [image.annotated for image in found.images] == [True, True, False]
        assert found.people.ignore_regions == {}
        reason = "of another category" if "category_id" in change else "marked as a crowd"
        assert found.notes == (f"annotations left out: 2 {reason}",)

    def test_the_box_of_a_crowd_is_an_ignore_region(self, write) -> None:
        """Who is found in it is no false positive; who is found beside it is one."""
        region = {"ignore_regions_x": [[900, 990, 990]], "ignore_regions_y": [[900, 900, 990]]}
        crowd = person(0, 2, iscrowd=1, bbox=[1000, 1000, 400, 400])
        truth = read_truth([write("t.json", document([image(0, **region)], [person(0, 1), crowd]))])
        assert [polygon.tolist() for polygon in truth.people.ignore_regions[0]] == [
            [[1000, 1000], [1400, 1000], [1400, 1400], [1000, 1400]],
            [[900, 900], [990, 900], [990, 990]],
        ]
        (note,) = truth.notes
        assert note == (
            "annotations left out: 1 marked as a crowd; joints in the boxes of 1 crowd count on neither side"
        )
        for shift, ap in ((1050, 100), (2000, 50)):
            points = np.add(np.array(pose(2)).reshape(17, 3), [shift, shift, 0])
            points[3:5] = 0
            poses = [guess(0, 1), guess(0, 2, keypoints=points.ravel().tolist(), scores=[0.9] * 17)]
            found = read_predictions([write("p.json", document([image(0)], poses))], truth)
            assert total(truth, found) == pytest.approx(ap)

    @pytest.mark.parametrize("as_list", [False, True])
    def test_predictions_are_those_of_people(self, write, truth, as_list) -> None:
        poses = [guess(0, 1), guess(0, 2, category_id=2, keypoints=[0.0] * 6, scores=[1]), guess(1, 3, iscrowd=1)]
        for entry in poses:
            entry["score"] = 0.5
        found = read_predictions([write("p.json", poses if as_list else document([image(0), image(1)], poses))], truth)
        assert found.people.frames.tolist() == [0]
        assert found.notes == ("predictions left out: 1 of another category, 1 marked as a crowd",)

    def test_those_in_other_images_are_no_extra_images(self, write, truth) -> None:
        found = read_predictions([write("p.json", [guess(0), guess(0, image_id=5, category_id=2)])], truth)
        assert len(found.people.frames) == 1

    def test_without_any_people_category_id_is_named(self, write, truth) -> None:
        data = document([image(0)], [person(0, category_id=2), person(0, 1, iscrowd=1)])
        rule = "1 of another category, 1 marked as a crowd; a person has category_id 1, or none, and no iscrowd"
        with pytest.raises(InputError, match=f"^the ground truth has no people: {rule}$"):
            read_truth([write("t.json", data)])
        with pytest.raises(InputError, match=f"^the predictions have no people: {rule}$"):
            read_predictions([write("p.json", data)], truth)


class TestFindJson:
    def test_folders_and_roots(self, write, tmp_path) -> None:
        files = [write(f"root/annotations/val/{name}.json", {}) for name in ("b", "a")]
        write("root/annotations/train/c.json", {})
        write("root/annotations/val/.a.json.part.json", {})
        assert find_json([tmp_path / "root"], "x") == find_json([tmp_path / "root/annotations/val"], "x") == files[::-1]
        top = write("root/top.json", {})
        assert find_json([tmp_path / "root", files[0]], "x") == [top, files[0]]

    def test_posetrack21(self, write, tmp_path) -> None:
        path = write("posetrack_data/val/a.json", {})
        assert find_json([tmp_path], "x") == [path]

    def test_nothing(self, tmp_path) -> None:
        with pytest.raises(InputError, match=r"ground truth '.*nowhere' does not exist"):
            find_json([tmp_path / "nowhere"], "ground truth")
        with pytest.raises(InputError, match="has no JSON files"):
            find_json([tmp_path], "ground truth")


class TestPredictions:
    def read(self, write, truth, data, **options):
        return read_predictions([write("poses.json", data)], truth, **options)

    def test_posetrack(self, write, truth) -> None:
        scores = list(np.linspace(0.1, 0.9, 17))
        found = self.read(write, truth, document([image(0), image(1)], [guess(1, 3, scores=scores), guess(0, 1)]))
        assert found.people.frames.tolist() == [1, 0]
        np.testing.assert_array_equal(found.people.scores[0], np.array(scores)[[0, 1, 2, *range(5, 17)]])
        assert found.notes == ()
        np.testing.assert_allclose(total(truth, found), 100 * 2 / 3)

    def test_coco_list(self, write, truth) -> None:
        """Third numbers are scores where they are not all flags, else the pose's score is everybody's."""
        points = np.array(pose(1)).reshape(17, 3)
        points[:, 2] = np.linspace(0.1, 0.9, 17)
        entry = {"image_id": IDS[0], "category_id": 1, "keypoints": points.ravel().tolist(), "score": 0.7}
        found = self.read(write, truth, [entry])
        np.testing.assert_allclose(found.people.scores[0], points[[0, 1, 2, *range(5, 17)], 2])
        found = self.read(write, truth, [{**entry, "keypoints": pose(1)}])
        np.testing.assert_array_equal(found.people.scores, np.full((1, 15), 0.7))
        np.testing.assert_allclose(total(truth, found), 100 / 3)

    def test_an_empty_list_finds_nobody(self, write, truth) -> None:
        assert total(truth, self.read(write, truth, [])) == 0

    def test_scores_of_poses_and_missing_scores(self, write, truth) -> None:
        one, two = guess(0, 1, scores=[], score=0.3), guess(0, 2)
        del two["scores"]
        found = self.read(write, truth, document([image(0)], [one, two]))
        np.testing.assert_array_equal(found.people.scores, [[0.3] * 15, [MISSING_SCORE] * 15])
        assert len(found.notes) == 1
        assert "1 pose without any score" in found.notes[0]

    def test_several_files_and_folders(self, write, truth, tmp_path) -> None:
        one = write("p/one.json", document([image(0)], [guess(0, 1), guess(0, 2)]))
        two = write("p/two.json", [{"image_id": IDS[1], "keypoints": pose(3), "score": 1}])
        for paths in ([one, two], [tmp_path / "p"]):
            assert total(truth, read_predictions(paths, truth)) == 100

    def test_frames_by_name_where_ids_differ(self, write, truth) -> None:
        """Counters for ids that happen to exist too, other folders above, and a frame that only its id tells."""
        images = [
            {"id": 1, "file_name": "C:\\data\\000001_a\\000001.jpg"},
            {"id": IDS[1], "file_name": "else/000001_a/000000.jpg"},  # the id of another frame: the name decides
            {"id": IDS[2], "file_name": "000002.jpg"},
        ]
        poses = [guess(1, 1), guess(1, 2), guess(0, 3, image_id=1), guess(2, 4)]
        found = self.read(write, truth, document(images, poses))
        assert found.people.frames.tolist() == [0, 0, 1, 2]
        assert total(truth, found) == 100

    def test_ids_that_several_sequences_share_say_nothing(self, write) -> None:
        def rename(name: str) -> dict:
            return {"id": 0, "file_name": f"images/val/{name}/000000.jpg"}

        files = [write(f"t/{name}.json", document([rename(name)], [person(0, image_id=0)])) for name in "ab"]
        truth = read_truth(files)
        found = self.read(write, truth, document([rename("b")], [guess(0, image_id=0)]))
        assert found.people.frames.tolist() == [1]
        with pytest.raises(InputError, match="no image of the predictions is in the ground truth"):
            self.read(write, truth, [guess(0, image_id=0)])

    def test_names_that_several_sequences_share_say_nothing(self, write) -> None:
        files = [
            write(f"t/{number}.json", document([image(number, file_name="000000.jpg")], [person(number, number)]))
            for number in range(2)
        ]
        truth = read_truth(files)
        found = self.read(write, truth, document([image(0, file_name="000000.jpg")], [guess(0, 0)]))
        assert found.people.frames.tolist() == [0]

    def test_images_beyond_the_truth(self, write, truth) -> None:
        extra = [{"id": 77, "file_name": "x/000077.jpg"}, {"id": 78, "file_name": "x/000078.jpg"}]
        beyond = [guess(0, 5, image_id=78), guess(0, 6, image_id=77), guess(0, 7, image_id=77)]
        mine = guess(0, 1, scores=[0.25] * 17)
        data = document([image(0), *extra], [*beyond, mine])
        with pytest.raises(InputError, match=r"2 images that .* first 'x/000078.jpg' \(id 78\).*`ignore_extra=True`"):
            self.read(write, truth, data)
        found = self.read(write, truth, data, ignore_extra=True)
        assert found.people.frames.tolist() == [0]
        assert (found.people.scores == 0.25).all()
        np.testing.assert_array_equal(found.people.keypoints, truth.people.keypoints[:1])
        assert "2 images with predictions left out" in found.notes[0]
        assert self.read(write, truth, document([image(0), *extra], [mine])).notes == ()  # no poses, no harm

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ('[{"image_id": 5, "keyp', "is not valid JSON"),
            ("nothing", "is not valid JSON"),
            ({"poses": []}, "has the keys poses: expected a list under 'images'"),
            ("5", "is 5: expected a list under 'images'"),
            ([5], "entry 0 is 5: expected an object"),
            ([{"image_id": IDS[0]}], "entry 0 has no usable 'keypoints': expected 51"),
            ([{"image_id": None, "keypoints": pose()}], "entry 0: image_id is null, expected a whole number"),
            ([{"image_id": IDS[0], "keypoints": pose()[:45]}], r"entry 0: keypoints is .*\(45 values\), expected 51"),
            ([guess(0), guess(0, keypoints=[float("nan"), *pose()[1:]])], r"entry 1: keypoints is \[nan, .* 51 finite"),
            (document([image(0)], [guess(1)]), "annotation 0: image_id is .* expected the id of one of"),
            (document([image(0)], [guess(0, scores=[1] * 15)]), r"annotation 0: scores is .*15 values\), expected 17"),
            (document([image(0)], [guess(0, scores="high")]), "annotation 0: scores is 'high', expected 17 finite"),
            (document([image(0)], [guess(0, scores=[float("nan")] * 17)]), r"annotation 0: scores is \[nan, .* finite"),
            (document([image(0)], [guess(0, scores=[], score=None)]), "annotation 0: score is null, expected a number"),
            (document([image(0), image(0)], []), f"has two images with the id {IDS[0]}"),
            (document([image(0), {"id": 3, "file_name": NAMES[0]}], []), "two images that are image 'images"),
            (
                document([{"id": 3, "file_name": "z/1.jpg"}], []),
                r"no image of the predictions .* theirs begin with 'z/1.jpg' \(id 3\), the ground truth's with 1000001",
            ),
            ([guess(0, image_id=4)], "no image of the predictions is in the ground truth: theirs begin with id 4"),
        ],
    )  # fmt: skip
    def test_refusals_are_one_sentence(self, write, truth, data, message) -> None:
        with pytest.raises(InputError, match=message) as caught:
            self.read(write, truth, data)
        assert "\n" not in str(caught.value)

    def test_an_image_in_two_files(self, write, truth) -> None:
        paths = [write(name, [{"image_id": IDS[0], "keypoints": pose(), "score": 1}]) for name in ("a.json", "b.json")]
        with pytest.raises(InputError, match=r"000000.jpg' are in '.*a.json' and in '.*b.json': give each image once"):
            read_predictions(paths, truth)

    def test_json_lines(self, write, truth) -> None:
        with pytest.raises(InputError, match="JSON lines: run sdtc-infer again with `format='posetrack'`"):
            read_predictions([write("poses.jsonl", "{}\n{}\n")], truth)


def test_the_real_ground_truth_against_itself(real_data, tmp_path) -> None:
    """PoseTrack's own people as predictions: all found, in spite of ignore regions and missing joints."""
    annotations = real_data / "posetrack18" / "annotations"
    truth = read_truth([annotations / "val"])
    data = json.loads((annotations / "test_posetrack18_val.json").read_text())
    for entry in data["annotations"]:
        entry["scores"] = [0.9] * 17
    (tmp_path / "self.json").write_text(json.dumps(data))
    result = evaluate(truth.people, read_predictions([tmp_path / "self.json"], truth).people)
    assert result.scores.total == 100
    assert (result.counts.people_found, result.counts.frames) == (14, 3)
    ignored = truth.people.labelled.sum() - result.scores.labelled.sum()
    assert 0 <= ignored < truth.people.labelled.sum() / 10
    # A person in the middle of an ignore region is no false positive, one outside of all of them is.
    frame = next(iter(truth.people.ignore_regions))
    region = truth.people.ignore_regions[frame][0].astype(np.float32)
    grid = np.random.default_rng(0).uniform(region.min(axis=0), region.max(axis=0), (500, 2)).tolist()
    deepest = max(grid, key=lambda point: cv2.pointPolygonTest(region, point, True))
    inside = person_at(np.array(deepest), truth.images[frame].id)
    outside = person_at(np.array([5000.0, 5000]), truth.images[frame].id)
    totals = []
    for entry in (inside, outside):
        (tmp_path / "more.json").write_text(json.dumps({**data, "annotations": [*data["annotations"], entry]}))
        totals.append(evaluate(truth.people, read_predictions([tmp_path / "more.json"], truth).people).scores.total)
    assert totals[0] == 100 > totals[1]


def person_at(point: np.ndarray, image: int) -> dict:
    return {"image_id": image, "keypoints": [*point.tolist(), 1] * 17, "scores": [0.99] * 17, "track_id": 99}
