"""CUDA for the runtime, through `cuda-python`: finds a usable GPU, and wraps memory, streams, events and graphs.

The work on the streams is queued by `sdtc.runtime.backends.cuda_kernel` and the sessions.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdtc.core.errors import EngineError, MissingExtraError, require


@dataclass(frozen=True)
class Gpu:
    """The usable GPU: CUDA's first, which ``CUDA_VISIBLE_DEVICES`` chooses."""

    name: str
    compute_capability: str  # "8.6"


def find_gpu(extra: str = "gpu") -> Gpu:
    """Return the GPU that this process can use.

    Args:
        extra: the extra of this package to name if `cuda-python` is not installed.

    Raises:
        EngineError: there is none; the message gives the reason.
        MissingExtraError: `cuda-python` is not installed.
    """
    cudart = _cudart(extra)
    try:
        status, count = cudart.cudaGetDeviceCount()
    except (RuntimeError, OSError) as error:
        # cuda-bindings 12 loads the driver at the first call and raises RuntimeError without one; newer versions'
        # DynamicLibNotFoundError is a RuntimeError too.
        raise EngineError(f"no usable GPU: no NVIDIA driver ({_first_line(error)})") from None
    if status != cudart.cudaError_t.cudaSuccess:
        reasons = {
            cudart.cudaError_t.cudaErrorInsufficientDriver: "no NVIDIA driver, or one too old for this CUDA",
            cudart.cudaError_t.cudaErrorNoDevice: "no NVIDIA GPU is visible",
        }
        raise EngineError(f"no usable GPU: {reasons.get(status, _error_text(cudart, status))}")
    if not count:
        raise EngineError("no usable GPU: no NVIDIA GPU is visible")
    properties = check(cudart.cudaGetDeviceProperties(0))
    return Gpu(properties.name.decode(errors="replace"), f"{properties.major}.{properties.minor}")


def gpu_or_reason(extra: str = "gpu") -> tuple[Gpu | None, str]:
    """Return the GPU, or None and why there is none; `extra` as in `find_gpu`."""
    try:
        return find_gpu(extra), ""
    except (EngineError, MissingExtraError) as error:
        return None, str(error)


def use_gpu() -> None:
    """Make the GPU's primary context current in the calling thread; TensorRT and the runtime API work in it."""
    check(_cudart().cudaSetDevice(0))


def check(result: tuple[Any, ...]) -> Any:
    """Check and unpack the result of a `cuda.bindings.runtime` call.

    Raises:
        EngineError: the call failed; the message names the error.
    """
    cudart = _cudart()
    status, *values = result
    if status != cudart.cudaError_t.cudaSuccess:
        raise EngineError(explain(status.value, _error_text(cudart, status)))
    return values[0] if len(values) == 1 else tuple(values)


def explain(code: int, text: str) -> str:
    """Return a sentence on a failed call.

    Args:
        code: error code of the runtime API or the driver API, which are the same numbers.
        text: CUDA's own message.
    """
    if code == _OUT_OF_MEMORY:
        return (
            f"the GPU's memory is full ({text}): close other programs on it, or export the checkpoint with a smaller "
            "`batch`"
        )
    if code in _STICKY:
        return (
            f"the GPU failed in the middle of a run ({text}), and this process can no longer use it: start again, and "
            "use `device='cpu'` if it happens again"
        )
    return f"CUDA call failed: {text}"


_OUT_OF_MEMORY = 2
# After these every further call in the process fails too: uncorrectable memory error, illegal address, launch timeout,
# assert, hardware stack, illegal instruction, misaligned address, address space, program counter, launch failure.
_STICKY = (214, 700, 702, 710, 714, 715, 716, 717, 718, 719)


def synchronize_stream(handle: int) -> None:
    """Wait until everything queued on a stream is done."""
    check(_cudart().cudaStreamSynchronize(handle))


class Stream:
    """One CUDA stream.

    Args:
        apart: whether it is independent of the default stream, which others may use: neither waits for the other.
    """

    def __init__(self, apart: bool = False) -> None:
        cudart = _cudart()
        self.handle = int(check(cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking if apart else 0)))

    def synchronize(self) -> None:
        synchronize_stream(self.handle)

    def wait(self, event: Event) -> None:
        """Make everything that is queued from now on wait for the latest recording of an event."""
        check(_cudart().cudaStreamWaitEvent(self.handle, event.handle, 0))

    def close(self) -> None:
        if self.handle:
            handle, self.handle = self.handle, 0
            check(_cudart().cudaStreamDestroy(handle))


class Event:
    """A point in a stream that the host and other streams can wait for."""

    def __init__(self) -> None:
        cudart = _cudart()
        self.handle = int(check(cudart.cudaEventCreateWithFlags(cudart.cudaEventDisableTiming)))

    def record(self, stream: Stream) -> None:
        check(_cudart().cudaEventRecord(self.handle, stream.handle))

    def synchronize(self) -> None:
        """Wait on the host; return at once if it was never recorded."""
        check(_cudart().cudaEventSynchronize(self.handle))

    def close(self) -> None:
        if self.handle:
            handle, self.handle = self.handle, 0
            check(_cudart().cudaEventDestroy(handle))


