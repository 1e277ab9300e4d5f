from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from sdtc.core.errors import MissingExtraError
from sdtc.core.skeleton import COCO
from sdtc.runtime.output.results import FrameResult, Pose


def person(track_id: int, left: float) -> Pose:
    points = np.stack([left + np.arange(17.0), 50 + np.arange(17.0), np.linspace(0.2, 1, 17)], axis=1)
    return Pose(track_id, points.astype(np.float32), np.array([left, 50, 20, 30], np.float32), 0.5)


def frame(*poses: Pose) -> FrameResult:
    return FrameResult(0, 0, None, 0, np.zeros((120, 160, 3), np.uint8), list(poses))


class Anything(SimpleNamespace):
    """Stands in for both classes of `supervision`: it keeps the names that it is given."""

    @classmethod
    def empty(cls) -> Anything:
        return cls()


@pytest.fixture(params=["real", "fake"])
def supervision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    if request.param == "real":
        return pytest.importorskip("supervision", reason="supervision is not installed")
    fake = ModuleType("supervision")
    fake.KeyPoints = fake.Detections = Anything  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", fake)
    return fake


def test_supervision_gets_keypoints_boxes_and_ids(supervision) -> None:
    key_points, detections = frame(person(7, 10), person(3, 90)).to_supervision()
    assert isinstance(key_points, supervision.KeyPoints)
    assert isinstance(detections, supervision.Detections)
    assert key_points.xy.shape == (2, 17, 2)
    assert key_points.xy[1, 0].tolist() == [90, 50]
    assert key_points.keypoint_confidence[0, [0, -1]].tolist() == pytest.approx([0.2, 1])
    assert key_points.detection_confidence.tolist() == pytest.approx([0.3, 0.3])  # 0.6 on average x 0.5
    assert key_points.data["tracker_id"].tolist() == [7, 3]
    assert detections.xyxy.tolist() == [[10, 50, 30, 80], [90, 50, 110, 80]]
    assert detections.confidence.tolist() == [0.5, 0.5]
    assert detections.tracker_id.tolist() == [7, 3]
    assert detections.class_id.tolist() == key_points.class_id.tolist() == [0, 0]


def test_supervision_draws_and_selects_them() -> None:
    sv = pytest.importorskip("supervision", reason="supervision is not installed")
    result = frame(person(7, 10), person(3, 90))
    key_points, detections = result.to_supervision()
    edges = [(a + 1, b + 1) for a, b in COCO.limbs]  # it counts keypoints from 1
    image = sv.EdgeAnnotator(edges=edges).annotate(result.image.copy(), key_points)
    assert image[50:80, 10:30].any()
    assert image[50:80, 90:110].any()
    chosen = detections[detections.tracker_id == 3]
    assert chosen.xyxy.tolist() == [[90, 50, 110, 80]]
    assert key_points[key_points["tracker_id"] == 3].xy[0, 0].tolist() == [90, 50]
    assert sv.BoxAnnotator().annotate(result.image.copy(), detections).any()


def test_nobody_is_an_empty_answer() -> None:
    pytest.importorskip("supervision", reason="supervision is not installed")
    key_points, detections = frame().to_supervision()
    assert len(key_points) == len(detections) == 0


def test_without_supervision_the_error_names_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'sdtc\[supervision\]'"):
        frame(person(7, 10)).to_supervision()
