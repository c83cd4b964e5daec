"""Whole numbers as arguments: integers of Python, numpy, pandas or torch are accepted; bools and floats are not."""

from __future__ import annotations

import operator
from typing import SupportsIndex


def whole_number(name: str, value: SupportsIndex, least: int | None = None) -> int:
    """``value`` as an int. Raises ValueError, with ``name``, unless it is an integer of at least ``least``."""
    try:
        number = None if is_bool(value) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        bound = "" if least is None else f" of at least {least}"
        raise ValueError(f"{name}: must be a whole number{bound}, not {value!r}")
    return number


def is_bool(value: object) -> bool:
    """Whether ``value`` is a bool of Python, numpy or torch."""
    return isinstance(value, bool) or str(getattr(value, "dtype", "")) in {"bool", "torch.bool"}
