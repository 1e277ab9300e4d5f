"""The TensorRT session's own logic, with a driver and an engine that live in host memory.

What is shown here: buffers, shapes, batches, copies, messages, and how the export compares engines with PyTorch. That
TensorRT itself does the same is shown by the tests of `gpu_bundle` in test_sessions.py. A last test holds the names
used against the real `tensorrt_rtx`.
"""

from __future__ import annotations

import ctypes
import dataclasses
import enum
import sys
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from sdtc.core.errors import EngineError, ExportError, InputError, MissingExtraError
from sdtc.core.manifest import FLAVOURS, EngineInfo
from sdtc.runtime.backends import cuda, tensorrt_session
from sdtc.runtime.backends.tensorrt_session import TensorRTSession

INFO = EngineInfo("tensorrt-rtx", "1.7.1.116", ("8.6",))


class Status(enum.Enum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100


SUCCESS = (Status.cudaSuccess,)


class HostDriver:
    """The part of `cuda.bindings.runtime` that we call, over host memory; copies happen at synchronisation only.

    Device and pinned host memory are kept apart: a copy in the wrong direction, a free by the wrong function and a
    second free fail as they do in CUDA. Fresh memory is poisoned.

    Attributes:
        failing: names of functions that report a failure, from the given call on (0 is the next one).
    """

    cudaError_t = Status
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down")
    cudaStreamNonBlocking = 1

    def __init__(self) -> None:
        self.device: dict[int, ctypes.Array] = {}
        self.host: dict[int, ctypes.Array] = {}
        self.streams: set[int] = set()
        self.queue: list = []
        self.synchronized: list[int] = []
        self.copies: list[str] = []
        self.contexts: list[Context] = []
        self.failing: dict[str, int] = {}
        self.status = Status.cudaSuccess

    @property
    def clean(self) -> bool:
        return not (self.device or self.host or self.streams)

    def cudaGetDeviceCount(self):
        return self.status, 1

    def cudaGetDeviceProperties(self, index):
        return Status.cudaSuccess, SimpleNamespace(name=b"Fake", major=8, minor=6)

    def cudaGetErrorString(self, status):
        return Status.cudaSuccess, status.name.encode()

    def cudaMalloc(self, size):
        return self._allocate("cudaMalloc", self.device, size)

    def cudaMallocHost(self, size):
        return self._allocate("cudaMallocHost", self.host, size)

    def cudaFree(self, address):
        return self._free("cudaFree", self.device, address)

    def cudaFreeHost(self, address):
        return self._free("cudaFreeHost", self.host, address)

    def cudaStreamCreateWithFlags(self, flags):
        handle = 77 + len(self.streams)
        self.streams.add(handle)
        return Status.cudaSuccess, handle

    def cudaStreamDestroy(self, stream):
        self.streams.remove(stream)
        return SUCCESS

    def cudaStreamSynchronize(self, stream):
        self.synchronized.append(stream)
        if stream in self.streams:  # and not somebody else's
            for work in self.queue:
                work()
            self.queue.clear()
        return SUCCESS

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        to, come_from = {"up": (self.device, self.host), "down": (self.host, self.device)}[kind]
        if target not in to or source not in come_from or size > min(len(to[target]), len(come_from[source])):
            return (Status.cudaErrorInvalidValue,)
        assert stream in self.streams
        self.copies.append(kind)
        self.queue.append(lambda: ctypes.memmove(target, source, size))
        return SUCCESS

    def _fails(self, name: str) -> bool:
        if name not in self.failing:
            return False
        self.failing[name] -= 1
        return self.failing[name] < 0

    def _allocate(self, name, memory, size):
        if self._fails(name) or size > 1 << 40:
            return Status.cudaErrorMemoryAllocation, 0
        block = (ctypes.c_byte * size)()
        ctypes.memset(block, 0xAB, size)
        memory[ctypes.addressof(block)] = block
        return Status.cudaSuccess, ctypes.addressof(block)

    def _free(self, name, memory, address):
        if self._fails(name) or address not in memory:
            return (Status.cudaErrorInvalidValue,)
        del memory[address]
        return SUCCESS


def at(address: int, shape, dtype) -> np.ndarray:
    dtype = np.dtype(dtype)
    nbytes = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer((ctypes.c_byte * nbytes).from_address(address), dtype).reshape(shape)


class Context:
    """Doubles the first two columns of a uint8 input `x [B, 3]` into a float32 output `y [B, 2]`."""

    def __init__(self, driver: HostDriver) -> None:
        self.driver, self.address, self.shape, self.working, self.profile = driver, {}, None, 0, 0
        driver.contexts.append(self)

    def set_optimization_profile_async(self, profile, stream):
        assert stream in self.driver.streams
        self.profile = profile
        return True

    def set_device_memory(self, address, size):
        assert address in self.driver.device
        assert len(self.driver.device[address]) == size == 64
        self.working = address

    def set_input_shape(self, name, shape):
        assert name == "x"
        self.shape = tuple(shape)
        return self.shape[1:] == (3,)

    def get_tensor_shape(self, name):
        return {"x": self.shape, "y": (self.shape[0], 2)}[name]

    def set_tensor_address(self, name, address):
        self.address[name] = address
        return address in self.driver.device

    def execute_async_v3(self, stream):
        x, y, batch = self.address["x"], self.address["y"], self.shape[0]
        assert self.working in self.driver.device
        self.driver.queue.append(
            lambda: np.copyto(at(y, (batch, 2), np.float32), 2.0 * at(x, (batch, 3), np.uint8)[:, :2])
        )
        return True


class RuntimeConfig:
    """TensorRT-RTX's; its cache holds what was in it, and what this run has compiled."""

    made: ClassVar[list[RuntimeConfig]] = []

    def __init__(self) -> None:
        self.strategy = self.cuda_graph_strategy = None
        self.content = b""
        self.made.append(self)

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy

    def create_runtime_cache(self):
        def deserialize(blob):
            self.content = blob
            return True

        return SimpleNamespace(deserialize=deserialize, serialize=lambda: self.content + b"compiled")

    def set_runtime_cache(self, cache):
        return True


def make_trt(driver: HostDriver, version: str = "1.7.1.116", smallest: int = 1, **engine_changes):
    mode = SimpleNamespace(INPUT="in", OUTPUT="out")
    engine = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=lambda index: "xy"[index],
        get_tensor_shape=lambda name: {"x": (-1, 3), "y": (-1, 2)}[name],
        get_tensor_dtype=lambda name: {"x": np.uint8, "y": np.float32}[name],
        get_tensor_mode=lambda name: {"x": "in", "y": "out"}[name],
        num_optimization_profiles=1,
        get_tensor_profile_shape=lambda name, profile: ((smallest, 3), (smallest, 3), (4, 3)),
        create_execution_context=lambda config: Context(driver),
        create_runtime_config=RuntimeConfig,
        device_memory_size_v2=64,
    )
    vars(engine).update(engine_changes)

    class Logger:
        ERROR = 1

        def __init__(self, level) -> None: ...

    runtime = SimpleNamespace(deserialize_cuda_engine=lambda data: engine if data == b"plan" else None)
    return SimpleNamespace(
        __version__=version, Logger=Logger, Runtime=lambda logger: runtime, TensorIOMode=mode, nptype=lambda kind: kind,
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user"),
        CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole"),
    )  # fmt: skip


