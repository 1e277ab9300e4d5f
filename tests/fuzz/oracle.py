"""What every target demands of the code under test: a right answer, or a named error in one sentence."""

from __future__ import annotations

import contextlib
import io
import json
import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np

from sdtc.core.errors import SdtcError
from tests.fuzz.corpus import Corpus

T = TypeVar("T")


class WrongAnswerError(AssertionError):
    """Something came back that is not right, and nobody said so."""


@dataclass
class Case:
    """One run of a target.

    Attributes:
        seed: everything random in the case comes from it.
        folder: an empty folder of its own.
        corpus: valid input to break.
    """

    seed: int
    folder: Path
    corpus: Corpus

    @cached_property
    def rng(self) -> random.Random:
        return random.Random(self.seed)

    @cached_property
    def arrays(self) -> np.random.Generator:
        """For arrays; the same seed."""
        return np.random.default_rng(self.seed)

    def chance(self, share: float) -> bool:
        return self.rng.random() < share


def expect(condition: Any, what: str) -> None:
    """Raise `WrongAnswerError` unless a condition holds."""
    if not condition:
        raise WrongAnswerError(what)


def attempt(function: Callable[[], T]) -> tuple[T | None, str]:
    """Call a function; a named error becomes its message, after a look at it. Everything else is raised.

    Returns:
        The result and "", or None and the message.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(), ""
    except SdtcError as error:
        check_sentence(str(error))
        return None, str(error)


def check_sentence(text: str) -> None:
    """Check that a message is a sentence, and not the input."""
    expect(text.strip(), "an error without a message")
    expect(len(text) < 3000, f"a message of {len(text)} characters: {text[:300]!r}")


@dataclass(frozen=True)
class Finished:
    """What a command did: its exit code and what it printed."""

    code: int
    out: str
    err: str


def run_command(main: Callable[[list[str]], int], arguments: list[str], codes: tuple[int, ...] = (0, 1, 2)) -> Finished:
    """Run a command in this process, and check its exit code and what it says on stderr.

    A sentence stands on stderr exactly if the exit code is not 0.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            code = main(arguments)
        except SystemExit as error:  # argparse
            code = error.code if isinstance(error.code, int) else 1
    text = err.getvalue()
    expect(code in codes, f"exit code {code}; stderr {text!r}")
    expect("Traceback" not in text, f"a traceback on stderr: {text}")
    said = [line for line in text.splitlines() if ": error: " in line]
    expect(bool(said) == (code != 0), f"exit code {code}, but stderr is {text!r}")
    for line in said:
        check_sentence(line)
        expect(line.isprintable(), f"control characters on stderr: {line!r}")
        line.encode()
    return Finished(code, out.getvalue(), text)


def strict_json(text: str) -> Any:
    """Parse JSON as the standard has it: no NaN, no Infinity, no key twice in an object."""

    def refuse(constant: str) -> NoReturn:
        raise WrongAnswerError(f"JSON with {constant}")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        expect(len(dict(pairs)) == len(pairs), f"an object with a key twice: {[key for key, _ in pairs]}")
        return dict(pairs)

    try:
        return json.loads(text, parse_constant=refuse, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise WrongAnswerError(f"output is not JSON: {error}") from None


def check_no_leftovers(folder: Path) -> None:
    """Check that no temporary file is left."""
    left = [path.name for path in folder.rglob("*") if path.name.endswith(".part")]
    expect(not left, f"temporary files are left: {left}")
