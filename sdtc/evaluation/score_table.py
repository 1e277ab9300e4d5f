"""Evaluation results as text in the layout of the paper's tables, as a summary, and as a JSON document.

Results are of PoseTrack's AP or of COCO's, as the ground truth is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import sdtc
from sdtc.evaluation.ap import COLUMNS, HEAD_SIZE_FACTOR, JOINTS, MATCH_DISTANCE, Counts, Evaluation, Scores
from sdtc.evaluation.mota import TrackScores
from sdtc.evaluation.pck import PCK_DISTANCE, Pck

SCHEMA_VERSION = 1
KINDS = {"predictions": "poses", "engine": "engine", "checkpoint": "network"}  # with their names in the summary


@dataclass(frozen=True)
class PaperRow:
    """One row of the paper's Tables 1 to 3 (paper, section 7): AP in percent, Head to Total."""

    name: str
    values: tuple[float, ...]

    @property
    def columns(self) -> dict[str, float]:
        return dict(zip(COLUMNS, self.values, strict=True))


PAPER = {
    "posetrack2017": PaperRow("paper, Table 1: PoseTrack2017", (90.1, 92.1, 89.1, 85.1, 86.3, 87.7, 81.9, 87.5)),
    "posetrack2018": PaperRow("paper, Table 2: PoseTrack2018", (84.9, 88.6, 86.1, 83.1, 82.3, 85.2, 80.7, 84.3)),
    "posetrack21": PaperRow("paper, Table 3: PoseTrack21", (86.0, 87.3, 86.2, 84.0, 83.7, 85.1, 81.1, 84.9)),
}


@dataclass(frozen=True)
class Result:
    """One set of predictions, evaluated.

    Attributes:
        name: in the table.
        kind: a key of `KINDS`.
        sources: paths of the predictions, the engine or the checkpoint.
        counts: of frames, people and predictions.
        evaluation: PoseTrack's AP; None for COCO's joints.
        oks: COCO's AP and AR, percent by column, see `sdtc.evaluation.oks`; None for PoseTrack's joints.
        pck: PCK and PCKh of everybody.
        pck_by_label: the same of the people who carry a label, by label.
        tracks: the accuracy of tracks; None if the predictions have no track ids, or if it cannot be measured.
        backend: what computed the poses; "" for files.
        notes: sentences about what was skipped or assumed.
    """

    name: str
    kind: str
    sources: tuple[str, ...]
    counts: Counts
    evaluation: Evaluation | None
    oks: dict[str, float] | None
    pck: tuple[Pck, ...]
    pck_by_label: dict[str, tuple[Pck, ...]]
    tracks: TrackScores | None = None
    backend: str = ""
    notes: tuple[str, ...] = ()

    @property
    def ap(self) -> dict[str, float]:
        """AP in percent by column, PoseTrack's or COCO's."""
        if self.oks is not None:
            return self.oks
        assert self.evaluation is not None  # one of the two is there
        return self.evaluation.scores.columns

    @property
    def by_label(self) -> dict[str, Scores]:
        """PoseTrack's scores by label."""
        return {} if self.evaluation is None else self.evaluation.by_label

    @property
    def pck_notes(self) -> list[str]:
        """Sentences about who is left out of PCK: the same for all results of one ground truth."""
        return [measure.note for measure in self.pck if measure.note]


def table(results: Sequence[Result], paper: PaperRow | None = None) -> str:
    """Return tables with a row for each result, for each of its labels, and for the paper's values: of AP; of PCK
    and PCKh where anybody could be measured; and of the accuracy of tracks where there are any."""
    rows: list[tuple[str, dict[str, float]]] = []
    for result in results:
        rows.append((result.name, result.ap))
        for label, scores in result.by_label.items():
            rows.append((_label_row(label, scores.people), scores.columns))
    if paper is not None:
        rows.append((paper.name, paper.columns))
    tables = [("AP" if results[0].oks is None else "COCO", rows)]
    for number, measure in enumerate(results[0].pck):
        if measure.people:
            rows = []
            for result in results:
                rows.append((result.name, result.pck[number].columns))
                for label, of_label in result.pck_by_label.items():
                    rows.append((_label_row(label, of_label[number].people), of_label[number].columns))
            tables.append((measure.name, rows))
    tracked = [(result.name, result.tracks.columns) for result in results if result.tracks is not None]
    if tracked:
        tables.append(("MOTA", tracked))
    return text_tables(tables)


def text_tables(tables: Iterable[tuple[str, Sequence[tuple[str, Mapping[str, float]]]]]) -> str:
    """Return tables of percentages as text, one below the other, with first columns of the same width.

    Args:
        tables: of each its name, and of its rows name and values by column.
    """
    tables = list(tables)
    first = max(len(name) for _, rows in tables for name, _ in rows)
    texts = []
    for title, rows in tables:
        lines = [" ".join([title.ljust(first), *(f"{name:>8}" for name in rows[0][1])])]
        for name, columns in rows:
            lines.append(" ".join([name.ljust(first), *(f"{_cell(value):>8}" for value in columns.values())]))
        texts.append("\n".join(lines))
    return "\n\n".join(texts)


