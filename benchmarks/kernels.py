"""How fast are the Triton kernels, compared with their alternatives? Needs an NVIDIA GPU and the extra `kernels`.

    python benchmarks/kernels.py [--preset base] [--dtype fp16] [--batch 1 16 64] [--output runs/kernels]

One run times, on the same tensors: the formula in PyTorch's operators (eager), PyTorch's fused attention (sdpa), the
formula under torch.compile, and every tactic of our kernels (ours), each called directly and as a CUDA graph. A single
launch is too short to be timed: 20 are timed together, in one graph where there is one, on as many sets of tensors in
turn. Called directly, most of the time is Python's.

Crops are cut for a batch of people out of a 1080p frame that is on the device already; they are compared with
grid_sample (eager) and with what most runtimes do, OpenCV on the CPU and an upload of the crops. Tokens are gathered
for a batch of windows, resampled because boxes move; they are compared with grid_sample, and with boxes that do not
(copy).

Results are percentiles over the groups, in microseconds for one launch. Each is appended as a row to kernels.csv, with
device and versions, and kernels.png is drawn. --device cpu leaves our kernels out, to try the script.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from csv_rows import append_rows
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from sdtc.core.command_line import command
from sdtc.core.crops import crop_frame, crop_to_image_matrix, expand_boxes
from sdtc.core.errors import InputError, require
from sdtc.core.files import make_directory
from sdtc.kernels.operators.cross_attention.reference import cross_attention_plain, cross_attention_reference
from sdtc.kernels.operators.decode_heatmaps.reference import decode_heatmaps_reference
from sdtc.kernels.operators.gather_tokens.reference import gather_tokens_reference
from sdtc.kernels.operators.self_refinement.reference import self_refinement_plain, self_refinement_reference
from sdtc.kernels.operators.spatial_attention.reference import spatial_attention_plain, spatial_attention_reference
from sdtc.kernels.operators.temporal_attention.reference import temporal_attention_plain, temporal_attention_reference
from sdtc.kernels.report.cases import REFINEMENTS

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SHAPES = {"base": (5, (16, 12), 8, 32), "tiny": (5, (12, 9), 2, 32)}  # T, grid of tokens, H, D
JOINTS = 15
FRAME = (1080, 1920)
# The formula, and the plain path that runs where our kernel does not.
FORMULAS = {
    "temporal_attention": (temporal_attention_reference, temporal_attention_plain),
    "spatial_attention": (spatial_attention_reference, spatial_attention_plain),
    "joint_attention": (spatial_attention_reference, spatial_attention_plain),
    **dict.fromkeys(REFINEMENTS, (self_refinement_reference, self_refinement_plain)),
    "cross_attention": (cross_attention_reference, cross_attention_plain),
}
OPERATORS = (*FORMULAS, "decode_heatmaps", "gather_tokens", "crop_frame")
WARM_UP = 3  # groups
LAUNCHES = 20  # of a group


@dataclass(frozen=True)
class Candidate:
    """One way to compute a result.

    Attributes:
        name: in the table.
        call: computes the result from a set of tensors.
        on_device: everything happens on the GPU, so that a CUDA graph can capture it.
    """

    name: str
    call: Callable[..., Tensor]
    on_device: bool = True


@dataclass(frozen=True)
class Case:
    """What is timed: every candidate on the same sets of tensors, all of the same sizes."""

    sets: list[tuple[Any, ...]]
    candidates: Iterator[Candidate]


@command("kernels.py")
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=SHAPES, default="base", help="whose shapes (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=["fp16"], help="default: fp16")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64], help="windows (default: 1 16 64)")
    parser.add_argument(
        "--calls", type=int, default=100, help="timed groups of 20 launches of each (default: %(default)s)"
    )
    parser.add_argument("--operator", choices=OPERATORS, nargs="+", default=list(OPERATORS), help="default: all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: %(default)s")
    parser.add_argument("--output", type=Path, default=Path("runs/kernels"), metavar="DIR")
    args = parser.parse_args(argv)
    if args.calls < 1 or min(args.batch) < 1:
        raise InputError("--calls and --batch must be at least 1")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("no CUDA GPU is usable: run this on a machine with one, or try the script with --device cpu")
    make_directory(args.output)

    rows = []
    work = [
        (operator, dtype, batch)
        for operator in args.operator
        for dtype in (args.dtype if operator != "crop_frame" else ["u8"])
        for batch in args.batch
    ]
    for operator, dtype, batch in tqdm(work, unit="case", disable=None, leave=False):
        first = len(rows)
        case = make_case(operator, SHAPES[args.preset], batch, dtype, args.device)
        for candidate in case.candidates:
            group = partial(run_group, candidate.call, case.sets)
            for graph in (False, True) if args.device == "cuda" and candidate.on_device else (False,):
                timed = as_cuda_graph(group) if graph else group
                microseconds = time_groups(timed, args.calls, args.device) / len(case.sets)
                rows.append(
                    {
                        "date": datetime.date.today().isoformat(),
                        "device": torch.cuda.get_device_name() if args.device == "cuda" else platform.machine(),
                        "torch": torch.__version__,
                        "cuda": torch.version.cuda or "",
                        "triton": _version("triton"),
                        "operator": operator,
                        "preset": args.preset,
                        "dtype": dtype,
                        "batch": batch,
                        "what": candidate.name,
                        "cuda_graph": graph,
                    }
                    | {f"p{p}_us": round(float(np.percentile(microseconds, p)), 2) for p in (50, 95, 99)}
                )
        append_rows(args.output / "kernels.csv", rows[first:])  # at once, so that a later failure loses nothing
    print(table(rows))
    print(f"wrote {args.output / 'kernels.csv'}")
    if draw(args.output / "kernels.png", rows):
        print(f"wrote {args.output / 'kernels.png'}")
    return 0


def make_case(operator: str, shape: tuple[int, tuple[int, int], int, int], batch: int, dtype: str, device: str) -> Case:
    """Return what to time for an operator.

    Args:
        operator: one of `OPERATORS`.
        shape: one of `SHAPES`.
        batch: windows, or people in a frame.
        dtype: one of `DTYPES`; crops are always uint8.
        device: ``"cuda"`` or ``"cpu"``.
    """
    torch.manual_seed(0)
    if operator == "crop_frame":
        return _crops(shape[1], batch, device)
    if operator == "decode_heatmaps":
        return _decoders(shape[1], batch, DTYPES[dtype], device)
    if operator == "gather_tokens":
        return _gathered_tokens(shape, batch, DTYPES[dtype], device)
    return _formulas(operator, shape, batch, DTYPES[dtype], device)


def _formulas(
    operator: str, shape: tuple[int, tuple[int, int], int, int], batch: int, dtype: torch.dtype, device: str
) -> Case:
    T, (rows, columns), H, D = shape
    L = rows * columns
    count, size = 1, (batch, H * D, L)
    if operator == "joint_attention":
        size = (batch, 1, T * L, 3, H, D)
    elif operator in ("temporal_attention", "spatial_attention"):
        size = (batch, T, L, 3, H, D)
    elif operator == "cross_attention":
        count = 3
    axis = [REFINEMENTS[operator]] if operator in REFINEMENTS else []

    def candidates() -> Iterator[Candidate]:
        reference, plain = FORMULAS[operator]
        yield Candidate("eager", reference)
        yield Candidate("fp32 operators" if operator in REFINEMENTS else "sdpa", plain)
        if device == "cuda":
            yield Candidate("torch.compile", _compiled(reference))
            folder = "self_refinement" if operator in REFINEMENTS else operator.replace("joint", "spatial")
            ours = import_module(f"sdtc.kernels.operators.{folder}.launch")
            for tactic in ours.TACTICS:
                yield Candidate(f"ours, {tactic}", lambda *inputs, tactic=tactic: ours.run(*inputs, tactic))

    tensors = ([torch.randn(size, device=device, dtype=dtype) for _ in range(count)] for _ in range(_sets(device)))
    return Case([(*each, *axis) for each in tensors], candidates())


def _decoders(grid: tuple[int, int], batch: int, dtype: torch.dtype, device: str) -> Case:
    rows, columns = grid
    maps, size = (batch, JOINTS, 4 * rows, 4 * columns), (16 * rows, 16 * columns)

    def candidates() -> Iterator[Candidate]:
        yield Candidate("eager", decode_heatmaps_reference)
        if device == "cuda":
            yield Candidate("torch.compile", _compiled(decode_heatmaps_reference))
            yield Candidate("ours", import_module("sdtc.kernels.operators.decode_heatmaps.launch").run)

    return Case([(torch.rand(maps, device=device, dtype=dtype), size) for _ in range(_sets(device))], candidates())


def _gathered_tokens(shape: tuple[int, tuple[int, int], int, int], batch: int, dtype: torch.dtype, device: str) -> Case:
    T, grid, H, D = shape
    L, C, rows = grid[0] * grid[1], H * D, batch * T
    same = torch.tensor([1.0, 0.0, 1.0, 0.0], device=device).repeat(rows, 1)
    spread = 0.05 * torch.tensor([1.0, grid[1], 1.0, grid[0]], device=device)

    def tensors() -> tuple[Any, ...]:
        pool = torch.randn(2 * rows, L, C, device=device, dtype=dtype)
        slots = torch.randperm(2 * rows, device=device)[:rows].int()
        places = same + spread * torch.randn(rows, 4, device=device)
        places[T // 2 :: T] = same[0]  # a keyframe in its own box
        return pool, slots, places, grid

    def candidates() -> Iterator[Candidate]:
        yield Candidate("eager", gather_tokens_reference)
        yield Candidate("grid_sample", gather_by_grid_sample)
        yield Candidate("eager, copy", lambda pool, slots, *_: pool[slots.long()])
        if device == "cuda":
            yield Candidate("torch.compile", _compiled(gather_tokens_reference))
            ours = import_module("sdtc.kernels.operators.gather_tokens.launch")
            yield Candidate("ours", ours.gather)
            yield Candidate("ours, copy", lambda pool, slots, *_: ours.gather(pool, slots, same, grid))

    return Case([tensors() for _ in range(_sets(device))], candidates())


def gather_by_grid_sample(pool: Tensor, slots: Tensor, places: Tensor, grid: tuple[int, int]) -> Tensor:
    """Gather and resample tokens with PyTorch's sampler, see `gather_tokens_reference`."""
    h, w = grid
    along, down = (torch.arange(side, device=pool.device) for side in (w, h))
    x = 2 * (places[:, 0:1] * along + places[:, 1:2]) / (w - 1) - 1  # [R, w], from -1 to 1
    y = 2 * (places[:, 2:3] * down + places[:, 3:4]) / (h - 1) - 1  # [R, h]
    at = torch.stack([x[:, None].expand(-1, h, w), y[:, :, None].expand(-1, h, w)], dim=-1).to(pool.dtype)
    maps = pool[slots.long()].view(len(slots), h, w, -1).permute(0, 3, 1, 2)
    found = functional.grid_sample(maps, at, padding_mode="border", align_corners=True)
    return found.permute(0, 2, 3, 1).reshape(len(slots), h * w, -1)


