"""What all commands share: errors as one sentence and an exit code, and printing that survives a closed pipe."""

from __future__ import annotations

import functools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence

from sdtc.core.errors import SdtcError

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


def command(
    name: str, options: Mapping[str, str] | None = None
) -> Callable[[Callable[[Sequence[str] | None], int]], Callable[..., int]]:
    """Decorate a command's ``main(argv)``: a known error becomes one sentence on stderr and an exit code.

    Exit codes: 0 success, 1 the work failed, 2 the input was unusable, 130 interrupted by Ctrl-C.

    Args:
        name: of the command.
        options: arguments whose option has another name, see `as_options`.
    """

    def decorate(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
        @functools.wraps(main)
        def wrapped(argv: Sequence[str] | None = None) -> int:
            try:
                return main(argv)
            except SdtcError as error:
                print(f"{name}: error: {as_options(str(error), options)}", file=sys.stderr)
                return error.exit_code
            except KeyboardInterrupt:
                print(f"{name}: interrupted", file=sys.stderr)
                return 130
            except BrokenPipeError:  # `sdtc-info base | head -1`; commands that write files print through `say`
                _silence_stdout()
                return 0

        return wrapped

    return decorate


def say(text: str, end: str = "\n", quiet: bool = False) -> None:
    """Print for people, unless they asked for quiet.

    Nobody reading it any more (`sdtc-infer … | head -1`) is no reason to stop working.
    """
    if quiet:
        return
    try:
        print(text, end=end, flush=True)
    except BrokenPipeError:
        _silence_stdout()


def _silence_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
