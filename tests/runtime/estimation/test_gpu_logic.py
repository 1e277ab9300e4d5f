"""Frame by frame on a GPU: all that can be shown without one, and the tests that need one.

The driver here lives in host memory and is as lazy as CUDA may be: work is done when somebody waits for it and not
before, stream by stream, and every access must lie inside memory that is allocated. So a wait that is missing, a buffer
that is used again too early and a recording that holds on to memory that has gone all change the answer. The engines
compute in whole numbers, so that answers are equal and not just close.
"""

from __future__ import annotations

import base64
import copy
import ctypes
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sdtc.runtime.backends.probe
import sdtc.runtime.engine
from sdtc.core.errors import BundleError, EngineError
from sdtc.core.kernel_file import ALIGNMENT, SCHEMA_VERSION, SIGNATURES, KernelCode, KernelFile
from sdtc.core.manifest import EngineInfo, GraphFiles, Manifest
from sdtc.core.resampling import Resampler
from sdtc.core.skeleton import COCO
from sdtc.runtime.backends import cuda, cuda_kernel, tensorrt_session
from sdtc.runtime.backends.choice import Choice
from sdtc.runtime.backends.cuda_kernel import UnloadableError
from sdtc.runtime.backends.session import TensorSpec
from sdtc.runtime.backends.tensorrt_session import TensorRTSession
from sdtc.runtime.estimation.choose_estimator import streaming_estimator
from sdtc.runtime.estimation.device_estimator import DeviceEstimator, bucket_for, buckets
from sdtc.runtime.estimation.estimators import KeyframePeople, Request, StreamingEstimator, make_plan
from sdtc.runtime.estimation.timing import StageTimes
from sdtc.runtime.options import EngineOptions, TrackOptions
from sdtc.runtime.sources.base import Frame

T, SIZE, GRID, TOKENS, BATCH = 3, (16, 16), (2, 2), (4, 6), (1, 2, 4)
J, ROW = len(COCO.keypoints), TOKENS[0] * TOKENS[1]
WEIGHTS = np.random.default_rng(5).integers(0, 4, (T * ROW, J * 3))
MANIFEST = Manifest(
    name="fake", kind="sdtc", model={}, num_frames=T, input_size=SIZE, heatmap_size=(8, 8), token_shape=TOKENS,
    token_grid=GRID, token_stride=8.0, token_offset=3.5,
    skeleton="coco", keypoints=COCO.keypoints, flip_pairs=COCO.flip_pairs, mean=(0, 0, 0), std=(1, 1, 1),
    precision="fp32", opset=20, batch=BATCH, graphs={}, files={}, checkpoint_sha256="0" * 64, trained=False,
)  # fmt: skip


def encode(frames: np.ndarray) -> np.ndarray:
    return frames.reshape(len(frames), *TOKENS, -1).sum(-1, dtype=np.int64).astype(np.float32)


def decode(tokens: np.ndarray) -> np.ndarray:
    return (tokens.reshape(len(tokens), -1).astype(np.int64) @ WEIGHTS).reshape(-1, J, 3).astype(np.float32)


class Status:
    """An error of either API, which number them alike."""

    def __init__(self, name: str, value: int) -> None:
        self.name, self.value = name, value


SUCCESS, INVALID, FULL = Status("success", 0), Status("invalid value", 1), Status("out of memory", 2)
REFUSED, FAULT, TOO_NEW = Status("capture refused", 901), Status("illegal address", 700), Status("PTX too new", 222)


