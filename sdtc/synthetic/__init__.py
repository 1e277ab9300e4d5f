"""Synthetic clips: people drawn in motion, with exact ground truth. Not a model of real pictures.

`people` is what a person is and how it moves, `render` how a scene becomes a picture, `clip` the clip itself.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdtc.synthetic.clip import Frame as Frame
    from sdtc.synthetic.clip import SyntheticClip as SyntheticClip
    from sdtc.synthetic.clip import write_clip as write_clip

__all__ = ["Frame", "SyntheticClip", "write_clip"]


def __getattr__(name: str) -> Any:
    # Only when asked for: `sdtc-synth --help` passes through here and needs neither OpenCV nor PyAV.
    if name in __all__:
        return getattr(import_module("sdtc.synthetic.clip"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
