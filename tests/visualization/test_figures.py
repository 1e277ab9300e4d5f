"""What is drawn is what the network, the annotations and the masks say: figures are taken apart again."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from sdtc.core.crops import expand_boxes, image_to_crop
from sdtc.core.skeleton import COCO, POSETRACK
from sdtc.evaluation.ap import head_size
from sdtc.model import load_checkpoint
from sdtc.model.reconstruction import sample_masks
from sdtc.training.annotations import AnnotationSet
from sdtc.training.validation import predict
from sdtc.visualization.figures import MASKED, masked_clip, salience
from sdtc.visualization.inside import FEATURES, context_maps, most_varied, trace, unavailable
from sdtc.visualization.panels import Page
from sdtc.visualization.scene import FigureScene
from sdtc.visualization.selection import joint_errors, select, shared_joints, spread, worst


def laid_over(page: Page, row: int, column: int) -> np.ndarray:
    """The heat over a panel's picture, as it was drawn: 0 to 1."""
    return np.asarray(page.axes[row, column].images[1].get_array())


def scaled(values: np.ndarray) -> np.ndarray:
    return (values - values.min()) / (values.max() - values.min())


def lines(axes) -> list[np.ndarray]:
    """Of every skeleton in a panel, the limbs ``[n, 2, 2]``; rims are left out."""
    return [np.stack(collection.get_segments()) for collection in axes.collections[1::3]]


def limbs(keypoints: np.ndarray, shown: np.ndarray, skeleton=POSETRACK) -> np.ndarray:
    return np.stack([keypoints[[a, b], :2] for a, b in skeleton.limbs if shown[a] and shown[b]])


class TestInside:
    def test_features_are_what_the_modules_give(self, scene) -> None:
        network, clip = scene.network, scene.sample["clip"]
        with torch.inference_mode():
            tokens = network.encode(clip)[None]
            R = network.representations(tokens)
            R_P = network.motion.patch_level(R)
            R_F = network.motion.frame_level(R_P)
            R_bar, M_bar = network.fusion.aggregate_r(R), network.fusion.aggregate_m(R_P + R_F)
            F = network.fusion(R, R_P + R_F)
        want = {"R_bar": R_bar[0], "M_bar": M_bar[0], "F": F[0]}
        for name, tokens in (("R_P", R_P), ("R_F", R_F)):
            want[name] = tokens[0, 1].T.reshape(16, 4, 3)  # of the keyframe: t = δ
        found = scene.trace
        assert set(found.features) == set(want) == set(FEATURES)
        for name, value in want.items():
            np.testing.assert_allclose(found.features[name], value.numpy(), atol=1e-6)
        np.testing.assert_allclose(found.heatmaps, network(clip[None])[0].detach().numpy(), atol=1e-6)

    def test_the_network_stays_as_it_was(self, scene) -> None:
        before = scene.network(scene.sample["clip"][None])
        scene.trace  # noqa: B018
        assert not [module for module in scene.network.modules() if module._forward_hooks]
        assert torch.equal(before, scene.network(scene.sample["clip"][None]))

    @pytest.mark.parametrize(
        ("changes", "features", "missing"),
        [
            ({"kind": "vitpose", "delta": 0}, set(), {"6", "8", "11"}),
            ({"motion_encoder": "patch"}, {*FEATURES} - {"R_F"}, set()),
            ({"motion_encoder": "vit"}, {*FEATURES} - {"R_F"}, {"8"}),
            ({"motion": "optical_flow"}, {*FEATURES} - {"R_P", "R_F"}, {"8"}),
            ({"fusion": "add"}, {*FEATURES}, {"6"}),
            ({"fusion": "conv", "delta": 2}, {*FEATURES}, {"6"}),
            ({"delta": 0}, {*FEATURES}, set()),
            ({"delta": 3}, {*FEATURES}, set()),
        ],
        ids=str,
    )
    def test_every_kind_of_network(self, make_checkpoint, annotations, changes, features, missing) -> None:
        network = load_checkpoint(make_checkpoint(**changes)).network
        scene = FigureScene(network, annotations, select(annotations), "micro")
        assert set(scene.trace.features) == features
        assert {value.shape for value in scene.trace.features.values()} <= {(16, 4, 3)}
        assert set(unavailable(network.config)) == missing
        if features:
            assert scene.features().axes.shape == (1, 1 + len(features))


