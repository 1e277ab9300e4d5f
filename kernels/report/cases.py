"""What the compiler says of every kernel, without a GPU: `python -m sdtc.kernels.report`.

For each kernel, architecture and tactic: registers and spills, shared memory, vector loads and stores, tensor-core
instructions, resident blocks and occupancy, the bytes that must be moved and those that the unfused operators move, and
how long that takes at least on GPUs that people have. Bounds are no measurements: those are `benchmarks/kernels.py`'s.
"""

from __future__ import annotations

import argparse
import csv
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sdtc.core.command_line import command, say
from sdtc.core.errors import InputError, KernelError, MissingExtraError

try:
    from sdtc.kernels import aot
except MissingExtraError as error:
    if __name__ != "__main__":
        raise
    sys.exit(f"sdtc.kernels.report: error: {error}")
from sdtc.kernels.common.kernel_launch import DTYPES, FLOATS, Launch
from sdtc.kernels.operators.crop_frame import triton_kernel as crop_frame
from sdtc.kernels.operators.cross_attention import triton_kernel as cross_attention
from sdtc.kernels.operators.decode_heatmaps import triton_kernel as decode_heatmaps
from sdtc.kernels.operators.gather_tokens import triton_kernel as gather_tokens
from sdtc.kernels.operators.self_refinement import triton_kernel as self_refinement
from sdtc.kernels.operators.spatial_attention import triton_kernel as spatial_attention
from sdtc.kernels.operators.temporal_attention import triton_kernel as temporal

_TENSOR_CORES = r"\b(mma\.sync|wgmma\.mma_async|tcgen05\.mma)"


@dataclass(frozen=True)
class Processor:
    """What limits how many blocks a multiprocessor holds (CUDA programming guide, compute capabilities).

    Attributes:
        registers, shared, threads, blocks: of a multiprocessor; shared memory in bytes.
        reserved: shared memory that the driver keeps of every block, bytes.
    """

    threads: int
    blocks: int
    shared: int
    registers: int = 65536
    reserved: int = 1024


PROCESSORS = {
    75: Processor(threads=1024, blocks=16, shared=64 << 10, reserved=0),
    80: Processor(threads=2048, blocks=32, shared=164 << 10),
    86: Processor(threads=1536, blocks=16, shared=100 << 10),
    89: Processor(threads=1536, blocks=24, shared=100 << 10),
    90: Processor(threads=2048, blocks=32, shared=228 << 10),
    100: Processor(threads=2048, blocks=32, shared=228 << 10),
    120: Processor(threads=1536, blocks=24, shared=100 << 10),
}


@dataclass(frozen=True)
class Gpu:
    """Peak rates from a GPU's data sheet.

    Attributes:
        bandwidth: GB/s.
        tensor: dense fp16 or bf16 products on tensor cores, TFLOP/s.
        plain: fp32 on the ordinary cores, TFLOP/s.
    """

    bandwidth: float
    tensor: float
    plain: float


GPUS = {
    "A100": Gpu(2039, 312, 19.5),
    "H100": Gpu(3350, 989, 66.9),
    "L4": Gpu(300, 121, 30.3),
    "RTX 4090": Gpu(1008, 165, 82.6),
    "Orin": Gpu(205, 43, 5.3),
}


