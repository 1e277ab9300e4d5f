"""The command `sdtc-infer`: engine and video in, poses out."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sdtc.core.command_line import command, say
from sdtc.core.errors import SdtcError

if TYPE_CHECKING:
    from sdtc.core.boxes import BoxFile
    from sdtc.runtime.engine import PoseEngine
    from sdtc.runtime.output.results import FrameResult
    from sdtc.runtime.output.resume import Progress
    from sdtc.runtime.people.detection import Detector
    from sdtc.runtime.sources.base import FrameSource

_DESCRIPTION = "Find the poses of all people in a video, a folder of images or many of them, with an engine bundle."
_EPILOG = """examples:
  sdtc-infer --engine model.plan --input video.mp4 --save-video
  sdtc-infer --engine model.onnx --input 'clips/*.mp4' --output poses --format jsonl
  sdtc-infer --engine bundle/ --input images/val/012834_mpii_test --boxes detections.json
  sdtc-infer --engine model.plan --input video.mp4 --detector yolox_s.onnx
  sdtc-infer --engine model.plan --input rtsp://camera/stream --drop-late --format jsonl
  ffmpeg -i … -f mpegts - | sdtc-infer --engine model.plan --input -

The engine is any file of a bundle that export/to_trt.py wrote, or its folder. Without a usable GPU the bundle's ONNX
graph runs on the CPU; --device cuda makes that an error.

Boxes: a COCO detection list [{"image_id", "bbox": [x, y, w, h], "score"}], or COCO/PoseTrack annotations. image_id is
the frame number from 0, or PoseTrack's id where the input is named as a PoseTrack sequence.

--boxes FOLDER takes FOLDER/<name of the input>.json for each input.

Exit codes: 0 done, 1 something broke (what was done before is kept), 2 unusable input, 130 interrupted (kept too)."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sdtc-infer",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    required = parser.add_argument_group("required")
    required.add_argument(
        "--engine", required=True, metavar="FILE", help="model.plan, model.onnx, or a bundle's folder"
    )
    required.add_argument(
        "--input", required=True, metavar="VIDEO|FOLDER|GLOB|LIVE",
        help="what to look at; quote a glob. Live: a camera's number or /dev/videoN; an address rtsp://, rtmp://, "
        "http://, tcp://, udp:// or srt://; the path of a pipe; or - for standard input",
    )  # fmt: skip
    people = parser.add_argument_group("people")
    people.add_argument(
        "--boxes",
        type=Path,
        metavar="FILE|FOLDER",
        help="person boxes from JSON instead of a detector; of a folder, the file named as the input",
    )
    people.add_argument(
        "--detector", default="hog", metavar="hog|MODEL.onnx",
        help="hog: OpenCV's, needs no download; or a YOLOX, YOLO or RT-DETR style ONNX file (default: hog)",
    )  # fmt: skip
    people.add_argument(
        "--detector-layout", metavar="NAME",
        help="how an ONNX detector's outputs are laid out, where that is not recognised: yolox, yolov8, rt-detr, …",
    )  # fmt: skip
    people.add_argument(
        "--detect-every", type=int, default=1, metavar="K",
        help="run the detector on every K-th frame, people go on as they went in between (default: %(default)s)",
    )  # fmt: skip
    people.add_argument("--person-class", type=int, metavar="N", help="an ONNX detector's class number of people")
    results = parser.add_argument_group("results")
    results.add_argument("--output", type=Path, default=Path("poses"), metavar="DIR", help="default: %(default)s")
    results.add_argument(
        "--format",
        choices=("posetrack", "coco", "jsonl"),
        help="default: posetrack for its 15 joints, coco for COCO's 17",
    )
    results.add_argument(
        "--resume", action="store_true",
        help="go on behind the last whole line of a killed run's files; needs --format jsonl",
    )  # fmt: skip
    results.add_argument("--save-video", action="store_true", help="also write an overlay video, H.264 in MP4")
    results.add_argument(
        "--min-score",
        type=float,
        default=0.2,
        metavar="S",
        help="draw keypoints from this score on (default: %(default)s)",
    )
    results.add_argument(
        "--smooth", action="store_true", help="steadier poses: a One-Euro filter for each joint of each person"
    )
    running = parser.add_argument_group("running")
    running.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: %(default)s")
    running.add_argument(
        "--backend", choices=("auto", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"), default="auto",
        help="auto: on a CPU the fastest of what is installed, measured once for each bundle (default: %(default)s)",
    )  # fmt: skip
    running.add_argument(
        "--precision", choices=("auto", "fp32", "bf16", "int8"), default="fp32",
        help="what a CPU computes in; bf16 and int8 need OpenVINO and a processor that has them, and are a little less "
        "exact; auto is the fastest (default: %(default)s)",
    )  # fmt: skip
    running.add_argument(
        "--exact", action="store_true",
        help="whole windows, each in its keyframe's boxes, as the paper does: several times slower",
    )  # fmt: skip
    running.add_argument(
        "--hold", type=float, metavar="S",
        help="how far a person may move, in shares of the box, before the box is taken anew (default: 0.03)",
    )  # fmt: skip
    running.add_argument(
        "--lookahead", type=int, metavar="N", help="frames to wait for after each, 0 to the model's delta (default)"
    )
    running.add_argument("--batch-size", type=int, metavar="N", help="people at once (default: the bundle's maximum)")
    running.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads (default: one or all, whichever is faster)"
    )
    running.add_argument("--max-frames", type=int, metavar="N", help="stop after N frames of each input")
    running.add_argument(
        "--drop-late",
        action="store_true",
        help="live input: the newest frame wins, those that come too fast are dropped",
    )
    running.add_argument(
        "--reconnect", type=float, metavar="SECONDS",
        help="live input: how long to try when a camera or stream is lost, 0 for never, inf for ever (default: 30)",
    )  # fmt: skip
    running.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return parser