class TestContexts:
    def test_they_are_eq_6_of_the_maps_that_refinement_gets(self, scene) -> None:
        got = {}
        fusion = scene.network.fusion
        handles = [
            module.register_forward_pre_hook(lambda _m, inputs, name=name: got.update({name: inputs[0][0]}))
            for name, module in (("R_bar", fusion.refine_r), ("M_bar", fusion.refine_m))
        ]
        with torch.inference_mode():
            scene.network(scene.sample["clip"][None])
        for handle in handles:
            handle.remove()
        page = scene.contexts(None, 3)
        assert page.axes.shape == (2, 4)
        for row, name in enumerate(("R_bar", "M_bar")):
            X = got[name]  # [C, rows, columns]
            want = X.flatten(1).softmax(1).view_as(X).numpy()
            found = context_maps(scene.trace.features[name], "pixels")
            np.testing.assert_allclose(found, want, atol=1e-6)
            np.testing.assert_allclose(found.sum((1, 2)), 1, atol=1e-5)
            for column, channel in enumerate(np.argsort(-want.reshape(16, -1).var(1))[:3], 1):
                assert page.axes[row, column].get_title().startswith(f"channel {channel}\n")
                np.testing.assert_allclose(laid_over(page, row, column), scaled(want[channel]), atol=1e-4)

    def test_chosen_channels_in_their_order(self, scene) -> None:
        page = scene.contexts([7, 3], 6)
        for row, name in enumerate(("R_bar", "M_bar")):
            for column, channel in ((1, 7), (2, 3)):
                want = context_maps(scene.trace.features[name], "pixels")[channel]
                assert page.axes[row, column].get_title() == f"channel {channel}\npeak {want.max():.2g}"
                np.testing.assert_allclose(laid_over(page, row, column), scaled(want), atol=1e-6)

    def test_they_follow_the_networks_reading(self, make_checkpoint, annotations) -> None:
        network = load_checkpoint(make_checkpoint(context_softmax="channels")).network
        scene = FigureScene(network, annotations, select(annotations), "micro")
        page = scene.contexts([7, 3], 6)
        for row, name in enumerate(("R_bar", "M_bar")):
            X = torch.from_numpy(scene.trace.features[name])
            want = X.softmax(0).numpy()
            np.testing.assert_allclose(context_maps(X.numpy(), "channels"), want, atol=1e-6)
            for column, channel in ((1, 7), (2, 3)):
                assert page.axes[row, column].get_title() == f"channel {channel}\npeak {want[channel].max():.2g}"
                np.testing.assert_allclose(laid_over(page, row, column), scaled(want[channel]), atol=1e-4)
        assert any("Softmax over channels (Eq. 6)" in text.get_text() for text in page.figure.texts)

    def test_channels_that_vary_most(self) -> None:
        maps = np.zeros((4, 2, 2))
        maps[2, 0, 0], maps[1, 0, 1] = 2, 1
        assert most_varied(maps, 3) == [2, 1, 0]


def test_features_are_distances_from_the_mean(scene) -> None:
    page = scene.features()
    for column, name in enumerate(("R_P", "R_F", "M_bar", "R_bar", "F"), 1):
        maps = scene.trace.features[name]
        want = sum(abs(channel - channel.mean()) for channel in maps) / len(maps)
        np.testing.assert_allclose(salience(maps), want, atol=1e-5)
        np.testing.assert_allclose(laid_over(page, 0, column), scaled(want), atol=1e-4)
    np.testing.assert_array_equal(page.axes[0, 0].images[0].get_array(), scene.sample["clip"][1].numpy())


