"""Progress bars on a terminal: one for each input at work, and one that counts files; and lines of text above them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from tqdm import tqdm


class _Terminal:
    """stderr for a progress bar: when the terminal is closed or its disk is full, the work goes on without the bar."""

    encoding = getattr(sys.stderr, "encoding", None)

    def write(self, text: str) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()

    def fileno(self) -> int:
        return sys.stderr.fileno()


_TERMINAL = _Terminal()  # one for all: tqdm finds the bars of a terminal by this object


def input_bar(shown: bool, name: str, total: int | None, done: int, keep: bool) -> tqdm:
    """Return a bar for the frames of one input, in the first free line.

    Args:
        shown: if stderr is a terminal.
        name: of the input.
        total: expected number of frames, None if unknown.
        done: frames that are done already.
        keep: leave the bar where it is at the end; else its line is free again.
    """
    return tqdm(
        total=total,
        initial=done,
        desc=name[:24],
        unit="frame",
        leave=keep,
        disable=None if shown else True,
        file=_TERMINAL,
    )


def files_bar(shown: bool, total: int) -> tqdm:
    """Return a bar that counts the files that have ended, such as ``3/20 files``."""
    return tqdm(
        total=total,
        bar_format="{n_fmt}/{total_fmt} files",
        mininterval=0,
        miniters=1,
        leave=False,
        disable=None if shown else True,
        file=_TERMINAL,
    )


@contextmanager
def above_bars() -> Iterator[None]:
    """Print in this context, from one thread at a time: the bars give way, and come back below."""
    with tqdm.external_write_mode(file=_TERMINAL):
        yield


@contextmanager
def live_log(quiet: bool) -> Iterator[None]:
    """Show events of live sources on stderr, above the progress bars."""

    class AboveBars(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tqdm.write(self.format(record), file=_TERMINAL)

    log, handler = logging.getLogger("sdtc.live"), logging.NullHandler() if quiet else AboveBars()
    handler.setFormatter(logging.Formatter("live     %(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
