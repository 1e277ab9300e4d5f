"""What users install: the wheel's files and metadata, and its commands in an environment without torch.

Also that drawing leaves the settings of a user's process alone.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from email.parser import Parser
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"sdtc": "sdtc", "export": "sdtc/export", "kernels": "sdtc/kernels", "runtime": "sdtc/runtime"}
ABSENT = {"torch", "triton", "onnx", "onnxscript"}  # what the extra `cpu` does not install


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build leaves its own folder behind
    source.mkdir()
    for name in [*FOLDERS, "setup.py", "README.md", "LICENSE", "pyproject.toml"]:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, source],
        check=True,
    )
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_wheel_holds_every_module(wheel) -> None:
    """The mapping of the top-level folders works in wheels too, not only in an editable install."""
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            assert f"{package}/{path.relative_to(ROOT / folder).as_posix()}" in names
    packaged = {
        "py.typed",
        "weights/tiny.pth",
        "weights/tiny-vitpose.pth",
        *(f"training/configs/{path.name}" for path in (ROOT / "sdtc/training/configs").glob("*.yaml")),
    }
    assert "training/configs/tiny-synthetic.yaml" in packaged
    assert {f"sdtc/{name}" for name in packaged} <= names
    assert not any(name.startswith(("export/", "kernels/", "runtime/", "tests/")) for name in names)


@pytest.mark.slow
def test_metadata_says_what_a_package_index_shows(wheel) -> None:
    archive = zipfile.ZipFile(wheel)
    name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = Parser().parsestr(archive.read(name).decode())
    assert (metadata["Name"], metadata["License-Expression"], metadata["Requires-Python"]) == (
        "sdtc", "Apache-2.0", ">=3.11",
    )  # fmt: skip
    assert {entry.split(",")[0] for entry in metadata.get_all("Project-URL")} >= {"Source", "Issues", "Changelog"}
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert "human pose estimation" in metadata["Keywords"]
    assert metadata.get_payload().startswith("# sdtc")
    needed = [entry for entry in metadata.get_all("Requires-Dist") if "extra ==" not in entry]
    assert {re.split("[<>=]", entry)[0] for entry in needed} == {"numpy", "opencv-python", "av", "tqdm"}
    # From 5 on, the crop kernel is not equal to warpAffine to the bit: see tests/kernels/operators/test_triton.py.
    assert [entry for entry in needed if entry.startswith("opencv-python") and "<5" in entry]


@pytest.fixture(scope="module")
def fresh(wheel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a new environment with the wheel in it, which shares this one's packages and hides `ABSENT`."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / Path(sys.executable).with_stem("python").name
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps", wheel],
        check=True,
    )
    packages = next(folder.rglob("site-packages"))
    (packages / "hide_extras.py").write_text(f"""
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec

def find_what_is_not_hidden(name, path=None, target=None):
    return None if name.partition(".")[0] in {ABSENT!r} else find_spec(name, path, target)

PathFinder.find_spec = find_what_is_not_hidden
""")
    shared = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (packages / "shared.pth").write_text("\n".join([*shared, "import hide_extras", ""]))
    return scripts


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment)


@pytest.mark.slow
def test_the_installed_runtime_needs_no_torch(fresh, tmp_path) -> None:
    code = (
        "from importlib.util import find_spec; from pathlib import Path; import sdtc.runtime as runtime\n"
        f"assert not [name for name in {ABSENT!r} if find_spec(name)]\n"
        "assert Path(runtime.__file__).is_relative_to(Path(__import__('sys').prefix)), runtime.__file__\n"
        "assert Path(__import__('sdtc').__file__).with_name('py.typed').exists()\n"
        "print(runtime.open.__module__)"
    )
    done = run(fresh / "python", "-c", code, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "sdtc.runtime.engine\n"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["info", "init", "infer", "export", "synth", "train", "eval", "visualize"])
def test_every_installed_command_has_help_without_torch(fresh, tmp_path, name) -> None:
    done = run(fresh / f"sdtc-{name}", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: sdtc-{name} ")


@pytest.mark.slow
def test_installed_commands_that_need_torch_say_which_extra_to_install(fresh, tmp_path) -> None:
    done = run(fresh / "sdtc-export", "tiny", "--output", "bundle", cwd=tmp_path)
    assert done.returncode != 0
    assert "pip install 'sdtc[export]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_installed_runtime_finds_poses_without_torch(fresh, tiny_bundle, tmp_path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the extra cpu")
    made = run(fresh / "sdtc-synth", "--seed", "1", "--frames", "6", "--output", "clip", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    video = next(tmp_path.glob("clip/*.mp4"))
    boxes = next(tmp_path.glob("clip/annotations/*/*.json"))
    done = run(
        fresh / "sdtc-infer", "--engine", tiny_bundle, "--input", video, "--boxes", boxes, "--backend", "onnxruntime",
        "--output", "poses", "--format", "jsonl", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = next(tmp_path.glob("poses/*.jsonl")).read_text().splitlines()
    assert len(lines) == 6
    assert all('"track_id"' in line for line in lines)


def test_the_library_never_chooses_how_matplotlib_shows_figures() -> None:
    """`pyplot` picks a backend when it draws and `matplotlib.use` forces one: both are the user's to decide."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom):
                    names = [f"{node.module}.{alias.name}" for alias in node.names]
                elif isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                else:
                    names = [ast.unparse(node)] if isinstance(node, ast.Attribute) else []
                forbidden = {"matplotlib.pyplot", "matplotlib.use", "mpl.use"}
                assert not forbidden & set(names), f"{path}, line {node.lineno}: {names}"


@pytest.mark.slow
def test_drawing_leaves_the_users_backend_as_it_is(tmp_path) -> None:
    if not find_spec("matplotlib"):
        pytest.skip("needs the extra train")
    code = """
import sys
from pathlib import Path
import matplotlib
matplotlib.use("svg")
from sdtc.training.log import COLUMNS, draw_curves
import sdtc.evaluation.plot, sdtc.visualization.figures
draw_curves(Path("curves.png"), [dict.fromkeys(COLUMNS, "1")])
print(matplotlib.get_backend(), "matplotlib.pyplot" in sys.modules)
"""
    done = run(sys.executable, "-c", code, cwd=tmp_path)
    assert (done.returncode, done.stdout.lower()) == (0, "svg false\n"), done.stderr
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
