"""Engines and checkpoints over a data set: the same AP from PyTorch, from ONNX, and from `sdtc-infer`'s own JSON.

An untrained network finds nobody, so the comparison is made against a ground truth that its own poses were the
pattern of: what it says, with noise, is what the annotations of a copy of the data set call true.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import sdtc.runtime
from sdtc.core.boxes import FrameBoxes
from sdtc.core.crops import expand_boxes, image_to_crop
from sdtc.core.errors import CheckpointError, EngineError, InputError
from sdtc.core.posetrack import to_slots
from sdtc.evaluation import evaluate, open_checkpoint, predict, read_predictions, read_truth
from sdtc.evaluation.inference import file_boxes, find_images, predictions_in_boxes, truth_boxes
from sdtc.evaluation.torch_session import TorchSession, choose_device
from sdtc.model import BackboneConfig, ModelConfig, build, load_checkpoint, save_checkpoint
from sdtc.runtime.backends.session import TensorSpec
from sdtc.runtime.cli import main as infer
from sdtc.runtime.engine import PoseEngine
from sdtc.runtime.options import EngineOptions

COLUMNS = ("Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle", "Total")


@pytest.fixture(scope="module")
def torch_engine(tiny_checkpoint):
    with open_checkpoint(tiny_checkpoint, "cpu") as engine:
        yield engine


@pytest.fixture(scope="module")
def micro_engine(micro_checkpoint):
    """The least network there is, where it does not matter which."""
    with open_checkpoint(micro_checkpoint, "cpu") as engine:
        yield engine


def run(engine, root: Path, boxes=None):
    """A data set's ground truth and what an engine predicts for it."""
    truth = read_truth([root])
    return truth, predict(engine, truth, boxes or truth_boxes(truth), find_images(truth))


@pytest.fixture(scope="module")
def pattern(dataset, torch_engine, tmp_path_factory) -> Path:
    """The data set with annotations that a network was the pattern of: its own poses and noise of up to a head size."""
    root = tmp_path_factory.mktemp("pattern")
    shutil.copytree(dataset, root, dirs_exist_ok=True)
    rng = np.random.default_rng(0)
    truth, found = run(torch_engine, root)
    for path in truth.paths:
        data = json.loads(path.read_text())
        for number, entry in enumerate(data["annotations"]):
            frame = truth.find(entry["image_id"])
            mine = [e for e in data["annotations"] if e["image_id"] == entry["image_id"]]
            poses = found.people.keypoints[found.people.frames == frame]
            assert len(poses) == len(mine)
            noise = rng.normal(size=(15, 2)) * rng.choice([1, 4, 12], (15, 1), p=[0.5, 0.25, 0.25])
            points = np.concatenate([poses[mine.index(entry)] + noise, np.ones((15, 1))], axis=1)
            entry |= {
                "keypoints": to_slots(points).ravel().tolist(),
                "bbox_head": [0, 0, 16, 12],  # a match within 6 pixels
                "difficulty": ["odd"] * (number % 2),
            }
        for entry in data["images"]:
            entry.pop("difficulty", None)
        path.write_text(json.dumps(data))
    return root


