from __future__ import annotations

import numpy as np
import pytest

from sdtc.runtime.estimation import timing
from sdtc.runtime.estimation.timing import Durations, StageTimes


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


def test_stages_keep_sums_and_durations(monkeypatch) -> None:
    clock = iter([0.0, 1.0, 1.0, 3.0, 3.0, 10.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    times = StageTimes()
    for _ in range(2):
        with times.stage("crop"):
            pass
    with pytest.raises(KeyError), times.stage("crop"):  # what fails takes time too
        raise KeyError
    assert times.seconds == {"crop": 10.0}
    assert times.durations["crop"].count == 3
    assert times.durations["crop"].percentile(0.5) == pytest.approx(2.0, rel=0.02)
