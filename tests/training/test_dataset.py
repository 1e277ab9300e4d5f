"""Windows of training: frames in the boxes of their own, resampled, as the runtime has them in a stream."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import sdtc.runtime
from sdtc.core.crops import crop_frame, expand_boxes
from sdtc.core.errors import ConfigError
from sdtc.core.image_file import read_image
from sdtc.core.resampling import SAME
from sdtc.core.settings import build_settings
from sdtc.evaluation.reading import read_predictions, read_truth
from sdtc.model import MaskedSDTC, build, load_checkpoint
from sdtc.runtime.options import EngineOptions, RunOptions
from sdtc.runtime.run import Run
from sdtc.synthetic import ClipOptions, SyntheticClip, write_clip
from sdtc.training.annotations import NO_TRACK, AnnotatedPerson, AnnotationSet, read_annotations
from sdtc.training.augmentation import AugmentationConfig, BoxNoise
from sdtc.training.dataset import WindowDataset
from sdtc.training.still_clips import PhotometryConfig, StillClipConfig
from sdtc.training.train_config import DataConfig, TrainConfig, load_config
from sdtc.training.trainer import Trainer
from sdtc.training.validation import predict
from tests.networks import TINY

CONFIG = TINY
SIZE = CONFIG.input_size
NONE = AugmentationConfig.none()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Two people who walk."""
    root = tmp_path_factory.mktemp("data")
    write_clip(SyntheticClip(ClipOptions(seed=3, num_frames=8, size=(144, 192), num_people=2)), root, video=False)
    return root


def person_at(annotations: AnnotationSet, number: int) -> int:
    """Return the index of somebody in a frame who is in all frames."""
    times = Counter(person.track_id for person in annotations.people)
    return next(
        i for i, p in enumerate(annotations.people) if p.number == number and times[p.track_id] == p.last - p.first + 1
    )


def test_every_frame_is_cropped_by_the_box_of_the_person_in_that_frame(data) -> None:
    annotations = read_annotations(data, "val")
    index = person_at(annotations, 4)
    person = annotations.people[index]
    own, shared = (WindowDataset(annotations, CONFIG, own_boxes=own)[index] for own in (True, False))
    tracks = annotations.tracks()
    for t in range(5):
        there = tracks[person.image.parent, person.track_id, 2 + t]
        frame = read_image(there.image)
        for sample, box in ((own, there.box), (shared, person.box)):
            want = crop_frame(frame, expand_boxes(box, SIZE), SIZE)
            np.testing.assert_array_equal(sample["clip"][t].numpy(), want)
    assert torch.equal(shared["places"], torch.tensor(SAME).expand(5, 4))
    assert (own["places"][[0, 1, 3, 4]] != torch.tensor(SAME)).any(1).all()
    # Targets are in the keyframe's crop, whichever box cuts the other frames.
    assert torch.equal(own["heatmaps"], shared["heatmaps"])


def test_the_box_of_a_frame_without_the_person_is_that_of_the_nearest(data) -> None:
    annotations = read_annotations(data, "val")
    index = person_at(annotations, 4)
    person = annotations.people[index]
    fewer = AnnotationSet([p for p in annotations.people if p.track_id != person.track_id or p.number not in (2, 5)])
    index = next(i for i, p in enumerate(fewer.people) if p is person)
    sample, whole = WindowDataset(fewer, CONFIG)[index], WindowDataset(annotations, CONFIG)
    whole_sample = whole[annotations.people.index(person)]
    # Frame 2 has the box of frame 3. Frames 4 and 6 are as near to frame 5; the keyframe's is taken.
    for t, box in ((0, person_box(annotations, person, 3)), (3, person.box)):
        frame = read_image(person.frame(t - 2))
        np.testing.assert_array_equal(sample["clip"][t].numpy(), crop_frame(frame, expand_boxes(box, SIZE), SIZE))
        assert not sample["weights"][t].any()
        assert whole_sample["weights"][t].any()
    for t in (1, 2, 4):
        assert torch.equal(sample["clip"][t], whole_sample["clip"][t])


def person_box(annotations: AnnotationSet, person, number: int) -> np.ndarray:
    return annotations.tracks()[person.image.parent, person.track_id, number].box


