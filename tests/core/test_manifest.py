from __future__ import annotations

import copy
import dataclasses
import json
import math
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sdtc.core.errors import BundleError
from sdtc.core.manifest import SCHEMA_VERSION, Manifest, find_manifest


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


# Of no machine: where no engine can be built, the bundle's own manifest has none.
ENGINE = {"flavour": "tensorrt-rtx", "version": "1.7.1", "compute_capabilities": ["8.6", "12.0"], "plugin_layers": []}


def edit(bundle: Path, **changes) -> Path:
    """Change fields of a bundle's manifest, by names such as ``engine.version``; None removes one."""
    path = bundle / "model.json"
    data = json.loads(path.read_text()) | {"engine": dict(ENGINE)}
    for key, value in changes.items():
        *outer, last = key.split(".")
        inner = data[outer[0]] if outer else data
        if value is None:
            del inner[last]
        else:
            inner[last] = value
    path.write_text(json.dumps(data))
    return path


def test_round_trip(bundle) -> None:
    manifest = Manifest.load(bundle / "model.json")
    manifest.save(bundle / "again.json")
    assert Manifest.load(bundle / "again.json") == manifest
    assert manifest.delta == 2
    assert dataclasses.is_dataclass(manifest.graphs["model"])


def test_kernels_are_optional_and_hashed(bundle) -> None:
    assert Manifest.load(edit(bundle, kernels="model.onnx")).kernels == "model.onnx"
    data = json.loads((bundle / "model.json").read_text())
    data.pop("kernels")  # as bundles of before have it
    (bundle / "model.json").write_text(json.dumps(data))
    assert Manifest.load(bundle / "model.json").kernels is None
    with pytest.raises(BundleError, match=r"no hash for 'elsewhere\.json'"):
        Manifest.load(edit(bundle, kernels="elsewhere.json"))


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
    (bundle / "model.encoder.onnx").unlink()
    with pytest.raises(BundleError, match="missing"):
        Manifest.load(bundle / "model.json").verify_file(bundle, "model.encoder.onnx")


def test_newer_schema_names_both_versions(bundle) -> None:
    path = edit(bundle, schema_version=SCHEMA_VERSION + 7)
    with pytest.raises(BundleError, match=f"version {SCHEMA_VERSION + 7}, this sdtc reads {SCHEMA_VERSION}"):
        Manifest.load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": [1, 1, 4096], "input_size": [4096, 4096]},
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
        {"schema_version": True},
        {"schema_version": "1"},
        {"name": 5},
        {"name": "\ud800"},
        {"kind": ["sdtc"]},
        {"model": [1]},
        {"num_frames": 5.5},
        {"num_frames": True},
        {"batch": [1, 4, math.inf]},
        {"batch": [1.5, 4, 8]},
        {"batch": "148"},
        {"heatmap_size": [32, 24, 8]},
        {"token_shape": [0, 64]},
        {"token_grid": [6, 9]},
        {"token_grid": [-6, -8]},
        {"token_stride": 0},
        {"token_offset": 1e9},
        {"flip_pairs": [[0, 99]]},
        {"flip_pairs": []},
        {"keypoints": "nose"},
        {"mean": [1]},
        {"mean": [0, 0, math.nan]},
        {"mean": [0, 0, 10**400]},
        {"std": [0.2, 0.2, 0]},
        {"std": ["0.2", 0.2, 0.2]},
        {"opset": "22"},
        {"opset": 0},
        {"trained": 1},
        {"trained": "false"},
        {"crop_scale": "1.25"},
        {"crop_scale": math.inf},
        {"files": ["model.onnx"]},
        {"checkpoint_sha256": "0"},
        {"parity": []},
        {"parity": {"onnx_vs_pytorch": 1}},
        {"created_by": 5},
        {"engine": {}},
        {"engine": "tensorrt"},
        {"engine.version": 3},
        {"engine.flavour": "openvino"},
        {"engine.compute_capabilities": [8.6]},
        {"engine.compute_capabilities": ["new"]},
        {"engine.compute_capabilities": "8.6"},
        {"engine.compute_capabilities": None},
        {"engine.plugin_layers": [1]},
        {"engine.surplus": 1},
        {"graphs.model": "model.onnx"},
        {"graphs.model": {"onnx": "model.onnx", "plan": 1}},
        {"graphs.model": {"plan": "model.plan"}},
        {"graphs.model": {"onnx": "other.onnx"}},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_damaged_manifests_are_refused_in_one_sentence(bundle, changes) -> None:
    with pytest.raises(BundleError, match=r"model\.json' is damaged \(.{5,150}\): export the checkpoint again"):
        Manifest.load(edit(bundle, **changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"batch": [1, 4, math.inf]}, r"batch\[2\] is inf, not a whole number"),
        ({"mean": [1]}, r"mean is \[1\], not 3 values"),
        ({"engine.version": 3}, r"engine\.version is 3, not text"),
        ({"engine.compute_capabilities": None}, r"it has no engine\.compute_capabilities"),
        ({"flip_pairs": [[0, 99]]}, r"flip_pairs are not those of 'posetrack'"),
    ],
    ids=str,
)
def test_the_field_is_named(bundle, changes, reason) -> None:
    with pytest.raises(BundleError, match=rf"is damaged \({reason}\)"):
        Manifest.load(edit(bundle, **changes))


