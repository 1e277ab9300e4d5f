"""Checkpoints: this package's own format, and published ViTPose files.

An sdtc checkpoint is a dictionary of plain values and tensors, ``{"format", "version", "config", "trained",
"state_dict"}``, written by `torch.save`, or a safetensors file with the same fields in its metadata. Files are always
read with ``weights_only=True``, so that loading a file cannot run code.

Files of version 1 are from before a configuration told how SMML reads Eq. 6 and Eq. 8: their networks are `LITERAL`.
The weights fit the other readings too, and mean nothing there.

A name without a suffix, such as ``tiny``, means the checkpoint of that name in the package, unless a file of that name
exists.
"""

from __future__ import annotations

import json
import os
import reprlib
import warnings
import zipfile
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
from sdtc.core.numbers import whole_number
from sdtc.core.skeleton import get_skeleton
from sdtc.model.builder import build
from sdtc.model.config import ModelConfig
from sdtc.model.inflation import inflate
from sdtc.model.network import MEAN, STD, PoseNetwork
from sdtc.model.vitpose import VitposeWeights, count_keys, is_vitpose, read_vitpose, resize_positions

FORMAT = "sdtc-checkpoint"
VERSION = 2
LITERAL = {"context_softmax": "channels", "refinement": "replace"}  # in `ModelConfig`
MAX_SWELLING = 20
WEIGHTS = Path(sdtc.__file__).parent / "weights"  # checkpoints that come with the package
_BACKBONE = "backbone."
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # where other projects keep their tensors


