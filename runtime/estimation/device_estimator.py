"""Frame by frame on a GPU: frames are uploaded once, keypoints are downloaded, and everything between stays there.

It schedules like `StreamingEstimator`, and gives the same results. There are two CUDA streams. One uploads frames. The
other cuts crops from them into the encoder's input, encodes, scatters the tokens into the slots of a pool, gathers
windows into the temporal engine's input, resampling them on the way, and runs that engine. Heatmaps are decoded inside
the temporal engine. The host waits once per batch of keyframes.

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
    Plan,
    PoseStream,
    TokenEstimator,
    batches,
    by_request,
    checked,
)
from sdtc.runtime.estimation.timing import StageTimes
from sdtc.runtime.sources.base import Frame

_LEGACY_STREAM = 1  # CUDA's default stream, used by code that names no stream
_MATRIX = 6 * 8  # bytes of a crop's [2, 3] float64
_PLACE = 4 * 4  # bytes of four float32


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


class _TokenPool:
    """The tokens of all sources on the GPU: ``[slots, L, C]`` fp32, one block of memory."""

    def __init__(self, row_bytes: int) -> None:
        self._row_bytes = row_bytes
        self._slots = 0
        self._memory: DeviceMemory | None = None

    def grow(self, slots: int, least: int, stream: cuda.Stream, graphs: Graphs) -> int:
        """Grow to at least `slots` slots, and at first to `least`; keep the content, and return the address."""
        if self._memory is None or slots > self._slots:
            try:  # twice as many, so that growing stays rare
                capacity = max(slots, 2 * self._slots, least)
                grown = DeviceMemory(capacity * self._row_bytes)
            except EngineError:
                capacity = slots
                grown = DeviceMemory(capacity * self._row_bytes)
            known, self._memory = self._memory, grown
            if known is not None:
                cuda.copy_on_device(grown.address, known.address, self._slots * self._row_bytes, stream)
                stream.synchronize()
                graphs.drop(known.address)
                known.close()
            self._slots = capacity
        return self._memory.address

    def close(self) -> None:
        if self._memory is not None:
            self._memory.close()


class _FrameMemory:
    """The frames of all sources' latest windows on the GPU, by source and index; calls need that none is in use."""

    def __init__(self) -> None:
        self._frames: dict[PoseStream, dict[int, DeviceMemory]] = {}
        self._spare: list[DeviceMemory] = []

    def keep(self, source: PoseStream, wanted: set[int]) -> None:
        """Release all other frames of a source."""
        frames = self._frames.get(source, {})
        for index in [index for index in frames if index not in wanted]:
            self._spare.append(frames.pop(index))
        if not frames:
            self._frames.pop(source, None)

    def find(self, source: PoseStream, index: int) -> int | None:
        """Return the address of a frame; None if it is not there."""
        memory = self._frames.get(source, {}).get(index)
        return None if memory is None else memory.address

    def take(self, nbytes: int) -> DeviceMemory:
        """Return memory for a frame, to be given to `add` once its content is on the way, or else to `give_back`."""
        fitting = [memory for memory in self._spare if memory.nbytes == nbytes]
        if fitting:
            self._spare.remove(fitting[-1])
            return fitting[-1]
        self.close_spare()  # of frames of other sizes
        return DeviceMemory(nbytes)

    def add(self, source: PoseStream, index: int, memory: DeviceMemory) -> None:
        self._frames.setdefault(source, {})[index] = memory

    def give_back(self, memory: DeviceMemory) -> None:
        self._spare.append(memory)

    def close_spare(self) -> None:
        while self._spare:
            self._spare.pop().close()

    def close(self) -> None:
        with ExitStack() as stack:
            for memory in (*self._spare, *(each for frames in self._frames.values() for each in frames.values())):
                stack.callback(memory.close)
            self._spare.clear()
            self._frames.clear()


