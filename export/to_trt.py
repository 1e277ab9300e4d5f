"""The export command: turns a checkpoint into a verified engine bundle.

python export/to_trt.py ckpt.pth
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    from sdtc.core.command_line import command, given_path, program
    from sdtc.core.errors import require
except ModuleNotFoundError:  # run from a checkout that was never installed
    sys.exit("to_trt.py: error: sdtc is not installed: run  pip install -e '.[cpu,export]'  in the project's folder")

_DESCRIPTION = """Turn a checkpoint into an engine bundle: ONNX graphs, TensorRT engines and a manifest.

The exported graphs are compared with the PyTorch network first; if they differ, no bundle is written."""
_NAME, _SCRIPT = "sdtc-export", "to_trt.py"
_EPILOG = """examples:
  {command} ckpt.pth --no-plan        ONNX only, fp32, into the current folder
  {command} ckpt.pth --output bundle --precision fp16 --batch 1,4,16
  {command} vitpose-b.pth --compute-capability 8.6,8.9

The checkpoint is sdtc's own (.pth, .safetensors) or a whole ViTPose (original, mmpose 1.x or Hugging Face names).
TensorRT-RTX builds engines without a GPU, for the compute capabilities that you name; full TensorRT builds them on a
GPU, for that GPU. The files are model.{{onnx,plan,json}} and, to stream, model.{{encoder,temporal}}.{{onnx,plan}}."""


@command(_NAME, script=_SCRIPT)
def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    for module in ("torch", "onnx", "onnxscript"):
        require(module, "export", program(_NAME, _SCRIPT))
    from sdtc.export.bundle import ExportOptions, export

    options = ExportOptions(
        precision=args.precision,
        batch=args.batch,
        flavour=args.flavour,
        compute_capabilities=args.compute_capability,
        plan=not args.no_plan,
        plugins=args.plugins,
        verify_on=args.verify_on,
    )
    export(args.checkpoint, args.output, options, quiet=args.quiet)
    return 0


def _parser() -> argparse.ArgumentParser:
    prog = program(_NAME, _SCRIPT)
    parser = argparse.ArgumentParser(
        prog=prog,
        description=_DESCRIPTION,
        epilog=_EPILOG.format(command=prog if prog == _NAME else f"python export/{prog}"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", type=given_path, metavar="CHECKPOINT", help="sdtc or ViTPose checkpoint")
    parser.add_argument(
        "--output", type=given_path, default=Path("."), metavar="DIR", help="folder of the bundle (default: .)"
    )
    parser.add_argument("--precision", choices=("fp32", "fp16", "bf16"), default="fp32", help="default: %(default)s")
    parser.add_argument(
        "--batch", type=_batch, default=(1, 4, 16), metavar="MIN,OPT,MAX",
        help="windows per batch: smallest, most common, largest (default: 1,4,16)",
    )  # fmt: skip
    parser.add_argument(
        "--flavour", choices=("auto", "tensorrt", "tensorrt-rtx"), default="auto",
        help="auto: tensorrt if it is installed and a GPU is usable, else tensorrt-rtx",
    )  # fmt: skip
    parser.add_argument(
        "--compute-capability", type=_capabilities, default=(), metavar="8.6,8.9,…",
        help="GPUs to build for (default: this GPU, or 8.0, 8.6, 8.9 and 12.0 if there is none)",
    )  # fmt: skip
    parser.add_argument(
        "--plugins", default="auto", metavar="auto|on|off|NAME,…",
        help="run Triton kernels as plugins in full TensorRT's engines: on, those of all operators, off, of none, or "
        "some of temporal_attention, spatial_attention, self_refinement and cross_attention; auto: temporal attention, "
        "if Triton is installed",
    )  # fmt: skip
    parser.add_argument("--no-plan", action="store_true", help="write and verify the ONNX graphs only, no engines")
    parser.add_argument(
        "--verify-on",
        type=given_path,
        metavar="VIDEO|FOLDER",
        help="frames to compare on, in addition to noise (default: rendered people)",
    )
    parser.add_argument("--quiet", action="store_true", help="print only errors")
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
