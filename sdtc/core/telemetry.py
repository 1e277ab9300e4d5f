"""What other libraries collect about their use and send to their makers: off, unless the user turned it on.

In: nothing. Out: an environment, and a moment of import, in which they do not collect. `sdtc.core.errors.require`
imports every optional dependency inside `without_telemetry`; nothing else may import those that collect.

- ONNX Runtime (from 1.32, on Linux too) reads ``ORT_DISABLE_TELEMETRY`` when it is loaded. Without it, it keeps a
  device id and a database of events in ``~/.cache/Microsoft`` and a session id in the folder of temporary files.
- OpenVINO has no variable. Importing it sends an event to Google Analytics by the package `openvino-telemetry`, and
  keeps a client id in ``~/intel``; where that package cannot be imported, OpenVINO does without. What a user chose by
  its command `opt_in_out` is in ``~/intel/openvino_telemetry``.
- huggingface_hub, below transformers, reads ``HF_HUB_DISABLE_TELEMETRY`` when it is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SWITCHES = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
COLLECTING = ("onnxruntime", "openvino", "transformers", "huggingface_hub")  # import them by `require` alone
_OPENVINO = "openvino_telemetry"


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Import libraries inside, and they do not collect; a variable or consent that the user has set is left alone."""
    for variable, value in SWITCHES.items():
        os.environ.setdefault(variable, value)
    if _OPENVINO in sys.modules or os.path.exists(os.path.expanduser(f"~/intel/{_OPENVINO}")):
        yield
        return
    sys.modules[_OPENVINO] = None  # type: ignore[assignment]  # Python's own way to say: there is none
    try:
        yield
    finally:
        sys.modules.pop(_OPENVINO, None)  # the user's own code may import it
