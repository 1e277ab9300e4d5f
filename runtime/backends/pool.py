"""Objects for calls from several threads: each call has one to itself, and gives it back for the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")


class Pool(Generic[T]):
    """Lends objects that only one call at a time may use; there are as many as calls that ran at the same time.

    Args:
        make: makes one more, when all others are in use.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._free: deque[T] = deque()  # its `append` and `pop` are atomic

    @contextmanager
    def lend(self) -> Iterator[T]:
        """Lend an object for a block; the one used last, whose memory may still be in the processor's caches."""
        try:
            item = self._free.pop()
        except IndexError:
            item = self._make()
        try:
            yield item
        finally:
            self._free.append(item)
