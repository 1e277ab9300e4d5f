"""`sdtc-infer` as a user meets it: in a process of its own, with good input and bad."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

import sdtc.runtime
from sdtc.core.crops import expand_boxes
from sdtc.core.skeleton import POSETRACK, POSETRACK_SLOTS
from sdtc.runtime.cli import main
from sdtc.runtime.options import EngineOptions, TrackOptions
from sdtc.synthetic import ClipOptions, SyntheticClip, write_clip
from tests.runtime.output.test_sound import check_in_step, heard
from tests.runtime.output.test_sound import write_clip as write_clip_with_sound


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """A rendered clip: `000005_synthetic.mp4`, its frames and its ground truth."""
    folder = tmp_path_factory.mktemp("clip")
    write_clip(SyntheticClip(ClipOptions(seed=5, num_frames=12, size=(240, 320), num_people=2)), folder)
    return folder


@pytest.fixture
def bundle(tiny_bundle, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def video(clip: Path) -> Path:
    return clip / "000005_synthetic.mp4"


def truth(clip: Path) -> Path:
    return clip / "annotations" / "val" / "000005_synthetic.json"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sdtc.runtime.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def one_sentence(text: str) -> str:
    """What stands on stderr: exactly one line, which is an error and no traceback."""
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert lines[0].startswith("sdtc-infer: error: ")
    return lines[0]


@pytest.mark.slow
def test_a_video_with_boxes(tiny_bundle, clip, tmp_path) -> None:
    done = run(
        "--engine", tiny_bundle / "model.plan", "--input", video(clip), "--boxes", truth(clip),
        "--output", tmp_path, "--save-video",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "on onnxruntime" in done.stdout or "on openvino" in done.stdout
    assert "untrained" in done.stdout
    data = json.loads((tmp_path / "000005_synthetic.json").read_text())
    annotations = json.loads(truth(clip).read_text())
    assert [image["id"] for image in data["images"]] == [image["id"] for image in annotations["images"]]
    given = sorted((a["image_id"], a["track_id"]) for a in annotations["annotations"])
    assert sorted((a["image_id"], a["track_id"]) for a in data["annotations"]) == given
    assert f"\ndone     12 frames, {len(given)} poses of {len({track for _, track in given})} people in " in done.stdout
    with av.open(str(tmp_path / "000005_synthetic.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 12


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_overlay_has_the_sound_of_the_video(tiny_bundle, tmp_path, suffix) -> None:
    """Copied from the one file, encoded anew from the other; it ends with the pictures."""
    path = write_clip_with_sound(tmp_path / f"clip.{suffix}", "aac" if suffix == "mp4" else "flac")
    nobody = tmp_path / "nobody.json"
    nobody.write_text("[]")
    done = run(
        "--engine", tiny_bundle, "--input", path, "--boxes", nobody, "--output", tmp_path / "out", "--save-video",
        "--max-frames", 50, "--smooth",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "sound" not in done.stdout.replace(str(tmp_path), "")
    check_in_step(tmp_path / "out" / "clip.mp4", 2)
    times, _ = heard(tmp_path / "out" / "clip.mp4")
    assert times[-1] == pytest.approx(2, abs=0.03)


@pytest.mark.slow
def test_a_note_says_that_sound_is_left_out(tiny_bundle, tmp_path) -> None:
    path = write_clip_with_sound(tmp_path / "clip.mov", "pcm_s16le")
    path.write_bytes(path.read_bytes().replace(b"sowt", b"zzzz"))
    nobody = tmp_path / "nobody.json"
    nobody.write_text("[]")
    done = run(
        "--engine", tiny_bundle, "--input", path, "--boxes", nobody, "--output", tmp_path / "out", "--save-video"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("has no sound: no decoder here knows how it is stored") == 1
    assert (tmp_path / "out" / "clip.mp4").exists()


@pytest.mark.slow
@pytest.mark.parametrize("output_format", ["coco", "jsonl"])
def test_formats(tiny_bundle, clip, tmp_path, output_format) -> None:
    """What the file says is what the engine answers."""
    images = clip / "images" / "val" / "000005_synthetic"
    arguments = ["--engine", tiny_bundle, "--input", images, "--boxes", truth(clip), "--backend", "onnxruntime",
                 "--output", tmp_path, "--format", output_format, "--quiet"]  # fmt: skip
    assert main([*map(str, arguments)]) == 0
    (path,) = tmp_path.iterdir()
    assert path.name == f"000005_synthetic.{output_format if output_format == 'jsonl' else 'json'}"
    with sdtc.runtime.open(tiny_bundle / "model.onnx", EngineOptions(backend="onnxruntime")) as engine:
        results = list(engine.track(images, TrackOptions(boxes=truth(clip))))
    poses = [(result, pose) for result in results for pose in result.poses]
    assert len(results) == 12
    assert len(poses) > 12
    if output_format == "coco":
        written = json.loads(path.read_text())
        named = dict(zip(POSETRACK.keypoints, range(15), strict=True))
        slots = [named.get(name) for name in POSETRACK_SLOTS]  # the ears are nobody's
        expected = [[[0, 0, 0] if k is None else pose.keypoints[k] for k in slots] for _, pose in poses]
        assert [entry["image_id"] for entry in written] == [result.image_id for result, _ in poses]
        assert {entry["category_id"] for entry in written} == {1}
    else:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [(line["frame"], line["name"]) for line in lines] == [(n, f"{n:06d}.jpg") for n in range(12)]
        assert [len(line["poses"]) for line in lines] == [len(result.poses) for result in results]
        written = [entry for line in lines for entry in line["poses"]]
        expected = [pose.keypoints for _, pose in poses]
        assert [entry["bbox_score"] for entry in written] == [round(pose.bbox_score, 5) for _, pose in poses]
    assert [entry["track_id"] for entry in written] == [pose.track_id for _, pose in poses]
    np.testing.assert_allclose([entry["score"] for entry in written], [pose.score for _, pose in poses], atol=1e-4)
    np.testing.assert_allclose([entry["bbox"] for entry in written], [pose.bbox for _, pose in poses], atol=2e-3)
    keypoints = np.array([entry["keypoints"] for entry in written])
    np.testing.assert_allclose(keypoints.ravel(), np.array(expected).ravel(), atol=2e-3)


@pytest.mark.slow
def test_a_glob_of_inputs_gives_a_file_each(tiny_bundle, clip, tmp_path) -> None:
    shutil.copy(video(clip), tmp_path / "a.mp4")
    shutil.copy(video(clip), tmp_path / "b.mp4")
    (tmp_path / "c.mp4").write_bytes(b"")
    done = run("--engine", tiny_bundle / "model.onnx", "--input", tmp_path / "*.mp4", "--output", tmp_path / "out",
               "--max-frames", 2)  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.json", "b.json"]
    assert done.returncode == 1
    assert "c.mp4' is empty" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_quiet_says_nothing(tiny_bundle, clip, tmp_path) -> None:
    done = run("--engine", tiny_bundle, "--input", video(clip), "--boxes", truth(clip), "--output", tmp_path, "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_an_onnx_detector_finds_the_people(tiny_bundle, clip, tmp_path) -> None:
    """A network in YOLO's end-to-end layout that always answers one person in the middle of its input."""
    from onnx import TensorProto, helper, numpy_helper, save

    answer = np.array([[[160, 160, 480, 480, 0.9, 0]]], np.float32)  # corners in 640x640, score, class
    nodes = [
        helper.make_node("ReduceMax", ["images"], ["brightest"], keepdims=0),
        helper.make_node("Mul", ["brightest", "zero"], ["nothing"]),
        helper.make_node("Add", ["answer", "nothing"], ["output0"]),
    ]
    constants = [numpy_helper.from_array(answer, "answer"), numpy_helper.from_array(np.float32(0), "zero")]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 640, 640])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 1, 6])],
        constants,
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "yolo.onnx")
    done = run("--engine", tiny_bundle, "--input", video(clip), "--detector", tmp_path / "yolo.onnx",
               "--output", tmp_path / "out", "--max-frames", 3, "--quiet")  # fmt: skip
    assert done.returncode == 0, done.stderr
    poses = json.loads((tmp_path / "out" / "000005_synthetic.json").read_text())["annotations"]
    assert len(poses) == 3
    # 320x240 in a letterbox of 640x480 with 80 rows above: x 80-240, y (160-80)/2 - (480-80)/2
    assert poses[0]["bbox"] == pytest.approx([80, 40, 160, 160], abs=1)
    assert {pose["track_id"] for pose in poses} == {0}


