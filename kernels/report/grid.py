"""Every kernel that the operators' checks let through, at the edges of its range, held against every architecture.

A kernel is compiled anew for every combination of constants. What the compiler makes of it changes where a constant is
rounded up to the next power of two, where a tile gets another size, and where a loop ends in the middle of a step. So
the grid holds the smallest and largest size of each range, the last one of every power of two, and odd ones between
them. Sizes that only count blocks (H, L of temporal attention, J) are what they usually are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from sdtc.kernels import aot
from sdtc.kernels.common.kernel_launch import FLOATS, Launch
from sdtc.kernels.common.multiprocessors import MULTIPROCESSORS
from sdtc.kernels.common.torch_operators import UnfitError
from sdtc.kernels.operators.crop_frame import launch as crop_frame
from sdtc.kernels.operators.cross_attention import launch as cross_attention
from sdtc.kernels.operators.decode_heatmaps import launch as decode_heatmaps
from sdtc.kernels.operators.gather_tokens import launch as gather_tokens
from sdtc.kernels.operators.self_refinement import launch as self_refinement
from sdtc.kernels.operators.spatial_attention import launch as spatial_attention
from sdtc.kernels.operators.temporal_attention import launch as temporal_attention
from sdtc.kernels.report.cases import REFINEMENTS
from sdtc.kernels.report.csv_file import write_rows

_D = (16, 32, 64, 128)
_BETWEEN_D = (17, 33, 65)
TEMPORAL = [*product((1, 2, 4, 8, 16), _D), *product((1, 2, 3, 5, 9), _BETWEEN_D)]  # T, D
SPATIAL = [*product((1, 32, 33, 193, spatial_attention.MAX_L), _D), *product((16, 193), _BETWEEN_D)]  # L, D
MAPS = [
    *((256, N) for N in (1, 16, 17, 32, 33, 64, 65, 128, 129, 192, 256, 257, 512)),
    *product((self_refinement.MIN_C, 32, 33, self_refinement.MAX_C), (16, 64, 256, 512)),
]  # C, N
HEATMAPS = [(2, 2), (7, 9), (16, 16), (32, 32), (64, 48), (128, 128), (181, 181), (256, 256), (2, 32768), (32768, 2)]
TOKENS = [
    *((1, 1, 1), (1, gather_tokens.MAX_SIDE, 1), (gather_tokens.MAX_SIDE, 1, 1)),
    *((16, 12, C) for C in (2, 4, 8, 15, 16, 17, 33, 64, 80, 128, 129, 256, 257, 384, 768, 1024)),
    *((gather_tokens.MAX_SIDE, gather_tokens.MAX_SIDE, 4), (1, 1, gather_tokens.MAX_LENGTH)),
]  # h, w, C
CROPS = [(1, 1), (33, 17), (256, 192), (crop_frame.MAX_SIZE, crop_frame.MAX_SIZE)]


@dataclass(frozen=True)
class Variant:
    """A kernel of the grid.

    Attributes:
        operator, shape, dtype, tactic: which kernel.
        configure: takes an architecture, or None, to the launch; raises `UnfitError` where the operator leaves these
            sizes to PyTorch.
    """

    operator: str
    shape: str
    dtype: str
    tactic: str
    configure: Callable[[int | None], Launch]


@dataclass(frozen=True)
class Verdict:
    """A kernel of the grid on one architecture; the fields are the columns of the CSV file.

    Attributes:
        operator, shape, dtype, tactic: as in `Variant`.
        architecture: e.g. ``"sm_80"``.
        registers, spilled_bytes, shared_bytes: see `sdtc.kernels.report.analysis.KernelSummary`.
        shared_limit: of a block of the architecture, bytes.
        taken: the operator launches it there; otherwise PyTorch computes the result.
        misfit: why it does not fit, or "".
    """

    operator: str
    shape: str
    dtype: str
    tactic: str
    architecture: str
    registers: int
    spilled_bytes: int
    shared_bytes: int
    shared_limit: int
    taken: bool
    misfit: str


def variants() -> Iterator[Variant]:
    """Yield every kernel of the grid."""
    H, J = 8, 15
    for dtype in FLOATS:
        for T, D in TEMPORAL:
            for tactic in temporal_attention.TACTICS:
                yield Variant(
                    "temporal_attention", f"T={T} L=192 H={H} D={D}", dtype, tactic,
                    partial(temporal_attention.configure, T, 192, H, D, dtype, tactic),
                )  # fmt: skip
        for L, D in SPATIAL:
            for tactic in spatial_attention.TACTICS:
                yield Variant(
                    "spatial_attention", f"T=5 L={L} H={H} D={D}", dtype, tactic,
                    partial(spatial_attention.configure, 5, L, H, D, dtype, tactic),
                )  # fmt: skip
        for C, N in MAPS:
            for (name, axis), tactic in product(REFINEMENTS.items(), self_refinement.TACTICS):
                yield Variant(
                    name, f"C={C} N={N}", dtype, tactic,
                    partial(self_refinement.configure, C, N, axis, dtype, tactic),
                )  # fmt: skip
            for tactic in cross_attention.TACTICS:
                yield Variant(
                    "cross_attention", f"C={C} N={N}", dtype, tactic,
                    partial(cross_attention.configure, C, N, dtype, tactic),
                )  # fmt: skip
        for h, w in HEATMAPS:
            yield Variant(
                "decode_heatmaps", f"J={J} h={h} w={w}", dtype, "block",
                _everywhere(decode_heatmaps.configure, J, h, w, (4 * h, 4 * w), dtype),
            )  # fmt: skip
        for h, w, C in TOKENS:
            for tactic in gather_tokens.TACTICS:
                yield Variant(
                    "gather_tokens", f"h={h} w={w} C={C}", dtype, tactic,
                    _everywhere(gather_tokens.configure, (h, w), C, dtype, tactic),
                )  # fmt: skip
    for H_crop, W_crop in CROPS:
        yield Variant(
            "crop_frame", f"H={H_crop} W={W_crop}", "u8", "block",
            _everywhere(crop_frame.configure, (H_crop, W_crop)),
        )  # fmt: skip


def _everywhere(configure: Callable[..., Launch], *sizes: Any) -> Callable[[int | None], Launch]:
    return lambda _: configure(*sizes)  # takes no architecture, because it fits all


def judge(
    chosen: Iterable[Variant],
    architectures: Sequence[int],
    workers: int | None = None,
    on_done: Callable[[], object] = lambda: None,
) -> list[Verdict]:
    """Compile kernels of the grid, also those that an operator leaves to PyTorch, and hold them against the limits.

    Args:
        chosen: kernels.
        architectures: e.g. 80 for sm_80; dtypes that one does not support are left out.
        workers, on_done: see `sdtc.kernels.aot.compile_all`.
    """
    work = [(each, arch) for each in chosen for arch in architectures if aot.supports(arch, each.dtype)]
    compiled = aot.compile_all([(each.configure(None), arch) for each, arch in work], workers, on_done)
    return [_judge(each, done) for (each, _), done in zip(work, compiled, strict=True)]


def _judge(each: Variant, compiled: aot.Compiled) -> Verdict:
    try:
        taken = bool(each.configure(compiled.architecture))
    except UnfitError:
        taken = False
    return Verdict(
        each.operator, each.shape, each.dtype, each.tactic, f"sm_{compiled.architecture}", compiled.registers,
        compiled.local, compiled.shared, MULTIPROCESSORS[compiled.architecture].block_shared, taken,
        aot.misfit(compiled),
    )  # fmt: skip


def broken(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Return the kernels that are launched on an architecture that they do not fit."""
    return [each for each in verdicts if each.taken and each.misfit]


