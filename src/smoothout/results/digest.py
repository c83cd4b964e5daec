"""What a job is: its settings as plain values, and the digest that names its record."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from enum import Enum
from typing import Any


def canonical_settings(settings: Any, defaults: bool = True) -> Any:
    """``settings`` (a dataclass of settings, nested) as plain JSON values, each dataclass with its class name.

    A dataclass that offers ``canonicalized()`` stands there in its plainest form with the same outcome; fields marked
    ``metadata={"identity": False}`` (names for people) are left out. ``defaults=False`` leaves out every field that has
    its default, so that a field added later with a default that changes nothing leaves all digests alone.

    A class or a field that was renamed keeps its name in records: a class variable ``recorded_as`` of the class, or
    ``field(metadata={"recorded_as": "old_name"})``.
    """
    if isinstance(settings, Enum):
        return settings.value
    if isinstance(settings, tuple | list):
        return [canonical_settings(value, defaults) for value in settings]
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        return settings
    plain = settings.canonicalized() if hasattr(settings, "canonicalized") else settings
    values: dict[str, Any] = {"class": getattr(type(plain), "recorded_as", type(plain).__name__)}
    for field in dataclasses.fields(plain):
        value = getattr(plain, field.name)
        if field.metadata.get("identity", True) and (defaults or not _is_default(field, value)):
            values[field.metadata.get("recorded_as", field.name)] = canonical_settings(value, defaults)
    return values


def _is_default(field: dataclasses.Field[Any], value: Any) -> bool:
    plain = value.canonicalized() if hasattr(value, "canonicalized") else value
    if field.default is not dataclasses.MISSING:
        return bool(plain == field.default)
    return field.default_factory is not dataclasses.MISSING and bool(plain == field.default_factory())


def canonical_json(value: Any) -> str:
    """One JSON text for equal values: sorted keys, no spaces, nan and infinity refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON of ``value``, in hexadecimal."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
