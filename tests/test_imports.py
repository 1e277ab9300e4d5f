"""Imports point one way, and the runtime stays light."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"sdtc": "sdtc", "export": "sdtc.export", "kernels": "sdtc.kernels", "runtime": "sdtc.runtime"}
# kernels <- sdtc <- export; the runtime sees only modules of sdtc that need no torch. Export checks its result with
# the runtime's own sessions, which is what a user will run. Everything may import the named errors.
ALLOWED = {
    "kernels": {"kernels"},
    "sdtc": {"sdtc", "kernels"},
    "export": {"sdtc", "kernels", "runtime", "export"},
    "runtime": {"sdtc", "runtime"},
}
NUMPY_ONLY = {
    "boxes", "crops", "errors", "files", "heatmaps", "images", "kernel_file", "manifest", "posetrack", "skeleton",
}  # fmt: skip


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # `from sdtc import model` names a module by what it imports
            names |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "sdtc" else {node.module}
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def part_of(module: str) -> str | None:
    if not re.match(r"sdtc(\.|$)", module):
        return None
    second = module.split(".")[1] if "." in module else ""
    return second if second in ("export", "kernels", "runtime") else "sdtc"


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_point_one_way(folder) -> None:
    for path in modules(folder):
        for module in imported(path):
            part = part_of(module)
            if part is None:
                continue
            allowed = ALLOWED[folder]
            # Errors and files stand below everything: they import nothing but the standard library.
            if module in ("sdtc.errors", "sdtc.files") or (path.parent.name == "evaluation" and part == "runtime"):
                continue  # an evaluation runs what users run
            assert part in allowed, f"{path.relative_to(ROOT)} imports {module}"


def test_runtime_imports_only_numpy_only_modules_and_never_torch() -> None:
    for path in modules("runtime"):
        for module in imported(path):
            top = module.split(".")[0]
            assert top not in ("torch", "triton", "onnx", "onnxscript", "transformers"), f"{path} imports {module}"
            if part_of(module) == "sdtc" and module != "sdtc":
                assert module.split(".")[1] in NUMPY_ONLY, f"{path.relative_to(ROOT)} imports {module}"


def test_numpy_only_modules_are() -> None:
    allowed = {"sdtc", "numpy", "cv2", *sys.stdlib_module_names}
    for name in NUMPY_ONLY:
        assert {module.split(".")[0] for module in imported(ROOT / "sdtc" / f"{name}.py")} <= allowed


def loaded_by(code: str) -> set[str]:
    program = f"{code}\nimport sys\nprint(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import sdtc.runtime",
        "import sdtc.runtime; sdtc.runtime.open",
        "import sdtc.runtime.engine, sdtc.runtime.writers, sdtc.runtime.drawing, sdtc.runtime.cli",
        "import sdtc.runtime.sessions.tensorrt_session, sdtc.runtime.cuda",
    ],
)
def test_runtime_brings_in_neither_torch_nor_triton_nor_onnx(code) -> None:
    assert not loaded_by(code) & {"torch", "triton", "onnx", "onnxscript"}


def test_configuration_needs_no_torch() -> None:
    assert "torch" not in loaded_by("import sdtc.model; sdtc.model.get_preset('base')")


@pytest.mark.parametrize(
    ("module", "code", "extra"),
    [
        ("torch", "import sdtc.model; sdtc.model.build", "export"),
        ("torch", "import sdtc.kernels", "export"),
        ("onnxruntime", "from sdtc.runtime.sessions.onnxruntime_session import OnnxRuntimeSession as S; S('x')", "cpu"),
        ("openvino", "from sdtc.runtime.sessions.openvino_session import OpenVINOSession as S; S('x')", "openvino"),
        ("cuda", "from sdtc.runtime.cuda import find_gpu; find_gpu()", "gpu"),
    ],
)
def test_an_absent_extra_is_one_sentence_with_the_command_to_run(module, code, extra) -> None:
    program = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == {module!r}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)
sys.meta_path.insert(0, Absent())
from sdtc.errors import MissingExtraError
try:
    exec({code!r})
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"pip install 'sdtc[{extra}]'" in done.stdout
    assert len(done.stdout.strip().splitlines()) == 1


def test_wheel_holds_every_module(tmp_path) -> None:
    """The mapping of the top-level folders works in wheels too, not only in an editable install."""
    import zipfile

    source = tmp_path / "source"  # a build leaves its own folder behind
    for name in [*FOLDERS, "setup.py", "README.md", "LICENSE", "pyproject.toml"]:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, source],
        check=True,
    )
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    for folder, package in FOLDERS.items():
        for path in modules(folder):
            assert f"{package.replace('.', '/')}/{path.relative_to(ROOT / folder)}" in names
    packaged = {"weights/tiny.pth", "weights/tiny-vitpose.pth", "training/configs/tiny-synthetic.yaml"}
    assert {f"sdtc/{name}" for name in packaged} <= names
    assert not any(name.startswith(("export/", "kernels/", "runtime/", "tests/")) for name in names)