class Graph:
    """Work on one stream, recorded once and then launched as a whole.

    Args:
        stream: the stream that the work is queued on.
        work: called once; it may only queue, neither wait nor allocate.

    Raises:
        EngineError: the work cannot be recorded; the stream is as it was before.
    """

    def __init__(self, stream: Stream, work: Callable[[], None]) -> None:
        cudart = _cudart()
        # Other threads may call CUDA freely during the recording.
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check(cudart.cudaStreamBeginCapture(stream.handle, mode))
        graph = None
        try:
            try:
                work()
            finally:  # always: the stream cannot be used until then
                ended = cudart.cudaStreamEndCapture(stream.handle)
                graph = ended[1]
            self._launchable = check(cudart.cudaGraphInstantiate(check(ended), 0))
        except EngineError:
            cudart.cudaGetLastError()  # clears the error, so that the next call does not report it again
            raise
        finally:
            if graph is not None and int(graph):
                cudart.cudaGraphDestroy(graph)

    def launch(self, stream: Stream) -> None:
        check(_cudart().cudaGraphLaunch(self._launchable, stream.handle))

    def close(self) -> None:
        if self._launchable is not None:
            launchable, self._launchable = self._launchable, None
            check(_cudart().cudaGraphExecDestroy(launchable))


class DeviceMemory:
    """Memory on the GPU.

    Attributes:
        address: a multiple of 256.
        nbytes: its size.

    Raises:
        EngineError: not enough memory is left.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = max(nbytes, 1)
        self.address = int(check(_cudart().cudaMalloc(self.nbytes)))

    def close(self) -> None:
        if self.address:
            address, self.address = self.address, 0
            check(_cudart().cudaFree(address))


class PinnedMemory:
    """Page-locked host memory, which the GPU reads and writes directly.

    Raises:
        EngineError: not enough memory is left.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = max(nbytes, 1)
        self.address = int(check(_cudart().cudaMallocHost(self.nbytes)))

    def view(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return its first bytes as an array; valid until it is closed."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if nbytes > self.nbytes:
            raise EngineError(f"a tensor of {nbytes} bytes does not fit a buffer of {self.nbytes}")
        raw = memoryview((ctypes.c_byte * nbytes).from_address(self.address))
        return np.frombuffer(raw, dtype=dtype).reshape(shape)

    def close(self) -> None:
        if self.address:
            address, self.address = self.address, 0
            check(_cudart().cudaFreeHost(address))


def upload(target: int, source: int, nbytes: int, stream: Stream) -> None:
    """Queue a copy from pinned memory to the device; like all copies, it takes addresses."""
    check(_cudart().cudaMemcpyAsync(target, source, nbytes, _kind("HostToDevice"), stream.handle))


def download(target: int, source: int, nbytes: int, stream: Stream) -> None:
    """Queue a copy from the device to pinned memory."""
    check(_cudart().cudaMemcpyAsync(target, source, nbytes, _kind("DeviceToHost"), stream.handle))


def copy_on_device(target: int, source: int, nbytes: int, stream: Stream) -> None:
    """Queue a copy from device memory to device memory."""
    check(_cudart().cudaMemcpyAsync(target, source, nbytes, _kind("DeviceToDevice"), stream.handle))


def _kind(direction: str) -> Any:
    return getattr(_cudart().cudaMemcpyKind, f"cudaMemcpy{direction}")


class DeviceBuffer:
    """Device memory with pinned host memory of the same size, so that copies are asynchronous.

    Raises:
        EngineError: no memory is left, on the device or on the host; nothing stays allocated.
    """

    def __init__(self, nbytes: int) -> None:
        self._memory = DeviceMemory(nbytes)
        try:
            self._pinned = PinnedMemory(nbytes)
        except BaseException:
            with suppress(EngineError):  # the first error is the one to report
                self._memory.close()
            raise

    @property
    def device(self) -> int:
        """Its address on the device."""
        return self._memory.address

    def view(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return the first bytes of the host memory as an array; valid until the buffer is closed."""
        return self._pinned.view(shape, dtype)

    def upload(self, nbytes: int, stream: Stream) -> None:
        upload(self._memory.address, self._pinned.address, nbytes, stream)

    def download(self, nbytes: int, stream: Stream) -> None:
        download(self._pinned.address, self._memory.address, nbytes, stream)

    def close(self) -> None:
        try:
            self._memory.close()
        finally:
            self._pinned.close()


def _cudart(extra: str = "gpu") -> Any:
    try:
        return require("cuda.bindings.runtime", extra, "running on a GPU")
    except MissingExtraError:
        raise
    except (ImportError, RuntimeError, OSError) as error:  # installed, but one of its libraries cannot be loaded
        raise EngineError(f"no usable GPU: cuda-python does not load ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _error_text(cudart: Any, status: Any) -> str:
    _, text = cudart.cudaGetErrorString(status)
    return text.decode() if isinstance(text, bytes) else str(text)
