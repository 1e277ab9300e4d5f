"""Draws overlay.png of the README: what `sdtc-infer --save-video` paints, here over a rendered clip's ground truth."""

from pathlib import Path

import cv2
import numpy as np

from sdtc.runtime.drawing import draw_frame
from sdtc.runtime.results import FrameResult, Pose
from sdtc.skeleton import POSETRACK
from sdtc.synthetic import SyntheticClip

frame = SyntheticClip(seed=21, num_frames=60, num_people=3)[30]
poses = [
    Pose(int(track), points, box, bbox_score=1.0)
    for track, points, box in zip(frame.track_ids, frame.keypoints, frame.boxes, strict=True)
]
drawn = draw_frame(FrameResult(30, 30, None, 30, frame.image, poses), POSETRACK)
picture = np.concatenate([frame.image, drawn], axis=1)
cv2.imwrite(str(Path(__file__).with_suffix(".png")), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
