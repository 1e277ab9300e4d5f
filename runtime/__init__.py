"""Engine bundle and video to poses. Imports NumPy, OpenCV, PyAV and one backend; never torch.

    import sdtc.runtime

    with sdtc.runtime.open("model.plan") as engine:
        for frame in engine.track("video.mp4"):
            for pose in frame.poses:
                print(frame.index, pose.track_id, pose.keypoints)   # [J, 3]: x, y in image pixels, score

The rooms, in the order in which data passes through them: `sources` (frames), `people` (boxes and ids), `estimation`
(keypoints, computed by a session of `backends`), `output` (results and files). `engine` joins them, `run` writes files
of any number of inputs, and `cli` is the command `sdtc-infer`.

Names are loaded on first use, so that `sdtc-infer --help` starts fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdtc.runtime.engine import PoseEngine, open
    from sdtc.runtime.options import EngineOptions, RunOptions, TrackOptions
    from sdtc.runtime.output.results import FrameResult, Pose
    from sdtc.runtime.run import RunSummary, run_inputs
    from sdtc.runtime.sources.live import LiveSource

_MODULES = {
    "EngineOptions": "options",
    "FrameResult": "output.results",
    "LiveSource": "sources.live",
    "Pose": "output.results",
    "PoseEngine": "engine",
    "RunOptions": "options",
    "RunSummary": "run",
    "TrackOptions": "options",
    "open": "engine",
    "run_inputs": "run",
}
__all__ = [
    "EngineOptions",
    "FrameResult",
    "LiveSource",
    "Pose",
    "PoseEngine",
    "RunOptions",
    "RunSummary",
    "TrackOptions",
    "open",
    "run_inputs",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'sdtc.runtime' has no attribute '{name}'")
    return getattr(import_module(f"sdtc.runtime.{_MODULES[name]}"), name)
