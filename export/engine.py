"""ONNX to TensorRT engine, in either flavour.

TensorRT-RTX (`tensorrt-rtx`) builds without a GPU, for any compute capabilities it knows. Full TensorRT builds on a
GPU, for that GPU. Networks are strongly typed in both: precision is what the ONNX says.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sdtc.errors import ExportError, InputError, require
from sdtc.files import atomic_write
from sdtc.manifest import FLAVOURS as ENGINE_FLAVOURS
from sdtc.manifest import EngineInfo
from sdtc.runtime.cuda import gpu_or_reason
from sdtc.runtime.sessions.tensorrt_session import MODULES

FLAVOURS = ("auto", *ENGINE_FLAVOURS)
# What brings a builder: full TensorRT belongs to the GPU that it builds on, TensorRT-RTX builds anywhere.
_EXTRAS = {"tensorrt": "gpu", "tensorrt-rtx": "export"}
# Turing (7.5) has neither fp32 nor bf16 products in TensorRT-RTX, and is built for only when asked.
DEFAULT_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")


@dataclass(frozen=True)
class Target:
    """What engines are built with and for."""

    flavour: str
    version: str
    compute_capabilities: tuple[str, ...]

    def info(self) -> EngineInfo:
        return EngineInfo(self.flavour, self.version, self.compute_capabilities)


def find_target(flavour: str = "auto", compute_capabilities: tuple[str, ...] = ()) -> Target:
    """Choose a flavour and its targets.

    ``auto`` is full TensorRT where it is installed and a GPU is usable, else TensorRT-RTX.

    Raises:
        InputError: there is no such flavour, or it cannot build for what was asked.
        MissingExtraError: the flavour is not installed.
    """
    if flavour not in FLAVOURS:
        raise InputError(f"--flavour is '{flavour}': expected one of {', '.join(FLAVOURS)}")
    gpu, why_not = gpu_or_reason()
    if flavour == "auto":
        full = gpu is not None and find_spec("tensorrt") is not None
        flavour = "tensorrt" if full else "tensorrt-rtx"
    if flavour == "tensorrt":
        trt = require(MODULES[flavour], _EXTRAS[flavour], "--flavour tensorrt")
        if gpu is None:
            raise InputError(f"--flavour tensorrt builds on a GPU ({why_not}): use --flavour tensorrt-rtx or --no-plan")
        if compute_capabilities and compute_capabilities != (gpu.compute_capability,):
            raise InputError(
                f"--flavour tensorrt builds for this GPU's compute capability, {gpu.compute_capability}: "
                f"for {', '.join(compute_capabilities)} use --flavour tensorrt-rtx, or export on such a GPU"
            )
        return Target(flavour, trt.__version__, (gpu.compute_capability,))
    trt = require(MODULES[flavour], _EXTRAS[flavour], "building an engine (or use --no-plan)")
    known = _known_capabilities(trt)
    chosen = compute_capabilities or ((gpu.compute_capability,) if gpu else DEFAULT_CAPABILITIES)
    for capability in chosen:
        if capability not in known:
            raise InputError(
                f"{flavour} {trt.__version__} cannot build for compute capability {capability}: it knows "
                f"{', '.join(known)}; data-centre Hopper and Blackwell need --flavour tensorrt"
            )
    return Target(flavour, trt.__version__, chosen)


def build_engine(
    onnx_path: Path, plan_path: Path, target: Target, input_name: str, shapes: tuple[tuple[int, ...], ...]
) -> None:
    """Build one engine.

    Args:
        onnx_path: the graph.
        plan_path: where to write the engine, atomically.
        target: from `find_target`.
        input_name: the graph's one input.
        shapes: its smallest, most common and largest shape.

    Raises:
        ExportError: TensorRT refused; its own first error is quoted.
    """
    trt = require(MODULES[target.flavour], _EXTRAS[target.flavour], "building an engine")
    logger = _make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx_path.read_bytes()):
        raise ExportError(
            f"{target.flavour} {target.version} cannot read {onnx_path.name}: {parser.get_error(0).desc()}"
        )
    profile = builder.create_optimization_profile()
    profile.set_shape(input_name, *shapes)
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    config.clear_flag(trt.BuilderFlag.TF32)  # whoever asks for fp32 gets fp32
    if target.flavour == "tensorrt-rtx":
        config.num_compute_capabilities = len(target.compute_capabilities)
        for index, capability in enumerate(target.compute_capabilities):
            config.set_compute_capability(_known_capabilities(trt)[capability], index)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        reason = next((text for text in logger.errors if "cudaError 35" not in text), "it gives no reason")
        raise ExportError(
            f"{target.flavour} {target.version} cannot build {onnx_path.name} for compute capability "
            f"{', '.join(target.compute_capabilities)}: {reason}"
        )
    with atomic_write(plan_path) as temporary:
        temporary.write_bytes(memoryview(plan))


def _known_capabilities(trt: Any) -> dict[str, Any]:
    """Map ``"8.6"`` to the library's own constant, for all that it knows."""
    return {
        f"{name[2:-1]}.{name[-1]}": value
        for name, value in trt.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }


def _make_logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        """Keeps errors for the message instead of printing: without a GPU even a good build logs some."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()
