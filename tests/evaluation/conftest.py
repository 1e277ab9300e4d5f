"""A small data set on disk: two sequences of rendered people, with images and annotations."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdtc.synthetic import ClipOptions, SyntheticClip, write_clip


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PoseTrack18 root with the sequences 000005_synthetic (6 frames) and 000007_synthetic (4). Do not change it."""
    root = tmp_path_factory.mktemp("dataset")
    write_clip(SyntheticClip(ClipOptions(seed=5, num_frames=6, size=(240, 320), num_people=2)), root, video=False)
    write_clip(SyntheticClip(ClipOptions(seed=7, num_frames=4, size=(240, 320), num_people=2)), root, video=False)
    return root