def _label_row(label: str, people: int) -> str:
    return f"  {label} ({count(people, 'person', 'people')})"


def summary(results: Sequence[Result]) -> str:
    """Return sentences about what was evaluated: frames, people, and what was skipped."""
    truth = results[0].counts
    lines = [f"truth    {count(truth.people, 'person', 'people')} in {count(truth.frames, 'frame')}"]
    if truth.frames_unannotated:
        lines.append(f"note     {count(truth.frames_unannotated, 'frame')} without annotation left out on both sides")
    lines += [f"note     {note}" for note in results[0].pck_notes]
    for result in results:
        counts = result.counts
        lines.append(
            f"{KINDS[result.kind]:8} {result.name}: {count(counts.predictions, 'pose')}, {counts.people_found:,} of "
            f"{count(counts.people, 'person', 'people')} found"
        )
        if counts.people_found and result.evaluation is not None:
            error = result.evaluation.scores.mean_error
            lines[-1] += f", their joints {error:.2f} pixels from the truth on average"
        if counts.frames_unpredicted:
            frames = count(counts.frames_unpredicted, "frame")
            lines.append(f"note     {frames} without any prediction: everybody there counts as missed")
        lines += [f"note     {note}" for note in result.notes]
    return "\n".join(lines)


def document(results: Sequence[Result], settings: dict[str, Any], dataset: str | None = None) -> dict[str, Any]:
    """Return all results as plain JSON types; an AP that is not defined is null.

    Args:
        results: the evaluations.
        settings: of the evaluations, in plain JSON types.
        dataset: a key of `PAPER`.
    """
    paper = PAPER[dataset] if dataset else None
    return {
        "schema_version": SCHEMA_VERSION,
        "created_by": f"sdtc {sdtc.__version__}",
        "settings": {
            **settings,
            "dataset": dataset,
            "match_distance_in_head_sizes": MATCH_DISTANCE,
            "head_size_over_head_box_diagonal": HEAD_SIZE_FACTOR,
            "pck_distance_in_torsos": PCK_DISTANCE,
        },
        "paper": {"name": paper.name, "ap": paper.columns} if paper else None,
        "results": [
            {
                "name": result.name,
                "kind": result.kind,
                "sources": list(result.sources),
                "backend": result.backend or None,
                "counts": vars(result.counts),
                **({} if result.evaluation is None else _scores(result.evaluation.scores)),
                **({} if result.oks is None else {"coco": {name: _number(x) for name, x in result.oks.items()}}),
                **_pck(result.pck),
                "tracks": None if result.tracks is None else _tracks(result.tracks),
                "difficulty": {
                    label: (_scores(result.by_label[label]) if label in result.by_label else {}) | _pck(measures)
                    for label, measures in result.pck_by_label.items()
                },
                "notes": [*result.notes, *result.pck_notes],
            }
            for result in results
        ],
    }


def count(number: int, one: str, many: str | None = None) -> str:
    """Return a number and its noun: ``1 frame``, ``2,000 people``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _scores(scores: Scores) -> dict[str, Any]:
    return {
        "people": scores.people,
        "ap": {name: _number(value) for name, value in scores.columns.items()},
        "mean_error_pixels": _number(scores.mean_error),
        "joints": {
            name: {
                "ap": _number(scores.ap[j]),
                "precision": _number(scores.precision[j]),
                "recall": _number(scores.recall[j]),
                "labelled": int(scores.labelled[j]),
                "predicted": int(scores.predicted[j]),
                "matched": int(scores.matched[j]),
            }
            for j, name in enumerate(JOINTS)
        },
    }


def _pck(measures: Sequence[Pck]) -> dict[str, Any]:
    return {
        measure.name: {
            "people": measure.people,
            "columns": {name: _number(value) for name, value in measure.columns.items()},
            "joints": dict(zip(measure.skeleton.keypoints, map(_number, measure.by_joint), strict=True)),
        }
        for measure in measures
    }


def _tracks(scores: TrackScores) -> dict[str, Any]:
    counts = ("misses", "switches", "false_positives", "objects", "pairs", "idtp", "idfp", "idfn")
    percents = ("mota", "motp", "precision", "recall", "idf1")
    return {
        "columns": {name: _number(value) for name, value in scores.columns.items()},
        "joints": {
            joint: {name: _number(getattr(scores, name)[j]) for name in percents}
            | {name: int(getattr(scores, name)[j]) for name in counts}
            for j, joint in enumerate(JOINTS)
        },
    }


def _number(value: float | np.floating[Any]) -> float | None:
    return None if math.isnan(value) else float(value)


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"