@dataclass(frozen=True)
class Case:
    """A kernel for the shapes of one network.

    Attributes:
        operator, shape, dtype, tactic: what it is; the shape as people write it.
        launch: for the compiler.
        compulsory: bytes of the inputs and outputs of one batch element.
        unfused: bytes that the same takes in single operators, each reading its inputs and writing its output.
        flops: of one batch element, two for a multiply-add.
        tensor_share: of them, on tensor cores where the kernel uses them at all.
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


def cases(T: int = 5, grid: tuple[int, int] = (16, 12), C: int = 256, heads: int = 8, J: int = 15) -> list[Case]:
    """List every kernel, dtype and tactic for a network's shapes; those of the preset `base` by default."""
    L, D = grid[0] * grid[1], C // heads
    found: list[Case] = []
    for dtype in FLOATS:
        size = DTYPES[dtype].itemsize
        tokens = T * L * C * size
        for tactic in temporal.TACTICS:
            scores = L * heads * T * T * size
            found.append(Case(
                "temporal_attention", f"T={T} L={L} H={heads} D={D}", dtype, tactic,
                temporal.plan(T, L, heads, D, dtype, tactic), 4 * tokens,
                _unfused_attention(tokens, scores),
                4 * L * heads * T * T * D,
            ))  # fmt: skip
        for name, frames, length in (("spatial_attention", T, L), ("joint_attention", 1, T * L)):
            for tactic in spatial_attention.TACTICS:
                scores = frames * heads * length * length * size
                found.append(Case(
                    name, f"T={frames} L={length} H={heads} D={D}", dtype, tactic,
                    spatial_attention.plan(frames, length, heads, D, dtype, tactic), 4 * tokens,
                    _unfused_attention(tokens, scores),
                    4 * frames * heads * length * length * D,
                ))  # fmt: skip
        x, contexts = C * L * size, C * C * size
        for tactic in self_refinement.TACTICS:
            # softmax; X·Oᵀ; transpose; Xᵀ·OC; softmax; OC·Aᵀ
            found.append(Case(
                "self_refinement", f"C={C} N={L}", dtype, tactic, self_refinement.plan(C, L, dtype, tactic), 2 * x,
                2 * x + (2 * x + contexts) + (2 * x + contexts) + 2 * x + (2 * x + contexts), 8 * C * L * L, 0.25,
            ))  # fmt: skip
        for tactic in cross_attention.TACTICS:
            scores = L * L * size
            found.append(Case(
                "cross_attention", f"C={C} N={L}", dtype, tactic, cross_attention.plan(C, L, dtype, tactic), 4 * x,
                _unfused_attention(x, scores), 4 * C * L * L,
            ))  # fmt: skip
        h, w = 4 * grid[0], 4 * grid[1]
        maps = J * h * w * size
        found.append(Case(
            "decode_heatmaps", f"J={J} h={h} w={w}", dtype, "block",
            decode_heatmaps.plan(J, h, w, (16 * grid[0], 16 * grid[1]), dtype), maps + J * 12, maps + J * 12 * 12, 0,
        ))  # fmt: skip
    H, W = 16 * grid[0], 16 * grid[1]
    found.append(Case(
        "crop_frame", f"H={H} W={W}", "u8", "block", crop_frame.plan((H, W)), 2 * H * W * 3, 2 * H * W * 3, 0,
    ))  # fmt: skip
    moved = 2 * L * C * 4 + 4  # tokens pass between the two halves of the network in fp32
    found += [
        Case(
            "gather_tokens", f"L={L} C={C}", "fp32", tactic, gather_tokens.plan(L * C, "fp32", tactic), moved, moved, 0
        )
        for tactic in gather_tokens.TACTICS
    ]
    return found


def _unfused_attention(tokens: int, scores: int) -> int:
    """Return the bytes of: q, k, v permuted; q·kᵀ; softmax; times v; the result permuted back."""
    return 6 * tokens + (2 * tokens + scores) + 2 * scores + (scores + 2 * tokens) + 2 * tokens


@dataclass(frozen=True)
class Row:
    """What is told of one kernel on one architecture; bytes are of one batch element, times in µs a batch of 32."""

    operator: str
    shape: str
    dtype: str
    tactic: str
    architecture: str
    registers: int
    spilled_bytes: int
    shared_bytes: int
    loads: int
    vector_loads: int
    stores: int
    vector_stores: int
    tensor_core: int
    blocks_per_sm: int
    occupancy: float
    compulsory_bytes: int
    unfused_bytes: int
    bounds_us: dict[str, float]


BATCH = 32  # of the bounds


