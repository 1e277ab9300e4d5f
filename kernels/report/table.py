"""The report as text and as CSV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from sdtc.kernels.report.analysis import BATCH, KernelSummary
from sdtc.kernels.report.csv_file import write_rows
from sdtc.kernels.report.data_sheets import DATA_SHEETS


def table(rows: Iterable[KernelSummary]) -> str:
    """Return the report as text, one line for each kernel and architecture.

    The column SASS counts machine instructions, loops once; kB is what must be moved for a window, unfused what single
    operators move; under a GPU's name is the least time for a batch of `BATCH`.
    """
    head = (
        f"{'kernel':19} {'dtype':5} {'tactic':8} {'arch':7} {'regs':>4} {'spill':>5} {'shared':>6} "
        f"{'16-byte loads':>13} {'stores':>7} {'tensor':>6} {'SASS':>5} {'blocks':>6} "
        f"{'occup.':>6} {'kB':>6} {'unfused':>8}" + "".join(f" {gpu:>8}" for gpu in DATA_SHEETS)
    )
    lines = [head]
    for row in rows:
        lines.append(
            f"{row.operator:19} {row.dtype:5} {row.tactic:8} {row.architecture:7} {row.registers:4} "
            f"{row.spilled_bytes:5} {row.shared_bytes:6} {f'{row.vector_loads}/{row.loads}':>13} "
            f"{f'{row.vector_stores}/{row.stores}':>7} {row.tensor_core:6} {row.instructions:5} {row.blocks_per_sm:6} "
            f"{row.occupancy:6.0%} {row.compulsory_bytes / 1e3:6.0f} {row.unfused_bytes / 1e3:8.0f}"
            + "".join(f" {us:6.1f}µs" for us in row.bounds_us.values())
        )
    lines.append(f"kB a window; under a GPU's name, the least time for {BATCH} windows: a bound, not a measurement")
    return "\n".join(lines)


def write_csv(path: Path, rows: Sequence[KernelSummary]) -> None:
    """Write the report as CSV, with one column of bounds for each GPU."""
    flat = []
    for row in rows:
        values = asdict(row)
        bounds = values.pop("bounds_us")
        flat.append(values | {f"bound_us {name}": f"{value:.2f}" for name, value in bounds.items()})
    write_rows(path, flat)
