"""Put the poses of a video into a pandas data frame: a row for each frame, person and keypoint.

    pip install pandas
    python examples/poses_to_dataframe.py bundle video.mp4 poses.csv

`bundle` is what export/to_trt.py wrote.
"""

from __future__ import annotations

import sys

import pandas as pd

import sdtc.runtime


def poses_to_dataframe(bundle: str, video: str) -> pd.DataFrame:
    """Return the columns frame, person, keypoint, x, y (image pixels) and score."""
    with sdtc.runtime.open(bundle) as engine:
        rows = [
            (frame.number, pose.track_id, name, x, y, score)
            for frame in engine.track(video)
            for pose in frame.poses
            for name, (x, y, score) in zip(engine.skeleton.keypoints, pose.keypoints.tolist(), strict=True)
        ]
    return pd.DataFrame(rows, columns=["frame", "person", "keypoint", "x", "y", "score"])


if __name__ == "__main__":
    bundle, video, output = sys.argv[1:]
    table = poses_to_dataframe(bundle, video)
    table.to_csv(output, index=False)
    print(table.groupby(["person", "keypoint"])[["x", "y", "score"]].mean().round(2))
