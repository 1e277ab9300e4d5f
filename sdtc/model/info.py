"""The command `sdtc-info`: parameters and operations of a preset or a checkpoint, per part and in total."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from sdtc.core.command_line import command, say
from sdtc.core.errors import require
from sdtc.model.config import PRESETS, get_preset

_DESCRIPTION = "Print the parameters and operations of a network, per part and in total, counted by running it."
_EPILOG = """examples:
  sdtc-info base                 the paper's network
  sdtc-info base --json          the same as JSON
  sdtc-info ckpt.pth             the network of a checkpoint

Operations are those of one window of T frames, that is, of one person in one keyframe. A multiply-accumulate counts as
2 operations (FLOPs). Parts that only masked training uses are listed apart."""
_EQ_6 = {"pixels": "Eq. 6 as in OCR", "channels": "Eq. 6 as written"}
_EQ_8 = {
    "add": "contexts are added to the map (Eq. 8 with a residual)",
    "concatenate": "contexts are joined to the map (Eq. 8 as in OCR)",
    "replace": "contexts replace the map (Eq. 8 as written)",
}


@command("sdtc-info")
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="sdtc-info", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "network", metavar="PRESET|CHECKPOINT", help=f"a preset ({', '.join(PRESETS)}) or a checkpoint file"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args(argv)

    require("torch", "export", "sdtc-info")
    from sdtc.model.counting import count_network

    if args.network not in PRESETS and (Path(args.network).suffix or Path(args.network).exists()):
        from sdtc.model.checkpoint import load_checkpoint

        config = load_checkpoint(Path(args.network)).network.config
    else:
        config = get_preset(args.network)
    count = count_network(config)
    say(json.dumps(count.to_dict(), indent=2) if args.json else _table(count.to_dict(), config.num_frames))
    return 0


def _table(data: dict, num_frames: int) -> str:
    parts = data["parts"]
    lines = [f"{data['name']}: one window of T = {num_frames} frame{'s' if num_frames > 1 else ''}", ""]
    if data["reading"]:
        axis, refinement = data["reading"]["context_softmax"], data["reading"]["refinement"]
        lines[-1:] = [f"SMML: softmax over {axis} ({_EQ_6[axis]}), {_EQ_8[refinement]}", ""]
    lines.append(f"{'part':<24}{'parameters':>14}{'trainable':>14}{'GFLOPs':>10}")
    for training_only in (False, True):
        for name, part in parts.items():
            if part["training_only"] == training_only:
                lines.append(f"{name:<24}{part['parameters']:>14,}{part['trainable']:>14,}{part['gflops']:>10.3f}")
        if not training_only:
            total = data["parameters"]
            inference = sum(part["parameters"] for part in parts.values() if not part["training_only"])
            lines.append(f"{'inference':<24}{inference:>14,}{total['trainable_inference']:>14,}{data['gflops']:>10.3f}")
            if any(part["training_only"] for part in parts.values()):
                lines += ["", "only in training:"]
            else:
                break
    if any(part["training_only"] for part in parts.values()):
        lines.append(f"{'in all':<24}{total['total']:>14,}{total['trainable']:>14,}")
    lines += [
        "",
        f"{data['gmacs']:.1f} GMACs = {data['gflops']:.1f} GFLOPs (2 per multiply-accumulate), "
        f"{data['gflops_without_attention_products']:.1f} without the attention products",
    ]
    return "\n".join(lines)
