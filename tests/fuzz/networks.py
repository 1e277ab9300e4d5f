"""Targets: bundles and checkpoints."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from sdtc.core.manifest import Manifest
from tests.fuzz.corpus import picture
from tests.fuzz.mutate import json_bytes, mutate_bytes, mutate_json, odd_value
from tests.fuzz.oracle import Case, attempt, expect

BOXES = np.array([[10, 10, 40, 60], [50, 20, 30, 50]], np.float32)
KERNEL = {
    "entry": "kernel", "architecture": 86, "hidden": 1, "blocks": 4, "num_warps": 4, "shared": 0, "cubin": "",
    "ptx": "//\n.entry kernel(", "arguments": [],
}  # fmt: skip


def manifest(case: Case) -> None:
    """A manifest, and a file of kernels beside it: what is accepted says what the file says."""
    from sdtc.core.kernel_file import SCHEMA_VERSION, SIGNATURES, KernelFile

    data, intact = case.corpus.manifest, case.chance(0.02)
    if not intact:
        data = mutate_json(data, case.rng)
    content, as_is = json_bytes(data, case.rng, 0 if intact else 0.2)
    path = case.folder / "model.json"
    path.write_bytes(content)
    loaded, error = attempt(lambda: Manifest.load(path))
    if loaded is None:
        expect(not intact, error)
        return
    if as_is:
        _check_equal(dataclasses.asdict(loaded), data, "manifest")
    kernels = {
        "input_size": list(loaded.input_size), "token_shape": list(loaded.token_shape),
        "schema_version": SCHEMA_VERSION,
        "kernels": {"8.6": {name: {**KERNEL, "arguments": list(names)} for name, names in SIGNATURES.items()}},
    }  # fmt: skip
    changed = mutate_json(kernels, case.rng) if case.chance(0.9) else kernels
    path = case.folder / "model.kernels.json"
    path.write_bytes(json_bytes(changed, case.rng, 0.1)[0])
    file, _ = attempt(lambda: KernelFile.load(path, loaded))
    if file is not None:
        for code in file.kernels.values():
            for kernel in code.values():
                expect(kernel.images(), "a kernel without code")


def _check_equal(ours: Any, theirs: Any, where: str) -> None:
    """Check that each value that both have is the same, of the same type (but 3.0 is 3)."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in ours.keys() & theirs.keys():
            _check_equal(ours[key], theirs[key], f"{where}.{key}")
    elif isinstance(theirs, list) and isinstance(ours, (list, tuple)):
        expect(len(ours) == len(theirs), f"{where} has {len(theirs)} values, {len(ours)} were read")
        for index, (mine, given) in enumerate(zip(ours, theirs, strict=True)):
            _check_equal(mine, given, f"{where}[{index}]")
    else:
        if {type(ours), type(theirs)} == {float, int}:  # 3.0 is 3
            ours, theirs = float(ours), float(theirs)
        same = ours == theirs or (ours != ours and theirs != theirs)
        expect(type(ours) is type(theirs) and same, f"{where} is {theirs!r:.99}, {ours!r:.99} was read")


def bundle(case: Case) -> None:
    """A bundle with damage that its hashes do not show, opened and used: finite poses, or an error."""
    from sdtc.runtime.engine import open
    from sdtc.runtime.options import EngineOptions

    rng, folder = case.rng, case.folder / "bundle"
    shutil.copytree(case.corpus.bundle, folder)
    data = json.loads(json.dumps(case.corpus.manifest))
    kind = rng.randrange(4)
    if kind == 0:  # a hash that shows the damage
        path = folder / rng.choice(sorted(data["files"]))
        path.write_bytes(mutate_bytes(path.read_bytes(), rng))
    elif kind == 1:
        for _ in range(30):  # one of its values that the checks of the manifest let through
            changed = mutate_json(case.corpus.manifest, rng)
            (folder / "model.json").write_text(json.dumps(changed), encoding="utf-8")
            if attempt(lambda: Manifest.load(folder / "model.json"))[0] is not None:
                break
    else:
        name = rng.choice(("model.onnx", "model.encoder.onnx", "model.temporal.onnx"))
        content = (folder / name).read_bytes()
        if kind == 2:
            content = mutate_bytes(content, rng)
        else:  # graphs that do not belong where they are
            content = (
                folder / rng.choice(("model.onnx", "model.encoder.onnx", "model.temporal.onnx", "model.json"))
            ).read_bytes()
        (folder / name).write_bytes(content)
        data["files"][name] = hashlib.sha256(content).hexdigest()
        (folder / "model.json").write_text(json.dumps(data), encoding="utf-8")
    options = EngineOptions(backend="onnxruntime", threads=1, exact=case.chance(0.5))
    engine, _ = attempt(lambda: open(folder / rng.choice(("model.onnx", "model.json", "")), options))
    if engine is None:
        return
    with engine:
        images = [picture(number, (96, 128)) for number in range(engine.manifest.num_frames)]
        poses, _ = attempt(lambda: engine.estimate(images, BOXES))
    if poses is not None:
        joints = len(engine.skeleton.keypoints)
        expect(poses.shape == (2, joints, 3) and poses.dtype == np.float32, f"{poses.dtype} {poses.shape}")
        expect(np.isfinite(poses).all(), "poses that are not finite")


