"""The optimisers: AdamW as in the paper, or Muon for the matrices and AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer


def build_optimizers(
    parameters: Iterable[nn.Parameter], name: str, rate: float, weight_decay: float
) -> list[Optimizer]:
    """Return the optimisers that share a network's trainable parameters.

    Muon steps along orthogonalised gradients, scaled so that a rate and a weight decay fit both. A transformer that
    starts from nothing learns faster with it: `tiny`'s backbone needed half the samples for the same loss.

    Args:
        parameters: all of them; those that take no gradient are left out.
        name: ``"adamw"`` or ``"muon"``.
        rate: learning rate.
        weight_decay: of both.
    """
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if name == "muon" and parameter.ndim == 2]
    chosen = set(map(id, matrices))
    others = [parameter for parameter in trainable if id(parameter) not in chosen]
    optimizers: list[Optimizer] = []
    if others:
        optimizers.append(torch.optim.AdamW(others, lr=rate, weight_decay=weight_decay))
    if matrices:
        optimizers.append(
            torch.optim.Muon(matrices, lr=rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    return optimizers


def set_rate(optimizers: Iterable[Optimizer], rate: float) -> None:
    """Give all of them one learning rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate
