"""PoseTrack's average precision as `poseval` computes it (paper, section 8). It takes arrays, not files. NumPy only.

    result = evaluate(truth, predictions)
    result.scores.columns["Total"]

The rules, in order:

1. Frames without a single annotated person are dropped together with their predictions.
2. Joints inside an ignore region are dropped on both sides. A point on a region's edge is not inside.
3. A predicted joint matches a labelled one if their distance is at most half the head size, which is 0.6 × the
   diagonal of the head box. Where there is no head box, or one without a size, it is estimated, see
   :func:`head_sizes`. A person whose head has no size matches nothing.
4. A prediction keeps the person with the highest share of matched joints among the person's labelled joints; then a
   person keeps the prediction with the highest share, if it is not zero. Of equals the first one wins, in the order of
   the arrays. Predictions that nobody keeps are false positives in all their joints.
5. Per joint, all predicted joints are ranked by score over all frames. True positives are the matched joints of kept
   predictions; everything else is a false positive, also the joint of a kept prediction that its person has no label
   for. Recall counts all labelled joints, those of people without any prediction too.
6. AP is the area below the precision envelope over recall (VOC, all points), in percent. Head is the mean of head_top,
   head_bottom and nose, the other columns that of left and right, Total that of all 15 joints.

Where the paper does not say (ties in 4, unlabelled joints in 5), this is what `poseval` does, except that

- equal scores are one step of the curve: `poseval` ranks them by an unstable sort, so that its value depends on the
  order of the files wherever scores tie;
- a person without a head box matches nothing in `poseval`;
- a joint that is labelled nowhere has no AP (NaN) and takes no part in any mean: `poseval` does so in Total if somebody
  predicts the joint, counts 0 if nobody does, and prints `nan` for its column.

A row by label (difficulty) is the same calculation over the people who carry the label, without a new assignment: every
prediction is charged to one person of its frame, and counts in the rows of that person's labels only. It is charged to
the person who kept it. A false positive is charged to the person with the most matched joints or, if it matches no
joint of anybody, to the person whose joints are nearest on average, in head sizes. So a failed prediction of a
difficult person counts in that person's rows only, and if all people carry a label, its row equals that of the whole
set.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from sdtc.core.errors import InputError
from sdtc.core.skeleton import POSETRACK, Skeleton

MATCH_DISTANCE = 0.5  # head sizes
HEAD_SIZE_FACTOR = 0.6
# Estimates where there is no head box. PoseTrack18's head sizes are 6/7 of the distance from head_bottom to head_top.
# In the median they are 0.15 of the longer side of the person's box, and 0.13 in 398 photographs of single people.
HEAD_SIZE_OVER_NECK = 6 / 7
HEAD_SIZE_OVER_BOX = 0.14
NO_LABEL = "none"  # the row of people without labels, if others have some
JOINTS = POSETRACK.keypoints
_MAX_PAIRS = 100_000  # of a prediction and a person, in one block: about 100 MB


def _joints(*names: str) -> tuple[int, ...]:
    return tuple(JOINTS.index(name) for name in names)


COLUMNS: dict[str, tuple[int, ...]] = {
    "Head": _joints("head_top", "head_bottom", "nose"),
    **{
        part.capitalize(): _joints(f"left_{part}", f"right_{part}")
        for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
    },
    "Total": tuple(range(len(JOINTS))),
}


@dataclass(frozen=True)
class GroundTruth:
    """G annotated people in a set of frames.

    Attributes:
        num_frames: frames in the set, those without people included.
        frames: int64 ``[G]``, 0 to num_frames - 1.
        keypoints: float64 ``[G, J, 2]``, image pixels, joints in the order of `skeleton`.
        labelled: bool ``[G, J]``.
        head_sizes: float64 ``[G]``, pixels; see :func:`head_sizes`.
        ignore_regions: polygons ``[K, 2]`` in image pixels, by frame.
        labels: labels of every person, e.g. its difficulties; empty if nobody has any.
        head_estimated: bool ``[G]``, whose head size is an estimate; None: nobody's.
        skeleton: of the J joints; :func:`evaluate` takes PoseTrack's only.

    Raises:
        InputError: shapes do not agree, or a value is not finite.
    """

    num_frames: int
    frames: np.ndarray
    keypoints: np.ndarray
    labelled: np.ndarray
    head_sizes: np.ndarray
    ignore_regions: dict[int, list[np.ndarray]] = field(default_factory=dict)
    labels: tuple[frozenset[str], ...] = ()
    head_estimated: np.ndarray | None = None
    skeleton: Skeleton = POSETRACK

    def __post_init__(self) -> None:
        people, joints = len(self.frames), len(self.skeleton.keypoints)
        _expect("ground truth keypoints", self.keypoints, (people, joints, 2), self.labelled)
        _expect("ground truth labelled", self.labelled, (people, joints))
        _expect("ground truth head_sizes", self.head_sizes, (people,))
        if self.head_estimated is not None:
            _expect("ground truth head_estimated", self.head_estimated, (people,))
        if self.labels and len(self.labels) != people:
            raise InputError(f"ground truth has labels for {len(self.labels)} people: expected {people}")
        if people and not 0 <= self.frames.min() <= self.frames.max() < self.num_frames:
            raise InputError(f"ground truth has people in frames outside 0 to {self.num_frames - 1}")


@dataclass(frozen=True)
class Predictions:
    """P predicted people.

    Attributes:
        frames: int64 ``[P]``, frames of the ground truth.
        keypoints: float64 ``[P, J, 2]``, image pixels, joints in the order of `skeleton`.
        predicted: bool ``[P, J]``, which joints the prediction has.
        scores: float64 ``[P, J]``; only their order matters.
        skeleton: of the J joints, that of the ground truth.

    Raises:
        InputError: shapes do not agree, or a value is not finite.
    """

    frames: np.ndarray
    keypoints: np.ndarray
    predicted: np.ndarray
    scores: np.ndarray
    skeleton: Skeleton = POSETRACK

    def __post_init__(self) -> None:
        people, joints = len(self.frames), len(self.skeleton.keypoints)
        _expect("predicted keypoints", self.keypoints, (people, joints, 2), self.predicted)
        _expect("predicted", self.predicted, (people, joints))
        _expect("predicted scores", self.scores, (people, joints), self.predicted)


@dataclass(frozen=True)
class Curve:
    """Precision over recall of one joint, both 0-1, one point for every distinct score from high to low.

    Attributes:
        recall: ``[K]``, not decreasing.
        precision: ``[K]``, as measured.
        envelope: ``[K]``, the highest precision at this recall or beyond; AP is the area below it.
    """

    recall: np.ndarray
    precision: np.ndarray
    envelope: np.ndarray


@dataclass(frozen=True)
class Scores:
    """The scores of a set of predictions, per joint in the order of ``sdtc.core.skeleton.POSETRACK``.

    Attributes:
        ap: float64 ``[15]``, percent; NaN for a joint that is labelled nowhere.
        curves: one per joint; without points where nothing is predicted or labelled.
        labelled, predicted, matched: int64 ``[15]``, numbers of joints.
        people: number of annotated people that were scored.
        mean_error: mean distance between predicted and labelled joints of the people that were found, pixels, whether
            the joints match or not; NaN if there are none. It does not enter AP.
    """

    ap: np.ndarray
    curves: tuple[Curve, ...]
    labelled: np.ndarray
    predicted: np.ndarray
    matched: np.ndarray
    people: int
    mean_error: float

    @property
    def columns(self) -> dict[str, float]:
        """AP in percent by column of the paper's tables, Head to Total; NaN where a column has no labelled joint."""
        return {name: known_mean(self.ap[list(joints)]) for name, joints in COLUMNS.items()}

    @property
    def total(self) -> float:
        """Mean AP over the joints, percent."""
        return known_mean(self.ap)

    @property
    def precision(self) -> np.ndarray:
        """Share of predicted joints that match ``[15]``, percent, at the lowest score; NaN where none is predicted."""
        return percent(self.matched, self.predicted)

    @property
    def recall(self) -> np.ndarray:
        """Share of labelled joints that are matched ``[15]``, percent; NaN where none is labelled."""
        return percent(self.matched, self.labelled)