def test_frames_that_are_there_twice_are_the_same_crop_and_missing_ones_the_keyframes(data, tmp_path) -> None:
    annotations = read_annotations(data, "val")
    noise = AugmentationConfig(box_noise=BoxNoise(0.1, 0.1))
    sample = WindowDataset(annotations, CONFIG, noise)[person_at(annotations, 0)]
    for t in (0, 1):  # before the first frame
        assert torch.equal(sample["clip"][t], sample["clip"][2])
        assert torch.equal(sample["places"][t], torch.tensor(SAME))
    assert not torch.equal(sample["places"][3], torch.tensor(SAME))
    index = person_at(annotations, 4)
    gone = annotations.people[index].frame(1)
    sample = WindowDataset(annotations, CONFIG, noise, read=lambda path: None if path == gone else read_image(path))[
        index
    ]
    assert torch.equal(sample["clip"][3], sample["clip"][2])
    assert torch.equal(sample["places"][3], torch.tensor(SAME))
    assert not torch.equal(sample["clip"][4], sample["clip"][2])


def test_noise_is_every_frames_own_and_every_epochs(data) -> None:
    annotations = read_annotations(data, "val")
    index = person_at(annotations, 4)
    config = AugmentationConfig(scale=0, rotation_chance=0, flip_chance=0, box_noise=BoxNoise(0.1, 0.1))
    dataset = WindowDataset(annotations, CONFIG, config)
    first, again = dataset[index], dataset[index]
    dataset.set_epoch(1)
    later = dataset[index]
    assert torch.equal(first["places"], again["places"])
    assert len({tuple(place.tolist()) for sample in (first, later) for place in sample["places"]}) == 9  # two are SAME


@pytest.mark.slow
def test_a_network_sees_the_same_in_training_and_in_a_stream(data, tiny_checkpoint, tiny_bundle, tmp_path) -> None:
    """The poses of `sdtc-infer` in the annotated boxes are those of validation, which is training without noise."""
    truth = read_truth([data])
    run = RunOptions(output=tmp_path, format="posetrack", boxes=data / "annotations" / "val")
    with sdtc.runtime.open(tiny_bundle, EngineOptions(backend="onnxruntime")) as engine:
        assert engine.streaming
        Run(str(data / "images" / "val" / "*"), run).execute(engine)
    streamed = read_predictions([tmp_path], truth).people
    annotations = read_annotations(data, "val")
    network = load_checkpoint(tiny_checkpoint).network
    mine = predict(network, annotations, torch.device("cpu"))
    whole = predict(network, annotations, torch.device("cpu"), own_boxes=False)
    assert len(streamed.keypoints) == len(mine) > 10
    # By frame and place, as the two need not have the same order.
    found, differs = 0, 0.0
    for points in streamed.keypoints:
        distances = np.abs(mine[..., :2] - points).max((1, 2))
        found += distances.min() < 0.05
        differs = max(differs, np.abs(whole[..., :2] - points).max((1, 2)).min())
    assert found == len(mine)
    assert differs > 0.5  # windows in the keyframe's box are something else


def test_places_reach_the_network_masked_or_not(data) -> None:
    annotations = read_annotations(data, "val")
    dataset = WindowDataset(annotations, CONFIG, AugmentationConfig(box_noise=BoxNoise(0.1, 0.1)))
    batch = torch.utils.data.default_collate([dataset[i] for i in range(3)])
    torch.manual_seed(0)
    network = build(CONFIG).eval()
    with torch.no_grad():
        moved, still = network(batch["clip"], batch["places"]), network(batch["clip"])
        torch.testing.assert_close(MaskedSDTC(network)(batch["clip"], places=batch["places"]).heatmaps, moved)
    assert (moved - still).abs().max() > 1e-4 * still.abs().max()
    flow = build(load_config("tiny-synthetic", ["model.motion=optical_flow"]).model)
    with pytest.raises(ConfigError, match="optical_flow' wants one box for all crops of a window, without `places`"):
        flow(batch["clip"], batch["places"])