def grid_table(verdicts: Sequence[Verdict]) -> str:
    """Return the verdicts as text: one line for each operator and architecture, with the worst of what is launched."""
    lines = [
        f"{'kernel':19} {'arch':7} {'compiled':>8} {'to PyTorch':>10} {'regs':>4} {'spill':>5} {'shared':>6} "
        f"{'limit':>6}  worst in spills, worst in shared memory"
    ]
    for operator, architecture in dict.fromkeys((each.operator, each.architecture) for each in verdicts):
        those = [each for each in verdicts if (each.operator, each.architecture) == (operator, architecture)]
        taken = [each for each in those if each.taken]
        spills, shared = (max(taken, key=lambda each: getattr(each, f)) for f in ("spilled_bytes", "shared_bytes"))
        lines.append(
            f"{operator:19} {architecture:7} {len(those):8} {len(those) - len(taken):10} "
            f"{max(each.registers for each in taken):4} {spills.spilled_bytes:5} {shared.shared_bytes:6} "
            f"{shared.shared_limit:6}  "
            + ", ".join(f"{each.shape} {each.dtype} {each.tactic}" for each in (spills, shared))
        )
    lines += [
        f"{each.operator} {each.shape} {each.dtype} {each.tactic} is launched, but {each.misfit}"
        for each in broken(verdicts)
    ]
    return "\n".join(lines)


def write_grid(path: Path, verdicts: Sequence[Verdict]) -> None:
    """Write the verdicts as CSV."""
    write_rows(path, [vars(each) for each in verdicts])
