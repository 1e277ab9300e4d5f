"""Sessions: what each backend answers, which one is chosen, and what is said when one cannot run.

Tests that ask for `gpu_bundle` need a GPU, and run once for every flavour of TensorRT there.
"""

from __future__ import annotations

import dataclasses
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import setuptools
from packaging.requirements import Requirement

from sdtc.core.errors import BundleError, EngineError, InputError
from sdtc.core.manifest import FLAVOURS, EngineInfo, GraphFiles, Manifest
from sdtc.runtime.backends import choice as sessions
from sdtc.runtime.backends import cuda, onnxruntime_session
from sdtc.runtime.backends.choice import Choice, available_cpus, choose, open_session
from sdtc.runtime.backends.onnxruntime_session import OnnxRuntimeSession
from sdtc.runtime.backends.quantize import quantize_weights
from sdtc.runtime.backends.tensorrt_session import EXTRAS, check_compatible

ROOT = Path(__file__).resolve().parents[3]
CPU, AUTO = Choice("onnxruntime", "cpu"), Choice("auto", "cpu")
INFO = EngineInfo("tensorrt-rtx", "1.7.1.116", ("8.6", "8.9"))
GPU = cuda.Gpu("NVIDIA Test", "8.6")


@pytest.fixture(scope="module")
def manifest(tiny_bundle) -> Manifest:
    return Manifest.load(tiny_bundle / "model.json")


@pytest.fixture(scope="module")
def with_engine(manifest) -> Manifest:
    """As if the bundle had engines, wherever this runs."""
    graphs = {name: GraphFiles(f"{name}.onnx", f"{name}.plan") for name in manifest.graphs}
    return dataclasses.replace(manifest, engine=INFO, graphs=graphs)


def clip(batch: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, 5, 128, 96, 3), dtype=np.uint8)


def test_onnxruntime_session(manifest, tiny_bundle) -> None:
    with open_session(manifest, tiny_bundle, CPU, threads=1) as session:
        assert session.inputs["clip"].shape == (None, 5, 128, 96, 3)
        assert session.inputs["clip"].dtype == np.uint8
        out = session.run({"clip": clip()})
    assert out["keypoints"].shape == (2, 15, 3)
    assert out["heatmaps"].shape == (2, 15, 32, 24)
    assert session.backend.startswith("onnxruntime")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_only_the_outputs_that_are_asked_for(manifest, tiny_bundle, backend) -> None:
    pytest.importorskip(backend)
    with open_session(manifest, tiny_bundle, Choice(backend, "cpu")) as session:
        every, one = session.run({"clip": clip()}), session.run({"clip": clip()}, ("keypoints",))
    assert set(every) == {"heatmaps", "keypoints"}
    assert set(one) == {"keypoints"}
    np.testing.assert_array_equal(one["keypoints"], every["keypoints"])


def test_openvino_answers_as_onnxruntime(manifest, tiny_bundle) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    with open_session(manifest, tiny_bundle, CPU) as session:
        want = session.run({"clip": clip(3)})
    with open_session(manifest, tiny_bundle, Choice("openvino", "cpu")) as session:
        got = session.run({"clip": clip(3)})
    np.testing.assert_allclose(got["heatmaps"], want["heatmaps"], atol=1e-4)
    np.testing.assert_allclose(got["keypoints"][..., :2], want["keypoints"][..., :2], atol=0.01)
    assert got["heatmaps"].flags.owndata  # not a view of memory that the next run overwrites


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_openvino_in_low_precision(manifest, tiny_bundle, with_engine, precision) -> None:
    ov = pytest.importorskip("openvino", reason="needs the extra openvino")
    choice = choose(with_engine, True, precision=precision)
    assert choice == choose(with_engine, True, "openvino", precision=precision)
    assert choice == Choice("openvino", "cpu", precision=precision)
    for wrong in ({"backend": "onnxruntime"}, {"backend": "tensorrt-rtx"}, {"device": "cuda"}):
        with pytest.raises(
            InputError, match=rf"`precision='{precision}'` is how OpenVINO computes on the CPU: leave out"
        ):
            choose(with_engine, True, precision=precision, **wrong)
    if precision.upper() not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(EngineError, match=f"this processor does not compute in {precision}"):
            open_session(manifest, tiny_bundle, choice)
        pytest.skip(f"this processor does not compute in {precision}")
    with open_session(manifest, tiny_bundle, CPU) as session:
        want = session.run({"clip": clip(3)})["heatmaps"]
    with open_session(manifest, tiny_bundle, choice) as session:
        got = session.run({"clip": clip(3)})["heatmaps"]
        assert precision in session.backend
    difference = np.abs(got - want).max()
    assert 0 < difference < 0.1 * np.abs(want).max()


