"""The TensorRT session's own logic, with a driver and an engine that live in host memory.

What is shown here: buffers, shapes, batches, copies and messages. That TensorRT itself does the same is shown by the
tests marked `gpu` in test_sessions.py. A last test holds the names used against the real `tensorrt_rtx`.
"""

from __future__ import annotations

import ctypes
import enum
from types import SimpleNamespace

import numpy as np
import pytest

from sdtc.errors import EngineError
from sdtc.manifest import EngineInfo
from sdtc.runtime import cuda
from sdtc.runtime.sessions import tensorrt_session
from sdtc.runtime.sessions.tensorrt_session import TensorRTSession

INFO = EngineInfo("tensorrt-rtx", "1.7.1.116", ("8.6",))


class Status(enum.Enum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100


class HostDriver:
    """The part of `cuda.bindings.runtime` that we call, over host memory; copies happen at synchronisation only."""

    cudaError_t = Status
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down")

    def __init__(self) -> None:
        self.memory: dict[int, ctypes.Array] = {}
        self.queue: list = []
        self.streams = 0
        self.status = Status.cudaSuccess

    def cudaGetDeviceCount(self):
        return self.status, 1

    def cudaGetDeviceProperties(self, index):
        return Status.cudaSuccess, SimpleNamespace(name=b"Fake", major=8, minor=6)

    def cudaGetErrorString(self, status):
        return Status.cudaSuccess, status.name.encode()

    def cudaMalloc(self, size):
        if size > 1 << 40:
            return Status.cudaErrorMemoryAllocation, 0
        block = (ctypes.c_byte * size)()
        self.memory[ctypes.addressof(block)] = block
        return Status.cudaSuccess, ctypes.addressof(block)

    cudaMallocHost = cudaMalloc

    def cudaFree(self, address):
        del self.memory[address]
        return (Status.cudaSuccess,)

    cudaFreeHost = cudaFree

    def cudaStreamCreate(self):
        self.streams += 1
        return Status.cudaSuccess, 77

    def cudaStreamDestroy(self, stream):
        self.streams -= 1
        return (Status.cudaSuccess,)

    def cudaStreamSynchronize(self, stream):
        for work in self.queue:
            work()
        self.queue.clear()
        return (Status.cudaSuccess,)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        assert stream == 77
        self.queue.append(lambda: ctypes.memmove(target, source, size))
        return (Status.cudaSuccess,)


def at(address: int, shape, dtype) -> np.ndarray:
    dtype = np.dtype(dtype)
    nbytes = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer((ctypes.c_byte * nbytes).from_address(address), dtype).reshape(shape)


class Context:
    """Doubles a uint8 input `x [B, 3]` into a float32 output `y [B, 3]`."""

    def __init__(self, driver: HostDriver) -> None:
        self.driver, self.address, self.shape = driver, {}, None

    def set_input_shape(self, name, shape):
        self.shape = tuple(shape)
        return self.shape[1:] == (3,)

    def get_tensor_shape(self, name):
        return self.shape

    def set_tensor_address(self, name, address):
        self.address[name] = address

    def execute_async_v3(self, stream):
        addresses, shape = dict(self.address), self.shape
        self.driver.queue.append(
            lambda: np.copyto(at(addresses["y"], shape, np.float32), 2.0 * at(addresses["x"], shape, np.uint8))
        )
        return True


def make_trt(driver: HostDriver, version: str = "1.7.1.116", plan: bytes = b"plan"):
    mode = SimpleNamespace(INPUT="in", OUTPUT="out")
    engine = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda index: "xy"[index],
        get_tensor_shape=lambda name: (-1, 3),
        get_tensor_dtype=lambda name: {"x": np.uint8, "y": np.float32}[name],
        get_tensor_mode=lambda name: {"x": "in", "y": "out"}[name],
        get_tensor_profile_shape=lambda name, profile: ((1, 3), (2, 3), (4, 3)),
        create_execution_context=lambda: Context(driver),
    )

    class Logger:
        ERROR = 1

        def __init__(self, level) -> None: ...

    runtime = SimpleNamespace(deserialize_cuda_engine=lambda data: engine if data == plan else None)
    return SimpleNamespace(
        __version__=version, Logger=Logger, Runtime=lambda logger: runtime, TensorIOMode=mode, nptype=lambda kind: kind
    )


@pytest.fixture
def driver(monkeypatch) -> HostDriver:
    driver = HostDriver()
    monkeypatch.setattr(cuda, "_cudart", lambda: driver)
    monkeypatch.setattr(tensorrt_session, "require", lambda *args: make_trt(driver))
    return driver


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "model.plan"
    path.write_bytes(b"plan")
    return path


