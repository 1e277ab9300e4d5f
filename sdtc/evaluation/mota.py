"""Accuracy of tracks as `poseval` computes it: MOTA, MOTP, precision and recall by joint, and IDF1. By `motmetrics`.

Every joint of a person is an object that is tracked by itself (CLEAR MOT: Bernardin and Stiefelhagen, EURASIP 2008):

1. Frames, ignore regions, and which joints may match are those of AP, rules 1 to 3 of `sdtc.evaluation.ap`: a predicted
   joint may be paired with a labelled one within half a head size. Scores play no part: every predicted joint counts.
2. From frame to frame of a sequence, a labelled joint keeps the track that it was paired with last, if that may still
   match. The others are paired so that as many as possible are, and their distances add up to the least.
3. A labelled joint without a partner is a miss, a predicted one a false positive, and a labelled joint whose track is
   another than the last one it had is a switch.
4. MOTA = 1 − (misses + switches + false positives) / labelled joints; MOTP = 1 − the mean distance of pairs, in head
   sizes; precision and recall are the shares of predicted and of labelled joints that are paired. Each over all
   sequences, in percent; Total is the mean over the joints.
5. IDF1 (Ristani et al., 2016) = 2 TP / (2 TP + FP + FN) under the one assignment of predicted to labelled tracks, over
   the whole sequence, that makes it highest; by joint, and its mean.

Two habits of `poseval` are kept, since published figures have them: the last annotated frame of every sequence takes no
part; and a frame with nobody labelled or nobody predicted counts as one miss and one false positive of every joint (for
IDF1 it counts as it is). Its MOTP is another: it adds the distances of all joints that may match to those of the pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from sdtc.core.errors import InputError, require
from sdtc.evaluation.ap import (
    COLUMNS,
    JOINTS,
    MATCH_DISTANCE,
    GroundTruth,
    Predictions,
    known_mean,
    outside_regions,
    percent,
)

_COUNTS = ("num_misses", "num_switches", "num_false_positives", "num_objects", "num_detections", "idtp", "idfp", "idfn")


@dataclass(frozen=True)
class TrackScores:
    """Counts over all sequences, int64 ``[15]`` each, by joint in the order of ``sdtc.core.skeleton.POSETRACK``.

    Attributes:
        misses, switches, false_positives: errors.
        objects: labelled joints.
        pairs: labelled joints that have a partner.
        distance: sum over the pairs, head sizes, float64.
        idtp, idfp, idfn: true positives, false positives and misses under the assignment of whole tracks.
    """

    misses: np.ndarray
    switches: np.ndarray
    false_positives: np.ndarray
    objects: np.ndarray
    pairs: np.ndarray
    distance: np.ndarray
    idtp: np.ndarray
    idfp: np.ndarray
    idfn: np.ndarray

    @property
    def mota(self) -> np.ndarray:
        """Percent ``[15]``; NaN for a joint that is labelled nowhere."""
        return 100.0 - percent(self.misses + self.switches + self.false_positives, self.objects)

    @property
    def motp(self) -> np.ndarray:
        """Percent ``[15]``; NaN for a joint without a pair."""
        return 100.0 - percent(self.distance, self.pairs)

    @property
    def precision(self) -> np.ndarray:
        """Percent ``[15]``; NaN for a joint that is predicted nowhere."""
        return percent(self.pairs, self.pairs + self.false_positives)

    @property
    def recall(self) -> np.ndarray:
        """Percent ``[15]``; NaN for a joint that is labelled nowhere."""
        return percent(self.pairs, self.objects)

    @property
    def idf1(self) -> np.ndarray:
        """Percent ``[15]``; NaN for a joint that is neither labelled nor predicted."""
        return percent(2 * self.idtp, 2 * self.idtp + self.idfp + self.idfn)

    @property
    def columns(self) -> dict[str, float]:
        """MOTA by column of the paper's tables, Head to Total; then the means of the others over the joints."""
        return {
            **{name: known_mean(self.mota[list(joints)]) for name, joints in COLUMNS.items()},
            "MOTP": known_mean(self.motp),
            "Prec": known_mean(self.precision),
            "Rec": known_mean(self.recall),
            "IDF1": known_mean(self.idf1),
        }