@pytest.mark.slow
def test_pytorch_onnx_and_sdtc_infer_agree(pattern, torch_engine, tiny_bundle, tmp_path) -> None:
    """Within 0.1 AP in every column and every row."""
    truth, from_torch = run(torch_engine, pattern)
    with sdtc.runtime.open(tiny_bundle / "model.onnx", EngineOptions(backend="onnxruntime", threads=1)) as engine:
        from_onnx = run(engine, pattern)[1]
    for path in truth.paths:
        folder = pattern / "images" / "val" / path.stem
        arguments = ["--engine", tiny_bundle / "model.onnx", "--input", folder, "--boxes", path, "--output", tmp_path]
        arguments += ["--exact", "--backend", "onnxruntime", "--threads", "1", "--quiet", "--format", "posetrack"]
        assert infer([str(argument) for argument in arguments]) == 0
    from_file = read_predictions([tmp_path], truth)
    results = [evaluate(truth.people, poses.people) for poses in (from_torch, from_onnx, from_file)]
    assert 30 < results[0].scores.total < 90  # the comparison means something
    assert results[0].counts.frames == 10
    assert results[0].by_label.keys() == {"odd", "none"}
    for other in results[1:]:
        assert other.counts == results[0].counts
        for column in COLUMNS:
            assert abs(other.scores.columns[column] - results[0].scores.columns[column]) < 0.1
        for label, row in other.by_label.items():
            assert abs(row.total - results[0].by_label[label].total) < 0.1
    off = np.abs(from_onnx.people.keypoints - from_torch.people.keypoints).max(axis=-1)  # pixels
    assert np.mean(off > 0.05) < 0.01  # of an untrained network there are maxima that rounding decides
    np.testing.assert_allclose(from_onnx.people.scores, from_torch.people.scores, atol=1e-3)
    np.testing.assert_allclose(from_file.people.keypoints, from_onnx.people.keypoints, atol=1e-3)


@pytest.fixture(scope="module")
def detections(pattern, tmp_path_factory) -> Path:
    """Boxes of one sequence with scores from 0.05 to 1, and a box of an image that nobody asked for."""
    truth = read_truth([pattern / "annotations" / "val" / "000005_synthetic.json"])
    rng = np.random.default_rng(3)
    entries = [
        {"image_id": truth.images[frame].id, "bbox": box, "score": round(float(score), 3)}
        for frame, found in truth_boxes(truth).items()
        for box, score in zip(found.boxes.tolist(), rng.uniform(0.05, 1, len(found.boxes)), strict=True)
    ]
    path = tmp_path_factory.mktemp("detections") / "detections.json"
    path.write_text(json.dumps([*entries, {"image_id": 10_000_770_000, "bbox": [0, 0, 9, 9], "score": 1}]))
    return path


def test_detector_boxes(pattern, micro_engine, detections) -> None:
    """Their scores multiply the joints' scores; those below 0.2 are dropped."""
    truth = read_truth([pattern / "annotations" / "val" / "000005_synthetic.json"])
    entries = json.loads(detections.read_text())[:-1]
    kept = [entry for entry in entries if entry["score"] >= 0.2]
    boxes = file_boxes(detections, truth)
    assert sum(len(found.boxes) for found in boxes.values()) == len(kept) < len(entries)
    mine = predict(micro_engine, truth, boxes, find_images(truth))
    plain = predict(micro_engine, truth, certain(boxes), find_images(truth))
    scores = [entry["score"] for image in truth.images for entry in kept if entry["image_id"] == image.id]
    assert (plain.people.scores > 0).mean() > 0.5
    np.testing.assert_allclose(mine.people.scores, plain.people.scores * np.array(scores)[:, None], rtol=1e-5)
    np.testing.assert_array_equal(mine.people.keypoints, plain.people.keypoints)


@pytest.mark.slow
def test_detector_boxes_and_sdtc_infers_two_formats(pattern, torch_engine, tiny_bundle, detections, tmp_path) -> None:
    truth = read_truth([pattern / "annotations" / "val" / "000005_synthetic.json"])
    boxes = file_boxes(detections, truth)
    mine = predict(torch_engine, truth, boxes, find_images(truth))
    folder = pattern / "images" / "val" / "000005_synthetic"
    arguments = ["--engine", tiny_bundle / "model.onnx", "--input", folder, "--boxes", detections, "--exact", "--quiet"]
    found = {}
    for output_format in ("posetrack", "coco"):
        output = tmp_path / output_format
        assert infer([str(value) for value in [*arguments, "--output", output, "--format", output_format]]) == 0
        found[output_format] = read_predictions([output], truth)
    totals = [evaluate(truth.people, poses.people).scores.total for poses in (mine, found["posetrack"])]
    assert abs(totals[0] - totals[1]) < 0.1
    # COCO's list has no box scores in its joints' scores: the same poses, ranked otherwise.
    plain = predict(torch_engine, truth, certain(boxes), find_images(truth))
    np.testing.assert_allclose(found["coco"].people.scores, plain.people.scores, atol=1e-3)
    np.testing.assert_allclose(found["coco"].people.keypoints, plain.people.keypoints, atol=0.05)


