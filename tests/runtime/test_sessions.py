from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from sdtc.errors import BundleError, EngineError, InputError
from sdtc.manifest import EngineInfo, Manifest
from sdtc.runtime import cuda
from sdtc.runtime.sessions import Choice, choose, open_session
from sdtc.runtime.sessions.tensorrt_session import check_compatible

CPU = Choice("onnxruntime", "cpu")


@pytest.fixture(scope="module")
def manifest(tiny_bundle) -> Manifest:
    return Manifest.load(tiny_bundle / "model.json")


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


def test_openvino_answers_as_onnxruntime(manifest, tiny_bundle) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")
    with open_session(manifest, tiny_bundle, CPU) as session:
        want = session.run({"clip": clip(3)})
    with open_session(manifest, tiny_bundle, Choice("openvino", "cpu")) as session:
        got = session.run({"clip": clip(3)})
    np.testing.assert_allclose(got["heatmaps"], want["heatmaps"], atol=1e-4)
    np.testing.assert_allclose(got["keypoints"][..., :2], want["keypoints"][..., :2], atol=0.01)
    assert got["heatmaps"].flags.owndata  # not a view of memory that the next run overwrites


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
    from sdtc.runtime.sessions.onnxruntime_session import OnnxRuntimeSession

    with pytest.raises(EngineError, match="cannot run"):
        OnnxRuntimeSession(bundle / "model.onnx")


def test_choice_of_backend(manifest) -> None:
    none = "no usable GPU: no driver"
    assert choose(manifest, True, gpu_problem="") == Choice("tensorrt-rtx", "cuda")
    assert choose(manifest, False, gpu_problem="") == CPU  # the user named the .onnx
    fallback = choose(manifest, True, gpu_problem=none)
    assert (fallback.backend, fallback.device) == ("onnxruntime", "cpu")
    assert "no driver" in fallback.notice
    assert choose(manifest, True, device="cpu") == CPU
    assert choose(manifest, True, "openvino") == Choice("openvino", "cpu")
    assert choose(manifest, True, "onnxruntime", "cuda", gpu_problem="") == Choice("onnxruntime", "cuda")
    with pytest.raises(EngineError, match="no driver; use --device cpu"):
        choose(manifest, True, device="cuda", gpu_problem=none)
    with pytest.raises(EngineError, match="no driver"):
        choose(manifest, True, "tensorrt-rtx", gpu_problem=none)
    with pytest.raises(EngineError, match=r"no tensorrt engine .its engine is for tensorrt-rtx."):
        choose(manifest, True, "tensorrt", gpu_problem="")
    with pytest.raises(InputError, match="runs on a GPU only"):
        choose(manifest, True, "tensorrt-rtx", "cpu")
    with pytest.raises(InputError, match="runs on the CPU"):
        choose(manifest, True, "openvino", "cuda")
    with pytest.raises(InputError, match="expected one of auto"):
        choose(manifest, True, "tvm")


def test_bf16_bundles_say_where_they_run(manifest) -> None:
    bf16 = dataclasses.replace(manifest, precision="bf16")
    with pytest.raises(EngineError, match="bf16"):
        choose(bf16, False)
    assert choose(bf16, True, gpu_problem="").backend == "tensorrt-rtx"


INFO = EngineInfo("tensorrt-rtx", "1.7.1.116", ("8.6", "8.9"))
GPU = cuda.Gpu(0, "NVIDIA Test", "8.6")


def test_engine_of_another_version_names_both() -> None:
    check_compatible(INFO, "1.7.1.116", GPU)
    with pytest.raises(EngineError, match=r"built by tensorrt-rtx 1\.7\.1\.116, installed is 1\.9\.0\.3"):
        check_compatible(INFO, "1.9.0.3", GPU)


def test_engine_for_another_gpu_names_both() -> None:
    with pytest.raises(EngineError, match=r"for compute capability 8\.6, 8\.9, this GPU \(NVIDIA Test\) has 12\.0"):
        check_compatible(INFO, "1.7.1.116", dataclasses.replace(GPU, compute_capability="12.0"))


def test_no_gpu_is_said_in_words() -> None:
    gpu, reason = cuda.gpu_or_reason()
    if gpu is None:
        assert "no usable GPU" in reason or "pip install" in reason
        with pytest.raises(EngineError, match="no usable GPU"):
            cuda.find_gpu()


@pytest.mark.gpu
def test_tensorrt_answers_as_onnxruntime(manifest, tiny_bundle) -> None:
    with open_session(manifest, tiny_bundle, CPU) as session:
        want = session.run({"clip": clip(7)})
    with open_session(manifest, tiny_bundle, choose(manifest, True, device="cuda")) as session:
        got = session.run({"clip": clip(7)})
        one = session.run({"clip": clip(7)[:1]})  # a smaller batch after a larger one
        again = session.run({"clip": clip(7)})
    np.testing.assert_allclose(got["heatmaps"], want["heatmaps"], atol=1e-3 * np.abs(want["heatmaps"]).max())
    np.testing.assert_allclose(one["heatmaps"], got["heatmaps"][:1], atol=1e-4)
    np.testing.assert_array_equal(again["heatmaps"], got["heatmaps"])


@pytest.mark.gpu
def test_tensorrt_streaming_pair(manifest, tiny_bundle) -> None:
    choice = choose(manifest, True, device="cuda")
    with open_session(manifest, tiny_bundle, choice) as session:
        want = session.run({"clip": clip(2)})
    with (
        open_session(manifest, tiny_bundle, choice, "encoder") as encoder,
        open_session(manifest, tiny_bundle, choice, "temporal") as temporal,
    ):
        tokens = encoder.run({"frames": clip(2).reshape(-1, 128, 96, 3)})["tokens"]
        got = temporal.run({"tokens": tokens.reshape(2, 5, 48, 64)})
    np.testing.assert_allclose(got["heatmaps"], want["heatmaps"], atol=1e-3 * np.abs(want["heatmaps"]).max())


@pytest.mark.gpu
def test_tensorrt_takes_device_arrays_where_they_lie(manifest, tiny_bundle) -> None:
    class OnDevice:
        """The least that ``__cuda_array_interface__`` asks for."""

        def __init__(self, array: np.ndarray) -> None:
            self._buffer = cuda.DeviceBuffer(array.nbytes)
            self._buffer.view(array.shape, array.dtype)[...] = array
            stream = cuda.Stream()
            self._buffer.upload(array.nbytes, stream)
            stream.synchronize()
            self.__cuda_array_interface__ = {
                "shape": array.shape, "typestr": array.dtype.str, "data": (self._buffer.device, False), "version": 3,
            }  # fmt: skip

    with open_session(manifest, tiny_bundle, choose(manifest, True, device="cuda")) as session:
        host = session.run({"clip": clip()})
        device = session.run({"clip": OnDevice(clip())})
    np.testing.assert_array_equal(host["heatmaps"], device["heatmaps"])


@pytest.mark.gpu
def test_tensorrt_refuses_a_batch_beyond_its_profile(manifest, tiny_bundle) -> None:
    with (
        open_session(manifest, tiny_bundle, choose(manifest, True, device="cuda")) as session,
        pytest.raises(EngineError, match="batch 9, the engine takes up to 8"),
    ):
        session.run({"clip": clip(9)})
