"""Rank correlations of a quantity of trained networks with a setting of their training.

The axis is the learning rate over the batch size (Jastrzebski et al. 2018), or the strength of the noise.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from smoothout.results.records import Record
from smoothout.results.significance import TestResult, stratified_rank_correlation

LEAST = 5  # settings; fewer have fewer than 120 orders


class Axis(StrEnum):
    """Settings that trainings are ordered by."""

    lr_over_batch = "lr_over_batch"
    strength = "strength"


class Within(StrEnum):
    """Which settings are compared: all of them, or those that share the batch size or the learning rate."""

    all = "all"
    batch = "batch"
    lr = "lr"


class Quantity(StrEnum):
    """A number of a network at the end of its training."""

    eigenvalue = "eigenvalue"
    norm = "norm"
    train_accuracy = "train_accuracy"
    validation_accuracy = "validation_accuracy"

    @property
    def of_hessian(self) -> bool:
        """Whether it describes the Hessian and is in the analysis's record; the paper claims that these fall."""
        return self in (Quantity.eigenvalue, Quantity.norm)

    def read(self, record: Record) -> float | None:
        """Its value in a record; None if that is not a finite number."""
        outcome = record.outcome
        if self is Quantity.eigenvalue:
            value = next(iter(outcome["eigenvalues"]["values"]), None)
        elif self is Quantity.norm:
            value = outcome["norm"]["mean"]
        else:
            split = "train" if self is Quantity.train_accuracy else "test"
            accuracy = outcome["last"][f"{split}_accuracy"]
            value = None if accuracy is None else 100 * accuracy
        return None if value is None else float(value)


WORDS = {
    Within.all: "all settings",
    Within.batch: "within one batch size",
    Within.lr: "within one learning rate",
}


@dataclass(frozen=True)
class Setting:
    """The settings of a training that axes and strata use."""

    lr: float
    batch: int
    strength: float
    model: str

    @classmethod
    def of(cls, training: Record) -> Setting:
        """The setting of a training's record."""
        noise = training.settings.get("perturbation", {}).get("a", 0.0)
        return cls(training.settings["optimizer"]["lr"], training.labels["batch"], noise, training.labels["model"])

    def position(self, axis: Axis) -> float:
        """The place on ``axis``, rounded so that equal ratios of different numbers are equal."""
        return self.strength if axis is Axis.strength else float(f"{self.lr / self.batch:.12g}")

    def stratum(self, within: Within) -> float:
        """The number that settings share if they are compared with each other."""
        return {Within.all: 0.0, Within.batch: float(self.batch), Within.lr: self.lr}[within]


@dataclass(frozen=True)
class Point:
    """A number of a trained network."""

    setting: Setting
    seed: int
    value: float


def trend(points: Sequence[Point], axis: Axis, within: Within = Within.all) -> TestResult:
    """[Jastrzebski Fig. 1] Spearman's correlation of the values with the place on ``axis``, over settings.

    The estimate is the mean over the seeds that have all settings, and its interval is Student's over these seeds, both
    on Fisher's scale, atanh r; with one seed there is no interval. A seed whose settings are in perfect order, with an
    infinite atanh, counts as half an exchange of two neighbors away from it. The p-values permute the settings, each
    the mean of its seeds (`stratified_rank_correlation`). A seed with equal values has no correlation and is left out
    of the estimate. There is no result for fewer than `LEAST` settings.
    """
    together = _correlation(points, axis, within)
    if not together.n:
        return together
    settings = {point.setting for point in points}
    by_seed = {seed: [p for p in points if p.seed == seed] for seed in sorted({point.seed for point in points})}
    complete = [these for these in by_seed.values() if {p.setting for p in these} == settings]
    correlations = [_correlation(these, axis, within).value for these in complete]
    correlations = [value for value in correlations if not math.isnan(value)]
    if not correlations:
        return together
    # Smaller strata are left out, see `stratified_rank_correlation`.
    sizes = [size for size in Counter(setting.stratum(within) for setting in settings).values() if size > 2]
    # What an exchange of neighbors in the largest stratum takes off a correlation of 1.
    exchange = 12 / (max(sizes) * (max(sizes) + 1) * sum(size - 1 for size in sizes))
    value, low, high = mean_correlation(correlations, limit=1 - exchange / 2)
    return replace(together, value=value, ci_low=low, ci_high=high)


def mean_correlation(correlations: Sequence[float], limit: float) -> tuple[float, float, float]:
    """The mean of independent ``correlations`` and the ends of its 95% interval, by way of Fisher's z = atanh r.

    ``limit`` stands for a perfect correlation among others, whose z is infinite. The interval is the whole line for a
    single correlation and for equal ones: rank correlations take few values, so equal ones do not show their spread.
    """
    from scipy.special import stdtrit  # noqa: PLC0415

    first, n = correlations[0], len(correlations)
    if n == 1 or np.allclose(correlations, first):
        return first, -math.inf, math.inf
    z = np.arctanh(np.clip(correlations, -limit, limit))
    mean, reach = float(np.mean(z)), float(stdtrit(n - 1, 0.975) * np.std(z, ddof=1) / math.sqrt(n))
    return math.tanh(mean), math.tanh(mean - reach), math.tanh(mean + reach)


def _correlation(points: Sequence[Point], axis: Axis, within: Within) -> TestResult:
    return stratified_rank_correlation(
        [point.setting.position(axis) for point in points],
        [point.value for point in points],
        [point.setting.stratum(within) for point in points],
        [point.setting for point in points],
        least=LEAST,
    )
