from __future__ import annotations

import numpy as np
import pytest

from sdtc.runtime.timing import Durations


@pytest.mark.parametrize("scale", [1e-4, 0.08, 30.0])
def test_percentiles_in_bounded_memory(rng, scale) -> None:
    values = scale * rng.lognormal(0, 0.5, 20_000)
    durations = Durations()
    for value in values:
        durations.add(value)
    assert durations.count == len(values)
    for share in (0.01, 0.5, 0.95, 0.99, 1.0):
        assert durations.percentile(share) == pytest.approx(np.quantile(values, share), rel=0.02)
    assert len(durations._buckets) < 500


def test_none_and_nothing() -> None:
    durations = Durations()
    assert durations.percentile(0.5) == 0
    durations.add(0.0)
    assert durations.percentile(0.5) < 1e-5
