"""Engine bundle and video to poses. Imports NumPy, OpenCV, PyAV and one backend; never torch.

    import sdtc.runtime

    with sdtc.runtime.open("model.plan") as engine:
        for frame in engine.track("video.mp4"):
            for pose in frame.poses:
                print(frame.index, pose.track_id, pose.keypoints)   # [J, 3]: x, y in image pixels, score

Names are loaded when first used, so that `sdtc-infer --help` answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdtc.runtime.engine import PoseEngine, open
    from sdtc.runtime.output.results import FrameResult, Pose
    from sdtc.runtime.sources.live import LiveSource

_MODULES = {
    "open": "engine",
    "PoseEngine": "engine",
    "LiveSource": "live",
    "FrameResult": "results",
    "Pose": "results",
}
__all__ = ["FrameResult", "LiveSource", "Pose", "PoseEngine", "open"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'sdtc.runtime' has no attribute '{name}'")
    return getattr(import_module(f"sdtc.runtime.{_MODULES[name]}"), name)
