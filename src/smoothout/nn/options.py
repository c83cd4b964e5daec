"""Enums and argument checks of this subpackage, importable without torch."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

from smoothout.common.reals import finite_or_none


class NoiseDistribution(StrEnum):
    """The distribution of each entry of the noise: U(-a, a), or N(0, a^2)."""

    uniform = "uniform"
    gaussian = "gaussian"

    @property
    def variance(self) -> float:
        """The variance of each entry at a = 1."""
        return {NoiseDistribution.uniform: 1 / 3, NoiseDistribution.gaussian: 1.0}[self]


class NoiseScaling(StrEnum):
    """The unit of the strength: absolute (SmoothOut), relative to each weight, or to a filter's norm (AdaSmoothOut)."""

    none = "none"
    weight = "weight"
    filter = "filter"


class StatisticsFrom(StrEnum):
    """Which passes update BatchNorm's running statistics: those at clean weights, at perturbed weights, or both."""

    clean = "clean"
    perturbed = "perturbed"
    both = "both"

    @property
    def includes_clean(self) -> bool:
        """Whether passes at clean weights do."""
        return self is not StatisticsFrom.perturbed

    @property
    def includes_perturbed(self) -> bool:
        """Whether passes at perturbed weights do."""
        return self is not StatisticsFrom.clean


class BatchNormInit(StrEnum):
    """The initial weight of BatchNorm: 1, today's default, or U(0, 1), PyTorch's default in early 2018."""

    one = "one"
    uniform = "uniform"


class Precision(StrEnum):
    """The arithmetic of a run. float32 is the reference; tf32 differs from it only on CUDA devices."""

    float32 = "float32"
    tf32 = "tf32"
    bfloat16 = "bfloat16"


def check_strength(value: Any, name: str = "a") -> float:
    """``value`` as a float. Raises ValueError, which calls it ``name``, unless it is finite and at least 0."""
    strength = finite_or_none(value)
    if strength is None or strength < 0:
        raise ValueError(f"{name}: the noise's strength must be a finite number >= 0, not {value!r}")
    return strength


def check_positive(name: str, value: Any, hint: str = "") -> float:
    """``value`` as a float. Raises ValueError, which calls it ``name``, unless it is finite and above 0."""
    return check_number(name, value, lambda number: number > 0, "be a finite number above 0", hint)


def check_fisher(eta: Any, beta: Any) -> tuple[float, float]:
    """ARWP's eta and beta as floats. Raises ValueError unless eta is finite and above 0, and beta in [0, 1)."""
    return check_positive("eta", eta), check_number("beta", beta, lambda number: 0 <= number < 1, "lie in [0, 1)")


def check_number(name: str, value: Any, is_allowed: Callable[[float], bool], must: str, hint: str = "") -> float:
    """``value`` as a float. Raises ValueError, "``name``: must ``must``, not ...; ``hint``", unless it is allowed."""
    number = finite_or_none(value)
    if number is None or not is_allowed(number):
        raise ValueError(f"{name}: must {must}, not {value!r}{hint and '; '}{hint}")
    return number
