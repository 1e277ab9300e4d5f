"""Plain values, as YAML or a checkpoint holds them, to configuration dataclasses, with messages for typing errors."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from sdtc.core.errors import ConfigError

T = TypeVar("T")


def build_settings(cls: type[T], data: Any, where: str) -> T:
    """Build a dataclass, nested ones included, from names and values.

    Args:
        cls: a dataclass of bool, int, float, str, Path, tuples of one of these, other dataclasses, or None with any.
        data: a mapping; fields that it leaves out keep their defaults.
        where: what to call it in messages, e.g. ``"model"``.

    Raises:
        ConfigError: an unknown key (the nearest known one is named), a missing one, or a value of a wrong type.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{where} is {type(data).__name__}: expected names and values")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"expected one of {', '.join(fields)}"
            raise ConfigError(f"unknown key '{key}' in {where}: {hint}")
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise ConfigError(f"{where}.{name} is missing")
    hints = typing.get_type_hints(cls)
    return cls(**{key: _convert(hints[key], value, f"{where}.{key}") for key, value in data.items()})


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(kind) if option is not types.NoneType]
        return None if value is None else _convert(options[0], value, where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where} is {value!r}: expected a list")
        kinds = typing.get_args(kind)
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        if len(kinds) != len(value):
            raise ConfigError(f"{where} is {value!r}: expected {len(kinds)} values")
        return tuple(_convert(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True)))
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return value if isinstance(value, kind) else build_settings(kind, value, where)
    if kind is Path and isinstance(value, str | Path):
        return Path(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where} has too many digits for a number") from None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where} is {value!r}: expected {kind.__name__}")
    return value
