"""`sdtc-eval` as a user meets it: table, JSON, plot, and one sentence for every mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdtc.evaluation.ap import COLUMNS
from sdtc.evaluation.cli import DATASETS, main
from sdtc.evaluation.pck import COLUMNS as COLUMNS_OF_PCK
from sdtc.evaluation.plot import column_curve
from sdtc.evaluation.score_table import PAPER


def annotations(root: Path) -> list[Path]:
    return sorted((root / "annotations" / "val").iterdir())


@pytest.fixture
def labelled(dataset, tmp_path) -> Path:
    """The ground truth with known difficulties: every second person of a frame is hard."""
    folder = tmp_path / "truth"
    folder.mkdir()
    for path in annotations(dataset):
        data = json.loads(path.read_text())
        for entry in data["annotations"]:
            entry["difficulty"] = ["hard"] * (entry["track_id"] % 2)
        for entry in data["images"]:
            entry.pop("difficulty", None)
        (folder / path.name).write_text(json.dumps(data))
    return folder


@pytest.fixture
def poses(dataset, tmp_path) -> Path:
    """Predictions: the truth, but no frame 3, and the second person's wrists far off, at the higher score."""
    folder = tmp_path / "poses"
    folder.mkdir()
    for path in annotations(dataset):
        data = json.loads(path.read_text())
        data["annotations"] = [entry for entry in data["annotations"] if entry["image_id"] % 10 != 3]
        for entry in data["annotations"]:
            second = entry["track_id"] % 2
            entry["scores"] = [0.9 if second else 0.5] * 17
            if second:
                for slot in (9, 10):
                    entry["keypoints"][3 * slot : 3 * slot + 3] = [5000, 5000, 1]
        (folder / path.name).write_text(json.dumps(data))
    return folder


@pytest.mark.slow
def test_table_json_and_plot(labelled, poses, tmp_path, capsys, figures) -> None:
    output, plot = tmp_path / "ap.json", tmp_path / "ap.png"
    arguments = ["--truth", labelled, "--predictions", poses, "--dataset", "posetrack2018"]
    assert main([str(a) for a in [*arguments, "--output", output, "--plot", plot]]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0].split() == ["AP", *COLUMNS]
    result = json.loads(output.read_text())["results"][0]
    cells = [f"{result['ap'][column]:.1f}" for column in COLUMNS]
    assert lines[1].split() == ["poses", *cells]
    assert lines[2].startswith("  hard (")
    assert lines[3].startswith("  none (")
    assert lines[4].split()[-8:] == ["84.9", "88.6", "86.1", "83.1", "82.3", "85.2", "80.7", "84.3"]
    assert lines[6].split() == ["PCK@0.2", *COLUMNS_OF_PCK]
    assert lines[8].startswith("  hard (")
    assert lines[11].split() == ["PCKh@0.5", *COLUMNS_OF_PCK]
    assert "2 frames without any prediction: everybody there counts as missed" in out

    assert result["kind"] == "predictions"
    assert result["counts"]["frames"] == 10
    assert result["counts"]["frames_unpredicted"] == 2
    assert list(result["ap"]) == list(COLUMNS)
    hard, none = result["difficulty"]["hard"], result["difficulty"]["none"]
    assert hard["ap"]["Wrist"] == 0 < none["ap"]["Wrist"]
    for measure in ("PCK@0.2", "PCKh@0.5"):  # two of ten frames are missing
        assert hard[measure]["columns"]["Wrist"] == 0 < none[measure]["columns"]["Wrist"] < 100
        assert 50 < result[measure]["columns"]["Limbs"] < 80 == pytest.approx(none[measure]["columns"]["Limbs"], abs=9)
        cells = [f"{value:.1f}" for value in result[measure]["columns"].values()]
        assert next(line for line in lines[6:] if line.startswith("poses ") and line.split()[1:] == cells)
    assert hard["people"] + none["people"] == result["people"] == result["counts"]["people"]
    wrist = result["joints"]["left_wrist"]
    assert wrist["labelled"] > wrist["predicted"] > wrist["matched"] > 0
    assert result["ap"]["Total"] == pytest.approx(np.mean([joint["ap"] for joint in result["joints"].values()]))
    document = json.loads(output.read_text())
    assert document["paper"]["ap"]["Total"] == 84.3
    assert document["settings"]["truth"] == [str(labelled)]
    assert document["settings"]["match_distance_in_head_sizes"] == 0.5

    picture = cv2.imread(str(plot))
    assert min(picture.shape[:2]) > 600
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    bars, curves, labels = figures[0].axes
    assert [bar.get_height() for bar in bars.patches] == [result["ap"][column] for column in COLUMNS]
    assert [line.get_label().split()[0] for line in curves.lines] == list(COLUMNS)
    for line, column in zip(curves.lines, COLUMNS, strict=True):
        assert 100 * np.mean(line.get_ydata()) == pytest.approx(result["ap"][column], abs=0.3)
    cells = [f"{row['ap'][column]:.1f}" for row in (result, hard, none) for column in COLUMNS]
    assert [text.get_text() for text in labels.texts] == cells


