"""The export command: checkpoint in, verified engine bundle out.

    python export/to_trt.py ckpt.pth
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

try:
    import sdtc
    from sdtc.errors import OutputError, command, require
except ModuleNotFoundError:  # run from a checkout that was never installed
    sys.exit("to_trt.py: error: sdtc is not installed: run  pip install -e '.[export]'  in the project's folder")

_DESCRIPTION = """Turn a checkpoint into an engine bundle: ONNX graphs, TensorRT engines and a manifest.

The bundle is compared with the PyTorch network before it is handed over; a bundle that differs is not written."""
_EPILOG = """examples:
  python export/to_trt.py ckpt.pth                              fp32, into the current folder
  python export/to_trt.py ckpt.pth --output bundle --precision fp16 --batch 1,4,16
  python export/to_trt.py vitpose-b.pth --compute-capability 8.6,8.9
  python export/to_trt.py ckpt.pth --no-plan                    ONNX only

The checkpoint is sdtc's own (.pth, .safetensors) or a whole ViTPose (original, mmpose 1.x or Hugging Face names).
Engines: TensorRT-RTX builds without a GPU for the compute capabilities you name; full TensorRT builds on a GPU for
that GPU. The files are model.{onnx,plan,json} and the streaming pair model.{encoder,temporal}.{onnx,plan}."""


@command("to_trt.py")
def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    require("torch", "export", "export")
    require("onnx", "export", "export")
    require("onnxscript", "export", "export")
    export(
        args.checkpoint, args.output, args.precision, args.batch, args.flavour, args.compute_capability,
        plan=not args.no_plan, verify_on=args.verify_on, quiet=args.quiet,
    )  # fmt: skip
    return 0


def export(
    checkpoint: Path,
    output: Path,
    precision: str = "fp32",
    batch: tuple[int, int, int] = (1, 4, 16),
    flavour: str = "auto",
    compute_capabilities: tuple[str, ...] = (),
    plan: bool = True,
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
        verify_on: a video or image folder whose frames join the comparison; rendered people if not given.
        quiet: print nothing.

    Returns:
        Path of the manifest.

    Raises:
        SdtcError: bad input, a refusal of a tool, or a difference beyond its tolerance.
    """
    from sdtc.export import engine, graphs, verify
    from sdtc.files import make_directory, sha256
    from sdtc.manifest import GraphFiles, Manifest
    from sdtc.model.checkpoint import load_checkpoint
    from sdtc.model.network import MEAN, STD
    from sdtc.runtime.cuda import gpu_or_reason
    from sdtc.runtime.sessions import available_cpus
    from sdtc.runtime.sessions.onnxruntime_session import OnnxRuntimeSession
    from sdtc.skeleton import get_skeleton

    steps = _Steps(quiet)
    make_directory(output)
    target = engine.find_target(flavour, compute_capabilities) if plan else None
    with steps.step(f"read {checkpoint}") as note:
        source = load_checkpoint(checkpoint)
        config = source.network.config
        note(f"{config.name}, {source.format}" + ("" if source.trained else ", UNTRAINED: its poses mean nothing"))
    prepared = graphs.prepare(source.network, precision)
    specs = graphs.graph_specs(config)
    file_names = {name: "model" if name == "model" else f"model.{name}" for name in specs}

    with _workspace(output) as work, ExitStack() as open_sessions:
        onnx_paths, sessions = {}, {}
        for name, spec in specs.items():
            onnx_paths[name] = work / f"{file_names[name]}.onnx"
            with steps.step(f"export {onnx_paths[name].name}") as note:
                model = graphs.export_graph(prepared, spec)
                onnx_paths[name].write_bytes(model.SerializeToString())
                note(f"{onnx_paths[name].stat().st_size / 1e6:.1f} MB, opset {graphs.OPSET}")
                runnable = onnx_paths[name]
                if precision == "bf16":
                    runnable = work / f"{name}.float32-arithmetic.onnx"
                    runnable.write_bytes(verify.float32_arithmetic(model).SerializeToString())
                session = OnnxRuntimeSession(runnable, threads=available_cpus())
                sessions[name] = open_sessions.enter_context(session)

        crops = verify.clip_crops(config, verify_on)
        with steps.step("verify against PyTorch") as note:
            parity = verify.verify(source.network, prepared, sessions, batch[2], crops)
            parity.check(precision)
            note(f"{parity.onnx_vs_pytorch.windows} windows")
        steps.table(parity)
        figures = parity.figures()
        if verify_on is None:
            figures["onnx_vs_pytorch"]["frames"] = "noise and rendered people"
        else:
            figures["onnx_vs_pytorch"]["frames"] = f"noise and {verify_on.name}"
        open_sessions.close()

        plan_paths = {}
        for name, spec in specs.items() if target else ():
            plan_paths[name] = work / f"{file_names[name]}.plan"
            shapes = tuple((count * spec.frames_per_item, *spec.shape) for count in batch)
            shapes = ((1, *spec.shape), *shapes[1:]) if name == "encoder" else shapes
            with steps.step(f"build {plan_paths[name].name}") as note:
                engine.build_engine(onnx_paths[name], plan_paths[name], target, spec.input, shapes)
                capabilities = ", ".join(target.compute_capabilities)
                note(f"{target.flavour} {target.version} for {capabilities}; "
                     f"{plan_paths[name].stat().st_size / 1e6:.1f} MB")  # fmt: skip
        if target and gpu_or_reason()[0] and gpu_or_reason()[0].compute_capability in target.compute_capabilities:
            from sdtc.runtime.sessions.tensorrt_session import TensorRTSession

            with steps.step("verify the engine on this GPU") as note:
                with TensorRTSession(plan_paths["model"], target.info()) as session:
                    difference = verify.verify_engine(source.network, session, batch[2], crops)
                verify.check_engine(difference, precision, parity)
                figures["engine_vs_pytorch"] = difference.figures()
                note(f"heatmaps {difference.heatmaps:.1e}, keypoints {difference.keypoints:.4f} px")

        skeleton = get_skeleton(config.skeleton)
        files = sorted([*onnx_paths.values(), *plan_paths.values()])
        manifest = Manifest(
            name=config.name,
            kind=config.kind,
            model=config.to_dict(),
            num_frames=config.num_frames,
            input_size=config.input_size,
            heatmap_size=config.heatmap_size,
            token_shape=config.token_shape,
            skeleton=config.skeleton,
            keypoints=skeleton.keypoints,
            flip_pairs=skeleton.flip_pairs,
            mean=MEAN,
            std=STD,
            precision=precision,
            opset=graphs.OPSET,
            batch=batch,
            graphs={
                name: GraphFiles(onnx_paths[name].name, plan_paths[name].name if name in plan_paths else None)
                for name in specs
            },
            files={path.name: sha256(path) for path in files},
            checkpoint_sha256=source.sha256,
            trained=source.trained,
            engine=target.info() if target else None,
            parity=figures,
            created_by=f"sdtc {sdtc.__version__}",
        )
        _hand_over(files, manifest, output)
    steps.say(f"bundle: {output / 'model.json'}")
    if plan:
        steps.say(f"next:   sdtc-infer --engine {output / 'model.plan'} --input VIDEO")
    else:
        steps.say(f"next:   sdtc-infer --engine {output / 'model.onnx'} --input VIDEO")
    return output / "model.json"


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


