"""Stages that run at the same time: an iterable in a thread of its own, a few items ahead of whoever takes them.

The stages of the runtime are generators over generators. Where one of them is wrapped in `overlap`, it works on the
next items while the stage behind it works on the last; OpenCV, FFmpeg and every backend let go of the interpreter
while they compute. Order is kept, and a stage that is ahead waits: no more than `depth` items lie between two.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass
class _End:
    """The last thing that a stage hands over: how it ended."""

    error: BaseException | None


class _Stage(Generic[T]):
    def __init__(self, items: Iterable[T], depth: int, name: str) -> None:
        self.items = items
        self.queue: queue.Queue[T | _End] = queue.Queue(depth)
        self.end: _End | None = None  # once it has been taken
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.run, name=f"sdtc-{name}", daemon=True)

    def run(self) -> None:
        iterator = iter(self.items)
        error = None
        try:
            for item in iterator:
                self.queue.put(item)
                if self.stopped.is_set():
                    break
        except BaseException as caught:  # it is raised where the items are taken
            error = caught
        finally:
            if isinstance(iterator, Generator):
                try:
                    iterator.close()  # here, for no other thread may touch what it holds
                except BaseException as caught:
                    error = error or caught
            self.queue.put(_End(error))

    def take(self, limit: int) -> list[T]:
        """Wait for an item, and take up to `limit` with those that are there already; none at the end.

        Raises:
            BaseException: what ended the stage, after the items before it.
        """
        batch: list[T] = []
        while self.end is None and len(batch) < limit:
            if batch and self.queue.empty():
                return batch
            item = self.queue.get()
            if isinstance(item, _End):
                self.end = item
            else:
                batch.append(item)
        if not batch and self.end is not None and self.end.error is not None:
            raise self.end.error
        return batch

    def stop(self) -> None:
        """Let the thread end, whatever it waits for, and wait until it has."""
        self.stopped.set()
        while self.thread.is_alive():
            try:  # make room for an item that it cannot hand over
                self.queue.get(timeout=0.05)
            except queue.Empty:
                continue
        self.thread.join()


def overlap(items: Iterable[T], depth: int, name: str) -> Generator[T, None, None]:
    """Yield items that a thread of its own takes from an iterable, up to `depth` ahead.

    The thread starts with the first item that is asked for. An error of the iterable is raised here, after the items
    before it. A consumer that stops early (closes the generator) stops the thread, and waits for the item that it is
    busy with.

    Args:
        items: the stage; used in the thread alone.
        depth: how many items may wait.
        name: of the thread, for debuggers and profilers.
    """
    for (item,) in _taken(items, depth, 1, name):
        yield item


def overlap_batches(items: Iterable[T], depth: int, name: str) -> Generator[list[T], None, None]:
    """As `overlap`, but yield everything that waits at once, up to `depth` items: who is late catches up in batches.

    Nobody is waited for: a consumer that is faster than the stage gets one item at a time.
    """
    yield from _taken(items, depth, depth, name)


def _taken(items: Iterable[T], depth: int, limit: int, name: str) -> Generator[list[T], None, None]:
    stage = _Stage(items, depth, name)
    stage.thread.start()
    try:
        while batch := stage.take(limit):
            yield batch
    finally:
        stage.stop()
