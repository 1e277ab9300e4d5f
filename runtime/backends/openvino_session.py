"""OpenVINO: often the fastest on a CPU, and the one that computes in bf16 and int8 there."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sdtc.core.errors import EngineError, require
from sdtc.runtime.backends.quantize import GROUP, quantize_weights
from sdtc.runtime.backends.session import TensorSpec, check_inputs

# In two threads at once, OpenVINO's bindings can wait for Python's lock and for each other for ever.
_OPENING = threading.Lock()


class OpenVINOSession:
    """One ONNX graph on the CPU.

    OpenVINO's reader knows no model-local functions, so the bodies of the custom operators are put in their places
    in memory first.

    Args:
        path: the graph.
        threads: of the CPU.
        precision: ``"fp32"``; ``"bf16"``; or ``"int8"``, products with weights in int8 and the rest in bf16 where the
            processor has it, else in fp32.

    Raises:
        EngineError: OpenVINO cannot run the graph, or the processor has not that precision.
        MissingExtraError: openvino is not installed.
    """

    def __init__(self, path: Path, threads: int = 1, precision: str = "fp32") -> None:
        with _OPENING:
            self._open(path, threads, precision)

    def _open(self, path: Path, threads: int, precision: str) -> None:
        ov = require("openvino", "openvino", "`backend='openvino'`")
        core = _core()
        onnx = require("onnx", "openvino", "`backend='openvino'`")
        inliner = require("onnx.inliner", "openvino", "`backend='openvino'`")
        able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision != "fp32" and precision.upper() not in able:
            raise EngineError(f"this processor does not compute in {precision}: leave out `precision='{precision}'`")
        # Left to itself it computes in bf16 where the processor has it, and is no longer comparable.
        hint = "bf16" if precision != "fp32" and "BF16" in able else "f32"
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
        try:
            graph = inliner.inline_local_functions(onnx.load(str(path)))
            if precision == "int8":
                quantize_weights(graph)
                config["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = GROUP
            self._model = core.compile_model(core.read_model(graph.SerializeToString()), "CPU", config)
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


@functools.cache
def _core() -> Any:
    """Return the one `openvino.Core` of this process.

    Each Core gives its thread a stack for signal handlers, and takes it away when the last model of that Core is gone.
    Of two that go in the order in which they came, the second puts the first one's stack back, which is no more: the
    next signal that Python handles (Ctrl-C, a child's end) then kills the process. A Core that stays takes none away.
    """
    return require("openvino", "openvino", "`backend='openvino'`").Core()


def _spec(port: Any) -> TensorSpec:
    shape = tuple(None if side.is_dynamic else side.get_length() for side in port.get_partial_shape())
    return TensorSpec(shape, np.dtype(port.get_element_type().to_dtype()))
