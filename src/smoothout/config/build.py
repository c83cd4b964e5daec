"""Build typed settings from a composed config, with every error line about settings.

A group of settings is a frozen dataclass. If it can be one of several, its node in the config names the class as
``_target_``; ``build`` makes the object, and refuses other classes than frozen dataclasses and keys that are no fields.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import math
import sysconfig
import traceback
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from smoothout.common.errors import ConfigError, config_errors
from smoothout.common.job_settings import KINDS
from smoothout.config.moved import current_name, warn_renamed
from smoothout.config.protocols import missing_members

PACKAGE = "smoothout"
MISSING = "???"  # marks a value of a config that the user must give
T = TypeVar("T")
LONGEST = 200  # characters of a wrong value in an error line


def build(node: Any, key: str, kind: type[T] | None = None, role: type[Any] | None = None) -> T:
    """Build the settings that the config node at ``key`` describes.

    It must be of the class ``kind`` if that is given, and have the members of ``role``, a protocol or base class.
    Raises ConfigError for an unknown ``_target_`` or key, a missing or wrong value.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(f"{key}: must be a group of settings with a _target_, not {node!r}")
    values = dict(node)
    cls = _component(current_name(str(values.pop("_target_")), key), key)
    if kind is not None and cls is not kind:
        raise ConfigError(f"{key}._target_: must be {kind.__module__}.{kind.__qualname__}, not {node['_target_']}")
    if role is not None and (members := missing_members(cls, role)):
        raise ConfigError(f"{key}._target_: {node['_target_']} cannot be the {key}: it lacks {', '.join(members)}")
    settings: T = validate(cls, values, f"{key}.")
    try:
        hash(settings)  # settings are compared, and kept in caches
    except TypeError as error:
        raise ConfigError(
            f"{key}: {error}; fields must be numbers, text, enums, tuples and frozen dataclasses"
        ) from error
    return settings


def _component(target: str, key: str) -> type[Any]:
    """The class of settings ``target``, of this package or of any other that can be imported."""
    module, _, name = target.rpartition(".")
    if not module or not all(part.isidentifier() for part in target.split(".")):
        raise ConfigError(f"{key}._target_: must be the full name of a class, package.module.Class, not {target!r}")
    what = f"{key}._target_: {target!r}"
    component = getattr(_import(module, what), name, None)
    if component is None:
        raise ConfigError(f"{what} cannot be imported: {module} has no {name}")
    if not isinstance(component, type) or not dataclasses.is_dataclass(component):
        raise ConfigError(f"{what} is not a class of settings, which is a frozen dataclass")
    if not component.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ConfigError(f"{what} must be frozen: @dataclass(frozen=True)")
    if component.__module__ != module:
        raise ConfigError(f"{what} must be named where it is defined: {component.__module__}.{name}")
    if module.partition(".")[0] != PACKAGE and (kind := getattr(component, "kind", None)) in KINDS:
        raise ConfigError(f"{what}: records of this package have the kind {kind!r}; must have another")
    return component


def _import(module: str, what: str) -> types.ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        hint = "; must be installed, or its folder on PYTHONPATH" if error.name == module.partition(".")[0] else ""
        raise ConfigError(f"{what} cannot be imported: {error}{hint}") from error
    except (Exception, SystemExit) as error:  # of a user's own module
        where = "" if isinstance(error, SyntaxError) else _place(traceback.extract_tb(error.__traceback__))
        raise ConfigError(f"{what} cannot be imported: {where}{type(error).__name__}: {error}") from error


def _place(frames: Sequence[traceback.FrameSummary]) -> str:
    """Where the last of ``frames`` outside the standard library is, as the beginning of an error line."""
    library = sysconfig.get_path("stdlib")
    files = [f"{frame.filename}, line {frame.lineno}: " for frame in frames if not frame.filename.startswith("<")]
    return next((file for file in reversed(files) if not file.startswith(library) or "site-packages" in file), "")


def validate(cls: type[T], values: Mapping[Any, Any], prefix: str, other_names: Iterable[str] = ()) -> T:
    """Make the dataclass ``cls`` from ``values``, each checked against its field's type.

    A field is a number, a truth value, text, an enum, None, a tuple, a list or a dict of these, another dataclass of
    settings, or a role: a protocol of `config.protocols`, or an abstract class. The metadata of a field may have a
    ``hint`` for a missing or wrong value, and ``recorded_as``, its name in records, which is also accepted as a key,
    with a warning. Raises ConfigError for an unknown key, a missing value, or one of another type.

    Args:
        prefix: the node's place in the config, for error lines.
        other_names: other keys of the same node, which are not among ``values``, for the hint at a misspelled key.
    """
    fields, hints = _fields(cls)  # type: ignore[arg-type]
    renamed = {field.metadata.get("recorded_as"): name for name, field in fields.items()}
    converted = {}
    for key, value in values.items():
        name = key
        if key in renamed and key not in fields:
            name = renamed[key]
            warn_renamed(f"{prefix}{key}", f"{prefix}{name}")
        if name not in fields:
            raise ConfigError(unknown_key(f"{prefix}{key}", [*fields, *other_names]))
        if value != MISSING:
            converted[name] = _convert(value, hints[name], f"{prefix}{name}", _note(fields[name]))
    for name, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if name not in converted and (required or values.get(name) == MISSING):
            raise ConfigError(f"{prefix}{name}: must be given: {_allowed(hints[name])}{_note(field)}")
    return construct(cls, converted, prefix)


@cache
def _fields(cls: type[Any]) -> tuple[dict[str, dataclasses.Field[Any]], dict[str, Any]]:
    return {field.name: field for field in dataclasses.fields(cls) if field.init}, get_type_hints(cls)