@pytest.fixture
def driver(monkeypatch, tmp_path) -> HostDriver:
    monkeypatch.setenv("SDTC_CACHE", str(tmp_path / "cache"))
    driver = HostDriver()
    monkeypatch.setattr(cuda, "_cudart", lambda *args: driver)
    monkeypatch.setattr(tensorrt_session, "require", lambda *args: make_trt(driver))
    return driver


@pytest.fixture
def plan(tmp_path):
    path = tmp_path / "model.plan"
    path.write_bytes(b"plan")
    return path


class OnDevice:
    """An array in device memory, as CuPy and torch show one (strides None) or, by `changes`, PyCUDA."""

    def __init__(self, driver: HostDriver, array: np.ndarray, **changes) -> None:
        _, address = driver.cudaMalloc(max(array.nbytes, 1))
        at(address, array.shape, array.dtype)[...] = array
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (address, False),
            "strides": None,
            "version": 3,
        } | changes


def test_batches_of_every_size_one_after_the_other(driver, plan, rng) -> None:
    with TensorRTSession(plan, INFO) as session:
        assert session.inputs["x"].shape == (None, 3)
        assert session.outputs["y"].shape == (None, 2)
        assert session.batch_range == {"x": (1, 4)}
        results = []
        for batch in (4, 1, 3, 2, 4):
            x = rng.integers(0, 256, (batch, 3), dtype=np.uint8)
            results.append((x, session.run({"x": x})["y"]))
        for x, y in results:  # after all runs: no result may be a view of a buffer that was used again
            np.testing.assert_array_equal(y, 2.0 * x[:, :2])
    assert driver.copies == ["up", "down"] * 5
    assert driver.clean
    session.close()  # a second time