def evaluate_tracks(
    truth: GroundTruth,
    predictions: Predictions,
    truth_ids: np.ndarray,
    predicted_ids: np.ndarray,
    sequences: np.ndarray,
) -> TrackScores:
    """Compute the accuracy of tracks by the rules in the module's docstring.

    Args:
        truth: the annotated people.
        predictions: the predicted people.
        truth_ids: int64 ``[G]``, track ids, unique in a frame; those of one sequence mean nothing in another.
        predicted_ids: int64 ``[P]``, likewise.
        sequences: int64 ``[F]``, the sequence of each frame; its frames are in order of time.

    Raises:
        InputError: somebody has no id (a negative one), two in a frame have the same, or no sequence has two annotated
            frames.
        MissingExtraError: motmetrics is not installed.
    """
    library = require_library()
    _check_ids(truth.frames, truth_ids, "people of the ground truth")
    _check_ids(predictions.frames, predicted_ids, "poses")
    labelled = outside_regions(truth.frames, truth.keypoints, truth.labelled, truth.ignore_regions)
    predicted = outside_regions(predictions.frames, predictions.keypoints, predictions.predicted, truth.ignore_regions)
    frames = _frames(truth, sequences)
    # One number for every track of every sequence.
    objects = _number(sequences[truth.frames], truth_ids)
    hypotheses = _number(sequences[predictions.frames], predicted_ids)
    people_of, poses_of = _rows(truth.frames, labelled, frames), _rows(predictions.frames, predicted, frames)

    accumulators = [library.MOTAccumulator(auto_id=True) for _ in JOINTS]
    uncounted = np.zeros((2, len(JOINTS)), np.int64)  # labelled and predicted joints that MOTA counts otherwise
    for number, (people, poses) in enumerate(zip(people_of, poses_of, strict=True)):
        if not len(people) or not len(poses):
            for accumulator in accumulators:
                accumulator.update([-1 - number], [-1 - number], [[np.nan]])  # a track of its own
            uncounted += np.stack([labelled[people].sum(axis=0), predicted[poses].sum(axis=0)]) - 1
            continue
        off = np.linalg.norm(truth.keypoints[people, None] - predictions.keypoints[None, poses], axis=-1)  # [g, p, 15]
        with np.errstate(divide="ignore", invalid="ignore"):  # a head without size
            off /= truth.head_sizes[people, None, None]
        off[~(off <= MATCH_DISTANCE)] = np.nan
        for j, accumulator in enumerate(accumulators):
            here, there = labelled[people, j], predicted[poses, j]
            accumulator.update(objects[people[here]], hypotheses[poses[there]], off[here][:, there, j])
    return _totals(library, accumulators, uncounted)


def require_library() -> ModuleType:
    """Import motmetrics, or say which extra to install."""
    return require("motmetrics", "eval", "the accuracy of tracks")


def _check_ids(frames: np.ndarray, ids: np.ndarray, what: str) -> None:
    """Check track ids ``[N]``.

    Raises:
        InputError: some are negative, that is, missing, or two in a frame are the same.
    """
    if (ids < 0).any():
        raise InputError(f"{(ids < 0).sum():,} of {len(ids):,} {what} have no track id")
    order = np.lexsort((ids, frames))
    same = (np.diff(frames[order]) == 0) & (np.diff(ids[order]) == 0)
    if same.any():
        raise InputError(f"two {what} in one image have the track id {ids[order[same.argmax()]]}")


def _frames(truth: GroundTruth, sequences: np.ndarray) -> np.ndarray:
    """Return the frames that take part, in order of time: those with people, but for the last of every sequence."""
    annotated = np.unique(truth.frames)
    order = annotated[np.argsort(sequences[annotated], kind="stable")]
    frames: np.ndarray = order[:-1][np.diff(sequences[order]) == 0]
    if not len(frames):
        raise InputError("no sequence has two annotated frames")
    return frames


def _number(sequences: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return a number from 0 for each track: the same for the same sequence and id."""
    return np.unique(np.stack([sequences, ids], axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def _rows(of: np.ndarray, present: np.ndarray, frames: np.ndarray) -> Iterator[np.ndarray]:
    """Yield for each frame the rows of its people who have a joint, in their order."""
    rows = np.flatnonzero(present.any(axis=1))
    rows = rows[np.argsort(of[rows], kind="stable")]
    starts, ends = (np.searchsorted(of[rows], frames, side=side) for side in ("left", "right"))
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        yield rows[start:end]


def _totals(library: ModuleType, accumulators: list, uncounted: np.ndarray) -> TrackScores:
    metrics = library.metrics.create()
    rows, distances = [], []
    for accumulator in accumulators:
        counts = metrics.compute(accumulator, metrics=list(_COUNTS), return_dataframe=False)
        rows.append([int(counts[name]) for name in _COUNTS])
        events = accumulator.events
        distances.append(float(events["D"][events["Type"].isin(["MATCH", "SWITCH"])].sum()))
    misses, switches, false_positives, objects, pairs, idtp, idfp, idfn = np.array(rows, np.int64).T
    return TrackScores(
        misses, switches, false_positives, objects, pairs, np.array(distances), idtp,
        idfp=idfp + uncounted[1], idfn=idfn + uncounted[0],
    )  # fmt: skip
