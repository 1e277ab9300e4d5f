"""Pose estimation: from windows of frames and person boxes to keypoints, by whole windows or frame by frame.

In: frames, crop boxes and ids by keyframe. Out: keypoints in crop pixels, and the crop boxes that they refer to.
"""