def test_a_row_for_those_who_carry_any_of_several_labels(labelled, poses, tmp_path, capsys) -> None:
    """Somebody is occluded, somebody else blurred: the row is about both, and about nobody else."""
    people = 0
    for path in sorted(labelled.glob("*.json")):
        data = json.loads(path.read_text())
        for number, entry in enumerate(data["annotations"]):
            entry["difficulty"] = (["occluded"], ["blur"], ["occluded", "blur"], [])[number % 4]
            people += number % 4 < 3
        path.write_text(json.dumps(data))
    output = tmp_path / "ap.json"
    arguments = ["--truth", labelled, "--predictions", poses, "--any-of", "occluded,blur", "--output", output]
    assert main([str(a) for a in arguments]) == 0
    assert f"  occluded or blur ({people} people)" in capsys.readouterr().out
    rows = json.loads(output.read_text())["results"][0]["difficulty"]
    assert set(rows) == {"occluded", "blur", "none", "occluded or blur"}
    assert rows["occluded or blur"]["people"] == people > rows["occluded"]["people"] > 0
    assert main([*(str(a) for a in arguments[:4]), "--any-of", "occluded,blurred"]) == 2
    assert "nobody carries the difficulty 'blurred': expected some of blur, occluded" in capsys.readouterr().err


def test_undefined_is_null_and_a_dash(dataset, poses, tmp_path, capsys) -> None:
    """Nobody's hips are labelled."""
    path = tmp_path / "truth.json"
    data = json.loads(annotations(dataset)[0].read_text())
    for entry in data["annotations"]:
        entry["keypoints"][33:39] = [0] * 6
    path.write_text(json.dumps(data))
    arguments = ["--truth", path, "--predictions", poses / annotations(dataset)[0].name]
    assert main([str(a) for a in [*arguments, "--output", tmp_path / "ap.json", "--plot", tmp_path / "ap.png"]]) == 0
    assert json.loads((tmp_path / "ap.json").read_text(), parse_constant=pytest.fail)["results"][0]["ap"]["Hip"] is None
    assert capsys.readouterr().out.splitlines()[1].split()[5] == "-"


def test_engine_and_checkpoint_in_one_table(dataset, tiny_bundle, tiny_checkpoint, tmp_path, capsys) -> None:
    truth = annotations(dataset)[1]
    arguments = ["--truth", truth, "--engine", tiny_bundle / "model.onnx", "--checkpoint", tiny_checkpoint]
    arguments += ["--backend", "onnxruntime", "--device", "cpu", "--output", tmp_path / "ap.json"]
    assert main([str(argument) for argument in arguments]) == 0
    out = capsys.readouterr().out
    assert "model.onnx (onnxruntime)" in out
    assert "tiny.pth (torch)" in out
    assert out.count("untrained") == 2
    one, two = json.loads((tmp_path / "ap.json").read_text())["results"]
    assert (one["kind"], two["kind"]) == ("engine", "checkpoint")
    assert one["backend"].startswith("onnxruntime")
    assert abs(one["ap"]["Total"] - two["ap"]["Total"]) < 0.1
    assert one["counts"]["predictions"] == two["counts"]["predictions"] == one["counts"]["people"]


def test_crowds_and_boxes_that_are_left_out_are_told(dataset, tiny_checkpoint, tmp_path, capsys) -> None:
    data = json.loads(annotations(dataset)[1].read_text())
    crowd, flat = data["annotations"][:2]
    crowd["iscrowd"], flat["bbox"][2] = 1, 0
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(data))
    arguments = [
        "--truth",
        path,
        "--checkpoint",
        tiny_checkpoint,
        "--images",
        dataset,
        "--output",
        tmp_path / "ap.json",
    ]
    assert main([str(argument) for argument in arguments]) == 0
    out = capsys.readouterr().out
    assert "note     annotations left out: 1 marked as a crowd; joints in the boxes of 1 crowd count on neither" in out
    assert "note     boxes left out: 1 with no box area\n" in out
    (result,) = json.loads((tmp_path / "ap.json").read_text())["results"]
    assert result["counts"]["people"] == len(data["annotations"]) - 1
    assert "boxes left out: 1 with no box area" in result["notes"]


