"""Measures one case of `latency.py` in a process of its own: reads the case as JSON on stdin, prints results as JSON.

Not to be run by hand. Libraries are imported during the measurement, so that loading them counts, and torch is imported
only for the methods that need it.
"""

from __future__ import annotations

import copy
import itertools
import json
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sdtc.core.errors import SdtcError, require
from sdtc.core.files import atomic_write
from sdtc.runtime.estimation.timing import Durations, StageTimes
from sdtc.runtime.options import EngineOptions, TrackOptions
from sdtc.runtime.people.detection import Detections
from sdtc.runtime.sources.base import Frame, FrameSource
from sdtc.runtime.sources.open import open_source

HEIGHTS = {480: (480, 854), 1080: (1080, 1920)}
PERCENTILES = (50, 95, 99)
MIN_KEYFRAMES = 5
MIN_SECONDS = 2.0
WARM_UP = 2  # keyframes of methods other than the bundle


@dataclass(frozen=True)
class Method:
    """One method of pose estimation.

    Attributes:
        name: value of --case.
        title: for tables and plots.
        module: Python module that it needs.
        options: values for `EngineOptions`; None for methods other than the bundle.
    """

    name: str
    title: str
    module: str
    options: dict[str, Any] | None = None


def _ours() -> Iterator[Method]:
    for name, title, module, options in (
        ("auto", "auto", "numpy", {"device": "cpu", "precision": "auto", "threads": None}),
        ("onnxruntime", "ONNX Runtime", "onnxruntime", {"backend": "onnxruntime", "device": "cpu"}),
        ("openvino", "OpenVINO", "openvino", {"backend": "openvino", "precision": "fp32"}),
        ("openvino-bf16", "OpenVINO bf16", "openvino", {"backend": "openvino", "precision": "bf16"}),
        ("openvino-int8", "OpenVINO int8", "openvino", {"backend": "openvino", "precision": "int8"}),
        ("cuda", "ONNX Runtime CUDA", "onnxruntime", {"backend": "onnxruntime", "device": "cuda"}),
        ("tensorrt", "TensorRT", "tensorrt", {"backend": "tensorrt"}),
        ("tensorrt-rtx", "TensorRT-RTX", "tensorrt_rtx", {"backend": "tensorrt-rtx"}),
    ):
        yield Method(f"{name}-windows", f"{title}, whole windows", module, options | {"exact": True})
        yield Method(f"{name}-streaming", f"{title}, streaming", module, options | {"exact": False})


METHODS = {
    method.name: method
    for method in (
        Method("torch", "PyTorch, sliding window", "torch"),
        Method("torch-compile", "torch.compile, sliding window", "torch"),
        Method("stock-onnx", "plain ONNX export, ONNX Runtime", "onnxruntime"),
        Method("vitpose", "Hugging Face ViTPose, every frame", "transformers"),
        *_ours(),
    )
}
ON_GPU = ("cuda", "tensorrt", "tensorrt-rtx")


@dataclass(frozen=True)
class LatencyCase:
    """One thing to measure, in a process of its own.

    Attributes:
        method: key of `METHODS`.
        preset: of the row.
        folder: of the preset's checkpoint and plain ONNX file.
        bundle: folder or file.
        clip: the video.
        height: of the video, a key of `HEIGHTS`.
        people: number of boxes per frame.
        drift: movement of the boxes per frame, as a share of their width.
        threads: CPU threads.
        frames: number of timed keyframes.
        budget: seconds after which `MIN_KEYFRAMES` are enough.
        limit: seconds after which the process is killed.
    """

    method: str
    preset: str
    folder: str
    bundle: str
    clip: str
    height: int
    people: int
    drift: float
    threads: int
    frames: int
    budget: float
    limit: float


