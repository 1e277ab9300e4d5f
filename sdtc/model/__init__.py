"""The SDTC network in PyTorch: configuration, layers and checkpoints.

In: a configuration (`get_preset`, `ModelConfig`) or a checkpoint file (`load_checkpoint`).
Out: a `PoseNetwork`, which estimates the heatmaps of a keyframe from a clip of crops.

    network = sdtc.model.build(sdtc.model.get_preset("base"))
    sdtc.model.save_checkpoint("ckpt.pth", network, trained=False)
    checkpoint = sdtc.model.load_checkpoint("ckpt.pth")
    checkpoint.network, checkpoint.trained

Names are imported on first use, so that the configuration can be read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sdtc.model.config import PRESETS, BackboneConfig, ModelConfig, ReconstructionConfig, get_preset

if TYPE_CHECKING:
    from sdtc.model.builder import build
    from sdtc.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
    from sdtc.model.network import SDTC, PoseNetwork, ViTPose
    from sdtc.model.reconstruction import MaskedSDTC

_MODULES = {
    "Checkpoint": "checkpoint",
    "load_checkpoint": "checkpoint",
    "save_checkpoint": "checkpoint",
    "MaskedSDTC": "reconstruction",
    "PoseNetwork": "network",
    "SDTC": "network",
    "ViTPose": "network",
    "build": "builder",
}

__all__ = [
    "PRESETS",
    "SDTC",
    "BackboneConfig",
    "Checkpoint",
    "MaskedSDTC",
    "ModelConfig",
    "PoseNetwork",
    "ReconstructionConfig",
    "ViTPose",
    "build",
    "get_preset",
    "load_checkpoint",
    "save_checkpoint",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'sdtc.model' has no attribute '{name}'")
    from sdtc.core.errors import require

    require("torch", "export", "sdtc.model")
    return getattr(import_module(f"sdtc.model.{_MODULES[name]}"), name)
