"""A session that runs a PyTorch network, with the inputs and outputs of an engine but without an export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from sdtc.core.errors import EngineError
from sdtc.model.decoding import decode_heatmaps
from sdtc.model.network import PoseNetwork
from sdtc.runtime.backends.session import TensorSpec, check_inputs

BATCH = 8  # windows


class TorchSession:
    """The whole-window graph of a network, computed by PyTorch; see `sdtc.runtime.backends.choice.Session`.

    Args:
        network: in evaluation mode; it is moved to the device.
        device: ``"cpu"`` or ``"cuda"``.
    """

    def __init__(self, network: PoseNetwork, device: str = "cpu") -> None:
        config = network.config
        self._network, self._device = network.to(device), device
        where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        self.backend = f"torch {torch.__version__} ({where})"
        byte, real = np.dtype(np.uint8), np.dtype(np.float32)
        self.inputs = {"clip": TensorSpec((None, config.num_frames, *config.input_size, 3), byte)}
        self.outputs = {
            "keypoints": TensorSpec((None, config.num_keypoints, 3), real),
            "heatmaps": TensorSpec((None, config.num_keypoints, *config.heatmap_size), real),
        }

    def run(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        check_inputs(self.inputs, inputs)
        with torch.inference_mode():
            clip = torch.from_numpy(np.ascontiguousarray(inputs["clip"])).to(self._device)
            heatmaps = self._network(clip).float()
            keypoints = decode_heatmaps(heatmaps, self._network.config.input_size)
        found = {"keypoints": keypoints, "heatmaps": heatmaps}
        return {name: found[name].cpu().numpy() for name in (found if outputs is None else outputs)}

    def close(self) -> None:
        pass

    def __enter__(self) -> TorchSession:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def choose_device(device: str) -> str:
    """Return ``"cpu"`` or ``"cuda"`` for ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises:
        EngineError: CUDA was asked for, and PyTorch has none here.
    """
    if device == "cpu" or torch.cuda.is_available():
        return "cpu" if device == "cpu" else "cuda"
    if device == "cuda":
        raise EngineError("this PyTorch has no usable CUDA: use `device='cpu'`")
    return "cpu"