def checkpoint(case: Case) -> None:
    """A checkpoint: what is accepted is whole, of finite numbers, and nothing in it ran."""
    import torch

    from sdtc.model import load_checkpoint
    from sdtc.model.checkpoint import load_backbone, load_weights, read_checkpoint_data

    rng = case.rng
    path = case.folder / rng.choice(("x.pth", "x.pth", "x.safetensors"))
    original = case.corpus.checkpoint.with_suffix(path.suffix)
    intact, damaged = case.chance(0.02), case.chance(0.5)
    if intact or damaged:
        path.write_bytes(original.read_bytes() if intact else mutate_bytes(original.read_bytes(), rng))
    else:
        _write_changed(path, original, case)
    loaded, error = attempt(lambda: load_checkpoint(path))
    if intact:
        expect(loaded is not None, error)
    attempt(lambda: read_checkpoint_data(path))
    if loaded is None:
        return
    state = loaded.network.state_dict()
    expect(all(torch.isfinite(value).all() for value in state.values()), "weights that are not finite")
    expect(isinstance(loaded.trained, bool), loaded.trained)
    if damaged and path.suffix == ".pth":
        expect(_is_whole(path), "the archive's own checksums say that it is damaged, and it was accepted")
    loaded.describe((1, 1, 4))
    network = load_checkpoint(case.corpus.checkpoint).network
    attempt(lambda: load_backbone(network, path))
    attempt(lambda: load_weights(network, path))
    with torch.inference_mode():
        config = loaded.network.config
        height, width = config.input_size
        if height * width <= 200 * 200:
            loaded.network(torch.zeros(1, config.num_frames, height, width, 3, dtype=torch.uint8))


def _write_changed(path: Path, original: Path, case: Case) -> None:
    """Write a file that is whole, with other contents: of the header, or of the tensors."""
    import torch
    from safetensors.torch import save

    from sdtc.model.checkpoint import read_checkpoint_data

    rng = case.rng
    data = read_checkpoint_data(case.corpus.checkpoint)
    state = data.pop("state_dict")
    for _ in range(rng.randrange(3)):
        key = rng.choice(sorted(state))
        value = state[key]
        state[key] = rng.choice(
            (
                value.double(), value.half(), value.to(torch.int32), value.to(torch.complex64), value.reshape(-1),
                value.reshape(-1)[:0], value.float() * float("nan"), value.float() * 1e30, value.bool(),
                torch.tensor(1.0),
                value.T if value.ndim == 2 else value, value.to(torch.float8_e4m3fn),
                value.expand(2, *value.shape).contiguous(),
            )
        )  # fmt: skip
        if case.chance(0.2):
            state[rng.choice(("x", "", key + "x"))] = state.pop(key)
    if case.chance(0.6):
        data = mutate_json(data, rng)
    if path.suffix == ".safetensors":
        state = {key: value.contiguous() for key, value in state.items()}
        path.write_bytes(save(state, metadata={"sdtc": json_bytes(data, rng, 0.1)[0].decode("utf-8", "replace")}))
        return
    content: Any = {**data, "state_dict": state} if isinstance(data, dict) else data
    if case.chance(0.15):
        content = rng.choice(
            (
                state,
                [state],
                {"model": state},
                {**content, "state_dict": odd_value(rng)} if isinstance(content, dict) else 3,
            )
        )
    torch.save(content, path, _use_new_zipfile_serialization=case.chance(0.8))


def _is_whole(path: Path) -> bool:
    """Whether an archive's checksums agree with its contents."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # what a damaged archive raises is many things
        return False