def test_outputs_that_nobody_reads_stay_on_the_gpu(driver, plan) -> None:
    with TensorRTSession(plan, INFO) as session:
        x = np.zeros((2, 3), np.uint8)
        assert session.run({"x": x}, ()) == {}
        assert driver.copies == ["up"]
        assert set(session.run({"x": x}, ("y",))) == {"y"}
    assert driver.copies == ["up", "up", "down"]


def test_every_batch_runs_in_the_profile_that_is_tuned_for_the_fewest(driver, plan, monkeypatch, rng) -> None:
    shapes = [((1, 3), (size, 3), (size, 3)) for size in (1, 3, 9)]
    changes = {"num_optimization_profiles": 3, "get_tensor_profile_shape": lambda name, profile: shapes[profile]}
    monkeypatch.setattr(tensorrt_session, "require", lambda *args: make_trt(driver, **changes))
    ran = []
    execute = Context.execute_async_v3
    monkeypatch.setattr(
        Context, "execute_async_v3", lambda self, stream: [ran.append(self.profile), execute(self, stream)][1]
    )
    with TensorRTSession(plan, INFO) as session:
        assert session.batch_range == {"x": (1, 9)}
        for batch in (1, 2, 9, 3, 4, 1):
            x = rng.integers(0, 256, (batch, 3), dtype=np.uint8)
            np.testing.assert_array_equal(session.run({"x": x})["y"], 2.0 * x[:, :2])
        assert ran == [0, 1, 2, 1, 2, 0]
        assert len(driver.contexts) == 3  # of `run`, one for each
        session.lane(3)(cuda.Stream())
        assert ran[-1] == 1
        with pytest.raises(EngineError, match="batch 10, the engine takes 1 to 9"):
            session.run({"x": np.zeros((10, 3), np.uint8)})


def test_device_arrays_are_used_where_they_lie(driver, plan) -> None:
    x = np.arange(6, dtype=np.uint8).reshape(2, 3)
    with TensorRTSession(plan, INFO) as session:
        np.testing.assert_array_equal(session.run({"x": OnDevice(driver, x, stream=2)})["y"], 2.0 * x[:, :2])
        assert driver.copies == ["down"]
        assert driver.synchronized[0] == 2  # whoever wrote the array may still have been at it
        np.testing.assert_array_equal(session.run({"x": x + 1})["y"], 2.0 * (x + 1)[:, :2])  # and the host way again


