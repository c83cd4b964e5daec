"""Checks shared by many settings: enums given by name or member, and seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, get_type_hints

E = TypeVar("E", bound=StrEnum)


def parse_enum(kind: type[E], name: str, value: str) -> E:
    """The member of ``kind`` for ``value``, a member or its name. Raises ValueError that lists the allowed values."""
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"{name}: {value!r} is not one of {', '.join(kind)}") from None


def coerce_enum_fields(settings: Any) -> None:
    """Convert every enum field of the frozen dataclass ``settings`` to its member. Raises ValueError."""
    for name, kind in _kinds(settings.__class__).items():
        object.__setattr__(settings, name, parse_enum(kind, name, getattr(settings, name)))


@cache
def _kinds(settings: type[Any]) -> dict[str, type[StrEnum]]:
    hints = get_type_hints(settings)
    kinds = {field.name: hints[field.name] for field in dataclasses.fields(settings)}
    return {name: kind for name, kind in kinds.items() if isinstance(kind, type) and issubclass(kind, StrEnum)}


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise ValueError if there are no ``seeds``, or some are negative or equal."""
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds: must be different whole numbers >= 0, at least one, not {list(seeds)}")
