"""Who is in a frame: boxes from a detector or a file, and track ids.

In: frames. Out: boxes, scores and ids of the people in each (`finder`).
"""
