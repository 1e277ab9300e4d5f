from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdtc.errors import VideoError
from sdtc.runtime.pipeline import overlap, overlap_batches


def stage_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sdtc-")]


@given(st.lists(st.integers()), st.integers(1, 4), st.integers(1, 3))
def test_order_is_kept_through_any_number_of_stages(items, depth, stages) -> None:
    stream = iter(items)
    for number in range(stages):
        stream = overlap(stream, depth, f"stage{number}")
    assert list(stream) == items
    assert not stage_threads()


def test_two_stages_take_the_time_of_one() -> None:
    def slow(items):
        for item in items:
            time.sleep(0.02)
            yield item

    start = time.perf_counter()
    assert sum(1 for _ in slow(overlap(slow(range(20)), 2, "slow"))) == 20
    assert time.perf_counter() - start < 0.65  # 0.8 s one after the other, 0.42 s together


def test_a_stage_that_is_ahead_waits() -> None:
    made = []

    def source():
        for number in range(100):
            made.append(number)
            yield number

    stream = overlap(source(), 3, "source")
    next(stream)
    time.sleep(0.1)
    assert len(made) <= 5  # one taken, three waiting, one in hand
    stream.close()
    assert not stage_threads()


def test_an_error_comes_after_the_items_before_it() -> None:
    def broken():
        yield 1
        yield 2
        raise VideoError("broken in the middle")

    seen = []
    with pytest.raises(VideoError, match="broken in the middle"):
        for item in overlap(overlap(broken(), 1, "inner"), 1, "outer"):
            seen.append(item)
    assert seen == [1, 2]
    assert not stage_threads()


def test_a_consumer_that_stops_early_closes_every_stage_in_its_own_thread() -> None:
    closed_in = []

    def source():
        try:
            yield from range(1000)
        finally:
            closed_in.append(threading.current_thread().name)

    stream = overlap(overlap(source(), 2, "inner"), 2, "outer")
    assert next(stream) == 0
    stream.close()
    assert closed_in == ["sdtc-inner"]
    assert not stage_threads()


def test_a_consumer_that_fails_stops_the_stage() -> None:
    with pytest.raises(ZeroDivisionError):
        for item in overlap(iter(range(1000)), 2, "source"):
            1 / (item - 3)
    assert not stage_threads()


def test_nothing_runs_before_the_first_item_is_wanted() -> None:
    stream = overlap(iter([1]), 1, "idle")
    assert not stage_threads()
    assert list(stream) == [1]


def test_a_late_consumer_gets_what_waits_in_batches() -> None:
    stream = overlap_batches(range(10), 4, "quick")
    batches = [next(stream)]
    time.sleep(0.1)  # the stage fills its queue meanwhile
    batches += stream
    assert [number for batch in batches for number in batch] == list(range(10))
    assert len(batches[1]) == 4
    assert max(map(len, batches)) == 4


def test_an_early_consumer_gets_one_item_at_a_time() -> None:
    def slow():
        for number in range(5):
            time.sleep(0.02)
            yield number

    assert list(overlap_batches(slow(), 4, "slow")) == [[0], [1], [2], [3], [4]]


@given(st.lists(st.integers()), st.integers(1, 4))
def test_batches_lose_nothing_and_an_error_comes_last(items, depth) -> None:
    def broken():
        yield from items
        raise VideoError("at the end")

    seen = []
    with pytest.raises(VideoError, match="at the end"):
        for batch in overlap_batches(broken(), depth, "broken"):
            assert 1 <= len(batch) <= depth
            seen += batch
    assert seen == items
    assert not stage_threads()
