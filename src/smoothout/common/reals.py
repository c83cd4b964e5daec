"""Real numbers as arguments, of Python, numpy, pandas or torch; bools, text, nan and inf are not accepted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Complex, Real
from typing import SupportsFloat

from smoothout.common.integers import is_bool


def finite_or_none(value: object) -> float | None:
    """``value`` as a float; None unless it is one finite real number."""
    complex_number = isinstance(value, Complex) and not isinstance(value, Real)
    if is_bool(value) or complex_number or getattr(value, "ndim", None) or not isinstance(value, SupportsFloat):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # such as pandas' NA, and a complex tensor
        return None
    return number if math.isfinite(number) else None


def finite_numbers(name: str, values: Iterable[object]) -> list[float]:
    """``values`` as floats. Raises ValueError, with ``name``, unless they are finite numbers."""
    given = list(values) if isinstance(values, Iterable) and getattr(values, "ndim", None) != 0 else None
    numbers = [number for value in given or [] if (number := finite_or_none(value)) is not None]
    if given is None or len(numbers) < len(given):
        raise ValueError(f"{name}: must be a list of finite numbers, not {values if given is None else given!r}")
    return numbers
