"""Figures 6, 7, 8, 11, 12 and 13 of the paper, and the overlay: each function draws one page from plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from sdtc.core.crops import crop_frame, expand_boxes, image_to_crop
from sdtc.core.heatmaps import decode_heatmaps
from sdtc.core.names import drawable
from sdtc.core.skeleton import POSETRACK, Skeleton
from sdtc.evaluation.ap import MATCH_DISTANCE
from sdtc.training.annotations import AnnotatedPerson
from sdtc.visualization.inside import Trace, context_maps, most_varied
from sdtc.visualization.panels import (
    MIN_SCORE,
    PALETTE,
    PREDICTED,
    TRUTH,
    Page,
    PanelGrid,
    draw_predicted,
    draw_truth,
    grey,
    heat,
    heatmap_extent,
    token_extent,
)

MASKED = np.array([128, 128, 128], np.uint8)
_CAPTIONED = {"R_P": "$R_P$", "R_F": "$R_F$", "M_bar": r"$\bar{M}$", "R_bar": r"$\bar{R}$", "F": "$F$"}
_FAILURE_PANEL = (384, 288)  # pixels


@dataclass(frozen=True)
class PosedFrame:
    """A frame with its P annotated people and their predicted poses.

    Attributes:
        image: uint8 ``[H, W, 3]`` RGB.
        number: of the frame.
        people: the annotations.
        predicted: ``[P, J, 3]`` (x, y, score), image pixels.
    """

    image: np.ndarray
    number: int
    people: Sequence[AnnotatedPerson]
    predicted: np.ndarray


def draw_contexts(
    crop: np.ndarray, trace: Trace, over: str, channels: Sequence[int] | None, count: int, about: str
) -> Page:
    """Draw Figure 6: context maps O_S and O_M (Eq. 6) of some channels, over the keyframe's crop.

    Args:
        crop: of the keyframe, uint8 ``[H, W, 3]`` RGB.
        trace: of the window.
        over: the axis of Eq. 6's softmax, ``"pixels"`` or ``"channels"``.
        channels: None: those of O_S, and those of O_M, with the largest variance over the image.
        count: number of channels, if `channels` is None.
        about: clip, person and network, for the caption.
    """
    rows = {
        name: context_maps(trace.features[feature], over) for name, feature in (("$O_S$", "R_bar"), ("$O_M$", "M_bar"))
    }
    columns = len(channels) if channels is not None else min(count, len(trace.features["R_bar"]))
    which = "selected channels" if channels is not None else "channels with the largest variance over the image"
    page = Page(
        PanelGrid([2, 2], columns + 1, crop.shape[:2], 1.35), "Figure 6: context maps",
        f"Softmax over {over} (Eq. 6) of appearance ($O_S$) and of motion ($O_M$); {which}, each scaled from its "
        f"minimum to its peak. {about}",
    )  # fmt: skip
    for row, (name, maps) in enumerate(rows.items()):
        page.show(row, 0, crop, "keyframe" if row == 0 else "")
        page.name_row(row, name)
        chosen = list(channels) if channels is not None else most_varied(maps, columns)
        for column, channel in enumerate(chosen, 1):
            axes = page.show(row, column, grey(crop), f"channel {channel}\npeak {maps[channel].max():.2g}")
            heat(axes, maps[channel], token_extent(crop.shape[:2]))
    return page


def draw_poses(frames: Sequence[PosedFrame], skeleton: Skeleton, about: str) -> Page:
    """Draw Figure 7: poses over frames, predicted above annotated, with a colour per person.

    Args:
        frames: in order.
        skeleton: of the predicted poses.
        about: clip and network, for the caption.
    """
    columns, view = _columns(len(frames), 6), _around_people(frames)
    blocks = ceil(len(frames) / columns)
    page = Page(
        PanelGrid([1, 0] * blocks, columns, view[:1:-1], min(13 / columns, 4.5)), "Figure 7: poses over frames",
        f"One colour per person; joints with a score below {MIN_SCORE} are faint. {about}",
    )  # fmt: skip
    tracks = list(dict.fromkeys(person.track_id for frame in frames for person in frame.people))
    for place, frame in enumerate(frames):
        block, column = divmod(place, columns)
        predicted = page.show(2 * block, column, frame.image, f"frame {frame.number}", view)
        truth = page.show(2 * block + 1, column, frame.image, view=view)
        for person, pose in zip(frame.people, frame.predicted, strict=True):
            colour = PALETTE[tracks.index(person.track_id) % len(PALETTE)]
            draw_predicted(predicted, pose, skeleton, colour)
            draw_truth(truth, person.keypoints, POSETRACK, colour)
        if column == 0:
            page.name_row(2 * block, "predicted")
            page.name_row(2 * block + 1, "truth")
    return page


def draw_overlay(frames: Sequence[PosedFrame], skeleton: Skeleton, about: str) -> Page:
    """Draw the predicted poses over the annotated ones, in two colours; arguments as in :func:`draw_poses`."""
    columns, view = _columns(len(frames), 4), _around_people(frames)
    page = Page(
        PanelGrid([1] * ceil(len(frames) / columns), columns, view[:1:-1], min(13 / columns, 6.5)),
        "Predictions over ground truth", f"Predicted joints with a score below {MIN_SCORE} are faint. {about}",
        {"truth": TRUTH, "predicted": PREDICTED},
    )  # fmt: skip
    for place, frame in enumerate(frames):
        axes = page.show(*divmod(place, columns), frame.image, f"frame {frame.number}", view)
        for person, pose in zip(frame.people, frame.predicted, strict=True):
            draw_truth(axes, person.keypoints, POSETRACK)
            draw_predicted(axes, pose, skeleton, width=1.5)
    return page


def draw_masks(
    clip: np.ndarray, tube_mask: np.ndarray | None, frame_mask: np.ndarray | None, grid: tuple[int, int], about: str
) -> Page:
    """Draw Figure 8: a window under a tube mask (Eq. 1) and under a frame mask (Eq. 4).

    Args:
        clip: uint8 ``[T, H, W, 3]`` RGB.
        tube_mask: bool ``[L]``, True where masked; None if the network has no patch level.
        frame_mask: bool ``[T]``, True where masked; None if the network has no frame level.
        grid: (rows, columns) of tokens; L is their product.
        about: clip, person and network, for the caption.
    """
    T = len(clip)
    rows = {"the window": clip}
    if tube_mask is not None:
        label = f"tube mask (Eq. 1)\n{tube_mask.sum()} of {len(tube_mask)} patches"
        rows[label] = masked_clip(clip, np.broadcast_to(tube_mask, (T, len(tube_mask))), grid)
    if frame_mask is not None:
        label = f"frame mask (Eq. 4)\n{frame_mask.sum()} of {T} frames"
        everywhere = np.broadcast_to(frame_mask[:, None], (T, grid[0] * grid[1]))
        rows[label] = masked_clip(clip, everywhere, grid)
    page = Page(
        PanelGrid([1] + [0] * (len(rows) - 1), T, clip.shape[1:3], 1.6), "Figure 8: masks",
        f"In training, a learned embedding replaces the grey patches; inference masks nothing. {about}",
    )  # fmt: skip
    for row, (label, images) in enumerate(rows.items()):
        for t, image in enumerate(images):
            page.show(row, t, image, ("$t$" if t == T // 2 else f"$t{t - T // 2:+d}$") if row == 0 else "")
        page.name_row(row, label)
    return page


def masked_clip(clip: np.ndarray, masks: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return a window ``[T, H, W, 3]`` with patches in grey where ``masks [T, L]`` is True, and lines between them."""
    (rows, columns), (H, W) = grid, clip.shape[1:3]
    down, across = H // rows, W // columns
    cells = masks.reshape(-1, rows, columns).repeat(down, 1).repeat(across, 2)  # [T, H, W]
    seams = np.zeros((H, W), bool)
    seams[::down], seams[:, ::across] = True, True
    masked = np.where(cells[..., None], MASKED, clip)
    return np.where((cells & seams)[..., None], MASKED + np.uint8(24), masked)