def main() -> int:
    task = json.load(sys.stdin)
    try:
        answer = export(task) if "stock" in task else measure(LatencyCase(**task))
    except SdtcError as error:
        answer = {"error": str(error)}
    except Exception as error:  # of a compiler or a library
        answer = {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"}
    print(json.dumps(answer))
    return 0


def export(task: dict[str, Any]) -> dict[str, Any]:
    """Write those of a preset's checkpoint, bundle and plain ONNX export that the task asks for."""
    torch = require("torch", "export", "a preset")
    from sdtc.export import bundle
    from sdtc.model import build, get_preset, load_checkpoint, save_checkpoint
    from sdtc.runtime.backends.cuda import gpu_or_reason

    folder = Path(task["folder"])
    checkpoint = folder / "checkpoint.pth"
    if task["checkpoint"]:
        torch.manual_seed(0)
        save_checkpoint(checkpoint, build(get_preset(task["preset"])), trained=False)
    if task["bundle"]:
        bundle.export(
            checkpoint, folder / "bundle", bundle.ExportOptions(plan=gpu_or_reason()[0] is not None), quiet=True
        )
    if task["stock"]:
        network = load_checkpoint(checkpoint).network.eval()
        example = torch.zeros(2, network.config.num_frames, *network.config.input_size, 3, dtype=torch.uint8)
        # torch.export first, so that the network's operators become PyTorch's own and not functions of this package.
        with torch.no_grad():
            program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
            exported = torch.onnx.export(
                program, dynamo=True, input_names=["clip"], output_names=["heatmaps"], verbose=False
            )
        with atomic_write(folder / "stock.onnx") as temporary:
            exported.save(temporary)
    return {}


class LoopedVideo(FrameSource):
    """The clip in an endless loop.

    Args:
        path: of the video.
        paced: wait for a permit before every frame (`permits`).

    Attributes:
        asked: when each frame was requested, or permitted if paced.
        decoding: seconds that decoding each frame took.
    """

    def __init__(self, path: Path, paced: bool = False) -> None:
        self.path, self.name, self.fps, self.num_frames = path, path.stem, 25.0, None
        self.problems: list[str] = []
        self.paced, self.permits, self.stopped = paced, threading.Semaphore(0), False
        self.asked: list[float] = []
        self.decoding: list[float] = []

    def __iter__(self) -> Iterator[Frame]:
        images = self._images()
        for index in itertools.count():
            if self.paced:
                self.permits.acquire()
            if self.stopped:
                return
            self.asked.append(time.perf_counter())
            image = next(images)
            self.decoding.append(time.perf_counter() - self.asked[-1])
            yield Frame(index, index, None, image, time=index / self.fps)

    def stop(self) -> None:
        self.stopped = True
        self.permits.release()

    def _images(self) -> Iterator[np.ndarray]:
        while True:
            with open_source(self.path) as video:
                for frame in video:
                    assert frame.image is not None
                    yield frame.image


class MovingPeople:
    """A detector that returns fixed boxes side by side, which move back and forth by `drift`."""

    def __init__(self, count: int, size: tuple[int, int], drift: float) -> None:
        rows, columns = size
        side = columns / (count + 1)
        x = side * (np.arange(count) + 0.5)
        y, w, h = (np.full(count, value) for value in (0.2 * rows, 0.8 * side, 0.7 * rows))
        self.boxes = np.stack([x, y, w, h], axis=1)  # [P, 4]
        self.drift, self.frame = drift, 0

    def detect(self, image: np.ndarray) -> Detections:
        steps = abs((self.frame + 10) % 20 - 10)  # ten frames forth, ten back
        self.frame += 1
        boxes = self.boxes.copy()
        boxes[:, 0] += steps * self.drift * boxes[:, 2]
        return Detections(boxes.astype(np.float32), np.ones(len(boxes), np.float32))


def measure(case: LatencyCase) -> dict[str, Any]:
    """Measure one case; the process should have done nothing else before.

    Returns:
        backend, keyframes (timed), keyframes_per_second, load_s, first_result_s, peak_mib and crops_per_pose; and for
        ``latency`` and each stage the percentiles in milliseconds.
    """
    answer = _measure_ours(case) if METHODS[case.method].options is not None else _measure_plain(case)
    return answer | {"peak_mib": round(_peak_mib(), 1)}


def _measure_ours(case: LatencyCase) -> dict[str, Any]:
    start = time.perf_counter()
    import sdtc.runtime

    options = EngineOptions(**({"threads": case.threads} | (METHODS[case.method].options or {})))
    with (
        sdtc.runtime.open(case.bundle, options) as engine,
        tempfile.TemporaryDirectory() as folder,
    ):
        load = time.perf_counter() - start
        settled = engine.manifest.num_frames + 1 if engine.streaming else 1  # keyframes until the token cache is filled
        free = _Run(engine, case, Path(folder), paced=False)
        free.go(lambda times: (throughput(times[settled:]) or (0, 0))[0], case.budget / 2)
        keyframes, rate = throughput(free.times[settled:]) or (0, float("nan"))
        engine.encoded = engine.estimated = 0

        paced = _Run(engine, case, Path(folder), paced=True)
        paced.go(lambda times: len(times) - settled, case.budget / 2, forget_at=settled)
        delta = engine.manifest.delta
        waits = [done - paced.source.asked[index + delta] for index, done in enumerate(paced.times)]
        times = paced.stages | {"decode": paced.source.decoding[settled + delta :]}
        encoded = engine.encoded / engine.estimated if engine.estimated else float(engine.manifest.num_frames)
        return {
            "backend": engine.backend,
            "keyframes": keyframes,
            "keyframes_per_second": round(rate, 3),
            "load_s": round(load, 3),
            "first_result_s": round(free.times[0] - start, 3),
            "crops_per_pose": round(encoded, 3),
            **_percentiles(times | {"latency": waits[settled:]}),
        }


class _Run:
    """One run of an engine over the clip, which writes poses like `sdtc-infer`.

    Attributes:
        times: when the poses of each keyframe were complete.
        stages: durations by stage, from `forget_at` to the end; of paced runs only, in which stages do not overlap.
    """

    def __init__(self, engine: Any, case: LatencyCase, folder: Path, paced: bool) -> None:
        self.engine, self.case, self.folder = engine, case, folder
        self.source = LoopedVideo(Path(case.clip), paced)
        self.times: list[float] = []
        self.stages: dict[str, Durations] = {}

    def go(self, count: Callable[[list[float]], int], budget: float, forget_at: int | None = None) -> None:
        """Run until there are enough keyframes, or the time is up.

        Args:
            count: returns the number of timed keyframes, given the times of all keyframes so far.
            budget: seconds after which `MIN_KEYFRAMES` are enough.
            forget_at: keyframe after which stage durations are recorded.
        """
        from sdtc.runtime.output.writers import make_writer
        from sdtc.runtime.pipeline import overlap

        times = self.engine.times
        people = MovingPeople(self.case.people, HEIGHTS[self.case.height], self.case.drift)
        begin = time.perf_counter()
        results = overlap(self.engine.track(self.source, TrackOptions(detector=people)), 2, "pose", self.source.stop)
        self.source.permits.release(self.engine.manifest.delta + 1)  # all that the first keyframe needs
        try:
            with make_writer("jsonl", self.folder / "poses", "clip", self.engine.skeleton) as writer:
                for result in results:
                    with times.stage("write"):
                        writer.write(result)
                    self.times.append(time.perf_counter())
                    if len(self.times) == forget_at:
                        times.durations.clear()
                    needed = keyframes_needed(time.perf_counter() - begin, self.case.frames, budget)
                    if needed is not None and count(self.times) >= needed:
                        if self.source.paced:
                            self.stages = copy.deepcopy(dict(times.durations))
                        return
                    self.source.permits.release()
        finally:
            results.close()


def keyframes_needed(seconds: float, frames: int, budget: float) -> int | None:
    """Return how many keyframes are enough after some seconds; None: it is too early to stop."""
    if seconds < min(MIN_SECONDS, budget):
        return None
    return frames if seconds < budget else min(frames, MIN_KEYFRAMES)


def throughput(times: Sequence[float]) -> tuple[int, float] | None:
    """Return the number of keyframes and their rate, where keyframes may be completed in batches.

    Args:
        times: when each keyframe was completed, seconds.

    Returns:
        The number of keyframes in whole batches, and keyframes per second; None if there are fewer than three batches.
    """
    gaps = np.diff(times)
    starts = [0, *(int(i) + 1 for i in np.flatnonzero(gaps > 0.25 * gaps.mean()))] if len(gaps) else []
    if len(starts) < 3:
        return None
    # The last batch may be incomplete. The first one may have started before the timing, so only its end is used.
    count, seconds = starts[-1] - starts[1], times[starts[-2]] - times[starts[0]]
    return count, count / seconds


def _measure_plain(case: LatencyCase) -> dict[str, Any]:
    """Measure another method in the usual loop: read, crop and run, one keyframe after the other."""
    start = time.perf_counter()
    from sdtc.core.crops import crop_frame, crop_to_image, expand_boxes
    from sdtc.model.config import get_preset

    config = get_preset(case.preset)
    T, size = (1 if case.method == "vitpose" else config.num_frames), config.input_size
    estimate, backend = PLAIN[case.method](case)
    load = time.perf_counter() - start
    times, people = StageTimes(), MovingPeople(case.people, HEIGHTS[case.height], case.drift)
    frames = iter(LoopedVideo(Path(case.clip)))
    window: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=T)
    waits: list[float] = []
    warm, first, begin = 0, 0.0, time.perf_counter()
    while (needed := keyframes_needed(time.perf_counter() - begin, case.frames, case.budget)) is None or (
        len(waits) < needed
    ):  # fmt: skip
        asked = time.perf_counter()
        with times.stage("decode"):
            image = next(frames).image
            assert image is not None
        with times.stage("detect"):
            window.append((image, people.detect(image).boxes))
        if len(window) < T:
            continue
        with times.stage("crop"):
            boxes = expand_boxes(window[T // 2][1], size)
            clips = np.stack([[crop_frame(image, box, size) for image, _ in window] for box in boxes])
        with times.stage("pose"):
            keypoints = estimate(clips)
        crop_to_image(keypoints[..., :2], boxes[:, None], size)
        done = time.perf_counter()
        first = first or done - start
        if warm < WARM_UP:
            warm, begin = warm + 1, done
            times.durations.clear()
        else:
            waits.append(done - asked)
    return {
        "backend": backend,
        "keyframes": len(waits),
        "keyframes_per_second": round(1 / float(np.median(waits)), 3),
        "load_s": round(load, 3),
        "first_result_s": round(first, 3),
        "crops_per_pose": float(T),
        **_percentiles(dict(times.durations) | {"latency": waits}),
    }


Estimate = Callable[[np.ndarray], np.ndarray]  # clips uint8 [P, T, H, W, 3] to keypoints [P, J, 3] in crop pixels


def _torch(case: LatencyCase, compiled: bool = False) -> tuple[Estimate, str]:
    import torch

    from sdtc.model import load_checkpoint
    from sdtc.model.decoding import decode_heatmaps

    torch.set_num_threads(case.threads)
    network = load_checkpoint(Path(case.folder) / "checkpoint.pth").network
    run: Any = torch.compile(network, dynamic=False) if compiled else network

    def estimate(clips: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return decode_heatmaps(run(torch.from_numpy(clips)), network.config.input_size).numpy()

    return estimate, f"torch {torch.__version__} (CPU, {case.threads} threads)"


def _stock_onnx(case: LatencyCase) -> tuple[Estimate, str]:
    from sdtc.core.heatmaps import decode_heatmaps
    from sdtc.model.config import get_preset

    onnxruntime = require("onnxruntime", "cpu", "plain ONNX export")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = case.threads
    session = onnxruntime.InferenceSession(
        str(Path(case.folder) / "stock.onnx"), options, providers=["CPUExecutionProvider"]
    )
    size = get_preset(case.preset).input_size

    def estimate(clips: np.ndarray) -> np.ndarray:
        return decode_heatmaps(session.run(None, {"clip": clips})[0], size)

    return estimate, f"onnxruntime {onnxruntime.__version__} (CPU, {case.threads} threads)"


def _vitpose(case: LatencyCase) -> tuple[Estimate, str]:
    import torch

    from sdtc.core.heatmaps import decode_heatmaps
    from sdtc.model.config import PATCH_SIZE, get_preset
    from sdtc.model.network import MEAN, STD

    transformers = require("transformers", "dev", "ViTPose by Hugging Face")
    torch.set_num_threads(case.threads)
    preset = get_preset(case.preset)
    backbone = transformers.VitPoseBackboneConfig(
        hidden_size=preset.backbone.width, num_hidden_layers=preset.backbone.depth,
        num_attention_heads=preset.backbone.heads, mlp_ratio=preset.backbone.mlp_ratio,
        image_size=list(preset.input_size), patch_size=[PATCH_SIZE] * 2,
    )  # fmt: skip
    torch.manual_seed(0)
    network = transformers.VitPoseForPoseEstimation(
        transformers.VitPoseConfig(backbone_config=backbone, num_labels=17, use_simple_decoder=True)
    ).eval()
    mean, std = (255.0 * torch.tensor(values)[:, None, None] for values in (MEAN, STD))

    def estimate(clips: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            pictures = torch.from_numpy(clips[:, 0]).permute(0, 3, 1, 2).float()  # [P, 3, H, W]
            heatmaps = network((pictures - mean) / std).heatmaps.numpy()
        return decode_heatmaps(heatmaps, preset.input_size)

    return estimate, f"transformers {transformers.__version__}, torch {torch.__version__} (CPU, {case.threads} threads)"


PLAIN: dict[str, Callable[[LatencyCase], tuple[Estimate, str]]] = {
    "torch": _torch,
    "torch-compile": lambda case: _torch(case, compiled=True),
    "stock-onnx": _stock_onnx,
    "vitpose": _vitpose,
}


def _percentiles(seconds: dict[str, Durations | list[float]]) -> dict[str, float]:
    """Return percentiles in milliseconds, by their column names in the CSV."""
    found = {}
    for name, values in seconds.items():
        for p in PERCENTILES:
            at = values.percentile(p / 100) if isinstance(values, Durations) else float(np.percentile(values, p))
            found[f"{name}_p{p}_ms"] = round(1e3 * at, 3)
    return found


def _peak_mib() -> float:
    """Return the peak memory of this process."""
    with suppress(OSError), open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    sys.exit(main())
