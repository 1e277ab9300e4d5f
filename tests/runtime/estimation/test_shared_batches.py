from __future__ import annotations

import threading
import time

import pytest

from sdtc.runtime.estimation.shared_batches import SharedBatches


def in_threads(calls: list) -> list:
    """Run calls at the same time; return their answers, or the errors they raised."""
    answers: list = [None] * len(calls)

    def call(number: int) -> None:
        try:
            answers[number] = calls[number]()
        except Exception as error:
            answers[number] = error

    threads = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive(), "a thread waits for ever"
    return answers


class Double:
    """Doubles numbers slowly; a 13 makes the batch fail."""

    def __init__(self, seconds: float = 0.05) -> None:
        self.batches: list[list[int]] = []
        self.running = self.most = 0
        self.seconds, self.lock = seconds, threading.Lock()

    def __call__(self, work):
        with self.lock:
            self.batches.append(list(work))
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(self.seconds)
        with self.lock:
            self.running -= 1
        if 13 in work:
            raise ValueError("thirteen")
        return [2 * each for each in work]


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_what_waits_is_one_batch(lanes) -> None:
    double = Double()
    shared = SharedBatches(double, lanes)
    answers = in_threads([lambda number=number: shared(number) for number in range(100, 112)])
    assert answers == [2 * number for number in range(100, 112)]
    assert double.most <= lanes
    assert len(double.batches) < 12
    assert sorted(number for batch in double.batches for number in batch) == list(range(100, 112))  # each once


def test_whoever_was_taken_along_does_not_run_the_next_batch() -> None:
    """0 runs; 1 and 2 wait and are one batch; while it runs 3 and 4 come. 2 has its answer as soon as it is there."""
    gates = [threading.Event() for _ in range(3)]
    batches: list[list[int]] = []

    def run(work):
        batches.append(list(work))
        assert gates[len(batches) - 1].wait(10)
        return [10 * each for each in work]

    shared = SharedBatches(run)
    answers: dict[int, int] = {}
    threads = {}

    def start(number: int) -> None:
        threads[number] = threading.Thread(
            target=lambda: answers.__setitem__(number, shared(number)), name=str(number), daemon=True
        )
        threads[number].start()
        time.sleep(0.3)

    for number in (0, 1, 2):
        start(number)
    gates[0].set()
    threads[0].join(10)
    while len(batches) < 2:  # until 1 and 2 have begun
        time.sleep(0.01)
    for number in (3, 4):
        start(number)
    gates[1].set()
    for number in (1, 2):
        threads[number].join(10)
        assert answers[number] == 10 * number  # although the batch after theirs still runs
    assert sorted(batches[1]) == [1, 2]
    gates[2].set()
    for number in (3, 4):
        threads[number].join(10)
    assert answers == {number: 10 * number for number in range(5)}
    assert sorted(batches[2]) == [3, 4]


def test_lanes_share_what_waits() -> None:
    """While two batches run eight others come: they are two batches of four and not one of eight."""
    gate, batches = threading.Event(), []

    def run(work):
        batches.append(list(work))
        assert gate.wait(10)
        return list(work)

    shared = SharedBatches(run, lanes=2)
    threads = [threading.Thread(target=shared, args=(number,), daemon=True) for number in range(10)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    assert batches == [[0], [1]]
    gate.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert sorted(number for batch in batches for number in batch) == list(range(10))
    assert max(map(len, batches)) <= 4


def test_whoever_is_alone_does_not_wait() -> None:
    double = Double(0)
    shared = SharedBatches(double)
    assert [shared(number) for number in range(5)] == [0, 2, 4, 6, 8]
    assert double.batches == [[0], [1], [2], [3], [4]]


@pytest.mark.parametrize("lanes", [1, 2])
def test_an_error_is_of_those_who_brought_it(lanes) -> None:
    shared = SharedBatches(Double(0.02), lanes)
    answers = in_threads([lambda number=number: shared(number) for number in (1, 13, 2, 13, 3, 4)])
    assert [str(answer) for answer in answers] == ["2", "thirteen", "4", "thirteen", "6", "8"]
    assert shared(5) == 10


def test_an_interrupt_is_of_its_own_thread() -> None:
    """Ctrl-C reaches the thread that runs the batch; the others get their answers."""
    inside, gate = threading.Event(), threading.Event()
    calls: list[list[int]] = []

    def run(work):
        calls.append(list(work))
        if len(calls) == 1:
            inside.set()
            gate.wait(5)
        elif 1 in work:
            raise KeyboardInterrupt
        return [10 * each for each in work]

    shared = SharedBatches(run)
    answers: dict[int, object] = {}

    def call(number: int) -> None:
        try:
            answers[number] = shared(number)
        except BaseException as error:
            answers[number] = type(error)

    threads = []
    for number in (0, 1, 2, 3):
        threads.append(threading.Thread(target=call, args=(number,), daemon=True))
        threads[-1].start()
        if number == 0:
            assert inside.wait(5)
        else:
            time.sleep(0.3)  # so that 1 is the first to wait, and takes the others along
    gate.set()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert answers == {0: 0, 1: KeyboardInterrupt, 2: 20, 3: 30}
