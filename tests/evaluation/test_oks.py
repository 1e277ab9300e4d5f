"""COCO's AP: equal to pycocotools on random people and poses, and the command on COCO's files."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from sdtc.core.errors import InputError
from sdtc.core.skeleton import COCO, POSETRACK
from sdtc.evaluation import open_checkpoint, predict, read_predictions, read_truth
from sdtc.evaluation.ap import Predictions
from sdtc.evaluation.cli import main
from sdtc.evaluation.inference import file_boxes, find_images, truth_boxes
from sdtc.evaluation.oks import COLUMNS, evaluate_oks
from sdtc.evaluation.reading import NO_TRACK, PredictedPoses
from sdtc.model import BackboneConfig, ModelConfig, build, save_checkpoint
from sdtc.training.annotations import read_annotations

CATEGORY = {"id": 1, "name": "person", "supercategory": "person", "keypoints": list(COCO.keypoints), "skeleton": []}


def random_files(folder: Path, seed: int, images: int = 30) -> tuple[Path, Path]:
    """Ground truth with people of all sizes, crowds and people without joints, and predictions that are near some."""
    rng = np.random.default_rng(seed)
    annotations, results = [], []
    listed = [
        {"id": 7 * i + 3, "file_name": f"{7 * i + 3:012d}.jpg", "width": 640, "height": 480} for i in range(images)
    ]
    for image in listed:
        for _ in range(rng.integers(0, 5)):  # of some images nobody
            place, size = rng.uniform(0, 400, 2), np.exp(rng.uniform(np.log(8), np.log(300)))
            points = np.concatenate([place + rng.uniform(0, size, (17, 2)), rng.integers(0, 3, (17, 1))], axis=1).round(
                1
            )
            points[points[:, 2] == 0] = 0
            crowd = rng.random() < 0.15
            if crowd or rng.random() < 0.2:
                points[:] = 0
            annotations.append({
                "id": int(rng.integers(1, 10**6)), "image_id": image["id"], "category_id": 1, "iscrowd": int(crowd),
                "area": float(size**2 * rng.uniform(0.3, 0.9)), "bbox": [*place.tolist(), float(size), float(size)],
                "keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum()),
            })  # fmt: skip
            for _ in range(rng.integers(0, 3)):
                guess = points[:, :2] + rng.normal(0, size / 25, (17, 2))
                if crowd:
                    guess = place + rng.uniform(0, size, (17, 2))
                results.append((image["id"], guess, rng.uniform(0.4, 1)))
        for _ in range(rng.integers(0, 3) ** 5):  # sometimes more than 20, far from everybody
            results.append((image["id"], rng.uniform(0, 400, (17, 2)), rng.uniform(0, 0.6)))
    entries = [
        {
            "image_id": image, "category_id": 1, "score": round(float(score), 2),  # many are equal
            "keypoints": np.concatenate([guess, rng.random((17, 1))], axis=1).ravel().tolist(),
        }
        for image, guess, score in results
    ]  # fmt: skip
    truth, found = folder / f"person_keypoints_{seed}.json", folder / f"results_{seed}.json"
    truth.write_text(json.dumps({"images": listed, "annotations": annotations, "categories": [CATEGORY]}))
    found.write_text(json.dumps(entries))
    return truth, found


def of_pycocotools(truth: Path, found: Path) -> np.ndarray:
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = coco.COCO(str(truth))
        evaluation = cocoeval.COCOeval(dataset, dataset.loadRes(str(found)), "keypoints")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


@pytest.mark.parametrize("seed", range(6))
def test_it_equals_pycocotools(tmp_path, seed) -> None:
    truth, found = random_files(tmp_path, seed)
    mine = read_truth([truth])
    values = evaluate_oks(mine, read_predictions([found], mine))
    want = of_pycocotools(truth, found)
    assert list(values) == list(COLUMNS)
    assert len(want) == 10
    assert 0.05 < want[0] < 0.9
    np.testing.assert_allclose(list(values.values()), 100 * want, atol=1e-9, rtol=0)


def test_nobody_of_a_size_is_nan_and_no_poses_are_zero(tmp_path) -> None:
    truth, _ = random_files(tmp_path, 0)
    data = json.loads(truth.read_text())
    for entry in data["annotations"]:
        entry["area"] = 40.0**2
    truth.write_text(json.dumps(data))
    (tmp_path / "none.json").write_text("[]")
    mine = read_truth([truth])
    values = evaluate_oks(mine, read_predictions([tmp_path / "none.json"], mine))
    assert {name for name, value in values.items() if np.isnan(value)} == {"APL", "ARL"}
    assert {value for value in values.values() if not np.isnan(value)} == {0}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"area": None}, "area is null, expected a number of square pixels: OKS is measured in the area"),
        ({"area": "big"}, "area is 'big', expected a number of square pixels"),
        ({"area": -1}, "area is -1, expected a number of square pixels"),
        ({"bbox": []}, r"bbox is \[\], expected four finite numbers"),
        ({"num_keypoints": 1.5}, "num_keypoints is 1.5, expected a whole number"),
    ],
)
def test_an_annotation_that_cannot_be_measured(tmp_path, change, sentence) -> None:
    truth, found = random_files(tmp_path, 0)
    data = json.loads(truth.read_text())
    data["annotations"][2] |= change
    truth.write_text(json.dumps(data))
    mine = read_truth([truth])
    with pytest.raises(InputError, match=rf"annotation 2: {sentence}"):
        evaluate_oks(mine, read_predictions([found], mine))


@pytest.fixture
def still_people(dataset, tmp_path) -> Path:
    """A drawn data set as COCO's: its images in val2017, whose neighbours have other pictures."""
    root = tmp_path / "coco"
    (root / "val2017").mkdir(parents=True)
    (root / "annotations").mkdir()
    for other in ("captions_val2017.json", "person_keypoints_train2017.json"):
        (root / "annotations" / other).write_text("{}")
    images, annotations = [], []
    for number, person in enumerate(read_annotations(dataset, "val").people):
        identifier = 100 + number
        name = f"{identifier:012d}.jpg"
        shutil.copyfile(person.image, root / "val2017" / name)
        height, width = cv2.imread(str(person.image)).shape[:2]
        points = np.zeros((17, 3))
        for joint, (x, y, v) in zip(POSETRACK.keypoints, person.keypoints.tolist(), strict=True):
            if joint in COCO.keypoints and v:
                points[COCO.keypoints.index(joint)] = x, y, 2
        box = [round(float(side), 2) for side in person.box]
        images.append({"id": identifier, "file_name": name, "width": width, "height": height})
        annotations.append({
            "id": number + 1, "image_id": identifier, "category_id": 1, "iscrowd": 0, "area": box[2] * box[3],
            "bbox": box, "keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum()),
        })  # fmt: skip
    (root / "annotations" / "person_keypoints_val2017.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [CATEGORY]})
    )
    return root


