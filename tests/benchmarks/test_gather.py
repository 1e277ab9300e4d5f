"""Resampling inside a graph is what the host's gather does, so that the benchmark compares like with like."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from sdtc.core.manifest import Manifest
from sdtc.core.resampling import SAME, Resampler, axis_weights
from sdtc.runtime.backends.onnxruntime_session import OnnxRuntimeSession

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def gather():
    return importlib.import_module("gather")


def test_a_graph_that_resamples_gives_what_the_gather_gives(gather, tiny_bundle, tmp_path) -> None:
    manifest = Manifest.load(tiny_bundle / "model.json")
    graph = tiny_bundle / manifest.graphs["temporal"].onnx
    onnx.save(gather.resample_in_graph(onnx.load(graph), manifest), tmp_path / "resampling.onnx")
    rng, (h, w), T = np.random.default_rng(0), manifest.token_grid, manifest.num_frames
    tokens = rng.normal(size=(2, T, *manifest.token_shape)).astype(np.float32)
    places = (SAME + rng.normal(0, [0.1, 1, 0.1, 1], (2 * T, 4))).astype(np.float32)
    windows = np.empty_like(tokens)
    maps = list(tokens.reshape(-1, *manifest.token_shape))
    Resampler(manifest.token_grid, tokens.shape[-1]).gather(maps, places, windows.reshape(-1, *manifest.token_shape))
    weights = {
        "rows": axis_weights(places[:, 2:], h).reshape(2, T, h, h),
        "columns": axis_weights(places[:, :2], w).reshape(2, T, 1, w, w),
    }
    with OnnxRuntimeSession(graph) as plain, OnnxRuntimeSession(tmp_path / "resampling.onnx") as other:
        want, got = plain.run({"tokens": windows}), other.run({"tokens": tokens} | weights)
        as_they_are = plain.run({"tokens": tokens})
    np.testing.assert_allclose(got["heatmaps"], want["heatmaps"], atol=1e-4)
    assert np.abs(as_they_are["heatmaps"] - want["heatmaps"]).max() > 1e-2  # it makes a difference


@pytest.mark.slow
def test_the_command_prints_a_row_for_every_backend_and_number_of_people(gather, tiny_bundle, capsys) -> None:
    given = ["--engine", str(tiny_bundle), "--people", "1", "2", "--backend", "onnxruntime", "--repeats", "2"]
    assert gather.main(given) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[:2] for row in rows] == [["onnxruntime", "1"], ["onnxruntime", "2"]]
    assert gather.main([*given, "--repeats", "0"]) == 2
