"""Checks and grids that the analyses share with their jobs, importable without torch."""

from __future__ import annotations

import math


def check_positive(**numbers: float) -> None:
    """Raise ValueError unless each is a finite number above 0."""
    for name, number in numbers.items():
        if not (math.isfinite(number) and number > 0):
            raise ValueError(f"{name}: must be a finite number above 0, not {number!r}")


def check_counts(*, least: int = 1, **counts: int) -> None:
    """Raise ValueError unless each is a whole number of at least ``least``."""
    for name, count in counts.items():
        if not (isinstance(count, int) and not isinstance(count, bool) and count >= least):
            raise ValueError(f"{name}: must be a whole number of at least {least}, not {count!r}")


def linspace(start: float, stop: float, points: int) -> list[float]:
    """``points`` equally spaced numbers from ``start`` to ``stop``, rounded to ten decimals."""
    return [round(start + (stop - start) * i / (points - 1), 10) for i in range(points)]
