"""What the two attentions over packed tokens ``[B, T, L, 3, H, D]`` share, without Triton."""

from __future__ import annotations

from torch import Tensor

from sdtc.kernels.common.onnx_node import onnx_node

MIN_D, MAX_D = 16, 128  # numbers of a head that the Triton kernels take
MAX_OFFSET = 2**31 - 1  # values of a window, or of a frame: the kernels' offsets inside it are int32


def empty_result(qkv: Tensor) -> Tensor:
    """Return an uninitialised result ``[B, T, L, H*D]``."""
    B, T, L, _, H, D = qkv.shape
    return qkv.new_empty((B, T, L, H * D))


def attention_node(name: str, qkv: Tensor) -> Tensor:
    """Emit the ONNX node of an attention while exporting."""
    B, T, L, _, H, D = qkv.shape
    return onnx_node(name, [qkv], (B, T, L, H * D), scale=D**-0.5)
