"""The engine bundle: export, comparison and engines in one go, handed over only when all of it is right."""

# ruff: noqa: E402

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sdtc.core.errors import BundleError, ExportError, InputError, OutputError, require

# Here and not in the package, so that the command's --help needs none of them.
for _module in ("torch", "onnx", "onnxscript"):
    require(_module, "export", "sdtc.export")
require("onnxruntime", "cpu", "sdtc.export")  # what is exported is run before anyone gets it

import numpy as np
from onnx import ModelProto

from sdtc.core.command_line import say
from sdtc.core.files import make_directory, sha256
from sdtc.core.manifest import EngineInfo, GraphFiles, Manifest
from sdtc.export import device_kernels, engine_builder, graphs, verify
from sdtc.export.engine_builder import Target
from sdtc.export.graphs import GraphSpec
from sdtc.export.verify import Parity
from sdtc.model.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from sdtc.model.network import PoseNetwork
from sdtc.runtime.backends.choice import available_cpus
from sdtc.runtime.backends.cuda import gpu_or_reason
from sdtc.runtime.backends.onnxruntime_session import OnnxRuntimeSession
from sdtc.runtime.backends.session import Session

FILE_STEMS = {"model": "model", "encoder": "model.encoder", "temporal": "model.temporal"}
KERNELS = "model.kernels.json"


def export(
    checkpoint: Path,
    output: Path,
    precision: str = "fp32",
    batch: tuple[int, int, int] = (1, 4, 16),
    flavour: str = "auto",
    compute_capabilities: tuple[str, ...] = (),
    plan: bool = True,
    plugins: str = "auto",
    verify_on: Path | None = None,
    quiet: bool = False,
) -> Path:
    """Write the engine bundle of a checkpoint.

    Args:
        checkpoint: ours or a whole ViTPose.
        output: folder; a bundle that is there already is replaced only when the new one is complete and right.
        precision: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        batch: smallest, most common and largest number of windows at once.
        flavour: ``"auto"``, ``"tensorrt"`` or ``"tensorrt-rtx"``.
        compute_capabilities: GPUs to build for, e.g. ``("8.6", "8.9")``; a sensible set if empty.
        plan: build engines.
        plugins: put the Triton kernels into the engines, ``"auto"``, ``"on"`` or ``"off"``: full TensorRT takes them.
        verify_on: a video or image folder whose frames join the comparison; rendered people if not given.
        quiet: print nothing.

    Returns:
        Path of the manifest.

    Raises:
        SdtcError: bad input, a refusal of a tool, or a difference beyond its tolerance.
    """
    steps = _Steps(quiet)
    make_directory(output)
    _protect_foreign_files(output, find_checkpoint(checkpoint))
    target = engine_builder.find_target(flavour, compute_capabilities) if plan else None
    engine_builder.check_plugins(plugins, target)
    with steps.step(f"read {checkpoint}") as note:
        source = load_checkpoint(checkpoint)
        untrained = "" if source.trained else ", UNTRAINED: its poses mean nothing"
        note(f"{source.network.config.name}, {source.format}{untrained}")
    network = source.network
    if network.config.motion == "optical_flow":
        raise ExportError(
            f"checkpoint '{checkpoint}' has model.motion 'optical_flow', Table 4's baseline, whose flow OpenCV "
            "computes: it runs in PyTorch only (sdtc-eval --checkpoint); export a network with 'mlsme'"
        )
    specs = graphs.graph_specs(network.config)
    if not engine_builder.use_plugins(plugins, target, network.config):
        plugins = "off"

    with _workspace(output) as work:
        crops = verify.clip_crops(network.config, verify_on)
        plugin_layers: tuple[str, ...] = ()
        parity = _export_and_verify(work, specs, network, precision, batch[2], crops, steps)
        figures = parity.figures()
        figures["onnx_vs_pytorch"]["frames"] = f"noise and {verify_on.name if verify_on else 'rendered people'}"
        if target is not None:
            plugin_layers = _build_engines(work, specs, target, batch, plugins, steps)
            with steps.step(f"compile {KERNELS}") as note:
                size, shape = network.config.input_size, network.config.token_shape
                note(device_kernels.write_kernels(work / KERNELS, size, shape, target.compute_capabilities))
            gpu, _ = gpu_or_reason()
            if gpu is not None and gpu.compute_capability in target.compute_capabilities:
                figures["engine_vs_pytorch"] = _verify_engine(work, target, network, precision, parity, crops, steps)
        info = target.info(plugin_layers) if target else None
        _hand_over(work, _describe(work, source, precision, batch, info, figures), output)

    steps.say(f"bundle: {output / 'model.json'}")
    steps.say(f"next:   sdtc-infer --engine {output / ('model.plan' if plan else 'model.onnx')} --input VIDEO")
    return output / "model.json"