@dataclass(frozen=True)
class Checkpoint:
    """A network loaded from a file.

    Attributes:
        network: in evaluation mode, fp32.
        trained: whether the file says that its weights were trained; True for ViTPose files.
        format: ``"sdtc"`` or the name of a ViTPose format.
        sha256: hash of the file.
    """

    network: PoseNetwork
    trained: bool
    format: str
    sha256: str

    def describe(self, batch: tuple[int, int, int], precision: str = "fp32", opset: int = 0) -> Manifest:
        """Return the manifest of a bundle of this checkpoint, still without graphs and files.

        Args:
            batch: smallest, most common and largest batch size, in windows.
            precision: of inference.
            opset: ONNX opset of the graphs; 0 without graphs.
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
            token_grid=config.grid,
            token_stride=config.token_stride,
            token_offset=config.token_offset,
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
    """Write a network and its configuration atomically: as safetensors if the name ends so, else with `torch.save`.

    Args:
        path: the file to write.
        network: the network to store.
        trained: whether its weights were trained; commands that use the file report it.
        dtype: type to store floating-point weights in, e.g. ``torch.float16``; None keeps theirs.

    Raises:
        OutputError: the file cannot be written; an existing file of that name is left unchanged.
    """
    path = Path(path)
    data = checkpoint_data(network, trained, dtype)
    if path.suffix != ".safetensors":
        write_checkpoint_data(path, data)
        return
    safetensors = require("safetensors.torch", "export", "a .safetensors checkpoint")
    state = data.pop("state_dict")
    with atomic_write(path) as temporary:
        # safetensors' own `save_file` raises no OSError, and creates a file that only its owner may read.
        temporary.write_bytes(safetensors.save(state, metadata={"sdtc": json.dumps(data)}))


def checkpoint_data(network: PoseNetwork, trained: bool, dtype: torch.dtype | None = None) -> dict[str, Any]:
    """Return the contents of a checkpoint file; arguments as in :func:`save_checkpoint`."""
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
        OutputError: the file cannot be written; an existing file of that name is left unchanged.
    """
    with atomic_write(Path(path)) as temporary:
        try:
            with temporary.open("wb") as file:  # given a name, PyTorch's own writer raises no OSError
                torch.save(data, file)
        except RuntimeError as error:  # a failed write makes closing the archive fail, and PyTorch raises that error
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__context__
            raise cause or error from None


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Load an sdtc checkpoint, or a complete ViTPose in any of its formats.

    Raises:
        CheckpointError: the file is unreadable, of another model or incomplete; the message names the keys.
    """
    path = find_checkpoint(path)
    header, state = _read(path)
    try:
        if _is_ours(header):
            network = build(_config(header)).eval()
            _load_state(network, state)
            return Checkpoint(network, header.get("trained") is True, "sdtc", sha256(path))
        if is_vitpose(state):
            weights = read_vitpose(state)
            network = build(weights.model_config()).eval()
            _load_state(network, weights.state, weights.left_over)
            return Checkpoint(network, True, weights.format, sha256(path))
    except (CheckpointError, ConfigError, OverflowError) as error:  # overflow: a number too large for a float
        raise CheckpointError(f"checkpoint '{path}' cannot be used: {error}") from None
    keys = ", ".join(list(state)[:3])
    raise CheckpointError(
        f"checkpoint '{path}' is of another model (its first keys are {keys}): expected an sdtc checkpoint or a ViTPose"
    )


def find_checkpoint(path: str | Path) -> Path:
    """Return the path of a checkpoint: the one given, or that of the packaged checkpoint of that name."""
    path = Path(path)
    packaged = WEIGHTS / f"{path}.pth"
    # os.path, as Path.exists raises an error for names that no file can have
    return packaged if len(path.parts) == 1 and not os.path.exists(path) and os.path.isfile(packaged) else path


def read_checkpoint_data(path: str | Path, like: ModelConfig | None = None) -> dict[str, Any]:
    """Return the whole contents of an sdtc ``.pth`` file: the fields of `checkpoint_data`, and any added to them.

    Args:
        path: of the file.
        like: configuration of the network that the weights are for; None: of any.

    Raises:
        CheckpointError: the file is unreadable, not an sdtc checkpoint, a newer sdtc's, or its network reads Eq. 6 and
            Eq. 8 in another way.
    """
    header, _ = _read(Path(path))
    if not header:
        raise CheckpointError(f"'{path}' is not an sdtc checkpoint")
    try:
        config = _config(header)
        if like is not None:
            _check_reading(config, like)
    except (CheckpointError, ConfigError, OverflowError) as error:
        raise CheckpointError(f"checkpoint '{path}' does not fit this network: {error}") from None
    return header


def load_backbone(network: PoseNetwork, path: str | Path) -> str:
    """Load the backbone of a ViTPose file or an sdtc checkpoint into a network.

    Position embeddings are resampled if the input sizes differ.

    Returns:
        The name of the file's format.

    Raises:
        CheckpointError: the file is neither of the two, incomplete, or its backbone has another width or depth.
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
    """Load all weights of an sdtc checkpoint into a network that sees the same number of frames, or more.

    Weights of a network that sees fewer frames are inflated, see `sdtc.model.inflation`.

    Raises:
        CheckpointError: the file is not an sdtc checkpoint, or its network has another configuration, the reading of
            Eq. 6 and Eq. 8 included.
    """
    header, state = _read(find_checkpoint(path))
    try:
        if not _is_ours(header):
            raise CheckpointError("it is not an sdtc checkpoint")
        config = _config(header)
        _check_reading(config, network.config)
        if config.delta != network.config.delta:
            state = inflate(state, config, network.config)
        _load_state(network, state)
    except (CheckpointError, ConfigError, OverflowError) as error:
        raise CheckpointError(f"checkpoint '{path}' does not fit this network: {error}") from None


def _config(header: Mapping[str, Any]) -> ModelConfig:
    """Return the configuration of an sdtc checkpoint.

    Raises:
        CheckpointError: a newer sdtc wrote the file.
        ConfigError: there is no such network.
    """
    version = whole_number(header.get("version"))
    if version is None or version > VERSION:
        given = reprlib.repr(header.get("version"))
        raise CheckpointError(f"it has checkpoint version {given}, this sdtc reads up to {VERSION}: update sdtc")
    data = header.get("config")
    if version < 2 and isinstance(data, dict):
        data = LITERAL | data
    return ModelConfig.from_dict(data)


