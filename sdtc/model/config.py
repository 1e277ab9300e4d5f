"""The configuration of the model: every ablation of Tables 4-9 is one of its fields. Needs no torch.

Presets are named configurations; a checkpoint contains its own.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from sdtc.core.errors import ConfigError
from sdtc.core.settings import build_settings
from sdtc.core.skeleton import get_skeleton

PATCH_SIZE = 16
PATCH_PADDING = 2  # ViTPose pads the patch convolution by 2, which leaves the grid at size / 16
HEATMAP_STRIDE = 4


@dataclass(frozen=True)
class BackboneConfig:
    """A plain Vision Transformer as ViTPose uses it.

    Attributes:
        width: channels of a token.
        depth: transformer blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the MLP over width.
        frozen: do not train the backbone (paper: frozen).
    """

    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: int = 4
    frozen: bool = True


@dataclass(frozen=True)
class ReconstructionConfig:
    """Masked training (Eq. 1, 4, 14-16); inference does not use it.

    Attributes:
        mask_ratio: share of the locations that a tube mask masks, and of the frames that a frame mask does (Table 5).
        context_weight: λ of Eq. 15 (Table 8).
        decoder_layers: attention layers of the motion decoder.
        passes: how often a step runs the motion encoder. 1: masked, and the masked motion gives the keyframe's heatmaps
            too (Eq. 14). 2: masked for the reconstruction (Eq. 15), and once more without masks for the heatmaps, whose
            fusion so sees in training what it sees at inference. The paper does not say which. With a mask ratio of 0
            both are the same, and one is made.
    """

    mask_ratio: float = 0.5
    context_weight: float = 0.01
    decoder_layers: int = 2
    passes: int = 2


@dataclass(frozen=True)
class ModelConfig:
    """The configuration of one network.

    Attributes:
        name: for people to read, e.g. the name of the preset.
        kind: ``"sdtc"``, or ``"vitpose"`` for a whole single-frame ViTPose (T = 1).
        input_size: (H, W) of a crop, pixels.
        skeleton: ``"posetrack"`` (15 joints) or ``"coco"`` (17).
        width: C, channels after the projection.
        heads: attention heads of the motion encoder and decoder.
        ffn_ratio: hidden width of an FFN over width.
        delta: δ, supporting frames on each side (Table 9).
        spatial_encoding, temporal_encoding: Table 7.
        motion: where motion comes from, ``"mlsme"`` or ``"optical_flow"`` (Table 4).
        motion_encoder: ``"vit"``, ``"patch"`` or ``"patch+frame"`` (Table 5).
        joint_layers, divided_layers: number of each in every level of the motion encoder (Eq. 2, Eq. 3).
        fusion: how motion and appearance are fused, ``"add"``, ``"conv"`` or ``"smml"`` (Table 4).
        context_softmax: the axis of Eq. 6's softmax, ``"pixels"`` as in OCR (Yuan et al., 2020), which the paper
            follows, or ``"channels"`` as its words say.
        refinement: how Eq. 8 uses the weighted contexts Y of X: ``"add"``, X + Conv(Y); ``"concatenate"``, Conv([X, Y])
            as in OCR; ``"replace"``, Conv(Y) as written.
        cross_propagation, adaptive_fusion: whether SMML has these later stages (Table 6).
        head: ``"simple"``; ``"classic"`` (two deconvolutions) only for ViTPose checkpoints.
        reconstruction: masked training.
    """

    name: str = "custom"
    kind: str = "sdtc"
    input_size: tuple[int, int] = (256, 192)
    skeleton: str = "posetrack"
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    width: int = 256
    heads: int = 8
    ffn_ratio: int = 4
    delta: int = 2
    spatial_encoding: bool = True
    temporal_encoding: bool = True
    motion: str = "mlsme"
    motion_encoder: str = "patch+frame"
    joint_layers: int = 1
    divided_layers: int = 1
    fusion: str = "smml"
    context_softmax: str = "pixels"
    refinement: str = "add"
    cross_propagation: bool = True
    adaptive_fusion: bool = True
    head: str = "simple"
    reconstruction: ReconstructionConfig = field(default_factory=ReconstructionConfig)

    def __post_init__(self) -> None:
        _check(self)

    @property
    def num_frames(self) -> int:
        """T = 2δ+1."""
        return 2 * self.delta + 1

    @property
    def mask_levels(self) -> tuple[str, ...]:
        """Levels of the motion encoder that masked training masks: ``"patch"`` (Eq. 1), ``"frame"`` (Eq. 4)."""
        if self.kind != "sdtc" or self.motion != "mlsme" or self.motion_encoder == "vit":
            return ()
        return tuple(self.motion_encoder.split("+"))

    @property
    def reading(self) -> dict[str, str]:
        """The fields that say how Eq. 6 and Eq. 8 are read; empty for a network without self-refinement."""
        if self.kind != "sdtc" or self.fusion != "smml":
            return {}
        return {"context_softmax": self.context_softmax, "refinement": self.refinement}

    @property
    def num_keypoints(self) -> int:
        """J, joints of the skeleton."""
        return len(get_skeleton(self.skeleton).keypoints)

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) of the token grid; L = h·w."""
        return self.input_size[0] // PATCH_SIZE, self.input_size[1] // PATCH_SIZE

    @property
    def heatmap_size(self) -> tuple[int, int]:
        """(h, w) of the heatmaps."""
        return self.input_size[0] // HEATMAP_STRIDE, self.input_size[1] // HEATMAP_STRIDE

    @property
    def token_shape(self) -> tuple[int, int]:
        """(L, C) of one frame's tokens, as `PoseNetwork.encode` returns them."""
        return self.grid[0] * self.grid[1], self.width if self.kind == "sdtc" else self.backbone.width

    @property
    def token_stride(self) -> float:
        """Distance of neighbouring tokens, crop pixels."""
        return float(PATCH_SIZE)

    @property
    def token_offset(self) -> float:
        """Place of the first token in a crop, crop pixels: the centre of its patch."""
        return (PATCH_SIZE - 1) / 2 - PATCH_PADDING

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration in plain JSON types."""
        data = dataclasses.asdict(self)
        data["input_size"] = list(self.input_size)
        return data

    @staticmethod
    def from_dict(data: Any) -> ModelConfig:
        """Build a configuration from plain types, as a checkpoint holds them; fields left out get their defaults.

        Raises:
            ConfigError: an unknown key (the nearest known one is named), a wrong type or value.
        """
        return build_settings(ModelConfig, data, "model")


def _check(config: ModelConfig) -> None:
    def one_of(name: str, *allowed: str) -> None:
        if getattr(config, name) not in allowed:
            raise ConfigError(f"model.{name} is {getattr(config, name)!r}: expected one of {', '.join(allowed)}")

    def between(name: str, value: float, low: float, high: float) -> None:
        if not low <= value <= high:
            raise ConfigError(f"model.{name} is {value}: expected {low} to {high}")

    one_of("kind", "sdtc", "vitpose")
    one_of("motion", "mlsme", "optical_flow")
    one_of("motion_encoder", "vit", "patch", "patch+frame")
    one_of("fusion", "add", "conv", "smml")
    one_of("context_softmax", "pixels", "channels")
    one_of("refinement", "add", "concatenate", "replace")
    one_of("head", "simple", "classic")
    get_skeleton(config.skeleton)
    for side in config.input_size:
        if side % PATCH_SIZE or not 32 <= side <= 1024:
            raise ConfigError(
                f"model.input_size is {config.input_size}: both sides must be multiples of {PATCH_SIZE} from 32 to 1024"
            )
    # The bounds keep a malicious checkpoint from allocating terabytes.
    between("delta", config.delta, 0, 7)
    for name, value in (("backbone.width", config.backbone.width), ("width", config.width)):
        between(name, value, 16, 2048)
    between("backbone.depth", config.backbone.depth, 1, 64)
    between("backbone.mlp_ratio", config.backbone.mlp_ratio, 1, 8)
    between("ffn_ratio", config.ffn_ratio, 1, 8)
    between("joint_layers", config.joint_layers, 0, 8)
    between("divided_layers", config.divided_layers, 0, 8)
    between("reconstruction.decoder_layers", config.reconstruction.decoder_layers, 1, 8)
    between("reconstruction.passes", config.reconstruction.passes, 1, 2)
    between("reconstruction.mask_ratio", config.reconstruction.mask_ratio, 0.0, 0.95)
    for name, width, heads in (
        ("backbone", config.backbone.width, config.backbone.heads),
        ("model", config.width, config.heads),
    ):
        if heads < 1 or width % heads:
            raise ConfigError(f"{name}.width {width} cannot be divided among {heads} heads")
        if width % 4 and (name == "backbone" or config.spatial_encoding):
            raise ConfigError(f"{name}.width {width} must be a multiple of 4 for the sine-cosine encoding")
    if config.kind == "sdtc" and config.head != "simple":
        raise ConfigError("model.head 'classic' belongs to ViTPose checkpoints: SDTC's head is 'simple'")
    if config.kind == "vitpose" and config.delta != 0:
        raise ConfigError(f"model.delta is {config.delta}: a ViTPose network sees one frame, so delta is 0")


PRESETS: dict[str, ModelConfig] = {
    # Small enough to train on a CPU. There are no pretrained weights for its backbone, so that is trained too.
    "tiny": ModelConfig(
        name="tiny",
        input_size=(192, 144),
        backbone=BackboneConfig(width=128, depth=6, heads=4, frozen=False),
        width=64,
        heads=2,
    ),
    "small": ModelConfig(name="small", backbone=BackboneConfig(width=384, depth=12, heads=12)),
    "base": ModelConfig(name="base"),  # the paper's network
    "large": ModelConfig(name="large", backbone=BackboneConfig(width=1024, depth=24, heads=16)),
}


def get_preset(name: str) -> ModelConfig:
    """Return a preset.

    Raises:
        ConfigError: no preset has that name.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise ConfigError(f"unknown preset '{name}': expected one of {', '.join(PRESETS)}") from None