def certain(boxes: dict[int, FrameBoxes]) -> dict[int, FrameBoxes]:
    """The same boxes, each with score 1."""
    return {frame: FrameBoxes(found.boxes, np.ones_like(found.scores), None) for frame, found in boxes.items()}


class Oracle:
    """A session that answers with prepared poses, in the order in which people come; it never looks at a picture."""

    def __init__(self, in_crops: np.ndarray) -> None:
        self.backend = "oracle"
        self.inputs = {"clip": TensorSpec((None, 5, 128, 96, 3), np.dtype(np.uint8))}
        self.outputs = {"keypoints": TensorSpec((None, 15, 3), np.dtype(np.float32))}
        self.in_crops, self.next, self.closed = in_crops, 0, False

    def run(self, inputs, outputs=None):
        clip = inputs["clip"]
        assert clip.shape[1:] == self.inputs["clip"].shape[1:]
        start, self.next = self.next, self.next + len(clip)
        return {"keypoints": self.in_crops[start : self.next]}

    def close(self) -> None:
        self.closed = True

    def __enter__(self):
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def test_an_oracle_scores_what_its_noise_deserves(dataset, tiny_checkpoint, rng) -> None:
    """The way through windows, crops and back is exact: AP is that of the noisy truth itself, joint by joint."""
    truth = read_truth([dataset])
    people, boxes = truth.people, truth_boxes(truth)
    noisy = people.keypoints + rng.normal(size=people.keypoints.shape) * people.head_sizes[:, None, None] / 2
    scores = rng.random(people.labelled.shape).astype(np.float32)
    crop_boxes = expand_boxes(np.concatenate([boxes[frame].boxes for frame in sorted(boxes)]), (128, 96))
    in_crops = image_to_crop(noisy, crop_boxes[:, None], (128, 96))
    oracle = Oracle(np.concatenate([in_crops, scores[..., None]], axis=-1).astype(np.float32))
    with PoseEngine.from_session(load_checkpoint(tiny_checkpoint).describe((1, 32, 32)), oracle) as engine:
        assert (engine.backend, engine.notice) == ("oracle", "")
        found = predict(engine, truth, boxes, find_images(truth), batch_size=1)
    assert oracle.closed
    assert oracle.next == len(people.frames)
    np.testing.assert_array_equal(found.people.frames, people.frames)
    np.testing.assert_allclose(found.people.keypoints, noisy, atol=1e-3)
    from sdtc.evaluation import Predictions

    everything = np.ones_like(people.labelled)
    want = evaluate(people, Predictions(people.frames, noisy, everything, scores.astype(float))).scores
    got = evaluate(people, found.people).scores
    assert 20 < want.total < 80
    np.testing.assert_allclose(got.ap, want.ap, atol=1e-9)


def test_a_lone_annotated_frame_still_sees_its_neighbours(dataset, micro_engine) -> None:
    """Which frames are asked for changes nothing: the window is what lies on disk."""
    truth, whole = run(micro_engine, dataset)
    images = find_images(truth)
    folder = next(iter(images))
    middle = sorted(images[folder])[2]
    alone = {folder: {middle: images[folder][middle]}}
    one = predict(micro_engine, truth, truth_boxes(truth), alone)
    mine = whole.people.keypoints[whole.people.frames == images[folder][middle]]
    np.testing.assert_array_equal(one.people.keypoints, mine)


