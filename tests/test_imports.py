"""Rooms and arrows: imports point one way, and the runtime stays light.

`pytest tests/test_imports.py -k rooms -s` prints the rooms of the package and what each imports.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"sdtc": "sdtc", "export": "sdtc.export", "kernels": "sdtc.kernels", "runtime": "sdtc.runtime"}
# The rooms from the ground up, and what each may import beside itself. kernels <- sdtc <- export; the runtime sees
# nothing of sdtc but `core`. Export and evaluation run what users run: the runtime's own sessions.
MAY_IMPORT = {
    "core": set(),
    "kernels.common": {"core"},
    "kernels.operators": {"core", "kernels.common"},
    "kernels": {"core", "kernels.common", "kernels.operators"},
    "kernels.aot": {"core", "kernels.common"},
    "kernels.plugins": {"core", "kernels.common", "kernels.operators", "kernels.aot"},
    "kernels.report": {"core", "kernels.common", "kernels.operators", "kernels.aot"},
    "synthetic": {"core"},
    "runtime.sources": {"core"},
    "runtime.backends": {"core"},
    "runtime.people": {"core", "runtime.sources"},
    "runtime.estimation": {"core", "runtime.backends", "runtime.sources"},
    "runtime.output": {"core", "runtime.people", "runtime.sources"},
    "runtime.pipeline": {"runtime.sources"},
    "runtime.check": {"core"},
    "runtime.options": {"core", "runtime.backends", "runtime.people", "runtime.output", "runtime.check"},
    "runtime.track_all": {"core", "runtime.sources", "runtime.output", "runtime.check", "runtime.options"},
    "runtime.engine": {
        "core", "runtime.sources", "runtime.backends", "runtime.people", "runtime.estimation", "runtime.output",
        "runtime.pipeline", "runtime.check", "runtime.options", "runtime.track_all",
    },
    "runtime.input_run": {
        "core", "runtime.sources", "runtime.people", "runtime.estimation", "runtime.output", "runtime.pipeline",
        "runtime.options", "runtime.engine",
    },
    "runtime.run": {
        "core", "runtime.sources", "runtime.backends", "runtime.people", "runtime.output", "runtime.check",
        "runtime.options", "runtime.engine", "runtime.input_run",
    },
    "runtime.cli": {
        "core", "runtime.backends", "runtime.output", "runtime.options", "runtime.engine", "runtime.run",
    },
    "model": {"core", "kernels"},
    "evaluation": {"core", "model", "runtime.sources", "runtime.backends", "runtime.options", "runtime.engine"},
    "training": {"core", "model", "evaluation"},
    "visualization": {"core", "model", "evaluation", "training"},
    "export": {
        "core", "kernels.common", "kernels.operators", "kernels.aot", "kernels.plugins", "model", "synthetic",
        "runtime.backends", "runtime.sources",
    },
}  # fmt: skip
PUBLIC = {"sdtc", "sdtc.runtime"}  # packages that load their names when asked: no room of their own


def modules() -> dict[str, Path]:
    found = {}
    for folder, package in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(parts[:-1] if parts[-1] == "__init__" else parts)])] = path
    return found


MODULES = modules()


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it: of this package its modules, of others the name as it is."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path} imports relatively"
            each = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else node.module for name in each}
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    return names


def room_of(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[1:3] if parts[1] in ("kernels", "runtime") else parts[1:2])


def arrows() -> dict[str, dict[str, list[str]]]:
    """By room the rooms that it imports, and which module imports which."""
    found: dict[str, dict[str, list[str]]] = {room_of(module): {} for module in MODULES if module not in PUBLIC}
    for module, path in MODULES.items():
        for target in imported(path) & set(MODULES) - PUBLIC:
            if module not in PUBLIC and room_of(module) != room_of(target):
                found[room_of(module)].setdefault(room_of(target), []).append(f"{module} -> {target}")
    return found


def test_rooms_import_only_what_lies_below_them() -> None:
    found = arrows()
    order = list(MAY_IMPORT)
    assert set(found) <= set(order), "a new room: say in MAY_IMPORT where it stands and what it may import"
    for room in order:
        print(f"{room:20} -> {', '.join(sorted(found.get(room, {}), key=order.index)) or '-'}")
    for room, targets in found.items():
        for target, examples in targets.items():
            assert target in MAY_IMPORT[room], examples
    for room, targets in MAY_IMPORT.items():  # the table itself has no circle and no arrow upwards
        assert all(order.index(target) < order.index(room) for target in targets), room


def test_no_modules_import_each_other_in_a_circle() -> None:
    uses = {
        module: {name for name in imported(path) if name in MODULES} - PUBLIC
        for module, path in MODULES.items()
        if path.name != "__init__.py"
    }
    state: dict[str, str] = {}

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert state.get(module) != "open", " -> ".join([*trail, module])
        if module in state or module not in uses:
            return
        state[module] = "open"
        for target in uses[module]:
            visit(target, (*trail, module))
        state[module] = "done"

    for module in uses:
        visit(module, ())


def test_every_room_says_what_comes_in_and_what_goes_out() -> None:
    for module, path in MODULES.items():
        if path.name == "__init__.py":
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            assert text, f"{module} has no docstring"
            assert module in PUBLIC or ("In: " in text and "Out: " in text), (
                f"{module} does not say what goes in and out"
            )


# Modules that are called alike because they do the same job in their rooms.
COMMON_NAMES = {"__init__", "__main__", "cli", "reference", "triton_kernel", "launch"}  # the last three: an operator's


def test_no_two_public_classes_or_modules_share_a_name() -> None:
    classes, names = defaultdict(list), defaultdict(list)
    scripts = [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "examples").glob("*.py")]
    for path in [*MODULES.values(), *scripts]:
        names[path.stem].append(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes[node.name].append(path)
    assert not {name: paths for name, paths in classes.items() if len(paths) > 1}
    assert not {name: paths for name, paths in names.items() if len(paths) > 1 and name not in COMMON_NAMES}


HEAVY = {"torch", "triton", "onnx", "onnxscript", "transformers"}


def test_the_runtime_imports_nothing_of_the_package_but_core_and_never_torch() -> None:
    for module, path in MODULES.items():
        if module.startswith("sdtc.runtime"):
            for name in imported(path):
                assert name.split(".")[0] not in HEAVY, f"{path} imports {name}"
                inside = name in MODULES and name != "sdtc"
                assert not inside or name.startswith(("sdtc.runtime", "sdtc.core")), f"{path} imports {name}"


def test_core_needs_numpy_opencv_and_pyav_alone() -> None:
    allowed = {"sdtc", "numpy", "cv2", "av", *sys.stdlib_module_names}
    for module, path in MODULES.items():
        if module.startswith("sdtc.core"):
            assert {name.split(".")[0] for name in imported(path)} <= allowed, path


def loaded_by(code: str) -> set[str]:
    program = f"{code}\nimport sys\nprint(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import sdtc.runtime",
        "import sdtc.runtime; sdtc.runtime.open",
        "import sdtc.runtime.engine, sdtc.runtime.output.writers, sdtc.runtime.output.drawing, sdtc.runtime.cli",
        "import sdtc.runtime.backends.tensorrt_session, sdtc.runtime.backends.cuda",
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
        pytest.param(
            "triton", "import sdtc.kernels.operators.cross_attention.triton_kernel", "kernels", marks=pytest.mark.slow
        ),
        pytest.param(
            "triton", "import sdtc.kernels.operators.cross_attention.launch", "kernels", marks=pytest.mark.slow
        ),
        pytest.param("onnxscript", "import sdtc.export.bundle", "export", marks=pytest.mark.slow),
        pytest.param("onnxruntime", "import sdtc.export.bundle", "cpu", marks=pytest.mark.slow),
        ("onnxruntime", "from sdtc.runtime.backends.onnxruntime_session import OnnxRuntimeSession as S; S('x')", "cpu"),
        ("openvino", "from sdtc.runtime.backends.openvino_session import OpenVINOSession as S; S('x')", "openvino"),
        ("cuda", "from sdtc.runtime.backends.cuda import find_gpu; find_gpu()", "gpu"),
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
from sdtc.core.errors import MissingExtraError
try:
    exec({code!r})
except MissingExtraError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"pip install 'sdtc[{extra}]'" in done.stdout
    assert len(done.stdout.strip().splitlines()) == 1
