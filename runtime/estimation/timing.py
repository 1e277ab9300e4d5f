"""Times of the stages, and percentiles of durations."""

from __future__ import annotations

import math
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class StageTimes:
    """Seconds spent by stage, over all threads.

    Attributes:
        seconds: by stage name, in the order of first use.
        durations: of the single runs, by stage name.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.durations: dict[str, Durations] = defaultdict(Durations)
        self._lock = threading.Lock()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block, and add its duration to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            duration = time.perf_counter() - start
            with self._lock:
                self.seconds[name] += duration
                self.durations[name].add(duration)


class Durations:
    """Percentiles of any number of durations in bounded memory: counts in buckets that are 2 % wide.

    Attributes:
        count: number of durations added.
    """

    _WIDTH = math.log(1.02)

    def __init__(self) -> None:
        self.count = 0
        self._buckets: dict[int, int] = defaultdict(int)

    def add(self, seconds: float) -> None:
        self.count += 1
        self._buckets[math.floor(math.log(max(seconds, 1e-6)) / self._WIDTH)] += 1

    def percentile(self, share: float) -> float:
        """Return the duration, seconds, that this share (0-1) of them does not exceed, to 1 %; 0 if there are none."""
        seen = 0
        for bucket in sorted(self._buckets):
            seen += self._buckets[bucket]
            if seen >= share * self.count:
                return math.exp((bucket + 0.5) * self._WIDTH)
        return 0.0