def draw_features(crop: np.ndarray, trace: Trace, about: str) -> Page:
    """Draw Figure 11: R_P, R_F, M̄, R̄ and F beside the keyframe's crop, as far as the network has them.

    A plain mean over channels shows little but the positional encodings, so each channel's mean over the image is
    subtracted first, see :func:`salience`.

    Args:
        crop: of the keyframe, uint8 ``[H, W, 3]`` RGB.
        trace: of the window.
        about: clip, person and network, for the caption.
    """
    names = [name for name in _CAPTIONED if name in trace.features]
    page = Page(
        PanelGrid([1], len(names) + 1, crop.shape[:2], 1.8), "Figure 11: features",
        "Mean over channels of the absolute difference from the channel's mean over the image, each map scaled "
        f"from its minimum to its peak: bright where tokens stand out. {about}",
    )  # fmt: skip
    page.show(0, 0, crop, "keyframe")
    for column, name in enumerate(names, 1):
        axes = page.show(0, column, grey(crop), _CAPTIONED[name])
        heat(axes, salience(trace.features[name]), token_extent(crop.shape[:2]))
    return page


def salience(maps: np.ndarray) -> np.ndarray:
    """Return the mean over channels of ``|X - mean of X over the image|``: ``[C, rows, columns]`` to a map."""
    return np.abs(maps - maps.mean(axis=(1, 2), keepdims=True)).mean(axis=0)


