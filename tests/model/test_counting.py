from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from sdtc.model import MaskedSDTC, build, get_preset, save_checkpoint
from sdtc.model.counting import count_network
from sdtc.model.info import main


def test_base_has_the_papers_numbers_within_3_percent() -> None:
    """Table 10 as paper.md counts it: 10.6 M trainable, 9.8 M at inference, 181.8 GFLOPs, 172.5 without products."""
    counted = count_network(get_preset("base")).to_dict()
    assert counted["parameters"]["trainable"] == pytest.approx(10.6e6, rel=0.03)
    assert counted["parameters"]["trainable_inference"] == pytest.approx(9.8e6, rel=0.03)
    assert counted["gflops"] == pytest.approx(181.8, rel=0.03)
    assert counted["gflops_without_attention_products"] == pytest.approx(172.5, rel=0.03)
    assert counted["gmacs"] == counted["gflops"] / 2


def test_parameters_are_those_of_the_real_network() -> None:
    network = build(get_preset("tiny"))
    wrapper = MaskedSDTC(network)
    counted = count_network(get_preset("tiny")).to_dict()["parameters"]
    assert counted["trainable_inference"] == sum(p.numel() for p in network.parameters() if p.requires_grad)
    assert counted["total"] == sum(p.numel() for p in wrapper.parameters())


def test_operations_grow_with_the_window() -> None:
    tiny = get_preset("tiny")
    longer = dataclasses.replace(tiny, delta=3)
    ratio = (
        count_network(longer).to_dict()["parts"]["backbone"]["gflops"]
        / count_network(tiny).to_dict()["parts"]["backbone"]["gflops"]
    )
    assert ratio == pytest.approx(7 / 5)


def test_a_linear_layer_counts_two_per_multiply_accumulate() -> None:
    counted = count_network(get_preset("base")).to_dict()["parts"]["projection"]
    assert counted["gflops"] == pytest.approx(2 * 5 * 192 * 768 * 256 / 1e9)
    assert counted["parameters"] == 768 * 256 + 256


@pytest.mark.parametrize("change", [{"motion": "optical_flow"}, {"kind": "vitpose", "delta": 0}], ids=str)
def test_networks_without_masked_training_are_counted_too(change) -> None:
    config = dataclasses.replace(get_preset("tiny"), **change)
    counted = count_network(config).to_dict()["parameters"]
    assert counted["total"] == sum(p.numel() for p in build(config).parameters())


def test_readings_cost_the_same_but_for_what_is_joined() -> None:
    base = get_preset("base")
    parts = count_network(base).to_dict()["parts"]
    added, products = parts["fusion.refine_r"], parts["fusion, products of maps"]
    for axis in ("pixels", "channels"):
        change = {"context_softmax": axis, "refinement": "replace"}
        changed = count_network(dataclasses.replace(base, **change)).to_dict()["parts"]
        assert changed["fusion.refine_r"] == added
        assert changed["fusion, products of maps"] == products
    assert added["gflops"] == pytest.approx(2 * 192 * 256 * 256 / 1e9)
    # For two maps: contexts of C x C from N pixels, the pixels' weights, what they gather; scores and values of SMCA.
    assert products["gflops"] == pytest.approx(2 * (2 * 192 * 256 * 256 * 3 + 2 * 192 * 192 * 256 * 2) / 1e9)
    assert products["parameters"] == 0
    # Queries, keys, values, and the convolution of φ.
    assert parts["fusion.smca_r"]["gflops"] == pytest.approx(2 * 192 * 256 * 256 * 4 / 1e9)
    joined = count_network(dataclasses.replace(base, refinement="concatenate")).to_dict()["parts"]["fusion.refine_r"]
    assert joined["gflops"] - added["gflops"] == pytest.approx(2 * 192 * 256 * 256 / 1e9)
    assert joined["parameters"] - added["parameters"] == 256 * 256


def test_info_tells_the_reading(capsys, tmp_path) -> None:
    assert main(["base"]) == 0
    assert "SMML: softmax over pixels (Eq. 6 as in OCR), contexts are added to the map" in capsys.readouterr().out
    config = dataclasses.replace(get_preset("tiny"), context_softmax="channels", refinement="replace")
    save_checkpoint(tmp_path / "literal.pth", build(config), trained=False)
    assert main([str(tmp_path / "literal.pth")]) == 0
    said = "SMML: softmax over channels (Eq. 6 as written), contexts replace the map (Eq. 8 as written)\n"
    assert said in capsys.readouterr().out
    assert main(["base", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["reading"] == {"context_softmax": "pixels", "refinement": "add"}
    save_checkpoint(tmp_path / "add.pth", build(dataclasses.replace(config, fusion="add")), trained=False)
    assert main([str(tmp_path / "add.pth")]) == 0
    assert "SMML" not in capsys.readouterr().out


def test_info_prints_a_table_and_json(capsys, tiny_checkpoint) -> None:
    assert main(["base"]) == 0
    text = capsys.readouterr().out
    assert "181.8 GFLOPs" in text
    assert "fusion.smca_r" in text
    assert main(["tiny"]) == 0
    total = sum(parameter.numel() for parameter in build(get_preset("tiny")).parameters())
    (row,) = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("inference")]
    assert row[1:3] == [f"{total:,}"] * 2  # all of it trainable
    assert main([str(tiny_checkpoint), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert {"parameters", "gmacs", "gflops", "gflops_without_attention_products"} <= set(data)
    assert set(data["parameters"]) == {"total", "trainable", "trainable_inference"}
    assert main(["enormous"]) == 2
    assert "expected one of tiny, small, base, large" in capsys.readouterr().err


def test_counting_leaves_no_trace_on_the_default_device() -> None:
    count_network(get_preset("tiny"))
    assert torch.empty(1).device.type == "cpu"
