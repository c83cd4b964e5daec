"""The canonical form of a job's settings, and the digest that names its record."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from enum import Enum
from typing import Any


def canonical_settings(settings: Any, defaults: bool = True) -> Any:
    """``settings`` (a dataclass, possibly nested) as plain JSON values, each dataclass with its class name.

    A dataclass with a method ``canonicalized()`` is replaced by its simplest form with the same outcome. Fields with
    ``metadata={"identity": False}`` (names for people) are left out. ``defaults=False`` also leaves out every field
    with its default value, so a field that is added later does not change digests if its default does not change
    outcomes.

    A class of another package has its full name. A class or a field that was renamed keeps its name in records: by a
    class variable ``recorded_as``, which subclasses do not inherit, or by
    ``field(metadata={"recorded_as": "old_name"})``.
    """
    if isinstance(settings, Enum):
        return settings.value
    if isinstance(settings, tuple | list):
        return [canonical_settings(value, defaults) for value in settings]
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        return settings
    plain = settings.canonicalized() if hasattr(settings, "canonicalized") else settings
    values: dict[str, Any] = {"class": _recorded_name(type(plain))}
    for field in dataclasses.fields(plain):
        value = getattr(plain, field.name)
        if field.metadata.get("identity", True) and (defaults or not _is_default(field, value)):
            values[field.metadata.get("recorded_as", field.name)] = canonical_settings(value, defaults)
    return values


def _recorded_name(cls: type[Any]) -> str:
    full_name = f"{cls.__module__}.{cls.__qualname__}"
    is_ours = cls.__module__.partition(".")[0] == __name__.partition(".")[0]
    return str(vars(cls).get("recorded_as", cls.__name__ if is_ours else full_name))


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    plain = value.canonicalized() if hasattr(value, "canonicalized") else value
    if field.default is not dataclasses.MISSING:
        return bool(plain == field.default)
    return field.default_factory is not dataclasses.MISSING and bool(plain == field.default_factory())


def canonical_json(value: Any) -> str:
    """The same JSON text for equal values: sorted keys, no spaces. Raises ValueError for nan and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
