"""Draw docs/streaming.svg: windows and look-ahead, what is encoded when, and how a neighbour's tokens are resampled.

    python docs/streaming.py        needs matplotlib, which the extra `train` brings

What is encoded in the second panel, and where tokens are sampled in the third, is asked of the runtime's own code:
`windows`, `TokenCache` and `token_places`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from sdtc.core.resampling import token_places
from sdtc.runtime.estimation.token_cache import SlotPool, TokenCache
from sdtc.runtime.sources.base import Frame
from sdtc.runtime.sources.windows import windows

DELTA, FRAMES = 2, 10
FIRST_SEEN = 3  # the frame in which the person of the second panel comes
# The fields of `tiny`'s manifest that say where tokens are.
MANIFEST: Any = SimpleNamespace(input_size=(128, 96), token_grid=(8, 6), token_stride=16.0, token_offset=5.5)
NEIGHBOUR_BOX = np.array([100.0, 100.0, 96.0, 128.0])  # x, y, width, height, image pixels
KEYFRAME_BOX = np.array([113.0, 107.0, 90.0, 120.0])  # a frame later: the person has moved, and is a little smaller
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


def encoded(first_seen: int) -> list[tuple[int, list[int], set[int]]]:
    """Ask the token cache what it encodes for a person who moves in every frame.

    Args:
        first_seen: the frame in which the person comes.

    Returns:
        For every keyframe: its index, its window, and the frames to encode.
    """
    boxes = {frame: np.array([100.0 + 5 * frame, 50.0, 60.0, 80.0]) for frame in range(first_seen, FRAMES)}
    cache, found = TokenCache(2 * DELTA + 1, SlotPool()), []
    for keyframe, window in key_windows():
        there = [keyframe] if keyframe in boxes else []
        known = {frame: {0: boxes[frame]} for frame in window if frame in boxes and frame != keyframe}
        own = np.array([boxes[frame] for frame in there]).reshape(-1, 4)
        schedule = cache.schedule(window, own, [0] * len(there), known)
        cache.release()
        found.append((keyframe, window, {frame for frame, _, _ in schedule.encode}))
    return found


def sampled() -> np.ndarray:
    """Return where the keyframe's tokens lie in the neighbour's map: column and row, ``[h, w, 2]``, not clamped."""
    x_scale, x_offset, y_scale, y_offset = token_places(MANIFEST, NEIGHBOUR_BOX, KEYFRAME_BOX)
    h, w = MANIFEST.token_grid
    columns, rows = np.meshgrid(x_scale * np.arange(w) + x_offset, y_scale * np.arange(h) + y_offset)
    return np.stack([columns, rows], axis=-1)


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


def draw_rows(axes: Axes) -> None:
    """Draw windows of a person who comes and walks, a row each: encoded crops, and those whose tokens are kept."""
    panel(axes, f"2. One crop per person and frame. This person comes in frame {FIRST_SEEN}, and walks", 5.1)
    for row, (keyframe, window, new) in enumerate(encoded(FIRST_SEEN)[FIRST_SEEN - 2 : FIRST_SEEN + 3]):
        axes.text(-0.8, -row, f"keyframe {keyframe}", ha="right", va="center", fontsize=9, color=EDGE)
        for frame in range(FRAMES):
            if frame in new:
                cell(axes, frame, -row, KEYFRAME, "encode")
            elif frame in window and keyframe >= FIRST_SEEN:
                cell(axes, frame, -row, CACHED, "kept")
            else:
                cell(axes, frame, -row, NONE, str(frame))
        if keyframe < FIRST_SEEN:
            note = "nobody yet; who is in the newest\nframe is encoded ahead"
        elif len(new) > 1:
            note = f"frames {FIRST_SEEN - 2} and {FIRST_SEEN - 1}, in the nearest\nbox that is known"
        else:
            note = f"{len(new)} of {len(window)} crops encoded"
        axes.text(FRAMES - 0.3, -row, note, va="center", fontsize=9, color=NOTE)


def draw_resampling(axes: Axes) -> None:
    """Draw both crops in the picture, and the places that are sampled in the neighbour's map of tokens."""
    axes.set_title(
        "3. The neighbour's tokens, sampled at the places of the keyframe's tokens", loc="left", fontsize=11, color=EDGE
    )
    axes.axis("off")
    axes.set_aspect("equal", anchor="W")
    h, w = MANIFEST.token_grid
    axes.set_xlim(-14.2, w + 11.3)
    axes.set_ylim(h + 0.6, -1.9)  # rows grow downwards

    scale, left, top = 1 / MANIFEST.token_stride, -11.5, -0.5  # of the picture with the two boxes
    for box, colour, name, at in (
        (NEIGHBOUR_BOX, SUPPORTING, "crop of t−1", (0.0, -0.04)),
        (KEYFRAME_BOX, KEYFRAME, "crop of t", (1.0, 1.11)),
    ):
        x, y = (box[:2] - NEIGHBOUR_BOX[:2]) * scale + (left, top)
        width, height = box[2:] * scale
        axes.add_patch(Rectangle((x, y), width, height, fc="none", ec=colour, lw=2.2))
        axes.text(
            x + at[0] * width, y + at[1] * height, name, ha="left" if at[0] == 0 else "right", va="bottom",
            fontsize=9, color=KEYFRAME if colour == KEYFRAME else "#4f9a94",
        )  # fmt: skip

    for row in range(h):
        for column in range(w):
            axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fc=CACHED, ec="white", lw=1.2))
            axes.plot(column, row, "s", color=SUPPORTING, markersize=4)
    places = sampled()
    clamped = np.clip(places, 0, (w - 1, h - 1))
    for free, used in zip(places.reshape(-1, 2), clamped.reshape(-1, 2), strict=True):
        if (free != used).any():
            axes.annotate("", used, free, arrowprops={"arrowstyle": "->", "color": NOTE, "lw": 0.7, "shrinkA": 2})
        axes.plot(*free, "o", color=KEYFRAME, markersize=3.6)
    column, row = places[3, 1]  # one of them with the tokens around it
    for x in (np.floor(column), np.ceil(column)):
        for y in (np.floor(row), np.ceil(row)):
            axes.plot([column, x], [row, y], color=NOTE, lw=0.9)
    axes.text((w - 1) / 2, -0.75, "tokens of t−1", ha="center", va="bottom", fontsize=9, color="#4f9a94")
    notes = (
        (1.0, SUPPORTING, "s", "a token of t−1, encoded in the box of t−1"),
        (2.2, KEYFRAME, "o", "a token of t: between four tokens of t−1,\nwhich are weighed (bilinear)"),
        (3.8, NOTE, None, "outside the crop of t−1:\nits edge is repeated"),
    )
    for y, colour, marker, text in notes:
        if marker:
            axes.plot(w + 2.0, y, marker, color=colour, markersize=5)
        else:
            axes.annotate("", (w + 1.5, y), (w + 2.5, y), arrowprops={"arrowstyle": "->", "color": colour, "lw": 0.9})
        axes.text(w + 2.8, y, text, va="center", fontsize=9, color=EDGE)


def draw(output: Path) -> None:
    figure = Figure(figsize=(10, 9.0))
    FigureCanvasAgg(figure)
    panels = figure.subplots(3, 1, height_ratios=[3.5, 6, 6])
    draw_lookahead(panels[0])
    draw_rows(panels[1])
    draw_resampling(panels[2])
    figure.subplots_adjust(left=0.02, right=0.98, top=0.965, bottom=0.01, hspace=0.18)
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
