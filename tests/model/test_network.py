from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sdtc.core.errors import ConfigError
from sdtc.kernels import CONTEXT_AXES, cross_attention, self_refinement
from sdtc.model import MaskedSDTC, build
from sdtc.model.encodings import spatial_encoding
from sdtc.model.network import MEAN, STD
from sdtc.model.optical_flow import keyframe_flow
from sdtc.model.reconstruction import sample_masks
from sdtc.model.smml import SelfRefinement
from tests.networks import TINY


class RecordedOperators(TorchDispatchMode):
    """Notes the names of all operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **kwargs or {})


def clip(config, batch=2, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(
        0, 256, (batch, config.num_frames, *config.input_size, 3), generator=generator, dtype=torch.uint8
    )


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build(TINY).eval()


def test_heatmaps_are_a_quarter_of_the_input(network) -> None:
    assert network(clip(TINY)).shape == (2, 15, 32, 24)


def test_streaming_equals_the_whole_window(network) -> None:
    window = clip(TINY, batch=3)
    tokens = torch.stack([network.encode(window[:, t]) for t in range(5)], dim=1)  # each frame on its own
    torch.testing.assert_close(network.temporal(tokens), network(window), atol=1e-6, rtol=1e-5)


def test_people_in_a_batch_do_not_mix(network) -> None:
    window = clip(TINY, batch=3)
    torch.testing.assert_close(network(window)[1], network(window[1:2])[0], atol=1e-6, rtol=1e-5)


def test_a_neighbour_frame_changes_the_keyframes_pose(network) -> None:
    window, other = clip(TINY), clip(TINY)
    other[:, 0] = 255 - other[:, 0]
    assert not torch.allclose(network(window), network(other), atol=1e-6)


def test_frame_order_matters_only_through_the_temporal_encoding_and_the_aggregation() -> None:
    """Without the encoding, motion M is the same for a reordered window, in the new order."""
    torch.manual_seed(0)
    net = build(dataclasses.replace(TINY, temporal_encoding=False)).eval()
    tokens = torch.randn(1, 5, *TINY.token_shape)
    order = torch.tensor([3, 1, 4, 0, 2])
    torch.testing.assert_close(net.motion(tokens[:, order]), net.motion(tokens)[:, order], atol=1e-5, rtol=1e-4)
    with_encoding = build(TINY).eval()
    R, R_reordered = with_encoding.representations(tokens), with_encoding.representations(tokens[:, order])
    assert not torch.allclose(with_encoding.motion(R)[:, order], with_encoding.motion(R_reordered), atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"fusion": "add"},  # Table 4
        {"fusion": "conv"},
        {"motion_encoder": "vit"},  # Table 5
        {"motion_encoder": "patch"},
        {"context_softmax": "channels"},  # Eq. 6
        {"refinement": "concatenate"},  # Eq. 8
        {"refinement": "replace"},
        {"cross_propagation": False, "adaptive_fusion": False},  # Table 6
        {"adaptive_fusion": False},
        {"spatial_encoding": False, "temporal_encoding": False},  # Table 7
        {"temporal_encoding": False},
        {"delta": 1},  # Table 9
        {"delta": 3},
        {"joint_layers": 2, "divided_layers": 2},
        {"input_size": (256, 192)},
    ],
    ids=str,
)
def test_every_ablation_is_a_switch_that_changes_the_network(change, network) -> None:
    config = dataclasses.replace(TINY, **change)
    torch.manual_seed(0)
    ablated = build(config).eval()
    heatmaps = ablated(clip(config))
    assert heatmaps.shape == (2, 15, *config.heatmap_size)
    assert heatmaps.isfinite().all()
    if heatmaps.shape == network(clip(TINY)).shape and config.num_frames == TINY.num_frames:
        # Not only other weights: with all that both have in common the same, the answer is another.
        state = network.state_dict()
        shared = {
            k: v for k, v in state.items() if k in ablated.state_dict() and v.shape == ablated.state_dict()[k].shape
        }
        ablated.load_state_dict(shared, strict=False)
        assert not torch.allclose(ablated(clip(config)), network(clip(TINY)), atol=1e-7)


@pytest.mark.parametrize("axis", ["pixels", "channels"])
@pytest.mark.parametrize("refinement", ["add", "concatenate", "replace"])
def test_self_refinement_is_what_its_reading_says(axis, refinement) -> None:
    """Eq. 6-8 by hand, of a convolution that is known."""
    torch.manual_seed(0)
    module = SelfRefinement(dataclasses.replace(TINY, width=20, context_softmax=axis, refinement=refinement))
    X = torch.randn(2, 20, 5, 3)
    flat = X.flatten(2).double()
    O = flat.softmax({"channels": 1, "pixels": 2}[axis])  # noqa: E741
    OC = flat @ O.mT
    Y = (OC @ (flat.mT @ OC).softmax(2).mT).view_as(X)
    weight, bias = module.conv.weight[:, :, 0, 0].double(), module.conv.bias.double()[:, None, None]

    def conv(Z):
        return torch.einsum("oc,bchw->bohw", weight, Z) + bias

    want = {"add": lambda: X + conv(Y), "replace": lambda: conv(Y), "concatenate": lambda: conv(torch.cat([X, Y], 1))}
    refined = self_refinement(X.flatten(2), CONTEXT_AXES[axis]).view_as(X)
    torch.testing.assert_close(module(X, refined), want[refinement]().float(), atol=1e-5, rtol=1e-5)


def test_operators_run_once_on_both_maps_as_if_on_each() -> None:
    torch.manual_seed(0)
    fusion = build(TINY).eval().fusion
    R, M = torch.randn(2, 2, 5, 48, 64).unbind()

    def refined(X):
        return self_refinement(X.flatten(2), fusion.axis).view_as(X)

    def attended(smca, S, G):
        return cross_attention(*smca.project(S, G)).view_as(S)

    S, G = fusion.aggregate_r(R), fusion.aggregate_m(M)
    S, G = fusion.refine_r(S, refined(S)), fusion.refine_m(G, refined(G))
    S, G = fusion.smca_r(S, attended(fusion.smca_r, S, G)), fusion.smca_m(G, attended(fusion.smca_m, G, S))
    torch.testing.assert_close(fusion(R, M), fusion.adaptive(S, G), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("level", ["patch", "vit"])
def test_masks_of_shallower_motion_encoders(level) -> None:
    """Table 5: the patch level alone is masked by tubes; a plain ViT is not masked at all."""
    config = dataclasses.replace(TINY, motion_encoder=level)
    wrapper = MaskedSDTC(build(config)).eval()
    tubes, frames = sample_masks(config, 2, torch.Generator().manual_seed(0))
    assert frames is None
    window = clip(config)
    if level == "vit":
        assert tubes is None
        assert wrapper.reconstruction is None
        with pytest.raises(ConfigError, match="has no level to mask"):
            wrapper(window, torch.ones(2, 48, dtype=torch.bool))
        return
    plain, masked = wrapper(window), wrapper(window, tubes)
    assert not torch.allclose(plain.heatmap_sequence, masked.heatmap_sequence, atol=1e-7)
    assert masked.contexts.shape == (2, 5, 48, 64)
    with pytest.raises(ConfigError, match="has no level to mask"):
        wrapper(window, tubes, torch.ones(2, 5, dtype=torch.bool))


FLOW = dataclasses.replace(TINY, motion="optical_flow")


def moving_square(dx: int, dy: int) -> torch.Tensor:
    """A textured square before a grey wall, uint8 ``[1, 5, 128, 96, 3]``; it moves by (dx, dy) pixels a frame."""
    noise = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))  # coarse: flow needs gradients
    texture = (255 * torch.nn.functional.interpolate(noise, (48, 48), mode="bilinear"))[0].permute(1, 2, 0).byte()
    window = torch.full((1, 5, 128, 96, 3), 128, dtype=torch.uint8)
    for t in range(5):
        y, x = 40 + dy * (t - 2), 24 + dx * (t - 2)
        window[0, t, y : y + 48, x : x + 48] = texture
    return window


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, -2), (-1, 2)])
def test_flow_is_the_motion_between_the_keyframe_and_each_frame(dx, dy) -> None:
    flow = keyframe_flow(moving_square(dx, dy).numpy())
    assert flow.shape == (1, 5, 2, 128, 96)
    assert not flow[0, 2].any()
    for t in (0, 1, 3, 4):
        inside = flow[0, t, :, 50:78, 34:62].reshape(2, -1)  # well within the square at the keyframe
        assert np.median(inside, axis=1) == pytest.approx([dx * (t - 2), dy * (t - 2)], abs=0.25)


def test_a_network_with_optical_flow_depends_on_the_motion_alone_where_tokens_are_told_nothing() -> None:
    """Table 4's baseline: with M from flow, and R's aggregation silenced, still pictures differ from moving ones."""
    torch.manual_seed(0)
    net = build(FLOW).eval()
    wrapper = MaskedSDTC(net).eval()
    assert wrapper.reconstruction is None
    assert sample_masks(FLOW, 2) == (None, None)
    still, moving = moving_square(0, 0), moving_square(3, 1)
    with torch.inference_mode():
        assert net(moving).shape == (1, 15, 32, 24)
        assert torch.equal(wrapper(moving).heatmaps, net(moving))
        torch.nn.init.zeros_(net.fusion.aggregate_r.conv[0].weight)  # R̄ no longer tells pictures apart
        assert not torch.allclose(net(still), net(moving), atol=1e-6)
    with pytest.raises(ConfigError, match="PyTorch only"):
        net.temporal(torch.zeros(1, 5, 48, 64))
    with pytest.raises(ConfigError, match="has no level to mask"):
        wrapper(still, torch.ones(1, 48, dtype=torch.bool))


def test_gradients_reach_every_parameter_of_a_network_with_optical_flow() -> None:
    torch.manual_seed(0)
    net = build(FLOW).train()
    net(torch.cat([moving_square(3, 1), moving_square(-2, 0)])).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_frozen_backbone_stays_in_evaluation_mode_and_gets_no_gradient() -> None:
    config = dataclasses.replace(TINY, backbone=dataclasses.replace(TINY.backbone, frozen=True))
    net = build(config).train()
    assert not net.backbone.training
    assert net.fusion.training
    net(clip(config)).square().sum().backward()
    assert all(p.grad is None for p in net.backbone.parameters())
    assert net.projection.weight.grad.abs().sum() > 0


def test_gradients_reach_every_trainable_parameter_of_the_masked_network() -> None:
    torch.manual_seed(0)
    wrapper = MaskedSDTC(build(TINY)).train()
    tubes, frames = sample_masks(TINY, 2, torch.Generator().manual_seed(0))
    out = wrapper(clip(TINY), tubes, frames)
    (out.heatmaps.sum() + out.contexts.square().sum() + out.heatmap_sequence.square().sum()).backward()
    assert [name for name, p in wrapper.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_without_masks_the_wrapper_answers_as_the_network_bit_for_bit(network) -> None:
    window = clip(TINY)
    with torch.inference_mode():
        out = MaskedSDTC(network).eval()(window)
        assert torch.equal(out.heatmaps, network(window))
    assert out.contexts.shape == (2, 5, 48, 64)
    assert out.heatmap_sequence.shape == (2, 5, 15, 32, 24)


def test_without_masked_training_there_is_nothing_that_only_training_has(network) -> None:
    window = clip(TINY)
    wrapper = MaskedSDTC(network, masked=False).eval()
    assert {id(p) for p in wrapper.parameters()} == {id(p) for p in network.parameters()}
    with torch.inference_mode():
        assert torch.equal(wrapper(window).heatmaps, network(window))
    tubes, frames = sample_masks(TINY, 2)
    for masks in ((tubes, None), (None, frames)):
        with pytest.raises(ConfigError, match="no level to mask"):
            wrapper(window, *masks)


ONE_PASS = dataclasses.replace(TINY, reconstruction=dataclasses.replace(TINY.reconstruction, passes=1))


def test_masks_change_the_answer_of_one_pass() -> None:
    window = clip(TINY)
    wrapper = MaskedSDTC(build(ONE_PASS)).eval()
    tubes, frames = sample_masks(TINY, 2, torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain = wrapper(window).heatmaps
        for masks in ((tubes, None), (None, frames), (tubes, frames)):
            assert not torch.allclose(wrapper(window, *masks).heatmaps, plain, atol=1e-7)


def test_of_two_passes_the_masks_change_the_reconstruction_only(network) -> None:
    """The keyframe's heatmaps are those of inference, to the bit; one pass reconstructs the same."""
    window = clip(TINY)
    wrapper = MaskedSDTC(network).eval()
    masks = sample_masks(TINY, 2, torch.Generator().manual_seed(0))
    with torch.inference_mode():
        masked, plain = wrapper(window, *masks), wrapper(window)
        assert torch.equal(masked.heatmaps, network(window))
        for name in ("contexts", "heatmap_sequence"):
            assert not torch.allclose(getattr(masked, name), getattr(plain, name), atol=1e-7)
        network.config, kept = ONE_PASS, network.config
        one = wrapper(window, *masks)
        network.config = kept
    assert torch.equal(one.contexts, masked.contexts)
    assert torch.equal(one.heatmap_sequence, masked.heatmap_sequence)
    assert not torch.equal(one.heatmaps, masked.heatmaps)


