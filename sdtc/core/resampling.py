"""Token maps of a window's frames, seen from the keyframe's crop: where its tokens lie in them, and their resampling.

In a stream every frame of a person is encoded once, in the person's box of that frame. Both crops are boxes of the same
picture, so a place in the keyframe's crop has a place in every other crop, and a map of tokens can be sampled there:
bilinearly, with its edges repeated outside. The sides of boxes are parallel, so rows and columns are independent:

    row    = clip(y_scale * i + y_offset, 0, h - 1)      of the keyframe's token in row i, column j
    column = clip(x_scale * j + x_offset, 0, w - 1)

The definition in PyTorch is `sdtc.kernels.operators.gather_tokens.reference`; on GPUs the kernel there does the same.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

SAME = np.array([1.0, 0.0, 1.0, 0.0], np.float32)  # the place of a crop in itself


class TokenLayout(Protocol):
    """Where the tokens of a crop are: a bundle's manifest or a network's configuration says it.

    Attributes:
        input_size: (H, W) of a crop, pixels.
        token_stride: distance of neighbouring tokens, crop pixels.
        token_offset: place of the first token, crop pixels.
    """

    @property
    def input_size(self) -> tuple[int, int]: ...
    @property
    def token_stride(self) -> float: ...
    @property
    def token_offset(self) -> float: ...


def token_places(layout: TokenLayout, crop_boxes: np.ndarray, keyframe_boxes: np.ndarray) -> np.ndarray:
    """Return where the tokens of keyframes lie in the token maps of other crops of the same picture.

    Args:
        layout: where the tokens of a crop are.
        crop_boxes: ``[..., 4]``, of the maps to be sampled, image pixels.
        keyframe_boxes: ``[..., 4]``, broadcast against them.

    Returns:
        float32 ``[..., 4]``: x_scale, x_offset, y_scale, y_offset, in tokens; `SAME` exactly where the boxes are equal.
    """
    crop_boxes, keyframe_boxes = np.asarray(crop_boxes, np.float64), np.asarray(keyframe_boxes, np.float64)
    height, width = layout.input_size
    scale = keyframe_boxes[..., 2:] / crop_boxes[..., 2:]
    # In crop pixels: the first and last pixel centres lie on the edges of the box (`sdtc.core.crops`).
    shift = (keyframe_boxes[..., :2] - crop_boxes[..., :2]) / crop_boxes[..., 2:] * (width - 1.0, height - 1.0)
    offset = (shift + layout.token_offset * (scale - 1)) / layout.token_stride
    return np.stack([scale[..., 0], offset[..., 0], scale[..., 1], offset[..., 1]], axis=-1).astype(np.float32)


class Resampler:
    """Samples token maps on the host, as two small matrix products: rows, then columns.

    Args:
        grid: (h, w) of a map.
        channels: C.
    """

    def __init__(self, grid: tuple[int, int], channels: int) -> None:
        self._grid, self._channels = grid, channels
        self._rows = np.empty((grid[0], grid[1] * channels), np.float32)  # a map whose rows are sampled already

    def gather(self, maps: list[np.ndarray], places: np.ndarray, out: np.ndarray) -> None:
        """Write sampled maps.

        Args:
            maps: N arrays, float32 ``[L, C]``.
            places: float32 ``[N, 4]``, see `token_places`.
            out: float32 ``[N, L, C]``.
        """
        (h, w), C = self._grid, self._channels
        columns, rows = axis_weights(places[:, :2], w), axis_weights(places[:, 2:], h)
        moved = (places != SAME).any(axis=1)
        for n, tokens in enumerate(maps):
            if moved[n]:
                np.matmul(rows[n], tokens.reshape(h, w * C), out=self._rows)
                np.matmul(columns[n], self._rows.reshape(h, w, C), out=out[n].reshape(h, w, C))
            else:
                out[n] = tokens


def axis_weights(places: np.ndarray, count: int) -> np.ndarray:
    """Return the weights ``[N, count, count]`` of the tokens along one axis, for scale and offset ``[N, 2]``."""
    along = np.arange(count, dtype=np.float32)
    at = np.clip(places[:, :1] * along + places[:, 1:], 0, count - 1)  # [N, count]
    return np.maximum(1 - np.abs(at[..., None] - along), 0)  # the hat function: bilinear interpolation