class TestMasks:
    @pytest.mark.parametrize("ratio", [None, 0.0, 0.25, 0.75])
    def test_exactly_the_ratio_is_grey(self, scene, ratio) -> None:
        page = scene.masks(ratio, seed=4)
        assert page.axes.shape == (3, 3)
        shown = np.array([[axes.images[0].get_array() for axes in row] for row in page.axes])  # [3, T, H, W, 3]
        clip = scene.sample["clip"].numpy()
        np.testing.assert_array_equal(shown[0], clip)
        config = scene.network.config
        ratio = config.reconstruction.mask_ratio if ratio is None else ratio
        masking = dataclasses.replace(config.reconstruction, mask_ratio=ratio)
        config = dataclasses.replace(config, reconstruction=masking)
        tubes, frames = sample_masks(config, 1, torch.Generator().manual_seed(4))
        grey = (shown == MASKED).all(-1) | (shown == MASKED + 24).all(-1)
        for t in range(3):
            patches = grey[1, t].reshape(4, 16, 3, 16).all((1, 3)).reshape(-1)
            np.testing.assert_array_equal(patches, tubes[0].numpy())
            assert grey[2, t].all() == bool(frames[0, t])
        assert tubes.sum() == int(ratio * 12)
        assert f"\n{int(ratio * 12)} of 12 patches" in page.axes[1, 0].get_ylabel()
        assert f"\n{int(ratio * 3)} of 3 frames" in page.axes[2, 0].get_ylabel()

    @pytest.mark.slow
    def test_the_seed_decides(self, scene) -> None:
        pictures = [np.array(scene.masks(0.5, seed).axes[1, 0].images[0].get_array()) for seed in (0, 0, 1)]
        assert (pictures[0] == pictures[1]).all()
        assert (pictures[0] != pictures[2]).any()

    def test_what_is_not_masked_stays(self, rng) -> None:
        clip = rng.integers(0, 100, (2, 64, 48, 3), dtype=np.uint8)
        masks = np.zeros((2, 12), bool)
        masks[1, 4] = True  # second row, second column
        found = masked_clip(clip, masks, (4, 3))
        changed = (found != clip).all(-1)
        assert changed.sum() == 256
        assert changed[1, 16:32, 16:32].all()

    def test_a_network_without_frame_masks(self, make_checkpoint, annotations) -> None:
        network = load_checkpoint(make_checkpoint(motion_encoder="patch")).network
        assert FigureScene(network, annotations, select(annotations), "").masks(None, 0).axes.shape == (2, 3)


class TestHeatmaps:
    def test_truth_above_prediction(self, scene) -> None:
        page = scene.heatmaps(["nose", "right_wrist"])
        true, predicted = scene.sample["heatmaps"][1].numpy(), scene.trace.heatmaps
        for row, maps in enumerate((true, predicted)):
            np.testing.assert_allclose(laid_over(page, row, 1), scaled(maps.max(0)), atol=1e-5)
            for column, name in ((2, "nose"), (3, "right_wrist")):
                joint = maps[POSETRACK.keypoints.index(name)]
                assert page.axes[row, column].get_title().endswith(f"peak {joint.max():.2f}")
                np.testing.assert_allclose(laid_over(page, row, column), scaled(joint), atol=1e-5)

    def test_the_brightest_place_lies_at_the_joint(self, scene) -> None:
        """In crop pixels, where the skeleton beside it has the joint."""
        page = scene.heatmaps(["right_wrist"])
        axes = page.axes[0, 2]
        left, right, bottom, top = axes.images[1].get_extent()
        values = laid_over(page, 0, 2)
        y, x = np.unravel_index(values.argmax(), values.shape)
        place = left + (x + 0.5) * (right - left) / values.shape[1], top + (y + 0.5) * (bottom - top) / values.shape[0]
        person = scene.annotations.people[scene.selection.person]
        keypoints = image_to_crop(person.keypoints[:, :2], expand_boxes(person.box, (64, 48)), (64, 48))
        assert np.abs(keypoints[POSETRACK.keypoints.index("right_wrist")] - place).max() < 2.2  # half a heatmap pixel
        np.testing.assert_allclose(lines(page.axes[0, 0])[0], limbs(keypoints, person.keypoints[:, 2] > 0), atol=1e-3)

    @pytest.mark.slow
    def test_a_joint_that_nobody_labelled(self, make_checkpoint, annotations) -> None:
        """COCO's eyes, of which PoseTrack knows nothing."""
        network = load_checkpoint(make_checkpoint(kind="vitpose", delta=0, skeleton="coco")).network
        page = FigureScene(network, annotations, select(annotations), "").heatmaps(["nose", "left_eye"])
        assert "peak" in page.axes[0, 2].get_title()
        assert page.axes[0, 3].get_title() == "left eye\nnot labelled"
        assert len(page.axes[0, 3].images) == 1
        assert len(page.axes[1, 3].images) == 2


