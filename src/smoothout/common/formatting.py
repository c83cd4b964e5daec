"""Numbers as people read them."""

from __future__ import annotations

import math

TINY = 1e-12  # below it a difference of two percentages is a rounding error of float64


def format_decimal(value: float, digits: int) -> str:
    """``value`` with so many decimals; what would read as 0 and is not 0, rounding noise of a search, has its size."""
    text = f"{value:.{digits}f}"
    if float(text) == 0.0:
        return f"{0.0:.{digits}f}" if abs(value) < TINY else f"{value:.1g}"
    return text


def format_significant(value: float, digits: int = 3) -> str:
    """``value`` with so many significant digits, never in powers of ten from 0.001 on."""
    rounded = float(f"{value:.{digits}g}")
    if not math.isfinite(rounded) or abs(rounded) < 1e-3:
        return f"{value:.{digits}g}"
    return f"{rounded:.{max(0, digits - 1 - math.floor(math.log10(abs(rounded))))}f}"


def format_duration(hours: float) -> str:
    """A span of time for people."""
    return f"{hours:.1f} h" if hours >= 1 else f"{max(1, round(60 * hours))} min"
