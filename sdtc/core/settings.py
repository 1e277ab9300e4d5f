"""Decode plain values to dataclasses: settings that people write in YAML, and JSON files that this package writes.

Both use one decoder (`_decode`). They differ in the wording of errors. JSON must hold finite numbers, while infinity
can be a setting (no limit), and people may write yes, no, on and off. A whole number may be written as 3.0 in both.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import reprlib
import sys
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sdtc.core.errors import ConfigError
from sdtc.core.numbers import whole_number

T = TypeVar("T")


def build_settings(cls: type[T], data: Any, where: str) -> T:
    """Build a dataclass, nested ones included, from settings that a person wrote.

    Args:
        cls: a dataclass of bool, int, float, str, Path, tuples or dicts of one of these, other dataclasses, Any, or
            None with any of them.
        data: a mapping from names to values; fields that it leaves out keep their defaults.
        where: what to call it in messages, e.g. ``"model"``.

    Raises:
        ConfigError: an unknown key (the nearest known one is named), a missing one, or a value of a wrong type.
    """
    return _decode(cls, data, where, _SETTINGS)


def build_from_json(cls: type[T], data: Any) -> T:
    """Build a dataclass, nested ones included, from the JSON object that `dataclasses.asdict` made of one.

    Args:
        cls: as in :func:`build_settings`.
        data: what JSON holds; fields that it leaves out keep their defaults.

    Raises:
        ValueError: a field is missing or unknown, or a value is of another type or not finite. The message is a part
            of a sentence: "engine.version is 3, not text".
    """
    return _decode(cls, data, "", _JSON)


@dataclass(frozen=True)
class _Wording:
    """The error class and templates for messages; ``{dot}`` is ``{where}`` with a dot, or empty at the top level."""

    error: type[Exception]
    wrong: str
    unknown: str
    missing: str
    names: dict[Any, str]  # of types
    finite: bool  # whether infinity is refused; NaN always is
    words: dict[str, bool] = dataclasses.field(default_factory=dict)  # that mean true or false


_SETTINGS = _Wording(
    error=ConfigError,
    wrong="{where} is {value}: expected {expected}",
    unknown="unknown key '{key}' in {where}: {hint}",
    missing="{where}.{key} is missing",
    names={dict: "names and values", list: "a list", float: "float"},
    finite=False,
    words={"yes": True, "on": True, "no": False, "off": False},
)
_JSON = _Wording(
    error=ValueError,
    wrong="{where} is {value}, not {expected}",
    unknown="unknown field {dot}{key}: {hint}",
    missing="it has no {dot}{key}",
    names={
        dict: "an object", list: "a list", str: "text", int: "a whole number", float: "a finite number",
        bool: "true or false",
    },
    finite=True,
)  # fmt: skip


def _decode(cls: type[T], data: Any, where: str, wording: _Wording) -> T:
    if not isinstance(data, dict):
        raise _wrong(where, data, dict, wording)
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    dot = f"{where}." if where else ""
    for key in data:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(fields)}"
            raise wording.error(wording.unknown.format(key=key, where=where, dot=dot, hint=hint))
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise wording.error(wording.missing.format(key=name, where=where, dot=dot))
    return cls(**{key: _convert(hints[key], value, f"{dot}{key}", wording) for key, value in data.items()})


def _convert(kind: Any, value: Any, where: str, wording: _Wording) -> Any:
    """Return a value as the type of its field."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):  # the only kind here: X | None
        inner = next(arg for arg in args if arg is not types.NoneType)
        return None if value is None else _convert(inner, value, where, wording)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong(where, value, list, wording)
        kinds = args[:1] * len(value) if args[-1] is Ellipsis else args
        if len(kinds) != len(value):
            raise _wrong(where, value, f"{len(kinds)} values", wording)
        parts = enumerate(zip(kinds, value, strict=True))
        return tuple(_convert(kind, part, f"{where}[{i}]", wording) for i, (kind, part) in parts)
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(where, value, dict, wording)
        return {key: _convert(args[1], part, f"{where}.{key}", wording) for key, part in value.items()}
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return value if isinstance(value, kind) else _decode(kind, value, where, wording)
    if kind is Any:
        return value
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        infinite = isinstance(value, float) and math.isinf(value) and not wording.finite
        if not (infinite or abs(value) <= sys.float_info.max):  # NaN compares as false
            raise _wrong(where, value, "a finite number", wording)
        return float(value)
    if kind is int and (number := whole_number(value)) is not None:
        return number
    if kind is bool and isinstance(value, str) and value.lower() in wording.words:
        return wording.words[value.lower()]
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not fits or (kind is str and not _is_unicode(value)):
        raise _wrong(where, value, kind, wording)
    return value


def _is_unicode(text: str) -> bool:
    """Whether a text can be printed: JSON and YAML can hold half a surrogate pair as an escape."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wrong(where: str, value: Any, expected: Any, wording: _Wording) -> Exception:
    """Return the error for a value; `expected` is a type or a phrase."""
    name = expected if isinstance(expected, str) else wording.names.get(expected) or expected.__name__
    return wording.error(wording.wrong.format(where=where or "it", value=reprlib.repr(value), expected=name))