def describe(case: Case, compiled: aot.Compiled) -> Row:
    """Put together what is known of a kernel."""
    loads, stores = _accesses(compiled.ptx, "ld"), _accesses(compiled.ptx, "st")
    tensor_core = len(re.findall(_TENSOR_CORES, compiled.ptx))
    blocks, occupancy = residency(compiled)
    return Row(
        case.operator,
        case.shape,
        case.dtype,
        case.tactic,
        f"sm_{compiled.architecture}",
        compiled.registers,
        compiled.local,
        compiled.shared,
        len(loads),
        sum(bits >= 128 for bits in loads),
        len(stores),
        sum(bits >= 128 for bits in stores),
        tensor_core,
        blocks,
        occupancy,
        case.compulsory,
        case.unfused,
        {name: bound(case, gpu, tensor_core > 0) for name, gpu in GPUS.items()},
    )


def residency(compiled: aot.Compiled) -> tuple[int, float]:
    """Return how many blocks a multiprocessor holds, and the share of its threads that they are."""
    processor = PROCESSORS[compiled.architecture]
    threads = 32 * compiled.num_warps
    # Registers are handed out to warps, 256 at a time; shared memory to blocks, 128 bytes at a time.
    registers = math.ceil(compiled.registers * 32 / 256) * 256 * compiled.num_warps
    shared = math.ceil((compiled.shared + processor.reserved) / 128) * 128
    blocks = min(
        processor.blocks,
        processor.threads // threads,
        processor.registers // max(registers, 1),
        processor.shared // shared if shared else processor.blocks,
    )
    return blocks, blocks * threads / processor.threads


def bound(case: Case, gpu: Gpu, tensor_cores: bool) -> float:
    """Return the least time for a batch of `BATCH`, µs: memory traffic or arithmetic, whichever takes longer."""
    memory = BATCH * case.compulsory / (gpu.bandwidth * 1e3)
    share = case.tensor_share if tensor_cores else 0.0
    arithmetic = BATCH * case.flops * (share / gpu.tensor + (1 - share) / gpu.plain) / 1e6
    return max(memory, arithmetic)


def _accesses(ptx: str, kind: str) -> list[int]:
    """Return the width in bits of every access to global memory; asynchronous copies are loads."""
    found = re.findall(rf"\b{kind}\.global\S*?(?:\.v(\d))?\.[bufs](\d+)\b", ptx)
    widths = [int(count or 1) * int(bits) for count, bits in found]
    if kind == "ld":
        widths += [
            8 * int(size, 16) for size in re.findall(r"cp\.async\.c[ag]\.shared\.global[^;]*?, 0x([0-9a-f]+)", ptx)
        ]
    return widths


_DESCRIPTION = "Compile every Triton kernel for every architecture, and say what came out. Needs no GPU."
_EPILOG = """examples:
  python -m sdtc.kernels.report
  python -m sdtc.kernels.report --arch 80 90 --output report

writes kernels.csv and, where matplotlib is installed, kernels.png. What is compiled once is kept in the cache folder
(SDTC_CACHE, by default ~/.cache/sdtc)."""


@command("sdtc.kernels.report")
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sdtc.kernels.report",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--arch", type=int, nargs="+", default=aot.ARCHITECTURES, metavar="N", help="e.g. 80 for sm_80 (default: all)"
    )
    parser.add_argument("--preset", default="base", choices=SHAPES, help="whose shapes (default: %(default)s)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one for every core)")
    parser.add_argument("--output", type=Path, default=Path(), metavar="DIR", help="an existing folder (default: here)")
    parser.add_argument("--quiet", action="store_true", help="no table, no progress bar")
    args = parser.parse_args(argv)
    if args.workers is not None and args.workers < 1:
        raise InputError(f"--workers is {args.workers}: expected at least 1")
    unknown = [f"sm_{arch}" for arch in args.arch if arch not in aot.ARCHITECTURES]
    if unknown:
        known = ", ".join(f"sm_{arch}" for arch in aot.ARCHITECTURES)
        raise KernelError(f"--arch: {unknown[0]} is not supported: expected some of {known}")
    if not args.output.is_dir():
        raise InputError(f"--output: the folder '{args.output}' does not exist: create it or choose another")

    from tqdm import tqdm

    work = [
        (case, arch) for case in cases(**SHAPES[args.preset]) for arch in args.arch if aot.supports(arch, case.dtype)
    ]
    with tqdm(total=len(work), unit="kernel", disable=True if args.quiet else None, leave=False) as bar:
        compiled = aot.compile_all([(case.launch, arch) for case, arch in work], args.workers, bar.update)
    rows = [describe(case, result) for (case, _), result in zip(work, compiled, strict=True)]
    say(table(rows), quiet=args.quiet)
    write_csv(args.output / "kernels.csv", rows)
    say(f"wrote {args.output / 'kernels.csv'}", quiet=args.quiet)
    if draw(args.output / "kernels.png", rows):
        say(f"wrote {args.output / 'kernels.png'}", quiet=args.quiet)
    return 0