def test_a_photograph_becomes_a_clip_whose_labels_follow_its_pixels(tmp_path) -> None:
    """A dot on a joint is found in every frame, by the target in the keyframe's crop and the places of the tokens."""
    image = np.zeros((160, 120, 3), np.uint8)
    keypoints = np.zeros((15, 3), np.float32)
    keypoints[9] = 70, 60, 1  # of a pair: it changes its name when mirrored
    cv2.circle(image, (70, 60), 4, (255, 255, 255), -1, cv2.LINE_AA)
    still = AnnotatedPerson(
        tmp_path / "a.jpg", 1, 0, 0, 0, NO_TRACK, np.array([30, 20, 60, 120.0]), np.zeros(4), keypoints
    )
    assert still.is_still
    motion = StillClipConfig(motion_chance=1, occluder_chance=0, blur_chance=0, photometry=PhotometryConfig.none())
    augmentation = AugmentationConfig(box_noise=BoxNoise(0.05, 0.05), still_clip=motion)
    dataset = WindowDataset(AnnotationSet([still]), CONFIG, augmentation, read=lambda path: image)
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    found, moved = 0, 0
    for epoch in range(60):
        dataset.set_epoch(epoch)
        sample = dataset[0]
        if not sample["weights"].any(1).all():
            continue
        joint = int(sample["weights"][2].argmax())
        stride = (np.array(SIZE[::-1]) - 1) / (np.array(CONFIG.heatmap_size[::-1]) - 1)
        for crop, place, heatmap in zip(sample["clip"], sample["places"], sample["heatmaps"][:, joint], strict=True):
            target = np.array([(heatmap.sum(0) * torch.arange(24)).sum(), (heatmap.sum(1) * torch.arange(32)).sum()])
            target = (target / heatmap.sum()).numpy() * stride  # in the keyframe's crop
            token = (target - CONFIG.token_offset) / CONFIG.token_stride
            want = (token * place[[0, 2]].numpy() + place[[1, 3]].numpy()) * CONFIG.token_stride + CONFIG.token_offset
            bright = crop[..., 0].numpy().astype(float)
            if min(want) < 12 or want[0] > SIZE[1] - 13 or want[1] > SIZE[0] - 13 or min(target) < 24:
                continue  # the dot, or the Gaussian, is cut off
            if target[0] > SIZE[1] - 25 or target[1] > SIZE[0] - 25:
                continue
            seen = np.array([(bright * columns).sum(), (bright * rows).sum()]) / bright.sum()
            np.testing.assert_allclose(seen, want, atol=0.3)
            found += 1
        moved += bool((sample["clip"][0] != sample["clip"][4]).any())
    assert found > 60
    assert moved > 20


def test_photographs_are_stills_unless_they_are_to_be_clips(data) -> None:
    annotations = read_annotations(data, "val")
    stills = AnnotationSet([dataclasses.replace(p, first=p.number, last=p.number) for p in annotations.people])
    plain = WindowDataset(AnnotationSet([dataclasses.replace(p, track_id=NO_TRACK) for p in stills.people]), CONFIG)[0]
    assert all(torch.equal(crop, plain["clip"][0]) for crop in plain["clip"])
    assert all(torch.equal(weights, plain["weights"][2]) for weights in plain["weights"])
    assert plain["weights"].any()
    none = WindowDataset(stills, CONFIG, dataclasses.replace(NONE, still_clip=StillClipConfig.none()))[0]
    assert torch.equal(none["clip"], plain["clip"])
    # Those of a sequence are no stills, and have light of their own.
    lit = PhotometryConfig(light_chance=1, defocus_chance=0, noise_chance=0, jpeg_chance=0)
    sequence = WindowDataset(annotations, CONFIG, dataclasses.replace(NONE, still_clip=StillClipConfig()))
    assert torch.equal(sequence[0]["clip"], WindowDataset(annotations, CONFIG)[0]["clip"])
    changed = WindowDataset(annotations, CONFIG, dataclasses.replace(NONE, photometry=lit))[0]
    assert not torch.equal(changed["clip"], sequence[0]["clip"])
    assert torch.equal(changed["heatmaps"], sequence[0]["heatmaps"])


