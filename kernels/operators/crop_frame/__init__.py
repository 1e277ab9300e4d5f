"""Crops: each person's box, cut out of a frame on the GPU and resized to the network's input.

    crop[y, x] = frame at matrix · (x, y, 1)      bilinear; black outside the frame

In: a frame uint8 ``[H_image, W_image, 3]`` and N matrices ``[N, 2, 3]`` of `sdtc.core.crops.crop_to_image_matrix`.
Out: N crops uint8 ``[N, H, W, 3]``, to the last bit those of `sdtc.core.crops.crop_frame`.

The frame is uploaded once, however many people are in it. The runtime launches the kernel itself
(`sdtc.core.kernel_file`), so this is no operator of the network: there is no function for PyTorch and no ONNX node.
"""