@pytest.mark.slow
def test_a_vitpose_bundle_gives_coco_joints(clip, tmp_path) -> None:
    """A whole ViTPose, random weights, through export and `sdtc-infer`, as on the day someone installs this."""
    from sdtc.export.bundle import ExportOptions, export
    from sdtc.model import BackboneConfig, ModelConfig, build, save_checkpoint

    config = ModelConfig(
        name="vitpose", kind="vitpose", skeleton="coco", delta=0, head="classic", input_size=(64, 48),
        backbone=BackboneConfig(32, 1, 2, frozen=False),
    )  # fmt: skip
    save_checkpoint(tmp_path / "vitpose.pth", build(config), trained=True)
    export(tmp_path / "vitpose.pth", tmp_path / "bundle", ExportOptions(batch=(1, 2, 4), plan=False), quiet=True)
    done = run(
        "--engine", tmp_path / "bundle", "--input", video(clip), "--boxes", truth(clip), "--output", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    assert "untrained" not in done.stdout
    poses = json.loads((tmp_path / "out" / "000005_synthetic.json").read_text())
    assert isinstance(poses, list)
    assert {len(pose["keypoints"]) for pose in poses} == {51}
    done = run("--engine", tmp_path / "bundle", "--input", video(clip), "--boxes", truth(clip), "--quiet",
               "--output", tmp_path / "none", "--format", "posetrack")  # fmt: skip
    assert done.returncode == 2
    assert "use coco or jsonl" in one_sentence(done.stderr)
    assert list((tmp_path / "none").iterdir()) == []


def test_help_is_quick_and_teaches() -> None:
    """It loads neither NumPy nor anything else that takes time."""
    command = [sys.executable, "-X", "importtime", "-m", "sdtc.runtime.cli", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "examples:" in done.stdout
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "sdtc.core.command_line" in loaded
    assert not {"numpy", "cv2", "av", "tqdm", "torch", "onnxruntime", "openvino", "sdtc.runtime.engine"} & loaded


# --- bad input: one clear sentence, a non-zero exit, nothing lost ------------------------------------------------


@pytest.mark.slow
def test_missing_and_empty_video(tiny_bundle, tmp_path) -> None:
    done = run("--engine", tiny_bundle, "--input", tmp_path / "no.mp4", "--output", tmp_path / "out", "--quiet")
    assert done.returncode == 2
    assert "does not exist" in one_sentence(done.stderr)
    (tmp_path / "empty.mp4").write_bytes(b"")
    done = run("--engine", tiny_bundle, "--input", tmp_path / "empty.mp4", "--output", tmp_path / "out", "--quiet")
    assert done.returncode == 2
    assert "is empty (0 bytes)" in one_sentence(done.stderr)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
def test_a_video_cut_off_in_the_middle(tiny_bundle, clip, tmp_path) -> None:
    whole = video(clip).read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: int(0.85 * len(whole))])  # most of it is the first frame
    done = run("--engine", tiny_bundle, "--input", path, "--output", tmp_path / "out", "--save-video", "--quiet")
    assert done.returncode == 1
    message = one_sentence(done.stderr)
    frames = len(json.loads((tmp_path / "out" / "cut.json").read_text())["images"])
    assert 0 < frames < 12
    assert f"after frame {frames - 1}" in message
    with av.open(str(tmp_path / "out" / "cut.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == frames


@pytest.mark.slow
def test_a_folder_with_one_broken_image(tiny_bundle, clip, tmp_path) -> None:
    folder = Path(shutil.copytree(clip / "images" / "val" / "000005_synthetic", tmp_path / "000005_synthetic"))
    (folder / "000003.jpg").write_bytes(b"\xff\xd8 broken")
    done = run(
        "--engine", tiny_bundle, "--input", folder, "--boxes", truth(clip), "--output", tmp_path / "out", "--quiet"
    )
    assert done.returncode == 1
    assert "000003.jpg' cannot be read" in one_sentence(done.stderr)
    data = json.loads((tmp_path / "out" / "000005_synthetic.json").read_text())
    assert len(data["images"]) == 12
    assert {a["image_id"] for a in data["annotations"]} == {i["id"] for n, i in enumerate(data["images"]) if n != 3}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "sentence", "code"),
    [
        ({"image_id": 99, "bbox": [1, 1, 50, 50], "score": 1}, "that do not exist, the first 99", 1),
        ({"image_id": 0}, "no usable 'bbox'", 2),
        ({"image_id": 0, "bbox": [1, 1, 50, 50], "score": 87}, "score is 87, expected a number from 0 to 1", 2),
    ],
    ids=["frame", "keys", "score"],
)
def test_bad_boxes(tiny_bundle, clip, tmp_path, entry, sentence, code) -> None:
    shutil.copy(video(clip), tmp_path / "v.mp4")
    (tmp_path / "boxes.json").write_text(json.dumps([{"image_id": 0, "bbox": [9, 9, 50, 50], "score": 1}, entry]))
    done = run("--engine", tiny_bundle, "--input", tmp_path / "v.mp4", "--boxes", tmp_path / "boxes.json",
               "--output", tmp_path / "out", "--quiet")  # fmt: skip
    assert done.returncode == code
    assert sentence in one_sentence(done.stderr)


