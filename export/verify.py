"""Verification of an export: compares the outputs of a bundle with those of the network, and returns figures.

The reference is the network in fp32 PyTorch. Compared with it are the whole-window graph and the streaming pair, run
as a user's runtime runs them. For a reduced precision the yardstick is PyTorch's own error at that precision: the error
of the graph may be at most twice as large.
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
# The largest error that a precision may cause in heatmaps, relative to their largest value.
PRECISION_TOLERANCE = {"fp16": 0.02, "bf16": 0.10}
_FRAMES = 8  # of a real or rendered clip


@dataclass
class Difference:
    """The largest differences seen between two sets of outputs; `update` adds to them.

    Attributes:
        heatmaps: absolute.
        heatmaps_relative: to the largest absolute value in the reference.
        keypoints: crop pixels, over joints whose arg max does not depend on the heatmap difference.
        scores: of keypoints, 0-1.
        undecided: joints left out of `keypoints`, because two values of the reference heatmap are closer to each
            other than the two outputs are.
        decided: joints that are compared in `keypoints`.
        windows: number of windows compared.
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
        """Return the figures that the manifest keeps."""
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
        """Check the figures against the tolerances.

        Raises:
            ExportError: a difference exceeds its tolerance; the message names both.
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
                    f"the export cannot be judged: in every heatmap the differences are as large as the margin of "
                    f"the maximum ({what}); is the checkpoint broken?"
                )


def decision_margin(heatmaps: np.ndarray) -> np.ndarray:
    """Return the margin by which each heatmap decides its keypoint, ``[B, J]`` from ``[B, J, h, w]``.

    The margin is the smallest difference that the decode rule depends on: between the two largest values, and between
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
    """Measure the differences on noise, of several seeds and batch sizes, and on a clip of people.

    Args:
        network: the reference, fp32.
        prepared: the copy that was exported, at the bundle's precision.
        sessions: by graph: ``model``, ``encoder``, ``temporal``.
        max_batch: largest number of windows per batch.
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
    """Compare engines with the network; this needs the GPU that the engines are for.

    Args:
        network: the reference, fp32.
        sessions: by graph: ``model``, ``encoder``, ``temporal``.
        batch: the smallest and the largest number of windows per batch of the engines.
        clip: as for `verify`.

    Returns:
        The whole window against PyTorch, and the streaming pair against the whole window.
    """
    window_vs_pytorch, streaming_vs_window = Difference(), Difference()
    reference = WholeWindow(network).eval()
    smallest, largest = batch
    for windows in _inputs(network.config, largest, clip):
        count = len(windows)
        missing = max(smallest - count, 0)  # padded as in the runtime, with the last window
        padded = np.concatenate([windows, np.repeat(windows[-1:], missing, axis=0)])
        whole = sessions["model"].run({"clip": padded})
        streamed = _run_streaming(sessions, padded)
        whole, streamed = ({name: array[:count] for name, array in out.items()} for out in (whole, streamed))
        window_vs_pytorch.update(whole, _run_torch(reference, windows))
        streaming_vs_window.update(streamed, whole)
    return window_vs_pytorch, streaming_vs_window


def check_engine(what: str, difference: Difference, precision: str, parity: Parity) -> None:
    """Check the figures of engines against the tolerances.

    Args:
        what: what was compared with what, for the message.
        difference: one of `verify_engine`'s.
        precision: the bundle's.
        parity: the figures of `verify`: PyTorch's own error at that precision is the yardstick.

    Raises:
        ExportError: a difference exceeds its tolerance.
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

    No CPU backend of ONNX has bf16 convolutions. So this verifies the graph and its weights; the accuracy of bf16
    arithmetic is verified in PyTorch, which supports it.
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
    # First one frame, then all others together: as a cache would, and as a batch would.
    parts = [part for part in (frames[:1], frames[1:]) if len(part)]
    tokens = np.concatenate([sessions["encoder"].run({"frames": part})["tokens"] for part in parts])
    return sessions["temporal"].run({"tokens": tokens.reshape(*windows.shape[:2], *tokens.shape[1:])})


def _run_torch(module: WholeWindow, windows: np.ndarray) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        keypoints, heatmaps = module(torch.from_numpy(windows))
    return {"keypoints": keypoints.numpy(), "heatmaps": heatmaps.numpy()}


def _expect_keypoints(what: str, difference: Difference) -> None:
    """Check positions and scores of keypoints, with the same limits for every precision and backend."""
    _expect(what, "keypoints, pixels", difference.keypoints, KEYPOINT_TOLERANCE)
    # A score is its heatmap's maximum, so it may differ by as much as heatmaps may.
    _expect(what, "scores", difference.scores, difference.heatmaps + 1e-6)


def _expect(what: str, quantity: str, value: float, limit: float) -> None:
    if not value <= limit:
        raise ExportError(
            f"the export failed verification: {what} differs in {quantity} by {value:.3g}, allowed is {limit:.3g}; no "
            "bundle was written"
        )
