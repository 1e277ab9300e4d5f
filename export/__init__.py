"""Checkpoint to engine bundle: ONNX graphs, TensorRT engines, and the comparison that verifies them.

In: a checkpoint and `bundle.ExportOptions`. Out: a folder with the bundle, described by its `model.json`.

`to_trt` is the command; `graphs` and `functions` make the ONNX graphs, `engine_builder` builds engines from them,
`device_kernels` compiles the kernels around them, `verify` compares, and `bundle` puts all of it together.
"""
