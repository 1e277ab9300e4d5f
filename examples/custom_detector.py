"""Give the engine a detector of your own: here, one that looks at a part of the picture only, such as a doorway.

    python examples/custom_detector.py bundle video.mp4 320 0 320 360      x, y, width, height of the part, pixels

`bundle` is what export/to_trt.py wrote. A detector is any object with `detect(frame)` that returns `Detections`.
"""

from __future__ import annotations

import sys

import numpy as np

import sdtc.runtime
from sdtc.runtime import TrackOptions
from sdtc.runtime.people.detection import Detections, Detector, make_detector


class PartDetector:
    """Runs another detector on a part of each frame: faster, and blind to everybody else."""

    def __init__(self, inner: Detector, x: int, y: int, width: int, height: int) -> None:
        self.inner, self.x, self.y, self.width, self.height = inner, x, y, width, height

    def detect(self, frame: np.ndarray) -> Detections:
        """Return boxes ``[N, 4]`` (x, y, width, height) in pixels and scores ``[N]`` of an RGB frame, best first."""
        part = frame[self.y : self.y + self.height, self.x : self.x + self.width]
        found = self.inner.detect(np.ascontiguousarray(part))
        return Detections(found.boxes + np.array([self.x, self.y, 0, 0], np.float32), found.scores)


if __name__ == "__main__":
    bundle, video, *part = sys.argv[1:]
    detector = PartDetector(make_detector("hog"), *map(int, part))
    with sdtc.runtime.open(bundle) as engine:
        for frame in engine.track(video, TrackOptions(detector=detector)):
            print(frame.index, [(pose.track_id, round(pose.score, 2)) for pose in frame.poses])
