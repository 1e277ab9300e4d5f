"""One folder an operator.

In: tensors, on any device. Out: the operator's result; for compilers, the `Launch` of its Triton kernel.

| folder | computes |
|---|---|
| `temporal_attention` | attention over the frames of a window at one location, TA of Eq. 3 |
| `spatial_attention` | attention over the tokens of one frame, SA of Eq. 3; as joint attention, MHSA of Eq. 2 |
| `self_refinement` | context maps, context features and refinement, Eq. 6-8 |
| `cross_attention` | the attention of SMCA, Eq. 9 |
| `crop_frame` | the crops of a frame's people, as `sdtc.core.crops` |
| `gather_tokens` | tokens from a pool of slots into windows, resampled on the way; and from the encoder into the pool |
| `decode_heatmaps` | heatmaps to keypoints, as `sdtc.core.heatmaps` |

In every folder `__init__` states the mathematics and holds the public function, `reference` is the same in plain
PyTorch, `triton_kernel` the kernel, and `launch` configures the kernel for given shapes and runs it (`configure`,
`run`). The last two need Triton, and are imported only when a kernel is launched or compiled.
"""
