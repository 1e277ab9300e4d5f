"""Reading ViTPose weights: three file formats of one network, told apart by their keys.

`read_vitpose` renames the keys of any of them to those of `sdtc.model`. It changes no values, except that a class
position embedding, where a file has one, is added to all positions (as ViTPose does in every forward pass). Other
Vision Transformers (timm's, Swin, MAE) share many of these keys, but not all: they are rejected with a message that
names the difference.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sdtc.core.errors import CheckpointError
from sdtc.model.config import PATCH_SIZE, BackboneConfig, ModelConfig

# The weights do not show the number of attention heads; these are the published ones, by width.
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
    rules: _Rules
    class_position: bool  # whether pos_embed starts with the embedding of a class token
    needed: tuple[str, ...]  # backbone keys that must exist; only this format has the first one
    last_layer: str  # weight of the head's last convolution


_FORMATS = (
    _Format(
        "original ViTPose",
        _ORIGINAL + _MM_HEAD,
        True,
        (
            "patch_embed.proj.weight", "patch_embed.proj.bias", "pos_embed", "blocks.0.mlp.fc1.weight",
            "last_norm.weight", "last_norm.bias",
        ),
        "keypoint_head.final_layer.weight",
    ),
    _Format(
        "mmpose 1.x",
        _MMPOSE + _MM_HEAD,
        False,
        (
            "patch_embed.projection.weight", "patch_embed.projection.bias", "pos_embed",
            "layers.0.ffn.layers.0.0.weight", "ln1.weight", "ln1.bias",
        ),
        "head.final_layer.weight",
    ),
    _Format(
        "Hugging Face",
        _HUGGING_FACE,
        True,
        (
            "embeddings.patch_embeddings.projection.weight", "embeddings.patch_embeddings.projection.bias",
            "embeddings.position_embeddings", "encoder.layer.0.mlp.fc1.weight", "layernorm.weight", "layernorm.bias",
        ),
        "head.conv.weight",
    ),
)  # fmt: skip

# Number of dimensions of the weights whose shape this module uses; all others are only compared with the network's.
_RANKS = {
    "backbone.patch_embed.weight": 4,
    "backbone.pos_embed": 3,
    "backbone.blocks.0.mlp.fc1.weight": 2,
    "head.conv.weight": 4,
}
_CLASS_TOKEN = "cls_token"  # a key of other Vision Transformers in every format, and of ViTPose in none


@dataclass(frozen=True)
class VitposeWeights:
    """The weights of a ViTPose file under this package's keys.

    Attributes:
        format: name of the file's format, one of three.
        state: tensors named ``backbone.*`` and, if the file has a head, ``head.*``.
        left_over: keys of the file that the format does not have.
    """

    format: str
    state: dict[str, Tensor]
    left_over: tuple[str, ...]

    @property
    def head(self) -> str | None:
        """``"simple"``, ``"classic"``, or None for a backbone alone."""
        if any(key.startswith(("head.deconv", "head.norm")) for key in self.state):
            return "classic"
        return "simple" if any(key.startswith("head.") for key in self.state) else None

    def backbone_config(self, frozen: bool = True) -> BackboneConfig:
        """Return the configuration of the backbone, derived from the shapes of its weights.

        Raises:
            CheckpointError: the width is none of ViTPose's, so the number of heads is unknown.
        """
        width = self.state["backbone.patch_embed.weight"].shape[0]
        if width not in HEADS_OF_WIDTH:
            raise CheckpointError(
                f"the file's backbone has width {width}: expected one of ViTPose's, "
                f"{', '.join(map(str, HEADS_OF_WIDTH))}"
            )
        # A longer number is not a block index: the key stays unknown, and the error on loading the state names it.
        blocks = [int(m[1]) for key in self.state if (m := re.match(r"backbone\.blocks\.(\d{1,4})\.", key))]
        ratio = self.state["backbone.blocks.0.mlp.fc1.weight"].shape[0] // width
        return BackboneConfig(width, max(blocks) + 1, HEADS_OF_WIDTH[width], ratio, frozen)

    def model_config(self) -> ModelConfig:
        """Return the configuration of the complete ViTPose in the file (T = 1, COCO joints).

        Raises:
            CheckpointError: the file has no head, only a part of one, or not COCO's 17 joints.
        """
        if self.head is None:
            unknown = f", and {count_keys(self.left_over)} unknown" if self.left_over else ""
            raise CheckpointError(
                f"the file is a ViTPose backbone without a head ({self.format} names{unknown}), so it gives no poses: "
                "use it to start an SDTC checkpoint, as the `backbone` of sdtc-init"
            )
        if "head.conv.weight" not in self.state:
            name = next(form.last_layer for form in _FORMATS if form.name == self.format)
            raise CheckpointError(f"the file's head is incomplete: {count_keys([name])} missing")
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
    """Return whether the keys look like ViTPose's in any format; `read_vitpose` reports what is wrong with them."""
    return _find_format(state) is not None


