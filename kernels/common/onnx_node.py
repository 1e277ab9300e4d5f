"""How an operator appears in an exported graph: one node of domain ``sdtc``, run by its function body or a plugin."""

from __future__ import annotations

from collections.abc import Sequence

import torch

DOMAIN = "sdtc"
DOMAIN_VERSION = 1
# By these, full TensorRT's parser finds a registered plugin (`sdtc.kernels.plugins`), compiled ahead of time, and takes
# it in place of the function's body. Everybody else ignores them.
_PLUGIN: dict[str, str | int] = {"plugin_namespace": DOMAIN, "plugin_version": "1", "aot": 1}


def exporting() -> bool:
    """Whether `torch.onnx.export` is tracing right now."""
    return torch.onnx.is_in_onnx_export()


def onnx_node(
    name: str, inputs: Sequence[torch.Tensor], shape: Sequence[int | torch.SymInt], **attrs: float
) -> torch.Tensor:
    """Emit node ``sdtc::name`` while exporting.

    Args:
        name: operator name; a function of the same name must be in `sdtc.export.functions`.
        inputs: its tensors; the output has the dtype of the first.
        shape: shape of the output.
        attrs: node attributes.
    """
    return torch.onnx.ops.symbolic(
        f"{DOMAIN}::{name}",
        list(inputs),
        {**attrs, **_PLUGIN},
        dtype=inputs[0].dtype,
        shape=list(shape),
        version=DOMAIN_VERSION,
    )
