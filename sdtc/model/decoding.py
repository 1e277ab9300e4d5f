"""The decode rule of `sdtc.core.heatmaps` on tensors, also in the exported graph: an operator of `sdtc.kernels`."""

from sdtc.kernels import decode_heatmaps

__all__ = ["decode_heatmaps"]
