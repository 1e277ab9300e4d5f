"""Figures 6, 7, 8, 11, 12 and 13 of the paper, and the overlay: each function draws one page from plain arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from sdtc.core.crops import crop_frame, expand_boxes, image_to_crop
from sdtc.core.heatmaps import decode_heatmaps
from sdtc.core.skeleton import POSETRACK, Skeleton
from sdtc.evaluation.ap import MATCH_DISTANCE
from sdtc.training.annotations import AnnotatedPerson
from sdtc.visualization.inside import Trace, context_maps, most_varied
from sdtc.visualization.panels import (
    PALETTE,
    PREDICTED,
    TRUTH,
    Page,
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
    """A frame with everybody annotated in it.

    Attributes:
        image: uint8 ``[H, W, 3]`` RGB.
        number: of the frame.
        people: P of them.
        predicted: their estimated poses ``[P, J, 3]``, image pixels.
    """

    image: np.ndarray
    number: int
    people: Sequence[AnnotatedPerson]
    predicted: np.ndarray


def draw_contexts(crop: np.ndarray, trace: Trace, channels: Sequence[int] | None, count: int, about: str) -> Page:
    """Figure 6: context maps O_S and O_M (Eq. 6) of a few channels, over the keyframe's crop.

    Args:
        crop: of the keyframe, uint8 ``[H, W, 3]`` RGB.
        trace: of the window.
        channels: which; None for those of O_S, and those of O_M, that vary most over the picture.
        count: of channels, where they are not given.
        about: what the picture is of, for the caption.
    """
    rows = {"$O_S$": context_maps(trace.features["R_bar"]), "$O_M$": context_maps(trace.features["M_bar"])}
    columns = len(channels) if channels is not None else min(count, len(trace.features["R_bar"]))
    which = "chosen channels" if channels is not None else "the channels that vary most over the picture"
    page = Page(
        [2, 2], columns + 1, crop.shape[:2], 1.35, "Figure 6: context maps",
        f"Softmax over channels (Eq. 6) of appearance ($O_S$) and of motion ($O_M$), {which}, each from its least "
        f"share to its peak. {about}",
    )  # fmt: skip
    for row, (name, maps) in enumerate(rows.items()):
        page.show(row, 0, crop, "keyframe" if row == 0 else "")
        page.name_row(row, name)
        chosen = list(channels) if channels is not None else most_varied(maps, columns)
        for column, channel in enumerate(chosen, 1):
            axes = page.show(row, column, grey(crop), f"channel {channel}\npeak {maps[channel].max():.2f}")
            heat(axes, maps[channel], token_extent(crop.shape[:2]))
    return page


def draw_poses(frames: Sequence[PosedFrame], skeleton: Skeleton, about: str) -> Page:
    """Figure 7: poses over frames, the estimated above the annotated; every person keeps a colour.

    Args:
        frames: in order.
        skeleton: of the estimated poses.
        about: what the picture is of, for the caption.
    """
    columns, view = _columns(len(frames), 6), _around_people(frames)
    blocks = ceil(len(frames) / columns)
    page = Page(
        [1, 0] * blocks, columns, view[:1:-1], min(13 / columns, 4.5), "Figure 7: poses over frames",
        f"A colour for every person; faint where a score is below 0.2. {about}",
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
    """Estimated poses over the annotated ones, in two colours; arguments as in :func:`draw_poses`."""
    columns, view = _columns(len(frames), 4), _around_people(frames)
    page = Page(
        [1] * ceil(len(frames) / columns), columns, view[:1:-1], min(13 / columns, 6.5),
        "Predictions against ground truth", f"Predictions are faint where a score is below 0.2. {about}",
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
    """Figure 8: what a tube mask (Eq. 1) and a frame mask (Eq. 4) leave of a window.

    Args:
        clip: uint8 ``[T, H, W, 3]`` RGB.
        tube_mask: bool ``[L]``, True where masked; None where there is no such level.
        frame_mask: bool ``[T]``, likewise.
        grid: (rows, columns) of tokens; L is their product.
        about: what the picture is of, for the caption.
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
        [1] + [0] * (len(rows) - 1), T, clip.shape[1:3], 1.6, "Figure 8: masks",
        f"Grey patches are replaced by a learned embedding in training; nothing is masked afterwards. {about}",
    )  # fmt: skip
    for row, (label, images) in enumerate(rows.items()):
        for t, image in enumerate(images):
            page.show(row, t, image, ("$t$" if t == T // 2 else f"$t{t - T // 2:+d}$") if row == 0 else "")
        page.name_row(row, label)
    return page


def masked_clip(clip: np.ndarray, masks: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Return a window ``[T, H, W, 3]`` with the patches where ``masks [T, L]`` is True in grey, seams between them."""
    (rows, columns), (H, W) = grid, clip.shape[1:3]
    down, across = H // rows, W // columns
    cells = masks.reshape(-1, rows, columns).repeat(down, 1).repeat(across, 2)  # [T, H, W]
    seams = np.zeros((H, W), bool)
    seams[::down], seams[:, ::across] = True, True
    masked = np.where(cells[..., None], MASKED, clip)
    return np.where((cells & seams)[..., None], MASKED + np.uint8(24), masked)


def draw_features(crop: np.ndarray, trace: Trace, about: str) -> Page:
    """Figure 11: R_P, R_F, M̄, R̄ and F beside the keyframe's crop, as far as the network has them.

    A plain mean over channels shows little but the encodings of place; here every channel is taken from its mean over
    the picture first.

    Args:
        crop: of the keyframe, uint8 ``[H, W, 3]`` RGB.
        trace: of the window.
        about: what the picture is of, for the caption.
    """
    names = [name for name in _CAPTIONED if name in trace.features]
    page = Page(
        [1], len(names) + 1, crop.shape[:2], 1.8, "Figure 11: features",
        "Mean over channels of the distance from the channel's mean over the picture, each map from its least value to "
        f"its peak: bright where tokens stand out. {about}",
    )  # fmt: skip
    page.show(0, 0, crop, "keyframe")
    for column, name in enumerate(names, 1):
        axes = page.show(0, column, grey(crop), _CAPTIONED[name])
        heat(axes, salience(trace.features[name]), token_extent(crop.shape[:2]))
    return page


def salience(maps: np.ndarray) -> np.ndarray:
    """Return the mean over channels of ``|X - its mean over the picture|``: ``[C, rows, columns]`` to a map."""
    return np.abs(maps - maps.mean(axis=(1, 2), keepdims=True)).mean(axis=0)


def draw_heatmaps(
    crop: np.ndarray,
    person: AnnotatedPerson,
    true: np.ndarray,
    labelled: np.ndarray,
    trace: Trace,
    skeleton: Skeleton,
    joints: Sequence[str],
    about: str,
) -> Page:
    """Figure 12: the true heatmaps above the predicted: maximum over joints, then single joints.

    Args:
        crop: of the keyframe, uint8 ``[H, W, 3]`` RGB.
        person: in it.
        true: targets of PoseTrack's joints, ``[15, h, w]``.
        labelled: 0 for joints without a target, ``[15]``.
        trace: of the window.
        skeleton: of the predicted heatmaps.
        joints: names.
        about: what the picture is of, for the caption.
    """
    size = crop.shape[:2]
    extent = heatmap_extent(size, true.shape[-2:])
    page = Page(
        [2, 1], len(joints) + 2, size, 1.6, "Figure 12: heatmaps",
        f"Each map from its least value to its peak. {about}",
        {"truth": TRUTH, "predicted": PREDICTED},
    )  # fmt: skip
    box = expand_boxes(person.box, size)
    keypoints = np.concatenate([image_to_crop(person.keypoints[:, :2], box, size), person.keypoints[:, 2:]], axis=1)
    draw_truth(page.show(0, 0, crop, "pose"), keypoints, POSETRACK)
    draw_predicted(page.show(1, 0, crop), decode_heatmaps(trace.heatmaps, size), skeleton)
    page.name_row(0, "truth")
    page.name_row(1, "predicted")
    heat(page.show(0, 1, grey(crop), f"all joints\npeak {true.max():.2f}"), true.max(0), extent)
    heat(page.show(1, 1, grey(crop), f"peak {trace.heatmaps.max():.2f}"), trace.heatmaps.max(0), extent)
    for column, name in enumerate(joints, 2):
        known = name in POSETRACK.keypoints and labelled[POSETRACK.keypoints.index(name)] > 0
        title = name.replace("_", " ")
        if known:
            target = true[POSETRACK.keypoints.index(name)]
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
        person: annotated in it.
        predicted: the estimated pose ``[J, 3]``, image pixels.
        errors: of the joints, head sizes; NaN where not labelled.
    """

    image: np.ndarray
    person: AnnotatedPerson
    predicted: np.ndarray
    errors: np.ndarray


def draw_failures(failures: Sequence[Failure], skeleton: Skeleton, about: str) -> Page:
    """Figure 13: people whose poses are furthest off, with the truth.

    Args:
        failures: the worst first.
        skeleton: of the estimated poses.
        about: what they were chosen from, for the caption.
    """
    columns = _columns(len(failures), 6)
    page = Page(
        [4] * ceil(len(failures) / columns), columns, _FAILURE_PANEL, 2.1, "Figure 13: failure cases",
        f"The largest mean distances of the labelled joints from the truth, in head sizes (0.6 × the head box's "
        f"diagonal). {about}",
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
            f"{person.image.parent.name}\nframe {person.number}, person {person.track_id}",
            fontsize=8,
        )
    return page


def _around_people(frames: Sequence[PosedFrame]) -> tuple[int, int, int, int]:
    """Return the part (x, y, width, height) of the pictures that holds everybody in all of them, with some room."""
    boxes = np.array([person.box for frame in frames for person in frame.people], np.float64)
    size = np.array(frames[0].image.shape[1::-1])  # width, height
    low, high = boxes[:, :2].min(0), (boxes[:, :2] + boxes[:, 2:]).max(0)
    centre, extent = (low + high) / 2, np.maximum((high - low) * 1.2, 16)
    extent = np.minimum(np.maximum(extent, extent[::-1] * 0.75), size)  # neither too tall nor too wide
    low = np.clip(centre - extent / 2, 0, size - extent)
    x, y, width, height = (int(value) for value in (*low, *extent))
    return x, y, width, height


def _columns(count: int, most: int) -> int:
    """Return the columns of a grid of at most so many, its rows as full as can be."""
    return ceil(count / ceil(count / most))
