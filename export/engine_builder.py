"""ONNX to TensorRT engine, in either flavour.

TensorRT-RTX (`tensorrt-rtx`) builds without a GPU, for any compute capabilities it knows. Full TensorRT builds on a
GPU, for that GPU. Networks are strongly typed in both: the ONNX graph decides the precision.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx

from sdtc.core.errors import ExportError, InputError, KernelError, require
from sdtc.core.files import atomic_write
from sdtc.core.manifest import FLAVOURS as ENGINE_FLAVOURS
from sdtc.core.manifest import EngineInfo
from sdtc.kernels.common.onnx_node import DOMAIN
from sdtc.kernels.operators.self_refinement import CONTEXT_AXES
from sdtc.model.config import ModelConfig
from sdtc.runtime.backends.cuda import gpu_or_reason
from sdtc.runtime.backends.tensorrt_session import MODULES

FLAVOURS = ("auto", *ENGINE_FLAVOURS)
# Operators that can be plugins, by the name that users know. `on` is all of them, `auto` temporal attention alone, for
# which TensorRT has no fusion of its own: what the others are worth beside TensorRT's has not been measured.
PLUGINS = {
    "temporal_attention": "TemporalAttention",
    "spatial_attention": "SpatialAttention",
    "self_refinement": "SelfRefinement",
    "cross_attention": "CrossAttention",
}
_SETS: dict[str, tuple[str, ...]] = {"auto": ("TemporalAttention",), "on": tuple(PLUGINS.values()), "off": ()}
# Extras that install the builder: full TensorRT builds on the GPU that it builds for, TensorRT-RTX builds anywhere.
_EXTRAS = {"tensorrt": "gpu", "tensorrt-rtx": "export"}
# TensorRT-RTX has neither fp32 nor bf16 products for Turing (7.5), which is therefore not among the defaults.
DEFAULT_CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")


@dataclass(frozen=True)
class Target:
    """What engines are built with, and for which GPUs."""

    flavour: str
    version: str
    compute_capabilities: tuple[str, ...]

    def info(self, plugin_layers: tuple[str, ...] = ()) -> EngineInfo:
        return EngineInfo(self.flavour, self.version, self.compute_capabilities, plugin_layers)


def find_target(flavour: str = "auto", compute_capabilities: tuple[str, ...] = ()) -> Target:
    """Choose a flavour and the GPUs to build for.

    ``auto`` is full TensorRT if it is installed and a GPU is usable, else TensorRT-RTX. If no compute capabilities are
    given, the engines are for this machine's GPU, or for `DEFAULT_CAPABILITIES` if there is none.

    Raises:
        InputError: there is no such flavour, or it cannot build for these GPUs.
        MissingExtraError: the flavour is not installed.
    """
    if flavour not in FLAVOURS:
        raise InputError(f"`flavour` is '{flavour}': expected one of {', '.join(FLAVOURS)}")
    gpu, why_not = gpu_or_reason()
    if flavour == "auto":
        full = gpu is not None and find_spec("tensorrt") is not None
        flavour = "tensorrt" if full else "tensorrt-rtx"
    if flavour == "tensorrt":
        trt = require(MODULES[flavour], _EXTRAS[flavour], "`flavour='tensorrt'`")
        if gpu is None:
            raise InputError(
                f"`flavour='tensorrt'` builds on a GPU ({why_not}): use `flavour='tensorrt-rtx'` or `plan=False`"
            )
        if compute_capabilities and compute_capabilities != (gpu.compute_capability,):
            raise InputError(
                f"`flavour='tensorrt'` builds for this GPU's compute capability, {gpu.compute_capability}: "
                f"for {', '.join(compute_capabilities)} use `flavour='tensorrt-rtx'`, or export on such a GPU"
            )
        return Target(flavour, trt.__version__, (gpu.compute_capability,))
    trt = require(MODULES[flavour], _EXTRAS[flavour], "building an engine (or use `plan=False`)")
    known = _known_capabilities(trt)
    chosen = compute_capabilities or ((gpu.compute_capability,) if gpu else DEFAULT_CAPABILITIES)
    for capability in chosen:
        if capability not in known:
            raise InputError(
                f"{flavour} {trt.__version__} cannot build for compute capability {capability}: it knows "
                f"{', '.join(known)}; data-centre Hopper and Blackwell need `flavour='tensorrt'`"
            )
    return Target(flavour, trt.__version__, chosen)


@dataclass(frozen=True)
class Plugins:
    """The plugins of an engine.

    Attributes:
        operators: names of the ONNX operators that are plugins.
        required: whether all of them must be in the engine.
    """

    operators: tuple[str, ...] = ()
    required: bool = False


def check_plugins(choice: str, target: Target | None) -> Plugins:
    """Check the choice of plugins, before any work is done.

    Args:
        choice: ``"auto"``, ``"on"``, ``"off"``, or some of `PLUGINS` with commas between them.
        target: from `find_target`; None if no engine is built.

    Returns:
        What is asked for.

    Raises:
        InputError: there is no such choice, or plugins are requested where they are not possible.
        MissingExtraError: Triton is not installed.
    """
    names = dict.fromkeys(name.strip() for name in choice.split(","))
    if choice in _SETS:
        operators = _SETS[choice]
    elif set(names) <= set(PLUGINS):
        operators = tuple(PLUGINS[name] for name in names)
    else:
        raise InputError(
            f"`plugins` is '{choice}': expected one of {', '.join(_SETS)}, or some of {', '.join(PLUGINS)} with commas "
            "between them"
        )
    wanted = Plugins(operators, required=bool(operators) and choice != "auto")
    if not wanted.required:
        return wanted
    if target is None:
        raise InputError(
            f"`plugins='{choice}'` puts kernels into engines, and `plan=False` builds none: leave one of them out"
        )
    if target.flavour != "tensorrt":
        raise InputError(
            f"`plugins='{choice}'` needs full TensorRT, {target.flavour} takes no plugins: add `flavour='tensorrt'` on "
            "a machine with a GPU, or leave `plugins` out"
        )
    require("triton", "kernels", f"`plugins='{choice}'`")
    return wanted


def use_plugins(wanted: Plugins, target: Target | None, config: ModelConfig) -> Plugins:
    """Decide whether engines get the kernels of `sdtc.kernels` as plugins; if so, register them.

    Args:
        wanted, target: from `check_plugins`, and what it was given.
        config: of the network.

    Returns:
        `wanted`, or no plugins where they are not required and not possible.

    Raises:
        KernelError: they are required, and the kernels do not support the network or the GPU.
    """
    if not wanted.operators or target is None or target.flavour != "tensorrt" or find_spec("triton") is None:
        return Plugins()
    from sdtc.kernels import plugins

    (capability,) = target.compute_capabilities
    try:
        number = int(capability.replace(".", ""))
        axis = CONTEXT_AXES[config.context_softmax]
        sizes = config.num_frames, config.token_shape[0], config.width, config.heads
        plugins.check(wanted.operators, *sizes, axis, number)
        plugins.register(number, wanted.operators)
    except (KernelError, ImportError):
        if wanted.required:
            raise
        return Plugins()
    return wanted


def build_engine(
    onnx_path: Path,
    plan_path: Path,
    target: Target,
    input_name: str,
    profiles: Sequence[tuple[tuple[int, ...], ...]],
    plugins: Plugins | None = None,
) -> tuple[str, ...]:
    """Build one engine.

    Args:
        onnx_path: the graph.
        plan_path: where to write the engine, atomically.
        target: from `find_target`.
        input_name: the graph's one input.
        profiles: its smallest, most common and largest shape in each profile, for which the engine is tuned.
        plugins: registered ones, to take in place of the bodies of custom operators, see `use_plugins`; default: none.

    Returns:
        The names of the layers that are plugins.

    Raises:
        ExportError: TensorRT failed, and its first error is quoted; or requested plugins are missing.
    """
    trt = require(MODULES[target.flavour], _EXTRAS[target.flavour], "building an engine")
    if target.flavour == "tensorrt-rtx" and _plugins_are_registered():
        raise ExportError("this process has registered plugins, on which tensorrt-rtx aborts: export in a new process")
    logger = _make_logger(trt)
    builder = trt.Builder(logger)
    flags = trt.NetworkDefinitionCreationFlag
    plugins = plugins or Plugins()
    chosen = [flags.STRONGLY_TYPED, *([flags.PREFER_AOT_PYTHON_PLUGINS] if plugins.operators else [])]
    network = builder.create_network(sum(1 << int(flag) for flag in chosen))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(onnx_path.read_bytes()):
        raise ExportError(
            f"{target.flavour} {target.version} cannot read {onnx_path.name}: {parser.get_error(0).desc()}"
        )
    config = builder.create_builder_config()
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        profile.set_shape(input_name, *shapes)
        config.add_optimization_profile(profile)
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 must not silently become TF32
    if plugins.operators:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # so that the inspector reports layer types
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
    layers: tuple[str, ...] = ()
    if plugins.operators:
        nodes = custom_nodes(onnx_path, plugins.operators)
        layers = plugin_layers(_inspect(trt, logger, plan), nodes)
        if plugins.required and len(layers) < len(nodes):
            raise ExportError(
                f"{target.flavour} {target.version} put {len(layers)} of {len(nodes)} plugins into the engine of "
                f"{onnx_path.name}, and took the operators' bodies for the others: use `plugins='auto'` or off"
            )
    with atomic_write(plan_path) as temporary:
        temporary.write_bytes(memoryview(plan))
    return layers


def _plugins_are_registered() -> bool:
    module = sys.modules.get("sdtc.kernels.plugins")
    return module is not None and module.are_registered()


def _inspect(trt: Any, logger: Any, plan: Any) -> str:
    """Return the engine inspector's JSON: the parser does not say when it takes a body instead of a plugin."""
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise ExportError(f"the engine cannot be loaded to look for its plugins: {' '.join(logger.errors[:1])}")
    return engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)


def plugin_layers(information: str, nodes: Collection[str]) -> tuple[str, ...]:
    """Return the names of the layers that are plugins of this package.

    Args:
        information: the engine inspector's JSON.
        nodes: names of the graph's custom nodes, which the names of their layers contain. TensorRT has plugins of its
            own, which are not counted.
    """
    layers = [layer for layer in json.loads(information).get("Layers", []) if isinstance(layer, dict)]
    plugins = [str(layer.get("Name", "")) for layer in layers if "plugin" in str(layer.get("LayerType", "")).lower()]
    return tuple(name for name in plugins if any(node in name for node in nodes))


def custom_nodes(onnx_path: Path, operators: Collection[str]) -> list[str]:
    """Return the names of a graph's nodes of some custom operators."""
    graph = onnx.load(onnx_path, load_external_data=False).graph
    return [node.name for node in graph.node if node.domain == DOMAIN and node.op_type in operators]


def _known_capabilities(trt: Any) -> dict[str, Any]:
    """Map ``"8.6"`` to the library's constant, for all compute capabilities that it knows."""
    return {
        f"{name[2:-1]}.{name[-1]}": value
        for name, value in trt.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }


def _make_logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        """Keeps errors for the message instead of printing them: without a GPU even a good build logs some."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()
