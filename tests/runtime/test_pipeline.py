from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdtc.core.errors import VideoError
from sdtc.runtime.pipeline import overlap, overlap_batches
from sdtc.runtime.sources.handover import Handover


def stage_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sdtc-")]


@given(st.lists(st.integers()), st.integers(1, 4), st.integers(1, 3))
def test_order_is_kept_through_any_number_of_stages(items, depth, stages) -> None:
    stream = iter(items)
    for number in range(stages):
        stream = overlap(stream, depth, f"stage{number}")
    assert list(stream) == items
    assert not stage_threads()


def test_two_stages_work_at_the_same_time() -> None:
    """Each works on an item only while the other is busy with its own: one after the other, they never meet."""
    both_are_busy = threading.Barrier(2, timeout=10)

    def source():
        for item in range(20):
            if item:
                both_are_busy.wait()
            yield item

    taken = []
    for item in overlap(source(), 2, "source"):
        if item < 19:
            both_are_busy.wait()
        taken.append(item)
    assert taken == list(range(20))


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


# --- handing over ------------------------------------------------------------------------------------------------


@given(st.lists(st.booleans(), max_size=60), st.integers(0, 3))
def test_the_newest_items_win(steps, depth) -> None:
    """Against a list: True puts the next number, False takes one."""
    handover, waiting, dropped = Handover(depth, drop=True), [], 0
    for number, puts in enumerate(steps):
        if puts:
            assert handover.put(number)
            waiting.append(number)
            if len(waiting) > max(depth, 1):
                waiting, dropped = waiting[1:], dropped + 1
        elif waiting:
            assert handover.take() == [waiting.pop(0)]
        assert handover.dropped == dropped
        assert handover.wait(0) is bool(waiting)
    handover.end()
    assert handover.take(99) == waiting
    assert handover.take() == []


def test_with_depth_0_the_next_item_is_begun_when_the_last_is_taken() -> None:
    made = []

    def source():
        for number in range(5):
            made.append(number)
            yield number

    stream = overlap(source(), 0, "source")
    for number in range(5):
        assert next(stream) == number
        time.sleep(0.05)
        assert made == list(range(min(number + 2, 5)))
    assert list(stream) == []


@pytest.mark.parametrize("waits", ["put", "take", "wait"])
def test_closing_wakes_whoever_waits(waits) -> None:
    handover = Handover(1)
    if waits == "put":
        handover.put(0)
    done = []
    calls = {"put": lambda: handover.put(1), "take": handover.take, "wait": handover.wait}
    thread = threading.Thread(target=lambda: done.append(calls[waits]()))
    thread.start()
    time.sleep(0.05)
    assert not done
    handover.close()
    thread.join(1)
    assert done == [{"put": False, "take": [], "wait": True}[waits]]


def test_many_threads_lose_and_double_nothing() -> None:
    handover, taken = Handover(3), []
    putters = [threading.Thread(target=lambda n=n: [handover.put((n, i)) for i in range(300)]) for n in range(4)]
    takers = [threading.Thread(target=lambda: [taken.extend(handover.take(2)) for _ in range(2000)]) for _ in range(3)]
    for thread in putters + takers:
        thread.start()
    for thread in putters:
        thread.join()
    handover.end()
    for thread in takers:
        thread.join()
    assert sorted(taken) == [(n, i) for n in range(4) for i in range(300)]
