from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from sdtc.errors import BundleError
from sdtc.manifest import SCHEMA_VERSION, Manifest, find_manifest


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def edit(bundle: Path, **changes) -> Path:
    path = bundle / "model.json"
    data = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            del data[key]
        else:
            data[key] = value
    path.write_text(json.dumps(data))
    return path


def test_round_trip(bundle) -> None:
    manifest = Manifest.load(bundle / "model.json")
    manifest.save(bundle / "again.json")
    assert Manifest.load(bundle / "again.json") == manifest
    assert manifest.delta == 2
    assert dataclasses.is_dataclass(manifest.graphs["model"])


def test_every_file_matches_its_hash(bundle) -> None:
    manifest = Manifest.load(bundle / "model.json")
    assert set(manifest.files) == {path.name for path in bundle.iterdir()} - {"model.json"}
    for name in manifest.files:
        assert manifest.verify_file(bundle, name) == bundle / name


def test_changed_file_is_refused(bundle) -> None:
    with (bundle / "model.onnx").open("r+b") as file:
        file.seek(1000)
        file.write(b"\xff")
    with pytest.raises(BundleError, match=r"model\.onnx' has SHA-256 .* its manifest says"):
        Manifest.load(bundle / "model.json").verify_file(bundle, "model.onnx")


def test_missing_file_is_named(bundle) -> None:
    (bundle / "model.plan").unlink()
    with pytest.raises(BundleError, match="missing"):
        Manifest.load(bundle / "model.json").verify_file(bundle, "model.plan")


def test_newer_schema_names_both_versions(bundle) -> None:
    path = edit(bundle, schema_version=SCHEMA_VERSION + 7)
    with pytest.raises(BundleError, match=f"version {SCHEMA_VERSION + 7}, this sdtc reads up to {SCHEMA_VERSION}"):
        Manifest.load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_frames": 4},
        {"num_frames": "five"},
        {"batch": [4, 1, 16]},
        {"batch": [1, 4]},
        {"skeleton": "octopus"},
        {"keypoints": ["nose"]},
        {"graphs": {}},
        {"files": {"../../etc/passwd": "0" * 64}},
        {"files": {}},
        {"input_size": [0, 0]},
        {"precision": "int4"},
        {"input_size": None},
        {"graphs": None},
    ],
    ids=str,
)
def test_damaged_manifests_are_refused_in_one_sentence(bundle, changes) -> None:
    with pytest.raises(BundleError, match="damaged"):
        Manifest.load(edit(bundle, **changes))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": 1}', "\xff\xfe", "[" * 100_000])
def test_not_a_manifest(tmp_path, text) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleError):
        Manifest.load(path)


def test_find_manifest_from_any_file_of_the_bundle(bundle) -> None:
    for name in ("", "model.json", "model.plan", "model.onnx", "model.encoder.onnx", "model.temporal.plan"):
        assert find_manifest(bundle / name) == bundle / "model.json"
    with pytest.raises(BundleError, match="does not exist"):
        find_manifest(bundle / "nothing.plan")
    stray = bundle / "other.plan"
    stray.write_bytes(b"engine")
    with pytest.raises(BundleError, match="no manifest beside it"):
        find_manifest(stray)
