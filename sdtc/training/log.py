"""The log of a run: a CSV row per epoch, a plot of the curves, and TensorBoard events if it is installed."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from sdtc.core.errors import InputError
from sdtc.core.files import atomic_write
from sdtc.training.losses import Losses

CSV, CURVES = "log.csv", "curves.png"
_LOSSES = ("total", "heatmaps", "contexts", "heatmap_sequence")
COLUMNS = ("epoch", "step", "learning_rate", *_LOSSES, "val_ap", "windows_per_second", "data_wait", "seconds")


class RunLog:
    """Sums up the steps of an epoch, and writes a row for it.

    Args:
        folder: of the run.
        step: number of steps that a resumed run has already taken; rows of later steps are dropped.
        enabled: False in all processes but one.
    """

    def __init__(self, folder: Path, step: int, enabled: bool = True) -> None:
        self.folder, self.enabled = folder, enabled
        self.rows = [row for row in _checked_rows(folder / CSV) if int(row["step"]) <= step] if step else []
        self._board = None
        if enabled and find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
        self._reset()

    def add(self, losses: Losses, waited: float, seconds: float, windows: int) -> None:
        """Add one step.

        Args:
            losses: of the step.
            waited: seconds spent waiting for data.
            seconds: total duration of the step.
            windows: number of windows in the step, over all processes.
        """
        for name in _LOSSES:
            self._sums[name] += float(getattr(losses, name).detach())
        self._steps += 1
        self._waited += waited
        self._seconds += seconds
        self._windows += windows

    def end_epoch(self, epoch: int, step: int, rate: float, val_ap: float | None) -> dict[str, str]:
        """Write the row of an epoch, and start the next epoch.

        Args:
            epoch: number of finished epochs.
            step: number of finished steps.
            rate: learning rate of the last step.
            val_ap: validation AP, percent; None without validation.

        Returns:
            The row, with the keys `COLUMNS`; empty if no step was added.
        """
        if not self.enabled or not self._steps:
            return {}
        means = {name: self._sums[name] / self._steps for name in _LOSSES}
        speed = self._windows / self._seconds
        values = [epoch, step, f"{rate:.3g}", *(f"{means[name]:.6g}" for name in _LOSSES)]
        values += ["" if val_ap is None else f"{val_ap:.2f}", f"{speed:.1f}", f"{self._waited / self._seconds:.4f}"]
        values.append(f"{time.monotonic() - self._start:.1f}")
        self.rows.append(dict(zip(COLUMNS, map(str, values), strict=True)))
        write_rows(self.folder / CSV, COLUMNS, self.rows)
        if self._board is not None:
            for name, value in means.items():
                self._board.add_scalar(f"loss/{name}", value, step)
            self._board.add_scalar("learning_rate", rate, step)
            if val_ap is not None:
                self._board.add_scalar("val/AP", val_ap, step)
            self._board.flush()
        if find_spec("matplotlib") is not None:
            draw_curves(self.folder / CURVES, self.rows)
        self._reset()
        return self.rows[-1]

    def _reset(self) -> None:
        self._sums = dict.fromkeys(_LOSSES, 0.0)
        self._steps = self._windows = 0
        self._waited = self._seconds = 0.0
        self._start = time.monotonic()


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file by column names; none if the file does not exist."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _checked_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a log.

    Raises:
        InputError: the file cannot be read, or is not such a log.
    """
    try:
        rows = read_rows(path)
        for row in rows:
            if tuple(row) != COLUMNS or not all(math.isfinite(float(row[name] or 0)) for name in COLUMNS):
                raise ValueError
            if min(int(row["epoch"]), int(row["step"])) < 1:
                raise ValueError
    except (OSError, ValueError, TypeError, csv.Error):
        raise InputError(f"'{path}' is not a log that sdtc-train wrote: move it away") from None
    return rows


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, str]]) -> None:
    """Write a CSV file with a header, atomically.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def draw_curves(path: Path, rows: list[dict[str, str]]) -> None:
    """Draw the training losses and the validation AP of all epochs into a PNG, atomically.

    Args:
        path: the picture.
        rows: of the log, by `COLUMNS`; at least one.

    Raises:
        OutputError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # not pyplot: no window system, no global state

    epochs = [int(row["epoch"]) for row in rows]
    figure = Figure(figsize=(10, 4))
    left, right = figure.subplots(1, 2)
    # Without masked training the loss has one term: a second line would hide the total.
    for name in _LOSSES if any(float(row["heatmap_sequence"]) for row in rows) else _LOSSES[:1]:
        values = [float(row[name]) for row in rows]
        if any(values):
            left.plot(epochs, values, marker=".", label=name.replace("_", " "))
    left.set_yscale("log")
    left.set_xlabel("epoch")
    left.set_ylabel("training loss")
    left.legend()
    scored = [(epoch, float(row["val_ap"])) for epoch, row in zip(epochs, rows, strict=True) if row["val_ap"]]
    if scored:
        right.plot(*zip(*scored, strict=True), marker=".", color="C2")
    right.set_xlabel("epoch")
    right.set_ylabel("validation AP")
    right.set_ylim(0, 100)
    figure.tight_layout()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
