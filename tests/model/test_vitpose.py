"""ViTPose weights against an independent implementation, Hugging Face's, on random weights."""

from __future__ import annotations

import functools
import re

import pytest
import torch
from torch import Tensor

from sdtc.core.errors import CheckpointError
from sdtc.model import BackboneConfig, build, get_preset, load_checkpoint
from sdtc.model import checkpoint as checkpoint_module
from sdtc.model.backbone import VisionTransformer
from sdtc.model.checkpoint import load_backbone
from sdtc.model.vitpose import position_grid, read_vitpose, resize_positions

transformers = pytest.importorskip("transformers")
SHAPES = {"S": (384, 12, 12), "B": (768, 12, 12)}


def make_hugging_face(width: int, depth: int, heads: int, classic: bool):
    backbone = transformers.VitPoseBackboneConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, image_size=[256, 192],
        patch_size=[16, 16], mlp_ratio=4, layer_norm_eps=1e-6,
    )  # fmt: skip
    config = transformers.VitPoseConfig(backbone_config=backbone, num_labels=17, use_simple_decoder=not classic)
    torch.manual_seed(0)
    model = transformers.VitPoseForPoseEstimation(config).eval()
    with torch.no_grad():  # fresh weights are too tame to show a mistake: zero biases, unit norms, small heads
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.add_(torch.rand_like(buffer))
    return model