@pytest.mark.parametrize(("ratio", "runs"), [(0.5, 2), (0.0, 1)])
def test_without_anything_masked_there_is_one_pass(ratio, runs) -> None:
    config = dataclasses.replace(TINY, reconstruction=dataclasses.replace(TINY.reconstruction, mask_ratio=ratio))
    wrapper = MaskedSDTC(build(config)).eval()
    calls = []
    wrapper.network.motion.patch_level.register_forward_hook(lambda *_: calls.append(1))
    window = clip(config)
    with torch.inference_mode():
        heatmaps = wrapper(window, *sample_masks(config, 2)).heatmaps
        assert len(calls) == runs
        assert torch.equal(heatmaps, wrapper.network(window))


def test_mask_ratio_is_exact_and_tubes_are_shared_by_frames() -> None:
    tubes, frames = sample_masks(TINY, 16, torch.Generator().manual_seed(1))
    assert (tubes.sum(1) == 24).all()  # 50 % of 48
    assert (frames.sum(1) == 2).all()  # 50 % of 5, rounded down
    assert tubes.unique(dim=0).shape[0] > 1


def test_heatmap_sequence_puts_each_token_in_its_own_cell() -> None:
    """Decode one changed token and look where the sequence changes."""
    torch.manual_seed(0)
    branch = MaskedSDTC(build(TINY)).eval().reconstruction
    branch.decoder = torch.nn.Identity()  # attention would spread the change
    R_F = torch.randn(1, 5, 48, 64)
    changed = R_F.clone()
    changed[0, 3, 6 * 2 + 4] += 1  # frame 3, row 2, column 4 of the 8x6 grid
    difference = (branch(R_F)[1] != branch(changed)[1]).nonzero()
    assert set(difference[:, 1].tolist()) == {3}
    assert set(difference[:, 3].tolist()) == {8, 9, 10, 11}
    assert set(difference[:, 4].tolist()) == {16, 17, 18, 19}