@pytest.mark.parametrize("graph", ["model", "encoder", "temporal"])
def test_int8_weights_are_the_weights_rounded(manifest, tiny_bundle, graph) -> None:
    """In ONNX Runtime, which takes the rounded weights for what they are, against the graph as it was."""
    onnx = pytest.importorskip("onnx", reason="needs the extra openvino")
    ort = pytest.importorskip("onnxruntime")
    model = onnx.load(tiny_bundle / manifest.graphs[graph].onnx)
    before = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    spec = model.graph.input[0]
    shape = [side.dim_value or 2 for side in spec.type.tensor_type.shape.dim]
    kind = np.uint8 if spec.type.tensor_type.elem_type == onnx.TensorProto.UINT8 else np.float32
    inputs = {spec.name: np.random.default_rng(0).integers(0, 256, shape).astype(kind)}
    want = ort.InferenceSession(model.SerializeToString()).run(None, inputs)[-1]
    count = quantize_weights(model)
    onnx.checker.check_model(model)
    after = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    quantized = [name for name in before if name not in after]
    assert len(quantized) == count > 4
    for name in quantized:
        scales = after[f"{name}.scale"]
        assert np.abs(after[f"{name}.int8"]).max() == 127
        difference = np.abs(after[f"{name}.int8"] * scales - before[name])
        assert (difference <= scales * 0.5001).all()
    got = ort.InferenceSession(model.SerializeToString()).run(None, inputs)[-1]
    assert 0 < np.abs(got - want).max() < 0.1 * np.abs(want).max()


def test_a_container_that_allows_half_of_a_processor_gets_one_thread(monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for text, count in (("max 100000", 8), ("50000 100000", 1), ("300000 100000", 3), ("9900000 100000", 8), ("x", 8)):
        monkeypatch.setattr(Path, "read_text", lambda *_, text=text, **__: text)
        assert available_cpus() == count


@pytest.mark.slow
def test_a_signal_after_openvino_was_closed_is_handled(tiny_bundle) -> None:
    """In a process of its own, which does not survive where OpenVINO leaves a stack for signals that is gone."""
    pytest.importorskip("openvino", reason="needs the extra openvino")
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "from sdtc.runtime.backends.openvino_session import OpenVINOSession as Session\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # ignored in what a shell runs behind
        "sessions = [Session(path) for path in sys.argv[1:]]\n"
        "while sessions: sessions.pop(0).close()\n"
        "try: signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt: print('alive')"
    )
    graphs = [tiny_bundle / "model.encoder.onnx", tiny_bundle / "model.temporal.onnx"]
    run = subprocess.run([sys.executable, "-c", code, *graphs], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "alive\n"), run.stderr


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"frames": clip()}, r"inputs are \['frames'\]: the graph takes \['clip'\]"),
        ({"clip": clip().astype(np.float32)}, "is float32 .* expected uint8"),
        ({"clip": clip()[:, :3]}, r"expected uint8 \[batch, 5, 128, 96, 3\]"),
        ({"clip": clip()[0]}, r"expected uint8 \[batch"),
    ],
)
def test_wrong_inputs_name_both_sides(manifest, tiny_bundle, inputs, sentence) -> None:
    with open_session(manifest, tiny_bundle, CPU) as session, pytest.raises(EngineError, match=sentence):
        session.run(inputs)


def test_a_damaged_graph_is_refused(manifest, tiny_bundle, tmp_path) -> None:
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "b"))
    (bundle / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes()[:-100])
    with pytest.raises(BundleError, match="SHA-256"):
        open_session(manifest, bundle, CPU)
    with pytest.raises(EngineError, match="cannot run"):
        OnnxRuntimeSession(bundle / "model.onnx")


