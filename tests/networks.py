"""Networks that many tests use."""

from __future__ import annotations

import dataclasses

from sdtc.model import get_preset

# The preset `tiny` in smaller crops: half the time.
TINY = dataclasses.replace(get_preset("tiny"), input_size=(128, 96))
