"""Percentage of correct keypoints: PCK@0.2, in torsos, and PCKh@0.5, in heads. It takes arrays, not files. NumPy only.

    pck(truth, predictions, evaluation.prediction_of).columns["Limbs"]

A joint is correct if its distance from the labelled one is at most

- PCK@0.2: 0.2 × the torso, which is the distance from the left shoulder to the right hip of the annotation, as in FLIC
  and LSP (Sapp and Taskar, MODEC, CVPR 2013; Toshev and Szegedy, DeepPose, CVPR 2014);
- PCKh@0.5: 0.5 × the head size, which is 0.6 × the diagonal of the head box (Andriluka et al., CVPR 2014).

Every annotated person has one pose or none; of a person without one, all joints are wrong, as is a joint that the pose
lacks. Joints without a label do not count, nor do those in an ignore region, nor people without the length that their
distances are measured in: those whose left shoulder or right hip is not labelled, or who have no head box. Scores play
no part, and poses that are nobody's count nowhere: that is what AP is for.

A column is the share of its joints that are correct, in percent, over all people: a joint counts as often as it is
labelled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sdtc.core.errors import InputError
from sdtc.core.skeleton import Skeleton
from sdtc.evaluation.ap import MATCH_DISTANCE, GroundTruth, Predictions, outside_regions

PCK_DISTANCE = 0.2  # torsos
TORSO = ("left_shoulder", "right_hip")
LIMBS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
COLUMNS = ("Head", *(part.capitalize() for part in LIMBS), "Limbs", "Total")


@dataclass(frozen=True)
class Pck:
    """Which joints of the people of a ground truth are correct.

    Attributes:
        name: ``"PCK@0.2"`` or ``"PCKh@0.5"``.
        skeleton: of the J joints.
        counted: bool ``[G, J]``, joints that take part.
        correct: bool ``[G, J]``, those of them that are correct.
        left_out: bool ``[G]``, people with labelled joints who have no torso or no head to measure in.
    """

    name: str
    skeleton: Skeleton
    counted: np.ndarray
    correct: np.ndarray
    left_out: np.ndarray

    @property
    def columns(self) -> dict[str, float]:
        """Percent by column: *Limbs* are the twelve joints from shoulders to ankles, *Total* all; NaN without any."""
        return {name: _share(self.correct[:, joints], self.counted[:, joints]) for name, joints in self._joints()}

    @property
    def by_joint(self) -> np.ndarray:
        """Percent by joint, float64 ``[J]``; NaN for a joint that nobody counted has."""
        return np.array([_share(self.correct[:, j], self.counted[:, j]) for j in range(self.counted.shape[1])])

    @property
    def people(self) -> int:
        """How many people take part."""
        return int(self.counted.any(axis=1).sum())

    @property
    def note(self) -> str:
        """The sentence about who is left out; "" if nobody is."""
        count = int(self.left_out.sum())
        if not count:
            return ""
        why = f"a labelled {TORSO[0]} and {TORSO[1]}" if self.name.startswith("PCK@") else "a head box ('bbox_head')"
        return f"{self.name} leaves out {count:,} of {count + self.people:,} people, who lack {why}"

    def of(self, people: np.ndarray) -> Pck:
        """Return the same of some people only, given by a mask or by indices."""
        return replace(self, counted=self.counted[people], correct=self.correct[people], left_out=self.left_out[people])

    def _joints(self) -> list[tuple[str, list[int]]]:
        parts = [name.removeprefix("left_").removeprefix("right_") for name in self.skeleton.keypoints]
        limbs = [j for j, part in enumerate(parts) if part in LIMBS]
        head = [j for j in range(len(parts)) if j not in limbs]
        of_part = [[j for j in limbs if parts[j] == part] for part in LIMBS]
        return list(zip(COLUMNS, (head, *of_part, limbs, list(range(len(parts)))), strict=True))


def torso_sizes(truth: GroundTruth) -> np.ndarray:
    """Return the distance from left shoulder to right hip ``[G]``, pixels; 0 where one of them is not labelled."""
    shoulder, hip = (truth.skeleton.keypoints.index(name) for name in TORSO)
    sizes = np.hypot(*(truth.keypoints[:, shoulder] - truth.keypoints[:, hip]).T)
    return np.where(truth.labelled[:, shoulder] & truth.labelled[:, hip], sizes, 0.0)


def pck(truth: GroundTruth, predictions: Predictions, prediction_of: np.ndarray) -> Pck:
    """Return PCK@0.2, by the rules in the module's docstring.

    Args:
        truth: the annotated people.
        predictions: with the same skeleton.
        prediction_of: int64 ``[G]``, which prediction is each person's, -1 for none:
            `sdtc.evaluation.ap.Evaluation.prediction_of`, or that in the person's own box.

    Raises:
        InputError: the skeletons differ.
    """
    return _compare(f"PCK@{PCK_DISTANCE}", truth, predictions, prediction_of, PCK_DISTANCE * torso_sizes(truth))


def pckh(truth: GroundTruth, predictions: Predictions, prediction_of: np.ndarray) -> Pck:
    """Return PCKh@0.5 of the people with a head box; arguments and errors are those of :func:`pck`."""
    known = True if truth.head_estimated is None else ~truth.head_estimated
    sizes = np.where(known, truth.head_sizes, 0.0)
    return _compare(f"PCKh@{MATCH_DISTANCE}", truth, predictions, prediction_of, MATCH_DISTANCE * sizes)


def _compare(
    name: str, truth: GroundTruth, predictions: Predictions, prediction_of: np.ndarray, reach: np.ndarray
) -> Pck:
    """Compare every person with a pose; `reach` ``[G]`` is how far a correct joint may be off, pixels."""
    if truth.skeleton != predictions.skeleton:
        raise InputError(
            f"the predictions have the joints of the skeleton '{predictions.skeleton.name}', the ground truth those of "
            f"'{truth.skeleton.name}': expected the same"
        )
    labelled = outside_regions(truth.frames, truth.keypoints, truth.labelled, truth.ignore_regions)  # [G, J]
    predicted = outside_regions(
        predictions.frames, predictions.keypoints, predictions.predicted, truth.ignore_regions
    )  # [P, J]
    measurable = reach > 0
    counted = labelled & measurable[:, None]
    rows = np.flatnonzero(prediction_of >= 0)
    mine = prediction_of[rows]
    off = np.linalg.norm(predictions.keypoints[mine] - truth.keypoints[rows], axis=-1)  # [R, J]
    correct = np.zeros_like(counted)
    correct[rows] = counted[rows] & predicted[mine] & (off <= reach[rows, None])
    return Pck(name, truth.skeleton, counted, correct, labelled.any(axis=1) & ~measurable)


def _share(correct: np.ndarray, counted: np.ndarray) -> float:
    total = int(counted.sum())
    return 100.0 * int(correct.sum()) / total if total else float("nan")
