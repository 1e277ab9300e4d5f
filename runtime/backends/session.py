"""The interface of every backend: a session runs one graph of a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from sdtc.core.errors import EngineError
from sdtc.core.manifest import Manifest

CLOSED = "the engine is closed: open it again"


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor: its shape, with None for the batch axis, and its type."""

    shape: tuple[int | None, ...]
    dtype: np.dtype


class Session(Protocol):
    """Runs one graph; any number of threads may call `run`.

    Attributes:
        backend: name, version and device of the backend, for display: ``"onnxruntime 1.23 (CPU, 2 threads)"``.
        inputs, outputs: the graph's tensors by name.
    """

    backend: str
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]

    def run(self, inputs: Mapping[str, Any], outputs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run once.

        Args:
            inputs: an array for every input, of its shape and type; on a GPU, arrays with
                ``__cuda_array_interface__`` are read in place.
            outputs: names of those to return, e.g. to leave large heatmaps on a GPU; default: all.

        Returns:
            The outputs by name, as new arrays.

        Raises:
            EngineError: the backend failed, an input does not fit, or the session is closed.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Session: ...

    def __exit__(self, *exc_info: object) -> None: ...


def check_graph(manifest: Manifest, graph: str, session: Session) -> None:
    """Compare a graph's tensors with the manifest, which everything that feeds it relies on.

    Raises:
        EngineError: they differ.
    """
    frame, T, tokens = (*manifest.input_size, 3), manifest.num_frames, manifest.token_shape
    clip, poses = (T, *frame), (len(manifest.keypoints), 3)
    shapes: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]] = {
        "model": ({"clip": clip}, {"keypoints": poses}),
        "encoder": ({"frames": frame}, {"tokens": tokens}),
        "temporal": ({"tokens": (T, *tokens)}, {"keypoints": poses}),
    }
    inputs, outputs = shapes[graph]
    known = {**session.outputs, **session.inputs}
    fits = set(session.inputs) == set(inputs) and set(outputs) <= set(session.outputs)
    fits = fits and all(_matches(known[name], shape) for name, shape in (inputs | outputs).items())
    if not fits:
        raise EngineError(f"the graph '{graph}' is not what the manifest says: export the checkpoint again")


def _matches(spec: TensorSpec, shape: tuple[int, ...]) -> bool:
    """Whether a tensor has a free batch axis before this shape; pictures are uint8, all else is float32."""
    dtype = np.uint8 if shape[-1] == 3 and len(shape) > 2 else np.float32
    if spec.dtype != dtype or len(spec.shape) != 1 + len(shape) or spec.shape[0] is not None:
        return False
    return all(side in (None, want) for side, want in zip(spec.shape[1:], shape, strict=True))


def check_inputs(specs: Mapping[str, TensorSpec], inputs: Mapping[str, Any]) -> None:
    """Compare names, shapes and types of host inputs with what a graph takes.

    Raises:
        EngineError: they differ; the message names both.
    """
    if set(inputs) != set(specs):
        raise EngineError(f"inputs are {sorted(inputs)}: the graph takes {sorted(specs)}")
    for name, spec in specs.items():
        value = inputs[name]
        shape = tuple(value.shape)
        fits = len(shape) == len(spec.shape) and all(
            want is None or have == want for have, want in zip(shape, spec.shape, strict=True)
        )
        if not fits or np.dtype(value.dtype) != spec.dtype:
            want = ", ".join("batch" if side is None else str(side) for side in spec.shape)
            raise EngineError(f"input '{name}' is {value.dtype} {list(shape)}: expected {spec.dtype} [{want}]")
