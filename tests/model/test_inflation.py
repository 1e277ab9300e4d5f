"""From few frames to more: on a clip that stands still, an inflated network answers as the small one did."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sdtc.core.errors import CheckpointError
from sdtc.model import build, save_checkpoint
from sdtc.model.checkpoint import load_weights
from tests.networks import TINY


def with_delta(delta: int, **changes):
    torch.manual_seed(delta)
    network = build(dataclasses.replace(TINY, delta=delta, **changes)).eval()
    with torch.no_grad():
        for module in network.modules():  # statistics of a network that has seen something
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
        network.head.conv.weight.normal_()  # so that heatmaps differ by more than rounding
        network.projection.weight.normal_(0, 0.1)
    return network


@pytest.fixture(scope="module")
def frames():
    return torch.randint(0, 256, (2, *TINY.input_size, 3), generator=torch.Generator().manual_seed(7))


@pytest.mark.slow
@pytest.mark.parametrize(("small", "large"), [(0, 0), (0, 1), (0, 2), (1, 1)])
def test_a_still_clip_gives_the_small_networks_heatmaps(tmp_path, frames, small, large) -> None:
    source, target = with_delta(small), with_delta(large)
    save_checkpoint(tmp_path / "small.pth", source, trained=True)
    load_weights(target, tmp_path / "small.pth")

    def still(network):
        return network(frames[:, None].expand(-1, network.config.num_frames, -1, -1, -1).to(torch.uint8))

    with torch.inference_mode():
        expected, inflated = still(source), still(target)
    torch.testing.assert_close(inflated, expected, atol=2e-4 * float(expected.std()), rtol=0)


def test_the_new_frames_are_seen(tmp_path, frames) -> None:
    source, target = with_delta(0), with_delta(2)
    save_checkpoint(tmp_path / "small.pth", source, trained=True)
    load_weights(target, tmp_path / "small.pth")
    clip = frames[:1, None].expand(-1, 5, -1, -1, -1).to(torch.uint8).clone()
    with torch.inference_mode():
        still = target(clip)
        clip[:, 0] = 0
        assert (target(clip) - still).abs().max() > 1e-3 * still.std()


@pytest.mark.parametrize(
    ("small", "large", "said"),
    [
        ({"delta": 2}, {"delta": 1}, "expected kind 'sdtc' and the same delta, or a smaller one"),
        ({"delta": 0}, {"delta": 2, "width": 32}, "of another shape"),
        (
            {"delta": 0, "kind": "vitpose"},
            {"delta": 2},
            "of kind 'vitpose' and delta 0 for one of kind 'sdtc' and delta 2",
        ),
        ({"delta": 0, "fusion": "add"}, {"delta": 2}, "missing"),
    ],
)
def test_networks_that_do_not_fit_are_refused(tmp_path, small, large, said) -> None:
    save_checkpoint(tmp_path / "small.pth", build(dataclasses.replace(TINY, **small)), trained=True)
    with pytest.raises(CheckpointError, match=said):
        load_weights(build(dataclasses.replace(TINY, **large)), tmp_path / "small.pth")


def test_foreign_files_are_refused(tmp_path) -> None:
    torch.save({"backbone.pos_embed": torch.zeros(1)}, tmp_path / "foreign.pth")
    with pytest.raises(CheckpointError, match="not an sdtc checkpoint"):
        load_weights(build(TINY), tmp_path / "foreign.pth")