def test_choice_of_backend(with_engine) -> None:
    none = "no usable GPU: no driver"
    assert choose(with_engine, True, gpu_problem="") == Choice("tensorrt-rtx", "cuda")
    assert choose(with_engine, True, "tensorrt-rtx", gpu_problem="") == Choice("tensorrt-rtx", "cuda")
    assert choose(with_engine, False, gpu_problem="") == AUTO  # the user named the .onnx
    assert choose(with_engine, False, device="cuda", gpu_problem="") == Choice("onnxruntime", "cuda")
    fallback = choose(with_engine, True, gpu_problem=none)
    assert (fallback.backend, fallback.device) == ("auto", "cpu")
    assert "no driver" in fallback.notice
    assert choose(with_engine, True, device="cpu") == AUTO
    assert choose(with_engine, True, "onnxruntime", gpu_problem=none) == CPU
    assert choose(with_engine, True, "openvino") == Choice("openvino", "cpu")
    assert choose(with_engine, True, "onnxruntime", "cuda", gpu_problem="") == Choice("onnxruntime", "cuda")
    with pytest.raises(EngineError, match="no driver; use `device='cpu'`"):
        choose(with_engine, True, device="cuda", gpu_problem=none)
    with pytest.raises(EngineError, match="no driver"):
        choose(with_engine, True, "tensorrt-rtx", gpu_problem=none)
    with pytest.raises(EngineError, match=r"no tensorrt engine .its engine is for tensorrt-rtx."):
        choose(with_engine, True, "tensorrt", gpu_problem="")
    with pytest.raises(EngineError, match=r"no tensorrt engine .it has none."):
        choose(dataclasses.replace(with_engine, engine=None), True, "tensorrt", gpu_problem="")
    with pytest.raises(InputError, match="runs on a GPU only"):
        choose(with_engine, True, "tensorrt-rtx", "cpu")
    with pytest.raises(InputError, match="runs on the CPU"):
        choose(with_engine, True, "openvino", "cuda")
    with pytest.raises(InputError, match="expected one of auto"):
        choose(with_engine, True, "tvm")


def test_onnxruntime_without_cuda_runs_on_the_cpu_and_says_so(with_engine, tiny_bundle, monkeypatch) -> None:
    """A GPU, but the plain onnxruntime: an error only where the GPU was asked for."""
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    chosen = choose(with_engine, True, "onnxruntime", gpu_problem="")
    assert (chosen.backend, chosen.device) == ("onnxruntime", "cpu")
    assert "no CUDA" in chosen.notice
    assert chosen.notice.endswith("running the bundle's ONNX on the CPU")
    assert len(chosen.notice.splitlines()) == 1
    with pytest.raises(EngineError, match=r"no CUDA: .* pip uninstall onnxruntime .*'sdtc\[gpu\]'.*`device='cpu'`"):
        OnnxRuntimeSession(tiny_bundle / "model.onnx", device="cuda")
    monkeypatch.setattr(onnxruntime_session, "cuda_problem", lambda: "")
    assert choose(with_engine, True, "onnxruntime", gpu_problem="") == Choice("onnxruntime", "cuda")


def test_bf16_bundles_say_where_they_run(with_engine, monkeypatch) -> None:
    bf16 = dataclasses.replace(with_engine, precision="bf16")
    assert choose(bf16, False) == Choice("openvino", "cpu")
    with pytest.raises(EngineError, match="this bundle is bf16"):
        choose(bf16, False, "onnxruntime")
    monkeypatch.setattr(sessions, "_is_installed", lambda module: module != "openvino")
    with pytest.raises(EngineError, match=r"this bundle is bf16.*pip install 'sdtc\[openvino\]'"):
        choose(bf16, False)
    assert choose(bf16, True, gpu_problem="").backend == "tensorrt-rtx"
    with pytest.raises(EngineError, match=r"no driver.*; this bundle is bf16"):  # "run it on a GPU": why not, then?
        choose(bf16, True, gpu_problem="no usable GPU: no driver")


def test_engine_of_another_version_names_both() -> None:
    check_compatible(INFO, "1.7.1.116", GPU)
    with pytest.raises(EngineError, match=r"built by tensorrt-rtx 1\.7\.1\.116, installed is 1\.9\.0\.3"):
        check_compatible(INFO, "1.9.0.3", GPU)


def test_engine_for_another_gpu_names_both() -> None:
    other = dataclasses.replace(GPU, compute_capability="12.0")
    with pytest.raises(EngineError, match=r"for compute capability 8\.6, 8\.9, this GPU \(NVIDIA Test\) has 12\.0"):
        check_compatible(INFO, "1.7.1.116", other)
    with pytest.raises(EngineError, match=r"export again with `compute_capabilities=12\.0`, or use `device='cpu'`"):
        check_compatible(INFO, "1.7.1.116", other)
    with pytest.raises(EngineError, match="export again here"):  # full TensorRT takes no such option
        check_compatible(dataclasses.replace(INFO, flavour="tensorrt"), "1.7.1.116", other)


def test_no_gpu_is_said_in_words() -> None:
    gpu, reason = cuda.gpu_or_reason()
    if gpu is None:
        assert "no usable GPU" in reason or "pip install" in reason
        with pytest.raises(EngineError, match="no usable GPU"):
            cuda.find_gpu()


