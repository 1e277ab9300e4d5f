"""What counts as a whole number in files and settings: one rule for all readers."""

from __future__ import annotations

from typing import Any


def whole_number(value: Any) -> int | None:
    """Return 3 for 3 and for 3.0, as some programs write it; None for anything else, such as 3.7, true or text."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None  # to Python, true and false are whole numbers too
