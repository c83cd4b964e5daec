"""Renamed arguments and attributes of the public API: the old name still works, with a DeprecationWarning."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def renamed_arguments(**new_names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a decorator: with ``renamed_arguments(old="new")``, the keyword argument ``old`` is passed as ``new``.

    The decorated function raises TypeError if both are given.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old, new in new_names.items():
                if old in kwargs:
                    if new in kwargs:
                        raise TypeError(f"{old}: is now {new}; give one of them")
                    name = function.__qualname__.removesuffix(".__init__")
                    warnings.warn(f"{name}: the argument {old} is now {new}", DeprecationWarning, stacklevel=2)
                    kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def renamed_attribute(old: str, new: str) -> property:
    """Make a property ``old = renamed_attribute("old", "new")`` that reads ``new``, with a DeprecationWarning."""

    def read(self: object) -> object:
        warnings.warn(f"{old} is now {new}", DeprecationWarning, stacklevel=2)
        return getattr(self, new)

    return property(read, doc=f"Old name of `{new}`.")