SHAPES: dict[str, dict] = {"base": {}, "tiny": {"grid": (8, 6), "C": 64, "heads": 4}}


def table(rows: Iterable[Row]) -> str:
    """Return the report as text, a line per kernel and architecture.

    kB are what must be moved for a window, and what single operators move; under a GPU's name stands the least time
    for a batch of `BATCH`.
    """
    head = (
        f"{'kernel':19} {'dtype':5} {'tactic':8} {'arch':7} {'regs':>4} {'spill':>5} {'shared':>6} "
        f"{'16-byte loads':>13} {'stores':>7} {'tensor':>6} {'blocks':>6} {'occup.':>6} {'kB':>6} {'unfused':>8}"
        + "".join(f" {gpu:>8}" for gpu in GPUS)
    )
    lines = [head]
    for row in rows:
        lines.append(
            f"{row.operator:19} {row.dtype:5} {row.tactic:8} {row.architecture:7} {row.registers:4} "
            f"{row.spilled_bytes:5} {row.shared_bytes:6} {f'{row.vector_loads}/{row.loads}':>13} "
            f"{f'{row.vector_stores}/{row.stores}':>7} {row.tensor_core:6} {row.blocks_per_sm:6} {row.occupancy:6.0%} "
            f"{row.compulsory_bytes / 1e3:6.0f} {row.unfused_bytes / 1e3:8.0f}"
            + "".join(f" {us:6.1f}µs" for us in row.bounds_us.values())
        )
    lines.append(f"kB a window; under a GPU's name, the least time for {BATCH} windows: a bound, not a measurement")
    return "\n".join(lines)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write the report, a column per GPU for the bounds."""
    from sdtc.core.files import atomic_write

    flat = []
    for row in rows:
        values = asdict(row)
        bounds = values.pop("bounds_us")
        flat.append(values | {f"bound_us {name}": f"{value:.2f}" for name, value in bounds.items()})
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, flat[0].keys())
        writer.writeheader()
        writer.writerows(flat)


def draw(path: Path, rows: Sequence[Row]) -> bool:
    """Draw the bytes moved and the bounds, fused and unfused; False without matplotlib."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        return False
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    from sdtc.core.files import atomic_write

    half = [row for row in rows if row.dtype in ("fp16", "u8") and row.architecture == rows[0].architecture]
    first = list({row.operator: row for row in half}.values())
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    places = range(len(first))
    left.bar([p - 0.2 for p in places], [row.compulsory_bytes / 1e6 for row in first], 0.4, label="fused")
    left.bar([p + 0.2 for p in places], [row.unfused_bytes / 1e6 for row in first], 0.4, label="single operators")
    left.set(title="Memory traffic of one window, fp16", ylabel="MB", xticks=list(places))
    left.set_xticklabels([row.operator.replace("_", "\n") for row in first], fontsize=8)
    left.legend()
    width = 0.8 / len(GPUS)
    for i, gpu in enumerate(GPUS):
        right.bar(
            [p + (i - len(GPUS) / 2) * width for p in places], [r.bounds_us[gpu] for r in first], width, label=gpu
        )
    right.set(title=f"Least time for {BATCH} windows (bound, not measured)", ylabel="µs", xticks=list(places))
    right.set_yscale("log")
    right.set_xticklabels([row.operator.replace("_", "\n") for row in first], fontsize=8)
    right.legend(fontsize=8)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    plt.close(figure)
    return True


if __name__ == "__main__":
    sys.exit(main())
