"""The README's commands run as they stand, in order, and what it names exists."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(script.name for script in entry_points(group="console_scripts") if script.value.startswith("sdtc."))


def blocks() -> list[tuple[str, str]]:
    return re.findall(r"```(bash|python)\n(.*?)```", README, re.DOTALL)


@pytest.mark.slow
def test_every_block_runs(tmp_path) -> None:
    """One session of a user: each block in turn, in one folder, beside the checkout's `export/`."""
    (tmp_path / "export").symlink_to(ROOT / "export")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ran = []
    for language, code in blocks():
        if language == "python":
            command = [sys.executable, "-c", code]
        else:
            lines = [line for line in code.splitlines() if not line.startswith(("make ", "pip "))]
            command = ["bash", "-euc", "\n".join(lines)]
            ran += [line.split()[0] for line in lines if line]
        done = subprocess.run(command, cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    assert {"sdtc-init", "sdtc-synth", "sdtc-infer", "sdtc-info", "sdtc-eval", "sdtc-visualize", "python"} <= set(ran)
    assert (tmp_path / "poses" / "000000_synthetic.mp4").stat().st_size > 1000
    assert (tmp_path / "bundle-fp16" / "model.plan").exists()


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_files_and_extras_that_it_names_exist() -> None:
    for name in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / name).exists(), name
    for script in set(re.findall(r"python ([a-z_/]+\.py)", README)):
        assert (ROOT / script).exists(), script
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    for extra in re.findall(r"^\| `([a-z-]+)` \| [a-z]", README, re.MULTILINE):
        assert f'"{extra}": ' in setup, extra


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command) -> None:
    executable = shutil.which(command, path=str(Path(sys.executable).parent))
    assert executable, f"{command} is not installed"
    done = subprocess.run([executable, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "examples:" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["tiny", "small", "base", "large"])
def test_preset_table_is_what_the_counter_says(preset) -> None:
    from sdtc.model import get_preset
    from sdtc.model.counting import count_network

    row = re.search(rf"\| `{preset}` \|.*", README)
    assert row
    cells = [cell.strip() for cell in row[0].split("|")[1:-1]]
    counted = count_network(get_preset(preset)).to_dict()
    assert cells[3] == f"{counted['parameters']['total'] / 1e6:.1f} M"
    assert cells[4] == f"{counted['parameters']['trainable_inference'] / 1e6:.1f} M"
    assert cells[5] == f"{counted['gflops']:.1f}"
