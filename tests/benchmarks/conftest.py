from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="package", autouse=True)
def folder_on_path() -> Iterator[None]:
    """The scripts import each other, as they do when Python runs one of them."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
        yield