def test_a_missing_neighbour_is_the_keyframe(dataset, micro_engine, tmp_path) -> None:
    root = Path(shutil.copytree(dataset, tmp_path / "copy"))
    folder = root / "images" / "val" / "000005_synthetic"
    data = json.loads((root / "annotations" / "val" / "000005_synthetic.json").read_text())
    first = data["images"][0]["id"]
    data["images"], data["annotations"] = data["images"][:1], [a for a in data["annotations"] if a["image_id"] == first]
    for path in (root / "annotations" / "val").iterdir():
        path.unlink()
    (root / "annotations" / "val" / "000005_synthetic.json").write_text(json.dumps(data))
    with_neighbours = run(micro_engine, root)[1].people.keypoints
    for number in range(1, 6):
        (folder / f"{number:06d}.jpg").unlink()
    without = run(micro_engine, root)[1].people.keypoints
    assert np.abs(with_neighbours - without).max() > 0.5


def test_an_unreadable_image_is_a_note_and_a_miss(dataset, micro_engine, tmp_path) -> None:
    root = Path(shutil.copytree(dataset, tmp_path / "copy"))
    (root / "images" / "val" / "000005_synthetic" / "000003.jpg").write_bytes(b"broken")
    truth, found = run(micro_engine, root)
    assert len(found.notes) == 1
    assert "000003.jpg" in found.notes[0]
    assert evaluate(truth.people, found.people).counts.frames_unpredicted == 1


class TestImages:
    def test_beside_the_annotations(self, dataset) -> None:
        truth = read_truth([dataset])
        images = find_images(truth)
        assert {folder.name: len(names) for folder, names in images.items()} == {
            "000005_synthetic": 6,
            "000007_synthetic": 4,
        }
        assert {truth.images[frame].file_name.rsplit("/", 1)[1] for frame in images[min(images)].values()} == set(
            images[min(images)]
        )

    @pytest.mark.parametrize("below", ["", "images", "images/val", "images/val/000005_synthetic"])
    def test_in_a_folder_at_any_depth(self, dataset, tmp_path, below) -> None:
        annotations = shutil.copy(dataset / "annotations" / "val" / "000005_synthetic.json", tmp_path)
        truth = read_truth([annotations])
        assert list(find_images(truth, dataset / below)) == [dataset / "images" / "val" / "000005_synthetic"]
        with pytest.raises(InputError, match=r"6 of the .* cannot be found in the folders above .*give the data set's"):
            find_images(truth)

    def test_missing_ones_are_counted(self, dataset, tmp_path) -> None:
        root = Path(shutil.copytree(dataset, tmp_path / "copy"))
        (root / "images" / "val" / "000005_synthetic" / "000003.jpg").unlink()
        with pytest.raises(InputError, match=r"an image of the ground truth .* 'images/val/000005_synthetic/000003.jp"):
            find_images(read_truth([root]))

    def test_those_without_annotation_are_not_needed(self, dataset, tmp_path) -> None:
        root = Path(shutil.copytree(dataset, tmp_path / "copy"))
        path = root / "annotations" / "val" / "000005_synthetic.json"
        data = json.loads(path.read_text())
        last = data["images"][-1]["id"]
        path.write_text(json.dumps(data | {"annotations": [a for a in data["annotations"] if a["image_id"] != last]}))
        (root / "images" / "val" / "000005_synthetic" / "000005.jpg").unlink()
        images = find_images(read_truth([path]))
        assert [sorted(names.values()) for names in images.values()] == [[0, 1, 2, 3, 4]]

    def test_the_real_ones(self, real_data, micro_engine) -> None:
        """Detector boxes for three labelled frames whose neighbours are missing."""
        root = real_data / "posetrack18"
        truth = read_truth([root])
        boxes = file_boxes(root / "annotations" / "test_posetrack18_human_detections.json", truth)
        assert sorted(boxes) == [0, 1, 2]
        few = {frame: FrameBoxes(found.boxes[:3], found.scores[:3], None) for frame, found in boxes.items()}
        found = predict(micro_engine, truth, few, find_images(truth))
        assert sorted(set(found.people.frames.tolist())) == [0, 1, 2]
        counts = evaluate(truth.people, found.people).counts
        assert (counts.frames, counts.people, counts.frames_unpredicted) == (3, 14, 0)