@pytest.mark.slow
def test_unusable_boxes_are_left_out_and_told(tiny_bundle, clip, tmp_path) -> None:
    shutil.copy(video(clip), tmp_path / "v.mp4")
    entries = [{"image_id": i, "bbox": [9 if i != 7 else 999, 9, 50, 50], "score": 1, "track_id": 4} for i in range(9)]
    entries += [entries[0] | {"bbox": [1, 1, 0, 50]}, {"image_id": 3, "bbox": [9, 9, 50, 50], "score": 1}]
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    done = run("--engine", tiny_bundle, "--input", tmp_path / "v.mp4", "--boxes", tmp_path / "boxes.json",
               "--output", tmp_path / "out", "--format", "jsonl")  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "note     boxes left out: 1 with no box area\n" in done.stdout
    left_out = "boxes left out: 1 outside the image, the first [999.0, 9.0, 50.0, 50.0] of frame 7, which has 320x240 "
    assert f"note     v: {left_out}pixels\n" in done.stdout
    assert "note     v: track ids of the boxes are not used, because image_id 3 has a box without one\n" in done.stdout
    frames = [json.loads(line)["poses"] for line in (tmp_path / "out" / "v.jsonl").read_text().splitlines()]
    assert [len(poses) for poses in frames] == [1, 1, 1, 2, 1, 1, 1, 0, 1, 0, 0, 0]
    ids = [pose["track_id"] for poses in frames for pose in poses]
    assert set(ids) == {0, 1}


