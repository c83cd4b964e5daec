"""Format numbers for people."""

from __future__ import annotations

import math
from collections.abc import Iterable

TINY = 1e-12  # a smaller difference of two percentages is a rounding error of float64


def format_decimal(value: float, digits: int) -> str:
    """``value`` with ``digits`` decimals; a nonzero value that would be rounded to 0 has one significant digit."""
    text = f"{value:.{digits}f}"
    if float(text) == 0.0:
        return f"{0.0:.{digits}f}" if abs(value) < TINY else f"{value:.1g}"
    return text


def format_significant(value: float, digits: int = 3) -> str:
    """``value`` with ``digits`` significant digits; from 0.001 on without an exponent."""
    rounded = float(f"{value:.{digits}g}")
    if not math.isfinite(rounded) or abs(rounded) < 1e-3:
        return f"{value:.{digits}g}"
    return f"{rounded:.{max(0, digits - 1 - math.floor(math.log10(abs(rounded))))}f}"


def format_duration(hours: float) -> str:
    """A duration such as "1,200 h", "2.5 h" or "3 min"."""
    if hours < 1:
        return f"{max(1, round(60 * hours))} min"
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"


def format_hours(hours: Iterable[float | None]) -> str:
    """The total of ``hours``: "about 3 min", "about 3 min and more" if one is None, empty if none is known."""
    hours = list(hours)
    known = [hour for hour in hours if hour is not None]
    if not known:
        return ""
    return f"about {format_duration(sum(known))}" + (" and more" if len(known) < len(hours) else "")
