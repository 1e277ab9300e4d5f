"""The command `sdtc-eval`: AP, PCK and MOTA of predictions in files, of an engine bundle, or of a checkpoint."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdtc.core.command_line import command, given_path, say
from sdtc.runtime.backends.arguments import add_backend_arguments

if TYPE_CHECKING:
    import numpy as np

    from sdtc.evaluation.inference import PeopleBoxes
    from sdtc.evaluation.reading import PredictedPoses, Truth
    from sdtc.evaluation.score_table import Result
    from sdtc.runtime.engine import PoseEngine

DATASETS = ("posetrack2017", "posetrack2018", "posetrack21")
_DESCRIPTION = """PoseTrack's average precision, as poseval computes it, in the layout of the paper's tables; COCO's
where the ground truth has COCO's 17 joints; PCK@0.2 and PCKh@0.5; MOTA and IDF1 where predictions carry track ids."""
_EPILOG = """examples:
  sdtc-eval --truth posetrack18 --predictions poses --dataset posetrack2018
  sdtc-eval --truth posetrack18 --engine model.onnx --boxes detections.json --output ap.json --plot ap.png
  sdtc-eval --truth synthetic --engine bundle/ --checkpoint ckpt.pth
  sdtc-eval --truth annotations/val/012834_mpii_test.json --predictions poses.json --ignore-extra
  sdtc-eval --truth coco/annotations/person_keypoints_val2017.json --engine vitpose/ --boxes detections.json

The ground truth is PoseTrack18's or PoseTrack21's JSON, or COCO's person keypoints: files, a folder of them, or a data
set's root (then annotations/val or posetrack_data/val is meant). Predictions are the same layout with a list of 17
`scores` for each pose, as sdtc-infer writes it, or COCO result lists with PoseTrack's 17 slots or COCO's 17 joints, as
the ground truth has. Images are matched by id, and by file
name where ids differ. --predictions, --engine and --checkpoint can be given together: each becomes a row.

Where annotations, or else their images, carry "difficulty": ["occluded", ...], there is a row for each label over the
people who carry it: predictions of other people are ignored in it, and a false positive counts in the rows of the
person that it is nearest to. --any-of occluded,blur adds a row for those who carry at least one of several labels.

PCK@0.2 is measured in torsos, from the left shoulder to the right hip; PCKh@0.5 in head sizes. COCO's AP and MOTA need
the extra `eval`.

The paper's numbers come from detector boxes. The annotated boxes, the default here, give higher ones: compare like with
like.

Exit codes: 0 done, 1 something broke, 2 unusable input, 130 interrupted."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sdtc-eval",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    required = parser.add_argument_group("required")
    required.add_argument("--truth", required=True, nargs="+", metavar="PATH", help="annotations: files or folders")
    what = parser.add_argument_group("what to evaluate, one or more of")
    what.add_argument("--predictions", nargs="+", metavar="PATH", help="poses: files or folders")
    what.add_argument("--engine", metavar="FILE", help="model.plan, model.onnx, or a bundle's folder")
    what.add_argument("--checkpoint", metavar="FILE", help="a PyTorch checkpoint, run on the crops that an engine gets")
    matching = parser.add_argument_group("predictions")
    matching.add_argument(
        "--ignore-extra", action="store_true", help="leave out poses in images that the ground truth does not have"
    )
    running = parser.add_argument_group("engines and checkpoints")
    running.add_argument(
        "--boxes", default="truth", metavar="truth|FILE",
        help="the annotated boxes, or a COCO detection list (default: truth)",
    )  # fmt: skip
    running.add_argument(
        "--images", type=given_path, metavar="DIR", help="where the images are (default: beside the annotations)"
    )
    add_backend_arguments(running)
    running.add_argument("--batch-size", type=int, metavar="N", help="people at once (default: the most possible)")
    results = parser.add_argument_group("results")
    results.add_argument(
        "--any-of", action="append", default=[], metavar="LABEL,…",
        help="one more row, over the people who carry any of these difficulties",
    )  # fmt: skip
    results.add_argument("--dataset", choices=DATASETS, help="print the paper's row of this data set as well")
    results.add_argument("--output", type=given_path, metavar="FILE", help="write everything as JSON")
    results.add_argument("--plot", type=given_path, metavar="FILE", help="draw the table and the curves as PNG")
    results.add_argument("--quiet", action="store_true", help="print nothing but errors")
    return parser


@command("sdtc-eval", options={"folder": "--images", "open_checkpoint": "--checkpoint", "draw": "--plot"})
def main(argv: Sequence[str] | None = None) -> int:
    parser = _parser()
    args = parser.parse_args(argv)
    if not (args.predictions or args.engine or args.checkpoint):
        parser.error("nothing to evaluate: give --predictions, --engine or --checkpoint")

    # Only now: `--help` and a mistyped option need none of this.
    from sdtc.core.errors import InputError
    from sdtc.core.files import write_json
    from sdtc.core.skeleton import COCO
    from sdtc.evaluation.reading import read_predictions, read_truth
    from sdtc.evaluation.score_table import PAPER, document, summary, table

    for option, value in (("--batch-size", args.batch_size), ("--threads", args.threads)):
        if value is not None and value < 1:
            raise InputError(f"{option} is {value}: expected at least 1")
    for option, path in (("--output", args.output), ("--plot", args.plot)):
        if path is not None and not path.absolute().parent.is_dir():  # before the work, not after it
            raise InputError(f"{option}: the folder '{path.parent}' does not exist: create it or choose another")
    if args.plot is not None:
        from sdtc.evaluation.plot import draw, require_matplotlib

        require_matplotlib()

    truth = read_truth(args.truth)
    if truth.people.skeleton == COCO:
        from sdtc.evaluation.oks import require_library

        require_library()
        if args.dataset:
            raise InputError(f"--dataset {args.dataset} is for PoseTrack's joints: the ground truth has COCO's")
    for labels in args.any_of:
        truth = truth.with_label_of_any(label.strip() for label in labels.split(","))
    results: list[Result] = []
    if args.predictions:
        poses = read_predictions(args.predictions, truth, args.ignore_extra)
        name = Path(args.predictions[0]).name or str(args.predictions[0])
        if len(args.predictions) > 1:
            name += f" and {len(args.predictions) - 1} more"
        notes = truth.notes + poses.notes
        results.append(_compare(truth, poses, name, "predictions", tuple(args.predictions), notes=notes))
    if args.engine or args.checkpoint:
        results += _run(args, truth)

    paper = PAPER[args.dataset] if args.dataset else None
    say(f"{table(results, paper)}\n\n{summary(results)}", quiet=args.quiet)
    if args.output is not None:
        settings = {
            "truth": [str(path) for path in args.truth],
            "boxes": str(args.boxes) if args.engine or args.checkpoint else None,
            "ignore_extra": args.ignore_extra,
            "any_of": args.any_of,
        }
        write_json(args.output, document(results, settings, args.dataset))
        say(f"wrote    {args.output}", quiet=args.quiet)
    if args.plot is not None:
        draw(args.plot, results, paper)
        say(f"wrote    {args.plot}", quiet=args.quiet)
    return 0


def _run(args: argparse.Namespace, truth: Truth) -> list[Result]:
    """Run the engine and the checkpoint, whichever is given, over the annotated images."""
    import sdtc.runtime
    from sdtc.evaluation.inference import file_boxes, find_images, open_checkpoint, truth_boxes
    from sdtc.runtime.options import EngineOptions

    images = find_images(truth, args.images)
    boxes = truth_boxes(truth) if args.boxes == "truth" else file_boxes(args.boxes, truth)
    results = []
    if args.engine:
        options = EngineOptions(args.device, args.backend, args.precision, args.threads, exact=True)
        with sdtc.runtime.open(args.engine, options) as engine:
            results.append(_run_one(args, truth, "engine", args.engine, engine, boxes, images))
    if args.checkpoint:
        with open_checkpoint(args.checkpoint, args.device, args.threads) as engine:
            results.append(_run_one(args, truth, "checkpoint", args.checkpoint, engine, boxes, images))
    say("", quiet=args.quiet)
    return results


def _run_one(
    args: argparse.Namespace,
    truth: Truth,
    kind: str,
    path: str,
    engine: PoseEngine,
    boxes: PeopleBoxes,
    images: dict[Path, dict[str, int]],
) -> Result:
    from tqdm import tqdm

    from sdtc.evaluation.inference import predict, predictions_in_boxes
    from sdtc.evaluation.score_table import KINDS

    say(f"{KINDS[kind]:8} {engine.manifest.name}, {engine.manifest.precision}, on {engine.backend}", quiet=args.quiet)
    if engine.notice:
        say(f"note     {engine.notice}", quiet=args.quiet)
    total = sum(map(len, images.values()))
    with tqdm(total=total, desc=kind, unit="frame", disable=True if args.quiet else None, leave=False) as bar:
        poses = predict(engine, truth, boxes, images, args.batch_size, bar.update)
    notes = truth.notes + boxes.notes + poses.notes
    if not engine.manifest.trained:
        notes = ("its checkpoint is untrained: its poses mean nothing", *notes)
    name = f"{Path(path).name or path} ({engine.backend.split(' ')[0]})"
    return _compare(
        truth, poses, name, kind, (str(path),), engine.backend, notes, predictions_in_boxes(truth, boxes, poses)
    )


def _compare(
    truth: Truth,
    poses: PredictedPoses,
    name: str,
    kind: str,
    sources: tuple[str, ...],
    backend: str = "",
    notes: tuple[str, ...] = (),
    prediction_of: np.ndarray | None = None,
) -> Result:
    """Evaluate predictions; `prediction_of` says whose they are where that is known, see `sdtc.evaluation.pck`."""
    from sdtc.core.errors import InputError, MissingExtraError
    from sdtc.core.skeleton import COCO
    from sdtc.evaluation.ap import evaluate, match_counts, people_by_label
    from sdtc.evaluation.mota import evaluate_tracks
    from sdtc.evaluation.oks import evaluate_oks
    from sdtc.evaluation.pck import pck, pckh
    from sdtc.evaluation.reading import NO_TRACK
    from sdtc.evaluation.score_table import Result

    evaluation, oks = None, None
    if truth.people.skeleton == COCO:
        oks = evaluate_oks(truth, poses)
        matched, counts = match_counts(truth.people, poses.people)
        counts = replace(  # no image is left out, as by PoseTrack's rules
            counts,
            frames=truth.people.num_frames,
            frames_unannotated=0,
            people=int(truth.people.labelled.any(axis=1).sum()),
            predictions=len(poses.scores),
            predictions_dropped=0,
        )
    else:
        evaluation = evaluate(truth.people, poses.people)
        matched, counts = evaluation.prediction_of, evaluation.counts
    whose = matched if prediction_of is None else prediction_of
    measures = tuple(measure(truth.people, poses.people, whose) for measure in (pck, pckh))
    by_label = {
        label: tuple(measure.of(people) for measure in measures)
        for label, people in people_by_label(truth.people).items()
    }
    tracks = None
    if evaluation is not None and (poses.track_ids != NO_TRACK).any():
        try:
            tracks = evaluate_tracks(
                truth.people, poses.people, truth.track_ids, poses.track_ids, truth.sequences
            )  # fmt: skip
        except (InputError, MissingExtraError) as error:  # what was asked for is AP
            notes = (*notes, f"tracks are not evaluated: {error}")
    return Result(name, kind, sources, counts, evaluation, oks, measures, by_label, tracks, backend, notes)


if __name__ == "__main__":
    sys.exit(main())
