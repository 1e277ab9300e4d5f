"""Names of files and folders as text that can be drawn."""

from __future__ import annotations


def drawable(name: str) -> str:
    """Return a name that matplotlib can draw: bytes that are no text as ``\\udce9``, and ``$`` as itself."""
    return name.encode("utf-8", "backslashreplace").decode().replace("$", r"\$")
