"""An operator in an exported graph: one node of domain ``sdtc``, run as its function body or as a plugin."""

from __future__ import annotations

from collections.abc import Sequence

import torch

DOMAIN = "sdtc"
DOMAIN_VERSION = 1
# These attributes make full TensorRT's parser look for a registered plugin that is compiled ahead of time
# (`sdtc.kernels.plugins`) and use it in place of the function's body. Other backends ignore them.
_PLUGIN: dict[str, str | int] = {"plugin_namespace": DOMAIN, "plugin_version": "1", "aot": 1}


def exporting() -> bool:
    """Whether `torch.onnx.export` is tracing right now."""
    return torch.onnx.is_in_onnx_export()


def onnx_node(
    name: str, inputs: Sequence[torch.Tensor], shape: Sequence[int | torch.SymInt], **attrs: float
) -> torch.Tensor:
    """Emit node ``sdtc::name`` while exporting.

    Args:
        name: of the operator; `sdtc.export.functions` must have a function of the same name.
        inputs: tensors; the output has the dtype of the first.
        shape: of the output.
        attrs: attributes of the node.

    Returns:
        The output, as `torch.onnx.export` traces it.
    """
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{name}",
        list(inputs),
        {**attrs, **_PLUGIN},
        dtype=inputs[0].dtype,
        shape=list(shape),
        version=DOMAIN_VERSION,
    )
