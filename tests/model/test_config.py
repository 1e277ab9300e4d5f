from __future__ import annotations

import dataclasses

import pytest

from sdtc.core.errors import ConfigError
from sdtc.model.config import PRESETS, ModelConfig, get_preset


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_a_round_trip(name) -> None:
    assert ModelConfig.from_dict(get_preset(name).to_dict()) == get_preset(name)


def test_unknown_preset_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="tiny, small, base, large"):
        get_preset("huge")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"detla": 3}, "unknown key 'detla' in model: did you mean 'delta'"),
        ({"backbone": {"widht": 3}}, "did you mean 'width'"),
        ({"delta": "2"}, "model.delta is '2': expected int"),
        ({"delta": True}, "expected int"),
        ({"delta": 99}, "expected 0 to 7"),
        ({"input_size": [256, 190]}, "multiples of 16"),
        ({"input_size": "256x192"}, "expected a list"),
        ({"input_size": [256]}, "expected 2 values"),
        ({"fusion": "magic"}, "add, conv, smml"),
        (
            {"context_softmax": "pixel"},
            "^model.context_softmax is 'pixel': expected one of pixels, channels$",
        ),
        ({"refinement": "join"}, "^model.refinement is 'join': expected one of add, concatenate, replace$"),
        ({"refinement": True}, "model.refinement is True: expected str"),
        ({"motion_encoder": 3}, "expected str"),
        ({"skeleton": "hand"}, "unknown skeleton 'hand'"),
        ({"backbone": {"width": 10**9}}, "backbone.width"),
        ({"backbone": {"depth": 10**6}}, "backbone.depth"),
        ({"backbone": {"width": 768, "heads": 7}}, "cannot be divided among 7 heads"),
        ({"backbone": 3}, "expected names and values"),
        ({"kind": "vitpose"}, "delta is 0"),
        ({"head": "classic"}, "belongs to ViTPose"),
    ],
    ids=str,
)
def test_bad_configurations_say_what_is_wrong(change, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ModelConfig.from_dict(change)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_read_eq_6_and_8_as_what_learns(name) -> None:
    assert get_preset(name).reading == {"context_softmax": "pixels", "refinement": "add"}
    assert dataclasses.replace(get_preset(name), fusion="conv").reading == {}


def test_shapes_follow_the_input_size() -> None:
    config = dataclasses.replace(get_preset("base"), input_size=(384, 288))
    assert config.grid == (24, 18)
    assert config.heatmap_size == (96, 72)
    assert config.token_shape == (432, 256)
    assert get_preset("base").num_frames == 5
