"""Export of an engine bundle: graphs, verification and engines, handed over only when all of it is complete."""

# ruff: noqa: E402

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sdtc.core.errors import BundleError, ExportError, InputError, OutputError, require

# Here and not in the package, so that the command's --help needs none of them.
for _module in ("torch", "onnx", "onnxscript"):
    require(_module, "export", "sdtc.export")
require("onnxruntime", "cpu", "sdtc.export")  # exported graphs are run before they are handed over

from onnx import ModelProto

from sdtc.core.command_line import say
from sdtc.core.files import make_directory, sha256
from sdtc.core.manifest import EngineInfo, GraphFiles, Manifest
from sdtc.export import device_kernels, engine_builder, graphs, verify
from sdtc.export.engine_builder import Plugins, Target
from sdtc.export.verify import Parity
from sdtc.model.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from sdtc.runtime.backends.choice import available_cpus
from sdtc.runtime.backends.cuda import gpu_or_reason
from sdtc.runtime.backends.onnxruntime_session import OnnxRuntimeSession
from sdtc.runtime.backends.session import Session

FILE_STEMS = {"model": "model", "encoder": "model.encoder", "temporal": "model.temporal"}
KERNELS = "model.kernels.json"


@dataclass(frozen=True)
class ExportOptions:
    """How a checkpoint is exported.

    Attributes:
        precision: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        batch: smallest, most common and largest number of windows per batch.
        flavour: ``"auto"``, ``"tensorrt"`` or ``"tensorrt-rtx"``.
        compute_capabilities: GPUs to build for, e.g. ``("8.6", "8.9")``; see `engine_builder.find_target` if empty.
        plan: build TensorRT engines.
        plugins: the Triton kernels that full TensorRT's engines get: ``"auto"``, ``"on"``, ``"off"``, or operators of
            `engine_builder.PLUGINS` with commas between them.
        verify_on: a video or image folder whose frames are also compared; rendered people if not given.
    """

    precision: str = "fp32"
    batch: tuple[int, int, int] = (1, 4, 16)
    flavour: str = "auto"
    compute_capabilities: tuple[str, ...] = ()
    plan: bool = True
    plugins: str = "auto"
    verify_on: Path | None = None


def export(checkpoint: Path, output: Path, options: ExportOptions | None = None, quiet: bool = False) -> Path:
    """Write the engine bundle of a checkpoint.

    Args:
        checkpoint: sdtc's own or a whole ViTPose.
        output: folder; an older bundle in it is replaced only when the new one is complete and verified.
        options: see `ExportOptions`; its defaults if not given.
        quiet: print nothing.

    Returns:
        Path of the manifest.

    Raises:
        SdtcError: the input is unusable, a tool failed, or a difference exceeds its tolerance.
    """
    options = options or ExportOptions()
    steps = _Steps(quiet)
    make_directory(output)
    _protect_foreign_files(output, find_checkpoint(checkpoint))
    target = engine_builder.find_target(options.flavour, options.compute_capabilities) if options.plan else None
    plugins = engine_builder.check_plugins(options.plugins, target)
    with steps.step(f"read {checkpoint}") as note:
        source = load_checkpoint(checkpoint)
        untrained = "" if source.trained else ", UNTRAINED: its poses mean nothing"
        note(f"{source.network.config.name}, {source.format}{untrained}")
    config = source.network.config
    if config.motion == "optical_flow":
        raise ExportError(
            f"checkpoint '{checkpoint}' has model.motion 'optical_flow', Table 4's baseline, whose flow OpenCV "
            "computes: it runs in PyTorch only; evaluate it with sdtc-eval, or export a network with 'mlsme'"
        )
    plugins = engine_builder.use_plugins(plugins, target, config)

    with _workspace(output) as work:
        _BundleExport(work, source, options, target, plugins, steps).write(output)
    steps.say(f"bundle: {output / 'model.json'}")
    if options.precision == "fp32" and target is not None:
        steps.say(
            "note:   fp32 engines leave a GPU's tensor cores unused; --precision bf16 or fp16 uses them, and prints "
            "what that costs in accuracy"
        )
    engine = output / ("model.plan" if options.plan else "model.onnx")
    steps.say(f"next:   sdtc-infer --engine {engine} --input VIDEO")
    return output / "model.json"


