"""Tokens between the streaming encoder and its windows: rows of a pool of slots, gathered and scattered.

    gather:  target[r] = source[slots[r]]        tokens of the pool, into the windows of a batch
    scatter: target[slots[r]] = source[r]        tokens from the encoder, into the pool

In: rows of L·C values, and int32 slots. Out: the copied rows. The runtime launches the kernel itself
(`sdtc.core.kernel_file`), so this is no operator of the network: there is no function for PyTorch and no ONNX node.
"""
