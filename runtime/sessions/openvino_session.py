"""OpenVINO: often the fastest on an Intel CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sdtc.errors import EngineError, require
from sdtc.runtime.sessions import TensorSpec, check_inputs


class OpenVINOSession:
    """One ONNX graph on the CPU, in fp32 arithmetic unless told otherwise.

    OpenVINO's reader knows no model-local functions, so the bodies of the custom operators are put in their places
    in memory first.

    Raises:
        EngineError: OpenVINO cannot run the graph.
        MissingExtraError: openvino is not installed.
    """

    def __init__(self, path: Path, threads: int = 1, precision: str = "f32") -> None:
        ov = require("openvino", "openvino", "--backend openvino")
        onnx = require("onnx", "openvino", "--backend openvino")
        inliner = require("onnx.inliner", "openvino", "--backend openvino")
        core = ov.Core()
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise EngineError("this processor does not compute in bf16: leave out --bf16")
        try:
            graph = inliner.inline_local_functions(onnx.load(str(path))).SerializeToString()
            # Left to itself it computes in bf16 where the processor has it, and is no longer comparable.
            config = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
            model = core.read_model(graph)
            self._model = core.compile_model(model, "CPU", config)
        except Exception as error:
            raise EngineError(f"OpenVINO {ov.__version__} cannot run '{path}': {str(error)[-300:]}") from None
        plural = "s" if threads > 1 else ""
        self.backend = f"openvino {ov.__version__.split('-')[0]} (CPU, {threads} thread{plural}, {precision})"
        self.inputs = {port.get_any_name(): _spec(port) for port in self._model.inputs}
        self.outputs = {port.get_any_name(): _spec(port) for port in self._model.outputs}

    def run(self, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        check_inputs(self.inputs, inputs)
        try:
            results = self._model(dict(inputs))
        except Exception as error:
            raise EngineError(f"OpenVINO failed: {str(error)[-300:]}") from None
        return {name: np.array(results[name]) for name in self.outputs}

    def close(self) -> None:
        self._model = None

    def __enter__(self) -> OpenVINOSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _spec(port: Any) -> TensorSpec:
    shape = tuple(None if side.is_dynamic else side.get_length() for side in port.get_partial_shape())
    return TensorSpec(shape, np.dtype(port.get_element_type().to_dtype()))
