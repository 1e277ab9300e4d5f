"""Counts the parameters and operations of a network, by running it and not by a formula.

The network runs on torch's ``meta`` device under torch's own FLOP counter, so counting is fast, takes no memory and
covers exactly the operators that are called.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
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
    root = type(module).__name__
    counts = {name.removeprefix(f"{root}."): Counter(found) for name, found in counter.get_flop_counts().items()}
    parts = [_part(name, each.parameters(), _operations(counts, name, each)) for name, each in _modules(module)]
    parts = [part for part in parts if part.parameters]
    # The fusion runs its operators on two maps at once, whose refinements and attentions are parts.
    fused = counts.get("fusion", Counter())
    for name, each in _modules(module):
        if name.startswith("fusion."):
            fused = fused - _operations(counts, name, each)
    if fused:
        parts.append(_part("fusion, products of maps", [], fused))
    parts += [_part(name, [parameter], Counter()) for name, parameter in module.named_parameters(recurse=False)]
    # Every operation must belong to one of the parts.
    total = counts["Global"].total()
    if sum(part.flops for part in parts) != total:
        raise AssertionError(f"parts add up to {sum(part.flops for part in parts)} operations, the counter saw {total}")
    return tuple(parts)


def _part(name: str, parameters: Iterable[nn.Parameter], operations: Counter[Any]) -> PartCount:
    parameters, flops = list(parameters), operations.total()
    products = sum(count for operator, count in operations.items() if operator in _ATTENTION_PRODUCTS)
    return PartCount(
        name=name,
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        flops=flops,
        flops_without_attention_products=flops - products,
    )


def _modules(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that are parts, with their names."""
    for name, child in module.named_children():
        if name in ("motion", "fusion"):
            yield from ((f"{name}.{inner}", each) for inner, each in child.named_children())
        else:
            yield name, child


def _operations(counts: dict[str, Counter[Any]], name: str, module: nn.Module) -> Counter[Any]:
    """Return the operations of a module by operator, also where another one calls the modules inside it."""
    inside: Counter[Any] = Counter()
    for inner, each in module.named_modules(prefix=name):
        if not any(each.children()):
            inside += counts.get(inner, Counter())
    return max(counts.get(name, Counter()), inside, key=Counter.total)