def _check_reading(theirs: ModelConfig, ours: ModelConfig) -> None:
    """Check that weights are for the reading of Eq. 6 and 8 that a network has, which their shapes do not tell."""
    if theirs.reading and ours.reading and theirs.reading != ours.reading:
        given, expected = (
            " and ".join(f"model.{name} '{value}'" for name, value in config.reading.items())
            for config in (theirs, ours)
        )
        raise CheckpointError(
            f"it was trained with {given}, this network has {expected}: set them as in the checkpoint"
        )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the header of a file (empty for other projects' files) and its tensors."""
    try:
        with path.open("rb") as file:
            magic = file.read(2)
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint '{path}' does not exist") from None
    except IsADirectoryError:
        raise CheckpointError(f"'{path}' is a folder: expected a checkpoint file") from None
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"checkpoint '{path}' cannot be read: {reason}") from None
    header, state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pytorch(path, magic)
    odd = [key for key, value in state.items() if not _is_plain(value)]
    if odd:
        raise CheckpointError(
            f"checkpoint '{path}' cannot be used: {count_keys(odd)} sparse, quantised or without values; expected "
            "dense tensors"
        )
    return header, state


def _read_pytorch(path: Path, magic: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if magic != b"PK" and magic[:1] != b"\x80":  # a zip archive since PyTorch 1.6, a bare pickle before
        raise CheckpointError(f"'{path}' is not a PyTorch file: expected a .pth or .safetensors checkpoint")
    if _swells(path):
        raise CheckpointError(
            f"'{path}' would grow to more than {MAX_SWELLING} times its size when it is read, as no checkpoint does: "
            "expected a file that PyTorch wrote"
        )
    if magic == b"PK" and _is_changed(path):
        raise CheckpointError(f"'{path}' is damaged: its checksums or headers do not fit its contents; copy it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they concern how the file was written, which its reader cannot change
            data = torch.load(path, map_location="cpu", weights_only=True)
    # PyTorch's unpickler interprets whatever a damaged file contains, so that any error is possible: besides its own,
    # IndexError, TypeError, AssertionError and struct.error were seen.
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


def _swells(path: Path) -> bool:
    """Whether a zip archive holds far more than its size: PyTorch does not compress, and reads entries as a whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist()) > MAX_SWELLING * path.stat().st_size
    except Exception:  # not an archive, or a damaged one, which PyTorch refuses
        return False


def _is_changed(path: Path) -> bool:
    """Whether a zip archive or an entry of it is damaged: PyTorch looks neither at checksums nor at all headers."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.CRC:  # PyTorch can be told to write none
                    with archive.open(entry) as file:
                        while file.read(1 << 20):
                            pass
    except OSError:
        return False  # PyTorch says it
    except Exception:  # of a damaged archive anything can be raised, e.g. UnicodeDecodeError and NotImplementedError
        return True
    return False


def _read_safetensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    safetensors = require("safetensors", "export", "a .safetensors checkpoint")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("sdtc", "{}"))
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
    except Exception:  # as above: a damaged header can lead to any error
        raise CheckpointError(f"'{path}' is not a safetensors file, or it is damaged") from None
    return (header if isinstance(header, dict) else {}), state


def _load_state(module: torch.nn.Module, state: Mapping[str, Tensor], left_over: tuple[str, ...] = ()) -> None:
    """Copy a state into a module, or raise an error that names every key that does not fit."""
    expected = module.state_dict()
    # BatchNorm's counter of training steps is never read in evaluation mode; older files lack it.
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
    not_finite = [
        key
        for key, value in state.items()
        if key in expected and value.is_floating_point() and not torch.isfinite(value.float()).all()
    ]
    problems = [
        f"{count_keys(keys)} {what}"
        for what, keys in (
            ("missing", missing),
            ("left over", unknown),
            ("of another shape", shapes),
            ("not floating-point", no_numbers),
            ("not finite", not_finite),
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
