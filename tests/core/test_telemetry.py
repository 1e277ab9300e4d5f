"""Nothing that this package imports collects data about its use, unless the user wants it to."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sdtc.core.telemetry import COLLECTING, SWITCHES, without_telemetry

ROOT = Path(__file__).resolve().parents[2]
# What collects does so by files at once and by the network later, so the program stays for a moment.
INFERENCE = """
import sys, time
from pathlib import Path
import numpy as np
from sdtc.runtime.backends.onnxruntime_session import OnnxRuntimeSession
from sdtc.runtime.backends.openvino_session import OpenVINOSession
session = {"onnxruntime": OnnxRuntimeSession, "openvino": OpenVINOSession}[sys.argv[1]](Path(sys.argv[2]))
print(session.run({"x": np.array([-1, 2], np.float32)})["y"].tolist())
time.sleep(1)
"""


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    onnx = pytest.importorskip("onnx")
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy")
    nodes = [onnx.helper.make_node("Relu", ["x"], ["y"])]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "graph", [x], [y]),
        ir_version=9,
        opset_imports=[onnx.helper.make_opsetid("", 17)],
    )
    path = tmp_path_factory.mktemp("graph") / "relu.onnx"
    onnx.save(model, path)
    return path


def traced(path: Path) -> list[str]:
    """The beginning of a command that notes sockets in a file; nothing where strace is missing or forbidden."""
    if not shutil.which("strace") or subprocess.run(["strace", "-qq", "-o", path, "true"], check=False).returncode:
        return []
    return ["strace", "-f", "-qq", "-e", "trace=network", "-o", str(path)]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_inference_leaves_no_files_and_opens_no_connection(backend, graph, tmp_path) -> None:
    pytest.importorskip(backend)
    home = tmp_path / "home"
    places = {
        "HOME": home,
        "XDG_CACHE_HOME": home / "cache",
        "XDG_CONFIG_HOME": home / "config",
        "TMPDIR": home / "tmp",
    }
    for place in places.values():
        place.mkdir()
    # As a user who has set nothing; OpenVINO's package does not collect where it sees a CI.
    unset = {*SWITCHES, "DO_NOT_TRACK", "CI", "TF_BUILD", "JENKINS_URL"}
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    environment |= {name: str(place) for name, place in places.items()}
    trace = traced(tmp_path / "trace")
    run = subprocess.run(
        [*trace, sys.executable, "-c", INFERENCE, backend, graph],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.stdout == "[0.0, 2.0]\n", run.stderr
    assert [path for path in home.rglob("*") if path not in places.values()] == []
    if trace:
        assert "AF_INET" not in (tmp_path / "trace").read_text()


def test_what_the_user_has_set_is_left_alone(monkeypatch) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    monkeypatch.delenv("HF_HUB_DISABLE_TELEMETRY", raising=False)
    with without_telemetry():
        assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
        assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"


@pytest.mark.parametrize("chosen", [False, True])
def test_openvino_sends_what_the_user_agreed_to(chosen, tmp_path, monkeypatch) -> None:
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    if chosen:
        (tmp_path / "intel").mkdir()
        (tmp_path / "intel" / "openvino_telemetry").write_text("1")
    with without_telemetry():
        assert ("openvino_telemetry" in sys.modules) is not chosen
    assert "openvino_telemetry" not in sys.modules  # the user's own code finds it as before


def test_libraries_that_collect_are_imported_by_require_alone() -> None:
    """`import onnxruntime` in any file of the package, the benchmarks or the examples would go past the switch."""
    for folder in ("sdtc", "export", "kernels", "runtime", "benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                found = {name.split(".")[0] for name in names} & set(COLLECTING)
                assert not found, f"{path.relative_to(ROOT)}: import {found} by `require`"
