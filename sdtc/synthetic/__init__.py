"""Synthetic clips: people drawn in motion, with exact ground truth. Not a model of real pictures.

`people` is what a person is and how it moves, `difficulty` and `occluders` what makes a clip hard, `render` how a scene
becomes a picture, `clip` the clip itself, `writing` its files, `benchmark` the whole labelled training and validation
sets.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdtc.synthetic.clip import RenderedFrame as RenderedFrame
    from sdtc.synthetic.clip import SyntheticClip as SyntheticClip
    from sdtc.synthetic.writing import write_clip as write_clip

_MODULES = {"RenderedFrame": "clip", "SyntheticClip": "clip", "write_clip": "writing"}
__all__ = ["RenderedFrame", "SyntheticClip", "write_clip"]


def __getattr__(name: str) -> Any:
    # Only when asked for: `sdtc-synth --help` passes through here and needs neither OpenCV nor PyAV.
    if name in _MODULES:
        return getattr(import_module(f"sdtc.synthetic.{_MODULES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
