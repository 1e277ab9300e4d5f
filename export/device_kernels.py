"""Compile the kernels that the runtime launches itself into a bundle's `model.kernels.json`.

The plugins inside full TensorRT's engines are not these: see `sdtc.kernels.plugins`.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from sdtc.core.errors import SdtcError
from sdtc.core.kernel_file import SIGNATURES, KernelCode, KernelFile, crops_are_aligned


def write_kernels(
    path: Path,
    input_size: tuple[int, int],
    token_shape: tuple[int, int],
    token_grid: tuple[int, int],
    compute_capabilities: Sequence[str],
) -> str:
    """Compile the kernels that the runtime launches, and write the file if any GPU is supported.

    Args:
        path: of the file.
        input_size: (H, W) of a crop.
        token_shape: (L, C) of a frame's tokens.
        token_grid: (h, w) of the L = h·w tokens.
        compute_capabilities: of the GPUs, e.g. ``("8.6", "8.9")``; those that the kernels do not support are left out.

    Returns:
        A note for the user: for which GPUs kernels were compiled, and why not for the others.
    """
    if find_spec("triton") is None:
        return "left out, crops are cut on the CPU: Triton is not installed (extra kernels)"
    if not crops_are_aligned(input_size):
        return f"left out, crops are cut on the CPU: rows of {input_size[1]} pixels do not suit the kernels"
    kernels: dict[str, dict[str, KernelCode]] = {}
    refused: dict[str, list[str]] = {}
    for capability in compute_capabilities:
        try:
            kernels[capability] = _compile(input_size, token_shape, token_grid, int(capability.replace(".", "")))
        except SdtcError as error:  # the bundle works without kernels
            refused.setdefault(str(error), []).append(capability)
    if kernels:
        KernelFile(input_size, token_shape, kernels).save(path)
    done = [f"for {', '.join(kernels)}"] if kernels else []
    return "; ".join([*done, *(f"not for {', '.join(those)}: {reason}" for reason, those in refused.items())])


def _compile(
    input_size: tuple[int, int], token_shape: tuple[int, int], token_grid: tuple[int, int], capability: int
) -> dict[str, KernelCode]:
    from sdtc.kernels import aot
    from sdtc.kernels.operators.crop_frame import launch as crop_frame
    from sdtc.kernels.operators.gather_tokens import launch as gather_tokens

    C = token_shape[1]
    launches = {
        "crop_frame": crop_frame.configure(input_size),
        "gather_tokens": gather_tokens.configure(token_grid, C, "fp32", "gather"),
        "scatter_tokens": gather_tokens.configure(token_grid, C, "fp32", "scatter"),
    }
    architecture = aot.architecture_for(capability)
    found = {}
    for name, launch in launches.items():
        compiled = aot.compile_kernel(launch, architecture)
        arguments = (*launch.inputs, *launch.scalars, *launch.outputs)
        assert arguments == SIGNATURES[name]
        # A cubin loads at once, but only on its own architecture and by drivers that know its file format; PTX also on
        # relatives (8.6 on 8.7), and by older drivers.
        cubin = base64.b64encode(compiled.cubin).decode() if architecture == capability else ""
        found[name] = KernelCode(
            compiled.name, architecture, arguments, aot.HIDDEN_PARAMETERS, launch.blocks(1), compiled.num_warps,
            compiled.shared, compiled.ptx, cubin,
        )  # fmt: skip
    return found