def test_a_lane_runs_one_batch_size_where_the_memory_is(driver, plan) -> None:
    x = np.arange(9, dtype=np.uint8).reshape(3, 3)
    with TensorRTSession(plan, INFO) as session:
        stream = cuda.Stream()
        lane, other = session.lane(3), session.lane(1)
        at(session.address("x"), (3, 3), np.uint8)[...] = x
        lane(stream)
        stream.synchronize()
        np.testing.assert_array_equal(at(session.address("y"), (3, 2), np.float32), 2.0 * x[:, :2])
        other(stream)
        np.testing.assert_array_equal(session.run({"x": x + 1})["y"], 2.0 * (x + 1)[:, :2])
        assert driver.copies == ["up", "down"]  # of `run` alone
        with pytest.raises(EngineError, match="batch 5, the engine takes 1 to 4"):
            session.lane(5)
        stream.close()
    assert driver.clean


def test_tensorrt_rtx_keeps_what_it_compiles_for_the_next_time(driver, plan, tmp_path, monkeypatch) -> None:
    RuntimeConfig.made.clear()
    with TensorRTSession(plan, INFO) as session:
        assert session.own_graphs
    (kept,) = (tmp_path / "cache" / "tensorrt-rtx").iterdir()
    assert kept.name.endswith("-Fake.bin")
    assert kept.read_bytes() == b"compiled"
    with TensorRTSession(plan, INFO):
        assert RuntimeConfig.made[-1].content == b"compiled"
    assert [(config.strategy, config.cuda_graph_strategy) for config in RuntimeConfig.made] == [("user", "whole")] * 2
    nothing = SimpleNamespace(deserialize=lambda blob: False, serialize=lambda: None)
    with monkeypatch.context() as patch:
        patch.setattr(RuntimeConfig, "create_runtime_cache", lambda self: nothing)
        with TensorRTSession(plan, INFO):
            pass
    assert kept.read_bytes() == b"compiledcompiled"  # what cannot be had replaces nothing
    kept.unlink()
    kept.parent.rmdir()
    kept.parent.write_bytes(b"")  # a folder that cannot be made
    with TensorRTSession(plan, INFO):
        pass
    assert driver.clean


def test_full_tensorrt_has_neither(driver, plan, tmp_path) -> None:
    RuntimeConfig.made.clear()
    with TensorRTSession(plan, dataclasses.replace(INFO, flavour="tensorrt")) as session:
        assert not session.own_graphs
    assert not RuntimeConfig.made
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("batch", "strides"),
    [(2, (3, 1)), (1, (3, 1)), (1, (999, 1)), (1, (0, 1))],
    ids=["PyCUDA", "PyCUDA-1", "slice of one", "broadcast of one"],
)
def test_contiguous_strides_are_no_strides(driver, plan, batch, strides) -> None:
    x = np.arange(batch * 3, dtype=np.uint8).reshape(batch, 3)
    with TensorRTSession(plan, INFO) as session:
        y = session.run({"x": OnDevice(driver, x, strides=strides)})["y"]
    np.testing.assert_array_equal(y, 2.0 * x[:, :2])