def test_spatial_encoding_is_the_product_of_rows_and_columns() -> None:
    encoding = spatial_encoding((4, 3), 16).view(4, 3, 16)
    assert torch.equal(encoding[2, 0, :8], encoding[2, 1, :8])  # rows do not see columns
    assert torch.equal(encoding[0, 1, 8:], encoding[3, 1, 8:])
    assert len(encoding.reshape(12, 16).unique(dim=0)) == 12
    # the lowest frequency: sin and cos of the position itself
    assert encoding[2, 1, 0] == pytest.approx(float(torch.tensor(2.0).sin()))
    assert encoding[2, 1, 4] == pytest.approx(float(torch.tensor(2.0).cos()))


def test_pixels_are_normalised_in_fp32_and_without_a_copy_from_the_host() -> None:
    """A CUDA graph of `encode` cannot record such a copy."""
    network, frames = build(TINY).to(torch.bfloat16), clip(TINY)[0]
    seen = []
    network.backbone.forward = seen.append
    with RecordedOperators() as recorded:
        network.encode_backbone(frames)
    mean, std = (255 * torch.tensor(each) for each in (MEAN, STD))
    assert torch.equal(seen[0], ((frames.float() - mean) / std).permute(0, 3, 1, 2).bfloat16())
    assert "aten.sub.Tensor" in recorded.names
    assert not {"aten.lift_fresh.default", "aten.scalar_tensor.default"} & set(recorded.names)
    assert network.float().mean.dtype == torch.float32
    assert torch.equal(network.mean, mean)
    assert not [name for name in network.state_dict() if name in ("mean", "std")]