def test_quiet(labelled, poses, capsys) -> None:
    assert main(["--truth", str(labelled), "--predictions", str(poses), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_the_papers_rows() -> None:
    assert tuple(PAPER) == DATASETS
    for row in PAPER.values():
        assert list(row.columns) == list(COLUMNS)
    assert [row.columns["Total"] for row in PAPER.values()] == [87.5, 84.3, 84.9]
    assert PAPER["posetrack2017"].columns["Ankle"] == 81.9
    assert PAPER["posetrack21"].columns["Head"] == 86.0


def test_the_area_below_a_drawn_curve_is_the_columns_ap(rng) -> None:
    from sdtc.evaluation import GroundTruth, Predictions, evaluate

    keypoints, shape = rng.uniform(0, 500, (200, 15, 2)), (200, 15)
    labelled = rng.random(shape) < 0.8
    labelled[:, 11] = False
    truth = GroundTruth(200, np.arange(200), keypoints, labelled, np.full(200, 30.0))
    noisy = keypoints + rng.normal(0, 9, keypoints.shape)
    scores = evaluate(truth, Predictions(np.arange(200), noisy, np.ones(shape, bool), rng.random(shape))).scores
    for column, ap in scores.columns.items():
        assert 100 * column_curve(scores, column).mean() == pytest.approx(ap, abs=0.5)


class TestMistakes:
    """Each ends with exit code 2, one sentence on stderr, and nothing written."""

    @pytest.fixture
    def fails(self, capsys):
        def fails(*arguments, code: int = 2) -> str:
            assert main([str(argument) for argument in arguments]) == code
            out, err = capsys.readouterr()
            assert out == ""
            assert err.startswith("sdtc-eval: error: ")
            assert err.count("\n") == 1
            return err

        return fails

    def test_paths(self, fails, dataset, poses, tmp_path) -> None:
        assert "ground truth 'nowhere' does not exist" in fails("--truth", "nowhere", "--predictions", poses)
        assert "predictions 'nowhere' does not exist" in fails("--truth", dataset, "--predictions", "nowhere")
        assert "engine 'nowhere.plan' does not exist" in fails("--truth", dataset, "--engine", "nowhere.plan")
        assert "checkpoint 'nowhere.pth' does not" in fails("--truth", dataset, "--checkpoint", "nowhere.pth")
        assert "cannot be found in" in fails("--truth", dataset, "--engine", "x", "--images", tmp_path / "poses")
        assert "boxes file 'nowhere' does not" in fails("--truth", dataset, "--engine", "x", "--boxes", "nowhere")

    def test_outputs_before_the_work(self, fails, dataset, poses, tmp_path) -> None:
        """Even where the input is no good either."""
        for option in ("--output", "--plot"):
            arguments = ["--truth", "nowhere", "--predictions", poses, option, tmp_path / "no" / "x"]
            assert f"{option}: the folder" in fails(*arguments)

    def test_outputs_that_cannot_be_written(self, dataset, poses, tmp_path, capsys) -> None:
        (tmp_path / "taken").mkdir()
        for option in ("--output", "--plot"):
            arguments = ["--truth", dataset, "--predictions", poses, option, tmp_path / "taken", "--quiet"]
            assert main([str(argument) for argument in arguments]) == 1
            assert "cannot write" in capsys.readouterr().err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["poses", "taken"]

    def test_numbers(self, fails, dataset) -> None:
        assert "--threads is 0" in fails("--truth", dataset, "--engine", "x", "--threads", 0)
        assert "--batch-size is -1" in fails("--truth", dataset, "--engine", "x", "--batch-size", -1)

    def test_nothing_annotated(self, fails, dataset, poses, tmp_path) -> None:
        data = json.loads(annotations(dataset)[0].read_text())
        (tmp_path / "empty.json").write_text(json.dumps({**data, "annotations": []}))
        error = fails("--truth", tmp_path / "empty.json", "--predictions", poses / annotations(dataset)[0].name)
        assert "no annotated person" in error

    def test_extra_images(self, fails, dataset, poses) -> None:
        arguments = ["--truth", annotations(dataset)[0], "--predictions", poses]
        assert "3 images that the ground truth does not have" in fails(*arguments)
        assert main([str(argument) for argument in [*arguments, "--ignore-extra"]]) == 0

    def test_nothing_to_evaluate(self, dataset, capsys) -> None:
        with pytest.raises(SystemExit) as caught:
            main(["--truth", str(dataset)])
        assert caught.value.code == 2
        assert "give --predictions, --engine or --checkpoint" in capsys.readouterr().err


def test_help_is_quick_and_has_examples() -> None:
    """In a fresh process, which loads neither NumPy nor anything else heavy."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "sdtc.evaluation.cli", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "examples:\n  sdtc-eval --truth" in done.stdout
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "sdtc.core.command_line" in loaded
    assert not {"numpy", "cv2", "av", "torch", "onnxruntime", "matplotlib"} & loaded


def test_torch_is_for_checkpoints_and_matplotlib_for_plots(dataset, poses) -> None:
    program = f"""
import sys
from sdtc.evaluation.cli import main
assert main(["--truth", {str(dataset)!r}, "--predictions", {str(poses)!r}]) == 0
print(*({{"torch", "matplotlib", "onnxruntime", "av"}} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == ""


@pytest.mark.parametrize(("module", "option"), [("torch", "--checkpoint"), ("matplotlib", "--plot")])
def test_absent_extras_are_named(monkeypatch, dataset, poses, tmp_path, capsys, module, option) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    arguments = ["--truth", dataset, "--predictions", poses, option, tmp_path / "x"]
    assert main([str(argument) for argument in arguments]) == 1
    assert f"{option} needs the package '{module}'" in capsys.readouterr().err
