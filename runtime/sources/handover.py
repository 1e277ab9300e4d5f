"""A queue from one thread to another: between stages of the pipeline, and behind a live source."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Handover(Generic[T]):
    """A queue from one thread to another, in order.

    Args:
        depth: how many items may be queued; with 0, `put` returns when its item has been taken.
        drop: keep the newest items: if `depth` items (at least one) are queued, the oldest is dropped; `put` never
            waits.

    Attributes:
        dropped: number of items dropped.
        error: the error that ended the producer, if any; read it when there is nothing more to take.
        closed: whether the consumer has stopped.
    """

    def __init__(self, depth: int, drop: bool = False) -> None:
        self._depth, self._drop = depth, drop
        self._items: deque[T] = deque()
        self._ended = False
        self._changed = threading.Condition()
        self.dropped, self.closed = 0, False
        self.error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Queue an item; return False if the consumer has stopped."""
        with self._changed:
            if self._drop and len(self._items) >= max(self._depth, 1):
                self._items.popleft()
                self.dropped += 1
            self._items.append(item)
            self._changed.notify_all()
            # The item can already be taken while `put` waits for space.
            self._changed.wait_for(lambda: self._drop or self.closed or len(self._items) <= self._depth)
            return not self.closed

    def end(self, error: BaseException | None = None) -> None:
        """Mark the end, with the error that caused it, if any; queued items can still be taken."""
        with self._changed:
            self.error, self._ended = error, True
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until `take` would return at once; return False if that takes longer than `timeout` seconds."""
        with self._changed:
            return bool(self._changed.wait_for(lambda: self.closed or self._ended or self._items, timeout))

    def take(self, limit: int = 1) -> list[T]:
        """Wait for an item, and take up to `limit` of those that are queued; return an empty list at the end."""
        with self._changed:
            self.wait()
            batch = [self._items.popleft() for _ in range(min(limit, len(self._items)))]
            self._changed.notify_all()
            return batch

    def close(self) -> None:
        """Stop the consumer: threads that wait, on either side, continue at once."""
        with self._changed:
            self.closed = True
            self._items.clear()
            self._changed.notify_all()
