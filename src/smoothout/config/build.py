"""From a composed config to typed settings, and every error line about settings.

A node of the config carries ``_target_``, the full name of a frozen dataclass of this package, and that dataclass's
fields. ``build`` makes the object; it calls nothing outside the package and refuses what the dataclass does not know.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import math
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from smoothout.common.errors import ConfigError
from smoothout.config.moved import current_name
from smoothout.config.protocols import missing_members

PACKAGE = "smoothout"
T = TypeVar("T")


def build(node: Any, key: str, kind: type[T] | None = None, role: type[Any] | None = None) -> T:
    """The settings object that the config node at ``key`` describes.

    ``kind`` is the class that it must be; ``role`` a protocol whose members it must have.

    Raises SettingsError: an unknown ``_target_`` or key, a missing or wrong value.
    """
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(f"{key}: must be a group of settings with a _target_, not {node!r}")
    values = dict(node)
    cls = _component(current_name(str(values.pop("_target_")), key), key)
    if kind is not None and cls is not kind:
        raise ConfigError(f"{key}._target_: must be {kind.__module__}.{kind.__qualname__}, not {node['_target_']}")
    if role is not None and (members := missing_members(cls, role)):
        raise ConfigError(f"{key}._target_: {node['_target_']} cannot be the {key}: it lacks {', '.join(members)}")
    made: T = validate(cls, values, f"{key}.")
    return made


def _component(target: str, key: str) -> type[Any]:
    module, _, name = target.rpartition(".")
    found = None
    if module.split(".")[0] == PACKAGE:
        try:
            found = getattr(importlib.import_module(module), name, None)
        except ImportError as error:
            if error.name not in _parents(module):  # the module is there, and imports what is not
                raise ConfigError(f"{key}._target_: {module} cannot be imported: {error}") from error
    is_ours = isinstance(found, type) and dataclasses.is_dataclass(found) and found.__module__ == module
    if not is_ours:
        raise ConfigError(f"{key}._target_: {target!r} is no class of settings in the package {PACKAGE}")
    assert isinstance(found, type)
    return found


def _parents(module: str) -> list[str]:
    """A module's name, and those of the packages that it lies in."""
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, 1 + len(parts))]


def validate(cls: type[T], values: dict[Any, Any], prefix: str) -> T:
    """``cls`` (a dataclass) made from ``values``, each checked against its field's type; ``prefix`` names the node."""
    schema = OmegaConf.structured(cls)
    OmegaConf.set_readonly(schema, False)  # frozen dataclasses come read-only
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    hints = get_type_hints(cls)
    for key, value in values.items():
        if key not in names:
            raise ConfigError(unknown_key(f"{prefix}{key}", names))
        try:
            schema[key] = _strict(value, hints[key])
            if isinstance(value, list):
                OmegaConf.to_object(schema[key])  # raises where an item is missing (???)
        except (OmegaConfBaseException, TypeError):
            raise ConfigError(f"{prefix}{key}: {value!r} is not {_allowed(hints[key])}") from None
    missing = [name for name in names if OmegaConf.is_missing(schema, name)]
    if missing:
        raise ConfigError(f"{prefix}{missing[0]}: must be given: {_allowed(hints[missing[0]])}")
    settled = {name: _frozen(schema[name]) for name in names}
    for name, value in settled.items():
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(n, float) and not math.isfinite(n) for n in numbers):
            raise ConfigError(f"{prefix}{name}: must be finite, not {value}")
    return construct(cls, settled, prefix)


def unknown_key(key: str, names: Iterable[str], more: Sequence[str] = ()) -> str:
    """The line about a full ``key`` where only ``names`` are known; ``more``, full keys too, may have been meant."""
    names, end = list(names), key.rpartition(".")[2]
    elsewhere = {name.rpartition(".")[2]: name for name in reversed(more) if name != key}
    near = [elsewhere[end]] if end in elsewhere else difflib.get_close_matches(end, names, 1)
    near += [elsewhere[name] for name in difflib.get_close_matches(end, elsewhere, 1, 0.75)]
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"{key}: unknown key{hint}; allowed: {', '.join(names) or 'none'}"


def pick_settings(settings: Any, prefix: str = "", **hints: Any) -> Any:
    """The settings named in ``hints`` as attributes of one object, each checked against its type; others are left."""
    if not isinstance(settings, dict):
        raise ConfigError(f"{prefix.rstrip('.')}: must be a group of settings, not {settings!r}")
    kind = dataclasses.make_dataclass("Chosen", hints.items())
    return validate(kind, {name: settings[name] for name in hints if name in settings}, prefix)


def _strict(value: Any, hint: Any) -> Any:
    """``value``, unless it is a truth value for a number or a number for a truth value: OmegaConf converts 0 and 1."""
    options = get_args(hint) or (hint,)
    if isinstance(value, bool) != (bool in options) and isinstance(value, bool | int | float):
        raise TypeError
    return value


def construct(cls: Callable[..., T], values: dict[str, Any], prefix: str) -> T:
    """Call ``cls`` with ``values``; a ValueError becomes a SettingsError whose key starts with ``prefix``."""
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(f"{prefix}{error}") from error


def _frozen(value: Any) -> Any:
    return tuple(value) if OmegaConf.is_list(value) else value


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def _allowed(hint: Any) -> str:
    """What a field of that type takes, in words."""
    options = [option for option in get_args(hint) or (hint,) if option is not Ellipsis]
    words = []
    for option in options:
        if get_origin(option) is tuple:
            words.append(_allowed(option))
        elif isinstance(option, type) and issubclass(option, Enum):
            words.append("one of " + ", ".join(member.name for member in option))
        else:
            words.append(_WORDS[option])
    text = " or ".join(words)
    return f"a list, each {text}" if get_origin(hint) is tuple else text
