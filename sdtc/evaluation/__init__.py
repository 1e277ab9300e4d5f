"""Evaluation: AP, PCK and MOTA of predictions in files, of engine bundles and of checkpoints: the command `sdtc-eval`.

In: ground truth, and predictions, a bundle or a checkpoint (`reading`, `inference`).
Out: PoseTrack's AP by joint and by difficulty (`ap`), COCO's (`oks`), PCK (`pck`) and the accuracy of tracks (`mota`),
as a table, JSON and a plot (`score_table`, `plot`).

    truth = sdtc.evaluation.read_truth(["posetrack18/annotations/val"])
    result = sdtc.evaluation.evaluate(truth.people, sdtc.evaluation.read_predictions(["poses"], truth).people)
    print(result.scores.columns["Total"])

This is the only room of `sdtc` that imports `sdtc.runtime`: checkpoints run on the same windows and crops as engines.
Names are loaded when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdtc.evaluation.ap import Evaluation, GroundTruth, Predictions, evaluate
    from sdtc.evaluation.inference import open_checkpoint, predict
    from sdtc.evaluation.reading import read_predictions, read_truth

_MODULES = {
    "Evaluation": "ap",
    "GroundTruth": "ap",
    "Predictions": "ap",
    "evaluate": "ap",
    "open_checkpoint": "inference",
    "predict": "inference",
    "read_predictions": "reading",
    "read_truth": "reading",
}

__all__ = [
    "Evaluation",
    "GroundTruth",
    "Predictions",
    "evaluate",
    "open_checkpoint",
    "predict",
    "read_predictions",
    "read_truth",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'sdtc.evaluation' has no attribute '{name}'")
    return getattr(import_module(f"sdtc.evaluation.{_MODULES[name]}"), name)
