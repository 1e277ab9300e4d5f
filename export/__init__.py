"""Checkpoint to engine bundle: ONNX graphs, TensorRT engines, and the comparison that proves them right.

`to_trt` is the command; `graphs` and `functions` make the ONNX, `engine` builds from it, `verify` compares,
`bundle` puts the three together.
"""