def _note(field: dataclasses.Field[Any]) -> str:
    """The ``hint`` of a field as the end of an error line."""
    return f"; {field.metadata['hint']}" if "hint" in field.metadata else ""


class _MismatchError(Exception):
    """A value is not of the type of its field."""


def _convert(value: Any, hint: Any, key: str, note: str = "") -> Any:
    """Convert ``value`` to the type ``hint``.

    Raises ConfigError with the ``key`` of the setting, and ``note`` at the end, if that fails.
    """
    try:
        converted = _fit(value, hint, key)
    except _MismatchError:
        text = repr(value)
        found = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."  # it may be a whole file
        raise ConfigError(f"{key}: {found} is not {_allowed(hint)}{note}") from None
    numbers = converted if isinstance(converted, tuple) else (converted,)
    if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
        raise ConfigError(f"{key}: must be finite, not {converted}")
    return converted


def _fit(value: Any, hint: Any, key: str) -> Any:
    """Convert ``value`` to the type ``hint``. Raises _MismatchError, and ConfigError within groups."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any or (origin is Literal and value in arguments):
        return value
    if origin in (Union, types.UnionType):
        return _fit_one_of(value, arguments, key)
    if origin in (tuple, list):
        if not isinstance(value, list | tuple) or MISSING in value:
            raise _MismatchError
        return origin(_fit(item, arguments[0], f"{key}.{index}") for index, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _MismatchError
        return {str(name): _convert(item, arguments[1], f"{key}.{name}") for name, item in value.items()}
    if _is_group(hint):
        return _fit_group(value, hint, key)
    if origin is not Literal and not _is_plain(hint):
        raise ConfigError(
            f"{key}: no config can set a field of type {hint}; use numbers, text, enums and tuples of these"
        )
    return _fit_plain(value, hint)


def _fit_one_of(value: Any, options: Sequence[Any], key: str) -> Any:
    if value is None and type(None) in options:
        return None
    *others, last = (option for option in options if option is not type(None))
    for option in others:
        try:
            return _fit(value, option, key)
        except _MismatchError:
            continue
    return _fit(value, last, key)


def _is_group(hint: Any) -> bool:
    """Whether settings of that type are a group: a dataclass, or a protocol or abstract base class of several."""
    is_role = inspect.isabstract(hint) or getattr(hint, "_is_protocol", False)
    return isinstance(hint, type) and (dataclasses.is_dataclass(hint) or is_role)


def _is_plain(hint: Any) -> bool:
    return hint in _WORDS or (isinstance(hint, type) and issubclass(hint, Enum))


def _fit_group(value: Any, hint: Any, key: str) -> Any:
    if not dataclasses.is_dataclass(hint) or inspect.isabstract(hint):
        return build(value, key, role=hint)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key}: must be a group of settings, not {value!r}")
    return build(value, key, kind=hint) if "_target_" in value else validate(hint, value, f"{key}.")  # type: ignore[arg-type]


def _fit_plain(value: Any, hint: Any) -> Any:
    """A number, truth value, text or member of an enum; texts (of ${oc.env:NAME}) may stand for numbers."""
    try:
        if issubclass(hint, Enum):
            return value if isinstance(value, hint) else hint(value) if value in list(hint) else hint[value]
        if hint is bool and isinstance(value, str):
            return {"true": True, "false": False}[value.lower()]
        of_kind = isinstance(value, str) or isinstance(value, bool) == (hint is bool)  # a number is not a truth value
        if of_kind and isinstance(value, str | int | float) and not (hint is int and isinstance(value, float)):
            return hint(value)
    except (KeyError, TypeError, ValueError):
        pass
    raise _MismatchError


def unknown_key(key: str, names: Iterable[str], more: Sequence[str] = ()) -> str:
    """The error line for an unknown full ``key``: ``names`` are allowed there, ``more`` are full keys to suggest."""
    names, end = list(names), key.rpartition(".")[2]
    elsewhere = {name.rpartition(".")[2]: name for name in reversed(more) if name != key}
    near = [elsewhere[end]] if end in elsewhere else difflib.get_close_matches(end, names, 1)
    near += [elsewhere[name] for name in difflib.get_close_matches(end, elsewhere, 1, 0.75)]
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"{key}: unknown key{hint}; allowed: {', '.join(names) or '(nothing)'}"


def unknown_choice(key: str, name: str, options: Sequence[str]) -> str:
    """The error line for a choice ``name`` of ``key`` that is not among ``options``."""
    near = difflib.get_close_matches(name, options, 1)
    return f"{key}: {name!r} is not one of {', '.join(options)}{f' (did you mean {near[0]}?)' if near else ''}"


def construct(cls: Callable[..., T], values: dict[str, Any], prefix: str) -> T:
    """Call ``cls`` with ``values``; a ValueError becomes a ConfigError whose key starts with ``prefix``."""
    with config_errors(prefix):
        return cls(**values)


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    type(None): "null",
    Any: "a value",
}


def _allowed(hint: Any) -> str:
    """What a field of that type takes, in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_allowed(option) for option in arguments)
    if origin in (tuple, list):
        return f"a list, each {_allowed(arguments[0])}"
    if origin is dict:
        return f"a group, each {_allowed(arguments[1])}"
    if _is_group(hint):
        return "a group of settings"
    if origin is Literal or (isinstance(hint, type) and issubclass(hint, Enum)):
        return "one of " + ", ".join(map(str, arguments) if arguments else (member.name for member in hint))
    return _WORDS[hint]
