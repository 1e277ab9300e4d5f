"""The command `sdtc-infer`: engine and video in, poses out."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sdtc.core.command_line import ENDINGS, as_options, command, complain, given, given_path, say
from sdtc.runtime.backends.arguments import add_backend_arguments

if TYPE_CHECKING:
    from sdtc.runtime.engine import PoseEngine
    from sdtc.runtime.run import RunSummary

_DESCRIPTION = "Estimate the poses of all people in videos, folders of images or live streams, with an engine bundle."
_EPILOG = """examples:
  sdtc-infer --engine model.plan --input video.mp4 --save-video
  sdtc-infer --engine model.onnx --input 'clips/*.mp4' --output poses --format jsonl
  sdtc-infer --engine bundle/ --input images/val/012834_mpii_test --boxes detections.json
  sdtc-infer --engine model.plan --input video.mp4 --detector yolox_s.onnx
  sdtc-infer --engine model.plan --input rtsp://camera/stream --drop-late --format jsonl
  sdtc-infer --engine model.plan --input 0 1 rtsp://camera/stream --drop-late --format jsonl
  ffmpeg -i … -f mpegts - | sdtc-infer --engine model.plan --input -

--engine takes any file of a bundle that export/to_trt.py wrote, or the bundle's folder. Without a usable GPU the
bundle's ONNX graph runs on the CPU; with --device cuda that is an error.

--boxes takes a COCO detection list [{"image_id", "bbox": [x, y, w, h], "score"}], or COCO or PoseTrack annotations.
image_id is the frame number, counted from 0, or PoseTrack's image id if the input is named like a PoseTrack sequence.
--boxes FOLDER reads FOLDER/<name of the input>.json for each input.

Exit codes: 0 success, 1 something failed (earlier results are kept), 2 unusable input, 130 interrupted (results so far
are kept)."""


class _NoHold(argparse.Action):
    """Says why an option of earlier versions is gone."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.error(
            "--hold is gone: boxes are no longer held, every person is encoded once in every frame in the box of that "
            "frame; leave it out"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sdtc-infer",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    required = parser.add_argument_group("required")
    required.add_argument(
        "--engine", required=True, type=given, metavar="FILE", help="model.plan, model.onnx, or the bundle's folder"
    )
    required.add_argument(
        "--input", required=True, type=given, nargs="+", action="extend", metavar="VIDEO|FOLDER|GLOB|LIVE",
        help="videos, images, folders of images, or globs in quotes. Live: a camera's number or /dev/videoN; an "
        "address rtsp://, rtmp://, http://, tcp://, udp:// or srt://; the path of a pipe; or - for standard input. "
        "Of several, live sources run all at once, beside the files",
    )  # fmt: skip
    people = parser.add_argument_group("people")
    people.add_argument(
        "--boxes",
        type=given_path,
        metavar="FILE|FOLDER",
        help="JSON file of person boxes, used instead of a detector; or a folder with one file named like each input. "
        "Its track ids are used if every box has one",
    )
    people.add_argument(
        "--detector", default="hog", metavar="hog|MODEL.onnx",
        help="hog: OpenCV's HOG detector, needs no download; or an ONNX file of a YOLOX, YOLO or RT-DETR style network "
        "(default: %(default)s)",
    )  # fmt: skip
    people.add_argument(
        "--detector-layout", metavar="NAME",
        help="output layout of the ONNX detector, if it is not recognised or may be one of several: yolox, yolov8, "
        "rt-detr, …",
    )  # fmt: skip
    people.add_argument(
        "--detect-every", type=float, default=0.0, metavar="SECONDS",
        help="seconds between detections, up to 1; boxes in between are extrapolated (default: 0, every frame)",
    )  # fmt: skip
    people.add_argument("--person-class", type=int, metavar="N", help="class number of people in the ONNX detector")
    results = parser.add_argument_group("results")
    results.add_argument(
        "--output", type=given_path, default=Path("poses"), metavar="DIR",
        help="folder of the results (default: %(default)s)",
    )  # fmt: skip
    results.add_argument(
        "--format",
        choices=("posetrack", "coco", "jsonl"),
        help="default: posetrack for models with PoseTrack's 15 joints, coco for those with COCO's 17",
    )
    results.add_argument(
        "--resume", action="store_true",
        help="continue an interrupted run after the last complete line of its files; needs --format jsonl",
    )  # fmt: skip
    results.add_argument("--save-video", action="store_true", help="also write an overlay video, H.264 in MP4")
    results.add_argument(
        "--min-score",
        type=float,
        default=0.2,
        metavar="S",
        help="draw only keypoints with at least this score (default: %(default)s)",
    )
    results.add_argument(
        "--smooth", action="store_true", help="smooth the poses with a One-Euro filter for each joint of each person"
    )
    running = parser.add_argument_group("running")
    add_backend_arguments(running)
    running.add_argument(
        "--exact", action="store_true",
        help="run whole windows, each cropped with its keyframe's boxes, as in the paper; several times slower",
    )  # fmt: skip
    running.add_argument("--hold", nargs="?", const="", action=_NoHold, help=argparse.SUPPRESS)
    running.add_argument(
        "--lookahead", type=int, metavar="N",
        help="frames to wait for after each keyframe, from 0 to the model's delta (default: delta)",
    )  # fmt: skip
    running.add_argument("--batch-size", type=int, metavar="N", help="people per batch (default: the bundle's maximum)")
    running.add_argument("--max-frames", type=int, metavar="N", help="stop after N frames of each input")
    running.add_argument(
        "--drop-late",
        action="store_true",
        help="live input: drop frames that arrive faster than they are processed; the newest is kept",
    )
    running.add_argument(
        "--reconnect", type=float, metavar="SECONDS",
        help="live input: how long to try to reconnect when a camera or stream is lost, 0 for never, inf for ever "
        "(default: 30)",
    )  # fmt: skip
    running.add_argument(
        "--jobs", type=int, metavar="N",
        help="how many files are worked on at the same time (default: one for each processor, at most 4); live inputs "
        "run all at once",
    )  # fmt: skip
    running.add_argument("--quiet", action="store_true", help="print only errors")
    return parser


