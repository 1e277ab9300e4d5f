"""The operators that SDTC spends its own time in: divided space-time attention and the SMML softmax contexts.

Each module holds one operator: the mathematics, a plain reference, the path that PyTorch runs, and the ONNX node
that stands for it in an exported graph (domain ``sdtc``; its body is written in `sdtc.export.functions`).
"""

from sdtc.core.errors import require

require("torch", "export", "sdtc.kernels")

from sdtc.kernels.operators.cross_attention.reference import cross_attention  # noqa: E402
from sdtc.kernels.operators.self_refinement.reference import self_refinement  # noqa: E402
from sdtc.kernels.operators.temporal_attention.reference import spatial_attention, temporal_attention  # noqa: E402

__all__ = ["cross_attention", "self_refinement", "spatial_attention", "temporal_attention"]