def _crops(grid: tuple[int, int], batch: int, device: str) -> Case:
    size = 16 * grid[0], 16 * grid[1]
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (*FRAME, 3), dtype=np.uint8)
    corners = rng.uniform(0, 0.6, (batch, 2)) * FRAME[::-1]
    boxes = expand_boxes(np.concatenate([corners, rng.uniform(100, 500, (batch, 2))], axis=1), size)
    matrices = torch.from_numpy(np.stack([crop_to_image_matrix(box, size) for box in boxes])).to(device)

    def on_the_cpu(*_: Any) -> Tensor:
        return torch.from_numpy(np.stack([crop_frame(picture, box, size) for box in boxes])).to(device)

    def candidates() -> Iterator[Candidate]:
        yield Candidate("eager", crop_by_grid_sample)
        yield Candidate("OpenCV + upload", on_the_cpu, on_device=False)
        if device == "cuda":
            yield Candidate("torch.compile", _compiled(crop_by_grid_sample))
            yield Candidate("ours", import_module("sdtc.kernels.operators.crop_frame.launch").run)

    frames = (torch.from_numpy(picture).to(device, copy=True) for _ in range(_sets(device)))
    return Case([(frame, matrices, size) for frame in frames], candidates())


def crop_by_grid_sample(frame: Tensor, matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut crops out of a frame with PyTorch's operators.

    Args:
        frame: uint8 ``[H_image, W_image, 3]``.
        matrices: ``[N, 2, 3]``, from crop pixels to image pixels.
        size: (H, W) of a crop.

    Returns:
        uint8 ``[N, H, W, 3]``, close to `crop_frame`, which rounds positions to 1/32 of a pixel.
    """
    height, width, _ = frame.shape
    y, x = torch.meshgrid(*(torch.arange(side, device=frame.device) for side in size), indexing="ij")
    places = torch.stack([x, y, torch.ones_like(x)], dim=-1).float()  # [H, W, 3]
    at = places @ matrices.float().transpose(1, 2)[:, None]  # [N, H, W, 2]
    grid = torch.stack([(at[..., 0] + 0.5) * (2 / width) - 1, (at[..., 1] + 0.5) * (2 / height) - 1], dim=-1)
    picture = frame.permute(2, 0, 1).float()[None].expand(len(matrices), -1, -1, -1)
    crops = functional.grid_sample(picture, grid, padding_mode="zeros", align_corners=False)
    return crops.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    torch._dynamo.reset()  # otherwise a second size would be compiled for dynamic sizes
    return torch.compile(function, dynamic=False)


def _sets(device: str) -> int:
    return LAUNCHES if device == "cuda" else 1  # a clock on the CPU can time single calls


def run_group(call: Callable[..., Tensor], sets: list[tuple[Any, ...]]) -> None:
    """Call a candidate once with each set of tensors."""
    for inputs in sets:
        call(*inputs)


def as_cuda_graph(group: Callable[[], None]) -> Callable[[], None]:
    """Capture a group of launches as one CUDA graph, whose replay costs the CPU almost nothing."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            group()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        group()
    return graph.replay


def time_groups(group: Callable[[], None], count: int, device: str) -> np.ndarray:
    """Return the times of groups of launches after a warm-up, ``[count]``, in microseconds."""
    for _ in range(WARM_UP if device == "cuda" else 1):
        group()
    if device == "cpu":
        times = []
        for _ in range(count):
            start = time.perf_counter()
            group()
            times.append((time.perf_counter() - start) * 1e6)
        return np.array(times)
    torch.cuda.synchronize()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
    for start, end in events:
        start.record()
        group()
        end.record()
    torch.cuda.synchronize()
    return np.array([start.elapsed_time(end) * 1e3 for start, end in events])


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as text, each with its speed-up over eager."""
    lines = [
        f"{'operator':20}{'dtype':6}{'batch':>6}  {'what':16}{'graph':6}{'p50 µs':>10}{'p95':>10}{'p99':>10}{'x':>7}"
    ]
    for row in rows:
        case = ("operator", "dtype", "batch", "cuda_graph")
        eager = next(r for r in rows if r["what"] == "eager" and all(r[key] == row[key] for key in case))
        lines.append(
            f"{row['operator']:20}{row['dtype']:6}{row['batch']:6}  {row['what']:16}"
            f"{'yes' if row['cuda_graph'] else '':6}"
            f"{row['p50_us']:10.1f}{row['p95_us']:10.1f}{row['p99_us']:10.1f}{eager['p50_us'] / row['p50_us']:6.1f}x"
        )
    return "\n".join(lines)


def draw(path: Path, rows: list[dict[str, Any]]) -> bool:
    """Draw the medians of the largest batch; False without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        return False
    last = rows[-1]
    shown = [r for r in rows if (r["batch"], r["dtype"], r["cuda_graph"]) == (last["batch"], last["dtype"], False)]
    names = list(dict.fromkeys(row["operator"] for row in shown))
    figure = Figure(figsize=(4 * len(names), 4), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        bars = [row for row in shown if row["operator"] == name]
        axis.barh([row["what"] for row in bars], [row["p50_us"] for row in bars])
        axis.invert_yaxis()
        axis.set(title=name, xlabel="median, µs")
    figure.suptitle(f"{last['device']}, {last['preset']}, {last['dtype']}, batch {last['batch']}, {last['date']}")
    figure.savefig(path, dpi=110)
    return True


def _version(module: str) -> str:
    try:
        return str(require(module, "kernels", "kernels.py").__version__)
    except ImportError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
