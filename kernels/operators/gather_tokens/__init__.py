"""Tokens between the streaming encoder and its windows: rows of a pool of slots, gathered and scattered.

    gather:  target[r] = source[slots[r]], resampled    tokens of the pool, into the windows of a batch
    scatter: target[slots[r]] = source[r]               tokens from the encoder, into the pool

A row holds the tokens ``[h, w, C]`` of one crop. Every frame's tokens are those of its own crop; a window wants them
where its keyframe's tokens lie. Crops are boxes of one picture with parallel sides, so that is one scale and one offset
an axis: the token in row i and column j lies in the other crop's grid at

    y = clamp(y_scale · i + y_offset, 0, h − 1)    x = clamp(x_scale · j + x_offset, 0, w − 1)

and its value is interpolated between the tokens around (bilinear), in fp32. Neighbours of weight 0 do not take part:
a place that is a whole number gives the token itself, to the bit.

In: rows of h·w·C values, int32 slots and, to gather, places ``[R, 4]`` in fp32: (x_scale, x_offset, y_scale, y_offset).
Out: the rows. The runtime launches the kernels itself (`sdtc.core.kernel_file`), so this is no operator of the network:
there is no ONNX node. Training resamples with the definition in `reference`, through which gradients flow.
"""