class TestPoses:
    def test_predictions_above_truth_and_both_in_the_overlay(self, scene) -> None:
        people, clip = scene.annotations.people, scene.selection.frames
        poses, overlay = scene.poses_over_frames(3), scene.overlay(3)
        found = predict(scene.network, scene.annotations, torch.device("cpu"), own_boxes=False)
        for column, number in enumerate((0, 3, 6)):
            assert poses.axes[0, column].get_title() == overlay.axes[0, column].get_title() == f"frame {number}"
            want_predicted = [limbs(found[i], np.ones(15)) for i in clip[number]]
            want_true = [limbs(people[i].keypoints, people[i].keypoints[:, 2] > 0) for i in clip[number]]
            for want, drawn in (
                (want_predicted, lines(poses.axes[0, column])),
                (want_true, lines(poses.axes[1, column])),
                (want_true, lines(overlay.axes[0, column])[::2]),
                (want_predicted, lines(overlay.axes[0, column])[1::2]),
            ):
                assert len(drawn) == len(want)
                for one, other in zip(drawn, want, strict=True):
                    np.testing.assert_allclose(one, other, atol=1e-3)

    def test_everybody_is_in_view(self, scene) -> None:
        boxes = np.array([person.box for i in scene.selection.frames.values() for person in
                          [scene.annotations.people[j] for j in i]])  # fmt: skip
        axes = scene.overlay(7).axes[0, 0]
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        low, high = np.maximum(boxes[:, :2].min(0), 0), np.minimum((boxes[:, :2] + boxes[:, 2:]).max(0), (128, 96))
        assert left <= low[0] + 1
        assert top <= low[1] + 1
        assert right >= high[0] - 1.5
        assert bottom >= high[1] - 1.5

    def test_one_frame_is_the_keyframe(self, scene) -> None:
        assert scene.overlay(1).axes[0, 0].get_title() == "frame 3"

    def test_the_network_sees_nobody_twice_and_nobody_alone(self, scene, monkeypatch) -> None:
        sizes = []
        scene.network.register_forward_pre_hook(lambda _module, inputs: sizes.append(len(inputs[0])))
        scene.poses_over_frames(4)
        scene.overlay(4)
        scene.failures(range(28), 3, "")
        assert sizes == [8, 20]


