"""`make demo`: the whole pipeline on one machine, with the commands that users type, and a table at the end.

checkpoint -> engine bundle -> a rendered clip with ground truth -> poses, overlay video -> AP and mean error.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from sdtc.core.command_line import command
from sdtc.core.errors import SdtcError
from sdtc.core.files import make_directory
from sdtc.core.manifest import Manifest
from sdtc.core.posetrack import from_slots
from sdtc.evaluation.cli import main as sdtc_eval
from sdtc.export.to_trt import main as to_trt
from sdtc.runtime.cli import main as sdtc_infer
from sdtc.synthetic.cli import main as sdtc_synth

CLIP = "000007_synthetic"


@command("demo")
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the whole pipeline: checkpoint, engine bundle, clip, poses.")
    parser.add_argument(
        "checkpoint", nargs="?", default="tiny", help="default: %(default)s, which comes with the package"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/demo"))
    parser.add_argument("--frames", type=int, default=100)
    args = parser.parse_args(argv)
    out: Path = args.output

    start = time.perf_counter()
    make_directory(out)
    # Where TensorRT has no wheel, e.g. on an ARM processor, the demo runs the ONNX graph, which is the same network.
    no_plan = [] if find_spec("tensorrt_rtx") or find_spec("tensorrt") else ["--no-plan"]
    _run(to_trt, "python export/to_trt.py", args.checkpoint, "--output", out / "bundle", *no_plan)
    _run(sdtc_synth, "sdtc-synth", "--output", out / "clip", "--seed", 7, "--people", 3, "--frames", args.frames)
    truth = out / "clip" / "annotations" / "val" / f"{CLIP}.json"
    _run(
        sdtc_infer, "sdtc-infer", "--engine", out / "bundle", "--input", out / "clip" / f"{CLIP}.mp4",
        "--boxes", truth, "--output", out / "poses", "--save-video", "--min-score", 0,
    )  # fmt: skip
    poses, scores = out / "poses" / f"{CLIP}.json", out / "ap.json"
    _run(sdtc_eval, "sdtc-eval", "--truth", truth, "--predictions", poses, "--output", scores)

    manifest = Manifest.load(out / "bundle" / "model.json")
    errors, sizes = compare(poses, truth)
    ap = json.loads(scores.read_text())["results"][0]["ap"]
    parity = manifest.parity["onnx_vs_pytorch"]
    trained = (
        "trained" if manifest.trained else "UNTRAINED: its poses mean nothing, they only show that the pipeline works"
    )
    print()
    print(f"checkpoint          {manifest.name}, {trained}")
    print("boxes               the clip's ground truth (OpenCV's detector was not made for rendered people)")
    print(f"people x frames     {len(errors):,} poses compared with ground truth")
    print(f"AP                  {ap['Total']:.1f}, wrists {ap['Wrist']:.1f}, ankles {ap['Ankle']:.1f}")
    print(
        f"mean pixel error    {errors.mean():.1f} px in the image, "
        f"{100 * (errors / sizes).mean():.0f} % of the box's diagonal"
    )
    print(
        f"ONNX vs PyTorch     heatmaps {parity['heatmaps_max_abs']:.1e}, keypoints {parity['keypoints_max_px']:.4f} px"
    )
    if manifest.engine:
        engine = manifest.engine
        print(f"TensorRT engine     {engine.flavour} {engine.version}, for {', '.join(engine.compute_capabilities)}")
    print(f"total time          {time.perf_counter() - start:.0f} s")
    print()
    print(f"overlay video       {out / 'poses' / f'{CLIP}.mp4'}")
    print(f"poses               {poses}")
    print(f"engine bundle       {out / 'bundle'}")
    return 0


def compare(predictions: Path, truth: Path) -> tuple[np.ndarray, np.ndarray]:
    """Compare poses with ground truth, person by person.

    Args:
        predictions: PoseTrack18 predictions made with the ground truth's boxes, so that track ids agree.
        truth: PoseTrack18 annotations.

    Returns:
        Mean distance over the visible joints of every person and frame, in image pixels, and the diagonals of their
        boxes.

    Raises:
        SdtcError: a person of the ground truth has no pose.
    """
    poses = {(p["image_id"], p["track_id"]): _joints(p) for p in json.loads(predictions.read_text())["annotations"]}
    errors, sizes = [], []
    for person in json.loads(truth.read_text())["annotations"]:
        target = _joints(person)
        visible = target[:, 2] > 0
        if not visible.any():  # just outside the image: such a person gets no pose
            continue
        key = (person["image_id"], person["track_id"])
        if key not in poses:
            raise SdtcError(f"person {key[1]} of image {key[0]} has no pose in '{predictions}'")
        errors.append(np.linalg.norm(poses[key][visible, :2] - target[visible, :2], axis=1).mean())
        sizes.append(np.hypot(*person["bbox"][2:]))
    return np.array(errors), np.array(sizes)


def _joints(annotation: dict) -> np.ndarray:
    return from_slots(np.array(annotation["keypoints"], dtype=np.float64).reshape(17, 3))


def _run(function, name: str, *arguments: object) -> None:
    """Run a command in this process, and print it as a user would type it."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ {name} {' '.join(words)}", flush=True)
    if status := function(words):
        sys.exit(status)


if __name__ == "__main__":
    sys.exit(main())