def test_an_epoch_has_each_data_set_as_often_as_its_weight_says() -> None:
    dataset = object.__new__(WindowDataset)
    dataset.people, dataset.seed = [None] * 150, 0
    dataset._sizes, dataset._weights = [100, 50], [0.3, 2.5]
    assert dataset.epoch_length == 30 + 125
    first, second = dataset.order(0), dataset.order(1)
    assert sorted(first) != list(first)
    for order in (first, second):
        times = Counter(order.tolist())
        assert len(order) == len(times) == 155
        people = Counter(index % 150 for index in order)
        assert sum(person < 100 for person in people) == 30
        assert sorted(people[person] for person in range(100, 150)) == [2] * 25 + [3] * 25
    few = [{index % 150 for index in order if index % 150 < 100} for order in (first, second)]
    assert few[0] != few[1]
    assert np.array_equal(first, dataset.order(0))


def test_the_repetitions_of_a_person_are_augmented_differently(data) -> None:
    annotations = read_annotations(data, "val")
    dataset = WindowDataset([annotations, annotations], CONFIG, AugmentationConfig(), weights=[1, 2])
    n = len(annotations.people)
    assert len(dataset) == 2 * n
    assert dataset.epoch_length == 3 * n
    samples = [dataset[index] for index in (n, 2 * n + n)]
    assert not torch.equal(samples[0]["clip"], samples[1]["clip"])


def test_people_whose_left_and_right_are_mixed_up_keep_head_and_neck(data, tmp_path, capsys) -> None:
    root = Path(shutil.copytree(data, tmp_path / "copy"))
    path = root / "annotations" / "val" / "000003_synthetic.json"
    content = json.loads(path.read_text())
    points = np.array(content["annotations"][0]["keypoints"]).reshape(17, 3)
    for joint, place in {5: (60, 40), 6: (90, 40), 11: (90, 90), 12: (60, 90)}.items():  # hips against shoulders
        points[joint] = *place, 1
    points[:3] = [[75, 25, 1], [75, 35, 1], [75, 15, 1]]
    content["annotations"][0]["keypoints"] = points.ravel().tolist()
    path.write_text(json.dumps(content))
    part = {"root": str(root), "split": "val"}
    values = {"train": [part | {"drop_mixed_up": True}], "val": [part], "model": CONFIG.to_dict(), "device": "cpu"}
    config = build_settings(TrainConfig, values | {"epochs": 1, "batch_size": 4, "workers": 0}, "test")
    with Trainer(config, tmp_path / "run") as trainer:
        trainer._tell_about_data()
        (train,), (val,) = trainer.training, trainer.validation
    assert "note     training: 1 people without labels of left and right: mixed up" in capsys.readouterr().err
    assert len(train.people) == len(val.people)
    assert np.flatnonzero(train.people[0].keypoints[:, 2]).tolist() == [0, 1, 2]
    assert val.people[0].keypoints[:, 2].sum() > 5
    for mine, theirs in zip(train.people[1:], val.people[1:], strict=True):
        np.testing.assert_array_equal(mine.keypoints, theirs.keypoints)


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), 1e9])
def test_weights_are_above_nothing(weight) -> None:
    with pytest.raises(ConfigError, match=r"the weight of data set 'data/a' is .*: expected more than 0"):
        DataConfig(Path("data/a"), "train", weight=weight)


def test_data_sets_are_a_list_or_one_alone(tmp_path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("train: {root: x, split: train}\nval:\n- {root: y, split: val}\n- {root: z, split: val}\n")
    config = load_config(str(path))
    assert [part.root for part in config.train] == [Path("x")]
    assert [part.root for part in config.val] == [Path("y"), Path("z")]
    config = load_config(str(path), ["val.1.root=w", "train.root=v", "train.weight=0.5"])
    assert [part.root for part in config.val] == [Path("y"), Path("w")]
    assert config.train == (DataConfig(Path("v"), "train", None, 0.5),)
    assert load_config(str(path), ["val=~"]).val == ()
    for change, sentence in (
        ("val.2.root=w", "`changes` val.2.root: '2' should be the number of one of 2 parts of a list, from 0"),
        ("val.root=w", "`changes` val.root: 'root' should be the number of one of 2 parts of a list, from 0"),
        ("train=[]", "train is an empty list: expected at least one data set"),
        ("augmentation.shift=0.1", r"augmentation\.shift is now augmentation\.box_noise\.centre"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            load_config(str(path), [change])