def _export_and_verify(
    work: Path,
    specs: dict[str, GraphSpec],
    network: PoseNetwork,
    precision: str,
    max_batch: int,
    crops: np.ndarray,
    steps: _Steps,
) -> Parity:
    prepared = graphs.prepare(network, precision)
    with ExitStack() as stack:
        sessions: dict[str, Session] = {}
        for name, spec in specs.items():
            path = work / f"{FILE_STEMS[name]}.onnx"
            with steps.step(f"export {path.name}") as note:
                model = graphs.export_graph(prepared, spec)
                path.write_bytes(model.SerializeToString())
                note(f"{path.stat().st_size / 1e6:.1f} MB, opset {graphs.OPSET}")
                sessions[name] = stack.enter_context(_session(path, model, precision))
        with steps.step("verify against PyTorch") as note:
            parity = verify.verify(network, prepared, sessions, max_batch, crops)
            parity.check(precision)
            note(f"{parity.onnx_vs_pytorch.windows} windows")
    steps.table(parity)
    return parity


def _session(path: Path, model: ModelProto, precision: str) -> Session:
    """Open what a user's CPU would run; for bf16 a stand-in that computes in fp32."""
    if precision != "bf16":
        return OnnxRuntimeSession(path, threads=available_cpus())
    stand_in = path.with_suffix(".float32-arithmetic")
    stand_in.write_bytes(verify.float32_arithmetic(model).SerializeToString())
    try:
        return OnnxRuntimeSession(stand_in, threads=available_cpus())
    finally:
        stand_in.unlink()


def _build_engines(
    work: Path,
    specs: dict[str, GraphSpec],
    target: Target,
    batch: tuple[int, int, int],
    plugins: str,
    steps: _Steps,
) -> tuple[str, ...]:
    """Build the engines of all graphs; return their plugin layers, as "graph: layer"."""
    found: list[str] = []
    for name, spec in specs.items():
        plan = work / f"{FILE_STEMS[name]}.plan"
        # A single new frame is the encoder's smallest batch, whatever the smallest number of windows is.
        smallest = 1 if name == "encoder" else batch[0]
        counts = (smallest, batch[1] * spec.frames_per_item, batch[2] * spec.frames_per_item)
        with steps.step(f"build {plan.name}") as note:
            shapes = tuple((count, *spec.shape) for count in counts)
            layers = engine_builder.build_engine(plan.with_suffix(".onnx"), plan, target, spec.input, shapes, plugins)
            found += [f"{name}: {layer}" for layer in layers]
            capabilities = ", ".join(target.compute_capabilities)
            size = f"{plan.stat().st_size / 1e6:.1f} MB" + (f", {len(layers)} plugins" if plugins != "off" else "")
            note(f"{target.flavour} {target.version} for {capabilities}; {size}")
    return tuple(found)


def _verify_engine(
    work: Path,
    target: Target,
    network: PoseNetwork,
    precision: str,
    parity: Parity,
    crops: np.ndarray,
    steps: _Steps,
) -> dict:
    """Run the engines on this GPU and gate on the differences; return the figures for the manifest."""
    from sdtc.runtime.backends.tensorrt_session import TensorRTSession

    with steps.step("verify the engines on this GPU") as note:
        with ExitStack() as stack:
            opened = {
                name: stack.enter_context(TensorRTSession(work / f"{stem}.plan", target.info()))
                for name, stem in FILE_STEMS.items()
            }
            (batch,) = opened["model"].batch_range.values()
            sessions: dict[str, Session] = dict(opened)
            window, streaming = verify.verify_engine(network, sessions, batch, crops)
        verify.check_engine("the engine against PyTorch", window, precision, parity)
        verify.check_engine("the streaming pair of engines against the whole window", streaming, precision, parity)
        note(f"heatmaps {window.heatmaps:.1e}, keypoints {window.keypoints:.4f} px")
    return window.figures() | {"streaming_vs_window": streaming.figures()}


