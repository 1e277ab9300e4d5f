"""What everything else stands on: errors, files, the tables and formats that all parts share. NumPy, OpenCV, PyAV only.

In: bytes, JSON and arrays. Out: checked values, and files. Nothing here imports another room of the package.
"""
