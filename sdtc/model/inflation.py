"""Inflation of weights to a network that sees more frames (ours, not the paper's).

An SDTC of δ = 0 learns appearance at a fifth of the cost; its weights then initialise one of δ = 2. Only two parts of
the network depend on the number of frames. The aggregation convolutions (paper, section 4) get zero weights for the
added frames, and the temporal encoding of the outermost old frames is copied to them. For a static clip, the larger
network then returns the same heatmaps as the smaller one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sdtc.core.errors import CheckpointError
from sdtc.model.config import ModelConfig

_AGGREGATION = ("fusion.aggregate_r.conv.0.weight", "fusion.aggregate_m.conv.0.weight")
_TEMPORAL = "temporal_embed"


def inflate(state: Mapping[str, Tensor], small: ModelConfig, large: ModelConfig) -> dict[str, Tensor]:
    """Convert the weights of a network to those of one that sees more frames, the old frames in the middle.

    Args:
        state: weights of the small network.
        small, large: configurations of both networks; only δ should differ.

    Raises:
        CheckpointError: the small network sees more frames than the large one, or is not an SDTC.
    """
    if small.kind != "sdtc" or large.kind != "sdtc" or small.delta > large.delta:
        raise CheckpointError(
            f"it holds a network of kind '{small.kind}' and delta {small.delta} for one of kind '{large.kind}' and "
            f"delta {large.delta}: expected kind 'sdtc' and the same delta, or a smaller one"
        )
    new = large.delta - small.delta  # frames added on each side
    result = dict(state)
    for key in _AGGREGATION:
        if key in state:
            before = state[key].new_zeros(state[key].shape[0], new * small.width, *state[key].shape[2:])
            result[key] = torch.cat([before, state[key], before], dim=1)  # [C, T*C, 3, 3], frame by frame
    if _TEMPORAL in state:
        embed = state[_TEMPORAL]  # [T, 1, C]
        result[_TEMPORAL] = torch.cat([embed[:1].expand(new, -1, -1), embed, embed[-1:].expand(new, -1, -1)])
    return result
