"""Where one thread leaves items for another, in order: between stages of the pipeline, and behind a live source."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Handover(Generic[T]):
    """Where one thread leaves items for another, in order.

    Args:
        depth: how many items may wait; with 0, `put` returns when its item has been taken.
        drop: newest wins: where `depth` items (at least one) wait already, the oldest makes room; `put` never waits.

    Attributes:
        dropped: items that made room for newer ones.
        error: what ended it, once there is nothing more to take.
        closed: nobody takes any more.
    """

    def __init__(self, depth: int, drop: bool = False) -> None:
        self._depth, self._drop = depth, drop
        self._items: deque[T] = deque()
        self._ended = False
        self._changed = threading.Condition()
        self.dropped, self.closed = 0, False
        self.error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Leave an item; False where nobody takes any more."""
        with self._changed:
            if self._drop and len(self._items) >= max(self._depth, 1):
                self._items.popleft()
                self.dropped += 1
            self._items.append(item)
            self._changed.notify_all()
            # This one is there to be taken while it waits for its place.
            self._changed.wait_for(lambda: self._drop or self.closed or len(self._items) <= self._depth)
            return not self.closed

    def end(self, error: BaseException | None = None) -> None:
        """Say that nothing more comes, and why; what waits is still to be had."""
        with self._changed:
            self.error, self._ended = error, True
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until `take` would return at once; False if it still would not after so many seconds."""
        with self._changed:
            return bool(self._changed.wait_for(lambda: self.closed or self._ended or self._items, timeout))

    def take(self, limit: int = 1) -> list[T]:
        """Wait for an item, and take up to `limit` with those that are there already; none at the end."""
        with self._changed:
            self.wait()
            batch = [self._items.popleft() for _ in range(min(limit, len(self._items)))]
            self._changed.notify_all()
            return batch

    def close(self) -> None:
        """Take no more: whoever waits, on either side, goes on at once."""
        with self._changed:
            self.closed = True
            self._items.clear()
            self._changed.notify_all()
