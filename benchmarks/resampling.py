"""Where windows are resampled: on the host, as tokens are gathered, or inside the temporal graph.

    python benchmarks/resampling.py --engine bundle [--people 1 8] [--backend onnxruntime openvino]

The runtime gathers the tokens of a window anyway, so resampling takes the place of a copy (`sdtc.core.resampling`). The
alternative is a graph that takes tokens as they are together with the weights of rows and columns, and begins with two
matrix products. Both are measured in turn in one process, on windows of people who walk and of people who stand;
medians are printed:

    copy        the gather of people who stand still: nothing is resampled
    resample    the gather of people who walk: all but the keyframe's tokens are resampled
    temporal    one run of the temporal graph
    in graph    one run of the graph that resamples by itself, more than the run without
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from sdtc.core.command_line import command
from sdtc.core.errors import InputError
from sdtc.core.manifest import Manifest, find_manifest
from sdtc.core.resampling import SAME, Resampler, axis_weights
from sdtc.runtime.backends.choice import available_cpus
from sdtc.runtime.backends.onnxruntime_session import OnnxRuntimeSession
from sdtc.runtime.backends.openvino_session import OpenVINOSession
from sdtc.runtime.backends.session import Session

OPEN: dict[str, Callable[[Path, int], Session]] = {
    "onnxruntime": lambda path, threads: OnnxRuntimeSession(path, threads=threads),
    "openvino": lambda path, threads: OpenVINOSession(path, threads=threads),
}


@command("resampling.py")
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", type=Path, required=True, metavar="FILE", help="a bundle")
    parser.add_argument("--people", type=int, nargs="+", default=[1, 8], metavar="N", help="people (default: 1 8)")
    parser.add_argument(
        "--backend", nargs="+", choices=tuple(OPEN), default=list(OPEN), help="backends (default: both)"
    )
    parser.add_argument("--repeats", type=int, default=100, metavar="N", help="runs of each (default: %(default)s)")
    args = parser.parse_args(argv)
    if min(*args.people, args.repeats) < 1:
        raise InputError("--people and --repeats: expected at least 1")
    path = find_manifest(args.engine)
    manifest = Manifest.load(path)
    graph = manifest.verify_file(path.parent, manifest.graphs["temporal"].onnx)
    print(f"{'backend':<14}{'people':>6}{'copy':>10}{'resample':>10}{'temporal':>10}{'in graph':>10}   milliseconds")
    with tempfile.TemporaryDirectory() as folder:
        resampling = Path(folder) / "resampling.onnx"
        onnx.save(resample_in_graph(onnx.load(graph), manifest), resampling)
        for backend in args.backend:
            with OPEN[backend](graph, available_cpus()) as plain, OPEN[backend](resampling, available_cpus()) as other:
                for people in args.people:
                    copy, resample, temporal, inside = measure(manifest, plain, other, people, args.repeats)
                    print(
                        f"{backend:<14}{people:>6}{copy:>10.3f}{resample:>10.3f}{temporal:>10.3f}"
                        f"{inside - temporal:>10.3f}   resampling {(resample - copy) / temporal:.1%} of the temporal "
                        f"part, in graph {(inside - temporal) / temporal:.1%}"
                    )
    return 0


def resample_in_graph(model: onnx.ModelProto, manifest: Manifest) -> onnx.ModelProto:
    """Return a temporal graph that begins with resampling: inputs ``tokens``, ``rows``, ``columns``."""
    (h, w), (L, C), T = manifest.token_grid, manifest.token_shape, manifest.num_frames
    graph = model.graph
    for node in graph.node:
        node.input[:] = ["resampled" if name == "tokens" else name for name in node.input]
    shapes = {"as_rows": [-1, T, h, w * C], "as_maps": [-1, T, h, w, C], "as_tokens": [-1, T, L, C]}
    graph.initializer.extend(
        helper.make_tensor(name, TensorProto.INT64, [len(shape)], shape) for name, shape in shapes.items()
    )
    before = [
        helper.make_node("Reshape", ["tokens", "as_rows"], ["map_rows"]),
        helper.make_node("MatMul", ["rows", "map_rows"], ["sampled_rows"]),
        helper.make_node("Reshape", ["sampled_rows", "as_maps"], ["maps"]),
        helper.make_node("MatMul", ["columns", "maps"], ["sampled"]),
        helper.make_node("Reshape", ["sampled", "as_tokens"], ["resampled"]),
    ]
    nodes = [*before, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
        for name, shape in (("rows", (T, h, h)), ("columns", (T, 1, w, w)))
    )
    return model


def measure(
    manifest: Manifest, plain: Session, other: Session, people: int, repeats: int
) -> tuple[float, float, float, float]:
    """Return the medians of a copy, a resampling gather, the temporal graph, and the one that resamples, in ms."""
    (h, w), T, rng = manifest.token_grid, manifest.num_frames, np.random.default_rng(0)
    maps = [rng.normal(size=manifest.token_shape).astype(np.float32) for _ in range(people * T)]
    walking = np.tile(SAME, (people * T, 1))
    offset = np.arange(-manifest.delta, manifest.delta + 1, dtype=np.float32)
    walking[:, 1] = np.tile(0.13 * offset, people)  # tokens: a walk of 2 % of the width in every frame
    walking[:, 3] = np.tile(0.05 * offset, people)
    standing = np.tile(SAME, (people * T, 1))
    resampler = Resampler(manifest.token_grid, manifest.token_shape[1])
    windows = np.empty((people, T, *manifest.token_shape), np.float32)
    flat = windows.reshape(-1, *manifest.token_shape)
    weights = {
        "rows": axis_weights(walking[:, 2:], h).reshape(people, T, h, h),
        "columns": axis_weights(walking[:, :2], w).reshape(people, T, 1, w, w),
    }
    steps: list[Callable[[], object]] = [
        lambda: resampler.gather(maps, standing, flat),
        lambda: resampler.gather(maps, walking, flat),
        lambda: plain.run({"tokens": windows}),
        lambda: other.run({"tokens": windows} | weights),
    ]
    times: list[list[float]] = [[] for _ in steps]
    for turn in range(repeats + 3):
        for step, found in zip(steps, times, strict=True):
            start = time.perf_counter()
            step()
            if turn >= 3:
                found.append(time.perf_counter() - start)
    copy, resample, temporal, inside = (1e3 * float(np.median(found)) for found in times)
    return copy, resample, temporal, inside


if __name__ == "__main__":
    sys.exit(main())
