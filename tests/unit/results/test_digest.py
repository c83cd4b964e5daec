"""Identity: the same outcome has the same description, and equal descriptions have one text and one digest."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smoothout.results.digest import canonical_json, canonical_settings, digest
from smoothout.training.optimizers import SGD


class Colour(Enum):
    red = "r"
    blue = "b"


class Law(StrEnum):
    uniform = "uniform"


@dataclass(frozen=True)
class Inner:
    size: int
    law: Law = Law.uniform
    drops: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outer:
    inner: Inner
    colour: Colour = Colour.red
    made: tuple[int, ...] = field(default_factory=lambda: (1, 2))
    limit: int | None = None
    title: str = field(default="untitled", metadata={"identity": False})


@dataclass(frozen=True)
class Strength:
    a: float = 0.0
    law: str = "uniform"

    def canonicalized(self) -> Strength:
        return self if self.a else Strength()


@dataclass(frozen=True)
class Renamed:
    recorded_as: ClassVar[str] = f"{__name__}.Inner"

    size: int
    distribution: Law = field(default=Law.uniform, metadata={"recorded_as": "law"})
    milestones: tuple[int, ...] = field(default=(), metadata={"recorded_as": "drops"})


@pytest.mark.parametrize("defaults", [True, False])
def test_what_was_renamed_keeps_its_name_in_records(defaults: bool) -> None:
    assert canonical_settings(Renamed(3, milestones=(4,)), defaults) == canonical_settings(
        Inner(3, drops=(4,)), defaults
    )


def test_a_short_description_leaves_out_what_has_its_default_on_all_levels() -> None:
    assert canonical_settings(Outer(Inner(3)), defaults=False) == {
        "class": f"{__name__}.Outer",
        "inner": {"class": f"{__name__}.Inner", "size": 3},
    }


def test_a_short_description_keeps_what_differs_from_its_default() -> None:
    settings = Outer(Inner(3, drops=(7,)), colour=Colour.blue, made=(1,), limit=0)
    assert canonical_settings(settings, defaults=False) == {
        "class": f"{__name__}.Outer",
        "inner": {"class": f"{__name__}.Inner", "size": 3, "drops": [7]},
        "colour": "b",
        "made": [1],
        "limit": 0,
    }


@pytest.mark.parametrize("defaults", [True, False])
def test_settings_that_can_be_simplified_are_described_in_their_plainest_form(defaults: bool) -> None:
    assert canonical_settings(Strength(0.0, "gaussian"), defaults) == canonical_settings(Strength(), defaults)
    assert canonical_settings(Strength(0.1, "gaussian"), defaults) == {
        "class": f"{__name__}.Strength",
        "a": 0.1,
        "law": "gaussian",
    }


def test_a_part_that_comes_to_its_default_is_left_out_whatever_it_was_written_as() -> None:
    plain = dataclasses.make_dataclass("Training", [("noise", Strength, field(default_factory=Strength))], frozen=True)
    assert canonical_settings(plain(Strength(0.0, "gaussian")), defaults=False) == {"class": "types.Training"}
    assert canonical_settings(plain(Strength(0.1)), defaults=False) == {
        "class": "types.Training",
        "noise": {"class": f"{__name__}.Strength", "a": 0.1},
    }


def test_a_field_that_is_added_with_its_default_leaves_the_digest_alone() -> None:
    later = dataclasses.make_dataclass("Inner", [("size", int), ("extra", int, 0)], frozen=True)
    later.__module__ = __name__
    assert digest(canonical_settings(later(3), defaults=False)) == digest(canonical_settings(Inner(3), defaults=False))
    assert digest(canonical_settings(later(3, 1), defaults=False)) != digest(
        canonical_settings(Inner(3), defaults=False)
    )


def test_a_class_of_another_package_has_its_full_name_and_no_name_of_a_class_that_it_derives_from() -> None:
    """Else a user's subclass would be taken for the package's own class, and find its records."""

    @dataclass(frozen=True)
    class Nesterov(SGD):
        recorded_in: ClassVar[str] = "no record"

    Nesterov.__qualname__ = "Nesterov"
    assert canonical_settings(SGD(0.1), defaults=False) == {"class": "Momentum", "lr": 0.1}
    assert canonical_settings(Nesterov(0.1), defaults=False) == {"class": f"{__name__}.Nesterov", "lr": 0.1}


def test_two_classes_with_the_same_fields_have_different_digests() -> None:
    other = dataclasses.make_dataclass("Other", [("size", int)], frozen=True)
    assert digest(canonical_settings(other(3), defaults=False)) != digest(canonical_settings(Inner(3), defaults=False))


_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


def _reordered(value: Any) -> Any:
    """``value`` with the keys of all its dictionaries put in the opposite order."""
    if isinstance(value, dict):
        return {key: _reordered(value[key]) for key in reversed(value)}
    return [_reordered(item) for item in value] if isinstance(value, list) else value


@given(_values)
def test_the_canonical_text_does_not_depend_on_the_order_of_keys(value: Any) -> None:
    assert canonical_json(_reordered(value)) == canonical_json(value)


@given(_values)
def test_the_canonical_text_loses_nothing(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_cannot_hold_are_refused(number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest({"a": [number]})


def test_the_digest_is_sha_256_of_the_canonical_text() -> None:
    assert canonical_json({"b": [1, None], "a": 0.5}) == '{"a":0.5,"b":[1,null]}'
    assert digest({"b": [1, None], "a": 0.5}) == hashlib.sha256(b'{"a":0.5,"b":[1,null]}').hexdigest()
