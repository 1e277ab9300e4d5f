"""`sdtc-visualize` as a user meets it: PNG files, lines that say what was done, and one sentence for every mistake."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdtc.visualization.cli import FILES, main


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def assert_drawn(path: Path) -> None:
    """A PNG that is not blank."""
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    picture = cv2.imread(str(path))
    assert min(picture.shape[:2]) > 200
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 500


@pytest.mark.slow
def test_every_figure(data, checkpoint, tmp_path, capsys) -> None:
    assert run("--checkpoint", checkpoint, "--data", data, "--output", tmp_path / "new" / "out", "--count", 3) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "untrained" in out
    assert "000001_synthetic, frame 3, person" in out
    files = sorted((tmp_path / "new" / "out").iterdir())
    assert [path.name for path in files] == sorted(FILES.values())
    for path in files:
        assert_drawn(path)
    written = [line for line in out.splitlines() if line.startswith("wrote")]
    assert written == [f"wrote    {tmp_path / 'new' / 'out' / name}" for name in FILES.values()]


def test_what_was_asked_for_and_nothing_else(data, checkpoint, tmp_path, capsys) -> None:
    arguments = ["--checkpoint", checkpoint, "--data", data, "--output", tmp_path, "--figures", "overlay, 8"]
    arguments += ["--clip", "000002_synthetic", "--frame", 2, "--person", 1, "--count", 1]
    assert run(*arguments) == 0
    assert "000002_synthetic, frame 2, person 1" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figure8-masks.png", "overlay.png"]


def test_quiet(data, checkpoint, tmp_path, capsys) -> None:
    assert run("--checkpoint", checkpoint, "--data", data, "--output", tmp_path, "--figures", 8, "--quiet") == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_figures_that_a_network_has_not(data, make_checkpoint, tmp_path, capsys) -> None:
    """Left out with a line by default; an error where they were asked for."""
    vitpose = make_checkpoint(kind="vitpose", delta=0, skeleton="coco")
    arguments = ["--checkpoint", vitpose, "--data", data, "--output", tmp_path / "out", "--count", 1]
    assert run(*arguments) == 0
    skipped = [line for line in capsys.readouterr().out.splitlines() if line.startswith("skipped")]
    assert [line.split(":")[0] for line in skipped] == [f"skipped  figure {figure}" for figure in (6, 8, 11)]
    drawn = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert drawn == sorted(FILES[figure] for figure in ("7", "12", "13", "overlay"))
    assert run(*arguments, "--figures", "7,6") == 2
    assert "figure 6: a ViTPose has neither motion encoder nor fusion" in capsys.readouterr().err
    assert run("--checkpoint", make_checkpoint(fusion="add"), *arguments[2:], "--figures", "6") == 2
    assert "belong to model.fusion 'smml', this network has 'add'" in capsys.readouterr().err


def copy_with(data: Path, root: Path, **changes) -> Path:
    """A copy of the data set with every annotation changed."""
    shutil.copytree(data, root)
    for path in (root / "annotations" / "val").iterdir():
        content = json.loads(path.read_text())
        for entry in content["annotations"]:
            entry |= changes
        path.write_text(json.dumps(content))
    return root


def test_nobody_has_a_head_box(data, checkpoint, tmp_path) -> None:
    """Errors are measured in estimated head sizes."""
    root = copy_with(data, tmp_path / "data", bbox_head=[])
    arguments = ["--checkpoint", checkpoint, "--data", root, "--output", tmp_path / "out"]
    assert run(*arguments, "--figures", "13") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == [FILES["13"]]


class TestMistakes:
    """Each ends with one sentence on stderr, and nothing written."""

    @pytest.fixture
    def fails(self, data, checkpoint, tmp_path, capsys):
        def fails(*arguments: object, code: int = 2, output: Path = tmp_path / "out", **changes: object) -> str:
            given = {"checkpoint": checkpoint, "data": data} | changes
            options = [part for name, value in given.items() for part in (f"--{name}", value)]
            assert run(*options, "--output", output, *arguments) == code
            out, err = capsys.readouterr()
            assert out == ""
            assert err.startswith("sdtc-visualize: error: ")
            assert err.count("\n") == 1
            assert not (tmp_path / "out").exists()
            return err

        return fails

    @pytest.mark.slow
    def test_selection(self, fails) -> None:
        error = fails("--clip", "nowhere")
        assert "no clip 'nowhere'" in error
        assert "expected one of 000001_synthetic, 000002_synthetic" in error
        assert "no annotated frame 99: expected one of 0, 1, 2, 3, 4, 5, … (7 in all)" in fails("--frame", 99)
        assert (
            "person 8 is not in frame 2 of clip '000001_synthetic': expected one of 0, 1, or another --frame"
            in fails("--frame", 2, "--person", 8)
        )
        assert "clip '000001_synthetic' has no person 8" in fails("--person", 8)

    def test_lists_and_numbers(self, fails) -> None:
        assert "unknown figure '9': expected some of 6, 7, 8" in fails("--figures", "6,9")
        assert "--figures has 0 entries" in fails("--figures", ",")
        assert "--channels has 'x'" in fails("--channels", "1,x")
        assert "no channel 16: expected 0 to 15" in fails("--channels", "1,16")
        assert "no joint 'tail': expected some of nose" in fails("--joints", "tail")
        assert "--count is 0" in fails("--count", 0)
        assert "--count is 99" in fails("--count", 99)
        assert "--mask-ratio is 1.5" in fails("--mask-ratio", 1.5)
        assert "--mask-ratio is nan" in fails("--mask-ratio", "nan")
        assert "--seed is -1" in fails("--seed", -1)

    def test_paths(self, fails, tmp_path, data) -> None:
        assert "checkpoint 'nowhere.pth' does not exist" in fails(checkpoint="nowhere.pth")
        assert "is not a PyTorch file" in fails(checkpoint=next((data / "annotations" / "val").iterdir()))
        assert "data folder 'nowhere' does not exist" in fails(data="nowhere")
        assert "no annotations found" in fails("--split", "train")

    def test_an_empty_data_set(self, fails, data, tmp_path) -> None:
        root = copy_with(data, tmp_path / "empty", bbox=[])
        assert "no usable annotation" in fails(data=root)

    def test_an_output_folder_that_cannot_be_one(self, fails, tmp_path) -> None:
        (tmp_path / "file").write_text("")
        assert "cannot write to the folder" in fails(output=tmp_path / "file", code=1)
        assert "cannot write to the folder" in fails(output=tmp_path / "file" / "below", code=1)

    def test_a_keyframe_that_is_broken(self, data, checkpoint, tmp_path, capsys) -> None:
        root = Path(shutil.copytree(data, tmp_path / "data"))
        (root / "images" / "val" / "000001_synthetic" / "000003.jpg").write_bytes(b"broken")
        for figure in ("6", "overlay"):
            arguments = ["--checkpoint", checkpoint, "--data", root, "--output", tmp_path, "--figures", figure]
            assert run(*arguments, "--count", 1) == 2
            assert "000003.jpg' is missing or broken: restore it" in capsys.readouterr().err


def test_help_is_quick_and_has_examples() -> None:
    """In a fresh process, which loads neither NumPy nor anything else heavy."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "sdtc.visualization.cli", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "examples:\n  sdtc-synth" in done.stdout
    assert all(name in done.stdout for name in FILES.values())
    loaded = {line.split("|")[-1].strip() for line in done.stderr.splitlines()}
    assert "sdtc.core.command_line" in loaded
    assert not {"numpy", "cv2", "av", "torch", "onnxruntime", "matplotlib"} & loaded


@pytest.mark.parametrize("module", ["torch", "matplotlib"])
def test_absent_extras_are_named(monkeypatch, data, checkpoint, capsys, module) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert run("--checkpoint", checkpoint, "--data", data) == 1
    error = capsys.readouterr().err
    assert f"sdtc-visualize needs the package '{module}'" in error
    assert "pip install 'sdtc[train]'" in error