class LazyCuda:
    """`cuda.bindings.runtime` and `.driver`, as far as we call them.

    Attributes:
        log: what was queued, as (stream, what, ...).
        failing: by function, the error that it returns, and the number of calls that go well before.
        running: streams that are being recorded, with what is recorded.
    """

    cudaError_t = SimpleNamespace(cudaSuccess=SUCCESS)
    CUresult = SimpleNamespace(CUDA_SUCCESS=SUCCESS)
    cudaMemcpyKind = SimpleNamespace(
        cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down", cudaMemcpyDeviceToDevice="across"
    )
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaStreamNonBlocking, cudaEventDisableTiming = 1, 2

    def __init__(self) -> None:
        self.device: dict[int, ctypes.Array] = {}
        self.host: dict[int, ctypes.Array] = {}
        self.streams: dict[int, deque] = {}
        self.events: dict[int, list] = {}
        self.recording: dict[int, list] = {}
        self.graphs: dict[int, list] = {}
        self.modules: dict[int, int] = {}  # by handle, the null pointers that its functions take
        self.log: list[tuple] = []
        self.failing: dict[str, tuple[Status, int]] = {}
        self.synchronized: list[int] = []
        self._handles = iter(range(100, 1 << 30))

    @property
    def clean(self) -> bool:
        return not any((self.device, self.host, self.streams, self.events, self.graphs, self.modules))

    def logged(self, what: str) -> list[tuple]:
        return [entry for entry in self.log if entry[1] == what]

    def check(self, name: str) -> Status:
        if name not in self.failing:
            return SUCCESS
        status, good = self.failing[name]
        self.failing[name] = status, good - 1
        return SUCCESS if good > 0 else status

    # memory

    def inside(self, memory: dict[int, ctypes.Array], address: int, nbytes: int) -> bool:
        return any(start <= address and address + nbytes <= start + len(block) for start, block in memory.items())

    def at(self, address: int, shape: tuple[int, ...], dtype) -> np.ndarray:
        """Device memory as an array."""
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        assert self.inside(self.device, address, nbytes), "an access outside of all memory"
        return np.frombuffer((ctypes.c_byte * nbytes).from_address(address), dtype).reshape(shape)

    def _allocate(self, name: str, memory: dict, size: int):
        assert not self.recording, "memory is allocated while a graph is recorded"
        status = self.check(name)
        if status is not SUCCESS:
            return status, 0
        raw = (ctypes.c_byte * (size + 256))()
        start = -ctypes.addressof(raw) % 256
        block = (ctypes.c_byte * size).from_buffer(raw, start)
        ctypes.memset(block, 0xAB, size)
        memory[ctypes.addressof(block)] = block
        return SUCCESS, ctypes.addressof(block)

    def cudaMalloc(self, size):
        return self._allocate("cudaMalloc", self.device, size)

    def cudaMallocHost(self, size):
        return self._allocate("cudaMallocHost", self.host, size)

    def cudaFree(self, address):
        return (SUCCESS,) if self.device.pop(address, None) is not None else (INVALID,)

    def cudaFreeHost(self, address):
        return (SUCCESS,) if self.host.pop(address, None) is not None else (INVALID,)

    def cudaMemcpyAsync(self, target, source, size, kind, stream):
        to, come_from = {
            "up": (self.device, self.host), "down": (self.host, self.device), "across": (self.device, self.device)
        }[kind]  # fmt: skip
        assert self.inside(to, target, size)
        assert self.inside(come_from, source, size)

        def move() -> None:
            assert self.inside(to, target, size)
            assert self.inside(come_from, source, size)
            ctypes.memmove(target, source, size)

        status = self.check("cudaMemcpyAsync")
        if status is SUCCESS:
            self.queue(stream, move, kind, size, source)
        return (status,)

    # streams, events, graphs

    def queue(self, stream: int, work, *what) -> None:
        self.log.append((stream, *what))
        self.recording.get(stream, self.streams[stream]).append(work)

    def drain(self, stream: int, until: list | None = None) -> None:
        """Do what is queued on a stream, all of it or until an event has happened."""
        queue = self.streams[stream]
        while queue and not (until and until[0]):
            queue.popleft()()

    def cudaSetDevice(self, index):
        return (SUCCESS,)

    def cudaGetDeviceCount(self):
        return SUCCESS, 1

    def cudaGetDeviceProperties(self, index):
        return SUCCESS, SimpleNamespace(name=b"Fake", major=8, minor=6)

    def cudaGetErrorString(self, status):
        return SUCCESS, status.name.encode()

    def cudaGetLastError(self):
        return (SUCCESS,)

    def cudaStreamCreateWithFlags(self, flags):
        handle = next(self._handles)
        self.streams[handle] = deque()
        return SUCCESS, handle

    def cudaStreamDestroy(self, stream):
        self.drain(stream)
        del self.streams[stream]
        return (SUCCESS,)

    def cudaStreamSynchronize(self, stream):
        assert stream not in self.recording
        self.synchronized.append(stream)
        if stream in self.streams:  # and not somebody else's
            self.drain(stream)
        return (self.check("cudaStreamSynchronize"),)

    def cudaEventCreateWithFlags(self, flags):
        handle = next(self._handles)
        self.events[handle] = [None, None]  # the stream of the last record, and whether that has happened
        return SUCCESS, handle

    def cudaEventRecord(self, event, stream):
        happened = [False]
        self.events[event] = [stream, happened]
        self.queue(stream, lambda: happened.__setitem__(0, True), "record", event)
        return (SUCCESS,)

    def cudaStreamWaitEvent(self, stream, event, flags):
        where, happened = self.events[event]
        self.queue(stream, lambda: self.drain(where, happened), "wait", event)
        return (SUCCESS,)

    def cudaEventSynchronize(self, event):
        where, happened = self.events[event]
        if where is not None:
            self.drain(where, happened)
        return (SUCCESS,)

    def cudaEventDestroy(self, event):
        del self.events[event]
        return (SUCCESS,)

    def cudaStreamBeginCapture(self, stream, mode):
        self.recording[stream] = []
        return (SUCCESS,)

    def cudaStreamEndCapture(self, stream):
        recorded = self.recording.pop(stream)
        status = self.check("cudaStreamEndCapture")
        if status is not SUCCESS:
            return status, None
        handle = next(self._handles)
        self.graphs[handle] = recorded
        return SUCCESS, handle

    def cudaGraphInstantiate(self, graph, flags):
        handle = next(self._handles)
        self.graphs[handle] = self.graphs[graph]
        return SUCCESS, handle

    def cudaGraphLaunch(self, graph, stream):
        for work in self.graphs[graph]:
            self.queue(stream, work, "replay", graph)
        return (SUCCESS,)

    def cudaGraphDestroy(self, graph):
        del self.graphs[graph]
        return (SUCCESS,)

    cudaGraphExecDestroy = cudaGraphDestroy

    # kernels

    def cuModuleLoadData(self, image):
        cubin = image.startswith(b"\x7fELF")
        assert cubin or image.endswith(b"\0")
        status = self.check("cubin" if cubin and "cubin" in self.failing else "cuModuleLoadData")
        if status is not SUCCESS:
            return status, None
        handle = next(self._handles)
        self.modules[handle] = 2 if cubin else 0
        return SUCCESS, handle

    def cuModuleGetFunction(self, module, name):
        return SUCCESS, (name.decode(), self.modules[module])

    def cuModuleUnload(self, module):
        del self.modules[module]
        return (SUCCESS,)

    def cuGetErrorString(self, status):
        return SUCCESS, status.name.encode()

    def cuLaunchKernel(self, function, gx, gy, gz, bx, by, bz, shared, stream, arguments, extra):
        (name, hidden), (values, types) = function, arguments
        assert (gy, gz, bx, by, bz, shared, extra) == (1, 1, 128, 1, 1, 32, 0)
        signature = SIGNATURES[name]
        assert len(values) == len(types) == len(signature) + hidden
        assert values[len(signature) :] == (0,) * hidden
        scalars = {name: kind is ctypes.c_int for name, kind in zip(signature, types, strict=False)}
        assert [name for name, scalar in scalars.items() if scalar] == [n for n in signature if n.startswith("frame_")]
        assert all(value % 16 == 0 for value, n in zip(values, signature, strict=False) if not scalars[n])
        work = {"crop_frame": self._crop, "gather_tokens": self._gather, "scatter_tokens": self._scatter}[name]
        count, left = divmod(gx, 3)
        assert not left
        self.queue(stream, lambda: work(count, *values[: len(signature)]), name, count)
        return (self.check("cuLaunchKernel"),)

    def _crop(self, count, frame, matrices, height, width, crops):
        image = self.at(frame, (height, width, 3), np.uint8)
        for matrix, crop in zip(
            self.at(matrices, (count, 2, 3), np.float64), self.at(crops, (count, *SIZE, 3), np.uint8), strict=True
        ):
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            cv2.warpAffine(image, matrix, SIZE[::-1], dst=crop, flags=flags, borderMode=cv2.BORDER_CONSTANT)

    def _gather(self, count, source, slots, places, target):
        maps = [self._rows(source + int(slot) * ROW * 4, 1).reshape(TOKENS) for slot in self.at(slots, (count,), "i4")]
        out = self._rows(target, count).reshape(count, *TOKENS)
        Resampler(GRID, TOKENS[1]).gather(maps, self.at(places, (count, 4), np.float32), out)

    def _scatter(self, count, source, slots, target):
        for slot, row in zip(self.at(slots, (count,), np.int32), self._rows(source, count), strict=True):
            self._rows(target + int(slot) * ROW * 4, 1)[0] = row

    def _rows(self, address: int, count: int) -> np.ndarray:
        return self.at(address, (count, ROW), np.float32)


class Context:
    """An execution context; after it was recorded nobody may touch it."""

    def __init__(self, driver: LazyCuda, graph: str) -> None:
        self.driver, self.graph, self.batch, self.address, self.recorded = driver, graph, 0, {}, False

    def set_device_memory(self, address, size):
        assert self.driver.inside(self.driver.device, address, size)

    def set_input_shape(self, name, shape):
        assert not self.recorded
        self.batch = shape[0]
        return True

    def get_tensor_shape(self, name):
        return (self.batch, *TENSORS[self.graph][name][1])

    def set_tensor_address(self, name, address):
        assert not self.recorded
        self.address[name] = address
        return True

    def execute_async_v3(self, stream):
        if stream in self.driver.recording:
            self.recorded = True
            if self.driver.check("refuse") is not SUCCESS:
                return False
        at, batch, where = self.driver.at, self.batch, dict(self.address)

        def run() -> None:
            if self.graph == "encoder":
                at(where["tokens"], (batch, *TOKENS), "f4")[...] = encode(at(where["frames"], (batch, *SIZE, 3), "u1"))
            else:
                at(where["keypoints"], (batch, J, 3), "f4")[...] = decode(
                    at(where["tokens"], (batch, T, *TOKENS), "f4")
                )

        self.driver.queue(stream, run, self.graph, batch)
        return True