@pytest.mark.slow
def test_nothing_but_boxes_outside(tiny_bundle, clip, tmp_path) -> None:
    shutil.copy(video(clip), tmp_path / "v.mp4")
    entries = [{"image_id": i, "bbox": [999, 9, 50, 50], "score": 1} for i in range(12)]
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    done = run("--engine", tiny_bundle, "--input", tmp_path / "v.mp4", "--boxes", tmp_path / "boxes.json",
               "--output", tmp_path / "out", "--quiet")  # fmt: skip
    assert done.returncode == 1
    assert "all 12 lie outside the image, the first [999.0, 9.0, 50.0, 50.0] of frame 0" in one_sentence(done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "options"), [("model.encoder.onnx", []), ("model.onnx", ["--exact"])])
def test_a_bundle_whose_hash_does_not_match(bundle, clip, tmp_path, file, options) -> None:
    (bundle / file).write_bytes((bundle / file).read_bytes()[:-1] + b"\x00")
    output = tmp_path / "out"
    done = run("--engine", bundle / "model.plan", "--input", video(clip), "--output", output, "--quiet", *options)
    assert done.returncode == 2
    assert "its manifest says" in one_sentence(done.stderr)


def frames_of_windows(path: Path) -> int:
    """How many different frames there are in all windows of five that people of a clip of 12 frames are in."""
    numbers = [annotation["image_id"] % 10_000 for annotation in json.loads(path.read_text())["annotations"]]
    return sum(len({min(max(number + offset, 0), 11) for offset in range(-2, 3)}) for number in numbers)