@dataclass(frozen=True)
class Counts:
    """Numbers of frames, people and predictions in an evaluation.

    Attributes:
        frames: evaluated.
        frames_unannotated: dropped because they have no annotated person.
        frames_unpredicted: evaluated frames without any prediction; all their joints count as missed.
        people: annotated.
        people_found: people who kept a prediction.
        predictions: people predicted in the evaluated frames, with a joint outside the ignore regions.
        predictions_dropped: predicted in frames that were dropped.
    """

    frames: int
    frames_unannotated: int
    frames_unpredicted: int
    people: int
    people_found: int
    predictions: int
    predictions_dropped: int


@dataclass(frozen=True)
class Evaluation:
    """The result of :func:`evaluate`.

    Attributes:
        scores: of all people.
        by_label: scores of the people with one label, by label in alphabetical order, `NO_LABEL` last.
        counts: of frames, people and predictions.
        prediction_of: int64 ``[G]``, the prediction that each annotated person keeps, -1 for none.
    """

    scores: Scores
    by_label: dict[str, Scores]
    counts: Counts
    prediction_of: np.ndarray


def head_size(bbox_head: np.ndarray) -> np.ndarray:
    """Return the size of heads, pixels, from their boxes ``[..., 4]`` (x, y, width, height)."""
    boxes = np.asarray(bbox_head, dtype=np.float64)
    return HEAD_SIZE_FACTOR * np.hypot(boxes[..., 2], boxes[..., 3])


