"""Reports for the rows of `latency.py`: a table, the promised ratios, a plot."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from latency_case import METHODS, ON_GPU

from sdtc.core.files import atomic_write

STAGES = ("decode", "detect", "crop", "encode", "gather", "temporal", "pose", "write")


def find_row(rows: list[dict[str, Any]], like: dict[str, Any], **other: Any) -> dict[str, Any] | None:
    """Return the row with the same setting, except for what `other` says; None if there is none."""
    wanted = {name: like[name] for name in ("preset", "people", "height", "drift")} | other
    return next((row for row in rows if all(row[name] == value for name, value in wanted.items())), None)


def table(rows: list[dict[str, Any]]) -> str:
    """Return two tables as text: the results, and the durations of the stages."""
    setting = f"{'preset':7}{'height':>6} {'people':>6} {'drift':>6}  {'what':36}"
    lines = [
        f"{setting}{'keyframes/s':>12}{'x PyTorch':>10}{'ms a person':>12}{'p50 ms':>9}{'p95':>9}{'p99':>9}"
        f"{'crops':>8}{'load s':>8}{'first s':>8}{'MiB':>7}"
    ]
    where = [f"{setting}p50 / p99 ms: " + "".join(f"{stage:>17}" for stage in STAGES)]
    for row in rows:
        start = (
            f"{row['preset']:7}{row['height']:>5}p {row['people']:6} {row['drift']:6.0%}  "
            f"{METHODS[row['case']].title:36}"
        )
        ratio = f"{row['x_torch']:.1f}x" if row["x_torch"] != "" else "–"
        lines.append(
            f"{start}{row['keyframes_per_second']:12.2f}{ratio:>10}{row['ms_per_person']:12.1f}"
            f"{row['latency_p50_ms']:9.1f}{row['latency_p95_ms']:9.1f}{row['latency_p99_ms']:9.1f}{row['crops_per_pose']:8.2f}"
            f"{row['load_s']:8.1f}{row['first_result_s']:8.1f}{row['peak_mib']:7.0f}"
        )
        cells = [
            f"{row[f'{stage}_p50_ms']:.1f} / {row[f'{stage}_p99_ms']:.1f}" if row[f"{stage}_p50_ms"] != "" else "–"
            for stage in STAGES
        ]
        where.append(f"{start}{'':14}" + "".join(f"{cell:>17}" for cell in cells))
    return "\n".join([*lines, "", *where])


def _best(rows: list[dict[str, Any]], **where: Any) -> dict[str, Any] | None:
    """Return the fastest streaming row on the CPU; None if there is none."""
    found = [
        row
        for row in rows
        if row["case"].endswith("-streaming")
        and not row["case"].startswith(ON_GPU)
        and all(row[name] == value for name, value in where.items())
    ]
    return max(found, key=lambda row: row["keyframes_per_second"], default=None)


def promises(rows: list[dict[str, Any]]) -> list[str]:
    """Return a line for each ratio that this project promises, as far as the rows contain it."""
    lines = []
    for preset, height in dict.fromkeys((row["preset"], row["height"]) for row in rows):
        drifts = sorted({row["drift"] for row in rows}, reverse=True)
        moving, first = [drift for drift in drifts if drift], {"preset": preset, "height": height, "people": 1}
        for drift in moving or drifts:
            best = _best(rows, **first, drift=drift)
            if best is not None:
                lines += _promises_of(rows, best)
        if (best := _best(rows, **first, drift=rows[0]["drift"])) is None:
            continue
        for row in [row for row in rows if row["case"].endswith("-streaming") and _like(row, best)]:
            windows = find_row(rows, row, case=row["case"].replace("-streaming", "-windows"))
            # auto may choose another backend for streaming than for whole windows.
            if windows and not row["case"].startswith("auto"):
                ratio = row["keyframes_per_second"] / windows["keyframes_per_second"]
                goal = " (promised: 3.5)" if preset == "base" else ""
                lines.append(f"{_where(row)}: {METHODS[row['case']].title}, over whole windows: {ratio:.1f}{goal}")
        if eight := find_row(rows, best, people=8, case=best["case"]):
            ratio = eight["ms_per_person"] / best["ms_per_person"]
            goal = {"base": " (promised: at most 1)", "tiny": " (promised: at most 0.7)"}.get(preset, "")
            title = METHODS[best["case"]].title
            lines.append(f"{_where(best)}: {title}, time a person with 8 people, over that with 1: {ratio:.2f}{goal}")
    return lines


def _promises_of(rows: list[dict[str, Any]], best: dict[str, Any]) -> list[str]:
    """Return the lines of the fastest way for one person."""
    start, lines, wanted = f"{_where(best)}: {METHODS[best['case']].title}", [], best["preset"] == "base"
    if best["x_torch"] != "":
        goal = " (promised: 15)" if wanted else ""
        lines.append(f"{start}, over PyTorch's sliding window: {best['x_torch']:.1f}{goal}")
    if best["drift"] and (still := find_row(rows, best, case=best["case"], drift=0.0)):
        ratio = best["keyframes_per_second"] / still["keyframes_per_second"]
        lines.append(f"{start}, over people who stand still: {ratio:.2f} (promised: 0.95)")
    spread = best["latency_p99_ms"] / best["latency_p50_ms"]
    lines.append(f"{start}, p99 over p50: {spread:.2f} (promised: at most 1.25)")
    if best["gather_p50_ms"] != "":
        share = best["gather_p50_ms"] / best["temporal_p50_ms"]
        lines.append(f"{start}, gathering and resampling over the temporal part: {share:.1%}")
    return lines


def _where(row: dict[str, Any]) -> str:
    people = "1 person" if row["people"] == 1 else f"{row['people']} people"
    return f"{row['preset']}, {row['height']}p, {people}, drift {row['drift']:.0%}"


def _like(row: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(row[name] == other[name] for name in ("preset", "people", "height", "drift"))


def draw(path: Path, rows: list[dict[str, Any]]) -> bool:
    """Plot the throughput for the smallest number of people, and the time per person over their number.

    Only the first height and drift that were measured are plotted.

    Returns:
        False if matplotlib is not installed.
    """
    if not find_spec("matplotlib"):
        return False
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import FixedLocator, FormatStrFormatter, NullLocator

    kinds = {  # by the end of the case's name
        "-streaming": ("streaming", "#0072B2", "-"),
        "-windows": ("whole windows", "#56B4E9", "--"),
        "": ("others", "#D55E00", ":"),
    }
    height, drift = rows[0]["height"], rows[0]["drift"]
    rows = [row for row in rows if (row["height"], row["drift"]) == (height, drift)]
    families = list(dict.fromkeys(_family(row["case"]) for row in rows))
    presets = list(dict.fromkeys(row["preset"] for row in rows))
    fewest, counts = min(row["people"] for row in rows), sorted({row["people"] for row in rows})
    most = max(sum(row["preset"] == preset for row in rows) for preset in presets) / len(counts)
    heights = [1.2 + 0.32 * most, 4.6][: 1 + (len(counts) > 1)]
    figure = Figure(figsize=(7.5 * len(presets), sum(heights) + 0.8), dpi=110, layout="constrained")
    axes = figure.subplots(len(heights), len(presets), squeeze=False, height_ratios=heights)
    for column, preset in enumerate(presets):
        here = [row for row in rows if row["preset"] == preset]
        bars = sorted((row for row in here if row["people"] == fewest), key=lambda row: row["keyframes_per_second"])
        axis = axes[0][column]
        drawn = axis.barh(
            [METHODS[row["case"]].title for row in bars],
            [row["keyframes_per_second"] for row in bars],
            color=[_kind(kinds, row["case"])[1] for row in bars],
        )
        labels = [
            f"{row['keyframes_per_second']:.3g}" + (f"  ({row['x_torch']:.1f}×)" if row["x_torch"] != "" else "")
            for row in bars
        ]
        axis.bar_label(drawn, labels, padding=3)
        axis.set_xlim(0, 1.6 * max(row["keyframes_per_second"] for row in bars))  # room for the labels
        axis.legend(handles=[Patch(color=colour, label=name) for name, colour, _ in kinds.values()], loc="lower right")
        people = "1 person" if fewest == 1 else f"{fewest} people"
        how = f"moving by {drift:.0%} of their width a frame" if drift else "standing still"
        axis.set(
            title=f"{preset}, {height}p, {people}, {how}", xlabel="keyframes a second (× PyTorch's sliding window)"
        )
        if len(heights) == 1:
            continue
        axis = axes[1][column]
        for case in dict.fromkeys(row["case"] for row in here):
            line = sorted((row for row in here if row["case"] == case), key=lambda row: row["people"])
            xs, ys = [row["people"] for row in line], [row["ms_per_person"] for row in line]
            colour = f"C{families.index(_family(case))}"
            axis.plot(xs, ys, _kind(kinds, case)[2], color=colour, marker="o", markersize=4, label=METHODS[case].title)
        axis.set(xscale="log", yscale="log", xlabel="people in the frame", ylabel="ms a person")
        axis.xaxis.set_major_locator(FixedLocator(counts))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FormatStrFormatter("%d"))
        axis.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.35, -0.15), handlelength=4)
    first = rows[0]
    figure.suptitle(f"{first['machine']}, {first['cpus']} CPUs, {first['date']}", fontsize="medium")
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png")
    return True


def _kind(kinds: dict[str, tuple[str, str, str]], case: str) -> tuple[str, str, str]:
    return next(kind for end, kind in kinds.items() if case.endswith(end))


def _family(case: str) -> str:
    return case.removesuffix("-streaming").removesuffix("-windows")