@pytest.mark.slow
def test_frame_by_frame_and_exact_say_which_they_are(bundle, clip, tmp_path) -> None:
    poses = {}
    for name, options in {"held": [], "not held": ["--hold", "0"], "exact": ["--exact"]}.items():
        output = tmp_path / name
        done = run(
            "--engine", bundle / "model.onnx", "--input", video(clip), "--boxes", truth(clip), "--output", output,
            "--format", "jsonl", "--backend", "onnxruntime", *options,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert ("whole windows" if name == "exact" else "frame by frame") in done.stdout
        counted = re.search(r"^tokens   (\d+) person crops encoded, (\d+) reused", done.stdout, re.MULTILINE)
        if name == "exact":
            assert counted is None
        else:
            assert counted
            assert int(counted[1]) + int(counted[2]) == frames_of_windows(truth(clip))
            assert (int(counted[2]) > 0) is (name == "held")
        lines = [json.loads(line) for line in next(output.iterdir()).read_text().splitlines()]
        poses[name] = np.array([pose["keypoints"] for line in lines for pose in line["poses"]])
    np.testing.assert_allclose(poses["not held"], poses["exact"], atol=0.01)
    assert np.abs(poses["held"] - poses["exact"]).max() > 0.01  # the boxes did move


@pytest.mark.slow
def test_smoothed_poses_keep_their_scores(tiny_bundle, clip, tmp_path) -> None:
    poses = {}
    for name, options in {"plain": [], "smooth": ["--smooth"]}.items():
        output = ["--output", str(tmp_path / name), "--format", "jsonl", "--quiet"]
        arguments = ["--engine", tiny_bundle, "--input", video(clip), "--boxes", truth(clip)]
        assert main([*map(str, arguments), *output, *options]) == 0
        lines = (tmp_path / name / "000005_synthetic.jsonl").read_text().splitlines()
        poses[name] = [np.array([pose["keypoints"] for pose in json.loads(line)["poses"]]) for line in lines]
    np.testing.assert_array_equal(poses["smooth"][0], poses["plain"][0])
    for smooth, plain in zip(poses["smooth"][1:], poses["plain"][1:], strict=True):
        np.testing.assert_array_equal(smooth[..., 2], plain[..., 2])
        assert not np.allclose(smooth[..., :2], plain[..., :2], atol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--exact", "--hold", "0.1"], "--exact holds no boxes"),
        (["--hold", "0.9"], "--hold is 0.9: expected 0"),
        (["--hold", "nan"], "--hold is nan: expected 0"),
        (["--lookahead", "3"], "--lookahead is 3: expected 0 to 2"),
        (["--precision", "bf16", "--backend", "onnxruntime"], "--precision bf16 is how OpenVINO computes"),
    ],
)
def test_streaming_options_that_cannot_be(bundle, clip, tmp_path, options, sentence) -> None:
    done = run("--engine", bundle / "model.onnx", "--input", video(clip), "--output", tmp_path / "out", *options)
    assert done.returncode == 2
    assert sentence in one_sentence(done.stderr)


@pytest.mark.slow
def test_streaming_options_without_the_streaming_pair(bundle, clip, tmp_path, monkeypatch, capsys) -> None:
    arguments = ["--engine", bundle / "model.onnx", "--input", video(clip), "--output", tmp_path / "out", "--quiet"]
    with monkeypatch.context() as patch:
        # A bundle has the pair always, but may have no engines of it for a GPU.
        patch.setattr("sdtc.runtime.estimation.choose_estimator._can_stream", lambda *_: False)
        assert main([*map(str, arguments), "--hold", "0.1"]) == 2
        assert "--hold is for bundles with the streaming pair" in one_sentence(capsys.readouterr().err)
        assert list((tmp_path / "out").iterdir()) == []
        # Whole windows can wait for fewer frames too.
        assert main([*map(str, arguments), "--lookahead", "1", "--max-frames", "3"]) == 0
    manifest = json.loads((bundle / "model.json").read_text())
    manifest["graphs"] = {"model": manifest["graphs"]["model"]}
    (bundle / "model.json").write_text(json.dumps(manifest))
    done = run(*arguments, "--hold", "0.1")
    assert done.returncode == 2
    assert "is damaged (graphs are ['model']): export the checkpoint again" in one_sentence(done.stderr)


@pytest.mark.slow
def test_a_lookahead_of_another_model_is_refused_once(tiny_bundle, clip, tmp_path) -> None:
    for name in "ab":
        shutil.copy(video(clip), tmp_path / f"{name}.mp4")
    out = tmp_path / "out"
    done = run("--engine", tiny_bundle, "--input", tmp_path / "*.mp4", "--output", out, "--quiet", "--lookahead", "3")
    assert done.returncode == 2
    assert "--lookahead is 3: expected 0 to 2, this model's delta" in one_sentence(done.stderr)
    assert list(out.iterdir()) == []


