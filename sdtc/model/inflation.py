"""From few frames to more: an SDTC of δ = 0 learns appearance at a fifth of the cost, then starts one of δ = 2 (ours).

Only two things of the network know how many frames there are. The aggregation convolutions (paper, section 4) get
weights of zero for the frames that are new, and the new frames take over the temporal encoding of the outermost old
ones. On a clip that stands still, the larger network then answers as the smaller one does.
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
    """Fit the weights of a network to one that sees more frames, the old ones in the middle.

    Args:
        state: of the small network.
        small, large: their configurations; nothing but δ should differ.

    Raises:
        CheckpointError: the small network sees more frames than the large one, or is not an SDTC.
    """
    if small.kind != "sdtc" or large.kind != "sdtc" or small.delta > large.delta:
        raise CheckpointError(
            f"it holds a network '{small.kind}' of delta {small.delta}, and this one is a network '{large.kind}' of "
            f"delta {large.delta}: expected an sdtc network of the same delta, or a smaller one"
        )
    new = large.delta - small.delta  # frames on each side
    result = dict(state)
    for key in _AGGREGATION:
        if key in state:
            before = state[key].new_zeros(state[key].shape[0], new * small.width, *state[key].shape[2:])
            result[key] = torch.cat([before, state[key], before], dim=1)  # [C, T*C, 3, 3], frame by frame
    if _TEMPORAL in state:
        embed = state[_TEMPORAL]  # [T, 1, C]
        result[_TEMPORAL] = torch.cat([embed[:1].expand(new, -1, -1), embed, embed[-1:].expand(new, -1, -1)])
    return result
