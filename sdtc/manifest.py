"""The engine bundle's manifest, `model.json`: what the files are, how to feed them, and how right they were.

Written by `sdtc.export`, read by `sdtc.runtime`; the only thing that the two share besides the graphs.
Paths in a manifest are plain file names beside it, so a bundle can be moved as a folder.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sdtc.crops import CROP_SCALE
from sdtc.errors import BundleError, ConfigError, InputError
from sdtc.files import read_json, sha256, write_json
from sdtc.skeleton import Skeleton, get_skeleton

SCHEMA_VERSION = 1
MAX_MANIFEST_BYTES = 1 << 20
GRAPHS = ("model", "encoder", "temporal")
FLAVOURS = ("tensorrt", "tensorrt-rtx")
_FILE_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,200}$")
_SHA256 = re.compile(r"^[0-9a-f]{64}$")


@dataclass(frozen=True)
class GraphFiles:
    """The files of one graph: its ONNX, and its engine where one was built."""

    onnx: str
    plan: str | None = None


@dataclass(frozen=True)
class EngineInfo:
    """What built the engines and what they are for."""

    flavour: str  # "tensorrt" or "tensorrt-rtx"
    version: str
    compute_capabilities: tuple[str, ...]  # e.g. ("8.6", "8.9")
    plugin_layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """One engine bundle.

    Attributes:
        name: what the checkpoint was, e.g. ``"tiny"``.
        kind: ``"sdtc"`` or ``"vitpose"``.
        model: the network's configuration, as `sdtc.model.ModelConfig.to_dict` gives it.
        num_frames: T, frames in a window; the keyframe is the middle one.
        input_size: (H, W) of a crop, pixels.
        heatmap_size: (h, w), pixels.
        token_shape: (L, C) of one frame's tokens, between encoder and temporal.
        skeleton: ``"posetrack"`` or ``"coco"``.
        keypoints, flip_pairs: the skeleton's, spelled out for readers without this package.
        mean, std: the normalisation inside the graph, of RGB values 0-1.
        crop_scale: enlargement of the person box.
        precision: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        batch: (min, opt, max) windows at once.
        graphs: files by graph name, see `GRAPHS`.
        files: SHA-256 by file name.
        checkpoint_sha256: of the checkpoint that this was exported from.
        trained: whether the checkpoint claims to have been trained at all.
        engine: None where no engine was built.
        parity: figures measured at export, by comparison.
    """

    name: str
    kind: str
    model: dict[str, Any]
    num_frames: int
    input_size: tuple[int, int]
    heatmap_size: tuple[int, int]
    token_shape: tuple[int, int]
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
    crop_scale: float = CROP_SCALE
    input_layout: str = "NHWC uint8 RGB"
    engine: EngineInfo | None = None
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
        """Read and check a manifest; the hashes of its files are checked by :meth:`verify_file`.

        Raises:
            BundleError: missing, damaged, inconsistent, or of a newer schema.
        """
        try:
            data = read_json(path, "manifest", MAX_MANIFEST_BYTES)
        except InputError as error:
            raise BundleError(str(error)) from None
        if not isinstance(data, dict) or "schema_version" not in data:
            raise BundleError(f"'{path}' is not an engine bundle's manifest: it has no schema_version")
        version = data["schema_version"]
        if not isinstance(version, int) or version < 1:
            raise BundleError(f"manifest '{path}' has schema_version {version!r}: expected a whole number from 1")
        if version > SCHEMA_VERSION:
            raise BundleError(
                f"manifest '{path}' has schema version {version}, this sdtc reads up to {SCHEMA_VERSION}: "
                "update sdtc, or export the checkpoint again with this version"
            )
        try:
            manifest = _from_dict(data)
            manifest._check()
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise BundleError(
                f"manifest '{path}' is damaged ({reason}): export the checkpoint again with export/to_trt.py"
            ) from None
        return manifest

    def verify_file(self, directory: Path, name: str) -> Path:
        """Return the path of a bundle file after checking its hash.

        Raises:
            BundleError: the file is missing, or is not the one that the manifest describes.
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
        expect(isinstance(self.model, dict), "model is not an object")
        expect(1 <= self.num_frames <= 15 and self.num_frames % 2 == 1, f"num_frames is {self.num_frames}")
        for name, size in (("input_size", self.input_size), ("heatmap_size", self.heatmap_size)):
            expect(len(size) == 2 and all(8 <= side <= 4096 for side in size), f"{name} is {size}")
        expect(len(self.token_shape) == 2 and min(self.token_shape) > 0, f"token_shape is {self.token_shape}")
        expect(self.keypoints == self.get_skeleton().keypoints, f"keypoints are not those of '{self.skeleton}'")
        expect(self.precision in ("fp32", "fp16", "bf16"), f"unknown precision {self.precision!r}")
        low, opt, high = self.batch
        expect(1 <= low <= opt <= high <= 4096, f"batch is {self.batch}")
        expect(0.1 <= self.crop_scale <= 10, f"crop_scale is {self.crop_scale}")
        expect(self.input_layout == "NHWC uint8 RGB", f"unknown input_layout {self.input_layout!r}")
        expect(set(self.graphs) == set(GRAPHS), f"graphs are {sorted(self.graphs)}")
        for graph in self.graphs.values():
            for name in filter(None, (graph.onnx, graph.plan)):
                expect(name in self.files, f"no hash for {name}")
        for name, digest in self.files.items():
            expect(bool(_FILE_NAME.match(name)), f"bad file name {name!r}")
            expect(bool(_SHA256.match(digest)), f"bad SHA-256 for {name}")
        if self.engine:
            expect(self.engine.flavour in FLAVOURS, f"unknown engine flavour {self.engine.flavour!r}")


def _from_dict(data: dict[str, Any]) -> Manifest:
    known = {f.name for f in dataclasses.fields(Manifest)}
    values = {key: value for key, value in data.items() if key in known}
    for required in dataclasses.fields(Manifest):
        has_default = required.default is not dataclasses.MISSING or required.default_factory is not dataclasses.MISSING
        if required.name not in values and not has_default:
            raise KeyError(required.name)
    for key in ("input_size", "heatmap_size", "token_shape", "batch"):
        values[key] = tuple(int(value) for value in values[key])
    for key in ("mean", "std"):
        values[key] = tuple(float(value) for value in values[key])
    values["keypoints"] = tuple(values["keypoints"])
    values["flip_pairs"] = tuple((int(a), int(b)) for a, b in values["flip_pairs"])
    values["graphs"] = {name: GraphFiles(**files) for name, files in values["graphs"].items()}
    if values.get("engine"):
        engine = dict(values["engine"])
        for key in ("compute_capabilities", "plugin_layers"):
            engine[key] = tuple(engine.get(key, ()))
        values["engine"] = EngineInfo(**engine)
    return Manifest(**values)


def find_manifest(path: Path) -> Path:
    """Return the manifest that a bundle path means: a folder, `model.json`, or any file of the bundle.

    Raises:
        BundleError: there is none.
    """
    if path.is_dir():
        candidate = path / "model.json"
    elif path.suffix == ".json":
        candidate = path
    else:  # model.plan, model.encoder.onnx, …: the manifest carries the part before the first dot
        candidate = path.with_name(path.name.split(".")[0] + ".json")
    if not candidate.is_file():
        if not path.exists():
            raise BundleError(f"engine '{path}' does not exist: make one with  python export/to_trt.py CHECKPOINT")
        raise BundleError(
            f"'{path}' has no manifest beside it (expected '{candidate}'): an engine is used together with "
            "the bundle that export/to_trt.py writes"
        )
    return candidate
