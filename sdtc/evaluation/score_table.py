"""Evaluation results as text in the layout of the paper's tables, as a summary, and as a JSON document."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import sdtc
from sdtc.evaluation.ap import COLUMNS, HEAD_SIZE_FACTOR, JOINTS, MATCH_DISTANCE, Evaluation, Scores

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
        evaluation: the scores.
        backend: what computed the poses; "" for files.
        notes: sentences about what was skipped or assumed.
    """

    name: str
    kind: str
    sources: tuple[str, ...]
    evaluation: Evaluation
    backend: str = ""
    notes: tuple[str, ...] = ()


def table(results: Sequence[Result], paper: PaperRow | None = None) -> str:
    """Return a table with a row for each result, for each of its labels, and for the paper's values."""
    rows: list[tuple[str, dict[str, float]]] = []
    for result in results:
        rows.append((result.name, result.evaluation.scores.columns))
        for label, scores in result.evaluation.by_label.items():
            rows.append((f"  {label} ({count(scores.people, 'person', 'people')})", scores.columns))
    if paper is not None:
        rows.append((paper.name, paper.columns))
    first = max(len(name) for name, _ in rows)
    lines = [" ".join(["AP".ljust(first), *(f"{name:>8}" for name in COLUMNS)])]
    for name, columns in rows:
        lines.append(" ".join([name.ljust(first), *(f"{_cell(columns[column]):>8}" for column in COLUMNS)]))
    return "\n".join(lines)


def summary(results: Sequence[Result]) -> str:
    """Return sentences about what was evaluated: frames, people, and what was skipped."""
    truth = results[0].evaluation.counts
    lines = [f"truth    {count(truth.people, 'person', 'people')} in {count(truth.frames, 'frame')}"]
    if truth.frames_unannotated:
        lines.append(f"note     {count(truth.frames_unannotated, 'frame')} without annotation left out on both sides")
    for result in results:
        counts, error = result.evaluation.counts, result.evaluation.scores.mean_error
        lines.append(
            f"{KINDS[result.kind]:8} {result.name}: {count(counts.predictions, 'pose')}, {counts.people_found:,} of "
            f"{count(counts.people, 'person', 'people')} found"
        )
        if counts.people_found:
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
        },
        "paper": {"name": paper.name, "ap": paper.columns} if paper else None,
        "results": [
            {
                "name": result.name,
                "kind": result.kind,
                "sources": list(result.sources),
                "backend": result.backend or None,
                "counts": vars(result.evaluation.counts),
                **_scores(result.evaluation.scores),
                "difficulty": {label: _scores(scores) for label, scores in result.evaluation.by_label.items()},
                "notes": list(result.notes),
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


def _number(value: float | np.floating[Any]) -> float | None:
    return None if math.isnan(value) else float(value)


def _cell(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"
