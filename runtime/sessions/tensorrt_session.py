"""TensorRT and TensorRT-RTX: one module, since their runtime interfaces agree.

Dynamic batch, one stream, `cuda-python` for memory. Both version and GPU are compared with the manifest before the
engine is touched, because TensorRT's own message names neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from sdtc.errors import EngineError, require
from sdtc.manifest import EngineInfo
from sdtc.runtime.cuda import DeviceBuffer, Gpu, Stream, find_gpu, synchronize_stream
from sdtc.runtime.sessions import TensorSpec, check_inputs

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
EXTRAS = {"tensorrt": "gpu", "tensorrt-rtx": "gpu-rtx"}  # of this package, that bring what runs an engine


def check_compatible(info: EngineInfo, installed_version: str, gpu: Gpu) -> None:
    """Compare what an engine was built by and for with what is here.

    Both flavours' engines are tied to the version that built them. A TensorRT-RTX engine runs on the compute
    capabilities that it names; a TensorRT engine on the one that it was built on.

    Raises:
        EngineError: another version or another GPU; both sides are named.
    """
    if installed_version.split(".")[:3] != info.version.split(".")[:3]:
        raise EngineError(
            f"the engine was built by {info.flavour} {info.version}, installed is {installed_version}: "
            f"run  pip install '{info.flavour}=={info.version}',  export the checkpoint again here, or use --device cpu"
        )
    if gpu.compute_capability not in info.compute_capabilities:
        # Full TensorRT builds for the GPU that it sees; only TensorRT-RTX can be told.
        again = f"with --compute-capability {gpu.compute_capability}" if info.flavour == "tensorrt-rtx" else "here"
        raise EngineError(
            f"the engine was built for compute capability {', '.join(info.compute_capabilities)}, this GPU "
            f"({gpu.name}) has {gpu.compute_capability}: export again {again}, or use --device cpu"
        )


class TensorRTSession:
    """One engine on one GPU and one stream.

    Args:
        path: the ``.plan`` file, its hash already checked.
        info: the manifest's description of the engine.

    Attributes:
        batch_range: by input, the smallest and the largest batch of the engine's profile.

    Raises:
        EngineError: no GPU, another version, another GPU, no memory, or TensorRT refuses the file.
        MissingExtraError: the flavour of TensorRT is not installed.
    """

    def __init__(self, path: Path, info: EngineInfo) -> None:
        extra = EXTRAS[info.flavour]
        gpu = find_gpu(extra)  # before TensorRT is asked: without a driver it fails with a bare number
        trt = require(MODULES[info.flavour], extra, f"a {info.flavour} engine (or use --device cpu)")
        check_compatible(info, trt.__version__, gpu)
        self.backend = f"{info.flavour} {trt.__version__} ({gpu.name})"
        self.inputs: dict[str, TensorSpec] = {}
        self.outputs: dict[str, TensorSpec] = {}
        self.batch_range: dict[str, tuple[int, int]] = {}
        self._buffers: dict[str, DeviceBuffer] = {}
        self._memory = ExitStack()  # stream and buffers, to be given back in any case
        try:
            self._start(trt, path, info, gpu)
        except BaseException:
            with suppress(EngineError):  # what went wrong first is what to tell
                self.close()
            raise

    def _start(self, trt: Any, path: Path, info: EngineInfo, gpu: Gpu) -> None:
        self._logger = trt.Logger(trt.Logger.ERROR)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise EngineError(
                f"{info.flavour} {trt.__version__} cannot load '{path}' (built by {info.version} for compute "
                f"capability {', '.join(info.compute_capabilities)}; this GPU has {gpu.compute_capability}): "
                "export again here"
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"{info.flavour} could not create an execution context for '{path}': is GPU memory full?")
        self._stream = Stream()
        self._memory.callback(self._stream.close)
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            shape = tuple(None if side < 0 else int(side) for side in self._engine.get_tensor_shape(name))
            spec = TensorSpec(shape, np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))))
            if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                self.inputs[name] = spec
                smallest, _, largest = self._engine.get_tensor_profile_shape(name, 0)
                self.batch_range[name] = (int(smallest[0]), int(largest[0]))
                self._allocate(name, tuple(largest), spec)
            else:
                self.outputs[name] = spec
        for name, spec in self.outputs.items():  # every output's batch axis is the input's, or smaller
            batch = max(largest for _, largest in self.batch_range.values())
            self._allocate(name, tuple(batch if side is None else side for side in spec.shape), spec)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        if set(inputs) != set(self.inputs):
            raise EngineError(f"inputs are {sorted(inputs)}: the graph takes {sorted(self.inputs)}")
        for name, value in inputs.items():
            self._set_input(name, value)
        for name in self.outputs:
            self._set_address(name, self._buffers[name].device)
        if not self._context.execute_async_v3(self._stream.handle):
            raise EngineError("TensorRT failed to run the engine: its log above says why")
        results = {}
        for name, spec in self.outputs.items():
            shape = tuple(int(side) for side in self._context.get_tensor_shape(name))
            results[name] = self._buffers[name].view(shape, spec.dtype)
            self._buffers[name].download(results[name].nbytes, self._stream)
        self._stream.synchronize()
        return {name: array.copy() for name, array in results.items()}  # the buffers are used again

    def close(self) -> None:
        self._context = self._engine = self._runtime = None
        self._buffers.clear()
        self._memory.close()

    def __enter__(self) -> TensorRTSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _allocate(self, name: str, shape: tuple[int, ...], spec: TensorSpec) -> None:
        buffer = DeviceBuffer(int(np.prod(shape, dtype=np.int64)) * spec.dtype.itemsize)
        self._memory.callback(buffer.close)
        self._buffers[name] = buffer

    def _set_input(self, name: str, value: Any) -> None:
        """Check an array, on the host or on the device, and make it the input of the next run."""
        spec = self.inputs[name]
        interface = getattr(value, "__cuda_array_interface__", None)
        if interface is not None:
            shape, dtype = tuple(int(side) for side in interface["shape"]), np.dtype(interface["typestr"])
            check_inputs({name: spec}, {name: SimpleNamespace(shape=shape, dtype=dtype)})
            if not _is_contiguous(shape, interface.get("strides"), dtype.itemsize):
                raise EngineError(f"input '{name}' lies on the GPU with gaps or transposed: make it contiguous first")
        else:
            check_inputs({name: spec}, {name: value})
            shape = tuple(value.shape)
        smallest, largest = self.batch_range[name]
        if not smallest <= shape[0] <= largest:
            raise EngineError(f"input '{name}' has batch {shape[0]}, the engine takes {smallest} to {largest}")
        if interface is not None:
            address = int(interface["data"][0])
            if interface.get("stream"):  # whoever wrote it may not have finished
                synchronize_stream(int(interface["stream"]))
        else:
            buffer = self._buffers[name]
            address = buffer.device
            buffer.view(shape, spec.dtype)[...] = value
            buffer.upload(value.nbytes, self._stream)
        if not self._context.set_input_shape(name, shape):
            raise EngineError(f"input '{name}' of shape {list(shape)} does not fit the engine's profile")
        self._set_address(name, address)

    def _set_address(self, name: str, address: int) -> None:
        if not self._context.set_tensor_address(name, address):
            raise EngineError(f"TensorRT refuses the memory of tensor '{name}': its log above says why")


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None, itemsize: int) -> bool:
    """Whether an array lies in C order without gaps; None says so itself, PyCUDA spells the strides out."""
    if strides is None:
        return True
    step = itemsize
    for side, stride in zip(reversed(shape), reversed(strides), strict=True):
        if side != 1 and stride != step:  # along an axis of length 1 nothing is ever stepped over
            return False
        step *= side
    return True