@dataclass
class _Totals:
    frames: int = 0
    poses: int = 0
    people: int = 0
    files: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    interrupted: bool = False
    latency: str = ""


@command("sdtc-infer")
def main(argv: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    if _in_main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a polite kill ends as Ctrl-C does: files valid

    # Only now: `--help` and a mistyped option need none of this.
    from sdtc.core.boxes import BoxFile
    from sdtc.core.errors import InputError
    from sdtc.core.files import make_directory
    from sdtc.runtime.engine import PoseEngine
    from sdtc.runtime.estimation.token_cache import HOLD
    from sdtc.runtime.people.detection import make_detector
    from sdtc.runtime.sources.live import is_live
    from sdtc.runtime.sources.open import check_max_frames, find_inputs, open_input
    from sdtc.runtime.sources.windows import check_lookahead

    check_max_frames(args.max_frames)
    for option, value in (("--batch-size", args.batch_size), ("--threads", args.threads)):
        if value is not None and value < 1:
            raise InputError(f"{option} is {value}: expected at least 1")
    if args.resume and args.format != "jsonl":
        raise InputError("--resume needs --format jsonl: of the other formats a kill leaves nothing to go on from")
    if args.resume and args.save_video:
        raise InputError("--resume cannot go on with half a video: leave out --save-video, or --resume")
    if args.resume and is_live(args.input):
        raise InputError("--resume is for files: what a live source has sent is gone, run it without --resume")
    inputs = find_inputs(args.input)
    # One file serves all inputs; a folder has a file for each, which is read with it.
    boxes = BoxFile(args.boxes) if args.boxes and not args.boxes.is_dir() else None
    options = {"layout": args.detector_layout, "person_class": args.person_class}
    given = {name: value for name, value in options.items() if value is not None}
    if given and (args.boxes or args.detector == "hog"):
        raise InputError("--detector-layout and --person-class belong to an ONNX detector: add --detector MODEL.onnx")
    detector = None if args.boxes else make_detector(args.detector, **given)
    make_directory(args.output)

    totals = _Totals()
    start = time.perf_counter()
    if args.exact and args.hold is not None:
        raise InputError("--exact holds no boxes: leave out --hold, or --exact")
    hold = HOLD if args.hold is None else args.hold
    with (
        _live_log(args.quiet),
        PoseEngine(args.engine, args.device, args.backend, args.threads, args.exact, hold, args.precision) as engine,
    ):
        if args.hold is not None and not engine.streaming:
            raise InputError(
                "--hold is for bundles with the streaming pair of graphs, which this one has not: leave it out, or "
                "export the checkpoint again"
            )
        check_lookahead(args.lookahead, engine.manifest.delta)
        how = "frame by frame" if engine.streaming else "whole windows"
        say(
            f"engine   {engine.manifest.name}, {engine.manifest.precision}, {how}, on {engine.backend}",
            quiet=args.quiet,
        )
        if engine.measured:
            say(f"measured {engine.measured}", quiet=args.quiet)
        if engine.notice:
            say(f"note     {engine.notice}", quiet=args.quiet)
        if not engine.manifest.trained:
            say("note     the checkpoint of this engine is untrained: its poses mean nothing", quiet=args.quiet)
        if boxes is not None:
            _say_skipped(args, boxes)
        stems: set[str] = set()
        for entry in inputs:
            try:
                with open_input(entry, args.drop_late, args.reconnect) as source:
                    _run(args, engine, source, _unique(source.name, stems), boxes, detector, totals)
            except SdtcError as error:
                if len(inputs) == 1:
                    raise
                totals.problems.append(str(error))  # the other inputs are still worth doing
            if totals.interrupted:
                break
        say(_summary(totals, engine, time.perf_counter() - start), quiet=args.quiet)
    for problem in totals.problems:
        print(f"sdtc-infer: error: {problem}", file=sys.stderr)
    if totals.interrupted:
        print(f"sdtc-infer: interrupted after {totals.frames} frames; the files hold what was done", file=sys.stderr)
        return 130
    return 1 if totals.problems else 0


def _run(
    args: argparse.Namespace,
    engine: PoseEngine,
    source: FrameSource,
    stem: str,
    boxes: BoxFile | None,
    detector: Detector | None,
    totals: _Totals,
) -> None:
    """Run one input and write its files; on Ctrl-C and on errors they are finished as far as they go."""
    from tqdm import tqdm

    from sdtc.core.boxes import read_boxes
    from sdtc.runtime.estimation.timing import Durations
    from sdtc.runtime.output.drawing import draw_frame
    from sdtc.runtime.output.resume import read_progress
    from sdtc.runtime.output.smoothing import smooth
    from sdtc.runtime.output.writers import JsonlWriter, VideoWriter, Writer, make_writer, result_path
    from sdtc.runtime.pipeline import overlap

    if args.boxes and boxes is None:
        boxes = read_boxes(args.boxes, source.name)
        _say_skipped(args, boxes)
    results_file, video_file = (
        result_path(args.format, args.output / stem, engine.skeleton),
        args.output / f"{stem}.mp4",
    )
    for target in (results_file, video_file) if args.save_video else (results_file,):
        _protect_inputs(args, source, boxes, target)
    expected = source.num_frames
    if args.max_frames is not None:
        expected = min(expected, args.max_frames) if expected else args.max_frames
    done = None
    if args.resume and results_file.exists():
        done = read_progress(results_file, source, len(engine.skeleton.keypoints))
        if done.frames == source.num_frames or done.frames >= (args.max_frames or float("inf")):
            _leave(args, results_file, done)
            return
        say(f"resume   {results_file}, {done.frames} frames are there and skipped", quiet=args.quiet)
    track_ids: set[int] = set()
    writers: list[Writer] = []
    frames = 0
    latencies, waits = Durations(), Durations()
    with ExitStack() as stack:
        _restore_signals_after(stack)
        bar = stack.enter_context(
            tqdm(
                total=expected, initial=done.frames if done else 0, desc=source.name[:24], unit="frame",
                disable=True if args.quiet else None,
            )
        )  # fmt: skip
        poses: Iterator[FrameResult] = engine.track(
            source, boxes, detector or "hog", args.batch_size, args.max_frames, args.lookahead, args.detect_every, done
        )
        if args.smooth:
            poses = smooth(poses, source.fps, done.tail if done else ())
        results = overlap(poses, 0 if source.drop_late else 2, "pose", source.stop)  # files are written meanwhile
        stack.callback(results.close)
        try:
            for result in results:
                if not writers:  # not before a first frame: an input that gives none leaves no files
                    writers.append(
                        JsonlWriter(results_file, keep=done.size)
                        if done
                        else make_writer(args.format, args.output / stem, source.name, engine.skeleton)
                    )
                    stack.enter_context(writers[0])
                    if args.save_video:
                        draw = lambda r: draw_frame(r, engine.skeleton, args.min_score)  # noqa: E731
                        writers.append(VideoWriter(video_file, source.fps, draw))
                        stack.enter_context(writers[1])
                for writer in writers:
                    with engine.times.stage("video" if isinstance(writer, VideoWriter) else "write"):
                        writer.write(result)
                if source.live:
                    latencies.add(result.latency)
                    waits.add(result.waited)
                frames += 1
                totals.frames += 1
                totals.poses += len(result.poses)
                track_ids.update(pose.track_id for pose in result.poses)
                bar.set_postfix(people=len(result.poses), refresh=False)
                bar.update()
        except KeyboardInterrupt:
            totals.interrupted = True
        except SdtcError as error:
            if frames == 0:
                raise
            totals.problems.append(f"{error} (frames before this are kept)")
        else:
            if done and not frames:
                _leave(args, results_file, done)
        _ignore_signals()  # a second Ctrl-C must not cut the closing of the files
    if latencies.count:
        lookahead = engine.manifest.delta if args.lookahead is None else args.lookahead
        p50, p95, p99 = (
            f"p{100 * share:.0f} {1000 * latencies.percentile(share):.0f} ms" for share in (0.5, 0.95, 0.99)
        )
        totals.latency = (
            f"latency  {p50}, {p95}, {p99} (of which look-ahead {lookahead} frames, "
            f"{1000 * waits.percentile(0.5):.0f} ms); {source.dropped} frames dropped"
        )
    totals.people += len(track_ids)
    totals.problems += source.problems
    totals.files += [writer.path for writer in writers if writer.path.exists()]


@contextmanager
def _live_log(quiet: bool) -> Iterator[None]:
    """Show what becomes of live sources on stderr, above the progress bar."""
    import logging

    from tqdm import tqdm

    class AboveBar(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tqdm.write(self.format(record), file=sys.stderr)

    log, handler = logging.getLogger("sdtc.live"), logging.NullHandler() if quiet else AboveBar()
    handler.setFormatter(logging.Formatter("live     %(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _say_skipped(args: argparse.Namespace, boxes: BoxFile) -> None:
    if boxes.skipped_phrase:
        say(f"note     boxes left out: {boxes.skipped_phrase}", quiet=args.quiet)


def _leave(args: argparse.Namespace, path: Path, done: Progress) -> None:
    """Say that nothing is left to do for a file, and cut off what is torn."""
    from sdtc.runtime.output.writers import JsonlWriter

    if done.torn:
        JsonlWriter(path, keep=done.size).close()
    say(f"complete {path}, all {done.frames} frames were there", quiet=args.quiet)


_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _in_main_thread() -> bool:
    """Python lets only the main thread touch signals; `main` may be called from another."""
    return threading.current_thread() is threading.main_thread()


def _restore_signals_after(stack: ExitStack) -> None:
    if _in_main_thread():
        for number in _SIGNALS:
            stack.callback(signal.signal, number, signal.getsignal(number))


def _ignore_signals() -> None:
    if _in_main_thread():
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)


def _protect_inputs(args: argparse.Namespace, source: FrameSource, boxes: BoxFile | None, target: Path) -> None:
    """Refuse to write over what is being read.

    Raises:
        InputError: the target is the input, the boxes, the detector or a file of the engine's bundle.
    """
    from sdtc.core.errors import InputError
    from sdtc.core.manifest import find_manifest

    read = [source.path, Path(args.detector), find_manifest(Path(args.engine)), Path(args.engine)]
    read += [boxes.path] if boxes else []
    if target.exists() and any(path.is_file() and path.samefile(target) for path in read):
        raise InputError(
            f"the result '{target}' would replace a file that is read: choose another folder with --output"
        )


def _summary(totals: _Totals, engine: PoseEngine, wall: float) -> str:
    seconds = engine.times.seconds
    stages = ", ".join(f"{name} {value:.2f} s" for name, value in seconds.items())
    rate = totals.frames / wall if wall else 0.0
    return "\n".join(
        [
            f"done     {totals.frames} frames, {totals.poses} poses of {totals.people} people in {wall:.2f} s "
            f"({rate:.1f} frames/s)",
            f"stages   {stages or 'none'}",
            *(
                [
                    f"tokens   {engine.encoded} frames of people encoded, {engine.reused} reused "
                    f"({engine.reused / (engine.encoded + engine.reused):.0%})"
                ]
                if engine.encoded
                else []
            ),
            *([totals.latency] if totals.latency else []),
            *(f"wrote    {path}" for path in totals.files),
        ]
    )


def _unique(stem: str, taken: set[str]) -> str:
    """Two inputs of the same name must not write the same file."""
    name, number = stem, 2
    while name in taken:
        name, number = f"{stem}_{number}", number + 1
    taken.add(name)
    return name


if __name__ == "__main__":
    sys.exit(main())
