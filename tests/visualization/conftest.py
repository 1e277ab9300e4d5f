"""A small data set on disk, and the least networks of every kind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sdtc.model import BackboneConfig, ModelConfig, build, load_checkpoint, save_checkpoint
from sdtc.synthetic import ClipOptions, SyntheticClip, write_clip
from sdtc.training.annotations import AnnotationSet, read_annotations
from sdtc.visualization.scene import FigureScene
from sdtc.visualization.selection import select

MICRO = {"name": "micro", "input_size": (64, 48), "width": 16, "heads": 2, "delta": 1}


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PoseTrack18 root with the sequences 000001_synthetic and 000002_synthetic, 7 frames each. Do not change it."""
    root = tmp_path_factory.mktemp("data")
    for seed in (1, 2):
        write_clip(SyntheticClip(ClipOptions(seed=seed, num_frames=7, size=(96, 128), num_people=2)), root, video=False)
    return root


@pytest.fixture(scope="session")
def annotations(data) -> AnnotationSet:
    return read_annotations(data, "val")


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory):
    """Write the least network of a kind."""

    def make(**changes) -> Path:
        torch.manual_seed(0)
        network = build(ModelConfig(backbone=BackboneConfig(32, 1, 2, frozen=False), **MICRO | changes)).eval()
        with torch.no_grad():
            network.head.conv.weight.mul_(100)  # heatmaps of the size that training gives them
        path = tmp_path_factory.mktemp("checkpoint") / "micro.pth"
        save_checkpoint(path, network, trained=False)
        return path

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint) -> Path:
    """The whole SDTC."""
    return make_checkpoint()


@pytest.fixture
def scene(checkpoint, annotations) -> FigureScene:
    """The largest person in the middle of the first clip."""
    return FigureScene(load_checkpoint(checkpoint).network, annotations, select(annotations), "micro")
