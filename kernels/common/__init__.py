"""What all operators share: `torch.ops.sdtc`, the ONNX node, the launch of a Triton kernel and the checks before it.

In: an operator's name, schema and plain path; a Triton kernel with its shapes. Out: a PyTorch operator, an ONNX node, a
`kernel_launch.Launch`.

`torch_operators`, `onnx_node` and `packed_tokens` run without Triton; `kernel_launch` and `with_triton` need it.
"""
