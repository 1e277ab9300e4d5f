"""Fixtures that several parts share: a checkpoint, a bundle, real data, and the rule for tests that need a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from sdtc.export.bundle import export
from sdtc.model import BackboneConfig, ModelConfig, build, get_preset, save_checkpoint
from sdtc.runtime.cuda import gpu_or_reason


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu, reason = gpu_or_reason()
    if gpu is None:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {reason}"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real videos and PoseTrack samples."""
    folder = os.environ.get("SDTC_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs real videos: set SDTC_TEST_DATA to their folder")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained `tiny`, its heatmaps scaled up to the size that training gives them."""
    torch.manual_seed(0)
    network = build(get_preset("tiny")).eval()
    with torch.no_grad():
        network.head.conv.weight.mul_(100)
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.pth"
    save_checkpoint(path, network, trained=False)
    return path


@pytest.fixture(scope="session")
def micro_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The least network there is, as safetensors: for tests of what happens around an export."""
    config = ModelConfig(
        name="micro", input_size=(64, 48), backbone=BackboneConfig(32, 1, 2, frozen=False), width=16, heads=1,
        motion_encoder="patch", fusion="add", delta=1,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("checkpoint") / "micro.safetensors"
    save_checkpoint(path, build(config), trained=False)
    return path


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The engine bundle of `tiny`, engines included. Tests must not change it: copy it first."""
    folder = tmp_path_factory.mktemp("bundle")
    export(tiny_checkpoint, folder, batch=(1, 4, 8), quiet=True)
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)
