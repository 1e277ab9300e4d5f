"""From a configuration to its network: the one place that knows all of them."""

from __future__ import annotations

from sdtc.model.config import ModelConfig
from sdtc.model.network import SDTC, PoseNetwork, ViTPose


def build(config: ModelConfig) -> PoseNetwork:
    """Build the network of a configuration, with fresh weights."""
    if config.kind == "vitpose":
        return ViTPose(config)
    if config.motion == "optical_flow":
        from sdtc.model.optical_flow import FlowSDTC  # brings OpenCV with it

        return FlowSDTC(config)
    return SDTC(config)
