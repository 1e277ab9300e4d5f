"""Masked training of MLSME (Eq. 1, 4, 15): a wrapper around the inference network.

The wrapper holds all modules that only training needs: the mask embeddings L_c and L_f, the motion decoder and the two
reconstruction heads. The wrapped network is the inference network, ready for use.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sdtc.core.errors import ConfigError
from sdtc.model.config import HEATMAP_STRIDE, PATCH_SIZE, ModelConfig
from sdtc.model.layers import SpaceTimeAttention, init_transformer_weights
from sdtc.model.mlsme import MotionEncoder
from sdtc.model.network import SDTC, PoseNetwork


class MotionReconstruction(nn.Module):
    """The training-only parameters: mask embeddings, motion decoder, reconstruction heads."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        C = config.width
        self.grid = config.grid
        self.cell = PATCH_SIZE // HEATMAP_STRIDE  # heatmap pixels per token and side
        self.patch_mask_embed = nn.Parameter(torch.zeros(C))  # L_c
        self.frame_mask_embed = (  # L_f
            nn.Parameter(torch.zeros(C)) if "frame" in config.mask_levels else None
        )
        self.decoder = nn.Sequential(
            *(SpaceTimeAttention(C, config.heads, over="both") for _ in range(config.reconstruction.decoder_layers))
        )
        self.context_head = nn.Sequential(nn.Linear(C, C), nn.GELU(), nn.Linear(C, C))
        self.heatmap_head = nn.Sequential(nn.Linear(C, C), nn.GELU(), nn.Linear(C, config.num_keypoints * self.cell**2))
        self.apply(init_transformer_weights)
        nn.init.trunc_normal_(self.patch_mask_embed, std=0.02)
        if self.frame_mask_embed is not None:
            nn.init.trunc_normal_(self.frame_mask_embed, std=0.02)

    def forward(self, R_F: Tensor) -> tuple[Tensor, Tensor]:
        """Decode R_F ``[B, T, L, C]`` into F̂ ``[B, T, L, C]`` and Ĥ_seq ``[B, T, J, h, w]``.

        Without a frame level, R_P is decoded instead of R_F.
        """
        B, T, _, _ = R_F.shape
        decoded = self.decoder(R_F)
        cells = self.heatmap_head(decoded).view(B, T, *self.grid, -1, self.cell, self.cell)
        heatmaps = cells.permute(0, 1, 4, 2, 5, 3, 6)  # [B, T, J, rows, cell, columns, cell]
        height, width = self.grid[0] * self.cell, self.grid[1] * self.cell
        return self.context_head(decoded), heatmaps.reshape(B, T, -1, height, width)


@dataclass
class MaskedOutput:
    """The outputs of one masked forward pass. Those of the reconstruction branch are None without masked training.

    Attributes:
        heatmaps: Ĥ_t of the keyframe, ``[B, J, h, w]``.
        contexts: F̂, ``[B, T, L, C]``, or None.
        context_targets: R of Eq. 15, the tokens with their encodings (section 2), detached, ``[B, T, L, C]``, or None.
        heatmap_sequence: Ĥ_seq, ``[B, T, J, h, w]``, or None.
    """

    heatmaps: Tensor
    contexts: Tensor | None
    context_targets: Tensor | None
    heatmap_sequence: Tensor | None


class MaskedSDTC(nn.Module):
    """The inference network with masks in its motion encoder, and with the reconstruction branch.

    Args:
        network: the inference network.
        masked: False trains with Eq. 14 only, without a reconstruction branch.

    Attributes:
        reconstruction: the branch; None without masked training, and for networks that have no level to mask
            (`ModelConfig.mask_levels`): a ViTPose, and the baselines with a plain ViT or optical flow for motion.
    """

    def __init__(self, network: PoseNetwork, masked: bool = True) -> None:
        super().__init__()
        self.network = network
        masked = masked and bool(network.config.mask_levels)
        self.reconstruction = MotionReconstruction(network.config) if masked else None

    def forward(
        self,
        clip: Tensor,
        tube_mask: Tensor | None = None,
        frame_mask: Tensor | None = None,
        places: Tensor | None = None,
    ) -> MaskedOutput:
        """Run the network with masked motion.

        Args:
            clip: ``[B, T, H, W, 3]``, RGB 0-255.
            tube_mask: bool ``[B, L]``, True where a location is masked in all frames (Eq. 1).
            frame_mask: bool ``[B, T]``, True where a frame is masked (Eq. 4).
            places: ``[B, T, 4]``, as in `PoseNetwork.encode_windows`.

        Raises:
            ConfigError: a mask is given for a level that this motion encoder does not have, or without masked training.
        """
        levels = self.network.config.mask_levels if self.reconstruction else ()
        if (tube_mask is not None and "patch" not in levels) or (frame_mask is not None and "frame" not in levels):
            raise ConfigError(
                "this network has no level to mask with the given `tube_mask` or `frame_mask`: "
                "pass the masks that sample_masks returns for its configuration"
            )
        if self.reconstruction is None:
            return MaskedOutput(self.network(clip, places), None, None, None)
        assert isinstance(self.network, SDTC)
        network, branch = self.network, self.reconstruction
        R = network.representations(network.encode_windows(clip, places))
        motion = network.motion
        assert isinstance(motion, MotionEncoder)
        frame_level = motion.frame_level
        R_m = R
        if tube_mask is not None:  # Eq. 1
            R_m = torch.where(tube_mask[:, None, :, None], branch.patch_mask_embed, R)
        R_P = motion.patch_level(R_m)
        if frame_level is None:
            deepest = M = R_P
        else:
            R_fm = R_P
            if frame_mask is not None and branch.frame_mask_embed is not None:  # Eq. 4
                R_fm = torch.where(frame_mask[:, :, None, None], branch.frame_mask_embed, R_P)
            deepest = frame_level(R_fm)  # R_F
            M = R_P + deepest  # Eq. 5
        contexts, heatmap_sequence = branch(deepest)
        config = network.config.reconstruction
        if config.passes == 2 and config.mask_ratio and not (tube_mask is None and frame_mask is None):
            M = motion(R)
        return MaskedOutput(network.head(network.fusion(R, M)), contexts, R.detach(), heatmap_sequence)


def sample_masks(
    config: ModelConfig, batch: int, generator: torch.Generator | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """Sample random masks for the levels of a configuration; each masks the share `mask_ratio`, rounded down.

    Returns:
        A tube mask bool ``[B, L]`` and a frame mask bool ``[B, T]``; None for a level that the configuration lacks.
    """

    def sample(count: int) -> Tensor:
        order = torch.rand(batch, count, generator=generator).argsort(dim=1)
        return order < int(config.reconstruction.mask_ratio * count)

    tubes = sample(config.token_shape[0]) if "patch" in config.mask_levels else None
    frames = sample(config.num_frames) if "frame" in config.mask_levels else None
    return tubes, frames
