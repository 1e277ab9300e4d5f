"""Counts the parameters and operations of a network, by running it and not by a formula.

The network runs on torch's ``meta`` device under torch's own FLOP counter, so counting is fast, takes no memory and
covers exactly the operators that are called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from sdtc.model.builder import build
from sdtc.model.config import ModelConfig
from sdtc.model.reconstruction import MaskedSDTC

# Batched matrix products of two activations; all other counted operators multiply activations by weights.
_ATTENTION_PRODUCTS = {torch.ops.aten.bmm, torch.ops.aten.baddbmm}


@dataclass(frozen=True)
class PartCount:
    """One part of a network: parameters, and operations for one window of T frames (2 per multiply-accumulate)."""

    name: str
    parameters: int
    trainable: int
    flops: int
    flops_without_attention_products: int


@dataclass(frozen=True)
class NetworkCount:
    """The counts of a network by parts; `training` holds the parts that only masked training has."""

    config: ModelConfig
    inference: tuple[PartCount, ...]
    training: tuple[PartCount, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as `sdtc-info` prints them in JSON; GMACs and GFLOPs are those of inference."""
        flops = sum(part.flops for part in self.inference)
        trainable_inference = sum(part.trainable for part in self.inference)
        return {
            "name": self.config.name,
            "reading": self.config.reading,
            "parameters": {
                "total": sum(part.parameters for part in self.inference + self.training),
                "trainable": trainable_inference + sum(part.trainable for part in self.training),
                "trainable_inference": trainable_inference,
            },
            "gmacs": flops / 2e9,
            "gflops": flops / 1e9,
            "gflops_without_attention_products": sum(p.flops_without_attention_products for p in self.inference) / 1e9,
            "parts": {
                part.name: {
                    "parameters": part.parameters,
                    "trainable": part.trainable,
                    "gflops": part.flops / 1e9,
                    "training_only": part in self.training,
                }
                for part in self.inference + self.training
            },
        }


def count_network(config: ModelConfig) -> NetworkCount:
    """Count parameters and operations of a configuration's network for one window, part by part."""
    with torch.device("meta"):
        network = build(config).eval()
        reconstruction = MaskedSDTC(network).reconstruction
        clip = torch.empty(1, config.num_frames, *config.input_size, 3)
        with torch.no_grad():
            inference = _count(network, clip)
            training: tuple[PartCount, ...] = ()
            if reconstruction is not None:
                training = _count(reconstruction, torch.empty(1, config.num_frames, *config.token_shape))
    return NetworkCount(config, inference, training)


def _count(module: nn.Module, example: torch.Tensor) -> tuple[PartCount, ...]:
    with FlopCounterMode(display=False) as counter:
        module(example)
    counts = counter.get_flop_counts()
    root = type(module).__name__
    parts = []
    for name, parameters in _parts(module):
        by_operator = counts.get(f"{root}.{name}", {})
        flops = sum(by_operator.values())
        products = sum(count for operator, count in by_operator.items() if operator in _ATTENTION_PRODUCTS)
        parts.append(
            PartCount(
                name=name,
                parameters=sum(p.numel() for p in parameters),
                trainable=sum(p.numel() for p in parameters if p.requires_grad),
                flops=flops,
                flops_without_attention_products=flops - products,
            )
        )
    # Every operation must belong to one of the parts.
    total = sum(counts["Global"].values())
    if sum(part.flops for part in parts) != total:
        raise AssertionError(f"parts add up to {sum(part.flops for part in parts)} operations, the counter saw {total}")
    return tuple(parts)


def _parts(module: nn.Module) -> list[tuple[str, list[nn.Parameter]]]:
    parts: list[tuple[str, list[nn.Parameter]]] = []
    for name, child in module.named_children():
        if name in ("motion", "fusion"):
            parts += [(f"{name}.{inner}", list(m.parameters())) for inner, m in child.named_children()]
        else:
            parts.append((name, list(child.parameters())))
    own = [(name, [parameter]) for name, parameter in module.named_parameters(recurse=False)]
    return [part for part in parts if part[1]] + own