@command("sdtc-infer", {"path": "--engine"})
def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    if threading.current_thread() is threading.main_thread():  # the only one that may set signal handlers
        for number in ENDINGS:
            if signal.getsignal(number) == signal.SIG_DFL:  # `nohup` has them ignored
                signal.signal(number, signal.default_int_handler)  # ends like Ctrl-C: files stay valid

    # Imported here, so that `--help` and a mistyped option answer fast.
    from sdtc.core.manifest import find_manifest
    from sdtc.runtime.engine import open
    from sdtc.runtime.options import EngineOptions, RunOptions, TrackOptions
    from sdtc.runtime.output.bars import live_log
    from sdtc.runtime.run import Run, on_ctrl_c

    tell = partial(_print_line, quiet=args.quiet)
    find_manifest(Path(args.engine))  # a mistyped name is told before a folder for results is made
    run = Run(
        args.input,
        RunOptions(
            output=args.output,
            format=args.format,
            resume=args.resume,
            save_video=args.save_video,
            min_score=args.min_score,
            smooth=args.smooth,
            boxes=args.boxes,
            detector_layout=args.detector_layout,
            person_class=args.person_class,
            drop_late=args.drop_late,
            reconnect=args.reconnect,
            jobs=args.jobs,
            track=TrackOptions(
                detector=args.detector,
                detect_every=args.detect_every,
                batch_size=args.batch_size,
                max_frames=args.max_frames,
                lookahead=args.lookahead,
            ),
        ),
        tell=tell,
        progress=not args.quiet,
    )
    start = time.perf_counter()
    options = EngineOptions(args.device, args.backend, args.precision, args.threads, args.exact)
    with live_log(args.quiet), open(args.engine, options) as engine:
        how = "frame by frame" if engine.streaming else "whole windows"
        tell(f"engine   {engine.manifest.name}, {engine.manifest.precision}, {how}, on {engine.backend}")
        if engine.measured:
            tell(f"measured {engine.measured}")
        if engine.notice:
            tell(f"note     {engine.notice}")
        if not engine.manifest.trained:
            tell("note     the checkpoint of this engine is untrained: its poses mean nothing")
        with on_ctrl_c(run.interrupt):
            summary = run.execute(engine)
            if summary.interrupted:
                _ignore_signals()  # an impatient user must not keep the process from saying what it has kept
            tell(_describe(summary, engine, time.perf_counter() - start, named=not run.alone))
    for problem in summary.problems:
        complain(f"sdtc-infer: error: {as_options(problem)}")
    if summary.interrupted:
        complain(f"sdtc-infer: interrupted after {summary.frames} frames; the results so far are kept")
        return 130
    return 1 if summary.problems else 0


def _ignore_signals() -> None:
    if threading.current_thread() is threading.main_thread():
        for number in ENDINGS:
            signal.signal(number, signal.SIG_IGN)


def _print_line(text: str, quiet: bool) -> None:
    say(as_options(text), quiet=quiet)


def _describe(summary: RunSummary, engine: PoseEngine, seconds: float, named: bool) -> str:
    """Return the lines printed at the end; `seconds` includes opening the engine, `named` is for several inputs."""
    stages = ", ".join(f"{name} {value:.2f} s" for name, value in engine.times.seconds.items())
    rate = summary.frames / seconds
    lines = [
        f"done     {summary.frames} frames, {summary.poses} poses of {summary.people} people in "
        f"{seconds:.2f} s ({rate:.1f} frames/s)",
        f"stages   {stages or 'none'}",
    ]
    if engine.estimated:
        share = engine.encoded / engine.estimated
        lines.append(f"encoded  {engine.encoded} crops for {engine.estimated} poses, {share:.2f} per person and frame")
    for name, latency in summary.latency.items():
        lines.append(f"latency  {name + '  ' if named else ''}{latency}")
    return "\n".join([*lines, *(f"wrote    {path}" for path in summary.files)])


if __name__ == "__main__":
    sys.exit(main())
