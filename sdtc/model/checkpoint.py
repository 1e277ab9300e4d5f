"""Checkpoints: our own format, and ViTPose files as they are found.

Ours is a dictionary of plain values and tensors, ``{"format", "version", "config", "trained", "state_dict"}``, as a
`torch.save` file or a safetensors file with the same fields in its metadata. Nothing is ever unpickled beyond what
``weights_only=True`` admits.

A name without a suffix, such as ``tiny``, is a checkpoint that comes with the package, unless there is a file
of that name.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sdtc
from sdtc.core.errors import CheckpointError, ConfigError, require
from sdtc.core.files import atomic_write, sha256
from sdtc.core.manifest import Manifest
from sdtc.core.skeleton import get_skeleton
from sdtc.model.builder import build
from sdtc.model.config import ModelConfig
from sdtc.model.inflation import inflate
from sdtc.model.network import MEAN, STD, PoseNetwork
from sdtc.model.vitpose import VitposeWeights, count_keys, is_vitpose, read_vitpose, resize_positions

FORMAT = "sdtc-checkpoint"
VERSION = 1
WEIGHTS = Path(sdtc.__file__).parent / "weights"  # checkpoints that come with the package
_BACKBONE = "backbone."
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # where other projects keep their tensors


@dataclass(frozen=True)
class Checkpoint:
    """A network that came out of a file.

    Attributes:
        network: in evaluation mode, fp32.
        trained: whether the file says that its weights were trained (a ViTPose file's are).
        format: ``"sdtc"`` or the name of a ViTPose format.
        sha256: of the file.
    """

    network: PoseNetwork
    trained: bool
    format: str
    sha256: str

    def describe(self, batch: tuple[int, int, int], precision: str = "fp32", opset: int = 0) -> Manifest:
        """Return what a bundle's manifest says of this checkpoint, as long as nothing was exported: it names no files.

        Args:
            batch: smallest, most common and largest number of windows at once.
            precision: that it runs at.
            opset: of the graphs; 0 where there are none.
        """
        config = self.network.config
        skeleton = get_skeleton(config.skeleton)
        return Manifest(
            name=config.name,
            kind=config.kind,
            model=config.to_dict(),
            num_frames=config.num_frames,
            input_size=config.input_size,
            heatmap_size=config.heatmap_size,
            token_shape=config.token_shape,
            skeleton=config.skeleton,
            keypoints=skeleton.keypoints,
            flip_pairs=skeleton.flip_pairs,
            mean=MEAN,
            std=STD,
            precision=precision,
            opset=opset,
            batch=batch,
            graphs={},
            files={},
            checkpoint_sha256=self.sha256,
            trained=self.trained,
            created_by=f"sdtc {sdtc.__version__}",
        )


def save_checkpoint(path: str | Path, network: PoseNetwork, trained: bool, dtype: torch.dtype | None = None) -> None:
    """Write a network and its configuration, atomically; ``.safetensors`` by name, else `torch.save`.

    Args:
        path: where.
        network: what.
        trained: whether its weights were trained; shown to everyone who uses the file.
        dtype: store floating-point weights as this, e.g. ``torch.float16``; None keeps them.

    Raises:
        OutputError: the file cannot be written; an older file of that name is left as it was.
    """
    path = Path(path)
    data = checkpoint_data(network, trained, dtype)
    if path.suffix != ".safetensors":
        write_checkpoint_data(path, data)
        return
    safetensors = require("safetensors.torch", "export", "a .safetensors checkpoint")
    state = data.pop("state_dict")
    with atomic_write(path) as temporary:
        # Its own writer raises no OSError, and makes a file that nobody else may read.
        temporary.write_bytes(safetensors.save(state, metadata={"sdtc": json.dumps(data)}))


def checkpoint_data(network: PoseNetwork, trained: bool, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Return what a checkpoint file holds; arguments as in :func:`save_checkpoint`."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "config": network.config.to_dict(),
        "trained": trained,
        "state_dict": {key: _stored(value, dtype) for key, value in network.state_dict().items()},
    }


def write_checkpoint_data(path: str | Path, data: dict[str, Any]) -> None:
    """Write plain values and tensors with `torch.save`, atomically.

    Raises:
        OutputError: the file cannot be written; an older file of that name is left as it was.
    """
    with atomic_write(Path(path)) as temporary:
        try:
            with temporary.open("wb") as file:  # given a name, PyTorch's own writer raises no OSError
                torch.save(data, file)
        except RuntimeError as error:  # after a failed write PyTorch closes its archive, and complains of that instead
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__context__
            raise cause or error from None


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint: ours, or a whole ViTPose in any of its formats.

    Raises:
        CheckpointError: unreadable, of another model, or not complete; the keys are named.
    """
    path = find_checkpoint(path)
    header, state = _read(path)
    try:
        if _is_ours(header):
            version = header.get("version")
            if type(version) is not int or version > VERSION:
                raise CheckpointError(
                    f"it has checkpoint version {version}, this sdtc reads up to {VERSION}: update sdtc"
                )
            network = build(ModelConfig.from_dict(header.get("config"))).eval()
            _load_state(network, state)
            return Checkpoint(network, header.get("trained") is True, "sdtc", sha256(path))
        if is_vitpose(state):
            weights = read_vitpose(state)
            network = build(weights.model_config()).eval()
            _load_state(network, weights.state, weights.left_over)
            return Checkpoint(network, True, weights.format, sha256(path))
    except (CheckpointError, ConfigError, OverflowError) as error:  # a number of the configuration beyond any float
        raise CheckpointError(f"checkpoint '{path}' cannot be used: {error}") from None
    keys = ", ".join(list(state)[:3])
    raise CheckpointError(
        f"checkpoint '{path}' is of another model (its first keys are {keys}): expected an sdtc checkpoint or a ViTPose"
    )


def find_checkpoint(path: str | Path) -> Path:
    """Return the file that is meant: the path as it is, or the packaged checkpoint of that name."""
    path = Path(path)
    packaged = WEIGHTS / f"{path}.pth"
    return packaged if len(path.parts) == 1 and not path.exists() and packaged.is_file() else path


def read_checkpoint_data(path: str | Path) -> dict[str, Any]:
    """Return all that one of our own ``.pth`` files holds: what `checkpoint_data` gives, and what was added to it.

    Raises:
        CheckpointError: unreadable, or not ours.
    """
    header, _ = _read(Path(path))
    if not header:
        raise CheckpointError(f"'{path}' is not an sdtc checkpoint")
    return header


def load_backbone(network: PoseNetwork, path: str | Path) -> str:
    """Load the backbone of a ViTPose file, or of one of our own, into a network.

    Position embeddings are resampled if sizes differ.

    Returns:
        The name of the file's format.

    Raises:
        CheckpointError: neither of the two, incomplete, or of another width or depth.
    """
    header, state = _read(find_checkpoint(path))
    left_over: tuple[str, ...] = ()
    file_format = "sdtc"
    try:
        if not _is_ours(header):
            weights: VitposeWeights = read_vitpose(state)
            state, file_format = weights.state, weights.format
            left_over = tuple(key for key in weights.left_over if "head" not in key)
        backbone = {key.removeprefix(_BACKBONE): value for key, value in state.items() if key.startswith(_BACKBONE)}
        if "pos_embed" in backbone:
            backbone["pos_embed"] = resize_positions(backbone["pos_embed"], network.config.grid)
        _load_state(network.backbone, backbone, left_over)
    except CheckpointError as error:
        raise CheckpointError(f"backbone '{path}' cannot be used: {error}") from None
    return file_format


def load_weights(network: PoseNetwork, path: str | Path) -> None:
    """Load all weights of one of our own checkpoints into a network that sees as many frames, or more.

    A network of fewer frames is inflated: see `sdtc.model.inflation`.

    Raises:
        CheckpointError: not ours, or of another network.
    """
    header, state = _read(find_checkpoint(path))
    try:
        if not _is_ours(header):
            raise CheckpointError("it is not an sdtc checkpoint")
        config = ModelConfig.from_dict(header.get("config"))
        if config.delta != network.config.delta:
            state = inflate(state, config, network.config)
        _load_state(network, state)
    except (CheckpointError, ConfigError, OverflowError) as error:
        raise CheckpointError(f"checkpoint '{path}' does not fit this network: {error}") from None


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what a file says about itself, and its tensors."""
    try:
        with path.open("rb") as file:
            magic = file.read(2)
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint '{path}' does not exist") from None
    except IsADirectoryError:
        raise CheckpointError(f"'{path}' is a folder: expected a checkpoint file") from None
    except OSError as error:
        raise CheckpointError(f"checkpoint '{path}' cannot be read: {error.strerror}") from None
    header, state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pytorch(path, magic)
    odd = [key for key, value in state.items() if not _is_plain(value)]
    if odd:
        raise CheckpointError(
            f"checkpoint '{path}' cannot be used: {count_keys(odd)} sparse, quantised or without values; expected "
            "plain arrays"
        )
    return header, state


def _read_pytorch(path: Path, magic: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if magic != b"PK" and magic[:1] != b"\x80":  # a zip archive since PyTorch 1.6, a bare pickle before
        raise CheckpointError(f"'{path}' is not a PyTorch file: expected a .pth or .safetensors checkpoint")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about how the file was written, which its reader cannot change
            data = torch.load(path, map_location="cpu", weights_only=True)
    # Whatever a damaged file says is done by PyTorch's unpickler, so it fails in every way that a program can: beside
    # the errors that it means to raise, IndexError, TypeError, AssertionError and struct.error were seen.
    except Exception as error:
        if "Unsupported global" in str(error) or "WeightsUnpickler" in str(error):
            raise CheckpointError(
                f"checkpoint '{path}' holds objects other than tensors and plain values, which could run code when "
                "loaded: save its state_dict alone and try that"
            ) from None
        raise CheckpointError(
            f"'{path}' is not a checkpoint that PyTorch can read, or it is damaged: expected a .pth or .safetensors "
            "file"
        ) from None
    if not isinstance(data, dict):
        raise CheckpointError(f"checkpoint '{path}' holds a {type(data).__name__}: expected a dictionary of tensors")
    tensors = next((data[key] for key in _WRAPPERS if isinstance(data.get(key), Mapping)), data)
    state = {str(key): value for key, value in tensors.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"checkpoint '{path}' holds no tensors")
    return (data if _is_ours(data) else {}), state


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    safetensors = require("safetensors", "export", "a .safetensors checkpoint")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("sdtc", "{}"))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
    except Exception:  # as above: beside its own errors, whatever a damaged header leads to
        raise CheckpointError(f"'{path}' is not a safetensors file, or it is damaged") from None
    return (header if isinstance(header, dict) else {}), state


def _load_state(module: torch.nn.Module, state: Mapping[str, Tensor], left_over: tuple[str, ...] = ()) -> None:
    """Copy a state into a module, or say exactly what does not fit."""
    expected = module.state_dict()
    # A counter of training steps, which eval never reads; older files lack it.
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [*left_over, *(key for key in state if key not in expected)]
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    no_numbers = [
        key
        for key, value in expected.items()
        if key in state and value.is_floating_point() and not state[key].is_floating_point()
    ]
    problems = [
        f"{count_keys(keys)} {what}"
        for what, keys in (
            ("missing", missing),
            ("left over", unknown),
            ("of another shape", shapes),
            ("not floating-point", no_numbers),
        )
        if keys
    ]
    if problems:
        raise CheckpointError("; ".join(problems))
    module.load_state_dict({key: value.to(expected[key].dtype) for key, value in state.items()}, strict=False)


def _is_ours(header: Mapping[str, Any]) -> bool:
    name = header.get("format")
    return isinstance(name, str) and name == FORMAT


def _is_plain(value: Tensor) -> bool:
    return value.layout is torch.strided and not (value.is_quantized or value.is_nested or value.is_meta)


def _stored(value: Tensor, dtype: torch.dtype | None) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.to(dtype) if dtype is not None and value.is_floating_point() else value
