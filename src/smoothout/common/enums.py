"""Checks that many settings share: seeds, and one of a few names, given by name or as the member, kept as that."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from enum import StrEnum
from functools import cache
from typing import Any, TypeVar, get_type_hints

E = TypeVar("E", bound=StrEnum)


def parse_enum(kind: type[E], name: str, value: str) -> E:
    """The member of ``kind`` that ``value`` is or names. Raises ValueError, which says ``name`` and what is allowed."""
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"{name}: {value!r} is not one of {', '.join(kind)}") from None


def coerce_enum_fields(settings: Any) -> None:
    """Let every field of a frozen dataclass that is one of a few names be the member.

    Raises ValueError as `parse_enum`.
    """
    for name, kind in _kinds(settings.__class__).items():
        object.__setattr__(settings, name, parse_enum(kind, name, getattr(settings, name)))


@cache
def _kinds(settings: type[Any]) -> dict[str, type[StrEnum]]:
    hints = get_type_hints(settings)
    fields = [field.name for field in dataclasses.fields(settings)]
    return {name: hints[name] for name in fields if isinstance(hints[name], type) and issubclass(hints[name], StrEnum)}


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise ValueError where ``seeds`` are none, negative or not all different."""
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise ValueError(f"seeds: must be different whole numbers >= 0, at least one, not {list(seeds)}")