@pytest.fixture(scope="module")
def coco_checkpoint(tmp_path_factory) -> Path:
    """The least network of three frames with COCO's joints."""
    config = ModelConfig(
        name="coco-micro", input_size=(64, 48), backbone=BackboneConfig(32, 1, 2, frozen=False), width=16, heads=1,
        motion_encoder="patch", fusion="add", delta=1, skeleton="coco",
    )  # fmt: skip
    path = tmp_path_factory.mktemp("coco") / "coco-micro.pth"
    torch.manual_seed(0)
    save_checkpoint(path, build(config), trained=True)
    return path


def truth_file(root: Path) -> Path:
    return root / "annotations" / "person_keypoints_val2017.json"


def results_of(truth, poses, path: Path) -> Path:
    """Write poses as COCO's result list."""
    keypoints = np.concatenate([poses.people.keypoints, poses.people.scores[..., None]], axis=-1)
    path.write_text(json.dumps([
        {"image_id": truth.images[frame].id, "category_id": 1, "keypoints": points.ravel().tolist(), "score": score}
        for frame, points, score in zip(poses.people.frames.tolist(), keypoints, poses.scores.tolist(), strict=True)
    ]))  # fmt: skip
    return path


@pytest.mark.slow
def test_a_checkpoint_and_predictions_by_the_command(still_people, coco_checkpoint, tmp_path, capsys) -> None:
    truth = read_truth([truth_file(still_people)])
    with open_checkpoint(coco_checkpoint, "cpu") as engine:
        poses = predict(engine, truth, truth_boxes(truth), find_images(truth))
    np.testing.assert_allclose(poses.scores, poses.people.scores.mean(axis=1))
    # Noise on the truth, or an untrained network finds nobody.
    near = truth.people.keypoints + np.random.default_rng(0).normal(0, 3, truth.people.keypoints.shape)
    poses = replace(poses, people=replace(poses.people, keypoints=near[np.argsort(truth.people.frames)]))
    found = results_of(truth, poses, tmp_path / "results.json")
    output, plot = tmp_path / "ap.json", tmp_path / "ap.png"
    arguments = ["--truth", truth_file(still_people), "--predictions", found, "--checkpoint", coco_checkpoint]
    arguments += ["--device", "cpu", "--output", output, "--plot", plot, "--quiet"]
    assert main([str(argument) for argument in arguments]) == 0
    files, network = json.loads(output.read_text())["results"]
    want = of_pycocotools(truth_file(still_people), found)
    assert want[0] > 0.5
    for name, value in zip(COLUMNS, want, strict=True):
        assert files["coco"][name] == (None if value < 0 else pytest.approx(100 * value, abs=1e-9))
    assert "ap" not in files
    assert list(network["coco"]) == list(COLUMNS)
    assert files["PCK@0.2"]["columns"]["Limbs"] > 90
    assert list(files["PCK@0.2"]["joints"]) == list(COCO.keypoints)
    assert files["PCKh@0.5"]["people"] == 0
    assert "PCKh@0.5 leaves out 20 of 20 people, who lack a head box ('bbox_head')" in files["notes"]
    assert not any("not exactly poseval" in note for note in files["notes"])
    assert cv2.imread(str(plot)) is not None

    assert main([str(argument) for argument in arguments[:4]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["COCO", *COLUMNS]
    cells = ["-" if value < 0 else f"{100 * value:.1f}" for value in want]
    assert lines[1].split() == ["results.json", *cells]
    assert lines[3].split()[0] == "PCK@0.2"
    assert "PCKh@0.5 " not in lines[5:6]
    assert "truth    20 people in 20 frames" in lines
    assert main(["--truth", str(still_people), *map(str, arguments[2:4])]) == 0  # the data set's root
    assert capsys.readouterr().out.splitlines() == lines


def test_boxes_of_low_scores_count_for_coco(still_people, dataset, tmp_path) -> None:
    """COCO's protocol keeps them; PoseTrack's, as the paper uses it, does not."""
    for data, count in ((truth_file(still_people), 1), (dataset, 0)):
        truth = read_truth([data])
        boxes = [{"image_id": truth.images[0].id, "bbox": [9, 9, 50, 90], "score": 0.05}]
        (tmp_path / "boxes.json").write_text(json.dumps(boxes))
        assert len(file_boxes(tmp_path / "boxes.json", truth)) == count


def test_crowds_are_checked_too(still_people) -> None:
    path = truth_file(still_people)
    data = json.loads(path.read_text())
    crowd = data["annotations"][0] | {"iscrowd": 1}
    for points, fits in (([], True), (None, True), ([0] * 51, True), ([1] * 48, False), ([float("nan")] * 51, False)):
        data["annotations"][0] = crowd | {"keypoints": points}
        path.write_text(json.dumps(data))
        if fits:
            assert len(read_truth([path]).crowds) == 1
            continue
        with pytest.raises(InputError, match=r"annotation 0: keypoints is .* expected 51 finite numbers"):
            read_truth([path])


def test_stills_are_seen_without_their_neighbours(still_people, coco_checkpoint) -> None:
    """Each image alone in its folder gives the same poses."""
    truth = read_truth([truth_file(still_people)])
    assert all(image.still and image.annotated for image in truth.images)
    boxes, images = truth_boxes(truth), find_images(truth)
    with open_checkpoint(coco_checkpoint, "cpu") as engine:
        together = predict(engine, truth, boxes, images)
        (folder,) = images
        for name, frame in list(images[folder].items())[:3]:
            alone = folder.parent / f"only {frame}"
            alone.mkdir()
            shutil.copyfile(folder / name, alone / name)
            poses = predict(engine, truth, boxes, {alone: {name: frame}})
            mine = together.people.keypoints[together.people.frames == frame]
            np.testing.assert_allclose(poses.people.keypoints, mine, atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--checkpoint", "posetrack"],
         "the model gives the 15 joints of the skeleton 'posetrack', the ground truth has those of 'coco': expected"),
        (["--predictions", "posetrack"],
         "has the joints of the skeleton 'posetrack', the ground truth those of 'coco': expected the same"),
        (["--predictions", "coco", "--dataset", "posetrack2018"], "--dataset posetrack2018 is for PoseTrack's joints"),
        (["--predictions", "detections"], "has boxes but no keypoints, as a detector's results or COCO's instances_*"),
    ],
)  # fmt: skip
def test_the_other_skeleton_and_other_files(
    still_people, micro_checkpoint, dataset, tmp_path, capsys, arguments, sentence
) -> None:
    found = tmp_path / "found.json"
    if arguments[1] == "posetrack":
        kind = micro_checkpoint if arguments[0] == "--checkpoint" else dataset
    elif arguments[1] == "detections":
        kind = found
        found.write_text(json.dumps([{"image_id": 100, "bbox": [1, 2, 30, 40], "score": 1, "category_id": 1}]))
    else:
        kind = results_of(*perfect(truth_file(still_people)), found)
    command = ["--truth", truth_file(still_people), arguments[0], kind, *arguments[2:]]
    assert main([str(argument) for argument in command]) == 2
    assert sentence in capsys.readouterr().err


def perfect(path: Path):
    """A ground truth and poses that equal it."""
    truth = read_truth([path])
    people = truth.people
    scores = np.ones(people.labelled.shape)
    guesses = Predictions(people.frames, people.keypoints, people.labelled, scores, people.skeleton)
    return truth, PredictedPoses(guesses, np.ones(len(people.frames)), np.full(len(people.frames), NO_TRACK))


def test_a_coco_model_on_posetracks_people_is_refused(dataset, coco_checkpoint, capsys) -> None:
    assert main(["--truth", str(dataset), "--checkpoint", str(coco_checkpoint), "--device", "cpu"]) == 2
    assert "the 17 joints of the skeleton 'coco', the ground truth has those of 'posetrack'" in capsys.readouterr().err


def test_both_joints_in_one_ground_truth_are_refused(dataset, still_people) -> None:
    with pytest.raises(InputError, match=r"mixes joints: those of '.*' are of the skeleton 'posetrack', .* of 'coco'"):
        read_truth([dataset, truth_file(still_people)])


def test_a_ground_truth_of_boxes_is_named(tmp_path) -> None:
    (tmp_path / "instances_val2017.json").write_text(json.dumps(
        {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 4]}]}
    ))  # fmt: skip
    with pytest.raises(
        InputError, match=r"instances_val2017.json' has boxes but no keypoints, as a detector's results"
    ):
        read_truth([tmp_path / "instances_val2017.json"])


def test_without_the_library_the_extra_is_named(still_people, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    found = results_of(*perfect(truth_file(still_people)), tmp_path / "found.json")
    assert main(["--truth", str(truth_file(still_people)), "--predictions", str(found)]) == 1
    assert "COCO's AP needs the package 'faster-coco-eval', which is not installed: run  pip install 'sdtc[eval]'" in (
        capsys.readouterr().err
    )