def head_sizes(
    head_boxes: np.ndarray,
    keypoints: np.ndarray,
    labelled: np.ndarray,
    boxes: np.ndarray,
    skeleton: Skeleton = POSETRACK,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the size of people's heads, estimated where there is no head box.

    The estimate is `HEAD_SIZE_OVER_NECK` × the distance between head_bottom and head_top, or without these two joints
    `HEAD_SIZE_OVER_BOX` × the longer side of the person's box.

    Args:
        head_boxes: ``[G, 4]`` (x, y, width, height), image pixels; zeros where there is none.
        keypoints: ``[G, J, 2]``, image pixels.
        labelled: bool ``[G, J]``.
        boxes: of the people ``[G, 4]``; zeros where there is none.
        skeleton: of the J joints.

    Returns:
        Head sizes float64 ``[G]``, pixels, 0 where nothing tells; and bool ``[G]``, which of them are estimates.
    """
    sizes = head_size(head_boxes)
    estimated = ~(sizes > 0)
    neck = np.zeros(len(sizes))
    if skeleton == POSETRACK:  # COCO has neither joint
        top, bottom = (JOINTS.index(name) for name in ("head_top", "head_bottom"))
        joints = np.asarray(keypoints, np.float64)
        neck = np.where(labelled[:, top] & labelled[:, bottom], np.hypot(*(joints[:, top] - joints[:, bottom]).T), 0.0)
    longer_side = np.asarray(boxes, np.float64)[:, 2:].max(axis=1, initial=0.0)
    estimate = np.where(neck > 0, HEAD_SIZE_OVER_NECK * neck, HEAD_SIZE_OVER_BOX * longer_side)
    return np.where(estimated, estimate, sizes), estimated


def estimate_note(estimated: int, people: int) -> str:
    """Return the sentence that says of how many people the head size is an estimate."""
    return (
        f"{estimated:,} of {people:,} people have no head box ('bbox_head'): the size of their heads, in which "
        "distances are measured, is estimated from their joints or boxes, so this is not exactly poseval's AP"
    )


def evaluate(truth: GroundTruth, predictions: Predictions) -> Evaluation:
    """Compute PoseTrack's AP by the rules in the module's docstring.

    Args:
        truth: the annotated people.
        predictions: the predicted people; frames without predictions count as missed.

    Returns:
        AP per joint and column, of all people and by label.

    Raises:
        InputError: the ground truth has no annotated person at all, or joints that are not PoseTrack's.
    """
    if truth.skeleton != POSETRACK:
        raise InputError(f"PoseTrack's AP needs PoseTrack's joints: the ground truth has {truth.skeleton.name}'s")
    matched = _match(truth, predictions)
    order, people, guesses, assigned = matched.order, matched.people, matched.guesses, matched.who
    scores = predictions.scores[matched.kept]
    everything = _score(people, guesses, scores, assigned, np.ones(len(people), bool), np.ones(len(guesses), bool))
    return Evaluation(
        everything,
        _score_labels(truth, order, people, guesses, scores, assigned),
        matched.counts,
        matched.prediction_of,
    )


def match_counts(truth: GroundTruth, predictions: Predictions) -> tuple[np.ndarray, Counts]:
    """Return which prediction each annotated person keeps by rules 1 to 4, and the counts, for any skeleton.

    Returns:
        int64 ``[G]``, -1 for people who keep none; and the counts.

    Raises:
        InputError: the ground truth has no annotated person, or the skeletons differ.
    """
    matched = _match(truth, predictions)
    return matched.prediction_of, matched.counts


def people_by_label(truth: GroundTruth) -> dict[str, np.ndarray]:
    """Return who carries each label, bool ``[G]``, by label in alphabetical order, `NO_LABEL` last."""
    names = sorted(set().union(*truth.labels))
    if not names:
        return {}
    rows = {name: np.array([name in mine for mine in truth.labels]) for name in names}
    bare = np.array([not mine for mine in truth.labels])
    if bare.any():
        rows[NO_LABEL] = bare | rows.pop(NO_LABEL, False)
    return rows


def outside_regions(
    frames: np.ndarray, keypoints: np.ndarray, present: np.ndarray, regions: dict[int, list[np.ndarray]]
) -> np.ndarray:
    """Return which of people's present joints lie in no ignore region (rule 2).

    Args:
        frames: ``[N]``, in any order.
        keypoints: ``[N, J, 2]``, image pixels.
        present: bool ``[N, J]``.
        regions: polygons ``[K, 2]``, by frame.

    Returns:
        bool ``[N, J]``.
    """
    outside = present.copy()
    order = np.argsort(frames, kind="stable")
    for frame, polygons in regions.items():
        rows = order[slice(*np.searchsorted(frames[order], [frame, frame + 1]))]
        points = keypoints[rows].reshape(-1, 2)
        for polygon in polygons if len(points) else []:
            outside[rows] &= ~inside_polygon(points, polygon).reshape(len(rows), -1)
    return outside


def inside_polygon(points: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """Return which points lie strictly inside a polygon, by the even-odd rule; points on an edge do not.

    Args:
        points: ``[N, 2]``.
        polygon: ``[K, 2]`` corners, closed or not.

    Returns:
        bool ``[N]``.
    """
    x, y = points[:, :1], points[:, 1:]  # [N, 1]
    x1, y1 = polygon.T  # [K]
    x2, y2 = np.roll(polygon, -1, axis=0).T
    side = (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1)  # [N, K]: 0 on the edge's line, else left or right of it
    crossed = ((y1 > y) != (y2 > y)) & ((side > 0) == (y2 > y1))  # by the ray from the point to the right
    within = (np.minimum(x1, x2) <= x) & (x <= np.maximum(x1, x2)) & (np.minimum(y1, y2) <= y)
    on_edge = (side == 0) & within & (y <= np.maximum(y1, y2))
    return (crossed.sum(axis=1) % 2 == 1) & ~on_edge.any(axis=1)


@dataclass(frozen=True)
class _People:
    """People sorted by frame, annotated or predicted: frames ``[N]``, keypoints ``[N, J, 2]``, present ``[N, J]``."""

    frames: np.ndarray
    keypoints: np.ndarray
    present: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)

    def without(self, ignore_regions: dict[int, list[np.ndarray]]) -> _People:
        """Return the same people without their joints inside ignore regions."""
        present = outside_regions(self.frames, self.keypoints, self.present, ignore_regions)
        return _People(self.frames, self.keypoints, present)


@dataclass(frozen=True)
class _Assignment:
    """Which person each prediction is assigned to.

    Attributes:
        person: int64 ``[P]``, the person who keeps it; -1 for a false positive.
        charged: int64 ``[P]``, the person in whose rows by label it counts; -1 for nobody's.
        matched: bool ``[P, J]``, joints that match (rule 3) those of the person who keeps it.
        errors: float64 ``[P, J]``, distance to the joints of the person who keeps it, pixels; NaN where either joint
            is absent.
    """

    person: np.ndarray
    charged: np.ndarray
    matched: np.ndarray
    errors: np.ndarray


@dataclass(frozen=True)
class _Matched:
    """Both sides after rules 1 and 2, sorted by frame, and who belongs to whom.

    Attributes:
        order: int64 ``[G]``, which of the ground truth's people each of `people` is.
        kept: int64 ``[P]``, which of the predictions each of `guesses` is.
        people, guesses: sorted by frame.
        who: the assignment between them.
        prediction_of: int64 ``[G]``, see `Evaluation`.
        counts: of frames, people and predictions.
    """

    order: np.ndarray
    kept: np.ndarray
    people: _People
    guesses: _People
    who: _Assignment
    prediction_of: np.ndarray
    counts: Counts


def _match(truth: GroundTruth, predictions: Predictions) -> _Matched:
    """Apply rules 1 to 4."""
    if not len(truth.frames):
        raise InputError("the ground truth has no annotated person: there is nothing to evaluate against")
    if truth.skeleton != predictions.skeleton:
        raise InputError(
            f"the predictions have the joints of the skeleton '{predictions.skeleton.name}', the ground truth those of "
            f"'{truth.skeleton.name}': expected the same"
        )
    kept = np.flatnonzero(np.isin(predictions.frames, truth.frames))
    # Sorted by frame; stable, since the order of the arrays decides between equals.
    kept = kept[np.argsort(predictions.frames[kept], kind="stable")]
    order = np.argsort(truth.frames, kind="stable")
    people = _People(truth.frames[order], truth.keypoints[order], truth.labelled[order])
    guesses = _People(predictions.frames[kept], predictions.keypoints[kept], predictions.predicted[kept])
    people, guesses = people.without(truth.ignore_regions), guesses.without(truth.ignore_regions)
    who = _assign(people, truth.head_sizes[order], guesses)
    prediction_of = np.full(len(people), -1)
    found = who.person >= 0
    prediction_of[order[who.person[found]]] = kept[found]
    evaluated = np.unique(truth.frames)
    counts = Counts(
        frames=len(evaluated),
        frames_unannotated=truth.num_frames - len(evaluated),
        frames_unpredicted=len(np.setdiff1d(evaluated, guesses.frames)),
        people=len(people),
        people_found=int(found.sum()),
        predictions=int(guesses.present.any(axis=1).sum()),
        predictions_dropped=len(predictions.frames) - len(kept),
    )
    return _Matched(order, kept, people, guesses, who, prediction_of, counts)


def _assign(people: _People, head_sizes: np.ndarray, guesses: _People) -> _Assignment:
    """Apply rules 3 and 4 to people and predictions, both sorted by frame; every prediction's frame has people."""
    result = _Assignment(
        np.full(len(guesses), -1),
        np.full(len(guesses), -1),
        np.zeros(guesses.present.shape, bool),
        np.full(guesses.present.shape, np.nan),
    )
    if not len(guesses):
        return result
    first = np.searchsorted(people.frames, guesses.frames)  # [P] first and number of the people in the same frame
    count = np.searchsorted(people.frames, guesses.frames, side="right") - first
    frame_starts = np.flatnonzero(np.diff(guesses.frames, prepend=guesses.frames[0] - 1))
    block = np.add.reduceat(count, frame_starts).cumsum() // _MAX_PAIRS  # of every frame
    cuts = np.append(frame_starts[np.flatnonzero(np.diff(block, prepend=-1))], len(guesses))
    for low, high in pairwise(cuts):
        _assign_block(people, head_sizes, guesses, np.arange(low, high), first[low:high], count[low:high], result)
    return result


def _assign_block(
    people: _People,
    head_sizes: np.ndarray,
    guesses: _People,
    rows: np.ndarray,
    first: np.ndarray,
    count: np.ndarray,
    result: _Assignment,
) -> None:
    """Assign the predictions `rows`, all of one or more frames, and write the assignment into `result`.

    Args:
        rows: ``[R]`` predictions.
        first, count: ``[R]`` first and number of the people in the prediction's frame; count is at least 1.
    """
    starts = np.cumsum(count) - count  # of every prediction's pairs
    guess = np.repeat(rows, count)  # [K] every prediction with every person of its frame, in the arrays' order
    person = np.arange(len(guess)) - np.repeat(starts - first, count)
    both = guesses.present[guess] & people.present[person]  # [K, 15]
    errors = np.sqrt(((guesses.keypoints[guess] - people.keypoints[person]) ** 2).sum(axis=-1))
    with np.errstate(divide="ignore", invalid="ignore"):  # a head without size gives inf or NaN, which match nothing
        distances = errors / head_sizes[person, None]
        matched = both & (distances <= MATCH_DISTANCE)
        mean_distances = np.where(both, distances, 0).sum(axis=1) / both.sum(axis=1)  # NaN without a common joint
    share = matched.sum(axis=1) / np.maximum(people.present[person].sum(axis=1), 1)  # [K]

    best = _first_where(share == np.repeat(np.maximum.reduceat(share, starts), count), starts)  # [R] pairs
    mean_distances[~np.isfinite(mean_distances)] = np.inf
    nearest = _first_where(
        mean_distances == np.repeat(np.minimum.reduceat(mean_distances, starts), count), starts
    )  # [R] pairs
    charged = np.where(np.isfinite(mean_distances[nearest]), person[nearest], -1)
    result.charged[rows] = np.where(share[best] > 0, person[best], charged)

    best = best[share[best] > 0]
    # By person, then from the highest share down, then in the order of the predictions.
    best = best[np.lexsort((guess[best], -share[best], person[best]))]
    kept = best[np.diff(person[best], prepend=-1) != 0]
    result.person[guess[kept]] = person[kept]
    result.matched[guess[kept]] = matched[kept]
    result.errors[guess[kept]] = np.where(both[kept], errors[kept], np.nan)


def _first_where(condition: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the first index at which a condition holds in every segment; it holds somewhere in each."""
    return np.minimum.reduceat(np.where(condition, np.arange(len(condition)), len(condition)), starts)


def _score(
    people: _People,
    guesses: _People,
    scores: np.ndarray,
    assigned: _Assignment,
    people_kept: np.ndarray,
    guesses_kept: np.ndarray,
) -> Scores:
    """Score the predictions of a mask ``[P]`` against the people of a mask ``[G]``."""
    labelled = people.present[people_kept].sum(axis=0)  # [15]
    present, matched = guesses.present[guesses_kept], assigned.matched[guesses_kept]  # [P', 15]
    scores, errors = scores[guesses_kept], assigned.errors[guesses_kept]
    curves = tuple(_curve(scores[present[:, j], j], matched[present[:, j], j], labelled[j]) for j in range(len(JOINTS)))
    ap = [100 * float(np.diff(curve.recall, prepend=0) @ curve.envelope) for curve in curves]
    return Scores(
        ap=np.where(labelled > 0, ap, np.nan),
        curves=curves,
        labelled=labelled,
        predicted=present.sum(axis=0),
        matched=matched.sum(axis=0),
        people=int(people_kept.sum()),
        mean_error=known_mean(errors),
    )


def _score_labels(
    truth: GroundTruth,
    order: np.ndarray,
    people: _People,
    guesses: _People,
    scores: np.ndarray,
    assigned: _Assignment,
) -> dict[str, Scores]:
    """Score every label's people and the predictions charged to them; `order` sorted the people."""
    rows = {name: carried[order] for name, carried in people_by_label(truth).items()}
    return {
        name: _score(
            people, guesses, scores, assigned, carried, (assigned.charged >= 0) & carried[assigned.charged]
        )
        for name, carried in rows.items()
    }  # fmt: skip


def _curve(scores: np.ndarray, matched: np.ndarray, labelled: int) -> Curve:
    """Build one joint's curve from the scores ``[N]`` and matches ``[N]`` of its predictions."""
    if not len(scores) or not labelled:
        return Curve(np.zeros(0), np.zeros(0), np.zeros(0))
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # of every group of equal scores
    true_positives = np.cumsum(matched[order])[last]
    precision = true_positives / (last + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return Curve(true_positives / labelled, precision, envelope)


def known_mean(values: np.ndarray) -> float:
    """Return the mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return how much parts are of wholes, percent; NaN of a whole that is 0."""
    return np.divide(100.0 * part, whole, out=np.full(len(part), np.nan), where=whole > 0)


def _expect(what: str, value: np.ndarray, shape: tuple[int, ...], used: np.ndarray | None = None) -> None:
    """Check a shape, and that values are finite; with `used`, only those of the joints that are used."""
    if value.shape != shape:
        raise InputError(f"{what} have shape {list(value.shape)}: expected {list(shape)}")
    if value.dtype != bool and not np.isfinite(value if used is None else value[used]).all():
        raise InputError(f"{what} hold NaN or infinity: expected finite numbers")
