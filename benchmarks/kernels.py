"""How fast are the Triton kernels, against what one would run instead? Needs an NVIDIA GPU and the extra `kernels`.

    python benchmarks/kernels.py [--preset base] [--dtype fp16] [--batch 1 16 64] [--output runs/kernels]

In one run, on the same tensors: the formula in PyTorch's operators (eager), PyTorch's fused attention (sdpa), the
formula under torch.compile, and every tactic of ours; each as it is and as a CUDA graph. Percentiles of single calls,
in microseconds. Appends a row for each to kernels.csv, with device and versions, and draws kernels.png. With --device
cpu it runs without ours, to try the script out.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import platform
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sdtc.errors import InputError, command, require
from sdtc.files import make_directory
from sdtc.kernels.attention import (
    spatial_attention_plain,
    spatial_attention_reference,
    temporal_attention_plain,
    temporal_attention_reference,
)
from sdtc.kernels.cross_attention import cross_attention_plain, cross_attention_reference
from sdtc.kernels.refinement import self_refinement_plain, self_refinement_reference

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SHAPES = {"base": (5, 192, 8, 32), "tiny": (5, 48, 4, 16)}  # T, L, H, D
# The formula, and what runs where there is no kernel of ours.
OPERATORS = {
    "temporal_attention": (temporal_attention_reference, temporal_attention_plain),
    "spatial_attention": (spatial_attention_reference, spatial_attention_plain),
    "joint_attention": (spatial_attention_reference, spatial_attention_plain),
    "self_refinement": (self_refinement_reference, self_refinement_plain),
    "cross_attention": (cross_attention_reference, cross_attention_plain),
}
WARM_UP = 20

Call = Callable[[], Tensor]


@command("kernels.py")
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=SHAPES, default="base", help="whose shapes (default: %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, nargs="+", default=["fp16"], help="default: fp16")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64], help="windows (default: 1 16 64)")
    parser.add_argument("--calls", type=int, default=200, help="timed calls of each (default: %(default)s)")
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
    work = [(o, d, b) for o in args.operator for d in args.dtype for b in args.batch]
    for operator, dtype, batch in tqdm(work, unit="case", disable=None, leave=False):
        inputs = make_inputs(operator, SHAPES[args.preset], batch, DTYPES[dtype], args.device)
        first = len(rows)
        for name, call in candidates(operator, inputs, args.device):
            for graph in (False, True) if args.device == "cuda" else (False,):
                timed = as_cuda_graph(call) if graph else call
                microseconds = time_calls(timed, args.calls, args.device)
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
                        "what": name,
                        "cuda_graph": graph,
                    }
                    | {f"p{p}_us": round(float(np.percentile(microseconds, p)), 2) for p in (50, 95, 99)}
                )
        append(args.output / "kernels.csv", rows[first:])  # what is measured is kept, whatever comes next
    print(table(rows))
    print(f"wrote {args.output / 'kernels.csv'}")
    if draw(args.output / "kernels.png", rows):
        print(f"wrote {args.output / 'kernels.png'}")
    return 0


def make_inputs(
    operator: str, shape: tuple[int, int, int, int], batch: int, dtype: torch.dtype, device: str
) -> list[Tensor]:
    """Draw an operator's inputs."""
    T, L, H, D = shape
    torch.manual_seed(0)
    if operator.endswith("al_attention"):
        return [torch.randn(batch, T, L, 3, H, D, device=device, dtype=dtype)]
    if operator == "joint_attention":
        return [torch.randn(batch, 1, T * L, 3, H, D, device=device, dtype=dtype)]
    count = 3 if operator == "cross_attention" else 1
    return [torch.randn(batch, H * D, L, device=device, dtype=dtype) for _ in range(count)]


def candidates(operator: str, inputs: list[Tensor], device: str) -> Iterator[tuple[str, Call]]:
    """What to time, by name."""
    reference, plain = OPERATORS[operator]
    yield "eager", lambda: reference(*inputs)
    yield "fp32 operators" if operator == "self_refinement" else "sdpa", lambda: plain(*inputs)
    if device == "cuda":
        torch._dynamo.reset()  # a size that it has seen would be compiled for any size
        compiled = torch.compile(reference, dynamic=False)
        yield "torch.compile", lambda: compiled(*inputs)
        ours = import_module(f"sdtc.kernels.gpu.{operator.replace('joint', 'spatial')}")
        for tactic in ours.TACTICS:
            yield f"ours, {tactic}", lambda tactic=tactic: ours.run(*inputs, tactic)


def as_cuda_graph(call: Call) -> Call:
    """Capture a call, so that a launch costs the CPU next to nothing."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            result = call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay


def time_calls(call: Call, calls: int, device: str) -> np.ndarray:
    """Time single calls, after a warm-up: microseconds."""
    for _ in range(WARM_UP if device == "cuda" else 1):
        call()
    if device == "cpu":
        times = []
        for _ in range(calls):
            start = time.perf_counter()
            call()
            times.append((time.perf_counter() - start) * 1e6)
        return np.array(times)
    torch.cuda.synchronize()
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(calls)]
    for start, end in events:
        start.record()
        call()
        end.record()
    torch.cuda.synchronize()
    return np.array([start.elapsed_time(end) * 1e3 for start, end in events])


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as text, each with its ratio to eager."""
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


def append(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append rows to a CSV file, with a head where it is new."""
    fresh = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        if fresh:
            writer.writeheader()
        writer.writerows(rows)


def draw(path: Path, rows: list[dict[str, Any]]) -> bool:
    """Draw medians of the largest batch; False without matplotlib."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        return False
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    last = rows[-1]
    shown = [r for r in rows if (r["batch"], r["dtype"], r["cuda_graph"]) == (last["batch"], last["dtype"], False)]
    names = list(dict.fromkeys(row["operator"] for row in shown))
    figure, axes = plt.subplots(1, len(names), figsize=(4 * len(names), 4), layout="constrained", squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        bars = [row for row in shown if row["operator"] == name]
        axis.barh([row["what"] for row in bars], [row["p50_us"] for row in bars])
        axis.invert_yaxis()
        axis.set(title=name, xlabel="median, µs")
    figure.suptitle(f"{last['device']}, {last['preset']}, {last['dtype']}, batch {last['batch']}, {last['date']}")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def _version(module: str) -> str:
    try:
        return str(require(module, "kernels", "kernels.py").__version__)
    except ImportError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