def to_original(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's names to the original's; written here, apart from the code under test."""
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        name = key
        for old, new in (
            ("backbone.embeddings.patch_embeddings.projection", "backbone.patch_embed.proj"),
            ("backbone.embeddings.position_embeddings", "backbone.pos_embed"),
            ("backbone.encoder.layer.", "backbone.blocks."),
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
            ("attention.output.dense", "attn.proj"),
            ("backbone.layernorm", "backbone.last_norm"),
            ("head.deconv1", "keypoint_head.deconv_layers.0"),
            ("head.batchnorm1", "keypoint_head.deconv_layers.1"),
            ("head.deconv2", "keypoint_head.deconv_layers.3"),
            ("head.batchnorm2", "keypoint_head.deconv_layers.4"),
            ("head.conv", "keypoint_head.final_layer"),
        ):
            name = name.replace(old, new)
        if match := re.search(r"(.*)attention\.attention\.query\.(weight|bias)", name):
            parts = [state[key.replace("query", part)] for part in ("query", "key", "value")]
            out[f"{match[1]}attn.qkv.{match[2]}"] = torch.cat(parts)
        elif "attention.attention" not in name:
            out[name] = value
    return out


def to_mmpose(original: dict[str, Tensor]) -> dict[str, Tensor]:
    """The original's names to mmpose 1.x's."""
    out = {}
    for key, value in original.items():
        name = key
        for old, new in (
            ("patch_embed.proj", "patch_embed.projection"),
            ("backbone.blocks.", "backbone.layers."),
            (".norm1.", ".ln1."),
            (".norm2.", ".ln2."),
            (".mlp.fc1.", ".ffn.layers.0.0."),
            (".mlp.fc2.", ".ffn.layers.1."),
            ("backbone.last_norm", "backbone.ln1"),
            ("keypoint_head", "head"),
        ):
            name = name.replace(old, new)
        if name == "backbone.pos_embed":
            value = value[:, 1:] + value[:, :1]
        out[name] = value
    return out


@functools.cache
def small_state() -> dict[str, Tensor]:
    return make_hugging_face(384, 1, 12, True).state_dict()


def in_format(name: str) -> dict[str, Tensor]:
    """A whole ViTPose of one block, with the classic head, in the names of a format."""
    if name == "Hugging Face":
        return dict(small_state())
    original = to_original(small_state())
    return original if name == "original ViTPose" else to_mmpose(original)


FORMATS = ("original ViTPose", "mmpose 1.x", "Hugging Face")


@pytest.mark.slow
@pytest.mark.parametrize("size", SHAPES)
def test_tokens_equal_hugging_face(size, tmp_path) -> None:
    width, depth, heads = SHAPES[size]
    reference = make_hugging_face(width, depth, heads, classic=False)
    images = torch.randn(2, 3, 256, 192)
    with torch.inference_mode():
        want = reference.backbone(images).feature_maps[-1]
        backbone = VisionTransformer(BackboneConfig(width, depth, heads), (256, 192)).eval()
        state = read_vitpose(reference.state_dict()).state
        backbone.load_state_dict(
            {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
        )
        got = backbone(images)
    if want.dim() == 4:
        want = want.flatten(2).transpose(1, 2)
    assert want.abs().mean() > 0.1
    torch.testing.assert_close(got, want, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("classic", [False, True], ids=["simple", "classic"])
def test_whole_vitpose_equals_hugging_face(classic, tmp_path) -> None:
    reference = make_hugging_face(384, 12, 12, classic)
    torch.save(reference.state_dict(), tmp_path / "vitpose.pth")
    checkpoint = load_checkpoint(tmp_path / "vitpose.pth")
    network = checkpoint.network
    assert checkpoint.trained
    assert network.config.head == ("classic" if classic else "simple")
    assert (network.config.num_frames, network.config.num_keypoints) == (1, 17)
    clip = torch.randint(0, 256, (2, 1, 256, 192, 3), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.inference_mode():
        images = ((clip[:, 0] / 255 - mean) / std).permute(0, 3, 1, 2)
        want = reference(images).heatmaps
        got = network(clip)
    scale = want.abs().max()
    torch.testing.assert_close(got / scale, want / scale, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("classic", [False, True], ids=["simple", "classic"])
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "wrapped"])
def test_three_formats_load_to_the_same_tensors(classic, wrapped) -> None:
    hugging_face = make_hugging_face(384, 2, 12, classic).state_dict()
    original = to_original(hugging_face)
    mmpose = to_mmpose(original)
    if wrapped:  # as a parallel trainer leaves them
        original, mmpose = ({f"module.{k}": v for k, v in state.items()} for state in (original, mmpose))
    loaded = [read_vitpose(state) for state in (hugging_face, original, mmpose)]
    assert [weights.format for weights in loaded] == ["Hugging Face", "original ViTPose", "mmpose 1.x"]
    for weights in loaded:
        assert weights.left_over == ()
        assert weights.head == ("classic" if classic else "simple")
        assert set(weights.state) == set(loaded[0].state)
        for key, value in weights.state.items():
            assert torch.equal(value, loaded[0].state[key]), key


@pytest.mark.slow
def test_a_backbone_without_prefix_is_found(tmp_path) -> None:
    state = make_hugging_face(384, 12, 12, False).backbone.state_dict()
    torch.save({"model": state}, tmp_path / "backbone.pth")
    network = build(get_preset("small"))
    assert load_backbone(network, tmp_path / "backbone.pth") == "Hugging Face"
    assert torch.equal(network.backbone.norm.weight, state["layernorm.weight"])


@pytest.mark.slow
def test_backbone_of_a_wrapped_original_file_into_another_input_size(tmp_path) -> None:
    import dataclasses

    original = to_original(make_hugging_face(384, 12, 12, True).state_dict())
    torch.save({"state_dict": original, "meta": {"epoch": 210}}, tmp_path / "vitpose-s.pth")
    network = build(dataclasses.replace(get_preset("small"), input_size=(384, 288)))
    assert load_backbone(network, tmp_path / "vitpose-s.pth") == "original ViTPose"
    positions = network.backbone.pos_embed.view(24, 18, 384)
    folded = original["backbone.pos_embed"]
    source = (folded[:, 1:] + folded[:, :1]).view(16, 12, 384)
    # Resampling keeps the mean and, at the centre of the grid, the values.
    torch.testing.assert_close(positions.mean((0, 1)), source.mean((0, 1)), atol=0.02, rtol=0)
    assert network(torch.zeros(1, 5, 384, 288, 3, dtype=torch.uint8)).isfinite().all()


def test_resizing_positions_keeps_smooth_fields() -> None:
    rows = torch.linspace(-1, 1, 16)[:, None].expand(16, 12).reshape(1, 192, 1)
    larger = resize_positions(rows, (32, 24)).view(32, 24)
    assert (larger.diff(dim=0) > 0).all()
    assert larger.std(dim=1).max() < 1e-6
    assert torch.equal(resize_positions(rows, (16, 12)), rows)


def test_position_grids() -> None:
    assert position_grid(192) == (16, 12)
    assert position_grid(432) == (24, 18)
    assert position_grid(48) == (8, 6)
    assert position_grid(196) == (14, 14)
    with pytest.raises(CheckpointError, match="191 position embeddings"):
        position_grid(191)


@pytest.mark.slow
def test_partial_files_name_the_missing_keys(tmp_path) -> None:
    state = make_hugging_face(384, 12, 12, False).state_dict()
    del state["backbone.encoder.layer.7.mlp.fc1.bias"]
    del state["backbone.encoder.layer.3.attention.attention.key.weight"]
    torch.save(state, tmp_path / "partial.pth")
    network = build(get_preset("small"))
    with pytest.raises(
        CheckpointError, match=r"2 keys \(blocks\.3\.attn\.qkv\.weight, blocks\.7\.mlp\.fc1\.bias\) are missing"
    ):
        load_backbone(network, tmp_path / "partial.pth")


@pytest.mark.slow
def test_left_over_keys_are_named(tmp_path) -> None:
    state = make_hugging_face(384, 12, 12, False).state_dict()
    state["backbone.encoder.layer.0.mlp.experts.0.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "moe.pth")
    with pytest.raises(CheckpointError, match=r"1 key \(.*experts.*\) is left over"):
        load_checkpoint(tmp_path / "moe.pth")


@pytest.mark.slow
def test_a_backbone_alone_gives_no_poses(tmp_path) -> None:
    state = {k: v for k, v in make_hugging_face(384, 12, 12, False).state_dict().items() if "head" not in k}
    torch.save(state, tmp_path / "backbone.pth")
    with pytest.raises(CheckpointError, match=r"is a ViTPose backbone without a head \(Hugging Face names\), so"):
        load_checkpoint(tmp_path / "backbone.pth")


@pytest.mark.slow
def test_wrong_width_shows_both_shapes(tmp_path) -> None:
    torch.save(make_hugging_face(384, 12, 12, False).state_dict(), tmp_path / "s.pth")
    with pytest.raises(CheckpointError, match=r"\(384,\) instead of \(768,\)|instead of"):
        load_backbone(build(get_preset("base")), tmp_path / "s.pth")


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "module."], ids=["bare", "wrapped"])
@pytest.mark.parametrize("name", FORMATS)
def test_partial_files_name_the_needed_keys_as_the_file_would(name, prefix, tmp_path) -> None:
    """What the shapes are read from: position embeddings, patches, a first block, the last norm, the head's end."""
    whole = {prefix + key: value for key, value in in_format(name).items()}
    needed = [
        key
        for key in whole
        if re.search(
            r"patch_embed|pos_embed|position_emb|last_norm|backbone\.(ln1|layernorm)\.|\.0\.mlp\.fc1\.weight", key
        )
        or re.search(r"ffn\.layers\.0\.0\.weight|(final_layer|head\.conv)\.weight", key)
    ]
    assert len(needed) == 7
    for key in needed:
        state = {other: value for other, value in whole.items() if other != key}
        expected = key.removeprefix(prefix) if "head" in key else key
        with pytest.raises(CheckpointError, match=rf"1 key \({re.escape(expected)}\) is missing|not ViTPose's"):
            read_vitpose(state).model_config()
    torch.save({key: value for key, value in whole.items() if "pos" not in key}, tmp_path / "partial.pth")
    with pytest.raises(CheckpointError, match=r"partial\.pth' cannot be used: .*pos.* is missing"):
        load_checkpoint(tmp_path / "partial.pth")
    with pytest.raises(CheckpointError, match=r"partial\.pth' cannot be used: .*pos.* is missing"):
        load_backbone(build(get_preset("tiny")), tmp_path / "partial.pth")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("odd", [torch.tensor(1.0), torch.zeros(3), torch.zeros(1, 0, 0, 0)], ids=["0D", "1D", "empty"])
def test_tensors_of_any_rank_are_refused_in_a_sentence(name, odd, monkeypatch) -> None:
    whole = in_format(name)
    config = read_vitpose(whole).model_config()
    network = build(config)
    monkeypatch.setattr(checkpoint_module, "build", lambda config: network)  # building it again takes the time
    for key in whole:
        if odd.shape != whole[key].shape:
            monkeypatch.setattr(checkpoint_module, "_read", lambda path, key=key: ({}, {**whole, key: odd}))
            with pytest.raises(CheckpointError, match="cannot be used: "):
                load_checkpoint("vitpose.pth")


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.bool], ids=str)
def test_weights_that_are_no_real_numbers_are_refused(dtype, tmp_path) -> None:
    whole = in_format("mmpose 1.x")
    for key in ("backbone.pos_embed", "backbone.layers.0.attn.qkv.weight"):
        torch.save({**whole, key: whole[key].to(dtype)}, tmp_path / "odd.pth")
        with pytest.raises(CheckpointError, match=r"(pos_embed|qkv\.weight).*floating-point"):
            load_checkpoint(tmp_path / "odd.pth")