def _hand_over(files: list[Path], manifest, output: Path) -> None:
    """Move finished files into place: the old manifest goes first and the new one comes last.

    So at every moment either a manifest matches its files, or there is none.
    """
    (output / "model.json").unlink(missing_ok=True)
    for graph in ("model", "model.encoder", "model.temporal"):  # an old engine must not outlive its bundle
        (output / f"{graph}.plan").unlink(missing_ok=True)
    for path in files:
        os.replace(path, output / path.name)
    manifest.save(output / "model.json")


class _Steps:
    """One line a step: what, how long, and what came of it."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet

    def say(self, text: str) -> None:
        if not self.quiet:
            print(text, flush=True)

    @contextmanager
    def step(self, what: str) -> Iterator:
        if not self.quiet:
            print(f"{what:<34} ", end="", flush=True)
        notes: list[str] = []
        start = time.perf_counter()
        try:
            yield notes.append
        except BaseException:
            self.say("failed")
            raise
        self.say(f"{time.perf_counter() - start:6.1f} s  {' '.join(notes)}")

    def table(self, parity) -> None:
        self.say(f"  {'':<24}{'heatmaps':>12}{'relative':>12}{'keypoints':>14}{'undecided':>11}")
        for name, figures in parity.figures().items():
            self.say(
                f"  {name.replace('_vs_', ' vs ').replace('_', ' '):<24}{figures['heatmaps_max_abs']:>12.2e}"
                f"{figures['heatmaps_max_relative']:>12.2e}{figures['keypoints_max_px']:>11.5f} px"
                f"{figures['undecided_joints']:>11}"
            )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="to_trt.py", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="sdtc or ViTPose checkpoint")
    parser.add_argument("--output", type=Path, default=Path("."), metavar="DIR", help="folder of the bundle (default: .)")
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32", help="default: %(default)s")
    parser.add_argument(
        "--batch", type=_batch, default=(1, 4, 16), metavar="MIN,OPT,MAX",
        help="windows at once: smallest, most common, largest (default: 1,4,16)",
    )  # fmt: skip
    parser.add_argument(
        "--flavour", choices=("auto", "tensorrt", "tensorrt-rtx"), default="auto",
        help="auto: tensorrt where it is installed with a usable GPU, else tensorrt-rtx",
    )  # fmt: skip
    parser.add_argument(
        "--compute-capability", type=_capabilities, default=(), metavar="8.6,8.9,…",
        help="GPUs to build for (default: this GPU, or 8.0, 8.6, 8.9 and 12.0 where there is none)",
    )  # fmt: skip
    parser.add_argument("--no-plan", action="store_true", help="write and verify ONNX only, build no engines")
    parser.add_argument(
        "--verify-on", type=Path, metavar="VIDEO|FOLDER", help="frames to compare on besides noise (default: rendered people)"
    )
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return parser


def _batch(text: str) -> tuple[int, int, int]:
    try:
        low, opt, high = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not MIN,OPT,MAX, such as 1,4,16") from None
    if not 1 <= low <= opt <= high <= 4096:
        raise argparse.ArgumentTypeError(f"'{text}' must be 1 <= MIN <= OPT <= MAX <= 4096")
    return low, opt, high


def _capabilities(text: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(","))
    for part in parts:
        if not re.fullmatch(r"\d{1,2}\.\d", part):
            raise argparse.ArgumentTypeError(f"'{part}' is not a compute capability, such as 8.6")
    return tuple(dict.fromkeys(parts))


if __name__ == "__main__":
    sys.exit(main())
