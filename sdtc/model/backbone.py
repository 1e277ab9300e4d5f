"""The Vision Transformer that encodes one frame into L tokens: ViTPose's backbone (paper, section 2).

It differs from a classification ViT in three ways: the patch convolution has a padding of 2, there is no class token
(if a weight file has a class position embedding, it is added to all positions when the file is loaded), and the tokens
pass a final norm.
"""

from __future__ import annotations

from torch import Tensor, nn

from sdtc.kernels import scaled_dot_product
from sdtc.model.config import PATCH_PADDING, PATCH_SIZE, BackboneConfig
from sdtc.model.encodings import spatial_encoding
from sdtc.model.layers import LayerNorm, Mlp, init_transformer_weights


class Attention(nn.Module):
    """Multi-head self-attention over the tokens of one image."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        N, L, C = x.shape
        q, k, v = self.qkv(x).view(N, L, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)  # [N, H, L, D]
        return self.proj(scaled_dot_product(q, k, v).transpose(1, 2).reshape(N, L, C))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = LayerNorm(width)
        self.mlp = Mlp(width, mlp_ratio)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """The encoder of images into tokens.

    Args:
        config: width, depth and heads.
        input_size: (H, W) of an image, pixels.
    """

    def __init__(self, config: BackboneConfig, input_size: tuple[int, int]) -> None:
        super().__init__()
        grid = input_size[0] // PATCH_SIZE, input_size[1] // PATCH_SIZE
        self.patch_embed = nn.Conv2d(3, config.width, PATCH_SIZE, stride=PATCH_SIZE, padding=PATCH_PADDING)
        # Initialised with the sine-cosine encoding, as in MAE, not with noise: a small transformer learns faster.
        self.pos_embed = nn.Parameter(spatial_encoding(grid, config.width)[None])
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.mlp_ratio) for _ in range(config.depth))
        self.norm = LayerNorm(config.width)
        self.apply(init_transformer_weights)

    def forward(self, images: Tensor) -> Tensor:
        """Encode normalised images ``[N, 3, H, W]`` into tokens ``[N, L, width]``, row by row."""
        x = self.patch_embed(images).flatten(2).transpose(1, 2) + self.pos_embed  # [N, L, width]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)
