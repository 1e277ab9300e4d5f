"""PoseTrack's AP of anybody's predictions, of engine bundles and of checkpoints; the command is `sdtc-eval`.

In: annotation files, and predictions or an engine to make them with. Out: scores, tables, JSON and plots.

    truth = sdtc.evaluation.read_truth(["posetrack18/annotations/val"])
    result = sdtc.evaluation.evaluate(truth.people, sdtc.evaluation.read_predictions(["poses"], truth).people)
    print(result.scores.columns["Total"])

It runs engines, and PyTorch networks in their place, through `sdtc.runtime`. Names are loaded when first used.
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
