"""A command shows the arguments that an error names as its own options."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from sdtc.core.command_line import as_options, command, complain, printable, say
from sdtc.core.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {
    script.name: script.value.partition(":")[0]
    for script in entry_points(group="console_scripts")
    if script.value.startswith("sdtc.")
}
EXTRAS = (  # what a bare `pip install sdtc` does not bring
    "torch", "onnx", "onnxscript", "onnxruntime", "openvino", "safetensors", "accelerate", "yaml", "matplotlib",
    "tensorboard", "triton", "tensorrt", "tensorrt_rtx", "cuda", "transformers", "supervision", "pandas",
)  # fmt: skip
_WITHOUT_EXTRAS = f"""
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""


def run_in_shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a line of bash in which our commands, and Python as $PYTHON, are found."""
    scripts = str(Path(sys.executable).parent)
    changes = {"PATH": os.pathsep.join([scripts, os.environ["PATH"]]), "PYTHON": sys.executable} | environment
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=os.environ | changes, capture_output=True, timeout=120, check=False
    )


def errors_of(done: subprocess.CompletedProcess) -> str:
    """Return what a command said on stderr, after checking that Python said nothing itself."""
    text = done.stderr.decode("utf-8", "replace")
    for word in (b"Traceback", b"Exception ignored", b"Error:"):
        assert word not in done.stdout + done.stderr, text
    return text


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("`max_frames` is 0", "--max-frames is 0"),
        ("leave out `device='cpu'`, or", "leave out --device cpu, or"),
        ("`batch_size=4`", "--batch-size 4"),
        ("`exact=True` holds no boxes", "--exact holds no boxes"),
        ("add `plan=False`", "add --no-plan"),
        ("`source` is a terminal", "--input is a terminal"),
        ("with `engines=False`", "with --no-plan"),
        ("'my_file' and `Not Ours`", "'my_file' and `Not Ours`"),
    ],
)
def test_arguments_become_options(message, shown) -> None:
    assert as_options(message, {"source": "--input", "engines=False": "--no-plan"}) == shown


def test_a_command_translates_on_its_way_out(capsys) -> None:
    @command("sdtc-x", {"path": "--engine"})
    def main(argv=None) -> int:
        raise InputError("`path` and `hold` do not fit")

    assert main([]) == 2
    assert capsys.readouterr().err == "sdtc-x: error: --engine and --hold do not fit\n"


def test_what_is_unforeseen_is_a_sentence_too(capsys) -> None:
    def raising(error: BaseException):
        @command("sdtc-x")
        def main(argv=None) -> int:
            raise error

        return main

    for error, sentence in (
        (PermissionError(13, "Permission denied", "a"), "the system refuses 'a': Permission denied"),
        (PermissionError(13, "Permission denied", b"\xe9"), "the system refuses '\\udce9': Permission denied"),
        (OSError(28, "No space left on device"), "the system refuses: No space left on device"),
        (OSError("odd"), "the system refuses: odd"),
        (UnicodeEncodeError("ascii", "ü", 0, 1, "no"), "a name or a text has characters that cannot be written here"),
        (MemoryError(), "there is not enough memory"),
    ):
        assert raising(error)([]) == 1
        assert capsys.readouterr().err.startswith(f"sdtc-x: error: {sentence}")


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_help_needs_no_extra_and_work_names_the_one_it_needs(name, tmp_path) -> None:
    (tmp_path / "sitecustomize.py").write_text(_WITHOUT_EXTRAS)
    (tmp_path / "c.yaml").write_text("{}")
    assert run_in_shell(f"{name} --help", tmp_path, PYTHONPATH=str(tmp_path)).returncode == 0
    arguments = {
        "sdtc-export": "tiny", "sdtc-info": "tiny", "sdtc-init": "tiny", "sdtc-train": "c.yaml",
        "sdtc-eval": f"--truth {ROOT} --predictions x.json --plot p.png",
        "sdtc-visualize": "--checkpoint tiny --data .",
    }  # fmt: skip
    if name not in arguments:  # sdtc-synth needs none; sdtc-infer a bundle, see its own tests
        return
    done = run_in_shell(f"{name} {arguments[name]}", tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode in (1, 2)
    (line,) = errors_of(done).splitlines()
    assert line.startswith(f"{name}: error: ")
    assert "run  pip install 'sdtc[" in line


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_help_on_any_console(name, tmp_path) -> None:
    for encoding in ("ascii", "cp437", "latin-1", "utf-8:strict"):
        done = run_in_shell(f"{name} --help", tmp_path, PYTHONIOENCODING=encoding)
        assert done.returncode == 0
        assert b"usage: " + name.encode() in done.stdout
        assert errors_of(done) == ""
    full = run_in_shell(f"{name} --help > /dev/full", tmp_path)
    assert full.returncode == 1
    assert errors_of(full) == f"{name}: error: what it printed is lost: No space left on device\n"
    for stream in (">&-", "| true", "2> /dev/full", "<&- 2>&-"):
        done = run_in_shell(f"{name} --help {stream}", tmp_path)
        assert done.returncode == 0, stream
        assert errors_of(done) == ""
    for stream in ("2>&-", "2> /dev/full", ">&- 2>&- <&-"):
        assert run_in_shell(f"{name} --nonsense {stream}", tmp_path).returncode == 2


@pytest.mark.slow
def test_a_full_console_fails_what_only_prints_and_does_not_stop_work(tmp_path) -> None:
    told = run_in_shell("sdtc-info tiny > /dev/full", tmp_path)
    assert told.returncode == 1
    assert errors_of(told) == "sdtc-info: error: what it printed is lost: No space left on device\n"
    for stream in ("> /dev/full", ">&-", "2> /dev/full", "2>&-", "> /dev/full 2>&1", ">&- 2>&- <&-", "| true"):
        line = f"rm -rf clips; sdtc-synth --frames 2 --size 64x64 --output clips --workers 1 {stream}"
        done = run_in_shell(f"{line}; exit ${{PIPESTATUS[0]}}", tmp_path)
        assert done.returncode == ("> /dev/full" in stream and not stream.startswith("2")), stream
        errors_of(done)
        assert len(list((tmp_path / "clips").rglob("*.json"))) == 1, stream
        assert len(list((tmp_path / "clips").rglob("*.jpg"))) == 2, stream


@pytest.mark.slow
def test_names_that_are_not_utf8(tmp_path) -> None:
    """A Latin-1 name, as old disks and archives have them; and consoles that cannot show a name."""
    clip = "$'caf\\xe9'/annotations/val/000000_synthetic.json"
    for line, code in (
        ("sdtc-init tiny --output $'caf\\xe9.pth'", 0),
        ("sdtc-info $'caf\\xe9.pth'", 0),
        ("sdtc-info $'th\\xe9.pth'", 2),
        ("sdtc-synth --frames 1 --size 64x64 --workers 1 --output $'caf\\xe9'", 0),
        ("sdtc-eval --truth $'caf\\xe9' --predictions $'caf\\xe9' --output $'\\xe9.json' --plot $'\\xe9.png'", 0),
        ("sdtc-eval --truth $'th\\xe9' --predictions x.json", 2),
        (f"cp {clip} 'a$x$.json' && sdtc-eval --truth $'caf\\xe9' --predictions 'a$x$.json' --plot p.png", 0),
        ("sdtc-visualize --checkpoint $'caf\\xe9.pth' --data $'caf\\xe9' --figures 7 --output $'\\xe9'", 0),
        ("sdtc-train $'th\\xe9.yaml'", 2),
        ("sdtc-export $'th\\xe9.pth'", 2),
        ("sdtc-infer --engine $'th\\xe9.plan' --input x", 2),
        ("sdtc-infer --engine ü测试.plan --input x", 2),
    ):
        for encoding in ("utf-8:strict", "ascii"):
            done = run_in_shell(line, tmp_path, PYTHONIOENCODING=encoding)
            assert done.returncode == code, (line, done.stderr)
            text = errors_of(done)
            assert text.count("\n") == bool(code), text


def test_a_name_that_no_file_can_have(tmp_path) -> None:
    long = "x" * 300
    for line in (
        f"sdtc-info {long}.pth", f"sdtc-export {long}.pth", f"sdtc-infer --engine {long} --input x",
        f"sdtc-eval --truth {long} --predictions {long}", f"sdtc-train {long}.yaml",
        f"sdtc-visualize --checkpoint {long} --data {long}", f"sdtc-init tiny --output {long}.pth",
    ):  # fmt: skip
        done = run_in_shell(line, tmp_path)
        assert done.returncode in (1, 2), line
        assert errors_of(done).count("\n") == 1, line


@pytest.mark.slow
def test_the_export_calls_itself_what_it_was_called() -> None:
    for line, name in (
        ("sdtc-export", "sdtc-export"),
        ("$PYTHON -m sdtc.export.to_trt", "sdtc-export"),
        ("$PYTHON export/to_trt.py", "to_trt.py"),
        ("$PYTHON -m sdtc.training.cli", "sdtc-train"),
    ):
        assert run_in_shell(f"{line} --help", ROOT).stdout.startswith(f"usage: {name} ".encode())
        assert f"{name}: error: " in errors_of(run_in_shell(f"{line} --nonsense x", ROOT))
        assert errors_of(run_in_shell(f"{line} nowhere.pth", ROOT)).startswith(f"{name}: error: ")


def test_names_in_files_cannot_write_into_the_terminal(capsys) -> None:
    assert printable("clip ü 测试 100%") == "clip ü 测试 100%"
    complain("error: 'a\x1b[31m\nb\x07'")
    say("note 'a\x1b[2J'\nwrote b")
    shown = capsys.readouterr()
    assert shown.err == "error: 'a\\x1b[31m\\nb\\x07'\n"
    assert shown.out == "note 'a\\x1b[2J'\nwrote b\n"  # lines of our own stay lines


@pytest.mark.parametrize("option", ["--boxes", "--output", "--engine", "--input"])
def test_an_unset_variable_is_no_path(option, capsys) -> None:
    from sdtc.runtime.cli import main

    arguments = {"--engine": "bundle", "--input": "v.mp4"} | {option: ""}
    with pytest.raises(SystemExit) as end:
        main([part for pair in arguments.items() for part in pair])
    assert end.value.code == 2
    assert f"argument {option}: it is empty" in capsys.readouterr().err
