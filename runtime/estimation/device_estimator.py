"""Frame by frame on a GPU: frames are uploaded once, keypoints are downloaded, and everything between stays there.

It schedules like `StreamingEstimator`, and gives the same results. There are two CUDA streams. One uploads frames. The
other cuts crops from them into the encoder's input, encodes, scatters the tokens into the slots of a pool, gathers
windows into the temporal engine's input, and runs that engine. Heatmaps are decoded inside the temporal engine. The
host waits once per batch of keyframes.

Engines run with only a few batch sizes, so that each can be recorded as a CUDA graph.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from typing import Any

import numpy as np

from sdtc.core.crops import crop_to_image_matrix
from sdtc.core.errors import EngineError
from sdtc.core.kernel_file import ALIGNMENT, KernelCode
from sdtc.core.manifest import Manifest
from sdtc.runtime.backends import cuda
from sdtc.runtime.backends.cuda import DeviceMemory, Event, Graph, PinnedMemory
from sdtc.runtime.backends.cuda_kernel import Kernel
from sdtc.runtime.backends.session import CLOSED, Session, check_graph
from sdtc.runtime.backends.tensorrt_session import TensorRTSession, is_contiguous
from sdtc.runtime.estimation.estimators import (
    Estimator,
    KeyframePeople,
    Poses,
    PoseStream,
    Work,
    batches,
    by_keyframe,
    checked,
    schedule_keyframes,
)
from sdtc.runtime.estimation.timing import StageTimes
from sdtc.runtime.estimation.token_cache import TokenCache
from sdtc.runtime.sources.base import Frame

_LEGACY_STREAM = 1  # CUDA's default stream, used by code that names no stream
_MATRIX = 6 * 8  # bytes of a crop's [2, 3] float64


def buckets(smallest: int, largest: int) -> tuple[int, ...]:
    """Return the batch sizes that an engine runs with: its smallest and largest, and the powers of two between them."""
    powers = (1 << bit for bit in range(largest.bit_length()))
    return tuple(sorted({smallest, largest, *(power for power in powers if smallest < power < largest)}))


def bucket_for(count: int, sizes: Sequence[int]) -> int:
    """Return the smallest of some ascending batch sizes that holds `count` items, which must fit the largest."""
    return next(size for size in sizes if size >= count)


class Graphs:
    """Runs pieces of work on one stream: directly the first time, then recorded as CUDA graphs and launched as a whole.

    Args:
        stream: the stream that the work is queued on.
        enabled: whether anything is recorded.
    """

    def __init__(self, stream: cuda.Stream, enabled: bool) -> None:
        self._stream, self._enabled = stream, enabled
        self._graphs: dict[tuple[Hashable, ...], Graph | None] = {}  # None: has run once

    def run(self, key: tuple[Hashable, ...], work: Callable[[], None]) -> None:
        """Run a piece of work.

        Args:
            key: everything that the recording depends on: sizes and addresses.
            work: only queues; it neither waits nor allocates.
        """
        # The first run does the lazy loading and setup that must not happen in a recording.
        if not self._enabled or key not in self._graphs:
            work()
            self._graphs.setdefault(key, None)
            return
        graph = self._graphs[key]
        if graph is None:
            try:
                graph = self._graphs[key] = Graph(self._stream, work)
            except EngineError as error:
                self._enabled = False
                logging.getLogger("sdtc").warning("CUDA graphs are not used: %s", error)
                work()
                return
        graph.launch(self._stream)

    def drop(self, part: Hashable) -> None:
        """Drop every recording whose key contains something that is about to be freed; none may be running."""
        for key in [key for key in self._graphs if part in key]:
            graph = self._graphs.pop(key)
            if graph is not None:
                graph.close()

    def close(self) -> None:
        with ExitStack() as stack:
            for graph in self._graphs.values():
                if graph is not None:
                    stack.callback(graph.close)
            self._graphs.clear()


class Room:
    """Memory that is replaced when more is needed; its content is lost, and nothing may be using it then.

    Args:
        kind: `DeviceMemory` or `PinnedMemory`.
    """

    def __init__(self, kind: type[DeviceMemory] | type[PinnedMemory]) -> None:
        self._kind = kind
        self._memory: Any = None

    def of(self, nbytes: int) -> Any:
        """Return memory of at least `nbytes` bytes."""
        if self._memory is None or self._memory.nbytes < nbytes:
            self.close()
            self._memory = self._kind(nbytes)
        return self._memory

    def close(self) -> None:
        if self._memory is not None:
            memory, self._memory = self._memory, None
            memory.close()


class _SourceMemory:
    """The GPU memory of one source: the pool of tokens and the frames of the latest windows.

    Attributes:
        pool: ``[slots, L, C]`` fp32; None before the first frame.
        frames: by index.
    """

    def __init__(self, row_bytes: int) -> None:
        self._row_bytes = row_bytes
        self._slots = 0
        self.pool: DeviceMemory | None = None
        self.frames: dict[int, Room] = {}
        self._spare: list[Room] = []

    def grow(self, slots: int, least: int, stream: cuda.Stream, graphs: Graphs) -> int:
        """Grow the pool to at least `slots` slots, keep its content, and return its address."""
        if self.pool is None or slots > self._slots:
            capacity = max(slots, 2 * self._slots, least)  # twice as many, so that growing stays rare
            grown = DeviceMemory(capacity * self._row_bytes)
            known, self.pool = self.pool, grown
            if known is not None:
                cuda.copy_on_device(grown.address, known.address, self._slots * self._row_bytes, stream)
                stream.synchronize()
                graphs.drop(known.address)
                known.close()
            self._slots = capacity
        return self.pool.address

    def keep_frames(self, wanted: set[int]) -> None:
        """Release all other frames; none of them may be in use."""
        for index in [index for index in self.frames if index not in wanted]:
            self._spare.append(self.frames.pop(index))

    def new_frame(self, index: int, nbytes: int) -> int:
        """Return the address of memory for a frame."""
        room = self.frames[index] = self._spare.pop() if self._spare else Room(DeviceMemory)
        return room.of(nbytes).address

    def close(self) -> None:
        with ExitStack() as stack:
            for room in (*self.frames.values(), *self._spare):
                stack.callback(room.close)
            if self.pool is not None:
                stack.callback(self.pool.close)


class DeviceEstimator(Estimator):
    """The network in two halves, and everything around them, on one GPU.

    Args:
        manifest: the bundle's.
        encoder, temporal: engines of the two halves; closed with the estimator.
        kernels: for this GPU, by name.
        times: stage times to record into, all as ``pose``.

    Raises:
        EngineError: the kernels do not load, the engines do not fit them, or the GPU's memory is full.
    """

    on_device = True

    def __init__(
        self,
        manifest: Manifest,
        encoder: TensorRTSession,
        temporal: TensorRTSession,
        kernels: Mapping[str, KernelCode],
        times: StageTimes,
    ) -> None:
        cuda.use_gpu()
        self.lock = threading.Lock()  # streams, buffers and recordings belong to all sources: one thread at a time
        self.manifest, self.backend, self.times = manifest, encoder.backend, times
        self.encoder, self.temporal = encoder, temporal
        check_graph(manifest, "encoder", encoder)  # else kernels would write out of bounds
        check_graph(manifest, "temporal", temporal)
        self.encoder_sizes = buckets(*encoder.batch_range["frames"])
        self.temporal_sizes = buckets(*temporal.batch_range["tokens"])
        self.closed = False
        self._lanes: dict[tuple[Session, int], Callable[[cuda.Stream], None]] = {}
        self._memories: list[_SourceMemory] = []
        self._unused: list[_SourceMemory] = []
        with ExitStack() as stack:

            def own(resource: Any) -> Any:
                stack.callback(resource.close)
                return resource

            stack.callback(self._close_memories)
            self.upload, self.compute = own(cuda.Stream(apart=True)), own(cuda.Stream(apart=True))
            self.crop, self.gather, self.scatter = (
                own(Kernel(kernels[name])) for name in ("crop_frame", "gather_tokens", "scatter_tokens")
            )
            self.graphs = own(Graphs(self.compute, enabled=not encoder.own_graphs))
            self.staged = [(own(Room(PinnedMemory)), own(Event())) for _ in range(2)]  # frames being uploaded
            # By content: on the host for a whole call, on the device for one batch.
            self.host = {name: own(Room(PinnedMemory)) for name in ("matrices", "slots", "windows", "keypoints")}
            crops, windows = self.encoder_sizes[-1], self.temporal_sizes[-1]
            self.matrices = own(DeviceMemory(crops * _MATRIX)).address
            self.slots = own(DeviceMemory(crops * 4)).address
            self.windows = own(DeviceMemory(windows * manifest.num_frames * 4)).address
            self._resources = stack.pop_all()

    def start(self, hold: float) -> PoseStream:
        with self.lock:
            if not self._unused:
                L, C = self.manifest.token_shape
                self._unused.append(_SourceMemory(L * C * 4))
                self._memories.append(self._unused[-1])
            return _DeviceStream(self, TokenCache(self.manifest.num_frames, hold), self._unused.pop())

    def give_back(self, memory: _SourceMemory) -> None:
        """Keep the memory of a source that has ended for the next one: recordings contain its addresses."""
        with self.lock:
            memory.keep_frames(set())
            self._unused.append(memory)

    def lane(self, session: TensorRTSession, size: int) -> Callable[[], None]:
        """Return a function that queues an engine's run with a batch size."""
        if (session, size) not in self._lanes:
            self._lanes[session, size] = session.lane(size)
        lane = self._lanes[session, size]
        return lambda: lane(self.compute)

    def close(self) -> None:
        with self.lock, ExitStack() as stack:
            self.closed = True
            stack.callback(self.encoder.close)
            stack.callback(self.temporal.close)
            stack.callback(self._lanes.clear)
            stack.callback(self._resources.close)
            if self.compute.handle:
                stack.callback(self.compute.synchronize)
                stack.callback(self.upload.synchronize)

    def _close_memories(self) -> None:
        with ExitStack() as stack:
            for memory in self._memories:
                stack.callback(memory.close)
            self._memories.clear()