@pytest.mark.parametrize(
    ("array", "changes", "sentence"),
    [
        (np.zeros((2, 3), np.uint8), {"strides": (6, 2)}, "make it contiguous first"),
        (np.zeros((2, 3), np.uint8), {"strides": (1, 2)}, "make it contiguous first"),  # Fortran order
        (np.zeros((2, 3), np.float32), {}, r"input 'x' is float32 \[2, 3\]: expected uint8 \[batch, 3\]"),
        (np.zeros((2, 4), np.uint8), {}, r"input 'x' is uint8 \[2, 4\]: expected uint8 \[batch, 3\]"),
        (np.zeros((), np.uint8), {}, r"input 'x' is uint8 \[\]: expected uint8 \[batch, 3\]"),
        (np.zeros((1, 2, 3), np.uint8), {}, r"input 'x' is uint8 \[1, 2, 3\]: expected uint8 \[batch, 3\]"),
        (np.zeros((5, 3), np.uint8), {}, "batch 5, the engine takes 1 to 4"),
        (np.zeros((0, 3), np.uint8), {}, "batch 0, the engine takes 1 to 4"),
    ],
)
def test_wrong_device_arrays(driver, plan, array, changes, sentence) -> None:
    with TensorRTSession(plan, INFO) as session, pytest.raises(EngineError, match=sentence):
        session.run({"x": OnDevice(driver, array, **changes)})


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"x": np.zeros((5, 3), np.uint8)}, "batch 5, the engine takes 1 to 4"),
        ({"x": np.zeros((0, 3), np.uint8)}, "batch 0, the engine takes 1 to 4"),
        ({"x": np.zeros((2, 4), np.uint8)}, r"expected uint8 \[batch, 3\]"),
        ({"x": np.zeros((), np.uint8)}, r"expected uint8 \[batch, 3\]"),
        ({"x": np.zeros((2, 3), np.float32)}, "is float32"),
        ({"z": np.zeros((2, 3), np.uint8)}, r"the graph takes \['x'\]"),
        ({}, r"the graph takes \['x'\]"),
    ],
)
def test_wrong_inputs(driver, plan, inputs, sentence) -> None:
    with TensorRTSession(plan, INFO) as session, pytest.raises(EngineError, match=sentence):
        session.run(inputs)


def test_a_batch_below_the_profile(driver, plan, monkeypatch) -> None:
    monkeypatch.setattr(tensorrt_session, "require", lambda *args: make_trt(driver, smallest=2))
    with TensorRTSession(plan, INFO) as session:
        session.run({"x": np.zeros((2, 3), np.uint8)})
        with pytest.raises(EngineError, match="batch 1, the engine takes 2 to 4"):
            session.run({"x": np.zeros((1, 3), np.uint8)})


def test_an_address_that_tensorrt_refuses(driver, plan) -> None:
    x = np.zeros((2, 3), np.uint8)
    with TensorRTSession(plan, INFO) as session:
        on_host = {"data": (driver.cudaMallocHost(6)[1], False)}  # the fake refuses what is not device memory
        with pytest.raises(EngineError, match="refuses the memory of tensor 'x'"):
            session.run({"x": OnDevice(driver, x, **on_host)})
        session.run({"x": x})
        session._contexts[0].set_tensor_address = lambda name, address: name != "y"
        with pytest.raises(EngineError, match="refuses the memory of tensor 'y'"):
            session.run({"x": x})


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


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_missing_library_names_the_extra_of_its_flavour(driver, plan, monkeypatch, flavour) -> None:
    from sdtc.core.errors import require

    module = tensorrt_session.MODULES[flavour]
    monkeypatch.setattr(tensorrt_session, "require", require)
    monkeypatch.setitem(sys.modules, module, None)
    extra = {"tensorrt": "gpu", "tensorrt-rtx": "gpu-rtx"}[flavour]
    with pytest.raises(MissingExtraError, match=rf"package '{flavour}', .* pip install 'sdtc\[{extra}\]'"):
        TensorRTSession(plan, dataclasses.replace(INFO, flavour=flavour))


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        ({"create_execution_context": lambda config: None}, "could not create an execution context"),
        ({"get_tensor_profile_shape": lambda name, profile: 1 / 0}, "division"),
        ({"cudaMalloc": 0}, "cudaErrorMemoryAllocation"),  # what the engine works in
        ({"cudaMalloc": 1}, "cudaErrorMemoryAllocation"),  # the first tensor
        ({"cudaMalloc": 2}, "cudaErrorMemoryAllocation"),  # the second one
        ({"cudaMallocHost": 0}, "cudaErrorMemoryAllocation"),
        ({"cudaMallocHost": 1}, "cudaErrorMemoryAllocation"),
        ({"cudaMallocHost": 1, "cudaFree": 99}, "cudaErrorMemoryAllocation"),
    ],
)
def test_a_session_that_does_not_open_leaves_nothing_behind(driver, plan, monkeypatch, trouble, sentence) -> None:
    driver.failing = {name: call for name, call in trouble.items() if name.startswith("cuda")}
    changes = {name: call for name, call in trouble.items() if not name.startswith("cuda")}
    monkeypatch.setattr(tensorrt_session, "require", lambda *args: make_trt(driver, **changes))
    with pytest.raises((EngineError, ZeroDivisionError), match=sentence):
        TensorRTSession(plan, INFO)
    assert driver.clean


