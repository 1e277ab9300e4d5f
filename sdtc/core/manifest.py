"""The engine bundle's manifest, `model.json`: its files, the inputs that they take, and the parity measured at export.

`sdtc.export` writes it and `sdtc.runtime` reads it; the two share nothing else but the graphs. Paths in a manifest are
file names in the same folder, so that a bundle can be moved.
"""

from __future__ import annotations

import dataclasses
import re
import reprlib
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdtc.core.errors import BundleError, ConfigError, InputError
from sdtc.core.files import read_json, sha256, write_json
from sdtc.core.numbers import whole_number
from sdtc.core.settings import build_from_json
from sdtc.core.skeleton import Skeleton, get_skeleton

SCHEMA_VERSION = 2
MAX_MANIFEST_BYTES = 1 << 20
MAX_CLIP_BYTES = 8 << 30  # of one batch of crops or tokens, which the runtime allocates
GRAPHS = ("model", "encoder", "temporal")
FLAVOURS = ("tensorrt", "tensorrt-rtx")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMPUTE_CAPABILITY = re.compile(r"[0-9]{1,2}\.[0-9]")


@dataclass(frozen=True)
class GraphFiles:
    """The files of one graph: its ONNX file, and the engine (`plan`) if one was built."""

    onnx: str
    plan: str | None = None


@dataclass(frozen=True)
class EngineInfo:
    """Which TensorRT built the engines, and for which GPUs."""

    flavour: str  # "tensorrt" or "tensorrt-rtx"
    version: str
    compute_capabilities: tuple[str, ...]  # e.g. ("8.6", "8.9")
    plugin_layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """One engine bundle.

    Attributes:
        name: of the network, e.g. ``"tiny"``.
        kind: ``"sdtc"`` or ``"vitpose"``.
        model: the network's configuration, as `sdtc.model.ModelConfig.to_dict` gives it.
        num_frames: T, frames in a window; the keyframe is the middle one.
        input_size: (H, W) of a crop, pixels.
        heatmap_size: (h, w), pixels.
        token_shape: (L, C) of one frame's tokens, between encoder and temporal.
        token_grid: (h, w), rows and columns of tokens in a crop, row by row; L = h·w.
        token_stride, token_offset: the token in row i, column j is centred at crop pixel
            (token_offset + token_stride·j, token_offset + token_stride·i).
        skeleton: ``"posetrack"`` or ``"coco"``.
        keypoints, flip_pairs: the skeleton's, for programs that do not use this package.
        mean, std: of the normalisation that the graph applies, for RGB values 0-1.
        crop_scale: enlargement of the person box.
        precision: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        batch: (min, opt, max) batch size, in windows.
        graphs: files by graph name, see `GRAPHS`.
        files: SHA-256 by file name.
        checkpoint_sha256: of the checkpoint that this was exported from.
        trained: whether the checkpoint was trained, as it says itself.
        engine: None if no engine was built.
        kernels: file of the kernels that the runtime launches on GPUs, see `sdtc.core.kernel_file`; or None.
        parity: figures measured at export, by comparison (``"onnx_vs_pytorch"``).
    """

    name: str
    kind: str
    model: dict[str, Any]
    num_frames: int
    input_size: tuple[int, int]
    heatmap_size: tuple[int, int]
    token_shape: tuple[int, int]
    token_grid: tuple[int, int]
    token_stride: float
    token_offset: float
    skeleton: str
    keypoints: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    precision: str
    opset: int
    batch: tuple[int, int, int]
    graphs: dict[str, GraphFiles]
    files: dict[str, str]
    checkpoint_sha256: str
    trained: bool
    crop_scale: float = 1.25  # `crops.CROP_SCALE`, stated again: that module loads OpenCV, and `--help` needs FLAVOURS
    input_layout: str = "NHWC uint8 RGB"
    engine: EngineInfo | None = None
    kernels: str | None = None
    parity: dict[str, dict[str, Any]] = field(default_factory=dict)
    created_by: str = ""
    schema_version: int = SCHEMA_VERSION

    @property
    def delta(self) -> int:
        """δ: supporting frames on each side of the keyframe."""
        return self.num_frames // 2

    def get_skeleton(self) -> Skeleton:
        return get_skeleton(self.skeleton)

    def save(self, path: Path) -> None:
        """Write the manifest, atomically."""
        write_json(path, dataclasses.asdict(self))

    @staticmethod
    def load(path: Path) -> Manifest:
        """Read and check a manifest; :meth:`verify_file` checks the hashes of its files.

        Raises:
            BundleError: missing, damaged, inconsistent, or of another schema.
        """
        try:
            data = read_json(path, "manifest", MAX_MANIFEST_BYTES)
        except InputError as error:
            raise BundleError(str(error)) from None
        if not isinstance(data, dict) or "schema_version" not in data:
            raise BundleError(f"'{path}' is not an engine bundle's manifest: it has no schema_version")
        version = whole_number(data["schema_version"])
        if version is None or version < 1:
            given = reprlib.repr(data["schema_version"])
            raise BundleError(
                f"manifest '{path}' is damaged (schema_version is {given}, not a whole number from 1): "
                "export the checkpoint again with export/to_trt.py"
            )
        if version > SCHEMA_VERSION:
            raise BundleError(
                f"manifest '{path}' has schema version {version}, this sdtc reads {SCHEMA_VERSION}: "
                "update sdtc, or export the checkpoint again with this version"
            )
        if version < SCHEMA_VERSION:  # the graphs themselves are others
            raise BundleError(
                f"manifest '{path}' has schema version {version}, of an older sdtc, this one reads {SCHEMA_VERSION}: "
                "export the checkpoint again with export/to_trt.py"
            )
        try:
            known = {f.name for f in dataclasses.fields(Manifest)}
            manifest = build_from_json(Manifest, {key: value for key, value in data.items() if key in known})
            manifest._check()
        except (ValueError, ConfigError) as error:
            raise BundleError(
                f"manifest '{path}' is damaged ({error}): export the checkpoint again with export/to_trt.py"
            ) from None
        return manifest

    def verify_file(self, directory: Path, name: str) -> Path:
        """Return the path of a bundle file after checking its hash.

        Raises:
            BundleError: the file is missing, or its hash is not the manifest's.
        """
        path = directory / name
        if not path.is_file():
            raise BundleError(f"bundle file '{path}' is missing: copy the whole bundle, or export again")
        actual, expected = sha256(path), self.files[name]
        if actual != expected:
            raise BundleError(
                f"bundle file '{path}' has SHA-256 {actual[:12]}…, its manifest says {expected[:12]}…: "
                "the file was changed or only partly copied; copy it again, or export again"
            )
        return path

    def _check(self) -> None:
        def expect(condition: bool, what: str) -> None:
            if not condition:
                raise ValueError(what)

        expect(self.kind in ("sdtc", "vitpose"), f"unknown kind {self.kind!r}")
        expect(1 <= self.num_frames <= 15 and self.num_frames % 2 == 1, f"num_frames is {self.num_frames}")
        for name, size in (("input_size", self.input_size), ("heatmap_size", self.heatmap_size)):
            expect(all(8 <= side <= 4096 for side in size), f"{name} is {size}")
        expect(min(self.token_shape) > 0, f"token_shape is {self.token_shape}")
        grid = self.token_grid
        expect(min(grid) > 0 and grid[0] * grid[1] == self.token_shape[0], f"token_grid is {grid}")
        expect(0 < self.token_stride <= 4096, f"token_stride is {self.token_stride}")
        expect(abs(self.token_offset) <= 4096, f"token_offset is {self.token_offset}")
        skeleton = self.get_skeleton()
        expect(self.keypoints == skeleton.keypoints, f"keypoints are not those of '{self.skeleton}'")
        expect(self.flip_pairs == skeleton.flip_pairs, f"flip_pairs are not those of '{self.skeleton}'")
        expect(min(self.std) > 0, f"std is {self.std}")
        expect(self.precision in ("fp32", "fp16", "bf16"), f"unknown precision {self.precision!r}")
        expect(self.opset > 0, f"opset is {self.opset}")
        low, opt, high = self.batch
        expect(1 <= low <= opt <= high <= 4096, f"batch is {self.batch}")
        clip_bytes = high * self.num_frames * self.input_size[0] * self.input_size[1] * 3
        expect(clip_bytes <= MAX_CLIP_BYTES, f"the largest batch has {clip_bytes >> 30:,} GiB")
        token_bytes = high * self.num_frames * self.token_shape[0] * self.token_shape[1] * 4
        expect(token_bytes <= MAX_CLIP_BYTES, f"the largest batch of tokens has {token_bytes >> 30:,} GiB")
        expect(0.1 <= self.crop_scale <= 10, f"crop_scale is {self.crop_scale}")
        expect(self.input_layout == "NHWC uint8 RGB", f"unknown input_layout {self.input_layout!r}")
        expect(set(self.graphs) == set(GRAPHS), f"graphs are {sorted(self.graphs)}")
        for graph in self.graphs.values():
            for name in filter(None, (graph.onnx, graph.plan)):
                expect(name in self.files, f"no hash for {name!r}")
        expect(self.kernels is None or self.kernels in self.files, f"no hash for {self.kernels!r}")
        for name, digest in self.files.items():
            expect(bool(_FILE_NAME.fullmatch(name)), f"bad file name {name!r}")
            expect(bool(_SHA256.fullmatch(digest)), f"bad SHA-256 for {name}")
        expect(bool(_SHA256.fullmatch(self.checkpoint_sha256)), "bad SHA-256 for the checkpoint")
        if self.engine:
            expect(self.engine.flavour in FLAVOURS, f"unknown engine flavour {self.engine.flavour!r}")
            for capability in self.engine.compute_capabilities:
                expect(bool(_COMPUTE_CAPABILITY.fullmatch(capability)), f"bad compute capability {capability!r}")


