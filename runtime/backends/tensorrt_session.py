"""TensorRT and TensorRT-RTX: one module, since their runtime interfaces agree.

The batch size is dynamic; memory comes from `cuda-python`. `run` takes arrays and waits for the result; `lane` is for
callers that keep everything on the GPU and only queue work. Version and GPU are compared with the manifest before the
engine is loaded, because TensorRT's own message names neither.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from sdtc.core.errors import EngineError, OutputError, require
from sdtc.core.files import atomic_write, cache_folder, make_directory
from sdtc.core.manifest import EngineInfo
from sdtc.runtime.backends.cuda import DeviceBuffer, DeviceMemory, Gpu, Stream, find_gpu, synchronize_stream
from sdtc.runtime.backends.session import CLOSED, TensorSpec, check_inputs

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_MAX_CACHE_BYTES = 1 << 30
EXTRAS = {"tensorrt": "gpu", "tensorrt-rtx": "gpu-rtx"}  # extras of this package that install the runtime


def check_compatible(info: EngineInfo, installed_version: str, gpu: Gpu) -> None:
    """Check that an engine fits the installed version and this GPU.

    Both flavours' engines are tied to the version that built them. A TensorRT-RTX engine runs on the compute
    capabilities that it was built for; a TensorRT engine on the one of the GPU that built it.

    Raises:
        EngineError: the version or the GPU differs; the message names both sides.
    """
    if installed_version.split(".")[:3] != info.version.split(".")[:3]:
        raise EngineError(
            f"the engine was built by {info.flavour} {info.version}, installed is {installed_version}: "
            f"run  pip install '{info.flavour}=={info.version}',  export the checkpoint again here, or use "
            "`device='cpu'`"
        )
    if gpu.compute_capability not in info.compute_capabilities:
        # Full TensorRT builds for the GPU at hand; only TensorRT-RTX can build for others.
        again = f"with `compute_capabilities={gpu.compute_capability}`" if info.flavour == "tensorrt-rtx" else "here"
        raise EngineError(
            f"the engine was built for compute capability {', '.join(info.compute_capabilities)}, this GPU "
            f"({gpu.name}) has {gpu.compute_capability}: export again {again}, or use `device='cpu'`"
        )


class TensorRTSession:
    """One engine on one GPU.

    Args:
        path: the ``.plan`` file, with its hash already checked.
        info: the manifest's description of the engine.

    Attributes:
        batch_range: by input, the smallest and the largest batch that the engine takes.
        gpu: the GPU that it runs on.
        own_graphs: whether it makes CUDA graphs of its own, and must not be recorded into others.

    Raises:
        EngineError: there is no GPU, version or GPU differ, memory is full, or TensorRT cannot load the file.
        MissingExtraError: the flavour of TensorRT is not installed.
    """

    def __init__(self, path: Path, info: EngineInfo) -> None:
        extra = EXTRAS[info.flavour]
        gpu = find_gpu(extra)  # before TensorRT, which reports a missing driver by a mere number
        trt = require(MODULES[info.flavour], extra, f"a {info.flavour} engine (or use `device='cpu'`)")
        check_compatible(info, trt.__version__, gpu)
        self.backend = f"{info.flavour} {trt.__version__} ({gpu.name})"
        self.gpu = gpu
        self.own_graphs = info.flavour == "tensorrt-rtx"
        self.inputs: dict[str, TensorSpec] = {}
        self.outputs: dict[str, TensorSpec] = {}
        self.batch_range: dict[str, tuple[int, int]] = {}
        self._buffers: dict[str, DeviceBuffer] = {}
        self._lock = threading.Lock()  # one set of buffers: one run at a time
        self._profiles: list[tuple[int, int]] = []  # smallest and largest batch of each
        self._contexts: dict[int, Any] = {}  # of `run`, by profile
        self._memory = ExitStack()  # stream and buffers, released in any case
        try:
            self._start(trt, path, info, gpu)
        except BaseException:
            with suppress(EngineError):  # the first error is the one to report
                self.close()
            raise

    def _start(self, trt: Any, path: Path, info: EngineInfo, gpu: Gpu) -> None:
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)
        plan = path.read_bytes()
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(
                f"{info.flavour} {trt.__version__} cannot load '{path}' (built by {info.version} for compute "
                f"capability {', '.join(info.compute_capabilities)}; this GPU has {gpu.compute_capability}): "
                "export again here"
            )
        # All contexts of the engine, of all profiles, use the same memory, one after the other.
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._working = DeviceMemory(self._engine.device_memory_size_v2)
        self._memory.callback(self._working.close)
        self._config: Any = strategy
        if self.own_graphs:
            self._configure(trt, strategy, hashlib.sha256(plan).hexdigest(), gpu)
        self._stream = Stream()
        self._memory.callback(self._stream.close)
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            shape = tuple(None if side < 0 else int(side) for side in self._engine.get_tensor_shape(name))
            spec = TensorSpec(shape, np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))))
            if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                self.inputs[name] = spec
                count = self._engine.num_optimization_profiles
                shapes = [self._engine.get_tensor_profile_shape(name, profile) for profile in range(count)]
                self._profiles = [(int(smallest[0]), int(largest[0])) for smallest, _, largest in shapes]
                self.batch_range[name] = min(low for low, _ in self._profiles), max(high for _, high in self._profiles)
                self._allocate(name, (self.batch_range[name][1], *shapes[0][2][1:]), spec)
            else:
                self.outputs[name] = spec
        for name, spec in self.outputs.items():  # the batch of an output is at most the input's
            batch = max(largest for _, largest in self.batch_range.values())
            self._allocate(name, tuple(batch if side is None else side for side in spec.shape), spec)
        self._contexts[0] = self._new_context(0)

    def _configure(self, trt: Any, strategy: Any, digest: str, gpu: Gpu) -> None:
        """Let TensorRT-RTX make its own CUDA graphs, and cache what it compiles for this GPU."""
        self._config = self._engine.create_runtime_config()
        self._config.set_execution_context_allocation_strategy(strategy)
        self._config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        path = cache_folder("tensorrt-rtx") / f"{digest[:32]}-{re.sub('[^A-Za-z0-9]+', '-', gpu.name)}.bin"
        cache = self._config.create_runtime_cache()
        known = path.read_bytes() if path.is_file() and path.stat().st_size <= _MAX_CACHE_BYTES else b""
        if known:
            cache.deserialize(known)  # TensorRT-RTX checks the content, and ignores it if it does not fit
        self._config.set_runtime_cache(cache)

        def save() -> None:
            content = cache.serialize()
            compiled = b"" if content is None else bytes(memoryview(content))
            if compiled and compiled != known:
                with suppress(OutputError, OSError):  # it only makes the next start faster
                    make_directory(path.parent)
                    with atomic_write(path) as temporary:
                        temporary.write_bytes(compiled)

        self._memory.callback(save)

    def _profile_for(self, batch: int) -> int:
        """Return the profile for a batch that the engine takes: the one that is tuned for the fewest that it takes."""
        fitting = [number for number, (low, high) in enumerate(self._profiles) if low <= batch <= high]
        return min(fitting, key=lambda number: self._profiles[number][1])

    def _new_context(self, profile: int) -> Any:
        context = self._engine.create_execution_context(self._config)
        if context is None:
            raise EngineError(f"{self.backend} could not create an execution context: is GPU memory full?")
        context.set_device_memory(self._working.address, self._working.nbytes)
        if len(self._profiles) > 1:
            if not context.set_optimization_profile_async(profile, self._stream.handle):
                raise EngineError(f"{self.backend} refuses profile {profile} of the engine: its log above says why")
            self._stream.synchronize()
        return context

    def address(self, name: str) -> int:
        """Return the device address where a lane reads an input, or writes an output."""
        return self._buffers[name].device

    def lane(self, batch: int) -> Callable[[Stream], None]:
        """Prepare runs of one batch size, from and to the device memory at `address`.

        A context must not change after a CUDA graph has recorded it, so every size has its own. All of them, and `run`,
        share the same memory: queue one at a time.

        Returns:
            A function that queues a run on a stream.

        Raises:
            EngineError: the engine does not take the batch size, or TensorRT fails; also raised by the function.
        """
        for name in self.inputs:
            self._check_batch(name, batch)
        context = self._new_context(self._profile_for(batch))
        for name, spec in self.inputs.items():
            _set_shape(context, name, (batch, *(side or 0 for side in spec.shape[1:])))
        for name, buffer in self._buffers.items():
            _set_address(context, name, buffer.device)
        return lambda stream: _execute(context, stream)

    def run(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        if set(inputs) != set(self.inputs):
            raise EngineError(f"inputs are {sorted(inputs)}: the graph takes {sorted(self.inputs)}")
        with self._lock:
            return self._run(inputs, list(self.outputs) if outputs is None else outputs)

    def _run(self, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        if not self._contexts:
            raise EngineError(CLOSED)
        shapes = {name: self._check(name, value) for name, value in inputs.items()}
        profile = self._profile_for(max(shape[0] for shape in shapes.values()))
        if profile not in self._contexts:
            self._contexts[profile] = self._new_context(profile)
        context = self._contexts[profile]
        for name, value in inputs.items():
            _set_shape(context, name, shapes[name])
            _set_address(context, name, self._place(name, value))
        for name in self.outputs:
            _set_address(context, name, self._buffers[name].device)
        _execute(context, self._stream)
        results = {}
        for name in outputs:
            shape = tuple(int(side) for side in context.get_tensor_shape(name))
            results[name] = self._buffers[name].view(shape, self.outputs[name].dtype)
            self._buffers[name].download(results[name].nbytes, self._stream)
        self._stream.synchronize()
        return {name: array.copy() for name, array in results.items()}  # the next run reuses the buffers

    def close(self) -> None:
        with self._lock:
            self._contexts.clear()
            try:
                self._memory.close()
            finally:
                self._config = self._engine = self._runtime = None
                self._buffers.clear()

    def __enter__(self) -> TensorRTSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _allocate(self, name: str, shape: tuple[int, ...], spec: TensorSpec) -> None:
        buffer = DeviceBuffer(int(np.prod(shape, dtype=np.int64)) * spec.dtype.itemsize)
        self._memory.callback(buffer.close)
        self._buffers[name] = buffer

    def _check_batch(self, name: str, batch: int) -> None:
        smallest, largest = self.batch_range[name]
        if not smallest <= batch <= largest:
            raise EngineError(f"input '{name}' has batch {batch}, the engine takes {smallest} to {largest}")

    def _check(self, name: str, value: Any) -> tuple[int, ...]:
        """Check an array, on the host or on the device, and return its shape."""
        spec = self.inputs[name]
        interface = getattr(value, "__cuda_array_interface__", None)
        if interface is not None:
            shape, dtype = tuple(int(side) for side in interface["shape"]), np.dtype(interface["typestr"])
            check_inputs({name: spec}, {name: SimpleNamespace(shape=shape, dtype=dtype)})
            if not is_contiguous(shape, interface.get("strides"), dtype.itemsize):
                raise EngineError(f"input '{name}' on the GPU is not contiguous: make it contiguous first")
        else:
            check_inputs({name: spec}, {name: value})
            shape = tuple(value.shape)
        self._check_batch(name, shape[0])
        return shape

    def _place(self, name: str, value: Any) -> int:
        """Return the device address of a checked array, which is copied there if it is on the host."""
        interface = getattr(value, "__cuda_array_interface__", None)
        if interface is not None:
            if interface.get("stream"):  # its writer may not have finished
                synchronize_stream(int(interface["stream"]))
            return int(interface["data"][0])
        buffer = self._buffers[name]
        buffer.view(tuple(value.shape), self.inputs[name].dtype)[...] = value
        buffer.upload(value.nbytes, self._stream)
        return buffer.device


def _set_shape(context: Any, name: str, shape: tuple[int, ...]) -> None:
    if not context.set_input_shape(name, shape):
        raise EngineError(f"input '{name}' of shape {list(shape)} does not fit the engine's profile")


def _set_address(context: Any, name: str, address: int) -> None:
    if not context.set_tensor_address(name, address):
        raise EngineError(f"TensorRT refuses the memory of tensor '{name}': its log above says why")


def _execute(context: Any, stream: Stream) -> None:
    if not context.execute_async_v3(stream.handle):
        raise EngineError("TensorRT failed to run the engine: its log above says why")


def is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None, itemsize: int) -> bool:
    """Whether an array is in C order without gaps: strides of None mean that, PyCUDA gives explicit ones."""
    if strides is None:
        return True
    step = itemsize
    for side, stride in zip(reversed(shape), reversed(strides), strict=True):
        if side != 1 and stride != step:  # the stride of an axis of length 1 is never used
            return False
        step *= side
    return True