@pytest.mark.slow
def test_a_folder_of_boxes_has_a_file_for_each_input(tiny_bundle, clip, tmp_path) -> None:
    """As PoseTrack distributes its annotations."""
    frames = clip / "images" / "val" / "000005_synthetic"
    shutil.copytree(frames, tmp_path / "in" / "000005_synthetic")
    shutil.copytree(frames, tmp_path / "in" / "000006_synthetic")
    arguments = ["--engine", tiny_bundle, "--boxes", truth(clip).parent, "--format", "jsonl", "--quiet"]
    done = run(*arguments, "--input", tmp_path / "in" / "*", "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "has no '000006_synthetic.json' for the input '000006_synthetic'" in one_sentence(done.stderr)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["000005_synthetic.jsonl"]
    arguments[3] = truth(clip)
    done = run(*arguments, "--input", tmp_path / "in" / "000005_synthetic", "--output", tmp_path / "one file")
    assert done.returncode == 0, done.stderr
    found, want = (next((tmp_path / name).iterdir()).read_text().splitlines() for name in ("out", "one file"))
    for a, b in zip(map(json.loads, found), map(json.loads, want), strict=True):
        assert [p["bbox"] for p in a["poses"]] == [p["bbox"] for p in b["poses"]]
    done = run("--engine", tiny_bundle, "--boxes", tmp_path, "--input", video(clip), "--output", tmp_path, "--quiet")
    assert done.returncode == 2
    assert "has no '000005_synthetic.json'" in one_sentence(done.stderr)


@pytest.mark.slow
def test_a_folder_of_boxes_is_not_written_over(tiny_bundle, clip, tmp_path) -> None:
    boxes = Path(shutil.copy(truth(clip), tmp_path))
    before = boxes.read_bytes()
    done = run("--engine", tiny_bundle, "--boxes", tmp_path, "--input", video(clip), "--output", tmp_path, "--quiet")
    assert done.returncode == 2
    assert "would replace a file that is being read" in one_sentence(done.stderr)
    assert boxes.read_bytes() == before


def test_a_newer_schema(bundle, clip, tmp_path) -> None:
    manifest = json.loads((bundle / "model.json").read_text())
    (bundle / "model.json").write_text(json.dumps(manifest | {"schema_version": 99}))
    done = run("--engine", bundle, "--input", video(clip), "--output", tmp_path / "out", "--quiet")
    assert done.returncode == 2
    assert "schema version 99, this sdtc reads up to 1" in one_sentence(done.stderr)


@pytest.mark.slow
def test_a_plan_without_a_gpu(tiny_plans, bundle, clip, tmp_path) -> None:
    from sdtc.runtime.backends.cuda import gpu_or_reason

    if gpu_or_reason()[0]:
        pytest.skip("there is a GPU here")
    arguments = ["--engine", bundle / "model.plan", "--input", video(clip), "--output", tmp_path / "out"]
    done = run(*arguments, "--device", "cuda", "--quiet")
    assert done.returncode == 1
    assert "no usable GPU" in one_sentence(done.stderr)
    done = run(*arguments, "--max-frames", 1)
    assert done.returncode == 0
    notes = [line for line in done.stdout.splitlines() if "running the bundle's ONNX on the CPU" in line]
    assert len(notes) == 1
    (bundle / "model.encoder.onnx").unlink()
    done = run(*arguments, "--quiet")
    assert done.returncode == 2
    assert "model.encoder.onnx' is missing" in one_sentence(done.stderr)


@pytest.mark.gpu
def test_an_engine_of_another_version_on_a_gpu(gpu_bundle, clip, tmp_path) -> None:
    bundle = Path(shutil.copytree(gpu_bundle, tmp_path / "bundle"))
    manifest = json.loads((bundle / "model.json").read_text())
    flavour = manifest["engine"]["flavour"]
    manifest["engine"]["version"] = "1.0.0.1"
    (bundle / "model.json").write_text(json.dumps(manifest))
    done = run("--engine", bundle / "model.plan", "--input", video(clip), "--output", tmp_path / "out", "--quiet")
    assert done.returncode == 1
    assert f"built by {flavour} 1.0.0.1, installed is" in one_sentence(done.stderr)


def test_an_output_folder_that_cannot_be_written(tiny_bundle, clip, tmp_path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = run("--engine", tiny_bundle, "--input", video(clip), "--output", tmp_path / "file" / "out", "--quiet")
    assert done.returncode == 1
    assert "cannot write to the folder" in one_sentence(done.stderr)


@pytest.mark.slow
def test_a_text_file_as_engine_and_as_detector(tiny_bundle, clip, tmp_path) -> None:
    (tmp_path / "model.onnx").write_text("hello")
    done = run("--engine", tmp_path / "model.onnx", "--input", video(clip), "--output", tmp_path / "out", "--quiet")
    assert done.returncode == 2
    assert "has no manifest beside it" in one_sentence(done.stderr)
    done = run("--engine", tiny_bundle, "--input", video(clip), "--detector", tmp_path / "model.onnx",
               "--output", tmp_path / "out", "--quiet")  # fmt: skip
    assert done.returncode == 2
    one_sentence(done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize(
    "how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["ctrl-c", "container stopped", "terminal closed"]
)
@pytest.mark.parametrize("output_format", ["jsonl", "posetrack"])
def test_an_interrupt_leaves_valid_files(tiny_bundle, clip, tmp_path, how, output_format) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    image = cv2.imread(str(next((clip / "images" / "val" / "000005_synthetic").iterdir())))
    for number in range(400):
        cv2.imwrite(str(folder / f"{number:06d}.jpg"), image)
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "sdtc.runtime.cli", "--engine", tiny_bundle, "--input", folder, "--save-video",
        "--output", out, "--format", output_format, "--quiet",
    ]  # fmt: skip
    process = subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, text=True, start_new_session=True,
        # A shell that runs the tests in the background has them, and their children, ignore Ctrl-C, and `nohup` a
        # terminal that is closed.
        preexec_fn=lambda: signal.signal(how, signal.default_int_handler if how == signal.SIGINT else signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(out.glob(".frames.mp4*")):
        time.sleep(0.05)
    time.sleep(1.0)
    os.kill(process.pid, how)
    if how == signal.SIGINT:
        os.kill(process.pid, how)  # an impatient user
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "interrupted" in stderr
    if output_format == "jsonl":
        frames = [json.loads(line)["frame"] for line in (out / "frames.jsonl").read_text().splitlines()]
    else:
        frames = [image["id"] for image in json.loads((out / "frames.json").read_text())["images"]]
    assert 0 < len(frames) < 400
    assert frames == list(range(len(frames)))
    names = {path.name for path in out.iterdir()}
    assert names <= {f"frames.{'jsonl' if output_format == 'jsonl' else 'json'}", "frames.mp4"}
    if "frames.mp4" in names:
        with av.open(str(out / "frames.mp4")) as container:
            assert abs(sum(1 for _ in container.decode(video=0)) - len(frames)) <= 1


@pytest.mark.slow
def test_results_never_replace_what_is_read(bundle, clip, tmp_path) -> None:
    shutil.copy(video(clip), tmp_path / "v.mp4")
    before = (tmp_path / "v.mp4").read_bytes()
    done = run("--engine", bundle, "--input", tmp_path / "v.mp4", "--output", tmp_path, "--save-video", "--quiet")
    assert done.returncode == 2
    assert "would replace a file that is being read" in one_sentence(done.stderr)
    assert (tmp_path / "v.mp4").read_bytes() == before
    shutil.copy(truth(clip), tmp_path / "000005_synthetic.json")
    done = run("--engine", bundle, "--input", video(clip), "--boxes", tmp_path / "000005_synthetic.json",
               "--output", tmp_path, "--quiet")  # fmt: skip
    assert done.returncode == 2
    assert "would replace" in one_sentence(done.stderr)
    shutil.copy(video(clip), bundle / "model.mp4")
    done = run("--engine", bundle, "--input", bundle / "model.mp4", "--output", bundle, "--quiet")
    assert done.returncode == 2
    assert "would replace" in one_sentence(done.stderr)


@pytest.mark.slow
def test_a_reader_that_goes_away_stops_nothing(tiny_bundle, clip, tmp_path) -> None:
    command = f"{sys.executable} -m sdtc.runtime.cli --engine {tiny_bundle} --input {video(clip)} --output {tmp_path}"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command} | true"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(json.loads((tmp_path / "000005_synthetic.json").read_text())["images"]) == 12


@pytest.mark.slow
def test_one_bad_input_among_many_is_told_and_the_others_are_done(tiny_bundle, clip, tmp_path) -> None:
    """Boxes for one of two folders; whichever comes first."""
    frames = clip / "images" / "val" / "000005_synthetic"
    for name in ("a_other", "z_other"):
        shutil.copytree(frames, tmp_path / "in" / name)
    shutil.copytree(frames, tmp_path / "in" / "000005_synthetic")
    done = run("--engine", tiny_bundle, "--input", tmp_path / "in" / "*", "--boxes", truth(clip),
               "--output", tmp_path / "out", "--quiet")  # fmt: skip
    assert "000005_synthetic.json" in {path.name for path in (tmp_path / "out").iterdir()}
    assert done.returncode in (0, 1)
    assert all(line.startswith("sdtc-infer: error: ") for line in done.stderr.splitlines())


@pytest.mark.slow
def test_sparse_frames_keep_their_ids(tiny_bundle, clip, tmp_path) -> None:
    folder = tmp_path / "000005_synthetic"
    folder.mkdir()
    for name in ("000000.jpg", "000011.jpg"):
        shutil.copy(clip / "images" / "val" / "000005_synthetic" / name, folder / name)
    boxes = [{"image_id": 10000050000 + n, "bbox": [9, 9, 80, 90], "score": 1} for n in (0, 11)]
    (tmp_path / "boxes.json").write_text(json.dumps(boxes))
    done = run("--engine", tiny_bundle, "--input", folder, "--boxes", tmp_path / "boxes.json",
               "--output", tmp_path / "o", "--quiet")  # fmt: skip
    assert done.returncode == 0, done.stderr
    data = json.loads((tmp_path / "o" / "000005_synthetic.json").read_text())
    assert [pose["image_id"] for pose in data["annotations"]] == [10000050000, 10000050011]


def test_choices_of_the_command_are_those_of_the_runtime() -> None:
    """Stated again in the command, so that `--help` needs no NumPy."""
    from sdtc.runtime.backends.arguments import BACKENDS, DEVICES
    from sdtc.runtime.cli import _parser
    from sdtc.runtime.output.drawing import MIN_KEYPOINT_SCORE
    from sdtc.runtime.output.writers import FORMATS

    actions = {action.dest: action for action in _parser()._actions}
    assert tuple(actions["backend"].choices) == BACKENDS
    assert tuple(actions["device"].choices) == DEVICES
    assert tuple(actions["format"].choices) == FORMATS
    assert actions["min_score"].default == MIN_KEYPOINT_SCORE


@pytest.mark.slow
def test_three_real_videos_run_to_the_end(tiny_bundle, real_data, tmp_path) -> None:
    """The short ones whole; of the long one, which begins with empty frames, the first 150.

    All of it is what benchmarks/memory.py runs.
    """
    for name, frames in (("street-5-frames", 5), ("football-5-frames", 5), ("one-by-one", 150)):
        arguments = ["--engine", tiny_bundle, "--input", real_data / "videos" / f"{name}.mp4", "--output", tmp_path]
        assert main([*map(str, arguments), "--max-frames", "150", "--quiet"]) == 0
        data = json.loads((tmp_path / f"{name}.json").read_text())
        assert len(data["images"]) == frames
        seen = {annotation["image_id"] for annotation in data["annotations"]}
        assert seen or name == "one-by-one"
        if name == "one-by-one":
            assert len(seen) < frames  # nobody is there at first


def test_python_api_of_a_few_lines(tiny_bundle, clip) -> None:
    found = []
    with sdtc.runtime.open(tiny_bundle / "model.plan") as engine:
        for frame in engine.track(video(clip), TrackOptions(boxes=truth(clip))):
            for pose in frame.poses:
                assert pose.keypoints.shape == (15, 3)
                x, y, width, height = expand_boxes(pose.bbox, (128, 96))  # the crop, which may be held a little off
                points = (pose.keypoints[:, :2] - (x, y)) / (width, height)
                assert (points >= -0.1).all()
                assert (points <= 1.1).all()
                assert (np.ptp(points, axis=0) > 0.1).all()
                found.append((frame.image_id, pose.track_id, *np.round(pose.bbox, 2)))
    given = json.loads(truth(clip).read_text())["annotations"]
    assert len(found) > 12
    assert found == [(a["image_id"], a["track_id"], *np.round(np.float32(a["bbox"]), 2)) for a in given]
