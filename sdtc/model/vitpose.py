"""Reading ViTPose weights: three file formats of one network, told apart by their keys.

`read_vitpose` renames any of them into the names of `sdtc.model`; it copies values and changes none, except that
a class position, where there is one, is added to all positions (what ViTPose does at every step).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sdtc.errors import CheckpointError
from sdtc.model.config import PATCH_SIZE, BackboneConfig, ModelConfig

# Attention heads cannot be seen in the weights; these are the published shapes.
HEADS_OF_WIDTH = {384: 12, 768: 12, 1024: 16, 1280: 16}

_Rules = tuple[tuple[str, str], ...]
_ORIGINAL: _Rules = (
    (r"backbone\.patch_embed\.proj\.(weight|bias)", r"backbone.patch_embed.\1"),
    (r"backbone\.pos_embed", r"backbone.pos_embed"),
    (
        r"backbone\.blocks\.(\d+)\.(norm[12]|attn\.qkv|attn\.proj|mlp\.fc[12])\.(weight|bias)",
        r"backbone.blocks.\1.\2.\3",
    ),
    (r"backbone\.last_norm\.(weight|bias)", r"backbone.norm.\1"),
)
_MMPOSE: _Rules = (
    (r"backbone\.patch_embed\.projection\.(weight|bias)", r"backbone.patch_embed.\1"),
    (r"backbone\.pos_embed", r"backbone.pos_embed"),
    (r"backbone\.layers\.(\d+)\.ln([12])\.(weight|bias)", r"backbone.blocks.\1.norm\2.\3"),
    (r"backbone\.layers\.(\d+)\.(attn\.qkv|attn\.proj)\.(weight|bias)", r"backbone.blocks.\1.\2.\3"),
    (r"backbone\.layers\.(\d+)\.ffn\.layers\.0\.0\.(weight|bias)", r"backbone.blocks.\1.mlp.fc1.\2"),
    (r"backbone\.layers\.(\d+)\.ffn\.layers\.1\.(weight|bias)", r"backbone.blocks.\1.mlp.fc2.\2"),
    (r"backbone\.ln1\.(weight|bias)", r"backbone.norm.\1"),
)
_MM_HEAD: _Rules = (
    (r"(?:keypoint_)?head\.deconv_layers\.0\.(.+)", r"head.deconv1.\1"),
    (r"(?:keypoint_)?head\.deconv_layers\.1\.(.+)", r"head.norm1.\1"),
    (r"(?:keypoint_)?head\.deconv_layers\.3\.(.+)", r"head.deconv2.\1"),
    (r"(?:keypoint_)?head\.deconv_layers\.4\.(.+)", r"head.norm2.\1"),
    (r"(?:keypoint_)?head\.final_layer\.(weight|bias)", r"head.conv.\1"),
)
_HUGGING_FACE: _Rules = (
    (r"backbone\.embeddings\.patch_embeddings\.projection\.(weight|bias)", r"backbone.patch_embed.\1"),
    (r"backbone\.embeddings\.position_embeddings", r"backbone.pos_embed"),
    (r"backbone\.encoder\.layer\.(\d+)\.layernorm_before\.(weight|bias)", r"backbone.blocks.\1.norm1.\2"),
    (r"backbone\.encoder\.layer\.(\d+)\.layernorm_after\.(weight|bias)", r"backbone.blocks.\1.norm2.\2"),
    (
        r"backbone\.encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)",
        r"backbone.blocks.\1.attn.\2.\3",
    ),
    (
        r"backbone\.encoder\.layer\.(\d+)\.attention\.output\.dense\.(weight|bias)",
        r"backbone.blocks.\1.attn.proj.\2",
    ),
    (r"backbone\.encoder\.layer\.(\d+)\.mlp\.fc([12])\.(weight|bias)", r"backbone.blocks.\1.mlp.fc\2.\3"),
    (r"backbone\.layernorm\.(weight|bias)", r"backbone.norm.\1"),
    (r"head\.deconv([12])\.(.+)", r"head.deconv\1.\2"),
    (r"head\.batchnorm([12])\.(.+)", r"head.norm\1.\2"),
    (r"head\.conv\.(weight|bias)", r"head.conv.\1"),
)


@dataclass(frozen=True)
class _Format:
    name: str
    fingerprint: str  # the key that no other format has
    rules: _Rules
    class_position: bool  # pos_embed starts with a class token's


_FORMATS = (
    _Format("original ViTPose", "patch_embed.proj.weight", _ORIGINAL + _MM_HEAD, True),
    _Format("mmpose 1.x", "patch_embed.projection.weight", _MMPOSE + _MM_HEAD, False),
    _Format("Hugging Face", "embeddings.patch_embeddings.projection.weight", _HUGGING_FACE, True),
)


@dataclass(frozen=True)
class VitposeWeights:
    """A ViTPose file in our names.

    Attributes:
        format: which of the three formats it was.
        state: tensors named ``backbone.*`` and, where the file has a head, ``head.*``.
        left_over: keys of the file that mean nothing here.
    """

    format: str
    state: dict[str, Tensor]
    left_over: tuple[str, ...]

    @property
    def head(self) -> str | None:
        """``"simple"``, ``"classic"``, or None for a backbone alone."""
        if "head.deconv1.weight" in self.state:
            return "classic"
        return "simple" if "head.conv.weight" in self.state else None

    def backbone_config(self, frozen: bool = True) -> BackboneConfig:
        """Return the shapes, as the weights show them.

        Raises:
            CheckpointError: the width is none of ViTPose's, so the number of heads is unknown.
        """
        width = self.state["backbone.patch_embed.weight"].shape[0]
        if width not in HEADS_OF_WIDTH:
            raise CheckpointError(
                f"the file's backbone is {width} wide: expected one of ViTPose's {', '.join(map(str, HEADS_OF_WIDTH))}"
            )
        blocks = [int(m[1]) for key in self.state if (m := re.match(r"backbone\.blocks\.(\d+)\.", key))]
        fc1 = self.state.get("backbone.blocks.0.mlp.fc1.weight")
        ratio = fc1.shape[0] // width if fc1 is not None else 4
        return BackboneConfig(width, max(blocks, default=-1) + 1, HEADS_OF_WIDTH[width], ratio, frozen)

    def model_config(self) -> ModelConfig:
        """Return the configuration of the whole ViTPose in the file (T = 1, COCO joints).

        Raises:
            CheckpointError: the file has no head, or not COCO's 17 joints.
        """
        if self.head is None:
            raise CheckpointError(
                f"the file is a {self.format} backbone without a head, so it gives no poses: use it to start an SDTC "
                "checkpoint,  sdtc-init PRESET --backbone FILE"
            )
        joints = self.state["head.conv.weight"].shape[0]
        if joints != 17:
            raise CheckpointError(f"the file's head gives {joints} joints: expected COCO's 17")
        h, w = position_grid(self.state["backbone.pos_embed"].shape[1])
        return ModelConfig(
            name="vitpose",
            kind="vitpose",
            input_size=(h * PATCH_SIZE, w * PATCH_SIZE),
            skeleton="coco",
            backbone=self.backbone_config(frozen=False),
            delta=0,
            head=self.head,
        )


def is_vitpose(state: Mapping[str, Tensor]) -> bool:
    """Whether these keys are those of a ViTPose file, in any format."""
    return _find_format(state) is not None


def read_vitpose(state: Mapping[str, Tensor]) -> VitposeWeights:
    """Rename a ViTPose state dictionary, of any of the three formats, into this package's names.

    Raises:
        CheckpointError: the keys are not ViTPose's.
    """
    form = _find_format(state)
    if form is None:
        raise CheckpointError(
            f"the file's keys are not ViTPose's (it starts with {', '.join(list(state)[:3])}): expected the original, "
            "mmpose 1.x or Hugging Face names"
        )
    prefix = next(key for key in state if key.endswith(form.fingerprint)).removesuffix(form.fingerprint)
    renamed: dict[str, Tensor] = {}
    left_over = []
    for key, value in state.items():
        name = _canonical(key, prefix)
        for pattern, replacement in form.rules:
            if re.fullmatch(pattern, name):
                renamed[re.sub(pattern, replacement, name)] = value
                break
        else:
            left_over.append(key)
    _join_qkv(renamed)
    position = renamed.get("backbone.pos_embed")
    if position is not None and form.class_position:
        renamed["backbone.pos_embed"] = position[:, 1:] + position[:, :1]
    return VitposeWeights(form.name, renamed, tuple(left_over))


def position_grid(count: int) -> tuple[int, int]:
    """Return the (h, w) of L positions: 4:3 as all of ViTPose's inputs, or square.

    Raises:
        CheckpointError: L is neither.
    """
    w = math.isqrt(count * 3 // 4)
    if w and w % 3 == 0 and w * (w // 3 * 4) == count:
        return w // 3 * 4, w
    side = math.isqrt(count)
    if side and side * side == count:
        return side, side
    raise CheckpointError(
        f"the file has {count} position embeddings: expected a grid of 4:3, such as 16x12, or a square"
    )


def resize_positions(position: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resample position embeddings ``[1, L', D]`` for another grid: ``[1, h*w, D]``, bicubic."""
    source = position_grid(position.shape[1])
    if source == grid:
        return position
    maps = position.float().transpose(1, 2).reshape(1, -1, *source)  # [1, D, h', w']
    maps = F.interpolate(maps, size=grid, mode="bicubic", align_corners=False)
    return maps.flatten(2).transpose(1, 2).to(position.dtype)


def _find_format(state: Mapping[str, Tensor]) -> _Format | None:
    # "embeddings.patch_embeddings.projection.weight" does not end with mmpose's "patch_embed.projection.weight".
    return next((form for form in _FORMATS if any(key.endswith(form.fingerprint) for key in state)), None)


def _canonical(key: str, prefix: str) -> str:
    """Give backbone keys the prefix ``backbone.`` and head keys none, whatever the file wrapped them in."""
    outer = prefix.removesuffix("backbone.")  # "module.backbone." -> "module.", "" -> ""
    name = key.removeprefix(outer)
    if not prefix.endswith("backbone.") and not name.startswith(("head.", "keypoint_head.")):
        name = "backbone." + name
    return name


def _join_qkv(state: dict[str, Tensor]) -> None:
    """Concatenate separate query, key and value weights into one qkv, in place."""
    for key in [key for key in state if ".attn.query." in key]:
        parts = [key.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(part in state for part in parts):
            state[key.replace(".query.", ".qkv.")] = torch.cat([state.pop(part) for part in parts])
