"""Where frames come from: video files, images, cameras, network streams and pipes.

In: what a user names (`open`). Out: `base.Frame`, one after another, and the windows around each (`windows`).
"""
