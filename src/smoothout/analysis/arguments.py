"""Argument checks and grids shared by analyses and their jobs, importable without torch."""

from __future__ import annotations

from typing import SupportsIndex

from smoothout.common.integers import whole_number
from smoothout.nn.options import check_positive as positive_number


def check_positive(**numbers: object) -> list[float]:
    """The ``numbers`` as floats. Raises ValueError unless each is a finite number above 0."""
    return [positive_number(name, number) for name, number in numbers.items()]


def check_counts(least: int = 1, /, **counts: SupportsIndex) -> list[int]:
    """The ``counts`` as ints. Raises ValueError unless each is a whole number of at least ``least``."""
    return [whole_number(name, count, least) for name, count in counts.items()]


def linspace(start: float, stop: float, points: int) -> list[float]:
    """``points`` equally spaced numbers from ``start`` to ``stop``, rounded to ten decimals."""
    return [round(start + (stop - start) * i / (points - 1), 10) for i in range(points)]
