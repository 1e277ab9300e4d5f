"""The results of a run: poses by frame, smoothed, drawn and written; and how an interrupted run is continued.

In: keypoints and people by frame. Out: `results.FrameResult`, JSON and video files.
"""
