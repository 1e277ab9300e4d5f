"""Table 4's baseline: motion is the optical flow between frames, instead of MLSME's encoding of the tokens.

It serves comparisons only. OpenCV computes the flow, so the network runs in PyTorch only and cannot be exported.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from sdtc.core.errors import ConfigError
from sdtc.model.config import PATCH_PADDING, PATCH_SIZE, ModelConfig
from sdtc.model.network import SDTC

_FLOW_SCALE = 0.1  # brings flow to the range of normalised images: within a crop, a few pixels are a strong motion


class FlowEncoder(nn.Module):
    """Embeds flow fields as motion tokens, one per patch."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(2, width, PATCH_SIZE, stride=PATCH_SIZE, padding=PATCH_PADDING)

    def forward(self, flow: Tensor) -> Tensor:
        """Embed ``[B, T, 2, H, W]``, pixels, into ``[B, T, L, C]``."""
        B, T = flow.shape[:2]
        tokens = self.embed(_FLOW_SCALE * flow.flatten(0, 1)).flatten(2).transpose(1, 2)  # [B*T, L, C]
        return tokens.view(B, T, *tokens.shape[1:])


class FlowSDTC(SDTC):
    """SDTC with optical flow in place of MLSME."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.motion = FlowEncoder(config.width)

    def forward(self, clip: Tensor, places: Tensor | None = None) -> Tensor:
        """Turn a clip into keyframe heatmaps, as any network does; the flow is computed first, without a gradient.

        Raises:
            ConfigError: there are places: flow between crops of different boxes would be the boxes' motion.
        """
        if places is not None:
            raise ConfigError("model.motion 'optical_flow' wants one box for all crops of a window, without `places`")
        B, T = clip.shape[:2]
        if clip.is_meta:  # only shapes matter, see `sdtc.model.counting`
            flow = clip.new_empty(B, T, 2, *clip.shape[2:4])
        else:
            flow = torch.from_numpy(keyframe_flow(clip.to("cpu", torch.uint8).numpy())).to(clip.device)
        tokens = self.encode(clip.flatten(0, 1))
        R = self.representations(tokens.view(B, T, *tokens.shape[1:]))
        return self.head(self.fusion(R, self.motion(flow)))

    def temporal(self, tokens: Tensor) -> Tensor:
        """Not available: the flow cannot be computed from tokens.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "model.motion 'optical_flow' needs the images, not only their tokens: it runs in PyTorch only"
        )


def keyframe_flow(clip: np.ndarray) -> np.ndarray:
    """Estimate the dense flow from the keyframe to every frame with OpenCV's DIS.

    Args:
        clip: uint8 RGB ``[B, T, H, W, 3]``.

    Returns:
        float32 ``[B, T, 2, H, W]`` (x, y), pixels; zero for the keyframe itself.
    """
    B, T, H, W, _ = clip.shape
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    flow = np.zeros((B, T, 2, H, W), np.float32)
    for window, answer in zip(clip, flow, strict=True):
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in window]
        for t in range(T):
            if t != T // 2:
                answer[t] = method.calc(grey[T // 2], grey[t], np.zeros((H, W, 2), np.float32)).transpose(2, 0, 1)
    return flow
