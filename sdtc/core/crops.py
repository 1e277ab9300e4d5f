"""Person boxes, crops, and the mapping between image, crop and heatmap pixels. NumPy and OpenCV only.

One convention everywhere: a coordinate names a pixel *centre*, and the first and last pixel centres of a crop
lie on the edges of its box. So crop column 0 is the left edge of the crop box and column W-1 its right edge,
and a heatmap of w columns relates to a crop of W columns by (W-1)/(w-1). This is the unbiased convention that
ViTPose weights are trained with: flips and resizes commute with it.

Boxes are ``(x, y, width, height)`` in image pixels, float64; sizes are ``(height, width)``, as arrays are.
"""

from __future__ import annotations

import cv2
import numpy as np

from sdtc.core.errors import InputError

CROP_SCALE = 1.25  # each box is enlarged by 25 % (paper, sections 1 and 8)


def expand_boxes(
    boxes: np.ndarray, size: tuple[int, int], scale: float = CROP_SCALE, pixel_aspect: float = 1.0
) -> np.ndarray:
    """Turn person boxes into crop boxes: keep the centre, grow to the input's aspect ratio, enlarge.

    Args:
        boxes: ``[..., 4]`` person boxes, image pixels.
        size: (H, W) of the network's input.
        scale: enlargement after the aspect ratio is right.
        pixel_aspect: width of an image pixel relative to its height. The crop's pixels are square: people whom an
            anamorphic video stores squeezed are seen as they are.

    Returns:
        ``[..., 4]`` crop boxes, image pixels; they may reach beyond the image.
    """
    boxes = np.asarray(boxes, dtype=np.float64)
    aspect = size[1] / size[0] / pixel_aspect
    width, height = boxes[..., 2], boxes[..., 3]
    crop_width = np.maximum(width, height * aspect) * scale
    crop_height = crop_width / aspect
    x = boxes[..., 0] + (width - crop_width) / 2
    y = boxes[..., 1] + (height - crop_height) / 2
    return np.stack([x, y, crop_width, crop_height], axis=-1)


def image_to_crop(points: np.ndarray, crop_boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Map points from image pixels to crop pixels.

    Args:
        points: ``[..., 2]`` (x, y).
        crop_boxes: ``[..., 4]``, broadcast against points.
        size: (H, W) of the crop.
    """
    crop_boxes = np.asarray(crop_boxes, dtype=np.float64)
    return (points - crop_boxes[..., :2]) * (_last_pixel(size) / crop_boxes[..., 2:])


def crop_to_image(points: np.ndarray, crop_boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Map points from crop pixels to image pixels: the inverse of :func:`image_to_crop`."""
    crop_boxes = np.asarray(crop_boxes, dtype=np.float64)
    return points * (crop_boxes[..., 2:] / _last_pixel(size)) + crop_boxes[..., :2]


def crop_to_image_matrix(crop_box: np.ndarray, size: tuple[int, int], rotation: float = 0.0) -> np.ndarray:
    """Return the affine map from crop pixels to image pixels, ``[2, 3]``; without rotation it is `crop_to_image`.

    Args:
        crop_box: ``[4]``, from :func:`expand_boxes`.
        size: (H, W) of the crop.
        rotation: degrees by which the box is turned clockwise in the image, about its centre (training only).
    """
    x, y, width, height = np.asarray(crop_box, dtype=np.float64)
    last = _last_pixel(size)
    linear = rotation_matrix(rotation) * (np.array([width, height]) / last)  # [2, 2]
    centre = np.array([x + width / 2, y + height / 2])
    return np.concatenate([linear, (centre - linear @ (last / 2))[:, None]], axis=1)


def rotation_matrix(degrees: float) -> np.ndarray:
    """Return the matrix ``[2, 2]`` that turns image coordinates clockwise."""
    angle = np.deg2rad(degrees)
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def crop_frame(
    frame: np.ndarray,
    crop_box: np.ndarray,
    size: tuple[int, int],
    out: np.ndarray | None = None,
    rotation: float = 0.0,
) -> np.ndarray:
    """Cut one crop box out of a frame and resize it bilinearly; pixels outside the frame are black.

    Args:
        frame: uint8 ``[H_image, W_image, 3]``.
        crop_box: ``[4]``, from :func:`expand_boxes`.
        size: (H, W) of the crop.
        out: array to write to, uint8 ``[H, W, 3]`` and contiguous; a new one if not given.
        rotation: as in :func:`crop_to_image_matrix`.

    Returns:
        uint8 ``[H, W, 3]``, the channels in the order of the frame.

    Raises:
        InputError: the frame is of another type or shape. OpenCV would leave `out` as it was.
    """
    height, width = size
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise InputError(f"a frame is {frame.dtype} {list(frame.shape)}: expected uint8 [H, W, 3]")
    return cv2.warpAffine(
        frame,
        crop_to_image_matrix(crop_box, size, rotation),
        (width, height),
        dst=out,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(0, 0, 0),
    )


def _last_pixel(size: tuple[int, int]) -> np.ndarray:
    height, width = size
    return np.array([width - 1.0, height - 1.0])
