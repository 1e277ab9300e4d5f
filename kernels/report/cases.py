"""Which kernels the report is about: every operator, dtype and tactic, for the shapes of a preset."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

from sdtc.kernels.common.kernel_launch import DTYPES, FLOATS, Launch
from sdtc.kernels.operators.crop_frame import launch as crop_frame
from sdtc.kernels.operators.cross_attention import launch as cross_attention
from sdtc.kernels.operators.decode_heatmaps import launch as decode_heatmaps
from sdtc.kernels.operators.gather_tokens import launch as gather_tokens
from sdtc.kernels.operators.self_refinement import CONTEXT_AXES
from sdtc.kernels.operators.self_refinement import launch as self_refinement
from sdtc.kernels.operators.spatial_attention import launch as spatial_attention
from sdtc.kernels.operators.temporal_attention import launch as temporal_attention

SHAPES: dict[str, dict[str, Any]] = {
    "base": {},
    "tiny": {"grid": (12, 9), "C": 64, "heads": 2},
}  # by preset, of `cases`
REFINEMENTS = {
    "pixel_refinement": CONTEXT_AXES["pixels"],
    "channel_refinement": CONTEXT_AXES["channels"],
}  # self-refinement's readings


@dataclass(frozen=True)
class KernelCase:
    """A kernel for the shapes of one network.

    Attributes:
        operator, dtype, tactic: which kernel.
        shape: its sizes, as text.
        launch: the configured kernel.
        compulsory: bytes of the inputs and outputs of one batch element.
        unfused: bytes that single operators move for the same, each reading its inputs and writing its output.
        flops: of one batch element, two for a multiply-add.
        tensor_share: share of `flops` that runs on tensor cores, if the kernel uses them.
    """

    operator: str
    shape: str
    dtype: str
    tactic: str
    launch: Launch
    compulsory: int
    unfused: int
    flops: int
    tensor_share: float = 1.0


def cases(T: int = 5, grid: tuple[int, int] = (16, 12), C: int = 256, heads: int = 8, J: int = 15) -> list[KernelCase]:
    """List every kernel, dtype and tactic for the shapes of a network; the defaults are those of the preset `base`.

    Args:
        T: frames of a window.
        grid: (rows, columns) of tokens.
        C: width of the network.
        heads: attention heads.
        J: joints.
    """
    L, D = grid[0] * grid[1], C // heads
    found: list[KernelCase] = []
    for dtype in FLOATS:
        size = DTYPES[dtype].itemsize
        tokens = T * L * C * size
        for tactic in temporal_attention.TACTICS:
            scores = L * heads * T * T * size
            found.append(KernelCase(
                "temporal_attention", f"T={T} L={L} H={heads} D={D}", dtype, tactic,
                temporal_attention.configure(T, L, heads, D, dtype, tactic), 4 * tokens,
                _unfused_attention(tokens, scores),
                4 * L * heads * T * T * D,
            ))  # fmt: skip
        for name, frames, length in (("spatial_attention", T, L), ("joint_attention", 1, T * L)):
            for tactic in spatial_attention.TACTICS:
                scores = frames * heads * length * length * size
                found.append(KernelCase(
                    name, f"T={frames} L={length} H={heads} D={D}", dtype, tactic,
                    spatial_attention.configure(frames, length, heads, D, dtype, tactic), 4 * tokens,
                    _unfused_attention(tokens, scores),
                    4 * frames * heads * length * length * D,
                ))  # fmt: skip
        x, contexts = C * L * size, C * C * size
        for (name, axis), tactic in product(REFINEMENTS.items(), self_refinement.TACTICS):
            # softmax; X·Oᵀ; transpose; Xᵀ·OC; softmax; OC·Aᵀ
            found.append(KernelCase(
                name, f"C={C} N={L}", dtype, tactic, self_refinement.configure(C, L, axis, dtype, tactic), 2 * x,
                2 * x + (2 * x + contexts) + (2 * x + contexts) + 2 * x + (2 * x + contexts), 8 * C * L * L, 0.25,
            ))  # fmt: skip
        for tactic in cross_attention.TACTICS:
            scores = L * L * size
            found.append(KernelCase(
                "cross_attention", f"C={C} N={L}", dtype, tactic, cross_attention.configure(C, L, dtype, tactic), 4 * x,
                _unfused_attention(x, scores), 4 * C * L * L,
            ))  # fmt: skip
        h, w = 4 * grid[0], 4 * grid[1]
        maps = J * h * w * size
        found.append(KernelCase(
            "decode_heatmaps", f"J={J} h={h} w={w}", dtype, "block",
            decode_heatmaps.configure(J, h, w, (16 * grid[0], 16 * grid[1]), dtype),
            maps + J * 12, maps + J * 12 * 12, 0,
        ))  # fmt: skip
    H, W = 16 * grid[0], 16 * grid[1]
    found.append(KernelCase(
        "crop_frame", f"H={H} W={W}", "u8", "block", crop_frame.configure((H, W)), 2 * H * W * 3, 2 * H * W * 3, 0,
    ))  # fmt: skip
    # Between encoder and temporal graph, tokens are fp32. A row with its slot and place is read and written once: whole
    # places ask for no more, others ask the caches for each token up to four times. Single operators copy the rows
    # first, write where to sample, two numbers a token, and read both again.
    row = L * C * 4
    found.append(KernelCase(
        "gather_tokens", f"h={grid[0]} w={grid[1]} C={C}", "fp32", "gather",
        gather_tokens.configure(grid, C, "fp32", "gather"), 2 * row + 4 + 16, 4 * row + 2 * L * 8 + 4 + 16, 9 * L * C,
        0.0,
    ))  # fmt: skip
    found.append(KernelCase(
        "gather_tokens", f"h={grid[0]} w={grid[1]} C={C}", "fp32", "scatter",
        gather_tokens.configure(grid, C, "fp32", "scatter"), 2 * row + 4, 2 * row + 4, 0,
    ))  # fmt: skip
    return found


def _unfused_attention(tokens: int, scores: int) -> int:
    """Return the bytes moved by: permute q, k and v; q·kᵀ; softmax; the product with v; permute the result back."""
    return 6 * tokens + (2 * tokens + scores) + 2 * scores + (scores + 2 * tokens) + 2 * tokens