def test_whose_box_a_prediction_was_made_in(dataset, micro_engine, tmp_path) -> None:
    """Whatever the pose is, and where a person has no box or an image is missing."""
    root = Path(shutil.copytree(dataset, tmp_path / "copy"))
    path = root / "annotations" / "val" / "000005_synthetic.json"
    data = json.loads(path.read_text())
    data["annotations"][1]["bbox"] = []
    path.write_text(json.dumps(data))
    truth = read_truth([root])
    boxes = truth_boxes(truth)
    images = dict(reversed(find_images(truth).items()))  # the predictions' frames are not in order
    poses = predict(micro_engine, truth, boxes, images)
    whose = predictions_in_boxes(truth, boxes, poses)
    assert whose is not None
    assert np.flatnonzero(whose < 0).tolist() == [1]
    kept = np.delete(np.arange(len(whose)), 1)
    np.testing.assert_array_equal(poses.people.frames[whose[kept]], truth.people.frames[kept])
    for person in kept.tolist():  # the pose lies in the crop of the person's own box
        box = expand_boxes(np.array(truth.annotations[person].bbox, np.float32), micro_engine.manifest.input_size)
        points = poses.people.keypoints[whose[person]]
        assert (points >= box[:2] - 1).all()
        assert (points <= box[:2] + box[2:] + 1).all()
    assert len(set(whose[kept].tolist())) == len(kept)
    (tmp_path / "b.json").write_text(json.dumps([{"image_id": truth.images[0].id, "bbox": [9, 9, 99, 99]}]))
    assert predictions_in_boxes(truth, file_boxes(tmp_path / "b.json", truth), poses) is None


class TestBoxes:
    def test_annotations_as_boxes_by_name(self, dataset, tmp_path) -> None:
        """Other ids, the same names."""
        truth = read_truth([dataset])
        data = json.loads((dataset / "annotations" / "val" / "000005_synthetic.json").read_text())
        for entry in data["images"]:
            entry["id"] -= 10**10
        for entry in data["annotations"]:
            entry["image_id"] -= 10**10
        (tmp_path / "boxes.json").write_text(json.dumps(data))
        found, want = file_boxes(tmp_path / "boxes.json", truth), truth_boxes(truth)
        assert sorted(found) == list(range(6))
        for frame, boxes in found.items():
            np.testing.assert_array_equal(boxes.boxes, want[frame].boxes)

    def test_what_is_left_out_is_counted(self, dataset, tmp_path) -> None:
        root = Path(shutil.copytree(dataset, tmp_path / "copy"))
        for path in (root / "annotations" / "val").iterdir():
            data = json.loads(path.read_text())
            data["annotations"][0]["bbox"] = []
            data["annotations"][1]["bbox"][3] = 0
            data["annotations"][2]["category_id"] = 7
            data["annotations"][3]["iscrowd"] = 1
            path.write_text(json.dumps(data))
        truth = read_truth([root])
        boxes = truth_boxes(truth)
        assert boxes.notes == ("boxes left out: 4 with no box area",)  # and the truth's own note counts the others
        assert "annotations left out: 2 of another category, 2 marked as a crowd" in truth.notes[-1]
        assert sum(len(found.boxes) for found in boxes.values()) == len(truth.people.frames) - 4
        assert truth_boxes(read_truth([dataset])).notes == ()
        (tmp_path / "low.json").write_text(json.dumps([{"image_id": 0, "bbox": [0, 0, 9, 9], "score": 0.1}]))
        assert file_boxes(tmp_path / "low.json", truth).notes == ("boxes left out: 1 with a score below 0.2",)

    def test_a_truth_without_boxes(self, dataset, tmp_path) -> None:
        data = json.loads((dataset / "annotations" / "val" / "000005_synthetic.json").read_text())
        for entry in data["annotations"]:
            del entry["bbox"]
        (tmp_path / "t.json").write_text(json.dumps(data))
        count = len(data["annotations"])
        with pytest.raises(
            InputError,
            match=rf"has no boxes to look for people in \({count} with no box area\): give a detector's with",
        ):
            truth_boxes(read_truth([tmp_path / "t.json"]))

    def test_a_file_without_people_beside_one_with_some(self, dataset, tmp_path) -> None:
        root = Path(shutil.copytree(dataset, tmp_path / "copy"))
        path = root / "annotations" / "val" / "000007_synthetic.json"
        data = json.loads(path.read_text())
        for entry in data["annotations"]:
            entry["category_id"] = 2
        path.write_text(json.dumps(data))
        assert sorted(truth_boxes(read_truth([root]))) == list(range(6))

    def test_of_other_images(self, dataset, tmp_path) -> None:
        (tmp_path / "boxes.json").write_text('[{"image_id": 3, "bbox": [0, 0, 9, 9], "score": 1}]')
        with pytest.raises(
            InputError, match=r"has no boxes for any image .* begin with 3, the ground truth's with 100000"
        ):
            file_boxes(tmp_path / "boxes.json", read_truth([dataset]))


