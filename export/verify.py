"""Is the export right? Compares what a bundle answers with what the network answers, and returns figures.

Reference: the network in fp32 PyTorch. Compared with it: the whole-window graph and the streaming pair, as a user's
runtime runs them. For a reduced precision the yardstick is PyTorch's own error at that precision: the graph may be
off by at most twice as much.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, numpy_helper

from sdtc.core.crops import crop_frame, expand_boxes
from sdtc.core.errors import ExportError, VideoError
from sdtc.export.graphs import WholeWindow
from sdtc.model.config import ModelConfig
from sdtc.model.network import PoseNetwork
from sdtc.runtime.backends.session import Session
from sdtc.synthetic import ClipOptions, SyntheticClip

SEEDS = (0, 1, 2)
BATCHES = (1, 2, 7)
HEATMAP_TOLERANCE = 1e-4  # fp32, absolute and relative to the largest heatmap value
KEYPOINT_TOLERANCE = 0.01  # fp32, crop pixels
ENGINE_TOLERANCE = 1e-3  # fp32 on a GPU, relative: other kernels sum in another order
# How far a precision may move heatmaps at all, relative to their largest value.
PRECISION_TOLERANCE = {"fp16": 0.02, "bf16": 0.10}
_FRAMES = 8  # of a real or rendered clip


@dataclass
class Difference:
    """The largest differences seen between two answers; grows by `update`.

    Attributes:
        heatmaps: absolute.
        heatmaps_relative: to the largest absolute value in the reference.
        keypoints: crop pixels, over joints whose arg max the heatmap difference cannot have decided.
        scores: of keypoints, 0-1.
        undecided: joints left out of `keypoints`, because two places of the reference heatmap are closer to each
            other than the answers are.
        windows: compared.
    """

    heatmaps: float = 0.0
    heatmaps_relative: float = 0.0
    keypoints: float = 0.0
    scores: float = 0.0
    undecided: int = 0
    decided: int = 0
    windows: int = 0
    _largest: float = field(default=0.0, repr=False)

    def update(self, got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
        """Compare ``keypoints [B, J, 3]`` and ``heatmaps [B, J, h, w]``."""
        error = np.abs(got["heatmaps"].astype(np.float64) - want["heatmaps"])
        if not np.isfinite(error).all():
            error = np.full_like(error, np.inf)
        self.heatmaps = max(self.heatmaps, float(error.max()))
        self._largest = max(self._largest, float(np.abs(want["heatmaps"]).max()))
        self.heatmaps_relative = self.heatmaps / max(self._largest, 1e-12)
        decided = decision_margin(want["heatmaps"]) > 2 * error.max(axis=(2, 3))
        apart = np.abs(got["keypoints"].astype(np.float64) - want["keypoints"])  # [B, J, 3]
        apart = np.where(np.isfinite(apart), apart, np.inf)
        self.keypoints = max(self.keypoints, float(apart[..., :2].max(axis=-1)[decided].max(initial=0.0)))
        self.scores = max(self.scores, float(apart[..., 2].max()))
        self.decided += int(decided.sum())
        self.undecided += int((~decided).sum())
        self.windows += len(error)

    def figures(self) -> dict[str, Any]:
        """Return what the manifest keeps."""
        return {
            "heatmaps_max_abs": self.heatmaps,
            "heatmaps_max_relative": self.heatmaps_relative,
            "keypoints_max_px": self.keypoints,
            "scores_max_abs": self.scores,
            "decided_joints": self.decided,
            "undecided_joints": self.undecided,
            "windows": self.windows,
        }


@dataclass
class Parity:
    """Everything that one verification measured, by comparison."""

    onnx_vs_pytorch: Difference = field(default_factory=Difference)
    streaming_vs_pytorch: Difference = field(default_factory=Difference)
    streaming_vs_window: Difference = field(default_factory=Difference)
    precision_vs_fp32: Difference = field(default_factory=Difference)  # PyTorch's own, at the bundle's precision

    def figures(self) -> dict[str, dict[str, Any]]:
        return {name: difference.figures() for name, difference in vars(self).items() if difference.windows}

    def check(self, precision: str) -> None:
        """Gate on the figures.

        Raises:
            ExportError: a difference is beyond its tolerance; both are named.
        """
        if precision != "fp32":
            limit = PRECISION_TOLERANCE[precision]
            _expect("PyTorch itself", f"{precision} heatmaps", self.precision_vs_fp32.heatmaps_relative, limit)
        for name in ("onnx_vs_pytorch", "streaming_vs_pytorch", "streaming_vs_window"):
            difference: Difference = getattr(self, name)
            what = name.replace("_vs_", " against ").replace("onnx", "ONNX")
            if precision == "fp32":
                _expect(what, "heatmaps", difference.heatmaps, HEATMAP_TOLERANCE)
                _expect(what, "heatmaps (relative)", difference.heatmaps_relative, HEATMAP_TOLERANCE)
            else:
                own_error = self.precision_vs_fp32.heatmaps_relative
                _expect(what, f"{precision} heatmaps (relative)", difference.heatmaps_relative, 2 * own_error)
            _expect_keypoints(what, difference)
            if not difference.decided:
                raise ExportError(
                    f"the export cannot be judged: in no heatmap is the maximum clear of the differences ({what}); is "
                    "the checkpoint broken?"
                )


def decision_margin(heatmaps: np.ndarray) -> np.ndarray:
    """Return by how much each heatmap decides its keypoint, ``[B, J]`` from ``[B, J, h, w]``.

    The margin is the smallest difference that the decode rule rests on: between the two largest values, and between
    the two neighbours on each axis.
    """
    B, J, h, w = heatmaps.shape
    flat = heatmaps.reshape(B * J, h * w)
    rows = np.arange(len(flat))
    top_two = np.partition(flat, -2, axis=1)[:, -2:]
    y, x = np.divmod(flat.argmax(axis=1), w)
    maps = flat.reshape(-1, h, w)
    across = np.abs(maps[rows, y, np.minimum(x + 1, w - 1)] - maps[rows, y, np.maximum(x - 1, 0)])
    down = np.abs(maps[rows, np.minimum(y + 1, h - 1), x] - maps[rows, np.maximum(y - 1, 0), x])
    margin = np.minimum(top_two[:, 1] - top_two[:, 0], np.minimum(across, down))
    return margin.reshape(B, J)


def verify(
    network: PoseNetwork,
    prepared: PoseNetwork,
    sessions: dict[str, Session],
    max_batch: int,
    clip: np.ndarray | None = None,
) -> Parity:
    """Measure the differences over noise of several seeds and batch sizes, and over a clip of people.

    Args:
        network: the reference, fp32.
        prepared: the copy that was exported, at the bundle's precision.
        sessions: by graph: ``model``, ``encoder``, ``temporal``.
        max_batch: windows that the bundle takes at once.
        clip: crops of consecutive frames, uint8 ``[F, H, W, 3]``; see `clip_crops`.
    """
    parity = Parity()
    reduced = prepared.backbone.pos_embed.dtype != torch.float32
    reference, low = WholeWindow(network).eval(), WholeWindow(prepared).eval()
    for windows in _inputs(network.config, max_batch, clip):
        want = _run_torch(reference, windows)
        whole = sessions["model"].run({"clip": windows})
        streamed = _run_streaming(sessions, windows)
        parity.onnx_vs_pytorch.update(whole, want)
        parity.streaming_vs_pytorch.update(streamed, want)
        parity.streaming_vs_window.update(streamed, whole)
        if reduced:
            parity.precision_vs_fp32.update(_run_torch(low, windows), want)
    return parity


def verify_engine(
    network: PoseNetwork, sessions: dict[str, Session], batch: tuple[int, int], clip: np.ndarray | None
) -> tuple[Difference, Difference]:
    """Compare engines that can run here with the network: what only a machine with a GPU can do.

    Args:
        network: the reference, fp32.
        sessions: by graph: ``model``, ``encoder``, ``temporal``.
        batch: the smallest and the largest number of windows that the engines take at once.
        clip: as for `verify`.

    Returns:
        The whole window against PyTorch, and the streaming pair against the whole window.
    """
    window_vs_pytorch, streaming_vs_window = Difference(), Difference()
    reference = WholeWindow(network).eval()
    smallest, largest = batch
    for windows in _inputs(network.config, largest, clip):
        count = len(windows)
        missing = max(smallest - count, 0)  # filled up as the runtime does it: the last window again
        padded = np.concatenate([windows, np.repeat(windows[-1:], missing, axis=0)])
        whole = sessions["model"].run({"clip": padded})
        streamed = _run_streaming(sessions, padded)
        whole, streamed = ({name: array[:count] for name, array in out.items()} for out in (whole, streamed))
        window_vs_pytorch.update(whole, _run_torch(reference, windows))
        streaming_vs_window.update(streamed, whole)
    return window_vs_pytorch, streaming_vs_window


def check_engine(what: str, difference: Difference, precision: str, parity: Parity) -> None:
    """Gate on the figures of engines.

    Args:
        what: was compared with what, for the message.
        difference: one of `verify_engine`'s.
        precision: the bundle's.
        parity: what `verify` measured: PyTorch's own error at that precision is the yardstick.

    Raises:
        ExportError: they differ by more than their tolerance.
    """
    limit = ENGINE_TOLERANCE if precision == "fp32" else 2 * parity.precision_vs_fp32.heatmaps_relative
    _expect(what, f"{precision} heatmaps (relative)", difference.heatmaps_relative, limit)
    _expect_keypoints(what, difference)


def clip_crops(config: ModelConfig, source: Path | None = None) -> np.ndarray:
    """Return crops of consecutive frames, uint8 ``[F, H, W, 3]``: of a video or image folder, or rendered people.

    Raises:
        VideoError: the source cannot be read.
    """
    crops = []
    if source is None:
        for rendered in SyntheticClip(ClipOptions(seed=0, num_frames=_FRAMES, num_people=1)):
            height, width = rendered.image.shape[:2]
            box = rendered.boxes[0] if len(rendered.boxes) else np.array([0, 0, width, height])
            crops.append(crop_frame(rendered.image, expand_boxes(box, config.input_size), config.input_size))
    else:
        from sdtc.runtime.sources.open import open_source

        with open_source(source) as frames:
            for frame in frames:
                if frame.image is not None:
                    height, width = frame.image.shape[:2]
                    box = expand_boxes(np.array([0, 0, width, height]), config.input_size, scale=1.0)
                    crops.append(crop_frame(frame.image, box, config.input_size))
                if len(crops) == _FRAMES:
                    break
        if not crops:
            raise VideoError(f"'{source}' holds no frame to verify on")
    return np.stack(crops)


def float32_arithmetic(model: ModelProto) -> ModelProto:
    """Return a bf16 graph that computes in fp32 with the same, rounded, weights.

    No CPU backend of ONNX has bf16 convolutions. This keeps the graph and its weights honest; that bf16 arithmetic is
    accurate enough is shown by PyTorch, which has it.
    """
    promoted = onnx.ModelProto()
    promoted.CopyFrom(model)
    bf16 = TensorProto.BFLOAT16
    for node in [*promoted.graph.node, *(node for function in promoted.functions for node in function.node)]:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i == bf16:
                attribute.i = TensorProto.FLOAT
            elif attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == bf16:
                attribute.t.CopyFrom(_promote(attribute.t))
    for tensor in promoted.graph.initializer:
        if tensor.data_type == bf16:
            tensor.CopyFrom(_promote(tensor))
    for value in [*promoted.graph.value_info, *promoted.graph.input, *promoted.graph.output]:
        if value.type.tensor_type.elem_type == bf16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    return promoted


def _promote(tensor: TensorProto) -> TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)


def _inputs(config: ModelConfig, max_batch: int, clip: np.ndarray | None) -> Iterator[np.ndarray]:
    """Yield clips uint8 ``[B, T, H, W, 3]``."""
    for seed, batch in zip(SEEDS, BATCHES, strict=True):
        shape = (min(batch, max_batch), config.num_frames, *config.input_size, 3)
        yield np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    if clip is not None:
        last = len(clip) - 1
        offsets = np.arange(-config.delta, config.delta + 1)
        keyframes = np.array([0, last // 2, last])[:max_batch]  # both clamped ends, and the middle
        yield clip[np.clip(keyframes[:, None] + offsets, 0, last)]


def _run_streaming(sessions: dict[str, Session], windows: np.ndarray) -> dict[str, np.ndarray]:
    """Run the streaming pair over clips uint8 ``[B, T, H, W, 3]``."""
    frames = windows.reshape(-1, *windows.shape[2:])
    # One frame at a time and then all together: what a cache does, and what a batch does.
    parts = [part for part in (frames[:1], frames[1:]) if len(part)]
    tokens = np.concatenate([sessions["encoder"].run({"frames": part})["tokens"] for part in parts])
    return sessions["temporal"].run({"tokens": tokens.reshape(*windows.shape[:2], *tokens.shape[1:])})


def _run_torch(module: WholeWindow, windows: np.ndarray) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        keypoints, heatmaps = module(torch.from_numpy(windows))
    return {"keypoints": keypoints.numpy(), "heatmaps": heatmaps.numpy()}


def _expect_keypoints(what: str, difference: Difference) -> None:
    """Gate on places and scores, at every precision and of every backend alike."""
    _expect(what, "keypoints, pixels", difference.keypoints, KEYPOINT_TOLERANCE)
    # A score is its heatmap's maximum, so it may differ by what heatmaps may.
    _expect(what, "scores", difference.scores, difference.heatmaps + 1e-6)


def _expect(what: str, quantity: str, value: float, limit: float) -> None:
    if not value <= limit:
        raise ExportError(
            f"the export is not right: {what} differs in {quantity} by {value:.3g}, allowed is {limit:.3g}; no bundle "
            "was written"
        )
