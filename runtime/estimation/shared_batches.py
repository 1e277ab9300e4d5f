"""One batch for the work of several threads: what waits while a batch runs is the next batch.

Nobody waits for a batch to fill: a source that is alone gets its poses as if there were no others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Work = TypeVar("Work")
Answer = TypeVar("Answer")


@dataclass
class _Waiting(Generic[Work, Answer]):
    work: Work
    answer: Answer | None = None
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)


class SharedBatches(Generic[Work, Answer]):
    """Runs the work that threads bring, all of it that waits at once.

    Args:
        run: takes some work, and returns an answer to each. If it fails, each piece is run again on its own, so that
            only those who brought the failing one get its error.
        lanes: how many batches may run at the same time.
    """

    def __init__(self, run: Callable[[Sequence[Work]], Sequence[Answer]], lanes: int = 1) -> None:
        self._run = run
        self._waiting: list[_Waiting[Work, Answer]] = []
        self._queue = threading.Lock()
        self._lanes = threading.Semaphore(lanes)

    def __call__(self, work: Work) -> Answer:
        """Return the answer to some work, or raise its error."""
        mine: _Waiting[Work, Answer] = _Waiting(work)
        with self._queue:
            self._waiting.append(mine)
        with self._lanes:
            with self._queue:
                batch, self._waiting = self._waiting, []
            try:
                self._answer(batch)
            except BaseException:  # Ctrl-C in this thread must not end the others' work
                self._answer([each for each in batch if each is not mine and not each.done.is_set()])
                raise
        mine.done.wait()  # if another thread has taken it along
        if mine.error is not None:
            raise mine.error
        assert mine.answer is not None
        return mine.answer

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