class DeviceEstimator(TokenEstimator):
    """The network in two halves, and everything around them, on one GPU.

    Args:
        manifest: the bundle's.
        encoder, temporal: engines of the two halves; closed with the estimator.
        kernels: for this GPU, by name.
        times: stage times to record into, all as ``pose``.

    Raises:
        UnloadableError: the kernels do not load on this GPU.
        EngineError: the engines do not fit them, or the GPU's memory is full.
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
        super().__init__(manifest)
        cuda.use_gpu()
        self.lock = threading.Lock()  # streams, buffers and recordings belong to all sources: one thread at a time
        self.backend, self.times = encoder.backend, times
        self.encoder, self.temporal = encoder, temporal
        check_graph(manifest, "encoder", encoder)  # else kernels would write out of bounds
        check_graph(manifest, "temporal", temporal)
        self.encoder_sizes = buckets(*encoder.batch_range["frames"])
        self.temporal_sizes = buckets(*temporal.batch_range["tokens"])
        self.closed = False
        self._lanes: dict[tuple[Session, int], Callable[[cuda.Stream], None]] = {}
        with ExitStack() as stack:

            def own(resource: Any) -> Any:
                stack.callback(resource.close)
                return resource

            L, C = manifest.token_shape
            self.pool, self.frames = own(_TokenPool(L * C * 4)), own(_FrameMemory())
            self.upload, self.compute = own(cuda.Stream(apart=True)), own(cuda.Stream(apart=True))
            self.crop, self.gather, self.scatter = (
                own(Kernel(kernels[name])) for name in ("crop_frame", "gather_tokens", "scatter_tokens")
            )
            self.graphs = own(Graphs(self.compute, enabled=not encoder.own_graphs))
            self.staged = [(own(Room(PinnedMemory)), own(Event())) for _ in range(2)]  # frames being uploaded
            # By content: on the host for a whole call, on the device for one batch.
            self.host = {
                name: own(Room(PinnedMemory)) for name in ("matrices", "slots", "windows", "places", "keypoints")
            }
            crops, windows = self.encoder_sizes[-1], self.temporal_sizes[-1]
            self.matrices = own(DeviceMemory(crops * _MATRIX)).address
            self.targets = own(DeviceMemory(crops * 4)).address
            self.windows = own(DeviceMemory(windows * manifest.num_frames * 4)).address
            self.places = own(DeviceMemory(windows * manifest.num_frames * _PLACE)).address
            self._resources = stack.pop_all()

    def estimate(self, plan: Plan) -> list[np.ndarray]:
        # In this thread, which may be the one whose stream wrote them; another one may run the batch.
        cuda.use_gpu()
        for image in {id(frame.image): frame.image for frame, _, _ in plan.crops}.values():
            if hasattr(image, "__cuda_array_interface__"):
                _wait_for_writer(image)
        return super().estimate(plan)

    def forget(self, source: PoseStream) -> None:
        """Release the frames of a source that has ended."""
        with self.lock:
            self.frames.keep(source, set())
            self.frames.close_spare()

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

    def run(self, plans: Sequence[Plan]) -> list[list[np.ndarray]]:
        cuda.use_gpu()
        requests = [plan.request for plan in plans]
        with self.lock, self.times.stage("pose"):
            if self.closed:
                raise EngineError(CLOSED)
            # The last call waited for the GPU to finish: what it used may be overwritten.
            for request in requests:
                wanted = {frame.index for people in request.keyframes for frame in people.window}
                self.frames.keep(request.source, wanted)
            least = self.temporal_sizes[-1] * self.manifest.num_frames
            slots, places = np.concatenate([p.slots for p in plans]), np.concatenate([p.places for p in plans])
            highest = max(slots.max(initial=0), *(crop[2] for plan in plans for crop in plan.crops), 0)
            pool = self.pool.grow(int(highest) + 1, least, self.compute, self.graphs)
            try:
                self._encode([(plan.request.source, *crop) for plan in plans for crop in plan.crops], pool)
                keypoints = self._decode(slots, places, min(request.batch_size for request in requests), pool)
            finally:
                self.compute.synchronize()
            return by_request(checked(keypoints.copy(), self.backend), requests)

    def _encode(self, work: list[tuple[PoseStream, Frame, np.ndarray, int]], pool: int) -> None:
        """Queue the encoding of crops, into their slots."""
        if not work:
            return
        size = self.manifest.input_size
        crop_bytes = size[0] * size[1] * 3
        work.sort(key=_frame_key)  # groups the crops of each frame
        matrices = self._on_host("matrices", np.array([crop_to_image_matrix(box, size) for _, _, box, _ in work], "f8"))
        slots = self._on_host("slots", np.array([slot for *_, slot in work], np.int32))
        crops, tokens = self.encoder.address("frames"), self.encoder.address("tokens")
        for part in batches(len(work), self.encoder_sizes[-1]):
            batch = work[part]
            cuda.upload(self.matrices, matrices + part.start * _MATRIX, len(batch) * _MATRIX, self.compute)
            cuda.upload(self.targets, slots + part.start * 4, len(batch) * 4, self.compute)
            first = 0
            for _, people in groupby(batch, key=_frame_key):
                these = list(people)
                address, height, width = self._frame(*these[0][:2])
                self.crop.launch(
                    self.compute, len(these), address, self.matrices + first * _MATRIX, height, width,
                    crops + first * crop_bytes,
                )  # fmt: skip
                first += len(these)
            # Old crops behind the batch are encoded too; their tokens are not used.
            bucket = bucket_for(len(batch), self.encoder_sizes)
            self.graphs.run(("encoder", bucket, crops, tokens), self.lane(self.encoder, bucket))
            self.scatter.launch(self.compute, len(batch), tokens, self.targets, pool)

    def _decode(self, windows: np.ndarray, places: np.ndarray, batch_size: int, pool: int) -> np.ndarray:
        """Queue windows of slots ``[N, T]`` and places ``[N, T, 4]``; return where keypoints ``[N, J, 3]`` will be."""
        T, J = self.manifest.num_frames, len(self.manifest.keypoints)
        largest = min(batch_size, self.temporal_sizes[-1])
        parts = list(batches(len(windows), largest))
        sizes = [bucket_for(part.stop - part.start, self.temporal_sizes) for part in parts]
        # Batches that are too small are padded with their last window.
        filled = [
            np.minimum(np.arange(part.start, part.start + size), part.stop - 1)
            for part, size in zip(parts, sizes, strict=True)
        ]
        rows = np.concatenate([np.zeros(0, np.int64), *filled])
        slots, at = self._on_host("windows", windows[rows].astype(np.int32)), self._on_host("places", places[rows])
        host = self.host["keypoints"].of(len(windows) * J * 12)
        tokens, answer = self.temporal.address("tokens"), self.temporal.address("keypoints")
        for part, size in zip(parts, sizes, strict=True):
            cuda.upload(self.windows, slots, size * T * 4, self.compute)
            cuda.upload(self.places, at, size * T * _PLACE, self.compute)
            slots, at = slots + size * T * 4, at + size * T * _PLACE
            run = self.lane(self.temporal, size)

            def gather_and_run(rows: int = size * T, run: Callable[[], None] = run) -> None:
                self.gather.launch(self.compute, rows, pool, self.windows, self.places, tokens)
                run()

            self.graphs.run(("temporal", size, pool, self.windows, tokens, answer), gather_and_run)
            count = part.stop - part.start
            cuda.download(host.address + part.start * J * 12, answer, count * J * 12, self.compute)
        return host.view((len(windows), J, 3), np.dtype(np.float32))

    def _on_host(self, name: str, values: np.ndarray) -> int:
        """Copy values into pinned memory, where they stay until the next call; return the address."""
        memory = self.host[name].of(values.nbytes)
        memory.view(values.shape, values.dtype)[...] = values
        return memory.address

    def _frame(self, source: PoseStream, frame: Frame) -> tuple[int, int, int]:
        """Return a frame's address on the GPU, height and width; work that is queued from now on finds it there."""
        image = frame.image
        assert image is not None
        if hasattr(image, "__cuda_array_interface__"):
            return _on_device(image)
        _check_frame(image.shape, image.dtype)
        height, width = image.shape[:2]
        if (known := self.frames.find(source, frame.index)) is not None:
            return known, height, width
        room, done = self.staged[0]
        self.staged.reverse()  # use the other one next time: this one may still be in transfer
        done.synchronize()
        staged = room.of(image.nbytes)
        staged.view(image.shape, image.dtype)[...] = image
        memory = self.frames.take(image.nbytes)
        try:
            cuda.upload(memory.address, staged.address, image.nbytes, self.upload)
            done.record(self.upload)
            self.compute.wait(done)
        except BaseException:
            self.upload.synchronize()
            self.frames.give_back(memory)
            raise
        self.frames.add(source, frame.index, memory)  # only now: a batch that failed is run again
        return memory.address, height, width


def _frame_key(work: tuple[PoseStream, Frame, np.ndarray, int]) -> tuple[int, int]:
    return id(work[0]), work[1].index


def _on_device(image: Any) -> tuple[int, int, int]:
    """Return the address, height and width of a frame that is already on the GPU.

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
    return address, shape[0], shape[1]


def _wait_for_writer(image: Any) -> None:
    cuda.synchronize_stream(int(image.__cuda_array_interface__.get("stream") or _LEGACY_STREAM))


def _check_frame(shape: tuple[int, ...], dtype: np.dtype) -> None:
    if dtype != np.uint8 or len(shape) != 3 or shape[2] != 3:
        raise EngineError(f"a frame is {dtype} {list(shape)}: expected uint8 [height, width, 3]")
