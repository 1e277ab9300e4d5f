"""Builds the network that a configuration describes: the only module that knows every network class."""

from __future__ import annotations

from sdtc.model.config import ModelConfig
from sdtc.model.network import SDTC, PoseNetwork, ViTPose


def build(config: ModelConfig) -> PoseNetwork:
    """Build the network of a configuration, with random weights."""
    if config.kind == "vitpose":
        return ViTPose(config)
    if config.motion == "optical_flow":
        from sdtc.model.optical_flow import FlowSDTC  # imports OpenCV

        return FlowSDTC(config)
    return SDTC(config)