def read_vitpose(state: Mapping[str, Tensor]) -> VitposeWeights:
    """Rename the keys of a ViTPose state dictionary, in any of the three formats, to this package's.

    Raises:
        CheckpointError: the keys are not ViTPose's, or required ones are missing or of another shape; the message names
            them as in the file's format.
    """
    found = _find_format(state)
    if found is None:
        raise CheckpointError(
            f"the file's keys are not ViTPose's (it starts with {', '.join(list(state)[:3])}): expected the original, "
            "mmpose 1.x or Hugging Face names"
        )
    form, prefix = found
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
    missing = [prefix + key for key in form.needed if prefix + key not in state]
    if missing or any(key.split(".")[-1] == _CLASS_TOKEN for key in left_over):
        both = (("missing", missing), ("left over", left_over))
        problems = [f"{count_keys(keys)} {what}" for what, keys in both if keys]
        raise CheckpointError(
            f"its keys resemble a ViTPose file's ({form.name} names), but {' and '.join(problems)}: expected a "
            "complete ViTPose, not another Vision Transformer such as timm's, MAE's or Swin"
        )
    _check_ranks(renamed)
    _join_qkv(renamed)
    if form.class_position:
        position = renamed["backbone.pos_embed"]  # [1, 1 + L, D]
        renamed["backbone.pos_embed"] = position[:, 1:] + position[:, :1]
    return VitposeWeights(form.name, renamed, tuple(left_over))


def position_grid(count: int) -> tuple[int, int]:
    """Return the grid (h, w) of L position embeddings: 4:3, like all of ViTPose's inputs, or square.

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
    """Resample position embeddings ``[1, L', D]`` to another grid, ``[1, h*w, D]``, by bicubic interpolation."""
    source = position_grid(position.shape[1])
    if source == grid:
        return position
    maps = position.float().transpose(1, 2).reshape(1, -1, *source)  # [1, D, h', w']
    maps = F.interpolate(maps, size=grid, mode="bicubic", align_corners=False)
    return maps.flatten(2).transpose(1, 2).to(position.dtype)


def count_keys(keys: Sequence[str]) -> str:
    """Return how many keys there are and the first of them, for use within a message: ``"2 keys (a, b) are"``."""
    names = f"({', '.join(keys[:4])}{', …' if len(keys) > 4 else ''})"
    return f"1 key {names} is" if len(keys) == 1 else f"{len(keys)} keys {names} are"


def _find_format(state: Mapping[str, Tensor]) -> tuple[_Format, str] | None:
    """Return the format whose patch embedding the file has, and the prefix of the file's keys."""
    for form in _FORMATS:
        for key in state:
            prefix = key.removesuffix(form.needed[0])
            if prefix != key and (not prefix or prefix.endswith(".")):
                return form, prefix
    return None


def _canonical(key: str, prefix: str) -> str:
    """Return a key without the file's wrappers: with the prefix ``backbone.`` for the backbone, none for the head."""
    outer = prefix.removesuffix("backbone.")  # "module.backbone." -> "module.", "" -> ""
    name = key.removeprefix(outer)
    if not prefix.endswith("backbone.") and not name.startswith(("head.", "keypoint_head.")):
        name = "backbone." + name
    return name


def _check_ranks(state: Mapping[str, Tensor]) -> None:
    """Reject weights whose shapes cannot be used; `state` has this package's keys."""
    for key, rank in _RANKS.items():
        value = state.get(key)
        if value is None:
            continue
        if value.dim() != rank or 0 in value.shape or not value.is_floating_point():
            raise CheckpointError(
                f"its {key} is {str(value.dtype).removeprefix('torch.')} {list(value.shape)}: expected "
                f"floating-point numbers in {rank} dimensions"
            )


def _join_qkv(state: dict[str, Tensor]) -> None:
    """Concatenate separate query, key and value weights into one qkv, in place."""
    for key in [key for key in state if ".attn.query." in key]:
        names = [key.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(name in state for name in names):
            parts = [state.pop(name) for name in names]
            if not parts[0].dim() or len({part.shape for part in parts}) > 1:
                shapes = ", ".join(str(list(part.shape)) for part in parts)
                raise CheckpointError(
                    f"its {key} and the key and value beside it are {shapes}: expected three arrays of one shape"
                )
            state[key.replace(".query.", ".qkv.")] = torch.cat(parts)
