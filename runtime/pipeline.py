"""Stages that run concurrently: an iterable runs in a thread of its own, a few items ahead of its consumer.

The stages of the runtime are generators over generators. A generator that is wrapped in `overlap` works on the next
items while the stage after it works on the current one; OpenCV, FFmpeg and every backend release the interpreter lock
while they compute. Order is kept, and a stage that is ahead waits: at most `depth` items are queued between two stages.
Only a `Handover` that drops items does not wait, because a camera cannot wait.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from sdtc.runtime.sources.handover import Handover

T = TypeVar("T")


def overlap(
    items: Iterable[T], depth: int, name: str, stop: Callable[[], None] | None = None
) -> Generator[T, None, None]:
    """Yield the items of an iterable, which a thread of its own takes up to `depth` ahead.

    The thread starts when the first item is requested. An error of the iterable is raised here, after the items before
    it. A consumer that stops early (closes the generator) stops the thread, and waits until it has finished its current
    item.

    Args:
        items: the stage; used only in the thread.
        depth: how many items may be queued; with 0 the stage starts an item only when the last one has been taken, so
            that no item gets older than necessary.
        name: of the thread, for debuggers and profilers.
        stop: called before the thread is joined, to unblock a stage that waits for an item.
    """
    for (item,) in _taken(items, depth, 1, name, stop):
        yield item


def overlap_batches(
    items: Iterable[T], depth: int, name: str, stop: Callable[[], None] | None = None
) -> Generator[list[T], None, None]:
    """As `overlap`, but yield all queued items at once, up to `depth`: a slow consumer catches up in batches.

    It never waits to fill a batch: a consumer that is faster than the stage gets one item at a time.
    """
    yield from _taken(items, depth, max(depth, 1), name, stop)


def _taken(
    items: Iterable[T], depth: int, limit: int, name: str, stop: Callable[[], None] | None
) -> Generator[list[T], None, None]:
    handover: Handover[T] = Handover(depth)
    thread = threading.Thread(target=_run, args=(items, handover), name=f"sdtc-{name}", daemon=True)
    thread.start()
    try:
        while batch := handover.take(limit):
            yield batch
        if handover.error is not None:
            raise handover.error
    finally:
        handover.close()
        if stop is not None:
            stop()
        thread.join()


def _run(items: Iterable[T], handover: Handover[T]) -> None:
    iterator = iter(items)
    error: BaseException | None = None
    try:
        for item in iterator:
            if not handover.put(item):
                break
    except BaseException as caught:  # raised again in the thread that takes the items
        error = caught
    finally:
        if isinstance(iterator, Generator):
            try:
                iterator.close()  # in this thread: no other one may touch its resources
            except BaseException as caught:
                error = error or caught
        handover.end(error)