class TestFailures:
    def test_the_order_is_that_of_the_true_error(self, scene, annotations) -> None:
        people = annotations.people
        page = scene.failures(range(len(people)), 24, "")
        found = predict(scene.network, annotations, torch.device("cpu"), own_boxes=False).astype(np.float64)
        errors = {}
        for person, pose in zip(people, found, strict=True):
            labelled = person.keypoints[:, 2] > 0
            distances = np.hypot(*(pose[labelled, :2] - person.keypoints[labelled, :2]).T) / head_size(person.head_box)
            key = (person.image.parent.name, person.track_id)
            errors[key] = max(errors.get(key, (0, 0)), (distances.mean(), person.number))
        want = sorted(((error, clip, track, frame) for (clip, track), (error, frame) in errors.items()), reverse=True)
        captions = [axes.get_xlabel() for axes in page.axes.flat if axes.get_xlabel()]
        assert len(captions) == len(want) == 4
        for caption, (error, clip, track, frame) in zip(captions, want, strict=True):
            assert caption.startswith(f"mean error {error:.2f} heads\n")
            assert caption.endswith(f"\n{clip}\nframe {frame}, person {track}")

    def test_truth_and_prediction_are_drawn_where_they_are(self, scene) -> None:
        index = scene.selection.person
        person = scene.annotations.people[index]
        true, predicted = lines(scene.failures([index], 1, "").axes[0, 0])
        box, size = expand_boxes(person.box, (384, 288)), (384, 288)
        want = image_to_crop(person.keypoints[:, :2], box, size)
        np.testing.assert_allclose(true, limbs(want, person.keypoints[:, 2] > 0), atol=1e-3)
        want = image_to_crop(scene.poses([index])[0, :, :2], box, size)
        np.testing.assert_allclose(predicted, limbs(want, np.ones(15)), atol=1e-3)

    def test_errors_are_in_head_sizes_of_labelled_joints(self, annotations) -> None:
        person = annotations.people[0]
        keypoints = person.keypoints.copy()
        keypoints[:, 2] = 1
        keypoints[4, 2] = 0
        person = dataclasses.replace(person, keypoints=keypoints, head_box=np.array([0, 0, 30, 40], np.float32))
        predicted = keypoints[None] + np.array([0, 15, 0], np.float32)
        errors = joint_errors([person], predicted, POSETRACK)
        np.testing.assert_allclose(np.delete(errors[0], 4), 0.5, atol=1e-5)  # 15 / (0.6 × 50)
        assert np.isnan(errors[0, 4])
        bare = dataclasses.replace(person, head_box=np.zeros(4, np.float32))
        neck = np.hypot(*(keypoints[2, :2] - keypoints[1, :2]))  # head_bottom to head_top
        np.testing.assert_allclose(joint_errors([bare], predicted, POSETRACK)[0, 0], 15 / (neck * 6 / 7), rtol=1e-5)

    def test_skeletons_share_joints_by_name(self) -> None:
        mine, theirs = shared_joints(COCO)
        assert [COCO.keypoints[i] for i in mine] == [POSETRACK.keypoints[i] for i in theirs]
        assert len(mine) == 13

    def test_a_track_counts_once_and_people_without_errors_not_at_all(self, annotations) -> None:
        first = annotations.people[0]
        people = [dataclasses.replace(first, track_id=track) for track in (0, 0, 1, -1, -1, 2)]
        errors = np.array([[1, 3], [5, np.nan], [4, 4], [2, 2], [1, 1], [np.nan, np.nan]])
        assert worst(people, errors, 9) == [1, 2, 3, 4]
        assert worst(people, errors, 2) == [1, 2]


class TestSelection:
    def test_the_largest_in_the_middle_of_the_first_clip(self, annotations) -> None:
        found = select(annotations)
        person = annotations.people[found.person]
        assert (found.clip, person.number) == ("000001_synthetic", 3)
        areas = {i: annotations.people[i].box[2:].prod() for i in found.frames[3]}
        assert areas[found.person] == max(areas.values())

    def test_what_was_asked_for(self, annotations) -> None:
        person = annotations.people[select(annotations, "000002_synthetic", 5, 1).person]
        assert (person.image.parent.name, person.number, person.track_id) == ("000002_synthetic", 5, 1)

    def test_the_frame_is_one_of_the_person(self, annotations) -> None:
        """Here person 1 is annotated at the end only."""
        people = [p for p in annotations.people if p.track_id == 0 or p.number > 4]
        found = AnnotationSet(people)
        assert people[select(found, track_id=1).person].number == 5

    @pytest.mark.parametrize(("numbers", "count", "want"), [
        (range(7), 3, [0, 3, 6]), (range(7), 9, list(range(7))), ([4], 3, [4]), (range(10), 2, [0, 9]),
    ])  # fmt: skip
    def test_spread(self, numbers, count, want) -> None:
        assert spread(list(numbers), count) == want


def test_trace_of_one_window_is_that_of_the_batch(scene) -> None:
    """BatchNorm is in evaluation mode, so what else is in a batch changes nothing."""
    clip = scene.sample["clip"]
    with torch.inference_mode():
        together = scene.network(torch.stack([clip, clip.flip(2)]))
    np.testing.assert_allclose(trace(scene.network, clip).heatmaps, together[0].numpy(), atol=1e-5)