def test_an_error_while_giving_back_does_not_hide_the_first_one(driver, plan) -> None:
    driver.failing = {"cudaMallocHost": 1, "cudaFree": 0}
    with pytest.raises(EngineError, match="cudaErrorMemoryAllocation"):
        TensorRTSession(plan, INFO)
    assert not driver.host
    assert not driver.streams


def test_a_buffer_gives_both_twins_back(driver) -> None:
    driver.failing = {"cudaMallocHost": 0}
    with pytest.raises(EngineError, match="cudaErrorMemoryAllocation"):
        cuda.DeviceBuffer(8)
    assert driver.clean
    driver.failing = {}
    buffer = cuda.DeviceBuffer(8)
    driver.failing = {"cudaFree": 0}
    with pytest.raises(EngineError, match="cudaErrorInvalidValue"):
        buffer.close()
    assert not driver.host
    buffer.close()  # nothing is freed twice


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


class NetworkSession:
    """Stands in for an engine: a PyTorch module with a profile, which a batch outside of it does not fit."""

    def __init__(self, module: torch.nn.Module, outputs: tuple[str, ...], batch: tuple[int, int]) -> None:
        self.module, self.names, self.batch_range = module.eval(), outputs, {"in": batch}
        self.batches: list[int] = []

    def run(self, inputs, outputs=None):
        (value,) = inputs.values()
        low, high = self.batch_range["in"]
        if not low <= len(value) <= high:
            raise EngineError(f"batch {len(value)}, the engine takes {low} to {high}")
        self.batches.append(len(value))
        with torch.inference_mode():
            out = self.module(torch.from_numpy(value))
        return dict(zip(self.names, (t.numpy() for t in (out if isinstance(out, tuple) else (out,))), strict=True))

    def __enter__(self):
        return self

    def __exit__(self, *exc_info: object) -> None: ...


def fake_engines(network, batch: tuple[int, int]) -> dict[str, NetworkSession]:
    from sdtc.export.graphs import Encoder, Temporal, WholeWindow

    poses = ("keypoints", "heatmaps")
    return {
        "model": NetworkSession(WholeWindow(network), poses, batch),
        "encoder": NetworkSession(Encoder(network), ("tokens",), (1, batch[1] * network.config.num_frames)),
        "temporal": NetworkSession(Temporal(network), poses, batch),
    }


@pytest.fixture
def network(micro_checkpoint):
    from sdtc.model import load_checkpoint

    return load_checkpoint(micro_checkpoint).network


@pytest.fixture
def crops(rng) -> np.ndarray:
    return rng.integers(0, 256, (4, 64, 48, 3), dtype=np.uint8)


@pytest.mark.parametrize("batch", [(4, 16), (1, 2), (1, 1), (16, 16)])
def test_engines_are_compared_within_their_profile(network, crops, batch) -> None:
    """`--batch 4,8,16`: what is compared has 1, 2, 3 and 7 windows, and no engine ever sees fewer than 4."""
    from sdtc.export.verify import verify_engine

    sessions = fake_engines(network, batch)
    window, streaming = verify_engine(network, sessions, batch, crops)
    wanted = [min(count, batch[1]) for count in (1, 2, 7, 3)]
    assert window.windows == streaming.windows == sum(wanted)  # those that fill up are not compared
    assert sessions["model"].batches == sessions["temporal"].batches == [max(count, batch[0]) for count in wanted]
    assert sessions["encoder"].batches[0] == 1
    assert window.heatmaps < 1e-4
    assert streaming.heatmaps < 1e-4


