"""The CUDA driver as the runtime needs it: is there a usable GPU, and memory, streams and graphs through `cuda-python`.

What runs on a stream is `sdtc.runtime.backends.cuda_kernel`' and the sessions' business.
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
        extra: the extra of this package that whoever asks would install for it.

    Raises:
        EngineError: there is none, with the reason in words.
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
    """Make the GPU's primary context, in which TensorRT and the runtime API work, the calling thread's."""
    check(_cudart().cudaSetDevice(0))


def check(result: tuple[Any, ...]) -> Any:
    """Unpack what a `cuda.bindings.runtime` call returns.

    Raises:
        EngineError: the call failed; the error is named.
    """
    cudart = _cudart()
    status, *values = result
    if status != cudart.cudaError_t.cudaSuccess:
        raise EngineError(explain(status.value, _error_text(cudart, status)))
    return values[0] if len(values) == 1 else tuple(values)


def explain(code: int, text: str) -> str:
    """Return a sentence on a failed call.

    Args:
        code: of the runtime API or the driver API, which number their errors alike.
        text: CUDA's own words.
    """
    if code == _OUT_OF_MEMORY:
        return (
            f"the GPU's memory is full ({text}): close what else runs on it, or export the checkpoint with a smaller "
            "`batch`"
        )
    if code in _STICKY:
        return (
            f"the GPU stopped in the middle ({text}), and nothing more runs on it in this process: start again, and "
            "use `device='cpu'` if it comes back"
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
        apart: it does not wait for the default stream, on which others may work, nor that one for it.
    """

    def __init__(self, apart: bool = False) -> None:
        cudart = _cudart()
        self.handle = int(check(cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking if apart else 0)))

    def synchronize(self) -> None:
        synchronize_stream(self.handle)

    def wait(self, event: Event) -> None:
        """Let everything queued from now on wait for an event, as it was recorded last."""
        check(_cudart().cudaStreamWaitEvent(self.handle, event.handle, 0))

    def close(self) -> None:
        if self.handle:
            handle, self.handle = self.handle, 0
            check(_cudart().cudaStreamDestroy(handle))


class Event:
    """A point in a stream that others can wait for."""

    def __init__(self) -> None:
        cudart = _cudart()
        self.handle = int(check(cudart.cudaEventCreateWithFlags(cudart.cudaEventDisableTiming)))

    def record(self, stream: Stream) -> None:
        check(_cudart().cudaEventRecord(self.handle, stream.handle))

    def synchronize(self) -> None:
        """Wait on the host; at once if it was never recorded."""
        check(_cudart().cudaEventSynchronize(self.handle))

    def close(self) -> None:
        if self.handle:
            handle, self.handle = self.handle, 0
            check(_cudart().cudaEventDestroy(handle))


class Graph:
    """Work of one stream, recorded once, that is launched again as a whole.

    Args:
        stream: where the work queues itself.
        work: called once; it may only queue, neither wait nor allocate.

    Raises:
        EngineError: the work cannot be recorded; the stream is as it was before.
    """

    def __init__(self, stream: Stream, work: Callable[[], None]) -> None:
        cudart = _cudart()
        # Other threads may do what they like meanwhile.
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check(cudart.cudaStreamBeginCapture(stream.handle, mode))
        graph = None
        try:
            try:
                work()
            finally:  # in any case: until then the stream is of no use
                ended = cudart.cudaStreamEndCapture(stream.handle)
                graph = ended[1]
            self._launchable = check(cudart.cudaGraphInstantiate(check(ended), 0))
        except EngineError:
            cudart.cudaGetLastError()  # it is told already, and is not to be told again of the next call
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
        EngineError: there is not so much left.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = max(nbytes, 1)
        self.address = int(check(_cudart().cudaMalloc(self.nbytes)))

    def close(self) -> None:
        if self.address:
            address, self.address = self.address, 0
            check(_cudart().cudaFree(address))


class PinnedMemory:
    """Memory of the host that the GPU copies from and to on its own.

    Raises:
        EngineError: there is not so much left.
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
    """Queue a copy from pinned memory to the device; all copies take addresses."""
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
    """Device memory with a pinned host twin, so that copies are asynchronous.

    Raises:
        EngineError: no memory left, on the device or for the twin; nothing stays allocated.
    """

    def __init__(self, nbytes: int) -> None:
        self._memory = DeviceMemory(nbytes)
        try:
            self._twin = PinnedMemory(nbytes)
        except BaseException:
            with suppress(EngineError):  # the first error is the one to tell
                self._memory.close()
            raise

    @property
    def device(self) -> int:
        """Its address on the device."""
        return self._memory.address

    def view(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return the host twin's first bytes as an array; valid until the buffer is closed."""
        return self._twin.view(shape, dtype)

    def upload(self, nbytes: int, stream: Stream) -> None:
        upload(self._memory.address, self._twin.address, nbytes, stream)

    def download(self, nbytes: int, stream: Stream) -> None:
        download(self._twin.address, self._memory.address, nbytes, stream)

    def close(self) -> None:
        try:
            self._memory.close()
        finally:
            self._twin.close()


def _cudart(extra: str = "gpu") -> Any:
    try:
        return require("cuda.bindings.runtime", extra, "running on a GPU")
    except MissingExtraError:
        raise
    except (ImportError, RuntimeError, OSError) as error:  # installed, but one of its libraries does not load
        raise EngineError(f"no usable GPU: cuda-python does not load ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _error_text(cudart: Any, status: Any) -> str:
    _, text = cudart.cudaGetErrorString(status)
    return text.decode() if isinstance(text, bytes) else str(text)
