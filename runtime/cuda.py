"""The CUDA driver as the runtime needs it: is there a usable GPU, and memory and streams through `cuda-python`."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from sdtc.errors import EngineError, MissingExtraError, require


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


def check(result: tuple[Any, ...]) -> Any:
    """Unpack what a `cuda.bindings.runtime` call returns.

    Raises:
        EngineError: the call failed; the error is named.
    """
    cudart = _cudart()
    status, *values = result
    if status != cudart.cudaError_t.cudaSuccess:
        raise EngineError(f"CUDA call failed: {_error_text(cudart, status)}")
    return values[0] if len(values) == 1 else tuple(values)


def synchronize_stream(handle: int) -> None:
    """Wait until everything queued on a stream is done."""
    check(_cudart().cudaStreamSynchronize(handle))


class Stream:
    """One CUDA stream; a context manager."""

    def __init__(self) -> None:
        self.handle = int(check(_cudart().cudaStreamCreate()))

    def synchronize(self) -> None:
        synchronize_stream(self.handle)

    def close(self) -> None:
        if self.handle:
            check(_cudart().cudaStreamDestroy(self.handle))
            self.handle = 0


class DeviceBuffer:
    """Device memory with a pinned host twin, so that copies are asynchronous.

    Raises:
        EngineError: no memory left, on the device or for the twin; nothing stays allocated.
    """

    def __init__(self, nbytes: int) -> None:
        cudart = _cudart()
        self.nbytes = max(nbytes, 1)
        self.device = int(check(cudart.cudaMalloc(self.nbytes)))
        try:
            self.host = int(check(cudart.cudaMallocHost(self.nbytes)))
        except BaseException:
            cudart.cudaFree(self.device)  # its own result is of no interest: the first error is the one to tell
            raise

    def view(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return the host twin's first bytes as an array; valid until the buffer is closed."""
        nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if nbytes > self.nbytes:
            raise EngineError(f"a tensor of {nbytes} bytes does not fit a buffer of {self.nbytes}")
        raw = memoryview((ctypes.c_byte * nbytes).from_address(self.host))
        return np.frombuffer(raw, dtype=dtype).reshape(shape)

    def upload(self, nbytes: int, stream: Stream) -> None:
        cudart = _cudart()
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        check(cudart.cudaMemcpyAsync(self.device, self.host, nbytes, kind, stream.handle))

    def download(self, nbytes: int, stream: Stream) -> None:
        cudart = _cudart()
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        check(cudart.cudaMemcpyAsync(self.host, self.device, nbytes, kind, stream.handle))

    def close(self) -> None:
        cudart = _cudart()
        if self.device:
            results = cudart.cudaFree(self.device), cudart.cudaFreeHost(self.host)  # both, whatever the first one says
            self.device = self.host = 0
            for result in results:
                check(result)


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
