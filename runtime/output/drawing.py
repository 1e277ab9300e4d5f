"""Overlays: skeletons, boxes, track ids and scores drawn on a frame."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np

from sdtc.core.skeleton import Skeleton
from sdtc.runtime.output.results import FrameResult, Pose

MIN_KEYPOINT_SCORE = 0.2  # keypoints with a lower score are not drawn


def draw_frame(result: FrameResult, skeleton: Skeleton, min_score: float = MIN_KEYPOINT_SCORE) -> np.ndarray | None:
    """Return a copy of a frame with every pose drawn, uint8 ``[H, W, 3]`` RGB; None if there is no image."""
    if result.image is None:
        return None
    image = result.image.copy()
    for pose in result.poses:
        draw_pose(image, pose, skeleton, min_score)
    return image


def draw_pose(image: np.ndarray, pose: Pose, skeleton: Skeleton, min_score: float = MIN_KEYPOINT_SCORE) -> None:
    """Draw one pose into an RGB image, in place."""
    color = track_color(pose.track_id)
    width = max(1, round(image.shape[0] / 360))  # line width in pixels: large videos need thicker lines
    shift = 4  # sub-pixel drawing, in 1/16 pixels
    points = np.nan_to_num(pose.keypoints[:, :2]).clip(-(2**24), 2**24)  # OpenCV takes 32-bit integers
    points = np.round(points * 2**shift).astype(int)
    visible = pose.keypoints[:, 2] >= min_score
    for a, b in skeleton.limbs:
        if visible[a] and visible[b]:
            cv2.line(
                image, tuple(map(int, points[a])), tuple(map(int, points[b])), color, 2 * width, cv2.LINE_AA, shift
            )
    for point in points[visible]:
        centre = tuple(map(int, point))
        cv2.circle(image, centre, (3 * width) << shift, (255, 255, 255), -1, cv2.LINE_AA, shift)
        cv2.circle(image, centre, (2 * width) << shift, color, -1, cv2.LINE_AA, shift)
    x, y, w, h = (round(float(value)) for value in pose.bbox)
    cv2.rectangle(image, (x, y), (x + w, y + h), color, width, cv2.LINE_AA)
    _draw_label(image, f"{pose.track_id}  {pose.score:.2f}", (x, y), color, width)


def track_color(track_id: int) -> tuple[int, int, int]:
    """Return a bright RGB colour; consecutive ids are far apart in hue."""
    red, green, blue = colorsys.hsv_to_rgb(track_id * 0.618034 % 1.0, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _draw_label(image: np.ndarray, text: str, corner: tuple[int, int], color: tuple[int, int, int], width: int) -> None:
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.35 * width
    (text_width, text_height), baseline = cv2.getTextSize(text, font, scale, width)
    x = min(max(corner[0], 0), max(image.shape[1] - text_width, 0))
    y = max(corner[1], text_height + baseline)
    cv2.rectangle(image, (x, y - text_height - baseline), (x + text_width, y), color, -1)
    cv2.putText(image, text, (x, y - baseline // 2 - 1), font, scale, (0, 0, 0), width, cv2.LINE_AA)
