"""Synthetic clips: rendered people in motion with exact ground truth. They do not imitate real video.

In: the options of a clip (`ClipOptions`), its seed above all.
Out: frames with their ground truth (`SyntheticClip`), or files in PoseTrack18's layout (`write_clip`, `sdtc-synth`).

`people` models bodies and their motion, `difficulty` and `occluders` what makes a clip hard, and `render` draws the
scene. `clip` brings these together, `writing` writes the files of a clip, `benchmark` whole training and validation
sets.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sdtc.synthetic.clip import ClipOptions as ClipOptions
    from sdtc.synthetic.clip import RenderedFrame as RenderedFrame
    from sdtc.synthetic.clip import SyntheticClip as SyntheticClip
    from sdtc.synthetic.writing import write_clip as write_clip

_MODULES = {"ClipOptions": "clip", "RenderedFrame": "clip", "SyntheticClip": "clip", "write_clip": "writing"}
__all__ = ["ClipOptions", "RenderedFrame", "SyntheticClip", "write_clip"]


def __getattr__(name: str) -> Any:
    # Imported on first use: `sdtc-synth --help` imports this package and needs neither OpenCV nor PyAV.
    if name in _MODULES:
        return getattr(import_module(f"sdtc.synthetic.{_MODULES[name]}"), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