def test_an_engine_is_not_loaded_without_a_gpu(tiny_plans) -> None:
    manifest = Manifest.load(tiny_plans / "model.json")
    with pytest.raises(EngineError, match="no usable GPU"):
        open_session(manifest, tiny_plans, Choice("tensorrt-rtx", "cuda"))


def pathfinder_error() -> Exception:
    pathfinder = pytest.importorskip("cuda.pathfinder", reason="comes with cuda-python 13")
    return pathfinder.DynamicLibNotFoundError("Failure finding libcuda.so.1")


@pytest.mark.parametrize(
    "make_error",
    [lambda: RuntimeError("Failed to dlopen libcuda.so.1"), pathfinder_error, lambda: OSError("libcuda.so.1: no")],
    ids=["cuda-bindings 12", "cuda-pathfinder", "dlopen"],
)
def test_a_binding_that_finds_no_driver(monkeypatch, make_error) -> None:
    """cuda-bindings 12 loads the driver at the first call, and raises what is no SdtcError."""
    error = make_error()

    class Binding:
        def cudaGetDeviceCount(self):  # noqa: N802
            raise error

    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", Binding())
    gpu, reason = cuda.gpu_or_reason()
    assert gpu is None
    assert reason.startswith("no usable GPU: no NVIDIA driver")
    assert str(error) in reason


def test_a_binding_that_does_not_load(monkeypatch) -> None:
    def broken(*args):
        raise ImportError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(cuda, "require", broken)
    assert cuda.gpu_or_reason() == (
        None,
        "no usable GPU: cuda-python does not load (libcudart.so.13: cannot open shared object file)",
    )


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_without_cuda_python_the_extra_of_the_flavour_is_named(with_engine, monkeypatch, flavour) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    built = dataclasses.replace(with_engine, engine=dataclasses.replace(INFO, flavour=flavour))
    assert f"pip install 'sdtc[{EXTRAS[flavour]}]'" in choose(built, True).notice


@pytest.fixture(scope="module")
def extras() -> dict[str, list[Requirement]]:
    """What setup.py declares, and not what some day was installed from it."""
    declared: dict = {}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(setuptools, "setup", lambda **arguments: declared.update(arguments))
        runpy.run_path(str(ROOT / "setup.py"))
    return {name: [Requirement(text) for text in lines] for name, lines in declared["extras_require"].items()}


def test_extras_bring_what_messages_say_they_bring(extras) -> None:
    def brings(extra: str) -> set[str]:
        return {requirement.name for requirement in extras[extra]}

    assert brings("gpu") == {"onnxruntime-gpu", "tensorrt", "cuda-python"}
    assert brings("gpu-rtx") == {"tensorrt-rtx", "cuda-python", "onnxruntime"}
    for flavour, extra in EXTRAS.items():
        assert {flavour, "cuda-python"} <= brings(extra)
        assert "torch" not in brings(extra)  # a machine that only runs engines
    assert {"tensorrt-rtx", "cuda-python"} <= brings("export")
    # onnxruntime and onnxruntime-gpu hold the same files: `[cpu,export]` and `[gpu,export]` must bring one of them
    assert not brings("export") & {"onnxruntime", "onnxruntime-gpu"}


@pytest.mark.parametrize(
    ("system", "machine", "has_wheels"),
    [
        ("Linux", "x86_64", True),
        ("Windows", "AMD64", True),
        ("Linux", "aarch64", False),
        ("Darwin", "arm64", False),
        ("Darwin", "x86_64", False),
    ],
)
def test_export_installs_where_tensorrt_rtx_has_no_wheels(extras, system, machine, has_wheels) -> None:
    here = {"platform_system": system, "platform_machine": machine}
    for extra in ("export", "gpu-rtx"):
        (rtx,) = [requirement for requirement in extras[extra] if requirement.name == "tensorrt-rtx"]
        assert rtx.marker.evaluate(here) == has_wheels


def assert_heatmaps_close(got, want, tolerance: float) -> None:
    """Compare two answers; `tolerance` is relative to the largest heatmap value."""
    np.testing.assert_allclose(
        got["heatmaps"], want["heatmaps"], rtol=0, atol=tolerance * np.abs(want["heatmaps"]).max()
    )


@pytest.fixture
def gpu_manifest(gpu_bundle) -> Manifest:
    return Manifest.load(gpu_bundle / "model.json")


