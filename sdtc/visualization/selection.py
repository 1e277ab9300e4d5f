"""Selects the clip, keyframe and people that a figure shows. NumPy only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdtc.core.errors import InputError
from sdtc.core.skeleton import POSETRACK, Skeleton
from sdtc.training.annotations import AnnotatedPerson, AnnotationSet, measure_heads


@dataclass(frozen=True)
class Selection:
    """One person in one keyframe of one clip.

    Attributes:
        clip: name of the clip's folder of images.
        frames: all annotated frames of the clip in order: by frame number, indices into `AnnotationSet.people`.
        person: index of the selected person in the keyframe.
    """

    clip: str
    frames: dict[int, list[int]]
    person: int


def select(
    annotations: AnnotationSet, clip: str | None = None, frame: int | None = None, track_id: int | None = None
) -> Selection:
    """Select a person in a keyframe.

    Args:
        annotations: of a split.
        clip: name of a folder of images; None: the first of the split.
        frame: number of the keyframe; None: the annotated frame nearest to the middle of the clip, of those with the
            person of `track_id` if that is given.
        track_id: of the person; None: the person with the largest box in the keyframe.

    Raises:
        InputError: there is no such clip, frame or person; the message names those that exist.
    """
    people = annotations.people
    clips = list(dict.fromkeys(person.image.parent.name for person in people))
    clip = clips[0] if clip is None else clip
    frames: dict[int, list[int]] = {}
    for index, person in enumerate(people):
        if person.image.parent.name == clip:
            frames.setdefault(person.number, []).append(index)
    if not frames:
        raise InputError(f"there is no clip '{clip}' with annotations: expected one of {_some(clips)}")
    frames = {number: frames[number] for number in sorted(frames)}
    if frame is None:
        candidates = [
            number for number, found in frames.items() if track_id in {None, *(people[i].track_id for i in found)}
        ]
        if not candidates:
            tracks = sorted({people[i].track_id for found in frames.values() for i in found})
            raise InputError(f"clip '{clip}' has no person {track_id}: expected one of {_some(tracks)}")
        first = people[frames[candidates[0]][0]]
        frame = min(candidates, key=lambda number: abs(number - (first.first + first.last) / 2))
    if frame not in frames:
        raise InputError(f"clip '{clip}' has no annotated frame {frame}: expected one of {_some(list(frames))}")
    found = [i for i in frames[frame] if track_id in (None, people[i].track_id)]
    if not found:
        tracks = [people[i].track_id for i in frames[frame]]
        raise InputError(
            f"person {track_id} is not in frame {frame} of clip '{clip}': expected one of {_some(tracks)}, or "
            "another `frame`"
        )
    return Selection(clip, frames, max(found, key=lambda i: float(np.prod(people[i].box[2:]))))


def spread(numbers: Sequence[int], count: int) -> list[int]:
    """Return `count` of the numbers, evenly spread from the first to the last, or all if there are fewer."""
    places = np.linspace(0, len(numbers) - 1, min(count, len(numbers)))
    return [numbers[int(place)] for place in places.round()]


def shared_joints(skeleton: Skeleton) -> tuple[list[int], list[int]]:
    """Return the joints that a skeleton and PoseTrack's both have, as indices into the one and into the other."""
    names = [name for name in skeleton.keypoints if name in POSETRACK.keypoints]
    return [skeleton.keypoints.index(name) for name in names], [POSETRACK.keypoints.index(name) for name in names]


def joint_errors(people: Sequence[AnnotatedPerson], predicted: np.ndarray, skeleton: Skeleton) -> np.ndarray:
    """Return the distances between predicted and annotated joints.

    Args:
        people: P annotated people.
        predicted: their poses ``[P, J, 3]``, image pixels.
        skeleton: of the poses.

    Returns:
        float64 ``[P, n]`` in head sizes (see `sdtc.evaluation.ap.head_sizes`), for the n joints of both skeletons; NaN
        for joints without a label.
    """
    mine, theirs = shared_joints(skeleton)
    truth = np.stack([person.keypoints for person in people])[:, theirs].astype(np.float64)  # [P, n, 3]
    heads = measure_heads(people)[0][:, None]  # [P, 1]
    distances = np.linalg.norm(predicted[:, mine, :2] - truth[..., :2], axis=-1)  # [P, n]
    return np.where(truth[..., 2] > 0, distances / heads, np.nan)


def worst(people: Sequence[AnnotatedPerson], errors: np.ndarray, count: int) -> list[int]:
    """Return the indices of the people with the largest mean errors, the largest first (Figure 13).

    A track counts once, in the frame where its error is largest.

    Args:
        people: P annotated people.
        errors: from :func:`joint_errors`.
        count: largest number of people to return.
    """
    counted = (~np.isnan(errors)).sum(1)
    means = np.where(counted > 0, np.nansum(errors, 1) / np.maximum(counted, 1), -1.0)
    chosen: dict[tuple[Path, int], int] = {}
    for index in map(int, np.argsort(-means, kind="stable")):
        track = people[index].track_id
        key = (people[index].image.parent, track) if track >= 0 else (people[index].image, -1 - index)
        if means[index] >= 0 and len(chosen) < count:
            chosen.setdefault(key, index)
    return list(chosen.values())


def _some(values: Iterable[object], most: int = 6) -> str:
    names = list(map(str, values))
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")
