"""One batch for the work of several threads: what waits while a batch runs is the next batch.

Nobody waits for a batch to fill: a source that is alone gets its poses as if there were no others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sdtc.core.errors import EngineError

Work = TypeVar("Work")
Answer = TypeVar("Answer")


@dataclass(eq=False)
class _Waiting(Generic[Work, Answer]):
    work: Work
    answer: Answer | None = None
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)


class SharedBatches(Generic[Work, Answer]):
    """Runs the work that threads bring, all of it that waits at once.

    A thread whose turn it is runs its own work and what else waits; one whose work was taken along runs nothing, and
    has its answer as soon as it is there.

    Args:
        run: takes some work, and returns an answer to each. If it fails, each piece is run again on its own, so that
            only those who brought the failing one get its error.
        lanes: how many batches may run at the same time; what waits is shared among them.
    """

    def __init__(self, run: Callable[[Sequence[Work]], Sequence[Answer]], lanes: int = 1) -> None:
        self._run, self._count = run, lanes
        self._waiting: list[_Waiting[Work, Answer]] = []
        self._queue = threading.Lock()
        self._lanes = threading.Semaphore(lanes)

    def __call__(self, work: Work) -> Answer:
        """Return the answer to some work, or raise its error."""
        mine: _Waiting[Work, Answer] = _Waiting(work)
        with self._queue:
            self._waiting.append(mine)
        try:
            with self._lanes:
                self._run_with_others(mine)
            mine.done.wait()  # another thread has taken it along
        except BaseException:  # Ctrl-C in this thread: nothing may use what the work refers to from here on
            with self._queue:
                waits = mine in self._waiting
                if waits:
                    self._waiting.remove(mine)
            if not waits:
                mine.done.wait()
            raise
        if mine.error is not None:
            raise mine.error
        assert mine.answer is not None
        return mine.answer

    def _run_with_others(self, mine: _Waiting[Work, Answer]) -> None:
        """Run a thread's work with some of what waits; nothing if it has been taken along."""
        batch: list[_Waiting[Work, Answer]] = []
        try:
            with self._queue:
                if mine not in self._waiting:
                    return
                others = [each for each in self._waiting if each is not mine]
                batch = [mine, *others[: -(-len(self._waiting) // self._count) - 1]]
                self._waiting = [each for each in self._waiting if each not in batch]
            try:
                self._answer(batch)
            except BaseException:  # Ctrl-C in this thread must not end the others' work
                self._answer([each for each in batch if each is not mine and not each.done.is_set()])
                raise
        finally:
            for each in batch:
                if not each.done.is_set():
                    each.error = EngineError("the batch was interrupted: run it again")
                    each.done.set()

    def _answer(self, batch: Sequence[_Waiting[Work, Answer]]) -> None:
        try:
            answers = self._run([each.work for each in batch]) if batch else ()
        except Exception as error:
            if len(batch) > 1:
                for each in batch:
                    self._answer([each])
            else:
                batch[0].error = error
                batch[0].done.set()
            return
        for each, answer in zip(batch, answers, strict=True):
            each.answer = answer
            each.done.set()