def test_batches_of_every_size_one_after_the_other(driver, plan, rng) -> None:
    with TensorRTSession(plan, INFO) as session:
        assert session.inputs["x"].shape == (None, 3)
        assert session.max_batch == {"x": 4}
        results = []
        for batch in (4, 1, 3, 2, 4):
            x = rng.integers(0, 256, (batch, 3), dtype=np.uint8)
            results.append((x, session.run({"x": x})["y"]))
        for x, y in results:  # after all runs: no result may be a view of a buffer that was used again
            np.testing.assert_array_equal(y, 2.0 * x)
    assert driver.memory == {}
    assert driver.streams == 0


def test_device_arrays_are_used_where_they_lie(driver, plan) -> None:
    class OnDevice:
        def __init__(self, array: np.ndarray, **changes) -> None:
            self.array = array
            self.__cuda_array_interface__ = {
                "shape": array.shape,
                "typestr": array.dtype.str,
                "data": (array.ctypes.data, False),
                "strides": None,
                "version": 3,
            } | changes

    x = np.arange(6, dtype=np.uint8).reshape(2, 3)
    with TensorRTSession(plan, INFO) as session:
        np.testing.assert_array_equal(session.run({"x": OnDevice(x, stream=2)})["y"], 2.0 * x)
        np.testing.assert_array_equal(session.run({"x": x + 1})["y"], 2.0 * (x + 1))  # and the host way again
        with pytest.raises(EngineError, match="make it contiguous first"):
            session.run({"x": OnDevice(x, strides=(6, 2))})
        with pytest.raises(EngineError, match="expected uint8"):
            session.run({"x": OnDevice(x.astype(np.float32))})


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"x": np.zeros((5, 3), np.uint8)}, "batch 5, the engine takes up to 4"),
        ({"x": np.zeros((2, 4), np.uint8)}, r"expected uint8 \[batch, 3\]"),
        ({"x": np.zeros((2, 3), np.float32)}, "is float32"),
        ({"z": np.zeros((2, 3), np.uint8)}, r"the graph takes \['x'\]"),
        ({}, r"the graph takes \['x'\]"),
    ],
)
def test_wrong_inputs(driver, plan, inputs, sentence) -> None:
    with TensorRTSession(plan, INFO) as session, pytest.raises(EngineError, match=sentence):
        session.run(inputs)


def test_versions_and_gpus_are_compared_before_the_engine_is_touched(driver, plan, monkeypatch) -> None:
    other = make_trt(driver, version="1.8.0.4")
    other.Runtime = None  # calling it would be a TypeError
    monkeypatch.setattr(tensorrt_session, "require", lambda *args: other)
    with pytest.raises(EngineError, match=r"built by tensorrt-rtx 1\.7\.1\.116, installed is 1\.8\.0\.4"):
        TensorRTSession(plan, INFO)
    with pytest.raises(EngineError, match=r"for compute capability 12\.0, this GPU \(Fake\) has 8\.6"):
        TensorRTSession(plan, EngineInfo("tensorrt-rtx", "1.8.0.4", ("12.0",)))


def test_an_engine_that_tensorrt_refuses(driver, plan) -> None:
    plan.write_bytes(b"something else")
    with pytest.raises(EngineError, match=r"cannot load .* \(built by 1\.7\.1\.116 .* this GPU has 8\.6\)"):
        TensorRTSession(plan, INFO)


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (Status.cudaErrorInsufficientDriver, "no NVIDIA driver"),
        (Status.cudaErrorNoDevice, "no NVIDIA GPU is visible"),
        (Status.cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation"),
    ],
)
def test_why_there_is_no_gpu(driver, plan, status, sentence) -> None:
    driver.status = status
    with pytest.raises(EngineError, match=f"no usable GPU: {sentence}"):
        TensorRTSession(plan, INFO)


def test_a_failed_driver_call_is_named(driver) -> None:
    with pytest.raises(EngineError, match="cudaErrorMemoryAllocation"):
        cuda.DeviceBuffer(1 << 41)
    with pytest.raises(EngineError, match="does not fit a buffer of 8"):
        cuda.DeviceBuffer(8).view((3,), np.dtype(np.float32))


def test_names_exist_in_the_real_libraries() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    runtime = pytest.importorskip("cuda.bindings.runtime")
    used = {
        trt: ("Logger", "Runtime", "TensorIOMode", "nptype", "__version__"),
        trt.Runtime: ("deserialize_cuda_engine",),
        trt.ICudaEngine: [
            "num_io_tensors",
            "get_tensor_name",
            "get_tensor_shape",
            "get_tensor_dtype",
            "get_tensor_mode",
            "get_tensor_profile_shape",
            "create_execution_context",
        ],
        trt.IExecutionContext: ("set_input_shape", "set_tensor_address", "get_tensor_shape", "execute_async_v3"),
        runtime: [name for name in dir(HostDriver) if name.startswith("cuda")],
    }
    for owner, names in used.items():
        assert [name for name in names if not hasattr(owner, name)] == []
    assert trt.nptype(trt.DataType.UINT8) == np.uint8
