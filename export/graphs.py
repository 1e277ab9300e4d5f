"""The three ONNX graphs of a bundle, from uint8 frames to keypoints.

Normalisation and decoding are part of the graphs, so that no runtime has to repeat them.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from onnx import ModelProto
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from sdtc.core.errors import ExportError
from sdtc.export.functions import OPSET, add_functions
from sdtc.model.config import ModelConfig
from sdtc.model.decoding import decode_heatmaps
from sdtc.model.head import ClassicHead
from sdtc.model.layers import cast_network
from sdtc.model.network import PoseNetwork

MAX_WEIGHT_BYTES = 2_000_000_000  # protobuf's limit of 2 GiB, minus what is not weights
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class WholeWindow(nn.Module):
    """`model`: clip uint8 ``[B, T, H, W, 3]`` to keypoints ``[B, J, 3]`` and heatmaps ``[B, J, h, w]``."""

    def __init__(self, network: PoseNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        heatmaps = self.network(clip).float()
        return decode_heatmaps(heatmaps, self.network.config.input_size), heatmaps


class Encoder(nn.Module):
    """`model.encoder`: frames uint8 ``[N, H, W, 3]`` to tokens float32 ``[N, L, C]``.

    Tokens between the graphs are fp32 at every precision: NumPy has no bf16, and one type keeps every cache simple.
    """

    def __init__(self, network: PoseNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, frames: Tensor) -> Tensor:
        return self.network.encode(frames).float()


class Temporal(nn.Module):
    """`model.temporal`: tokens float32 ``[B, T, L, C]`` to keypoints ``[B, J, 3]`` and heatmaps ``[B, J, h, w]``."""

    def __init__(self, network: PoseNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        heatmaps = self.network.temporal(tokens.to(self.network.backbone.pos_embed.dtype)).float()
        return decode_heatmaps(heatmaps, self.network.config.input_size), heatmaps


@dataclass(frozen=True)
class GraphSpec:
    """How one graph is traced and named.

    Attributes:
        module: what to trace.
        input: name of its one input; its first axis is dynamic.
        outputs: names of its outputs.
        shape: the input's shape without the batch axis.
        frames_per_item: input rows per window, 1 or T: the factor from a number of windows to the graph's batch size.
    """

    module: type[nn.Module]
    input: str
    outputs: tuple[str, ...]
    shape: tuple[int, ...]
    frames_per_item: int


def graph_specs(config: ModelConfig) -> dict[str, GraphSpec]:
    """Return the graphs of a configuration, by the names that the manifest uses."""
    frame, T = (*config.input_size, 3), config.num_frames
    poses = ("keypoints", "heatmaps")
    return {
        "model": GraphSpec(WholeWindow, "clip", poses, (T, *frame), 1),
        "encoder": GraphSpec(Encoder, "frames", ("tokens",), frame, T),
        "temporal": GraphSpec(Temporal, "tokens", poses, (T, *config.token_shape), 1),
    }


def prepare(network: PoseNetwork, precision: str) -> PoseNetwork:
    """Return a copy ready for export: batch norms folded into their convolutions, weights cast to a precision.

    Folding comes before casting, so that it happens in fp32. LayerNorms stay in fp32.
    """
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential) and len(module) == 3 and isinstance(module[1], nn.BatchNorm2d):  # φ
            _fold(module, "0", "1")
        elif isinstance(module, ClassicHead):
            _fold(module, "deconv1", "norm1")
            _fold(module, "deconv2", "norm2")
    cast_network(network, DTYPES[precision])
    return network


def check_size(network: nn.Module) -> None:
    """Check that the graph of a network fits into one file.

    Raises:
        ExportError: its weights take more than 2 GB, the limit of an ONNX file.
    """
    size = sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())
    if size > MAX_WEIGHT_BYTES:
        raise ExportError(
            f"the weights take {size / 1e9:.1f} GB, an ONNX file holds 2 GB: export with `precision='fp16'` or bf16"
        )


def _fold(module: nn.Module, conv: str, norm: str) -> None:
    """Fold a batch norm into the convolution before it, in place."""
    convolution, batch_norm = module.get_submodule(conv), module.get_submodule(norm)
    assert isinstance(convolution, nn.Conv2d | nn.ConvTranspose2d)
    assert isinstance(batch_norm, nn.BatchNorm2d)
    transposed = isinstance(convolution, nn.ConvTranspose2d)
    module.set_submodule(conv, fuse_conv_bn_eval(convolution, batch_norm, transpose=transposed))
    module.set_submodule(norm, nn.Identity())


def export_graph(network: PoseNetwork, spec: GraphSpec) -> ModelProto:
    """Trace one graph of a network into ONNX, with the bodies of its custom operators.

    Raises:
        ExportError: the exporter failed.
    """
    check_size(network)
    module = spec.module(network).eval()
    # Batch 2: at 1 the exporter takes the batch axis for a constant.
    example = torch.zeros(2, *spec.shape, dtype=torch.float32 if spec.input == "tokens" else torch.uint8)
    try:
        with torch.no_grad(), _quiet():
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[spec.input],
                output_names=list(spec.outputs),
                dynamic_shapes={spec.input: {0: torch.export.Dim("batch")}},
                verbose=False,
            )
        assert program is not None
        model = program.model_proto
        model.producer_name = "sdtc"
        for node in model.graph.node:  # removes stack traces, which contain paths of this machine
            del node.metadata_props[:]
        del model.metadata_props[:]
        del model.graph.metadata_props[:]
        return add_functions(model)
    except Exception as error:
        raise ExportError(f"the ONNX export of graph '{spec.input}' failed: {error}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's progress output and warnings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
