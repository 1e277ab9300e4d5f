"""The networks: SDTC, and a complete single-frame ViTPose with the same two-step interface.

    encode:   frames uint8 [N, H, W, 3] RGB   ->  tokens [N, L, C]          once per frame
    temporal: tokens [B, T, L, C]             ->  heatmaps [B, J, h, w]     once per keyframe

The spatial and temporal encodings are added in the second step: they belong to the keyframe's crop and window, and a
stream resamples tokens of other crops before that (`sdtc.core.resampling`).
`forward` runs both steps on a clip. Masks and reconstruction are not part of these classes: masked training wraps them
(`sdtc.model.reconstruction`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sdtc.kernels import resample_tokens
from sdtc.model.backbone import VisionTransformer
from sdtc.model.config import ModelConfig
from sdtc.model.encodings import spatial_encoding
from sdtc.model.head import ClassicHead, SimpleHead
from sdtc.model.mlsme import MotionEncoder
from sdtc.model.smml import Fusion

# Mean and standard deviation of ImageNet, for RGB values 0-1: ViTPose is trained with them.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class PoseNetwork(nn.Module, ABC):
    """A network that estimates the heatmaps of the keyframe from a clip of T crops.

    Attributes:
        mean, std: of RGB values 0-255, fp32 ``[3]``, whatever the dtype of the weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = VisionTransformer(config.backbone, config.input_size)
        # Buffers, because a CUDA graph cannot record a copy from the host.
        for name, statistics in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, 255.0 * torch.tensor(statistics), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PoseNetwork:
        """Cast and move the network, but keep mean and deviation in fp32: bf16 would round them to 8 bits."""
        super()._apply(fn, recurse)
        for name, statistics in (("mean", MEAN), ("std", STD)):
            setattr(self, name, 255.0 * torch.tensor(statistics, device=getattr(self, name).device))
        return self

    @abstractmethod
    def encode(self, frames: Tensor) -> Tensor:
        """Encode crops ``[N, H, W, 3]`` (uint8, or float 0-255; RGB) into tokens ``[N, L, C]``."""

    @abstractmethod
    def temporal(self, tokens: Tensor) -> Tensor:
        """Turn the tokens of a window ``[B, T, L, C]`` into keyframe heatmaps ``[B, J, h, w]``."""

    def forward(self, clip: Tensor, places: Tensor | None = None) -> Tensor:
        """Turn a clip into keyframe heatmaps.

        Args:
            clip: ``[B, T, H, W, 3]``, as in `encode`.
            places: as in `encode_windows`.

        Returns:
            ``[B, J, h, w]``.
        """
        return self.temporal(self.encode_windows(clip, places))

    def encode_windows(self, clip: Tensor, places: Tensor | None = None) -> Tensor:
        """Encode the frames of windows, and resample their tokens at the places of the keyframe's.

        Args:
            clip: ``[B, T, H, W, 3]``, as in `encode`.
            places: ``[B, T, 4]``, where the keyframe's tokens lie in each frame's crop
                (`sdtc.core.resampling.token_places`); None where one box cuts all crops of a window.

        Returns:
            ``[B, T, L, C]``.
        """
        # Cast first: TensorRT allows a uint8 input only as the input of a cast.
        tokens = self.encode(clip.float().flatten(0, 1))
        if places is not None and self.config.num_frames > 1:
            tokens = resample_tokens(tokens, places.flatten(0, 1), self.config.grid)
        return tokens.view(-1, self.config.num_frames, *tokens.shape[1:])

    def encode_backbone(self, frames: Tensor) -> Tensor:
        """Normalise and run the backbone alone: ``[N, H, W, 3]`` to ``[N, L, backbone width]``."""
        images = (frames.float() - self.mean).div_(self.std).permute(0, 3, 1, 2).to(self.backbone.pos_embed.dtype)
        return self.backbone(images)


class SDTC(PoseNetwork):
    """Semantical Dynamics and spaTioTemporal Collaboration (paper, Figure 2)."""

    spatial: Tensor | None
    motion: nn.Module  # maps R to M; `FlowSDTC` replaces it

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.projection = nn.Linear(config.backbone.width, config.width)
        spatial = spatial_encoding(config.grid, config.width) if config.spatial_encoding else None
        self.register_buffer("spatial", spatial, persistent=False)
        self.temporal_embed = (
            nn.Parameter(torch.zeros(config.num_frames, 1, config.width)) if config.temporal_encoding else None
        )
        self.motion = MotionEncoder(config)
        self.fusion = Fusion(config)
        self.head = SimpleHead(config.width, config.num_keypoints)
        nn.init.trunc_normal_(self.projection.weight, std=0.02)
        nn.init.zeros_(self.projection.bias)
        if self.temporal_embed is not None:
            nn.init.trunc_normal_(self.temporal_embed, std=0.02)
        if config.backbone.frozen:
            self.backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> SDTC:
        super().train(mode)
        if self.config.backbone.frozen:
            self.backbone.eval()
        return self

    def encode(self, frames: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.backbone.frozen):
            features = self.encode_backbone(frames)
        return self.projection(features)

    def representations(self, tokens: Tensor) -> Tensor:
        """R: tokens ``[B, T, L, C]`` with the spatial and temporal encodings (paper, section 2)."""
        if self.spatial is not None:
            tokens = tokens + self.spatial
        return tokens if self.temporal_embed is None else tokens + self.temporal_embed

    def temporal(self, tokens: Tensor) -> Tensor:
        R = self.representations(tokens)
        M = self.motion(R)
        return self.head(self.fusion(R, M))


class ViTPose(PoseNetwork):
    """A complete ViTPose: backbone and head, one frame (T = 1)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        head = ClassicHead if config.head == "classic" else SimpleHead
        self.head = head(config.backbone.width, config.num_keypoints)

    def encode(self, frames: Tensor) -> Tensor:
        return self.encode_backbone(frames)

    def temporal(self, tokens: Tensor) -> Tensor:
        maps = tokens[:, 0].transpose(1, 2)  # [B, C, L]
        return self.head(maps.reshape(maps.shape[0], maps.shape[1], *self.config.grid))
