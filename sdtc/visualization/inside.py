"""Intermediate features of a network on one window, recorded with forward hooks. The network is not changed."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from sdtc.model.config import ModelConfig
from sdtc.model.network import PoseNetwork

# The paper's features (Figure 11), and the modules whose output they are. Not every network has all of them.
FEATURES = {
    "R_P": "motion.patch_level",  # Eq. 3
    "R_F": "motion.frame_level",
    "M_bar": "fusion.aggregate_m",
    "R_bar": "fusion.aggregate_r",
    "F": "fusion",  # Eq. 13
}


@dataclass(frozen=True)
class Trace:
    """The heatmaps and features of one window.

    Attributes:
        heatmaps: Ĥ_t, float32 ``[J, h, w]``.
        features: by their names in `FEATURES`, maps of the keyframe float32 ``[C, rows, columns]`` on the token grid.
    """

    heatmaps: np.ndarray
    features: dict[str, np.ndarray]


def trace(network: PoseNetwork, clip: Tensor) -> Trace:
    """Run a network in evaluation mode on one window, uint8 ``[T, H, W, 3]`` RGB, and record its features."""
    config = network.config
    modules = dict(network.named_modules())
    features: dict[str, np.ndarray] = {}

    def keep(name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        if name in ("R_P", "R_F"):  # [1, T, L, C]
            output = output[:, config.delta].transpose(1, 2).unflatten(2, config.grid)  # [1, C, rows, columns]
        features[name] = output[0].float().cpu().numpy()

    with torch.inference_mode(), ExitStack() as stack:
        for name, path in FEATURES.items():
            if path in modules:
                stack.enter_context(modules[path].register_forward_hook(partial(keep, name)))
        heatmaps = network(clip[None].to(next(network.parameters()).device))
    return Trace(heatmaps[0].float().cpu().numpy(), features)


def context_maps(X: np.ndarray, over: str) -> np.ndarray:
    """Return O, the softmax of a map X ``[C, rows, columns]`` over ``"pixels"`` or ``"channels"`` (Eq. 6)."""
    pixels = torch.from_numpy(X).flatten(1)  # [C, N]
    return pixels.softmax(1 if over == "pixels" else 0).view(X.shape).numpy()


def most_varied(maps: np.ndarray, count: int) -> list[int]:
    """Return the channels of ``[C, rows, columns]`` with the largest variance over the image, the largest first."""
    variance = maps.reshape(len(maps), -1).var(axis=1)
    return [int(channel) for channel in np.argsort(-variance, kind="stable")[:count]]


def unavailable(config: ModelConfig) -> dict[str, str]:
    """Return the figures of the paper that do not apply to a network, each with the reason."""
    if config.kind == "vitpose":
        why = "a ViTPose has neither motion encoder nor fusion"
        return {"6": why, "8": "a ViTPose is not trained by masks", "11": why}
    reasons = {}
    if config.fusion != "smml":
        reasons["6"] = f"context maps (Eq. 6) belong to model.fusion 'smml', this network has '{config.fusion}'"
    if not config.mask_levels:
        what = "optical flow" if config.motion == "optical_flow" else "a plain ViT"
        reasons["8"] = f"the motion of this network is {what}, which is not trained by masks"
    return reasons