def encoder_profiles(most: int) -> list[tuple[int, int, int]]:
    """Return the smallest, most common and largest batch of each profile of the encoder's engine.

    A stream encodes one frame of each person at a time, whatever the number of windows is: of one person, of a few, or
    as many frames as a whole batch of new windows has.

    Args:
        most: the largest batch.
    """
    return [(1, size, size) for size in sorted({1, min(8, most), most})]


class _BundleExport:
    """One export: its graphs, their verification, engines and kernels, each in a method.

    Args:
        work: folder for the files until they are handed over.
        source: the checkpoint.
        options: of the export.
        target: of the engines; None to build none.
        plugins: registered ones, for the engines.
        steps: prints the progress.
    """

    def __init__(
        self,
        work: Path,
        source: Checkpoint,
        options: ExportOptions,
        target: Target | None,
        plugins: Plugins,
        steps: _Steps,
    ) -> None:
        self.work, self.source, self.options, self.target, self.steps = work, source, options, target, steps
        self.plugins = plugins
        self.network = source.network
        self.specs = graphs.graph_specs(self.network.config)
        self.crops = verify.clip_crops(self.network.config, options.verify_on)

    def write(self, output: Path) -> None:
        """Make the bundle and hand it over."""
        parity = self.export_graphs()
        figures = parity.figures()
        verify_on = self.options.verify_on
        figures["onnx_vs_pytorch"]["frames"] = f"noise and {verify_on.name if verify_on else 'rendered people'}"
        info = None
        if self.target is not None:
            info = self.target.info(self.build_engines(self.target))
            with self.steps.step(f"compile {KERNELS}") as note:
                config, capabilities = self.network.config, self.target.compute_capabilities
                note(
                    device_kernels.write_kernels(
                        self.work / KERNELS, config.input_size, config.token_shape, config.grid, capabilities
                    )
                )
            gpu, _ = gpu_or_reason()
            if gpu is not None and gpu.compute_capability in self.target.compute_capabilities:
                figures["engine_vs_pytorch"] = self.verify_engines(self.target, parity)
        _hand_over(self.work, self.describe(info, figures), output)

    def export_graphs(self) -> Parity:
        """Export all graphs, and check their difference from PyTorch."""
        precision, steps = self.options.precision, self.steps
        prepared = graphs.prepare(self.network, precision)
        with ExitStack() as stack:
            sessions: dict[str, Session] = {}
            for name, spec in self.specs.items():
                path = self.work / f"{FILE_STEMS[name]}.onnx"
                with steps.step(f"export {path.name}") as note:
                    model = graphs.export_graph(prepared, spec)
                    path.write_bytes(model.SerializeToString())
                    note(f"{path.stat().st_size / 1e6:.1f} MB, opset {graphs.OPSET}")
                    sessions[name] = stack.enter_context(_session(path, model, precision))
            with steps.step("verify against PyTorch") as note:
                parity = verify.verify(self.network, prepared, sessions, self.options.batch[2], self.crops)
                parity.check(precision)
                note(f"{parity.onnx_vs_pytorch.windows} windows")
        steps.table(parity)
        return parity

    def build_engines(self, target: Target) -> tuple[str, ...]:
        """Build the engines of all graphs; return their plugin layers, as "graph: layer"."""
        found: list[str] = []
        batch, plugins = self.options.batch, self.plugins
        for name, spec in self.specs.items():
            plan = self.work / f"{FILE_STEMS[name]}.plan"
            most = batch[2] * spec.frames_per_item
            counts = encoder_profiles(most) if name == "encoder" else [(batch[0], batch[1], most)]
            with self.steps.step(f"build {plan.name}") as note:
                profiles = [tuple((count, *spec.shape) for count in profile) for profile in counts]
                layers = engine_builder.build_engine(
                    plan.with_suffix(".onnx"), plan, target, spec.input, profiles, plugins
                )
                found += [f"{name}: {layer}" for layer in layers]
                capabilities = ", ".join(target.compute_capabilities)
                size = f"{plan.stat().st_size / 1e6:.1f} MB" + (f", {len(layers)} plugins" if plugins.operators else "")
                note(f"{target.flavour} {target.version} for {capabilities}; {size}")
        return tuple(found)

    def verify_engines(self, target: Target, parity: Parity) -> dict:
        """Run the engines on this GPU, and check the differences; return the figures for the manifest."""
        from sdtc.runtime.backends.tensorrt_session import TensorRTSession

        precision = self.options.precision
        with self.steps.step("verify the engines on this GPU") as note:
            with ExitStack() as stack:
                opened = {
                    name: stack.enter_context(TensorRTSession(self.work / f"{stem}.plan", target.info()))
                    for name, stem in FILE_STEMS.items()
                }
                (batch,) = opened["model"].batch_range.values()
                sessions: dict[str, Session] = dict(opened)
                window, streaming = verify.verify_engine(self.network, sessions, batch, self.crops)
            verify.check_engine("the engine against PyTorch", window, precision, parity)
            verify.check_engine("the streaming pair of engines against the whole window", streaming, precision, parity)
            note(f"heatmaps {window.heatmaps:.1e}, keypoints {window.keypoints:.4f} px")
        return window.figures() | {"streaming_vs_window": streaming.figures()}

    def describe(self, info: EngineInfo | None, figures: dict[str, dict]) -> Manifest:
        """Return the manifest of the files in the work folder."""
        return replace(
            self.source.describe(self.options.batch, self.options.precision, graphs.OPSET),
            graphs={
                name: GraphFiles(f"{stem}.onnx", f"{stem}.plan" if info else None) for name, stem in FILE_STEMS.items()
            },
            files={path.name: sha256(path) for path in sorted(self.work.iterdir())},
            engine=info,
            kernels=KERNELS if (self.work / KERNELS).exists() else None,
            parity=figures,
        )


