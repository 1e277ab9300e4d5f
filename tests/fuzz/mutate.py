"""How valid input is broken: bytes, values of JSON, and the text of JSON. The same seed breaks the same things."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

ODD_NUMBERS = (
    0, 1, -1, 2, 3, 7, 255, 2**31 - 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**19, 10**400,
    0.0, -0.0, 0.5, 3.0, 3.7, -3.7, 1e-320, 1e-9, 1e6, 1e9, 1e39, 1e308, -1e308,
    float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
ODD_TEXTS = (
    "", " ", "0", "3", "3.0", " 3 ", "-1", "1e5", "nan", "true", "null", "x", "é", "\0", "\ud800", "\n", "a" * 300,
    "..", "../x", "/", "/dev/null", "C:\\x", "١٢", "²", "9" * 30, "%s", "{}", "`x`", "\x1b[31m", "\u202e",
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], {"": None}, [0] * 4, [1.5] * 51)


def odd_value(rng: random.Random) -> Any:
    """Return something that may stand in a JSON file."""
    return copy.deepcopy(rng.choice(rng.choice((ODD_NUMBERS, ODD_TEXTS, ODD_VALUES))))


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Damage a file in one to eight places, mostly in one."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 3, 8))):
        if not result:
            break
        rng.choice(_DAMAGES)(result, rng)
    return bytes(result)


def _span(data: bytearray, rng: random.Random) -> slice:
    """Return a piece of a file: anywhere, or near the beginning or the end, where formats keep what matters most."""
    where = rng.random()
    if where < 0.3:
        start = rng.randrange(min(len(data), 600))
    elif where < 0.5:
        start = max(0, len(data) - 1 - rng.randrange(2000))
    else:
        start = rng.randrange(len(data))
    return slice(start, start + int(2 ** rng.uniform(0, 12)))


def _flip(data: bytearray, rng: random.Random) -> None:
    data[_span(data, rng).start] ^= 1 << rng.randrange(8)


def _noise(data: bytearray, rng: random.Random) -> None:
    span = _span(data, rng)
    data[span] = rng.randbytes(len(data[span]))


def _zero(data: bytearray, rng: random.Random) -> None:
    span = _span(data, rng)
    data[span] = bytes(len(data[span]))


def _truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _delete(data: bytearray, rng: random.Random) -> None:
    del data[_span(data, rng)]


def _repeat(data: bytearray, rng: random.Random) -> None:
    span = _span(data, rng)
    data[span] = data[span] * 2


def _move(data: bytearray, rng: random.Random) -> None:
    span = _span(data, rng)
    piece = data[span]
    del data[span]
    at = rng.randrange(len(data) + 1)
    data[at:at] = piece


def _number(data: bytearray, rng: random.Random) -> None:
    """Overwrite a field with a number at which programs stumble."""
    start, size = _span(data, rng).start, rng.choice((1, 2, 4, 8))
    number = rng.choice(
        (0, 1, (1 << 8 * size) - 1, 1 << 8 * size - 1, (1 << 8 * size - 1) - 1, 0x10000 % (1 << 8 * size))
    )
    data[start : start + size] = number.to_bytes(size, rng.choice(("big", "little")))


def _append(data: bytearray, rng: random.Random) -> None:
    data += rng.randbytes(int(2 ** rng.uniform(0, 10)))


_DAMAGES = (_flip, _flip, _flip, _noise, _zero, _truncate, _delete, _repeat, _move, _number, _number, _append)


def mutate_json(value: Any, rng: random.Random) -> Any:
    """Return a copy of a JSON value with one to four of its parts changed, mostly one."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        value = _change(value, rng)
    return value


def _change(value: Any, rng: random.Random) -> Any:
    """Walk down a random way, and change what is there."""
    children = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    if children and rng.random() < 0.9:
        if rng.random() < 0.12:
            _change_container(value, rng)
            return value
        key, child = rng.choice(children)
        value[key] = _change(child, rng)
        return value
    if type(value) in (int, float) and rng.random() < 0.5:
        return rng.choice(
            (
                -value,
                value + 1,
                value - 1,
                value * 10,
                value // 2,
                str(value),
                -value / 3 if abs(value) < 1e300 else 0,
                [value],
                -0.3,
            )
        )
    if isinstance(value, str) and value and rng.random() < 0.5:
        at = rng.randrange(len(value))
        return value[:at] + rng.choice(("", value, *ODD_TEXTS)) + value[at + 1 :]
    return odd_value(rng)


def _change_container(value: Any, rng: random.Random) -> None:
    """Remove, double, swap or rename."""
    if isinstance(value, list):
        index = rng.randrange(len(value))
        other = rng.randrange(len(value))
        kind = rng.randrange(4)
        if kind == 0:
            del value[index]
        elif kind == 1:
            value.insert(other, copy.deepcopy(value[index]))
        elif kind == 2:
            value[index], value[other] = value[other], value[index]
        else:
            value.insert(index, odd_value(rng))
        return
    key = rng.choice(list(value))
    kind = rng.randrange(3)
    if kind == 0:
        del value[key]
    elif kind == 1:
        value[rng.choice((key + "_", key.upper(), "", "x"))] = value.pop(key)
    else:
        value[rng.choice(("x", "", key + "2"))] = odd_value(rng)


def json_bytes(value: Any, rng: random.Random, damaged: float = 0.2) -> tuple[bytes, bool]:
    """Return a JSON value as a file, and whether the file says just this value, as UTF-8.

    Args:
        value: the value.
        rng: decides what is done.
        damaged: how often something is done to the text.
    """
    text = json.dumps(value, indent=rng.choice((None, None, 1)))
    if rng.random() >= damaged:
        return text.encode(), True
    kind = rng.randrange(6)
    if kind == 0:
        return b"\xef\xbb\xbf" + text.encode(), True
    if kind == 1:
        return text.encode(rng.choice(("utf-16", "utf-16-le", "utf-32"))), False
    if kind == 2:
        return (rng.choice((" ", "\n", "\r\n", "\t")) * 3 + text + "\n \n").encode(), True
    if kind == 3:
        deep = rng.choice((10, 2000, 200_000))
        return (text[:-1] + "[" * deep + "]" * deep + text[-1:]).encode(), False
    return mutate_bytes(text.encode(), rng), False