def test_engines_of_a_network_that_sees_one_frame(network, crops) -> None:
    from sdtc.export.verify import verify_engine
    from sdtc.model import build

    single = build(dataclasses.replace(network.config, delta=0)).eval()
    sessions = fake_engines(single, (1, 2))
    assert verify_engine(single, sessions, (1, 2), crops)[1].windows == 7
    assert sessions["encoder"].batches == [1, 1, 1, 1, 1, 1, 1]  # no frame is left after the first of one window


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (None, None),
        ("model", "the engine against PyTorch differs in fp32 heatmaps"),
        ("encoder", "the streaming pair of engines against the whole window differs in fp32 heatmaps"),
        ("temporal", "the streaming pair of engines against the whole window differs in fp32 heatmaps"),
    ],
)
def test_every_engine_of_a_bundle_is_compared(network, crops, tmp_path, monkeypatch, broken, sentence) -> None:
    from sdtc.export import bundle
    from sdtc.export.engine_builder import Plugins, Target
    from sdtc.export.verify import Parity

    sessions = fake_engines(network, (4, 16))
    if broken:
        session = sessions[broken]
        run = session.run
        session.run = lambda inputs: {name: 1.5 * array + 1 for name, array in run(inputs).items()}
    files = {"model.plan": "model", "model.encoder.plan": "encoder", "model.temporal.plan": "temporal"}
    monkeypatch.setattr(tensorrt_session, "TensorRTSession", lambda path, info: sessions[files[path.name]])
    target = Target("tensorrt-rtx", "1.7.1.116", ("8.6",))
    checkpoint, steps = SimpleNamespace(network=network), bundle._Steps(quiet=True)
    export = bundle._BundleExport(tmp_path, checkpoint, bundle.ExportOptions(), target, Plugins(), steps)
    export.crops = crops
    if sentence:
        with pytest.raises(ExportError, match=sentence):
            export.verify_engines(target, Parity())
        return
    figures = export.verify_engines(target, Parity())
    assert figures["windows"] == figures["streaming_vs_window"]["windows"] == 13


def test_flavours_are_those_of_the_manifest() -> None:
    from sdtc.export import engine_builder

    assert tuple(engine_builder.FLAVOURS) == ("auto", *FLAVOURS)
    assert set(tensorrt_session.MODULES) == set(tensorrt_session.EXTRAS) == set(FLAVOURS)
    with pytest.raises(InputError, match=r"'tensorflow': expected one of auto, tensorrt, tensorrt-rtx"):
        engine_builder.find_target("tensorflow")


def test_names_exist_in_the_real_libraries() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    runtime = pytest.importorskip("cuda.bindings.runtime")
    used = {
        trt: ("Logger", "Runtime", "TensorIOMode", "nptype", "__version__"),
        trt.ExecutionContextAllocationStrategy: ("USER_MANAGED",),
        trt.CudaGraphStrategy: ("WHOLE_GRAPH_CAPTURE",),
        trt.IRuntimeConfig: [name for name in vars(RuntimeConfig) if "runtime_cache" in name or "allocation" in name]
        + ["cuda_graph_strategy"],
        trt.IRuntimeCache: ("deserialize", "serialize"),
        trt.Runtime: ("deserialize_cuda_engine",),
        trt.ICudaEngine: [
            "num_io_tensors",
            "get_tensor_name",
            "get_tensor_shape",
            "get_tensor_dtype",
            "get_tensor_mode",
            "get_tensor_profile_shape",
            "create_execution_context",
            "create_runtime_config",
            "device_memory_size_v2",
        ],
        trt.IExecutionContext: (
            "set_device_memory",
            "set_input_shape",
            "set_tensor_address",
            "get_tensor_shape",
            "execute_async_v3",
        ),
        runtime: [name for name in dir(HostDriver) if name.startswith("cuda")],
    }
    for owner, names in used.items():
        assert [name for name in names if not hasattr(owner, name)] == []
    assert trt.nptype(trt.DataType.UINT8) == np.uint8