def _describe(
    work: Path,
    source: Checkpoint,
    precision: str,
    batch: tuple[int, int, int],
    info: EngineInfo | None,
    figures: dict[str, dict],
) -> Manifest:
    return dataclasses.replace(
        source.describe(batch, precision, graphs.OPSET),
        graphs={
            name: GraphFiles(f"{stem}.onnx", f"{stem}.plan" if info else None) for name, stem in FILE_STEMS.items()
        },
        files={path.name: sha256(path) for path in sorted(work.iterdir())},
        engine=info,
        kernels=KERNELS if (work / KERNELS).exists() else None,
        parity=figures,
    )


def _protect_foreign_files(output: Path, checkpoint: Path) -> None:
    """Refuse to write over files that no export has written.

    Raises:
        InputError: a file of a bundle's name is there without, or as, a manifest that is none.
    """
    names = ["model.json", KERNELS, *(f"{stem}.{kind}" for stem in FILE_STEMS.values() for kind in ("onnx", "plan"))]
    there = [output / name for name in names if (output / name).exists()]
    if not there:
        return
    reason = "holds files of the names that a bundle has"
    try:
        files = {"model.json", *Manifest.load(output / "model.json").files}
        ours = [path for path in there if path.name in files]
        if ours == there and not (checkpoint.exists() and any(path.samefile(checkpoint) for path in there)):
            return
    except BundleError:
        reason = "holds files of the names that a bundle has, but no bundle"
    raise InputError(
        f"the folder '{output}' {reason} ({there[0].name}): choose another with --output, or move them away"
    )


@contextmanager
def _workspace(output: Path) -> Iterator[Path]:
    """Yield a folder inside the output, on the same file system, that is gone afterwards whatever happens."""
    try:
        work = Path(tempfile.mkdtemp(prefix=".sdtc-export-", dir=output))
    except OSError as error:
        raise OutputError(f"cannot write to the folder '{output}': {error.strerror}") from None
    try:
        yield work
    except OSError as error:
        raise OutputError(f"cannot write the bundle to '{output}': {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _hand_over(work: Path, manifest: Manifest, output: Path) -> None:
    """Move finished files into place: the old manifest goes first and the new one comes last.

    So at every moment either a manifest matches its files, or there is none.
    """
    (output / "model.json").unlink(missing_ok=True)
    for name in (KERNELS, *(f"{stem}.plan" for stem in FILE_STEMS.values())):  # an old one must not outlive its bundle
        (output / name).unlink(missing_ok=True)
    for name in manifest.files:
        os.replace(work / name, output / name)
    manifest.save(output / "model.json")


class _Steps:
    """One line a step: what, how long, and what came of it."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet

    def say(self, text: str) -> None:
        say(text, quiet=self.quiet)

    @contextmanager
    def step(self, what: str) -> Iterator[Callable[[str], None]]:
        """Time a block; what it notes is printed behind its time."""
        say(f"{what:<34} ", end="", quiet=self.quiet)
        notes: list[str] = []
        start = time.perf_counter()
        try:
            yield notes.append
        except BaseException:
            self.say("failed")
            raise
        self.say(f"{time.perf_counter() - start:6.1f} s  {' '.join(notes)}")

    def table(self, parity: Parity) -> None:
        """Print the figures of a verification."""
        self.say(f"  {'':<24}{'heatmaps':>12}{'relative':>12}{'keypoints':>14}{'undecided':>11}")
        for name, figures in parity.figures().items():
            self.say(
                f"  {name.replace('_vs_', ' vs ').replace('_', ' '):<24}{figures['heatmaps_max_abs']:>12.2e}"
                f"{figures['heatmaps_max_relative']:>12.2e}{figures['keypoints_max_px']:>11.5f} px"
                f"{figures['undecided_joints']:>11}"
            )