@dataclass(frozen=True)
class LabelledCrop:
    """The keyframe's crop of one person, with the targets of training.

    Attributes:
        crop: uint8 ``[H, W, 3]`` RGB.
        person: the annotation.
        heatmaps: targets of PoseTrack's joints, ``[15, h, w]``.
        weights: ``[15]``, 0 for joints without a label.
    """

    crop: np.ndarray
    person: AnnotatedPerson
    heatmaps: np.ndarray
    weights: np.ndarray


def draw_heatmaps(truth: LabelledCrop, trace: Trace, skeleton: Skeleton, joints: Sequence[str], about: str) -> Page:
    """Draw Figure 12: target heatmaps above predicted ones, first the maximum over all joints, then single joints.

    Args:
        truth: crop and targets.
        trace: of the window.
        skeleton: of the predicted heatmaps.
        joints: names of the single joints.
        about: clip, person and network, for the caption.
    """
    crop, person, targets = truth.crop, truth.person, truth.heatmaps
    size = crop.shape[:2]
    extent = heatmap_extent(size, targets.shape[-2:])
    page = Page(
        PanelGrid([2, 1], len(joints) + 2, size, 1.6), "Figure 12: heatmaps",
        f"Each map is scaled from its minimum to its peak. {about}",
        {"truth": TRUTH, "predicted": PREDICTED},
    )  # fmt: skip
    box = expand_boxes(person.box, size)
    keypoints = np.concatenate([image_to_crop(person.keypoints[:, :2], box, size), person.keypoints[:, 2:]], axis=1)
    draw_truth(page.show(0, 0, crop, "pose"), keypoints, POSETRACK)
    draw_predicted(page.show(1, 0, crop), decode_heatmaps(trace.heatmaps, size), skeleton)
    page.name_row(0, "truth")
    page.name_row(1, "predicted")
    heat(page.show(0, 1, grey(crop), f"all joints\npeak {targets.max():.2f}"), targets.max(0), extent)
    heat(page.show(1, 1, grey(crop), f"peak {trace.heatmaps.max():.2f}"), trace.heatmaps.max(0), extent)
    for column, name in enumerate(joints, 2):
        known = name in POSETRACK.keypoints and truth.weights[POSETRACK.keypoints.index(name)] > 0
        title = name.replace("_", " ")
        if known:
            target = targets[POSETRACK.keypoints.index(name)]
            heat(page.show(0, column, grey(crop), f"{title}\npeak {target.max():.2f}"), target, extent)
        else:
            page.show(0, column, grey(crop), f"{title}\nnot labelled")
        found = trace.heatmaps[skeleton.keypoints.index(name)]
        heat(page.show(1, column, grey(crop), f"peak {found.max():.2f}"), found, extent)
    return page


