"""The custom operators of SDTC: divided space-time attention, the softmax contexts of SMML, crops and decoding.

In: tensors of the network, or a frame and crop matrices. Out: tensors; kernels compiled ahead of time; TensorRT
plugins.

- `operators`: one folder an operator, with its definition (`__init__`), its plain reference (`reference`), its Triton
  kernel (`triton_kernel`) and the launch of that kernel for given shapes (`launch`). `operators.cross_attention` is
  Eq. 9, for example.
- `common`: what all operators share.
- `aot`: compiles kernels without a GPU. `plugins`: puts them into TensorRT engines. `report`: what the compiler says of
  them (`python -m sdtc.kernels.report`).

The functions below are what the network calls. They run without Triton: on CUDA tensors they use the Triton kernel
where one fits, elsewhere plain PyTorch, and in an exported graph they become one ONNX node (its body is in
`sdtc.export.functions`). Two are exceptions: only training calls `resample_tokens`, as the runtime resamples between
its two graphs, and `scaled_dot_product` is PyTorch's own attention, for the backbone.
"""

from sdtc.core.errors import require

require("torch", "export", "sdtc.kernels")

from sdtc.kernels.common.attention import scaled_dot_product  # noqa: E402
from sdtc.kernels.operators.cross_attention import cross_attention  # noqa: E402
from sdtc.kernels.operators.decode_heatmaps import decode_heatmaps  # noqa: E402
from sdtc.kernels.operators.gather_tokens.reference import resample_tokens  # noqa: E402
from sdtc.kernels.operators.self_refinement import CONTEXT_AXES, self_refinement  # noqa: E402
from sdtc.kernels.operators.spatial_attention import spatial_attention  # noqa: E402
from sdtc.kernels.operators.temporal_attention import temporal_attention  # noqa: E402

__all__ = [
    "CONTEXT_AXES",
    "cross_attention",
    "decode_heatmaps",
    "resample_tokens",
    "scaled_dot_product",
    "self_refinement",
    "spatial_attention",
    "temporal_attention",
]
