"""The elements of figures: a page of panels, images, heatmap overlays and skeletons."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sdtc.core.errors import require
from sdtc.core.files import atomic_write
from sdtc.core.names import drawable
from sdtc.core.skeleton import Skeleton

require("matplotlib", "train", "sdtc-visualize")

from matplotlib.collections import LineCollection  # noqa: E402
from matplotlib.colors import to_rgba  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402  (not pyplot: no window system, no global state)
from matplotlib.layout_engine import ConstrainedLayoutEngine  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402

# Okabe and Ito's colours, which colour-blind people can tell apart.
PALETTE = ("#E69F00", "#56B4E9", "#CC79A7", "#F0E442", "#009E73", "#D55E00", "#0072B2")
TRUTH, PREDICTED = "#56B4E9", "#E69F00"
HEAT = "inferno"
MIN_SCORE = 0.2  # predicted joints with a lower score are drawn faint
FAINT = 0.45  # opacity
_DPI = 120
_TEXT = 9  # points

Extent = tuple[float, float, float, float]  # left, right, bottom, top, pixels of the image below


@dataclass(frozen=True)
class PanelGrid:
    """The layout of a page: equal panels in rows and columns.

    Attributes:
        lines: for every row, the number of lines of text above and below its images.
        columns: number of columns.
        shape: (height, width) of a panel's image, in any unit.
        width: of a panel, inches.
    """

    lines: Sequence[int]
    columns: int
    shape: tuple[float, float]
    width: float


class Page:
    """A figure of equal panels in rows and columns, with a title above and a caption below.

    Args:
        grid: of panels.
        title: one line.
        caption: wrapped to the width of the page.
        legend: colours by the name of what is drawn in them.
    """

    def __init__(self, grid: PanelGrid, title: str, caption: str, legend: dict[str, str] | None = None) -> None:
        rows, height = len(grid.lines), grid.width * grid.shape[0] / grid.shape[1]
        full_width = max(grid.columns * (grid.width + 0.08) + 0.4, 6.0)
        caption = textwrap.fill(drawable(caption), int(full_width * 14))
        text = sum(0.2 + 0.16 * count for count in grid.lines) + 0.8 + 0.16 * caption.count("\n")
        layout = ConstrainedLayoutEngine(h_pad=0.04, w_pad=0.04, hspace=0, wspace=0)
        self.figure = Figure(figsize=(full_width, rows * height + text), dpi=_DPI, layout=layout)
        self.axes = self.figure.subplots(rows, grid.columns, squeeze=False)
        for axes in self.axes.flat:
            axes.set_axis_off()
        self.figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        self.figure.supxlabel(caption, x=0.01, ha="left", fontsize=_TEXT, color="#444444")
        handles = [Line2D([], [], color=colour, lw=3, label=name) for name, colour in (legend or {}).items()]
        if handles:
            self.figure.legend(
                handles=handles, loc="upper right", ncols=len(handles), frameon=False, fontsize=_TEXT, borderaxespad=0.1
            )

    def show(
        self, row: int, column: int, image: np.ndarray, title: str = "", view: tuple[int, int, int, int] | None = None
    ) -> Any:
        """Show an image ``[H, W, 3]``, or the part `view` (x, y, width, height) of it, in a panel.

        Returns:
            The panel's axes, in pixels of the whole image.
        """
        axes = self.axes[row, column]
        axes.set_axis_on()
        axes.set_xticks([])
        axes.set_yticks([])
        for side in axes.spines.values():
            side.set_visible(False)
        axes.imshow(image)
        axes.set_anchor("N")
        x, y, width, height = view or (0, 0, image.shape[1], image.shape[0])
        axes.set_xlim(x - 0.5, x + width - 0.5)
        axes.set_ylim(y + height - 0.5, y - 0.5)
        axes.set_title(title, fontsize=_TEXT)
        return axes

    def name_row(self, row: int, name: str) -> None:
        """Write the name of a row to its left."""
        self.axes[row, 0].set_ylabel(name, fontsize=_TEXT)

    def save(self, path: Path) -> None:
        """Write the figure as PNG, atomically.

        Raises:
            OutputError: the file cannot be written.
        """
        with atomic_write(path) as temporary:
            self.figure.savefig(temporary, format="png")


def heat(axes: Any, values: np.ndarray, extent: Extent) -> None:
    """Draw a map ``[h, w]`` over an image, from its minimum (dark, transparent) to its maximum (bright, opaque)."""
    low, high = float(values.min()), float(values.max())
    share = (values - low) / (high - low) if high > low else np.zeros_like(values)
    axes.imshow(share, cmap=HEAT, vmin=0, vmax=1, extent=extent, interpolation="catrom", alpha=0.3 + 0.5 * share)


def grey(image: np.ndarray) -> np.ndarray:
    """Return an image ``[H, W, 3]`` in grey, on which the colours of a map stand out."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def token_extent(size: tuple[int, int]) -> Extent:
    """Return the extent of a map of tokens over a crop of (H, W) pixels: one cell per patch of 16×16 pixels."""
    return -0.5, size[1] - 0.5, size[0] - 0.5, -0.5


def heatmap_extent(size: tuple[int, int], heatmap_size: tuple[int, int]) -> Extent:
    """Return the extent of a heatmap over a crop: corner pixels share their centres, see `sdtc.core.crops`."""
    (H, W), (h, w) = size, heatmap_size
    across, down = (W - 1) / (w - 1), (H - 1) / (h - 1)
    return -0.5 * across, (w - 0.5) * across, (h - 0.5) * down, -0.5 * down


def draw_truth(axes: Any, keypoints: np.ndarray, skeleton: Skeleton, colour: str = TRUTH, width: float = 2.0) -> None:
    """Draw an annotated pose ``[J, 3]`` (x, y, v), pixels of the axes, without joints with v = 0."""
    _draw(axes, keypoints, skeleton, colour, width, (keypoints[:, 2] > 0).astype(float))


def draw_predicted(
    axes: Any, keypoints: np.ndarray, skeleton: Skeleton, colour: str = PREDICTED, width: float = 2.0
) -> None:
    """Draw a predicted pose ``[J, 3]`` (x, y, score), pixels of the axes; joints below `MIN_SCORE` are faint."""
    _draw(axes, keypoints, skeleton, colour, width, np.where(keypoints[:, 2] >= MIN_SCORE, 1.0, FAINT))


def _draw(axes: Any, keypoints: np.ndarray, skeleton: Skeleton, colour: str, width: float, opacity: np.ndarray) -> None:
    """Draw limbs and joints, with dark outlines so that they stand out from any image."""
    points, drawn = keypoints[:, :2], opacity > 0
    limbs = [(a, b) for a, b in skeleton.limbs if drawn[a] and drawn[b]]
    for ink, extra, share in (("black", 1.2, 0.6), (colour, 0.0, 1.0)):
        inks = [to_rgba(ink, share * min(opacity[a], opacity[b])) for a, b in limbs]
        lines = [points[[a, b]] for a, b in limbs]
        axes.add_collection(LineCollection(lines, colors=inks, linewidths=width + extra, capstyle="round"))
    inks = [to_rgba(colour, value) for value in opacity[drawn]]
    rims = [to_rgba("black", 0.6 * value) for value in opacity[drawn]]
    axes.scatter(*points[drawn].T, s=(1.7 * width) ** 2, c=inks, edgecolors=rims, linewidths=0.5, zorder=3)
