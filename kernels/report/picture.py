"""The report as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sdtc.core.files import atomic_write
from sdtc.kernels.report.analysis import BATCH, KernelSummary
from sdtc.kernels.report.data_sheets import DATA_SHEETS


def draw(path: Path, rows: Sequence[KernelSummary]) -> bool:
    """Draw the bytes that fused and unfused operators move, and the bounds.

    Returns:
        Whether it was drawn: False without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return False
    half = [row for row in rows if row.dtype in ("fp16", "u8") and row.architecture == rows[0].architecture]
    first = list({row.operator: row for row in half}.values())
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    places = range(len(first))
    left.bar([p - 0.2 for p in places], [row.compulsory_bytes / 1e6 for row in first], 0.4, label="fused")
    left.bar([p + 0.2 for p in places], [row.unfused_bytes / 1e6 for row in first], 0.4, label="single operators")
    left.set(title="Memory traffic of one window, fp16", ylabel="MB", xticks=list(places))
    left.set_xticklabels([row.operator.replace("_", "\n") for row in first], fontsize=8)
    left.legend()
    width = 0.8 / len(DATA_SHEETS)
    for i, gpu in enumerate(DATA_SHEETS):
        start = (i - len(DATA_SHEETS) / 2) * width
        right.bar([p + start for p in places], [row.bounds_us[gpu] for row in first], width, label=gpu)
    right.set(title=f"Least time for {BATCH} windows (bound, not measured)", ylabel="µs", xticks=list(places))
    right.set_yscale("log")
    right.set_xticklabels([row.operator.replace("_", "\n") for row in first], fontsize=8)
    right.legend(fontsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return True