def _session(path: Path, model: ModelProto, precision: str) -> Session:
    """Open the session that a user's CPU would run; for bf16, a stand-in that computes in fp32."""
    if precision != "bf16":
        return OnnxRuntimeSession(path, threads=available_cpus())
    stand_in = path.with_suffix(".float32-arithmetic")
    stand_in.write_bytes(verify.float32_arithmetic(model).SerializeToString())
    try:
        return OnnxRuntimeSession(stand_in, threads=available_cpus())
    finally:
        stand_in.unlink()


def _protect_foreign_files(output: Path, checkpoint: Path) -> None:
    """Refuse to overwrite files that no export has written.

    Raises:
        InputError: a file with the name of a bundle's file exists, and no manifest lists it.
    """
    names = ["model.json", KERNELS, *(f"{stem}.{kind}" for stem in FILE_STEMS.values() for kind in ("onnx", "plan"))]
    there = [output / name for name in names if (output / name).exists()]
    if not there:
        return
    reason = "holds files with the names of a bundle's files"
    try:
        files = {"model.json", *Manifest.load(output / "model.json").files}
        ours = [path for path in there if path.name in files]
        if ours == there and not (checkpoint.exists() and any(path.samefile(checkpoint) for path in there)):
            return
    except BundleError:
        reason = "holds files with the names of a bundle's files, but no bundle"
    raise InputError(f"the folder '{output}' {reason} ({there[0].name}): choose another `output`, or move them away")


@contextmanager
def _workspace(output: Path) -> Iterator[Path]:
    """Yield a temporary folder inside the output, on the same file system, and remove it in any case."""
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
    """Move finished files into place: the old manifest is removed first, and the new one is written last.

    So at every moment either the manifest matches its files, or there is none.
    """
    (output / "model.json").unlink(missing_ok=True)
    for name in (KERNELS, *(f"{stem}.plan" for stem in FILE_STEMS.values())):  # an old one must not outlive its bundle
        (output / name).unlink(missing_ok=True)
    for name in manifest.files:
        os.replace(work / name, output / name)
    manifest.save(output / "model.json")


class _Steps:
    """Prints one line per step: what, how long, and the result."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet

    def say(self, text: str) -> None:
        say(text, quiet=self.quiet)

    @contextmanager
    def step(self, what: str) -> Iterator[Callable[[str], None]]:
        """Time a block; its notes are printed after its time."""
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
