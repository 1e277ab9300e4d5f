"""Fixtures that several parts share: a checkpoint, a bundle, real data, and the rule for tests that need a GPU."""

from __future__ import annotations

import dataclasses
import os
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

from sdtc.core.errors import InputError, require
from sdtc.core.manifest import FLAVOURS
from sdtc.core.telemetry import without_telemetry
from sdtc.export.bundle import ExportOptions, export
from sdtc.export.engine_builder import DEFAULT_CAPABILITIES, find_target
from sdtc.model import BackboneConfig, ModelConfig, build, save_checkpoint
from sdtc.model.checkpoint import LITERAL
from sdtc.runtime.backends.cuda import gpu_or_reason
from sdtc.runtime.backends.tensorrt_session import MODULES
from tests.networks import TINY

_SESSION = ExitStack()
_SESSION.enter_context(without_telemetry())  # tests also import libraries themselves, which must collect nothing either
settings.register_profile("sdtc", deadline=None)  # that a busy machine is slow is no failure
settings.load_profile("sdtc")

if gpu_or_reason()[0] is None:
    # Without a GPU, Triton's kernels run in its interpreter. Triton asks for this once, when it is first imported.
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_unconfigure() -> None:
    _SESSION.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu, reason = gpu_or_reason()
    if gpu is None:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {reason}"))


def hide_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process, and those that it starts, see no GPU. Without a GPU this does nothing."""
    if gpu_or_reason()[0] is None:  # also initialises CUDA here, which reads the variable below only once
        return
    cudart = require("cuda.bindings.runtime", "gpu", "tests")
    monkeypatch.setattr(cudart, "cudaGetDeviceCount", lambda: (cudart.cudaError_t.cudaErrorNoDevice, 0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture(autouse=True)
def _tiny_bundle_is_for_the_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engines of `tiny_bundle` fit some GPUs only, so its tests run everywhere as they do without a GPU."""
    if "tiny_bundle" in request.fixturenames and not request.node.get_closest_marker("gpu"):
        hide_gpu(monkeypatch)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real videos and PoseTrack samples."""
    folder = os.environ.get("SDTC_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs real videos: set SDTC_TEST_DATA to their folder")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained `tiny` for small crops, its heatmaps scaled up to the size that training gives them.

    It reads Eq. 6 and 8 to the letter: untrained heatmaps are smooth then. With a residual they have many maxima of
    nearly the same height, and a difference in the last digits chooses another.
    """
    torch.manual_seed(0)
    network = build(dataclasses.replace(TINY, **LITERAL)).eval()
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
    """The engine bundle of `tiny`, the same on every machine. Tests must not change it: copy it first.

    Its engines are TensorRT-RTX's, which are built without a GPU; where that is not installed there are none, and
    a test that needs them asks for `tiny_plans`.
    """
    folder = tmp_path_factory.mktemp("bundle")
    with pytest.MonkeyPatch.context() as monkeypatch:
        hide_gpu(monkeypatch)
        monkeypatch.setenv("SDTC_CACHE", str(tmp_path_factory.mktemp("cache")))  # no compiled kernels
        options = ExportOptions(
            batch=(1, 4, 8),
            flavour="tensorrt-rtx",
            compute_capabilities=DEFAULT_CAPABILITIES,
            plan=find_spec("tensorrt_rtx") is not None,
        )
        export(tiny_checkpoint, folder, options, quiet=True)
    return folder


@pytest.fixture(scope="session")
def tiny_plans(tiny_bundle: Path) -> Path:
    """`tiny_bundle`, for tests that need its engines."""
    if not (tiny_bundle / "model.plan").exists():
        pytest.skip("needs engines: tensorrt-rtx is not installed")
    return tiny_bundle


@pytest.fixture(scope="session", params=[pytest.param(flavour, marks=pytest.mark.gpu) for flavour in FLAVOURS])
def gpu_bundle(request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of `tiny` with engines for this GPU, once in each flavour; whoever asks for it is a `gpu` test."""
    flavour = request.param
    pytest.importorskip(MODULES[flavour], reason=f"{flavour} is not installed")
    try:
        find_target(flavour)
    except InputError as error:  # TensorRT-RTX knows no data-centre Hopper, for example
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp(f"bundle-{flavour}")
    export(tiny_checkpoint, folder, ExportOptions(batch=(1, 4, 8), flavour=flavour), quiet=True)
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every matplotlib figure that this process saves."""
    figure = pytest.importorskip("matplotlib.figure", reason="needs the extra train").Figure
    saved: list[Any] = []
    save = figure.savefig

    def savefig(self: Any, *arguments: Any, **options: Any) -> None:
        saved.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(figure, "savefig", savefig)
    return saved
