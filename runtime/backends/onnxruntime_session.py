"""ONNX Runtime: the backend that runs everywhere, also on embedded devices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdtc.core.errors import EngineError, require
from sdtc.runtime.backends.session import CLOSED, TensorSpec, check_inputs

_DTYPES: dict[str, np.dtype] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(uint8)": np.dtype(np.uint8),
}


def cuda_problem() -> str:
    """Return why the installed ONNX Runtime cannot use a GPU, or "".

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    ort = require("onnxruntime", "gpu", "running an ONNX graph on a GPU")
    if "CUDAExecutionProvider" in ort.get_available_providers():
        return ""
    # The two packages install the same files: with both installed, neither works.
    return "this onnxruntime has no CUDA: run  pip uninstall onnxruntime  and then  pip install 'sdtc[gpu]'"


class OnnxRuntimeSession:
    """One ONNX graph on the CPU or, where onnxruntime-gpu is installed, on CUDA.

    Raises:
        EngineError: the file is not an ONNX graph that ONNX Runtime can run here.
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(self, path: Path, device: str = "cpu", threads: int = 1) -> None:
        if device == "cuda" and (problem := cuda_problem()):
            raise EngineError(f"{problem}; or use `device='cpu'`")
        ort = require("onnxruntime", "cpu", "running an ONNX graph")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        # Threads that spin while they wait for work take processor time from decoding and detection.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors only: its warnings are about its own optimiser
        providers = ["CPUExecutionProvider"]
        if device == "cuda":
            providers.insert(0, "CUDAExecutionProvider")
        try:
            self._session = ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions have no common base of their own
            raise EngineError(f"ONNX Runtime {ort.__version__} cannot run '{path}': {_first_line(error)}") from None
        if device == "cuda" and self._session.get_providers()[0] != "CUDAExecutionProvider":
            raise EngineError("ONNX Runtime could not start CUDA: check the driver, or use `device='cpu'`")
        where = "CUDA" if device == "cuda" else f"CPU, {threads} thread{'s' if threads > 1 else ''}"
        self.backend = f"onnxruntime {ort.__version__} ({where})"
        self.inputs = {tensor.name: _spec(tensor, path) for tensor in self._session.get_inputs()}
        self.outputs = {tensor.name: _spec(tensor, path) for tensor in self._session.get_outputs()}

    def run(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        check_inputs(self.inputs, inputs)
        session = self._session
        if session is None:
            raise EngineError(CLOSED)
        try:
            values = session.run(outputs, dict(inputs))
        except Exception as error:
            raise EngineError(f"ONNX Runtime failed: {_first_line(error)}") from None
        return dict(zip(outputs or self.outputs, values, strict=True))

    def close(self) -> None:
        self._session = None

    def __enter__(self) -> OnnxRuntimeSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _spec(tensor: Any, path: Path) -> TensorSpec:
    if tensor.type not in _DTYPES:
        raise EngineError(f"'{path}' has a tensor '{tensor.name}' of type {tensor.type}, which is not supported")
    shape = tuple(side if isinstance(side, int) else None for side in tensor.shape)
    return TensorSpec(shape, _DTYPES[tensor.type])


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:300]
