"""The losses of masked training (Eq. 14-16)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sdtc.model.config import ReconstructionConfig
from sdtc.model.reconstruction import MaskedOutput


@dataclass(frozen=True)
class Losses:
    """The losses of one batch, scalars; training minimises `total` (Eq. 16).

    Each is a mean over a number of elements that depends only on the configuration, so that the average gradient of two
    processes with half a batch each equals that of one process with the whole batch.
    """

    total: Tensor
    heatmaps: Tensor  # L_H, Eq. 14
    contexts: Tensor  # the first term of L_Rec, Eq. 15, without λ
    heatmap_sequence: Tensor  # the second term


def masked_losses(
    output: MaskedOutput,
    heatmaps: Tensor,
    weights: Tensor,
    tube_mask: Tensor | None,
    frame_mask: Tensor | None,
    config: ReconstructionConfig,
) -> Losses:
    """Compute the losses of one batch.

    Args:
        output: of `MaskedSDTC`.
        heatmaps: targets ``[B, T, J, h, w]``.
        weights: ``[B, T, J]``, 0 for unlabelled joints.
        tube_mask: ``[B, L]``, True where masked, as passed to the network; None without masked training.
        frame_mask: ``[B, T]``, as above; None also for networks without a frame level.
        config: for λ, its `context_weight`.
    """
    middle = heatmaps.shape[1] // 2
    L_H = heatmap_loss(output.heatmaps, heatmaps[:, middle], weights[:, middle])
    zero = L_H.new_zeros(())
    if tube_mask is None or output.contexts is None:
        return Losses(L_H, L_H.detach(), zero, zero)
    assert output.context_targets is not None
    assert output.heatmap_sequence is not None
    contexts = context_loss(output.contexts, output.context_targets, tube_mask, frame_mask)
    sequence = heatmap_loss(output.heatmap_sequence, heatmaps, weights)
    L_Rec = config.context_weight * contexts + sequence  # Eq. 15
    return Losses(L_H + L_Rec, L_H.detach(), contexts.detach(), sequence.detach())  # Eq. 16


def heatmap_loss(predicted: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Return the mean squared error of heatmaps ``[..., J, h, w]``, with weight 0 for unlabelled joints (Eq. 14)."""
    return ((predicted.float() - target).square() * weights[..., None, None]).mean()


def context_loss(predicted: Tensor, target: Tensor, tube_mask: Tensor, frame_mask: Tensor | None) -> Tensor:
    """Return the mean absolute error over the tokens that both masks cover (Eq. 15: M̂_c · M̂_f).

    Without a frame mask, the mean is over the masked tubes in all frames. The target gets no gradient.

    Args:
        predicted, target: ``[B, T, L, C]``.
        tube_mask: ``[B, L]``. frame_mask: ``[B, T]``.
    """
    hidden = tube_mask[:, None, :].expand(predicted.shape[:3])  # [B, T, L]
    if frame_mask is not None:
        hidden = hidden & frame_mask[:, :, None]
    if not hidden.any():
        return predicted.sum() * 0.0  # keeps every parameter in the graph, as data-parallel training requires
    return (predicted.float() - target.detach().float()).abs()[hidden].mean()
