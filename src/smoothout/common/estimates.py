"""Means of repeated draws and their standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


def standard_error(values: Sequence[float]) -> float:
    """The standard error of the mean of independent ``values``: standard deviation (n - 1) over sqrt(n).

    It is nan for fewer than two values, or if one is not finite.
    """
    if len(values) < 2 or not np.isfinite(values).all():
        return math.nan
    return float(np.std(values, ddof=1)) / math.sqrt(len(values))


class Estimate(NamedTuple):
    """A mean over independent draws and its standard error, nan for a single draw."""

    mean: float
    standard_error: float