def test_bundles_of_before_are_exported_again(bundle) -> None:
    path = edit(bundle, schema_version=1, token_grid=None, token_stride=None, token_offset=None)
    with pytest.raises(BundleError, match="has schema version 1, of an older sdtc, this one reads 2: export the check"):
        Manifest.load(path)


def test_whole_numbers_are_numbers_and_newer_fields_are_ignored(bundle) -> None:
    as_floats: dict[str, Any] = {"num_frames": 5.0, "batch": [1.0, 4, 8], "schema_version": float(SCHEMA_VERSION)}
    changes = as_floats | {"std": [1, 1, 1], "crop_scale": 1, "added_later": {"a": 1}, "engine": None}
    manifest = Manifest.load(edit(bundle, **changes))
    assert manifest.std == (1.0, 1.0, 1.0)
    assert (manifest.num_frames, manifest.batch) == (5, (1, 4, 8))
    assert isinstance(manifest.num_frames, int)
    assert isinstance(manifest.crop_scale, float)
    assert manifest.engine is None


def places(data: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The ways to all values of a JSON document, lists and objects included; in lists to the first only."""
    if path:
        yield path
    if isinstance(data, dict):
        for key, value in data.items():
            yield from places(value, (*path, key))
    elif isinstance(data, list) and data:
        yield from places(data[0], (*path, 0))


@pytest.mark.slow
def test_mutated_manifests_only_raise_named_errors(tiny_bundle, tmp_path) -> None:
    whole = json.loads((tiny_bundle / "model.json").read_text()) | {"engine": ENGINE}
    values = (
        "null", "true", "0", "-1", "1.5", "5", "1e999", "NaN", "9" * 400, "9" * 5000, '""', '"x"', '"\\ud800"', "[]",
        "[[]]", "[null, 1, 2]", "{}", '{"onnx": 1}', '{"": {}}',
    )  # fmt: skip
    path = tmp_path / "model.json"
    for place in places(whole):
        if len(place) > 1 and place[0] in ("model", "parity"):  # free inside
            continue
        data = copy.deepcopy(whole)
        inner = data
        for step in place[:-1]:
            inner = inner[step]
        inner[place[-1]] = "@"
        for value in values:
            path.write_text(json.dumps(data).replace('"@"', value))
            with suppress(BundleError):
                manifest = Manifest.load(path)
                manifest.save(tmp_path / "again.json")
                print(manifest)


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


def test_a_link_to_a_file_of_the_bundle_finds_its_manifest(bundle, tmp_path) -> None:
    (tmp_path / "links").mkdir()
    for name, target in (
        ("pose.plan", bundle / "model.plan"),
        ("model.json", bundle / "model.json"),
        ("model.onnx", bundle / "model.onnx"),
        ("again.onnx", tmp_path / "links" / "model.onnx"),
        ("folder", bundle),
    ):
        link = tmp_path / "links" / name
        target.touch()
        link.symlink_to(target)
        assert find_manifest(link).resolve() == bundle / "model.json", name
        assert find_manifest(link).with_name("model.encoder.onnx").exists(), name
        if name != "model.onnx":
            link.unlink()


def test_a_bundle_of_links_is_a_bundle(bundle, tmp_path) -> None:
    """As download tools keep them: each file is a link to one that is named by its hash."""
    (tmp_path / "blobs").mkdir()
    for number, path in enumerate(sorted(bundle.iterdir())):
        blob = tmp_path / "blobs" / str(number)
        path.rename(blob)
        path.symlink_to(blob)
    for name in ("", "model.json", "model.onnx"):
        assert find_manifest(bundle / name) == bundle / "model.json"


def test_links_that_lead_nowhere(tmp_path) -> None:
    loop, gone = tmp_path / "loop.onnx", tmp_path / "gone.plan"
    loop.symlink_to(loop)
    gone.symlink_to(tmp_path / "nothing.plan")
    for path in (loop, gone):
        with pytest.raises(BundleError, match="does not exist"):
            find_manifest(path)
