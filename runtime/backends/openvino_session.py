"""OpenVINO: often the fastest backend on a CPU, and the only one for bf16 and int8 there."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sdtc.core.errors import EngineError, require
from sdtc.runtime.backends.pool import Pool
from sdtc.runtime.backends.quantize import GROUP, quantize_weights
from sdtc.runtime.backends.session import CLOSED, TensorSpec, check_inputs

# Opening graphs in two threads at once can deadlock: the bindings wait for Python's lock and for each other.
_OPENING = threading.Lock()


class OpenVINOSession:
    """One ONNX graph on the CPU.

    OpenVINO does not read model-local functions, so the custom operators are first replaced by their bodies, in memory.

    Args:
        path: the graph.
        threads: CPU threads.
        precision: ``"fp32"``; ``"bf16"``; or ``"int8"``: products with weights in int8, and the rest in bf16 if the
            processor supports it, else in fp32.

    Raises:
        EngineError: OpenVINO cannot run the graph, or the processor does not support the precision.
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
        # By default it computes in bf16 if the processor supports it, and results are no longer comparable.
        hint = "bf16" if precision != "fp32" and "BF16" in able else "f32"
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads}
        try:
            graph = inliner.inline_local_functions(onnx.load(str(path)))
            if precision == "int8":
                quantize_weights(graph)
                config["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = GROUP
            self._model = core.compile_model(core.read_model(graph.SerializeToString()), "CPU", config)
            self._requests: Pool[Any] | None = Pool(self._model.create_infer_request)
        except Exception as error:
            raise EngineError(f"OpenVINO {ov.__version__} cannot run '{path}': {str(error)[-300:]}") from None
        plural = "s" if threads > 1 else ""
        self.backend = f"openvino {ov.__version__.split('-')[0]} (CPU, {threads} thread{plural}, {precision})"
        self.inputs = {port.get_any_name(): _spec(port) for port in self._model.inputs}
        self.outputs = {port.get_any_name(): _spec(port) for port in self._model.outputs}

    def run(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        check_inputs(self.inputs, inputs)
        requests = self._requests
        if requests is None:
            raise EngineError(CLOSED)
        with requests.lend() as request:  # it holds inputs and outputs: two threads must not share one
            try:
                results = request.infer(dict(inputs), share_inputs=True, share_outputs=True)
            except Exception as error:
                raise EngineError(f"OpenVINO failed: {str(error)[-300:]}") from None
            return {name: np.array(results[name]) for name in outputs or self.outputs}

    def close(self) -> None:
        self._requests = self._model = None

    def __enter__(self) -> OpenVINOSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@functools.cache
def _core() -> Any:
    """Return the one `openvino.Core` of this process.

    Each Core installs a stack for signal handlers in its thread, and restores the previous stack when its last model is
    released. If two Cores are released in the order of their creation, the second one restores the first one's stack,
    which no longer exists: the next signal that Python handles (Ctrl-C, the end of a child process) then kills the
    process. A Core that is never released restores nothing.
    """
    return require("openvino", "openvino", "`backend='openvino'`").Core()


def _spec(port: Any) -> TensorSpec:
    shape = tuple(None if side.is_dynamic else side.get_length() for side in port.get_partial_shape())
    return TensorSpec(shape, np.dtype(port.get_element_type().to_dtype()))
