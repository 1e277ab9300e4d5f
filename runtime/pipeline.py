"""Stages that run at the same time: an iterable in a thread of its own, a few items ahead of whoever takes them.

The stages of the runtime are generators over generators. Where one of them is wrapped in `overlap`, it works on the
next items while the stage behind it works on the last; OpenCV, FFmpeg and every backend let go of the interpreter
while they compute. Order is kept, and a stage that is ahead waits: no more than `depth` items lie between two. Only a
`Handover` made to drop does not wait: a camera cannot.
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
    """Yield items that a thread of its own takes from an iterable, up to `depth` ahead.

    The thread starts with the first item that is asked for. An error of the iterable is raised here, after the items
    before it. A consumer that stops early (closes the generator) stops the thread, and waits for the item that it is
    busy with.

    Args:
        items: the stage; used in the thread alone.
        depth: how many items may wait beside the one in hand; with 0 the stage begins an item when the last one has
            been taken, so that none gets older than it must.
        name: of the thread, for debuggers and profilers.
        stop: called before the thread is waited for: makes an item come soon that could be long in coming, or none.
    """
    for (item,) in _taken(items, depth, 1, name, stop):
        yield item


def overlap_batches(
    items: Iterable[T], depth: int, name: str, stop: Callable[[], None] | None = None
) -> Generator[list[T], None, None]:
    """As `overlap`, but yield everything that waits at once, up to `depth` items: who is late catches up in batches.

    Nobody is waited for: a consumer that is faster than the stage gets one item at a time.
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
    except BaseException as caught:  # it is raised where the items are taken
        error = caught
    finally:
        if isinstance(iterator, Generator):
            try:
                iterator.close()  # here, for no other thread may touch what it holds
            except BaseException as caught:
                error = error or caught
        handover.end(error)
