"""What a run gives: poses by frame, smoothed, drawn and written; and how an interrupted file goes on.

In: keypoints and people by frame. Out: `results.FrameResult`, JSON and video files.
"""
