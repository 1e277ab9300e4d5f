"""What all commands share: errors as one sentence and an exit code, and printing that survives any console."""

from __future__ import annotations

import argparse
import functools
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from sdtc.core.errors import SdtcError

# What asks a process to end: Ctrl-C, a container that is stopped, a terminal that is closed.
ENDINGS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))

# Arguments whose options have other names, in every command that speaks of them.
_NAMES = {"compute_capabilities": "--compute-capability", "plan=False": "--no-plan", "source": "--input"}
_ARGUMENT = re.compile(r"`([a-z][a-z0-9_]*)(?:=('?)([^`']*)\2)?`")  # `name`, `name=value` or `name='text'`


def as_options(message: str, names: Mapping[str, str] | None = None) -> str:
    """Write the arguments that a message names in backticks as command-line options.

    `max_frames` becomes ``--max-frames``, `device='cpu'` ``--device cpu``, `exact=True` ``--exact`` and `exact=False`
    ``--no-exact``.

    Args:
        message: of an error of the library.
        names: options with another name, by argument (``"path"``) or by argument and value (``"labels=True"``).
    """

    known = {**_NAMES, **(names or {})}

    def option(match: re.Match[str]) -> str:
        name, value = match[1], match[3]
        whole = match[0].strip("`")
        if whole in known:
            return known[whole]
        flag = known.get(name) or "--" + name.replace("_", "-")
        if value is None or value == "True":
            return flag
        return f"--no-{flag.removeprefix('--')}" if value == "False" else f"{flag} {value}"

    return _ARGUMENT.sub(option, message)


def program(name: str, script: str | None = None) -> str:
    """Return what a command was called as: the name of its script if Python was given that file, else its name."""
    run_as_module = getattr(sys.modules.get("__main__"), "__spec__", None) is not None
    return script if script and not run_as_module and Path(sys.argv[0]).name == script else name


def command(
    name: str, options: Mapping[str, str] | None = None, script: str | None = None
) -> Callable[[Callable[[Sequence[str] | None], int]], Callable[..., int]]:
    """Decorate a command's ``main(argv)``: an error becomes one sentence on stderr and an exit code.

    Exit codes: 0 success, 1 the work failed or could not be told, 2 the input was unusable, 130 interrupted by Ctrl-C.

    Args:
        name: of the command.
        options: arguments whose option has another name, see `as_options`.
        script: name of the file, if it can be run as a file too.
    """

    def decorate(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
        def run(argv: Sequence[str] | None) -> int:
            try:
                return main(argv)
            except SdtcError as error:
                return _fail(str(error), error.exit_code)
            except KeyboardInterrupt:
                complain(f"{program(name, script)}: interrupted")
                return 130
            except BrokenPipeError:  # `sdtc-info base | head -1`; commands that write files print through `say`
                _silence_stdout()
                return 0
            except OSError as error:
                where = "" if error.filename is None else f" '{os.fsdecode(error.filename)}'"
                return _fail(f"the system refuses{where}: {error.strerror or error}", 1)
            except UnicodeError as error:
                return _fail(f"a name or a text has characters that cannot be written here ({error})", 1)
            except MemoryError:
                return _fail("there is not enough memory: close other programs, or take less at once", 1)

        def _fail(message: str, code: int) -> int:
            complain(f"{program(name, script)}: error: {as_options(message, options)}")
            return code

        @functools.wraps(main)
        def wrapped(argv: Sequence[str] | None = None) -> int:
            _prepare_streams()
            try:
                with redirect_stdout(cast(TextIO, _Watched(sys.stdout))):
                    code = run(argv)
            except SystemExit as end:  # argparse's way out, e.g. after `--help`
                if not end.code and (lost := _flush()):
                    raise SystemExit(_fail(f"what it printed is lost: {lost}", 1)) from None
                raise
            lost = _flush()
            return _fail(f"what it printed is lost: {lost}", 1) if lost and code == 0 else code

        return wrapped

    return decorate


def say(text: str, end: str = "\n", quiet: bool = False) -> None:
    """Print for people, unless they asked for quiet.

    Nobody reading it any more (`sdtc-infer … | head -1`) or a full disk behind it is no reason to stop working. In the
    second case the command fails at its end.
    """
    if quiet:
        return
    text = "\n".join(map(printable, text.split("\n")))
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        _silence_stdout()
    except OSError as error:
        _lost.append(error.strerror or str(error))
        _silence_stdout()


def complain(text: str) -> None:
    """Print on stderr, if anybody can hear it."""
    with suppress(OSError, ValueError):  # full, or closed
        print(printable(text), file=sys.stderr, flush=True)


def given(text: str) -> str:
    """Return the value of an option, for argparse: an unset variable of a shell must not mean the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty")
    return text


def given_path(text: str) -> Path:
    """As `given`, a path."""
    return Path(given(text))


def printable(text: str) -> str:
    """Return a text without characters that move the cursor or change colours: names in files can hold anything."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


_lost: list[str] = []  # why what was printed did not arrive


class _Watched:
    """A stream that remembers what it could not write: argparse passes over that when it prints its help."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            raise
        except OSError as error:
            _lost.append(error.strerror or str(error))
            raise


def _prepare_streams() -> None:
    """Let stdout and stderr take any text, and have both: what is closed leads nowhere."""
    _lost.clear()
    for descriptor in range(3):  # a free one would be given to the next file that is opened, and libraries print there
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (until the process ends)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # such as a console that knows ASCII only, or names that are not UTF-8
            stream.reconfigure(errors="backslashreplace")


def _flush() -> str | None:
    """Return why something that was printed did not arrive, or None."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
    except OSError as error:
        _lost.append(error.strerror or str(error))
        _silence_stdout()
    return _lost[0] if _lost else None


def _silence_stdout() -> None:
    """Let stdout lead nowhere, so that nothing else fails, not even what Python still holds back for it."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
