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
        self._running = 0  # batches
        self._changed = threading.Condition()

    def __call__(self, work: Work) -> Answer:
        """Return the answer to some work, or raise its error."""
        mine: _Waiting[Work, Answer] = _Waiting(work)
        batch: list[_Waiting[Work, Answer]] = []
        try:
            with self._changed:
                self._waiting.append(mine)
                self._changed.wait_for(
                    lambda: mine.done.is_set() or (mine in self._waiting[:1] and self._running < self._count)
                )
                if not mine.done.is_set():
                    share = -(-len(self._waiting) // self._count)
                    batch, self._waiting = self._waiting[:share], self._waiting[share:]
                    self._running += 1
                    self._changed.notify_all()  # somebody else is the first now
            self._answer(batch)
        except BaseException:  # Ctrl-C in this thread must not end the others' work
            self._answer([each for each in batch[1:] if not each.done.is_set()])
            if not batch:
                self._withdraw(mine)
            raise
        finally:
            if batch:
                self._settle(batch)
        if mine.error is not None:
            raise mine.error
        assert mine.answer is not None
        return mine.answer

    def _withdraw(self, mine: _Waiting[Work, Answer]) -> None:
        """Return when nothing uses any more what some work that waits, or was taken along, refers to."""
        with self._changed:
            if mine in self._waiting:
                self._waiting.remove(mine)
                mine.done.set()
                self._changed.notify_all()
        mine.done.wait()

    def _settle(self, batch: Sequence[_Waiting[Work, Answer]]) -> None:
        """End a batch: everybody has an answer or an error."""
        for each in batch:
            if not each.done.is_set():
                each.error = EngineError("the batch was interrupted: run it again")
                each.done.set()
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

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
