"""What everything else stands on: errors, files, the tables and formats that all parts share. NumPy and OpenCV only.

In: bytes, JSON and arrays. Out: checked values. Nothing here imports another room of the package.
"""
