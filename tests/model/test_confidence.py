"""What a joint's score says: it falls where something stands in front of the joint, and where the joint is wrong."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from sdtc.evaluation.inference import open_checkpoint
from sdtc.synthetic import ClipOptions, SyntheticClip


def auc(low: np.ndarray, high: np.ndarray) -> float:
    """How often one of the scores that should be low is below one of those that should be high."""
    return float((low[:, None] < high).mean() + (low[:, None] == high).mean() / 2)


@pytest.mark.slow
def test_scores_of_the_packaged_network_follow_occlusion() -> None:
    """Two clips that training has not seen. Over 30 of the validation set: 0.84 and 0.69 at the median, AUC 0.75."""
    scores, hidden, right = [], [], []
    with open_checkpoint("tiny", device="cpu", threads=1) as engine:
        for seed in (900_001, 900_003):
            window: deque = deque(maxlen=5)
            for index, frame in enumerate(
                SyntheticClip(ClipOptions(seed, 30, (288, 384), num_people=3, difficulties=("occluded",), lively=True))
            ):
                window.append(frame)
                if index < 4 or index % 3:
                    continue
                truth = window[2]
                found = engine.estimate([f.image for f in window], truth.boxes)
                inside = truth.keypoints[..., 2] > 0
                off = np.linalg.norm(found[..., :2] - truth.keypoints[..., :2], axis=-1)
                heads = 0.6 * np.hypot(*truth.head_boxes[:, 2:].T)
                scores.append(found[..., 2][inside])
                hidden.append(truth.occluded[inside])
                right.append((off <= heads[:, None] / 2)[inside])
    score, behind, good = np.concatenate(scores), np.concatenate(hidden), np.concatenate(right)
    assert behind.sum() > 50
    assert np.median(score[behind]) < np.median(score[~behind]) - 0.05
    assert auc(score[behind], score[~behind]) > 0.65
    assert auc(score[~good], score[good]) > 0.75
