"""Draw docs/streaming.svg: windows and look-ahead, what is encoded when, and a held box.

    python docs/streaming.py        needs matplotlib, which the extra `train` brings

What is encoded in the second and third panel is asked of the runtime's own code, `windows` and `TokenCache`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sdtc.runtime.estimation.token_cache import HOLD, TokenCache
from sdtc.runtime.sources.base import Frame
from sdtc.runtime.sources.windows import windows

DELTA, FRAMES = 2, 10
WIDTH = 60.0  # of the person's crop box, pixels
STILL = np.full(FRAMES, 100.0)  # left edge of a person's crop box in each frame, pixels
MOVING = STILL + np.array([0, 0, 0, 0, 0, 1, 3, 3, 3, 3])
KEYFRAME, SUPPORTING, CACHED, NONE = "#00796b", "#80cbc4", "#e3eeec", "#ffffff"
EDGE, NOTE = "#37474f", "#b23c17"


def cell(axes: Axes, x: float, y: float, colour: str, text: str = "") -> None:
    axes.add_patch(Rectangle((x - 0.42, y - 0.36), 0.84, 0.72, fc=colour, ec=EDGE, lw=0.8))
    white = colour == KEYFRAME
    axes.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if white else EDGE)


def panel(axes: Axes, title: str, height: float) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=EDGE)
    axes.set_xlim(-3.4, FRAMES + 3.6)
    axes.set_ylim(-height, 0.9)
    axes.axis("off")


def key_windows() -> list[tuple[int, list[int]]]:
    """Return every keyframe with the frames of its window, as the runtime forms them."""
    image = np.zeros((2, 2, 3), np.uint8)
    frames = [Frame(index, index, None, image) for index in range(FRAMES)]
    return [(keyframe.index, [frame.index for frame in window]) for keyframe, window in windows(frames, DELTA)]


def encoded(lefts: np.ndarray) -> list[tuple[int, list[int], set[int], float]]:
    """Ask the token cache what it encodes for a crop box whose left edge is at `lefts` in each frame.

    Returns:
        For every keyframe: its index, its window, the frames to encode, and how far the box that was held until then
        is off, as a share of the box's width.
    """
    cache, found, held = TokenCache(2 * DELTA + 1), [], float(lefts[0])
    for keyframe, window in key_windows():
        crop_box = np.array([[lefts[keyframe], 50.0, WIDTH, 80.0]])
        schedule = cache.schedule(keyframe, window, crop_box, [0])
        cache.release()
        off = abs(float(lefts[keyframe]) - held) / WIDTH
        found.append((keyframe, window, {frame for frame, _, _ in schedule.encode}, off))
        held = float(schedule.crop_boxes[0, 0])
    return found


def draw_lookahead(axes: Axes) -> None:
    panel(axes, "1. A window: the keyframe t and the δ = 2 frames on either side of it", 2.6)
    keyframe, window = key_windows()[4]
    for frame in range(FRAMES):
        colour = KEYFRAME if frame == keyframe else SUPPORTING if frame in window else NONE
        cell(axes, frame, 0, colour, f"t{frame - keyframe:+d}" if frame != keyframe else "t")
    axes.text(-0.8, 0, "frames", ha="right", va="center", fontsize=9, color=EDGE)
    axes.annotate(
        "", (keyframe + DELTA + 0.42, -0.75), (keyframe + 0.42, -0.75), arrowprops={"arrowstyle": "->", "color": NOTE}
    )
    axes.text(
        keyframe + 0.5, -1.35, "look-ahead: the pose of t is computed when t+2 has been read.\n"
        "At 25 frames a second that is 80 ms of latency.", fontsize=9, color=NOTE, va="center",
    )  # fmt: skip
    axes.text(keyframe, -2.25, "keyframe", ha="center", fontsize=9, color=KEYFRAME)
    axes.plot([keyframe, keyframe], [-1.95, -0.45], color=KEYFRAME, lw=0.8)


def draw_rows(axes: Axes, title: str, lefts: np.ndarray, first: int) -> None:
    """Draw three windows, a row each: encoded frames, and those whose tokens are in the cache."""
    panel(axes, title, 3.1)
    for row, (keyframe, window, new, off) in enumerate(encoded(lefts)[first : first + 3]):
        axes.text(-0.8, -row, f"keyframe {keyframe}", ha="right", va="center", fontsize=9, color=EDGE)
        for frame in range(FRAMES):
            if frame in window:
                cell(axes, frame, -row, KEYFRAME if frame in new else CACHED, "encode" if frame in new else "cached")
            else:
                cell(axes, frame, -row, NONE, str(frame))
        held = "held" if off <= HOLD else "replaced"
        note = f"box is off by {off:.0%}: {held};\n{len(new)} of {len(window)} frames encoded"
        axes.text(FRAMES - 0.3, -row, note, va="center", fontsize=9, color=NOTE)


def draw(output: Path) -> None:
    figure = Figure(figsize=(10, 6.6))
    FigureCanvasAgg(figure)
    panels = figure.subplots(3, 1)
    draw_lookahead(panels[0])
    draw_rows(panels[1], "2. Frame by frame: a frame's tokens serve every window that it is in", STILL, 4)
    draw_rows(panels[2], f"3. A held box, and a person who moves on (--hold {HOLD:g}, the default)", MOVING, 5)
    figure.subplots_adjust(left=0.02, right=0.98, top=0.95, bottom=0.02, hspace=0.25)
    with matplotlib.rc_context({"svg.hashsalt": "sdtc"}):  # the same drawing gives the same file
        metadata = {"Date": None} if output.suffix == ".svg" else None
        figure.savefig(output, dpi=110, metadata=metadata, facecolor="white")
    if output.suffix == ".svg":  # matplotlib leaves blanks at the ends of lines
        lines = output.read_text(encoding="utf-8").splitlines()
        output.write_text("\n".join(line.rstrip() for line in lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".svg"), metavar="FILE")
    draw(parser.parse_args().output)


if __name__ == "__main__":
    main()