TENSORS = {
    "encoder": {"frames": ("in", (*SIZE, 3), "u1"), "tokens": ("out", TOKENS, "f4")},
    "temporal": {"tokens": ("in", (T, *TOKENS), "f4"), "keypoints": ("out", (J, 3), "f4")},
}


def make_trt(driver: LazyCuda):
    def deserialize(plan: bytes):
        graph = plan.decode()
        tensors, factor = TENSORS[graph], T if graph == "encoder" else 1
        low = 1 if graph == "encoder" else BATCH[0]
        return SimpleNamespace(
            num_io_tensors=len(tensors),
            device_memory_size_v2=64,
            get_tensor_name=lambda index: list(tensors)[index],
            get_tensor_shape=lambda name: (-1, *tensors[name][1]),
            get_tensor_dtype=lambda name: tensors[name][2],
            get_tensor_mode=lambda name: tensors[name][0],
            num_optimization_profiles=1,
            get_tensor_profile_shape=lambda name, profile: [
                (count, *tensors[name][1]) for count in (low, low, BATCH[2] * factor)
            ],
            create_execution_context=lambda config: Context(driver, graph),
        )

    class Logger:
        ERROR = 1

        def __init__(self, level) -> None: ...

    return SimpleNamespace(
        __version__="11.4.0", Logger=Logger, nptype=lambda kind: kind, TensorIOMode=SimpleNamespace(INPUT="in"),
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user"),
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=deserialize),
    )  # fmt: skip


CODE = {
    name: KernelCode(
        name,
        86,
        arguments,
        2,
        blocks=3,
        num_warps=4,
        shared=32,
        ptx=f".visible .entry {name}(\n) {{ ret; }}",
        cubin=base64.b64encode(b"\x7fELF " + name.encode()).decode(),
    )
    for name, arguments in SIGNATURES.items()
}
NO_CODE = {"ptx": "", "cubin": ""}


@pytest.fixture
def driver(monkeypatch) -> LazyCuda:
    driver = LazyCuda()
    monkeypatch.setattr(cuda, "_cudart", lambda *args: driver)
    monkeypatch.setattr(cuda_kernel, "_driver", lambda: driver)
    monkeypatch.setattr(tensorrt_session, "require", lambda *args: make_trt(driver))
    return driver


def open_sessions(folder: Path) -> list[TensorRTSession]:
    sessions = []
    for graph in TENSORS:
        (folder / graph).write_text(graph)
        sessions.append(TensorRTSession(folder / graph, EngineInfo("tensorrt", "11.4.0", ("8.6",))))
    return sessions


@pytest.fixture
def estimator(driver, tmp_path):
    estimator = DeviceEstimator(MANIFEST, *open_sessions(tmp_path), CODE, StageTimes())
    yield estimator
    estimator.close()
    assert driver.clean


class HostSession:
    """The same engines for `StreamingEstimator`."""

    backend = "host"

    def __init__(self, graph: str) -> None:
        (self._input, self._output), self._work = TENSORS[graph], encode if graph == "encoder" else decode
        self.inputs = {self._input: TensorSpec((None, *TENSORS[graph][self._input][1]), np.dtype("f4"))}

    def run(self, inputs, outputs=None):
        return {self._output: self._work(inputs[self._input])}

    def close(self) -> None: ...


def reference() -> StreamingEstimator:
    return StreamingEstimator(MANIFEST, HostSession("encoder"), HostSession("temporal"), StageTimes())


