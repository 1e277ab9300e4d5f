"""One decoder for settings and JSON: what differs between them. The rest: test_manifest.py, model/test_config.py."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest

from sdtc.core.crops import CROP_SCALE
from sdtc.core.errors import ConfigError
from sdtc.core.manifest import Manifest
from sdtc.core.settings import build_from_json, build_settings


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0
    name: str | None = None


@dataclass(frozen=True)
class Outer:
    inner: Inner
    sizes: dict[str, tuple[int, ...]]


GOOD = {"inner": {"rate": 2}, "sizes": {"a": [1, 2]}}


def test_both_build_the_same() -> None:
    want = Outer(Inner(2.0), {"a": (1, 2)})
    assert build_settings(Outer, GOOD, "it") == build_from_json(Outer, GOOD) == want


def test_only_settings_may_mean_infinity() -> None:
    assert build_settings(Inner, {"rate": math.inf}, "it").rate == math.inf
    with pytest.raises(ValueError, match=r"^rate is inf, not a finite number$"):
        build_from_json(Inner, {"rate": math.inf})


@pytest.mark.parametrize(
    ("change", "to_people", "to_programs"),
    [
        ({"inner": {"rat": 1}}, "unknown key 'rat' in it.inner: did you mean 'rate'", "unknown field inner.rat: did"),
        ({"inner": 3}, "it.inner is 3: expected names and values", "inner is 3, not an object"),
        ({"inner": {"rate": 10**400}}, "it.inner.rate is 1000.*: expected a finite", "rate is 1000.*, not a finite"),
        ({"inner": {"name": "\ud800"}}, r"name is '\\ud800': expected str", r"inner.name is '\\ud800', not text"),
        ({"sizes": {"a": [1, True]}}, r"it.sizes.a\[1\] is True: expected int", r"a\[1\] is True, not a whole number"),
        ({"sizes": [1]}, r"it.sizes is \[1\]: expected names", r"sizes is \[1\], not an object"),
    ],
    ids=str,
)  # fmt: skip
def test_each_tells_mistakes_in_its_own_words(change: dict[str, Any], to_people, to_programs) -> None:
    with pytest.raises(ConfigError, match=to_people):
        build_settings(Outer, GOOD | change, "it")
    with pytest.raises(ValueError, match=to_programs):
        build_from_json(Outer, GOOD | change)


def test_the_manifests_crop_scale_is_the_crops() -> None:
    assert Manifest.crop_scale == CROP_SCALE


@dataclass(frozen=True)
class Numbers:
    count: int = 0
    rate: float = 0.0
    on: bool = False


@pytest.mark.parametrize(
    ("name", "value", "want"),
    [
        ("count", 3, 3),
        ("count", 3.0, 3),
        ("count", -0.0, 0),
        ("rate", 3, 3.0),
        ("on", True, True),
        ("count", 1e15, 10**15),
    ],
    ids=repr,
)
def test_numbers_however_they_are_written(name, value, want) -> None:
    for built in (build_settings(Numbers, {name: value}, "it"), build_from_json(Numbers, {name: value})):
        assert getattr(built, name) == want
        assert type(getattr(built, name)) is type(want)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", 3.7), ("count", True), ("count", "3"), ("count", math.nan), ("count", math.inf), ("count", None),
        ("rate", math.nan), ("rate", True), ("rate", "3"), ("rate", 10**400), ("on", 1), ("on", 0.0), ("on", "maybe"),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_number_is_refused_by_both(name, value) -> None:
    with pytest.raises(ConfigError, match=rf"it\.{name} is "):
        build_settings(Numbers, {name: value}, "it")
    with pytest.raises(ValueError, match=f"^{name} is "):
        build_from_json(Numbers, {name: value})


def test_only_people_say_yes_and_no() -> None:
    assert [build_settings(Numbers, {"on": word}, "it").on for word in ("yes", "No", "ON", "off")] == [1, 0, 1, 0]
    with pytest.raises(ValueError, match="on is 'yes', not true or false"):
        build_from_json(Numbers, {"on": "yes"})