class _DeviceStream(PoseStream):
    cache: TokenCache

    def __init__(self, estimator: DeviceEstimator, cache: TokenCache, memory: _SourceMemory) -> None:
        self._estimator, self.cache = estimator, cache
        self._memory: _SourceMemory | None = memory

    def estimate(self, keyframes: Sequence[KeyframePeople], batch_size: int) -> list[Poses]:
        estimator = self._estimator
        assert self._memory is not None
        cuda.use_gpu()
        with estimator.lock, estimator.times.stage("pose"):
            if estimator.closed:
                raise EngineError(CLOSED)
            work, windows, boxes = schedule_keyframes(self.cache, keyframes)
            # The last call waited for the GPU to finish: what it used may be overwritten.
            self._memory.keep_frames({frame.index for people in keyframes for frame in people.window})
            least = estimator.temporal_sizes[-1] * estimator.manifest.num_frames
            pool = self._memory.grow(self.cache.num_slots, least, estimator.compute, estimator.graphs)
            try:
                self._encode(work, pool)
                keypoints = self._decode(windows, batch_size, pool)
            finally:
                estimator.compute.synchronize()
            self.cache.release()
            return by_keyframe(checked(keypoints.copy(), estimator.backend), boxes)

    def end(self) -> None:
        if self._memory is not None:
            self._estimator.give_back(self._memory)
            self._memory = None

    def _encode(self, work: list[Work], pool: int) -> None:
        """Queue the encoding of crops, into their slots."""
        if not work:
            return
        estimator = self._estimator
        size = estimator.manifest.input_size
        crop_bytes = size[0] * size[1] * 3
        work.sort(key=lambda item: item[0].index)  # groups the crops of each frame
        matrices = self._on_host("matrices", np.array([crop_to_image_matrix(box, size) for _, box, _ in work], "f8"))
        slots = self._on_host("slots", np.array([slot for _, _, slot in work], np.int32))
        crops, tokens = estimator.encoder.address("frames"), estimator.encoder.address("tokens")
        for part in batches(len(work), estimator.encoder_sizes[-1]):
            batch = work[part]
            cuda.upload(estimator.matrices, matrices + part.start * _MATRIX, len(batch) * _MATRIX, estimator.compute)
            cuda.upload(estimator.slots, slots + part.start * 4, len(batch) * 4, estimator.compute)
            first = 0
            for _, people in groupby(batch, key=lambda item: item[0].index):
                these = list(people)
                address, height, width = self._frame(these[0][0])
                estimator.crop.launch(
                    estimator.compute, len(these), address, estimator.matrices + first * _MATRIX, height, width,
                    crops + first * crop_bytes,
                )  # fmt: skip
                first += len(these)
            # Old crops behind the batch are encoded too; their tokens are not used.
            bucket = bucket_for(len(batch), estimator.encoder_sizes)
            estimator.graphs.run(("encoder", bucket, crops, tokens), estimator.lane(estimator.encoder, bucket))
            estimator.scatter.launch(estimator.compute, len(batch), tokens, estimator.slots, pool)

    def _decode(self, windows: np.ndarray, batch_size: int, pool: int) -> np.ndarray:
        """Queue windows of slots ``[N, T]``; return where their keypoints ``[N, J, 3]`` will be."""
        estimator = self._estimator
        T, J = estimator.manifest.num_frames, len(estimator.manifest.keypoints)
        largest = min(batch_size, estimator.temporal_sizes[-1])
        parts = [(part, windows[part]) for part in batches(len(windows), largest)]
        sizes = [bucket_for(len(batch), estimator.temporal_sizes) for _, batch in parts]
        # Batches that are too small are padded with their last window.
        filled = [
            batch[np.minimum(np.arange(size), len(batch) - 1)] for (_, batch), size in zip(parts, sizes, strict=True)
        ]
        slots = self._on_host("windows", np.concatenate([windows[:0], *filled]).astype(np.int32))
        host = estimator.host["keypoints"].of(len(windows) * J * 12)
        tokens, answer = estimator.temporal.address("tokens"), estimator.temporal.address("keypoints")
        for (part, batch), size in zip(parts, sizes, strict=True):
            cuda.upload(estimator.windows, slots, size * T * 4, estimator.compute)
            slots += size * T * 4
            run = estimator.lane(estimator.temporal, size)

            def gather_and_run(rows: int = size * T, run: Callable[[], None] = run) -> None:
                estimator.gather.launch(estimator.compute, rows, pool, estimator.windows, tokens)
                run()

            estimator.graphs.run(("temporal", size, pool, estimator.windows, tokens, answer), gather_and_run)
            cuda.download(host.address + part.start * J * 12, answer, len(batch) * J * 12, estimator.compute)
        return host.view((len(windows), J, 3), np.dtype(np.float32))

    def _on_host(self, name: str, values: np.ndarray) -> int:
        """Copy values into pinned memory, where they stay until the next call; return the address."""
        memory = self._estimator.host[name].of(values.nbytes)
        memory.view(values.shape, values.dtype)[...] = values
        return memory.address

    def _frame(self, frame: Frame) -> tuple[int, int, int]:
        """Return a frame's address on the GPU, height and width; work that is queued from now on finds it there."""
        estimator, image = self._estimator, frame.image
        assert image is not None
        assert self._memory is not None
        if hasattr(image, "__cuda_array_interface__"):
            return _on_device(image)
        _check_frame(image.shape, image.dtype)
        height, width = image.shape[:2]
        if frame.index in self._memory.frames:
            return self._memory.frames[frame.index].of(0).address, height, width
        room, done = estimator.staged[0]
        estimator.staged.reverse()  # use the other one next time: this one may still be in transfer
        done.synchronize()
        staged = room.of(image.nbytes)
        staged.view(image.shape, image.dtype)[...] = image
        address = self._memory.new_frame(frame.index, image.nbytes)
        cuda.upload(address, staged.address, image.nbytes, estimator.upload)
        done.record(estimator.upload)
        estimator.compute.wait(done)
        return address, height, width


def _on_device(image: Any) -> tuple[int, int, int]:
    """Check a frame that is already on the GPU, and wait for its writer.

    Raises:
        EngineError: it is not laid out as the kernel reads it.
    """
    interface = image.__cuda_array_interface__
    shape, dtype = tuple(int(side) for side in interface["shape"]), np.dtype(interface["typestr"])
    _check_frame(shape, dtype)
    address = int(interface["data"][0])
    if not is_contiguous(shape, interface.get("strides"), 1) or address % ALIGNMENT:
        raise EngineError(
            f"a frame on the GPU is not contiguous, or its address is no multiple of {ALIGNMENT} bytes: copy it first"
        )
    cuda.synchronize_stream(int(interface.get("stream") or _LEGACY_STREAM))
    return address, shape[0], shape[1]


def _check_frame(shape: tuple[int, ...], dtype: np.dtype) -> None:
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3:
        raise EngineError(f"a frame is {dtype} {list(shape)}: expected uint8 [height, width, 3]")