def make_clip(seed: int, length: int = 14, most: int = 6, speed: float = 0.4) -> list[KeyframePeople]:
    """Keyframes of people who come, walk and go, in frames of two sizes."""
    rng = np.random.default_rng(seed)
    shapes = [(40, 52, 3)] * (length // 2) + [(64, 90, 3)] * (length - length // 2)
    frames = [Frame(i, i, None, rng.integers(0, 256, shape, np.uint8)) for i, shape in enumerate(shapes)]
    boxes = np.concatenate([rng.uniform(-10, 40, (most, 2)), rng.uniform(8, 30, (most, 1)).repeat(2, 1)], 1)
    found = []
    for i in range(length):
        boxes = boxes + rng.normal(0, speed, boxes.shape) * [1, 1, 0, 0]
        there = np.flatnonzero(rng.random(most) < 0.7) if i % 5 else np.array([], int)
        window = [frames[min(max(i + step, 0), length - 1)] for step in range(-(T // 2), T // 2 + 1)]
        found.append(KeyframePeople(window, boxes[there], [int(track_id) for track_id in there]))
    boxes_of = {i: dict(zip(people.track_ids, people.crop_boxes, strict=True)) for i, people in enumerate(found)}
    return [dataclasses.replace(people, known=boxes_of) for people in found]


def run(estimator, clip: list[KeyframePeople], sizes=(1, 2, 3, 4), batch_size: int = BATCH[2]) -> list:
    """Estimate a clip in parts of changing lengths; return keypoints by keyframe, of all of it."""
    stream, found, start = estimator.start(), [], 0
    while start < len(clip):
        size = sizes[len(found) % len(sizes)]
        found += stream.estimate(clip[start : start + size], batch_size)
        start += size
    stream.end()
    return found


def assert_same(got: list, want: list) -> None:
    assert len(got) == len(want)
    for keypoints, keypoints_want in zip(got, want, strict=True):
        np.testing.assert_array_equal(keypoints, keypoints_want)


@given(low=st.integers(1, 100), more=st.integers(0, 1000), data=st.data())
def test_a_bucket_is_the_least_that_holds_a_batch(low, more, data) -> None:
    sizes = buckets(low, low + more)
    assert (sizes[0], sizes[-1]) == (low, low + more)
    assert all(size & (size - 1) == 0 for size in sizes[1:-1])
    assert list(sizes) == sorted(set(sizes))
    count = data.draw(st.integers(1, low + more))
    bucket = bucket_for(count, sizes)
    assert bucket >= count
    assert bucket == low or bucket < 2 * count or bucket == low + more  # little is computed in vain
    assert not [size for size in sizes if count <= size < bucket]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("sizes", "batch_size"), [((1,), 4), ((4, 1, 3), 3), ((4, 2), 1)])
def test_the_device_gives_what_the_host_gives(estimator, seed, sizes, batch_size) -> None:
    clip = make_clip(seed)
    assert sum(len(people.crop_boxes) for people in clip) > 20
    want = run(reference(), clip, sizes, batch_size)
    assert_same(run(estimator, clip, sizes, batch_size), want)
    assert_same(run(estimator, clip, sizes, batch_size), want)  # again: in memory that was used before
    other = make_clip(seed + 100)
    assert_same(run(estimator, other, sizes, batch_size), run(reference(), other, sizes, batch_size))


def test_sources_one_within_the_other(estimator) -> None:
    clips, ours, theirs = [make_clip(7), make_clip(8)], [], []
    for found, each in ((ours, estimator), (theirs, reference())):
        streams = [each.start() for _ in clips]
        for keyframes in zip(*clips, strict=True):
            for stream, people in zip(streams, keyframes, strict=True):
                found += stream.estimate([people], 4)
        for stream in streams:
            stream.end()
    assert_same(ours, theirs)


def test_sources_that_wait_are_one_batch(driver, estimator) -> None:
    """Plans of three sources whose frames have the same numbers, in one run: a launch for each frame of each source."""
    clips = [make_clip(seed, most=2) for seed in (7, 8, 9)]
    want = [run(reference(), clip, (1,)) for clip in clips]
    streams = [estimator.start() for _ in clips]
    for at in range(len(clips[0])):
        driver.log.clear()
        plans = [
            make_plan(MANIFEST, stream.cache, Request(stream, [clip[at]], 4))
            for stream, clip in zip(streams, clips, strict=True)
        ]
        found = estimator.run(plans)
        for stream, got, expected in zip(streams, found, want, strict=True):
            stream.cache.release()
            np.testing.assert_array_equal(got[0], expected[at])
        windows = sum(len(plan.slots) for plan in plans)
        assert len(driver.logged("down")) == -(-windows // BATCH[2])  # and not one for each source
        crops = {(number, crop[0].index) for number, plan in enumerate(plans) for crop in plan.crops}
        assert len(driver.logged("crop_frame")) == len(crops)
    for stream in streams:
        stream.end()
    assert sorted(estimator.slots._free) == list(range(estimator.slots.num_slots))
    assert not estimator.frames._frames


def test_sources_in_threads(estimator) -> None:
    clips = [make_clip(seed) for seed in range(20, 25)]
    want = [run(reference(), clip) for clip in clips]
    found: dict[int, list] = {}
    threads = [
        threading.Thread(target=lambda n=n, clip=clip: found.__setitem__(n, run(estimator, clip)))
        for n, clip in enumerate(clips)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number, expected in enumerate(want):
        assert_same(found[number], expected)


def test_a_frame_that_found_no_memory_is_not_taken_for_one_that_is_there(driver, estimator) -> None:
    """A batch that failed is run again, source by source: nothing may be left of the first time."""
    clip = make_clip(11)
    want = run(reference(), clip, (1,))
    stream, found = estimator.start(), []
    for number, people in enumerate(clip):
        plan = make_plan(MANIFEST, stream.cache, Request(stream, [people], 4))
        for function in ("cudaMemcpyAsync", "cudaMalloc"):
            driver.failing[function] = FULL, number % 3
            try:
                estimator.run([plan])
            except EngineError:
                assert not driver.streams[estimator.compute.handle]
            driver.failing.clear()
        found += estimator.run([plan])[0]
        stream.cache.release()
    stream.end()
    assert_same(found, want)


def test_a_crowd_that_does_not_fit_ends_alone(driver, estimator, monkeypatch) -> None:
    clip = make_clip(12, most=2)
    quiet, crowded = estimator.start(), estimator.start()
    want = run(reference(), clip, (1,))
    found = [quiet.estimate([people], 4)[0] for people in clip[:5]]
    busy = clip[6] if clip[6].track_ids else clip[7]
    crowd = dataclasses.replace(
        busy, crop_boxes=np.repeat(busy.crop_boxes[:1], 400, 0), track_ids=list(range(100, 500)), known={}
    )
    allocate, most = driver.cudaMalloc, estimator.pool._slots * ROW * 4
    monkeypatch.setattr(driver, "cudaMalloc", lambda size: allocate(size) if size <= max(most, 20_000) else (FULL, 0))
    with pytest.raises(EngineError, match="memory is full"):
        crowded.estimate([crowd], 4)
    crowded.end()
    found += [quiet.estimate([people], 4)[0] for people in clip[5:]]
    quiet.end()
    assert_same(found, want)


def test_windows_of_people_who_walk_are_resampled_and_cost_no_launch_more(driver, estimator) -> None:
    launches: list[list[str]] = []
    for speed in (0.0, 2.0):
        clip = make_clip(3, most=2, speed=speed)
        driver.log.clear()
        got = run(estimator, clip, (1,))
        for _ in range(2):  # the second time all is recorded
            driver.log.clear()
            assert_same(run(estimator, clip, (1,)), got)
        queued = [entry[1] for entry in driver.log if entry[1] in ("gather_tokens", "temporal", "replay")]
        places = [entry for entry in driver.logged("up") if entry[2] == T * 16]
        assert places  # four numbers for each frame of a window
        launches.append(queued)
    assert launches[0] == launches[1]


def test_frames_of_another_source_are_others(estimator) -> None:
    for seed in (1, 2):
        clip = make_clip(seed)[1:2]
        assert_same(run(estimator, clip), run(reference(), clip))


def test_a_frame_goes_up_once_whoever_is_in_it(driver, estimator) -> None:
    clip = make_clip(1)
    before = len(driver.device)
    run(estimator, clip)
    frames = {frame.index: frame.image for people in clip if len(people.crop_boxes) for frame in people.window}
    ups = [entry[2:] for entry in driver.logged("up") if entry[0] == estimator.upload.handle]
    assert [size for size, _ in ups] == [image.nbytes for _, image in sorted(frames.items())]
    one, other = ups[0][1], ups[1][1]
    half = len(clip) // 2 - 1  # then the frames grow, and so do the two pinned buffers
    assert [source for _, source in ups[:half]] == ([one, other] * half)[:half]
    assert one != other
    assert len(driver.device) <= before + 1 + max(4, T) + T - 1  # the pool, and the frames of the windows of one call


def test_the_host_waits_once_for_a_batch_of_keyframes(driver, estimator) -> None:
    clip = make_clip(2, most=1)  # so that the pool never grows, for which it waits too
    stream = estimator.start()
    for start in range(0, len(clip), 4):
        driver.synchronized.clear()
        stream.estimate(clip[start : start + 4], 4)
        assert driver.synchronized == [estimator.compute.handle]
    downs = driver.logged("down")
    assert all(size % (J * 12) == 0 and size <= BATCH[2] * J * 12 for _, _, size, _ in downs)  # keypoints, nothing else
    stream.end()


def test_new_frames_of_several_keyframes_are_encoded_together(driver, estimator) -> None:
    clip = make_clip(3, most=2)
    stream = estimator.start()
    together = clip[1:4]
    wanted = {(frame.index, person) for people in together for frame in people.window for person in people.track_ids}
    newest = {people.window[-1].index for people in together}
    wanted |= {(index, person) for index in newest for person in together[0].known[index]}
    assert len(wanted) > len({index for index, _ in wanted}) > 3
    stream.estimate(together, 4)
    assert len(driver.logged("crop_frame")) == len({index for index, _ in wanted})  # everybody's of a frame at once
    assert len(driver.logged("encoder")) == -(-sum(entry[2] for entry in driver.logged("crop_frame")) // (BATCH[2] * T))
    stream.end()


def test_a_size_is_recorded_once_and_again_when_the_pool_grows(driver, estimator, monkeypatch) -> None:
    recorded = []
    begin = driver.cudaStreamBeginCapture
    monkeypatch.setattr(driver, "cudaStreamBeginCapture", lambda *args: recorded.append(args) or begin(*args))
    stream = estimator.start()
    clip = make_clip(4, most=3)
    one = [  # always somebody new, of whom T frames are encoded
        dataclasses.replace(p, crop_boxes=p.crop_boxes[:1], track_ids=[1000 + number], known={})
        for number, p in enumerate(clip[1:-1])
        if p.track_ids
    ]
    for people in one:
        stream.estimate([people], 4)
    assert len(recorded) == 2  # a single window and its frames, from the second time on
    assert driver.logged("replay")
    pool = estimator.pool._memory.address
    crowd = dataclasses.replace(
        one[-1], crop_boxes=np.repeat(one[-1].crop_boxes, 12, 0), track_ids=list(range(100, 112))
    )
    stream.estimate([crowd], 4)
    assert estimator.pool._memory.address != pool
    assert not any(pool in key for key in estimator.graphs._graphs)
    for _ in range(3):
        stream.estimate([one[-1]], 4)
    assert ("temporal", 1, estimator.pool._memory.address) in {key[:3] for key in estimator.graphs._graphs}
    again = len(recorded)
    stream.estimate([one[-1]], 4)
    assert len(recorded) == again
    stream.end()


def test_a_recording_that_is_refused_is_done_without(driver, estimator, caplog) -> None:
    driver.failing["refuse"] = FULL, 0
    clip = make_clip(5)
    assert_same(run(estimator, clip), run(reference(), clip))
    assert [record.message for record in caplog.records] == [
        "CUDA graphs are not used: TensorRT failed to run the engine: its log above says why"
    ]
    assert not driver.recording
    assert not driver.graphs


def test_a_recording_that_cuda_refuses_is_done_without(driver, estimator, caplog) -> None:
    driver.failing["cudaStreamEndCapture"] = REFUSED, 0
    clip = make_clip(5)
    assert_same(run(estimator, clip), run(reference(), clip))
    assert "capture refused" in caplog.text
    assert len(caplog.records) == 1


def test_engines_with_graphs_of_their_own_are_not_recorded(driver, tmp_path) -> None:
    sessions = open_sessions(tmp_path)
    sessions[0].own_graphs = True  # as TensorRT-RTX's say
    estimator = DeviceEstimator(MANIFEST, *sessions, CODE, StageTimes())
    clip = make_clip(6)
    assert_same(run(estimator, clip), run(reference(), clip))
    assert not driver.logged("replay")
    estimator.close()


def on_device(driver: LazyCuda, image: np.ndarray, **changes):
    _, address = driver.cudaMalloc(image.nbytes)
    driver.at(address, image.shape, image.dtype)[...] = image
    interface = {"shape": image.shape, "typestr": image.dtype.str, "data": (address, False), "version": 3} | changes
    return SimpleNamespace(__cuda_array_interface__=interface, address=address, shape=image.shape)


def test_frames_on_the_device_are_used_where_they_lie(driver, estimator) -> None:
    clip = make_clip(9)
    frames = {frame.index: frame for people in clip for frame in people.window}
    there = {i: on_device(driver, frame.image, stream=5) for i, frame in frames.items()}
    moved = [
        dataclasses.replace(
            people, window=[dataclasses.replace(frame, image=there[frame.index]) for frame in people.window]
        )
        for people in clip
    ]
    assert_same(run(estimator, moved), run(reference(), clip))
    assert not [entry for entry in driver.logged("up") if entry[0] == estimator.upload.handle]
    assert 5 in driver.synchronized  # whoever wrote them may have still been at it
    for image in there.values():
        driver.cudaFree(image.address)


@pytest.mark.parametrize(
    ("image", "changes", "sentence"),
    [
        (np.zeros((8, 8, 4), np.uint8), {}, r"uint8 \[8, 8, 4\]: expected uint8 \[height, width, 3\]"),
        (np.zeros((8, 8, 3), np.float32), {}, r"float32 \[8, 8, 3\]: expected uint8"),
        (np.zeros((8, 8, 3), np.uint8), {"strides": (48, 3, 1)}, "is not contiguous"),
    ],
)
def test_frames_on_the_device_that_do_not_fit(driver, estimator, image, changes, sentence) -> None:
    there = on_device(driver, image, **changes)
    people = KeyframePeople([Frame(0, 0, None, there)] * T, np.array([[0.0, 0, 8, 8]]), [0])
    stream = estimator.start()
    with pytest.raises(EngineError, match=sentence):
        stream.estimate([people], 1)
    driver.cudaFree(there.address)


@pytest.mark.parametrize("image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3))])
def test_frames_of_the_host_that_do_not_fit(estimator, image) -> None:
    people = KeyframePeople([Frame(0, 0, None, image)] * T, np.array([[0.0, 0, 8, 8]]), [0])
    with pytest.raises(EngineError, match=r"a frame is .*: expected uint8 \[height, width, 3\]"):
        estimator.start().estimate([people], 1)


@pytest.mark.parametrize(
    ("name", "status", "sentence"),
    [
        ("cudaMalloc", FULL, r"memory is full \(out of memory\): close other programs on it, .* smaller `batch`"),
        ("cudaMallocHost", FULL, "memory is full"),
        ("cuLaunchKernel", FAULT, r"failed in the middle of a run \(illegal address\).* start again"),
        ("cudaMemcpyAsync", FAULT, "failed in the middle of a run"),
        ("cudaStreamSynchronize", FAULT, "failed in the middle of a run"),
    ],
)
def test_trouble_in_the_middle_is_a_sentence(driver, estimator, name, status, sentence) -> None:
    stream = estimator.start()
    driver.failing[name] = status, 0
    with pytest.raises(EngineError, match=sentence):
        stream.estimate(make_clip(0)[1:5], 4)
    assert not driver.streams[estimator.compute.handle]  # nobody works on memory that will be used again
    driver.failing.clear()
    stream.end()


@pytest.mark.parametrize("status", [TOO_NEW, Status("no binary", 209), FULL])
def test_kernels_that_do_not_load_leave_nothing_behind(driver, tmp_path, status) -> None:
    for good in range(3):
        driver.failing["cuModuleLoadData"] = status, good
        sessions = open_sessions(tmp_path)
        sentence = "memory is full" if status is FULL else "do not load on this GPU .*: update its driver, or export"
        with pytest.raises(EngineError if status is FULL else UnloadableError, match=sentence):
            DeviceEstimator(MANIFEST, *sessions, CODE, StageTimes())
        for session in sessions:
            session.close()
        assert driver.clean


@pytest.mark.parametrize("status", [TOO_NEW, Status("no binary", 209)])
def test_where_a_cubin_does_not_load_its_ptx_does(driver, tmp_path, status) -> None:
    driver.failing["cubin"] = status, 0
    estimator = DeviceEstimator(MANIFEST, *open_sessions(tmp_path), CODE, StageTimes())
    assert set(driver.modules.values()) == {0}
    clip = make_clip(0)
    assert_same(run(estimator, clip), run(reference(), clip))
    estimator.close()
    assert driver.clean


def test_kernels_that_do_not_load_leave_crops_to_the_cpu(driver, tmp_path) -> None:
    driver.failing["cuModuleLoadData"] = TOO_NEW, 0
    sessions = open_sessions(tmp_path)
    estimator, notice = streaming_estimator(*bundle(tmp_path), *sessions, StageTimes())
    assert isinstance(estimator, StreamingEstimator)
    assert notice.startswith("crops are cut on the CPU, since the bundle's kernels do not load on this GPU (")
    estimator.close()
    assert driver.clean


def test_an_estimator_that_does_not_open_leaves_nothing_behind(driver, tmp_path) -> None:
    for good in range(3):
        sessions = open_sessions(tmp_path)
        driver.failing["cudaMalloc"] = FULL, good
        with pytest.raises(EngineError, match="memory is full"):
            DeviceEstimator(MANIFEST, *sessions, CODE, StageTimes())
        driver.failing.clear()
        for session in sessions:
            session.close()
        assert driver.clean


def test_engines_of_another_bundle(driver, tmp_path) -> None:
    sessions = open_sessions(tmp_path)
    with pytest.raises(EngineError, match="the graph 'encoder' is not what the manifest says"):
        DeviceEstimator(dataclasses.replace(MANIFEST, input_size=(32, 16)), *sessions, CODE, StageTimes())
    for session in sessions:
        session.close()


def test_answers_that_are_no_numbers(driver, estimator, monkeypatch) -> None:
    monkeypatch.setitem(globals(), "decode", lambda tokens: np.full((len(tokens), J, 3), np.nan, "f4"))
    with pytest.raises(EngineError, match="not finite"):
        estimator.start().estimate(make_clip(0)[1:2], 4)


# What runs a bundle


def bundle(folder: Path, capability: str = "8.6") -> tuple[Manifest, Path]:
    """A manifest whose kernels are for some GPU."""
    from sdtc.core.files import sha256

    KernelFile(SIZE, TOKENS, {capability: CODE}).save(folder / "k.json")
    return dataclasses.replace(MANIFEST, kernels="k.json", files={"k.json": sha256(folder / "k.json")}), folder


def test_everything_on_the_gpu_where_the_kernels_are_for_it(driver, tmp_path) -> None:
    estimator, notice = streaming_estimator(*bundle(tmp_path), *open_sessions(tmp_path), StageTimes())
    assert isinstance(estimator, DeviceEstimator)
    assert notice == ""
    clip = make_clip(0)
    assert_same(run(estimator, clip), run(reference(), clip))
    estimator.close()
    estimator.close()  # a second time
    assert driver.clean


@pytest.mark.parametrize("which", ["none", "other"])
def test_crops_on_the_cpu_where_they_are_not_and_says_so(driver, tmp_path, which) -> None:
    manifest, folder = bundle(tmp_path, "9.0") if which == "other" else (MANIFEST, tmp_path)
    estimator, notice = streaming_estimator(manifest, folder, *open_sessions(tmp_path), StageTimes())
    assert isinstance(estimator, StreamingEstimator)
    assert notice == (
        "crops are cut on the CPU, since the bundle has no kernels for compute capability 8.6: export it again "
        "with the extra 'kernels' installed"
    )
    clip = make_clip(0)
    assert_same(run(estimator, clip), run(reference(), clip))
    estimator.close()
    assert driver.clean


def test_other_backends_stream_as_they_did(tmp_path) -> None:
    sessions = HostSession("encoder"), HostSession("temporal")
    estimator, notice = streaming_estimator(*bundle(tmp_path), *sessions, StageTimes())
    assert isinstance(estimator, StreamingEstimator)
    assert notice == ""


@pytest.mark.parametrize("with_kernels", [True, False])
def test_an_opened_engine_streams_on_the_gpu_or_says_why_not(driver, tmp_path, monkeypatch, with_kernels) -> None:
    manifest, folder = bundle(tmp_path)
    pair = {name: GraphFiles("x.onnx", "x.plan") for name in TENSORS}
    manifest = dataclasses.replace(manifest, graphs=pair, kernels=manifest.kernels if with_kernels else None)
    sessions = dict(zip(TENSORS, open_sessions(folder), strict=True))
    monkeypatch.setattr(Manifest, "load", lambda path: manifest)
    monkeypatch.setattr(sdtc.runtime.engine, "find_manifest", lambda path: folder / "model.json")
    monkeypatch.setattr(sdtc.runtime.engine, "choose", lambda *args, **more: Choice("tensorrt", "cuda"))
    monkeypatch.setattr(sdtc.runtime.backends.probe, "open_session", lambda _m, _d, _c, graph, *more: sessions[graph])
    images = list(np.random.default_rng(0).integers(0, 256, (T, 30, 40, 3), np.uint8))
    with sdtc.runtime.open("x.plan") as engine:
        assert engine.streaming
        assert engine.notice.startswith("" if with_kernels else "crops are cut on the CPU")
        assert bool(engine.notice) != with_kernels
        first, again = (engine.estimate(images, np.array([[3.0, 4, 10, 12]])) for _ in range(2))
    assert first.shape == (1, J, 3)
    np.testing.assert_array_equal(first, again)
    assert bool(driver.logged("crop_frame")) == with_kernels
    assert driver.clean


# The file of kernels


def test_kernels_are_read_as_they_were_written(tmp_path) -> None:
    one = {"crop_frame": dataclasses.replace(CODE["crop_frame"], ptx="")}
    other = {"crop_frame": dataclasses.replace(CODE["crop_frame"], cubin="")}
    for version in (2, SCHEMA_VERSION):
        file = KernelFile(SIZE, TOKENS, {"8.6": CODE | one, "8.7": CODE | other, "8.9": CODE}, version)
        file.save(tmp_path / "k.json")
        assert KernelFile.load(tmp_path / "k.json", MANIFEST) == file
    assert CODE["crop_frame"].images() == [*one["crop_frame"].images(), *other["crop_frame"].images()]
    assert one["crop_frame"].images() == [(b"\x7fELF crop_frame", 2)]
    ((image, hidden),) = other["crop_frame"].images()
    assert image.endswith(b"}\0")
    assert hidden == 0


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("schema_version", 1, "schema_version is 1"),
        ("input_size", [16, 32], r"input_size is \(16, 32\), the manifest's \(16, 16\)"),
        ("token_shape", [4, 7], "token_shape is"),
        ("kernels.8.6", {}, "kernels for 8.6 are"),
        ("kernels", {"../x": {}}, "bad compute capability"),
        ("kernels.8.6.crop_frame", 3, "not an object"),
        ("kernels.8.6.crop_frame.entry", "x(); //", "bad entry of 8.6 crop_frame"),
        ("kernels.8.6.crop_frame.arguments", ["frame"], "arguments of 8.6 crop_frame"),
        ("kernels.8.6.crop_frame.hidden", 1 << 40, "hidden of"),
        ("kernels.8.6.crop_frame.blocks", 0, "blocks of"),
        ("kernels.8.6.crop_frame.num_warps", 3, "num_warps of"),
        ("kernels.8.6.crop_frame.shared", 1 << 30, "shared of"),
        ("kernels.8.6.crop_frame.shared", "48", "not a whole number"),
        ("kernels.8.6", {name: dataclasses.asdict(CODE[name]) | NO_CODE for name in CODE}, "is no code"),
        ("kernels.8.6.crop_frame.ptx", ".entry other(", "is no code"),
        ("kernels.8.6.crop_frame.ptx", ".entry crop_frame(\0", "is no code"),
        ("kernels.8.6.crop_frame.cubin", "f0VM", "is no code"),
        ("extra", 1, "unknown field extra"),
    ],
)
def test_hostile_kernels_are_refused(tmp_path, path, value, said) -> None:
    data = dataclasses.asdict(KernelFile(SIZE, TOKENS, {"8.6": CODE}))
    inner = copy.deepcopy(data)
    keys = path.replace("8.6", "8_6").split(".")
    at = inner
    for key in keys[:-1]:
        at = at[key.replace("8_6", "8.6")]
    at[keys[-1].replace("8_6", "8.6")] = value
    (tmp_path / "k.json").write_text(json.dumps(inner))
    with pytest.raises(BundleError, match=said):
        KernelFile.load(tmp_path / "k.json", MANIFEST)


@pytest.mark.parametrize("text", ["", "[]", "{", "9" * 5000, "[" * 100_000])
def test_what_is_no_file_of_kernels(tmp_path, text) -> None:
    (tmp_path / "k.json").write_text(text)
    with pytest.raises(BundleError):
        KernelFile.load(tmp_path / "k.json", MANIFEST)
    with pytest.raises(BundleError, match="does not exist"):
        KernelFile.load(tmp_path / "none.json", MANIFEST)


def test_a_file_beyond_all_measure_is_not_read(tmp_path) -> None:
    with (tmp_path / "k.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(BundleError, match="bytes: at most"):
        KernelFile.load(tmp_path / "k.json", MANIFEST)


@pytest.mark.parametrize("cubin", ["f0VM", "!", "f0VMRg"])
def test_cubins_are_elf_files(tmp_path, cubin) -> None:
    code = CODE | {"crop_frame": dataclasses.replace(CODE["crop_frame"], ptx="", cubin=cubin)}
    KernelFile(SIZE, TOKENS, {"8.6": code}).save(tmp_path / "k.json")
    if cubin == "f0VMRg":  # b"\x7fELF" without its padding
        cubin += "=="
    with pytest.raises(BundleError, match="is no code"):
        KernelFile.load(tmp_path / "k.json", MANIFEST)


# The export


# An engine takes long to build, and is not what this is about.
WITHOUT_ENGINES = """
from sdtc.export import bundle, engine_builder
engine_builder.build_engine = lambda onnx, plan, *rest: (plan.write_bytes(b"plan"), ())[1]
bundle.gpu_or_reason = lambda: (None, "")
"""


def compiling(code: str) -> subprocess.CompletedProcess:
    """Run Python where Triton compiles; in the process of the tests it interprets."""
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True)


@pytest.mark.slow
def test_an_export_writes_kernels_for_its_engines_gpus(micro_checkpoint, tmp_path) -> None:
    pytest.importorskip("triton", reason="needs the extra kernels")
    pytest.importorskip("tensorrt_rtx", reason="engines are built with it")
    done = compiling(
        WITHOUT_ENGINES
        + textwrap.dedent(f"""
        from pathlib import Path
        bundle.export(Path({str(micro_checkpoint)!r}), Path({str(tmp_path)!r}), bundle.ExportOptions(
            batch=(1, 1, 2), flavour="tensorrt-rtx", compute_capabilities=("8.6", "12.0", "12.1")))
        """)
    )
    assert done.returncode == 0, done.stderr
    assert "for 8.6, 12.0; not for 12.1: sm_121 is not supported" in done.stdout
    manifest = Manifest.load(tmp_path / "model.json")
    assert manifest.kernels == "model.kernels.json"
    file = KernelFile.load(manifest.verify_file(tmp_path, manifest.kernels), manifest)
    assert set(file.kernels) == {"8.6", "12.0"}
    assert {code.architecture for code in file.kernels["12.0"].values()} == {120}
    crop, gather = file.kernels["8.6"]["crop_frame"], file.kernels["8.6"]["gather_tokens"]
    assert crop.blocks == 64 * 48 // 256
    assert gather.blocks == 1
    assert gather.images() != file.kernels["8.6"]["scatter_tokens"].images()


def test_pointers_are_what_the_kernels_were_promised() -> None:
    pytest.importorskip("triton", reason="needs the extra kernels")
    from sdtc.kernels.common import kernel_launch

    assert ALIGNMENT == kernel_launch.ALIGNMENT


@pytest.mark.slow
def test_kernels_take_the_parameters_that_are_passed(tmp_path) -> None:
    """A cubin's own description of its parameters: ours and the hidden ones; PTX has ours alone."""
    pytest.importorskip("triton", reason="needs the extra kernels")
    done = compiling(
        f"""
        import json, re, subprocess, triton
        from pathlib import Path
        from sdtc.export.device_kernels import _compile
        found = {{}}
        for capability in (86, 87):
            for name, code in _compile((64, 48), (12, 16), (4, 3), capability).items():
                for image, hidden in code.images():
                    elf = image.startswith(b"\x7fELF")
                    if elf:
                        path = Path({str(tmp_path)!r}) / "kernel"
                        path.write_bytes(image)
                        tool = triton.knobs.nvidia.cuobjdump.path
                        text = subprocess.run([tool, "-elf", path], capture_output=True, text=True).stdout
                        count = text.count("EIATTR_KPARAM_INFO")
                    else:
                        count = image.decode().split(")")[0].count(".param")
                    found[name, capability, elf] = (count, len(code.arguments) + hidden, elf)
        print(json.dumps(list(found.values())))
        """
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        *([7, 7, True], [5, 5, False], [6, 6, True], [4, 4, False], [5, 5, True], [3, 3, False]),
        *([5, 5, False], [4, 4, False], [3, 3, False]),
    ]


@pytest.mark.parametrize(
    ("size", "there", "said"), [(SIZE, None, "Triton is not installed"), ((33, 17), object(), "rows of 17 pixels")]
)
def test_kernels_that_cannot_be_compiled_are_left_out(tmp_path, monkeypatch, size, there, said) -> None:
    from sdtc.export import device_kernels

    monkeypatch.setattr(device_kernels, "find_spec", lambda name: there)
    note = device_kernels.write_kernels(tmp_path / "k.json", size, TOKENS, (4, 3), ("8.6",))
    assert note.startswith("left out, crops are cut on the CPU: ")
    assert said in note
    assert not list(tmp_path.iterdir())


def test_names_exist_in_the_real_libraries() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    driver = pytest.importorskip("cuda.bindings.driver")
    names = [name for name in dir(LazyCuda) if name.startswith("cu")]
    assert [n for n in names if not hasattr(runtime if n.startswith("cuda") else driver, n)] == []
    assert hasattr(runtime.cudaStreamCaptureMode, "cudaStreamCaptureModeThreadLocal")
    for kind in vars(LazyCuda.cudaMemcpyKind):
        assert hasattr(runtime.cudaMemcpyKind, kind)
    for code in (*cuda._STICKY, cuda._OUT_OF_MEMORY, *cuda_kernel._UNLOADABLE):  # both number their errors alike
        assert {runtime.cudaError_t(code).value, driver.CUresult(code).value} == {code}
    assert runtime.cudaError_t.cudaErrorIllegalAddress.value in cuda._STICKY
    assert driver.CUresult.CUDA_ERROR_UNSUPPORTED_PTX_VERSION.value in cuda_kernel._UNLOADABLE


@pytest.mark.skipif(cuda.gpu_or_reason()[0] is not None, reason="the handles are made up")
def test_the_real_bindings_take_our_arguments() -> None:
    """They convert them before they fail for want of a driver; what they do not take is a TypeError."""
    runtime = pytest.importorskip("cuda.bindings.runtime")
    driver = pytest.importorskip("cuda.bindings.driver")
    stream, event, graph = (object.__new__(kind) for kind in (cuda.Stream, cuda.Event, cuda.Graph))
    stream.handle, event.handle, graph._launchable = 64, 128, runtime.cudaGraphExec_t(192)
    for call in (
        cuda.use_gpu, cuda.Stream, lambda: cuda.Stream(apart=True), cuda.Event, lambda: cuda.DeviceMemory(8),
        lambda: cuda.PinnedMemory(8), lambda: cuda.upload(256, 512, 8, stream), stream.synchronize,
        lambda: cuda.download(256, 512, 8, stream), lambda: cuda.copy_on_device(256, 512, 8, stream),
        lambda: stream.wait(event), lambda: event.record(stream), event.synchronize, event.close,
        lambda: graph.launch(stream), graph.close, lambda: cuda.Graph(stream, lambda: None), stream.close,
    ):  # fmt: skip
        with pytest.raises(EngineError, match="driver"):
            call()
    kernel = object.__new__(cuda_kernel.Kernel)
    kernel._code, kernel._function, kernel._module = CODE["crop_frame"], driver.CUfunction(64), driver.CUmodule(128)
    kernel._types = (*[ctypes.c_void_p] * 2, *[ctypes.c_int] * 2, *[ctypes.c_void_p] * 3)
    kernel._nulls = (0, 0)
    for call in (
        lambda: cuda_kernel._driver().cuModuleLoadData(CODE["crop_frame"].images()[-1][0]),
        lambda: cuda_kernel._driver().cuModuleGetFunction(kernel._module, b"crop_frame"),
        lambda: kernel.launch(stream, 3, 256, 512, 1080, 1920, 768),
        kernel.close,
    ):
        with pytest.raises(RuntimeError, match="driver"):
            call()


# On a GPU; not run yet


@pytest.fixture
def gpu_clip(tiny_bundle) -> tuple[list[np.ndarray], np.ndarray]:
    """Frames and boxes."""
    rng = np.random.default_rng(0)
    frames = [cv2.GaussianBlur(rng.integers(0, 256, (240, 320, 3), np.uint8), (0, 0), 3) for _ in range(5)]
    return frames, np.array([[20.0, 30, 80, 160], [150, 20, 90, 200], [-10, 100, 60, 120]])


def assert_close(got: np.ndarray, want: np.ndarray) -> None:
    """Positions jump where two pixels of an untrained heatmap are as good as equal: nearly all must agree."""
    apart = np.abs(got[..., :2] - want[..., :2]).max(-1)
    assert (apart < 0.5).mean() > 0.95
    np.testing.assert_allclose(got[..., 2], want[..., 2], atol=1e-2)


def estimates(engine, gpu_clip, times: int = 4) -> list[np.ndarray]:
    return [engine.estimate(*gpu_clip) for _ in range(times)]


@pytest.mark.gpu
def test_the_gpu_answers_as_onnxruntime(gpu_bundle, gpu_clip) -> None:
    with sdtc.runtime.open(gpu_bundle / "model.onnx", EngineOptions(device="cpu")) as engine:
        want = engine.estimate(*gpu_clip)
    with sdtc.runtime.open(gpu_bundle / "model.plan", EngineOptions(device="cuda")) as engine:
        assert isinstance(engine._estimator, DeviceEstimator), engine.notice
        for got in estimates(engine, gpu_clip):  # the first plainly, the second recorded, then replayed
            assert_close(got, want)


@pytest.mark.gpu
def test_a_replayed_graph_answers_as_a_plain_launch(gpu_bundle, gpu_clip) -> None:
    with sdtc.runtime.open(gpu_bundle / "model.plan", EngineOptions(device="cuda")) as engine:
        if engine._estimator.encoder.own_graphs:
            pytest.skip("TensorRT-RTX makes its own graphs")
        first, *others = estimates(engine, gpu_clip)
        assert any(graph is not None for graph in engine._estimator.graphs._graphs.values())
    for other in others:
        np.testing.assert_array_equal(other, first)


@pytest.mark.gpu
def test_the_gpu_tracks_a_clip_as_onnxruntime(gpu_bundle, tmp_path) -> None:
    from sdtc.synthetic import ClipOptions, SyntheticClip, write_clip

    write_clip(SyntheticClip(ClipOptions(3, num_frames=12)), tmp_path)
    (video,) = tmp_path.glob("*.mp4")
    boxes = next((tmp_path / "annotations").rglob("*.json"))
    found = []
    for path, device in (("model.onnx", "cpu"), ("model.plan", "cuda")):
        with sdtc.runtime.open(gpu_bundle / path, EngineOptions(device=device)) as engine:
            found.append(
                [[pose.keypoints for pose in frame.poses] for frame in engine.track(video, TrackOptions(boxes=boxes))]
            )
    assert [len(poses) for poses in found[0]] == [len(poses) for poses in found[1]]
    assert_close(*(np.array([points for poses in each for points in poses]) for each in found))


@pytest.mark.gpu
def test_frames_on_the_gpu_answer_as_frames_of_the_host(gpu_bundle, gpu_clip) -> None:
    frames, boxes = gpu_clip
    stream, buffers = cuda.Stream(), []
    for frame in frames:
        buffers.append(cuda.DeviceBuffer(frame.nbytes))
        buffers[-1].view(frame.shape, frame.dtype)[...] = frame
        buffers[-1].upload(frame.nbytes, stream)
    stream.synchronize()
    there = [
        SimpleNamespace(
            shape=frame.shape,
            __cuda_array_interface__={
                "shape": frame.shape, "typestr": "|u1", "data": (buffer.device, False), "strides": None, "version": 3
            },
        )
        for frame, buffer in zip(frames, buffers, strict=True)
    ]  # fmt: skip
    with sdtc.runtime.open(gpu_bundle / "model.plan", EngineOptions(device="cuda")) as engine:
        assert_close(engine.estimate(there, boxes), engine.estimate(frames, boxes))
    for resource in (*buffers, stream):
        resource.close()


@pytest.mark.gpu
def test_a_bundle_without_kernels_runs_and_says_so(gpu_bundle, gpu_clip, tmp_path) -> None:
    folder = Path(shutil.copytree(gpu_bundle, tmp_path / "bundle"))
    data = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(data | {"kernels": None}))
    with sdtc.runtime.open(folder / "model.plan", EngineOptions(device="cuda")) as engine:
        assert engine.notice.startswith("crops are cut on the CPU")
        without = engine.estimate(*gpu_clip)
    with sdtc.runtime.open(gpu_bundle / "model.plan", EngineOptions(device="cuda")) as engine:
        assert_close(engine.estimate(*gpu_clip), without)
