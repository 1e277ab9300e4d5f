"""TensorRT and TensorRT-RTX: one module, since their runtime interfaces agree.

Dynamic batch, one stream, `cuda-python` for memory. Both version and GPU are compared with the manifest before the
engine is touched, because TensorRT's own message names neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sdtc.errors import EngineError, require
from sdtc.manifest import EngineInfo
from sdtc.runtime.cuda import DeviceBuffer, Gpu, Stream, find_gpu, synchronize_stream
from sdtc.runtime.sessions import TensorSpec, check_inputs

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}


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
            f"run  pip install '{info.flavour}=={info.version}'  or export the checkpoint again here"
        )
    if gpu.compute_capability not in info.compute_capabilities:
        raise EngineError(
            f"the engine was built for compute capability {', '.join(info.compute_capabilities)}, this GPU "
            f"({gpu.name}) has {gpu.compute_capability}: export again with "
            f"--compute-capability {gpu.compute_capability}"
        )


class TensorRTSession:
    """One engine on one GPU and one stream.

    Args:
        path: the ``.plan`` file, its hash already checked.
        info: the manifest's description of the engine.

    Attributes:
        max_batch: by input, the largest batch of the engine's profile.

    Raises:
        EngineError: no GPU, another version, another GPU, or TensorRT refuses the file.
        MissingExtraError: the flavour of TensorRT is not installed.
    """

    def __init__(self, path: Path, info: EngineInfo) -> None:
        gpu = find_gpu()  # before TensorRT is asked: without a driver it fails with a bare number
        extra = "gpu" if info.flavour == "tensorrt" else "export"
        trt = require(MODULES[info.flavour], extra, f"a {info.flavour} engine")
        check_compatible(info, trt.__version__, gpu)
        self._buffers: dict[str, DeviceBuffer] = {}
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
        self.backend = f"{info.flavour} {trt.__version__} ({gpu.name})"
        self.inputs: dict[str, TensorSpec] = {}
        self.outputs: dict[str, TensorSpec] = {}
        self.max_batch: dict[str, int] = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            shape = tuple(None if side < 0 else int(side) for side in self._engine.get_tensor_shape(name))
            spec = TensorSpec(shape, np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))))
            if self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
                self.inputs[name] = spec
                _, _, largest = self._engine.get_tensor_profile_shape(name, 0)
                self.max_batch[name] = int(largest[0])
                self._allocate(name, tuple(largest), spec)
            else:
                self.outputs[name] = spec
        for name, spec in self.outputs.items():  # every output's batch axis is the input's, or smaller
            batch = max(self.max_batch.values())
            self._allocate(name, tuple(batch if side is None else side for side in spec.shape), spec)

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        if set(inputs) != set(self.inputs):
            raise EngineError(f"inputs are {sorted(inputs)}: the graph takes {sorted(self.inputs)}")
        for name, value in inputs.items():
            self._set_input(name, value)
        for name in self.outputs:
            self._context.set_tensor_address(name, self._buffers[name].device)
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
        for buffer in self._buffers.values():
            buffer.close()
        self._buffers.clear()
        self._context = self._engine = self._runtime = None
        self._stream.close()

    def __enter__(self) -> TensorRTSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _allocate(self, name: str, shape: tuple[int, ...], spec: TensorSpec) -> None:
        self._buffers[name] = DeviceBuffer(int(np.prod(shape, dtype=np.int64)) * spec.dtype.itemsize)

    def _set_input(self, name: str, value: Any) -> None:
        interface = getattr(value, "__cuda_array_interface__", None)
        if interface is not None:
            shape, address = tuple(interface["shape"]), int(interface["data"][0])
            if interface.get("stream"):  # whoever wrote it may not have finished
                synchronize_stream(int(interface["stream"]))
            if interface.get("strides") is not None:
                raise EngineError(f"input '{name}' lies on the GPU with strides: make it contiguous first")
            if np.dtype(interface["typestr"]) != self.inputs[name].dtype:
                raise EngineError(f"input '{name}' is {interface['typestr']}: expected {self.inputs[name].dtype}")
        else:
            check_inputs({name: self.inputs[name]}, {name: value})
            shape, address = tuple(value.shape), self._buffers[name].device
        if shape[0] > self.max_batch[name]:
            raise EngineError(f"input '{name}' has batch {shape[0]}, the engine takes up to {self.max_batch[name]}")
        if interface is None:
            buffer = self._buffers[name]
            buffer.view(shape, self.inputs[name].dtype)[...] = value
            buffer.upload(value.nbytes, self._stream)
        if not self._context.set_input_shape(name, shape):
            raise EngineError(f"input '{name}' of shape {list(shape)} does not fit the engine's profile")
        self._context.set_tensor_address(name, address)
