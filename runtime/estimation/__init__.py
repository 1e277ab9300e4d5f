"""From windows of frames and the boxes of their people to keypoints: whole windows, or frame by frame.

In: frames, crop boxes and ids by keyframe. Out: keypoints in crop pixels, and the crop boxes they are in.
"""
