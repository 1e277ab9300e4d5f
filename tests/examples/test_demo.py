from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest

from sdtc.core.errors import SdtcError
from sdtc.core.posetrack import to_slots

SCRIPT = Path(__file__).parents[2] / "examples" / "demo.py"


def load():
    spec = importlib.util.spec_from_file_location("demo", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


demo = load()


def test_comparison_is_the_mean_distance_of_visible_joints(tmp_path) -> None:
    joints = np.concatenate([np.arange(30.0).reshape(15, 2), np.ones((15, 1))], axis=1)
    hidden = joints.copy()
    hidden[3:, 2] = 0
    shifted = joints + np.array([3, 4, 0])
    unseen = {"image_id": 2, "track_id": 7, "bbox": [0, 0, 30, 40], "keypoints": [0] * 51}
    truth = {
        "annotations": [
            unseen,
            {"image_id": 1, "track_id": 7, "bbox": [0, 0, 30, 40], "keypoints": to_slots(hidden).ravel().tolist()},
        ]
    }
    poses = {"annotations": [{"image_id": 1, "track_id": 7, "keypoints": to_slots(shifted).ravel().tolist()}]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "poses.json").write_text(json.dumps(poses))
    errors, sizes = demo.compare(tmp_path / "poses.json", tmp_path / "truth.json")
    assert (errors.tolist(), sizes.tolist()) == ([5.0], [50.0])
    (tmp_path / "poses.json").write_text('{"annotations": []}')
    with pytest.raises(SdtcError, match="person 7 of image 1 has no pose"):
        demo.compare(tmp_path / "poses.json", tmp_path / "truth.json")


@pytest.mark.slow
def test_the_demo_runs_to_its_table(tmp_path, capsys) -> None:
    """All that `make demo` does after installing; people walk out of its clip, and back in."""
    assert demo.main(["--output", str(tmp_path / "demo"), "--frames", "60"]) == 0
    table = capsys.readouterr().out
    for line in ("tiny, trained", "poses compared with ground truth", "mean pixel error", "overlay video"):
        assert line in table
    # Poses land on people: what the table says is what a trained network does, and no untrained one.
    assert float(re.search(r"^AP +([\d.]+)", table, re.MULTILINE)[1]) > 50
    assert float(re.search(r"^mean pixel error +([\d.]+) px", table, re.MULTILINE)[1]) < 15
    for name in ("poses/000007_synthetic.mp4", "poses/000007_synthetic.json", "bundle/model.json"):
        assert (tmp_path / "demo" / name).stat().st_size > 1000
