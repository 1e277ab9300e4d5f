"""Draw the rooms of the package and who imports whom, from the imports themselves.

    python docs/architecture.py            writes docs/architecture.svg
    python docs/architecture.py --output FILE.png

An arrow means "imports". Arrows that follow from others are left out: if A imports B and B imports C, an import of C
by A is not drawn. Everything may import `core`, so it is drawn as the ground. What counts as a room, and the imports,
come from tests/test_imports.py; tests/test_doc_facts.py fails when the drawing is out of date.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

ROOT = Path(__file__).resolve().parents[1]
GROUND = "core"
ZONES = {"runtime": (0.0, 5.7), "other": (5.95, 10.2)}  # left and right edge, the latter at least
# Where arrows cross least; a room that is not here is put in the middle of what is free in its row.
CENTRES = {
    "runtime.people": 0.95, "runtime.sources": 2.85, "runtime.backends": 4.75,
    "runtime.check": 0.95, "runtime.options": 0.95, "runtime.track_all": 2.85, "runtime.input_run": 2.85,
    "runtime.output": 0.95, "runtime.pipeline": 2.85, "runtime.estimation": 4.75,
    "runtime.engine": 2.85, "runtime.run": 2.85, "runtime.cli": 2.85,
    "synthetic": 7.0, "export": 7.0, "kernels.plugins": 7.0,
    "kernels": 9.2, "kernels.common": 9.2, "kernels.operators": 9.2, "model": 9.2,
    "evaluation": 9.2, "training": 9.2, "visualization": 9.2,
    "kernels.aot": 11.4, "kernels.report": 11.4,
}  # fmt: skip
COLOURS = {"runtime": "#d7e8f7", "kernels": "#fbe3d0", "export": "#e8def4", "other": "#e3f1dc"}
ROW, WIDTH, HEIGHT = 1.15, 1.78, 0.56


def load_imports() -> Any:
    """Return tests/test_imports.py as a module."""
    spec = importlib.util.spec_from_file_location("test_imports", ROOT / "tests" / "test_imports.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["test_imports"] = module
    spec.loader.exec_module(module)
    return module


def rooms_and_arrows() -> tuple[list[str], dict[str, set[str]]]:
    """Return the rooms from the ground up, and by room the rooms that it imports directly."""
    imports = load_imports()
    found = imports.arrows()
    return [room for room in imports.MAY_IMPORT if room in found], {room: set(found[room]) for room in found}


def reachable(arrows: dict[str, set[str]], room: str) -> set[str]:
    below: set[str] = set()
    for target in arrows[room]:
        below |= {target} | reachable(arrows, target)
    return below


def reduced(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """Leave out the arrows that follow from others."""
    return {
        room: targets - {below for target in targets for below in reachable(arrows, target)}
        for room, targets in arrows.items()
    }


def drawn_arrows() -> set[tuple[str, str]]:
    """Return the arrows that the drawing shows; those to the ground are not."""
    _, arrows = rooms_and_arrows()
    return {(room, target) for room, targets in reduced(arrows).items() for target in targets if target != GROUND}


def place(rooms: list[str], arrows: dict[str, set[str]]) -> dict[str, tuple[float, float]]:
    """Return the centre of every room but the ground: as high as the longest chain of imports below it."""
    level: dict[str, int] = {}
    for room in rooms:  # each stands after everything that it imports
        level[room] = 0 if room == GROUND else 1 + max((level[target] for target in arrows[room]), default=0)
    centres = {}
    for height in range(1, max(level.values()) + 1):
        for zone, (left, right) in ZONES.items():
            row = [room for room in rooms if level[room] == height and zone_of(room) == zone]
            centres |= {room: (CENTRES[room], height * ROW) for room in row if room in CENTRES}
            new = [room for room in row if room not in CENTRES]
            for index, room in enumerate(new):
                centres[room] = (left + (right - left) * (index + 0.5) / len(new), height * ROW)
    return centres


def zone_of(room: str) -> str:
    return "runtime" if room.startswith("runtime") else "other"


def label_of(room: str, rooms: list[str]) -> str:
    """The folder or module that a room is."""
    parts = room.split(".")
    path = ROOT.joinpath(*parts) if (ROOT / parts[0]).is_dir() else ROOT.joinpath("sdtc", *parts)
    name = path.relative_to(ROOT).as_posix()
    if any(other.startswith(f"{room}.") for other in rooms):
        return f"{name}/__init__.py"  # the rest of the folder is rooms of their own
    return f"{name}/" if path.is_dir() else f"{name}.py"


def draw(path: Path) -> None:
    rooms, arrows = rooms_and_arrows()
    centres = place(rooms, arrows)
    top = max(y for _, y in centres.values()) + 0.75
    edge = max(ZONES["other"][1], *(x + WIDTH / 2 for x, _ in centres.values()))
    figure = Figure(figsize=(edge, 0.92 * top + 0.4))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(-0.15, edge + 0.15)
    axes.set_ylim(-0.45, top)
    axes.axis("off")
    for zone, title in (("runtime", "runtime: bundle and video to poses"), ("other", "network, training, export")):
        left, right = ZONES[zone]
        axes.text(
            (left + max(right, edge if zone == "other" else 0.0)) / 2,
            top - 0.3,
            title,
            ha="center",
            fontsize=11,
            color="#555555",
        )
    for room, target in sorted(drawn_arrows()):
        (x0, y0), (x1, y1) = centres[room], centres[target]
        hidden = any(x == x0 == x1 and y1 < y < y0 for x, y in centres.values())  # behind a room between them
        arrow = FancyArrowPatch(
            (x0, y0 - HEIGHT / 2), (x1, y1 + HEIGHT / 2), arrowstyle="-|>", mutation_scale=11, lw=1.0, color="#667788",
            connectionstyle=f"arc3,rad={0.25 if hidden else 0.0}",
        )  # fmt: skip
        arrow.set_gid(f"arrow {room} {target}")
        axes.add_patch(arrow)
    boxes = {room: (x - WIDTH / 2, y - HEIGHT / 2, WIDTH) for room, (x, y) in centres.items()}
    if GROUND in rooms:
        boxes[GROUND] = (0.0, -HEIGHT / 2, edge)
    for room, (left, bottom, width) in boxes.items():
        kind = next((name for name in COLOURS if room.split(".")[0] == name), "other")
        box = FancyBboxPatch(
            (left, bottom), width, HEIGHT, boxstyle="round,pad=0,rounding_size=0.08", fc=COLOURS[kind], ec="#445566",
            lw=1.0, zorder=2,
        )  # fmt: skip
        box.set_gid(f"room {room}")
        axes.add_patch(box)
        note = " (everything may import it)" if room == GROUND else ""
        axes.text(
            left + width / 2, bottom + HEIGHT / 2, label_of(room, rooms) + note, ha="center", va="center", fontsize=9.5,
            family="DejaVu Sans Mono", zorder=3,
        )  # fmt: skip
    # The same drawing gives the same file: fixed ids and no date.
    with matplotlib.rc_context({"svg.hashsalt": "sdtc"}):
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None, facecolor="white")
    if path.suffix == ".svg":  # matplotlib leaves blanks at the ends of lines
        text = path.read_text(encoding="utf-8")
        path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "architecture.svg", metavar="FILE")
    draw(parser.parse_args().output)


if __name__ == "__main__":
    main()
