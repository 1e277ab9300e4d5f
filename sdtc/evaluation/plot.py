"""Plot of an evaluation: AP by column beside the paper's, precision-recall curves, and AP by difficulty.

Of COCO's AP there are no curves: bars show PCK in their place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from sdtc.core.errors import require
from sdtc.core.files import atomic_write
from sdtc.core.names import drawable
from sdtc.evaluation.ap import COLUMNS, Scores
from sdtc.evaluation.score_table import PaperRow, Result

_RECALL = np.linspace(0, 1, 501)
# Okabe and Ito's colours, which colour-blind people can tell apart.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442", "#999999")
_PAPER_COLOUR = "#D55E00"


def require_matplotlib() -> ModuleType:
    """Import matplotlib, or say which extra to install."""
    return require("matplotlib", "train", "`draw`")


def draw(path: Path, results: Sequence[Result], paper: PaperRow | None = None) -> None:
    """Plot evaluations to a PNG file, atomically.

    The upper half shows AP by column as bars, one colour per result, with lines for the paper's values. The lower half
    shows the precision-recall curves of the first result: each curve is the mean of its column's joints, so that the
    area below it is the column's AP. If people have labels, a table shows the first result's AP by label. For COCO's
    joints, the upper half shows COCO's AP and AR, the lower half PCK.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    require_matplotlib()
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    figure = Figure(figsize=(11, 8.5), dpi=120, layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(0.75, 1))
    names = [result.name for result in results]
    values = [result.ap for result in results]
    evaluation = results[0].evaluation
    if evaluation is None:
        _bars(figure.add_subplot(grid[0, :]), "COCO's AP and AR", names, values)
        measure = results[0].pck[0]
        _bars(figure.add_subplot(grid[1, :]), measure.name, names, [result.pck[0].columns for result in results])
    else:
        labels = evaluation.by_label
        _bars(figure.add_subplot(grid[0, :]), "PoseTrack AP", names, values, paper)
        _curves(figure.add_subplot(grid[1, 0] if labels else grid[1, :]), names[0], evaluation.scores)
        if labels:
            _labels(figure.add_subplot(grid[1, 1]), names[0], {"everybody": evaluation.scores, **labels})
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")


def column_curve(scores: Scores, column: str) -> np.ndarray:
    """Return the mean precision of a column's joints at 501 recalls from 0 to 1; its mean is about the column's AP."""
    curves = []
    for j in COLUMNS[column]:
        if not scores.labelled[j]:
            continue
        curve = scores.curves[j]
        reached = np.searchsorted(curve.recall, _RECALL - 1e-12)  # the first point at this recall or beyond
        curves.append(np.append(curve.envelope, 0.0)[reached])
    return np.mean(curves, axis=0) if curves else np.full(len(_RECALL), np.nan)


def _bars(
    axes: Any, title: str, names: Sequence[str], rows: Sequence[Mapping[str, float]], paper: PaperRow | None = None
) -> None:
    """Draw percentages by column, those of a name in one colour."""
    columns = list(rows[0])
    places = np.arange(len(columns))
    width = 0.8 / len(rows)
    for number, (name, row) in enumerate(zip(names, rows, strict=True)):
        values = list(row.values())
        left = places - 0.4 + number * width
        axes.bar(left, np.nan_to_num(values), width * 0.94, align="edge", color=_colour(number), label=drawable(name))
        for x, value in zip(left + width * 0.47, values, strict=True):
            text = "-" if np.isnan(value) else f"{value:.1f}"
            size = 9 if len(rows) < 3 else 7
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5}  # above the paper's lines
            axes.text(x, np.nan_to_num(value) + 1, text, ha="center", va="bottom", fontsize=size, bbox=box)
    if paper is not None:
        axes.hlines(paper.values, places - 0.44, places + 0.44, _PAPER_COLOUR, lw=2, label=paper.name)
    axes.set_xticks(places, columns)
    axes.set_xlim(-0.55, len(columns) - 0.45)
    axes.set_ylim(0, 107)
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("%")
    axes.set_title(title, loc="left", fontsize=11)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, fontsize=9, frameon=False, borderaxespad=0.2)
    _clean(axes)


def _curves(axes: Any, name: str, scores: Scores) -> None:
    for number, (column, ap) in enumerate(scores.columns.items()):
        total = column == "Total"
        style = {"color": "black", "lw": 2.5} if total else {"color": _colour(number), "lw": 1.5}
        label = f"{column}  {'-' if np.isnan(ap) else f'{ap:.1f}'}"
        axes.plot(_RECALL, column_curve(scores, column), label=label, **style)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision (highest from this recall on)")
    axes.set_title(f"{drawable(name)}: the area below a curve is its AP", loc="left", fontsize=11)
    axes.legend(loc="lower left", fontsize=9, frameon=False)
    _clean(axes)


def _labels(axes: Any, name: str, rows: Mapping[str, Scores]) -> None:
    """Draw a heat map: one row for everybody and one for each label, with the columns of the table."""
    values = np.array([list(scores.columns.values()) for scores in rows.values()])  # [labels, columns]
    axes.imshow(values, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            text = "-" if np.isnan(value) else f"{value:.1f}"
            axes.text(x, y, text, ha="center", va="center", fontsize=9, color="white" if value < 60 else "black")
    axes.set_xticks(range(len(COLUMNS)), COLUMNS, rotation=30, ha="right")
    axes.set_yticks(range(len(rows)), [f"{label}\n{scores.people:,} people" for label, scores in rows.items()])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(f"{drawable(name)}: AP by difficulty", loc="left", fontsize=11)


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _clean(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
