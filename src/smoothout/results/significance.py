"""Tests over a few seeds: estimates with intervals, p-values in both directions, and how many seeds would decide.

SciPy and pandas are imported where they are used: they take a second, and only pages of claims need them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import permutations

import numpy as np

LEVEL = 0.05  # two-sided, over all tests of a family
POWER = 0.8  # of the test with the required number of seeds
MOST_SEEDS = 1000  # a difference that needs more is negligible
LEAST_SEEDS = 3  # fewer do not estimate the scatter well enough to say how many are required
LEAST_SETTINGS = 8  # for a rank correlation; fewer have too few permutations to decide
ORDERS = 50_000  # use all permutations if there are at most this many in each stratum, else draw this many
SUMS = 1_000_000  # of the strata's correlations: compute their exact distribution up to this many values
DECIMALS = 11  # of correlations that are equal but for rounding
FLIPS = 2**15  # use all assignments of signs to at most 16 differences, else draw this many
ROUNDING = 1e-9  # of correlations, and of sums of differences relative to their size


class Verdict(StrEnum):
    """What the records say about a claim."""

    holds = "holds"
    holds_if_normal = "holds if differences are normal"
    contradicted = "does not hold"
    contradicted_if_normal = "does not hold if differences are normal"
    undecided = "undecided"
    untested = "not tested"


@dataclass(frozen=True)
class TestResult:
    """The estimate of a quantity that is positive if a claim holds."""

    n: int = 0  # sample size (seeds, or settings of a correlation); 0 if nothing was run
    value: float = math.nan  # the estimate; ``ci_low`` and ``ci_high`` are the ends of its 95% confidence interval
    ci_low: float = -math.inf
    ci_high: float = math.inf
    p_greater: float = 1.0  # one-sided p-value of H0: the claim does not hold. Small values support the claim
    p_less: float = 1.0  # one-sided p-value of H0: the claim holds. Small values contradict the claim
    std: float = math.nan  # sample standard deviation, nan if it has no meaning
    tested_effect: float = math.nan  # what a t test compares with 0: the value plus the claim's margin
    assumes_normality: bool = False  # whether ``p_greater`` and ``p_less`` need normal differences
    p_sign_flips: float | None = None  # in addition to a t test: the two-sided p-value of `sign_flip_test`

    @property
    def is_testable(self) -> bool:
        """Whether it could decide anything: a single seed cannot, nor can a sample without an estimate."""
        return self.n > 1 and not math.isnan(self.value)

    @property
    def p(self) -> float:
        """The two-sided p-value."""
        return min(1.0, 2.0 * min(self.p_greater, self.p_less))

    @property
    def p_exact(self) -> float | None:
        """The two-sided p-value that needs no normal differences; None if there is no such test."""
        return self.p_sign_flips if self.assumes_normality else self.p

    def verdict(self, adjusted: float, adjusted_exact: float | None) -> Verdict:
        """The verdict on the claim, given `p` and `p_exact` as ``adjusted`` for multiple tests."""
        if self.n == 0:
            return Verdict.untested
        if adjusted >= LEVEL:
            return Verdict.undecided
        normal = adjusted_exact is None or adjusted_exact >= LEVEL
        if self.p_greater < self.p_less:
            return Verdict.holds_if_normal if normal else Verdict.holds
        return Verdict.contradicted_if_normal if normal else Verdict.contradicted


def floored_std(values: Sequence[float], step: float = 0.0) -> float:
    """Standard deviation of at least two ``values`` that are multiples of ``step``, as accuracies are.

    Two of them are often equal by chance, and a test would then assume no scatter at all. So the result is at least the
    standard deviation of a uniform number within one step, step / sqrt(12).
    """
    return max(float(np.std(values, ddof=1)), step / math.sqrt(12))


def paired_t_test(differences: Sequence[float], margin: float = 0.0, step: float = 0.0) -> TestResult:
    """Test whether the mean of paired ``differences`` exceeds -``margin`` (Student's t, and `sign_flip_test`).

    A single difference has no interval and decides nothing. ``step``: see `floored_std`.
    """
    from scipy.special import stdtr, stdtrit  # noqa: PLC0415

    n = len(differences)
    if n == 0:
        return TestResult()
    mean = float(np.mean(differences))
    if n == 1:
        return TestResult(1, mean)
    std = floored_std(differences, step)
    error, effect = std / math.sqrt(n), mean + margin
    reach = float(stdtrit(n - 1, 0.975)) * error
    score = effect / error if error else math.copysign(math.inf, effect) if effect else 0.0
    p_greater, p_less = float(stdtr(n - 1, -score)), float(stdtr(n - 1, score))
    flips = sign_flip_test(np.add(differences, margin))
    interval = mean - reach, mean + reach
    return TestResult(n, mean, *interval, p_greater, p_less, std, effect, assumes_normality=True, p_sign_flips=flips)


def sign_flip_test(differences: Sequence[float] | np.ndarray) -> float:
    """The two-sided p-value of independent ``differences`` that are symmetric about 0 (Fisher 1935).

    It is the share of all assignments of signs to the differences whose sum is at least as far from 0, ties counted; of
    more than 16 differences, the share among `FLIPS` random ones (the observed one is one of them). No distribution is
    assumed, but n differences cannot give less than `sign_flip_floor`.
    """
    n, sizes = len(differences), np.abs(differences)
    if 2 ** (n - 1) <= FLIPS:  # flipping all signs only flips the sum, so the last sign is fixed
        turned = np.arange(2 ** (n - 1))[:, None] >> np.arange(n) & 1
    else:
        turned = np.random.default_rng(0).integers(0, 2, (FLIPS, n))
        turned[0] = 0
    sums = np.abs((1 - 2 * turned) @ np.asarray(differences))
    return float(np.mean(sums >= sums[0] - ROUNDING * sizes.sum()))


def sign_flip_floor(n: int) -> float:
    """The least p-value that `sign_flip_test` can give with ``n`` differences."""
    return max(2.0 ** (1 - n), 1 / FLIPS)


def pitman_morgan_test(one: Sequence[float], other: Sequence[float], max_ratio: float, step: float = 0.0) -> TestResult:
    """Test whether ``one`` has at most ``max_ratio`` times the standard deviation of ``other``, its pairs.

    The sum and the difference of two normal variables are correlated if their variances differ (Pitman 1939, Morgan
    1939). SciPy has no such test of paired samples. The value is log2(``max_ratio`` std(other) / std(one)), which is 0
    at the limit of the claim. ``step``: see `floored_std`.
    """
    from scipy.special import stdtr, stdtrit  # noqa: PLC0415

    n = len(one)
    a, b = (floored_std(values, step) if n > 1 else 0.0 for values in (one, other))
    if n < 3 or a == 0.0 or b == 0.0:
        return TestResult(n)
    ratio, free = max_ratio * b / a, n - 2
    # 1 - r^2 of the pairs, at least what rounding to steps alone leaves unshared.
    rounded = 1 - math.prod(1 - step**2 / 12 / std**2 for std in (a, b))
    unshared = max(1 - (float(np.cov(one, other)[0, 1]) / (a * b)) ** 2, rounded, ROUNDING)
    score = (ratio - 1 / ratio) * math.sqrt(free / unshared) / 2
    wide = 1 + 2 * unshared * float(stdtrit(free, 0.975)) ** 2 / free
    value, reach = math.log2(ratio), math.log2(wide + math.sqrt(wide**2 - 1)) / 2
    p_greater, p_less = float(stdtr(free, -score)), float(stdtr(free, score))
    return TestResult(n, value, value - reach, value + reach, p_greater, p_less, assumes_normality=True)


def stratified_rank_correlation(
    x: Sequence[float],
    y: Sequence[float],
    strata: Sequence[object],
    settings: Sequence[object],
    given: Sequence[float] | None = None,
    *,
    least: int = LEAST_SETTINGS,
) -> TestResult:
    """Spearman's correlation of ``x`` and ``y`` over settings within strata; with ``given``, the partial correlation.

    Runs of the same setting are averaged before ranking, because their seeds are not independent. Correlations of the
    strata are averaged with their degrees of freedom as weights. The p-value is the share of permutations of settings
    within strata that correlate as much: of all, if those of each stratum are at most `ORDERS` and their sums take at
    most `SUMS` values, else of `ORDERS` random ones (the observed order is one of them). A third variable is regressed
    out of the ranks after permuting (Draper and Stoneman 1966). Strata with too few settings or without variation are
    left out; below ``least`` settings there is no result. There is no interval. (scipy.stats.permutation_test needs
    strata of equal size.)
    """
    import pandas as pd  # noqa: PLC0415

    columns = {"x": x, "y": y} | ({} if given is None else {"given": given})
    runs = pd.DataFrame({"stratum": [*strata], "setting": [*settings], **columns})
    means = runs.groupby(["stratum", "setting"], sort=False)[[*columns]].mean()
    ranked = [stratum.rank().to_numpy().T for _, stratum in means.groupby("stratum", sort=False)]
    ranked = [ranks for ranks in ranked if ranks.shape[1] > len(columns) and np.ptp(ranks, axis=1).all()]
    sizes = [ranks.shape[1] for ranks in ranked]
    if sum(sizes) < least:
        return TestResult()
    free = [size + 1 - len(columns) for size in sizes]
    observed, null, shares = _permuted_mean(ranked, np.array(free) / sum(free))
    p_greater, p_less = (float(shares[side * (null - observed) > -ROUNDING].sum()) for side in (1, -1))
    return TestResult(sum(sizes), observed, p_greater=p_greater, p_less=p_less)


def _permuted_mean(ranked: Sequence[np.ndarray], weights: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """The weighted mean of the correlations in strata: as observed, and its values under permutations with shares."""

    def parts(generator: np.random.Generator | None) -> list[np.ndarray]:
        return [w * _correlations(*ranks, generator=generator) for w, ranks in zip(weights, ranked, strict=True)]

    if all(math.factorial(ranks.shape[1]) <= ORDERS for ranks in ranked):
        of_all = parts(None)
        if (null := _distribution_of_sum(of_all)) is not None:
            return float(sum(part[0] for part in of_all)), *null
    drawn = np.sum(parts(np.random.default_rng(0)), axis=0)  # the strata's random permutations are drawn together
    return float(drawn[0]), drawn, np.full(ORDERS, 1 / ORDERS)


def _distribution_of_sum(parts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """Values and probabilities of the sum of a random entry of each part; None if they are more than `SUMS`."""
    values: np.ndarray = np.zeros(1)
    shares: np.ndarray = np.ones(1)
    for part in parts:
        distinct, counts = np.unique(part.round(DECIMALS), return_counts=True)
        if len(values) * len(distinct) > SUMS:
            return None
        sums, which = np.unique(np.add.outer(values, distinct).ravel().round(DECIMALS), return_inverse=True)
        values, shares = sums, np.bincount(which, np.multiply.outer(shares, counts / len(part)).ravel())
    return values, shares


def _correlations(*ranks: np.ndarray, generator: np.random.Generator | None) -> np.ndarray:
    """Correlations of the first two ``ranks``, a third one regressed out: as observed, then for other permutations."""
    size = len(ranks[0])
    if generator is None:
        orders = np.array(list(permutations(range(size))))  # the first one is the identity
    else:
        orders = generator.permuted(np.tile(np.arange(size), (ORDERS, 1)), axis=1)
        orders[0] = np.arange(size)
    line = np.stack([np.ones(size), *ranks[2:]], axis=1)
    residual = np.eye(size) - line @ np.linalg.pinv(line)
    one, other = ranks[0][orders] @ residual, residual @ ranks[1]
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other)
    correlations: np.ndarray = np.divide(one @ other, norms, out=np.zeros_like(norms), where=norms > ROUNDING)
    return correlations


def holm_adjust(ps: Sequence[float]) -> list[float]:
    """Adjust p-values by Holm's method (1979), which controls the family-wise error rate."""
    adjusted, worst = [0.0] * len(ps), 0.0
    for place, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        worst = max(worst, min(1.0, (len(ps) - place) * ps[index]))
        adjusted[index] = worst
    return adjusted


def required_seeds(result: TestResult, tests: int) -> float | None:
    """The number of seeds with which a paired t test decides with power `POWER`, as one of ``tests`` (Bonferroni).

    The effect and its standard deviation are taken to be those of ``result``. The number also suffices for
    `sign_flip_test` to decide. None if ``result`` has fewer than `LEAST_SEEDS` seeds or is of another test; inf if it
    is more than `MOST_SEEDS`.
    """
    from scipy.special import stdtrit  # noqa: PLC0415
    from scipy.stats import nct  # noqa: PLC0415

    if result.n < LEAST_SEEDS or not result.std > 0:
        return None
    effect = abs(result.tested_effect) / result.std
    least = next(n for n in range(2, MOST_SEEDS) if 2.0 ** (1 - n) * tests < LEVEL)
    for n in range(least, MOST_SEEDS + 1):
        critical = float(stdtrit(n - 1, 1 - LEVEL / tests / 2))
        if float(nct.sf(critical, n - 1, effect * math.sqrt(n))) >= POWER:
            return n
    return math.inf


def binomial_standard_error(share: float, examples: int) -> float:
    """The standard error of a ``share`` of correct answers among random ``examples``."""
    return math.sqrt(share * (1 - share) / examples)