def vision_transformer(patch: str, blocks: str, *others: str) -> dict[str, Tensor]:
    """The keys of another Vision Transformer; their values do not matter."""
    keys = [
        f"{patch}.weight",
        f"{patch}.bias",
        *(f"{blocks}.{i}.{w}.weight" for i in (0, 1) for w in ("norm1", "mlp.fc1")),
    ]
    return {key: torch.zeros(4, 4) for key in [*keys, *others]}


OTHER_TRANSFORMERS = {
    "timm": vision_transformer(
        "patch_embed.proj", "blocks", "cls_token", "pos_embed", "norm.weight", "norm.bias", "head.weight", "head.bias"
    ),
    "timm-without-class-token": vision_transformer("patch_embed.proj", "blocks", "pos_embed", "norm.weight"),
    "swin": vision_transformer("patch_embed.proj", "layers.0.blocks", "norm.weight", "norm.bias", "head.weight"),
    "mmpretrain": vision_transformer("backbone.patch_embed.projection", "backbone.layers", "backbone.cls_token"),
    "hugging-face": vision_transformer(
        "vit.embeddings.patch_embeddings.projection", "vit.encoder.layer", "vit.embeddings.position_embeddings",
        "vit.embeddings.cls_token", "vit.layernorm.weight", "vit.layernorm.bias", "classifier.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_TRANSFORMERS)
def test_other_vision_transformers_are_told_apart(name, tmp_path) -> None:
    torch.save(OTHER_TRANSFORMERS[name], tmp_path / "other.pth")
    for load in (load_checkpoint, lambda path: load_backbone(build(get_preset("tiny")), path)):
        with pytest.raises(CheckpointError, match="another Vision Transformer such as timm's") as caught:
            load(tmp_path / "other.pth")
        assert "left over" in str(caught.value)
        assert "a original" not in str(caught.value)


def test_the_keys_of_a_timm_file_are_named() -> None:
    with pytest.raises(
        CheckpointError,
        match=r"2 keys \(last_norm\.weight, last_norm\.bias\) are missing and "
        r"5 keys \(cls_token, norm\.weight, norm\.bias, head\.weight, …\) are left over",
    ):
        read_vitpose(OTHER_TRANSFORMERS["timm"])


def test_a_class_token_alone_tells_another_transformer() -> None:
    state = in_format("Hugging Face") | {"backbone.embeddings.cls_token": torch.zeros(1, 1, 384)}
    with pytest.raises(CheckpointError, match=r"1 key \(backbone\.embeddings\.cls_token\) is left over: expected"):
        read_vitpose(state)


def test_query_key_and_value_of_different_shapes() -> None:
    state = in_format("Hugging Face")
    state["backbone.encoder.layer.0.attention.attention.key.weight"] = torch.zeros(2, 384)
    with pytest.raises(CheckpointError, match=r"\[384, 384\], \[2, 384\], \[384, 384\]: expected three arrays"):
        read_vitpose(state)


def test_a_head_that_is_not_whole_is_still_a_head(tmp_path) -> None:
    state = in_format("original ViTPose")
    del state["keypoint_head.deconv_layers.0.weight"]
    torch.save(state, tmp_path / "classic.pth")
    with pytest.raises(CheckpointError, match=r"1 key \(head\.deconv1\.weight\) is missing$"):
        load_checkpoint(tmp_path / "classic.pth")