def test_tensorrt_answers_as_onnxruntime(gpu_manifest, gpu_bundle) -> None:
    with open_session(gpu_manifest, gpu_bundle, CPU) as session:
        want = session.run({"clip": clip(7)})
    with open_session(gpu_manifest, gpu_bundle, choose(gpu_manifest, True, device="cuda")) as session:
        got = session.run({"clip": clip(7)})
        one = session.run({"clip": clip(7)[:1]})  # a smaller batch after a larger one
        again = session.run({"clip": clip(7)})
    assert_heatmaps_close(got, want, 1e-3)
    assert_heatmaps_close(one, {"heatmaps": got["heatmaps"][:1]}, 1e-3)
    assert_heatmaps_close(again, got, 1e-3)  # not equal: TensorRT-RTX swaps in specialised kernels as it goes


def test_tensorrt_streaming_pair(gpu_manifest, gpu_bundle) -> None:
    choice = choose(gpu_manifest, True, device="cuda")
    with open_session(gpu_manifest, gpu_bundle, choice) as session:
        want = session.run({"clip": clip(2)})
    with (
        open_session(gpu_manifest, gpu_bundle, choice, "encoder") as encoder,
        open_session(gpu_manifest, gpu_bundle, choice, "temporal") as temporal,
    ):
        tokens = encoder.run({"frames": clip(2).reshape(-1, 128, 96, 3)})["tokens"]
        got = temporal.run({"tokens": tokens.reshape(2, 5, 48, 64)})
    assert_heatmaps_close(got, want, 1e-3)


def test_tensorrt_takes_device_arrays_where_they_lie(gpu_manifest, gpu_bundle) -> None:
    class OnDevice:
        """What PyCUDA's arrays give, strides included."""

        def __init__(self, array: np.ndarray) -> None:
            self.buffer = cuda.DeviceBuffer(array.nbytes)
            self.buffer.view(array.shape, array.dtype)[...] = array
            stream = cuda.Stream()
            self.buffer.upload(array.nbytes, stream)
            stream.synchronize()
            stream.close()
            self.__cuda_array_interface__ = {
                "shape": array.shape, "strides": array.strides, "typestr": array.dtype.str,
                "data": (self.buffer.device, False), "stream": None, "version": 3,
            }  # fmt: skip

    with open_session(gpu_manifest, gpu_bundle, choose(gpu_manifest, True, device="cuda")) as session:
        host = session.run({"clip": clip()})
        on_device = OnDevice(clip())
        device = session.run({"clip": on_device})
        on_device.buffer.close()
    assert_heatmaps_close(device, host, 1e-3)


def test_tensorrt_refuses_a_batch_beyond_its_profile(gpu_manifest, gpu_bundle) -> None:
    with (
        open_session(gpu_manifest, gpu_bundle, choose(gpu_manifest, True, device="cuda")) as session,
        pytest.raises(EngineError, match="batch 9, the engine takes 1 to 8"),
    ):
        session.run({"clip": clip(9)})


def test_engines_are_compared_with_pytorch_where_they_are_built(gpu_manifest) -> None:
    figures = gpu_manifest.parity["engine_vs_pytorch"]
    assert figures["windows"] == figures["streaming_vs_window"]["windows"] >= 10
    assert figures["heatmaps_max_relative"] < 1e-3
    assert figures["streaming_vs_window"]["heatmaps_max_relative"] < 1e-3


def test_a_smallest_batch_above_one(gpu_manifest, tiny_checkpoint, tmp_path) -> None:
    from sdtc.export.bundle import ExportOptions, export

    export(tiny_checkpoint, tmp_path, ExportOptions(batch=(4, 8, 16), flavour=gpu_manifest.engine.flavour), quiet=True)
    assert Manifest.load(tmp_path / "model.json").parity["engine_vs_pytorch"]["windows"] >= 10


@pytest.mark.parametrize(
    "change",
    [{"input_size": (96, 96)}, {"num_frames": 3}, {"token_shape": (48, 32)}, {"keypoints": ("nose", "head_top")}],
    ids=str,
)
def test_a_graph_that_is_not_what_the_manifest_says(manifest, tiny_bundle, change) -> None:
    """Its hash is right, so that the file is the one that the manifest means."""
    other = dataclasses.replace(manifest, **change)
    names = [graph for graph in ("model", "encoder", "temporal") if _differs(graph, change)]
    for graph in names:
        with pytest.raises(EngineError, match=f"the graph '{graph}' is not what the manifest says: export"):
            open_session(other, tiny_bundle, Choice("onnxruntime", "cpu"), graph, 1)
    for graph in {"model", "encoder", "temporal"} - set(names):
        open_session(other, tiny_bundle, Choice("onnxruntime", "cpu"), graph, 1).close()


def _differs(graph: str, change: dict) -> bool:
    return {
        "input_size": graph != "temporal",
        "num_frames": graph != "encoder",
        "token_shape": graph != "model",
        "keypoints": graph != "encoder",
    }[next(iter(change))]