class TestTorchSession:
    def test_it_says_what_it_is(self, torch_engine, tiny_bundle) -> None:
        manifest = torch_engine.manifest
        assert torch_engine.backend.startswith("torch ")
        with sdtc.runtime.open(tiny_bundle / "model.onnx") as engine:
            for name in ("name", "num_frames", "input_size", "heatmap_size", "keypoints", "crop_scale", "mean", "std"):
                assert getattr(manifest, name) == getattr(engine.manifest, name)
            assert manifest.checkpoint_sha256 == engine.manifest.checkpoint_sha256
        assert not manifest.trained

    def test_outputs(self, tiny_checkpoint, rng) -> None:
        with TorchSession(load_checkpoint(tiny_checkpoint).network) as session:
            out = session.run({"clip": rng.integers(0, 256, (2, 5, 128, 96, 3), dtype=np.uint8)})
            assert {name: value.shape for name, value in out.items()} == {
                name: (2, *spec.shape[1:]) for name, spec in session.outputs.items()
            }
            with pytest.raises(EngineError, match="expected uint8"):
                session.run({"clip": np.zeros((2, 3, 128, 96, 3), np.uint8)})

    def test_devices(self, monkeypatch) -> None:
        import torch

        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert choose_device("auto") == choose_device("cpu") == "cpu"
        with pytest.raises(EngineError, match="no usable CUDA: use `device='cpu'`"):
            choose_device("cuda")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert [choose_device(device) for device in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]

    def test_a_file_that_is_no_checkpoint(self, tmp_path) -> None:
        (tmp_path / "x.pth").write_bytes(b"nothing")
        with pytest.raises(CheckpointError):
            open_checkpoint(tmp_path / "x.pth")

    def test_joints_of_another_skeleton(self, dataset, tmp_path) -> None:
        config = ModelConfig(
            name="other", input_size=(64, 48), skeleton="coco", backbone=BackboneConfig(32, 1, 2, frozen=False),
            width=16, heads=1, motion_encoder="patch", fusion="add", delta=1,
        )  # fmt: skip
        save_checkpoint(tmp_path / "coco.pth", build(config), trained=True)
        with (
            open_checkpoint(tmp_path / "coco.pth", "cpu") as engine,
            pytest.raises(
                InputError, match="17 joints of the skeleton 'coco', the ground truth has those of 'posetrack'"
            ),
        ):
            run(engine, dataset)
