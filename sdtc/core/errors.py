"""Named errors, and the one place where a command turns them into a sentence and an exit code.

Every message says what was given, what was expected and what to do next, in one sentence.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType


class SdtcError(Exception):
    """Anything this package refuses or fails at, with a message meant for the user."""

    exit_code = 1


class InputError(SdtcError):
    """An argument, a file or a value from outside is not usable."""

    exit_code = 2


class CheckpointError(InputError):
    """A checkpoint is unreadable, of another model, or does not fit its configuration."""


class ConfigError(InputError):
    """A model configuration is inconsistent or names something that does not exist."""


class BundleError(InputError):
    """An engine bundle is incomplete, damaged, or of a newer schema."""


class KernelError(InputError):
    """A tensor, a shape or an architecture is not one that the kernels take."""


class EngineError(SdtcError):
    """An engine cannot run here: wrong version, wrong GPU, or no GPU at all."""


class VideoError(InputError):
    """A video or an image folder cannot be read."""


class OutputError(SdtcError):
    """A result cannot be written."""


class ExportError(SdtcError):
    """An export failed, or its result differs from the network by more than its tolerance."""


class MissingExtraError(SdtcError, ImportError):
    """An optional dependency is not installed."""


_PACKAGES = {  # installed under another name
    "cuda.bindings.driver": "cuda-python",
    "cuda.bindings.runtime": "cuda-python",
    "tensorrt_rtx": "tensorrt-rtx",
}


def require(module: str, extra: str, needed_by: str) -> ModuleType:
    """Import an optional dependency, or say which extra to install.

    Args:
        module: name to import, e.g. ``"torch"``.
        extra: the extra of this package that brings it, e.g. ``"export"``.
        needed_by: what asked for it, as a user would call it.

    Raises:
        MissingExtraError: with the `pip install` command to run.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] != module.split(".")[0]:
            raise  # the dependency is there but broken: its own message says more than ours
        package = _PACKAGES.get(module, module.split(".")[0])
        raise MissingExtraError(
            f"{needed_by} needs the package '{package}', which is not installed: run  pip install 'sdtc[{extra}]'"
        ) from None


def command(name: str) -> Callable[[Callable[[Sequence[str] | None], int]], Callable[..., int]]:
    """Decorate a command's ``main(argv)``: a known error becomes one sentence on stderr and an exit code.

    Exit codes: 0 success, 1 the work failed, 2 the input was unusable, 130 interrupted by Ctrl-C.
    """

    def decorate(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
        @functools.wraps(main)
        def wrapped(argv: Sequence[str] | None = None) -> int:
            try:
                return main(argv)
            except SdtcError as error:
                print(f"{name}: error: {error}", file=sys.stderr)
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