@dataclass(frozen=True)
class Failure:
    """One panel of Figure 13.

    Attributes:
        image: the keyframe, uint8 ``[H, W, 3]`` RGB.
        person: the annotation.
        predicted: ``[J, 3]`` (x, y, score), image pixels.
        errors: of the joints, in head sizes; NaN for joints without a label.
    """

    image: np.ndarray
    person: AnnotatedPerson
    predicted: np.ndarray
    errors: np.ndarray


def draw_failures(failures: Sequence[Failure], skeleton: Skeleton, about: str) -> Page:
    """Draw Figure 13: the people with the largest errors, with their annotated poses.

    Args:
        failures: the largest error first.
        skeleton: of the predicted poses.
        about: what they were chosen from, for the caption.
    """
    columns = _columns(len(failures), 6)
    page = Page(
        PanelGrid([4] * ceil(len(failures) / columns), columns, _FAILURE_PANEL, 2.1), "Figure 13: failure cases",
        f"The people with the largest mean distance between predicted and annotated joints, in head sizes (0.6 × the "
        f"diagonal of the head box, or an estimate where there is none). {about}",
        {"truth": TRUTH, "predicted": PREDICTED},
    )  # fmt: skip
    for place, failure in enumerate(failures):
        person, box = failure.person, expand_boxes(failure.person.box, _FAILURE_PANEL)
        axes = page.show(*divmod(place, columns), crop_frame(failure.image, box, _FAILURE_PANEL))
        for keypoints, draw, bones in (
            (person.keypoints, draw_truth, POSETRACK),
            (failure.predicted, draw_predicted, skeleton),
        ):
            in_panel = image_to_crop(keypoints[:, :2], box, _FAILURE_PANEL)
            draw(axes, np.concatenate([in_panel, keypoints[:, 2:]], axis=1), bones)
        counted = failure.errors[~np.isnan(failure.errors)]
        matched = int((counted <= MATCH_DISTANCE).sum())
        axes.set_xlabel(
            f"mean error {counted.mean():.2f} heads\n{matched} of {len(counted)} joints within {MATCH_DISTANCE}\n"
            f"{drawable(person.image.parent.name)}\nframe {person.number}, person {person.track_id}",
            fontsize=8,
        )
    return page


def _around_people(frames: Sequence[PosedFrame]) -> tuple[int, int, int, int]:
    """Return the part (x, y, width, height) of the images that contains all people of all frames, with a margin."""
    boxes = np.array([person.box for frame in frames for person in frame.people], np.float64)
    size = np.array(frames[0].image.shape[1::-1])  # width, height
    low, high = boxes[:, :2].min(0), (boxes[:, :2] + boxes[:, 2:]).max(0)
    centre, extent = (low + high) / 2, np.maximum((high - low) * 1.2, 16)
    extent = np.minimum(np.maximum(extent, extent[::-1] * 0.75), size)  # limits the aspect ratio
    low = np.clip(centre - extent / 2, 0, size - extent)
    x, y, width, height = (int(value) for value in (*low, *extent))
    return x, y, width, height


def _columns(count: int, most: int) -> int:
    """Return the number of columns, at most `most`, that fills the rows of a grid of panels evenly."""
    return ceil(count / ceil(count / most))