def find_manifest(path: Path) -> Path:
    """Return the manifest that a bundle path means: a folder, `model.json`, any file of the bundle, or a link to one.

    Raises:
        BundleError: there is none.
    """
    try:
        candidate = _manifest_of(path)
        path.exists()
    except OSError as error:
        raise BundleError(f"engine '{path}' cannot be read: {error.strerror}") from None
    if not (candidate.is_file() and candidate.with_suffix(".onnx").exists()):  # or only a link lies here
        with suppress(OSError, RuntimeError):  # it leads nowhere
            target = _manifest_of((candidate if candidate.is_symlink() else path).resolve(strict=True))
            candidate = target if target.is_file() else candidate
    if not candidate.is_file():
        if not path.exists():
            raise BundleError(f"engine '{path}' does not exist: make one with  python export/to_trt.py CHECKPOINT")
        raise BundleError(
            f"'{path}' has no manifest beside it (expected '{candidate}'): an engine is used together with "
            "the bundle that export/to_trt.py writes"
        )
    return candidate


def _manifest_of(path: Path) -> Path:
    """Return where the manifest is that a path means, links not followed."""
    if path.is_dir():
        return path / "model.json"
    if path.suffix == ".json":
        return path
    return path.with_name(path.name.split(".")[0] + ".json")  # model.plan, model.encoder.onnx, …: up to the first dot
