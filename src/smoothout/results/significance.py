"""What a few seeds can say: estimates with intervals, tests in two directions, and how many more seeds would decide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import reduce
from itertools import permutations

import numpy as np
from scipy import special

LEVEL = 0.05  # of the two directions together, over all tests of a page
POWER = 0.8  # with which "so many seeds" would decide
MOST_SEEDS = 1000  # above it a difference is as good as none
LEAST_SEEDS = 3  # that tell enough of the scatter to say how many would decide
LEAST_SETTINGS = 8  # of a rank correlation: fewer have too few orders to decide
ORDERS = 50_000  # of settings, up to which all are looked at, and which are drawn where there are more
ROUNDING = 1e-9  # of correlations


class Verdict(StrEnum):
    """What became of a claim."""

    holds = "holds"
    contradicted = "does not hold"
    undecided = "undecided"
    untested = "not tested"


@dataclass(frozen=True)
class TestResult:
    """An estimate of a quantity that a claim calls positive.

    Attributes:
        n: numbers that went in (seeds, settings of a correlation); 0 where nothing was run.
        value: the estimate; ``ci_low`` and ``ci_high`` are the ends of its 95% interval.
        against_zero: p of so high an estimate where the claim is wrong by nothing (one-sided): small is for the claim.
        for_zero: p of so low an estimate where the claim is right by nothing (one-sided): small is against the claim.
        std: standard deviation of the numbers, nan where that means nothing.
        tested: what the t test compares with 0, the value and the claim's margin; nan for other tests.
    """

    n: int = 0
    value: float = math.nan
    ci_low: float = -math.inf
    ci_high: float = math.inf
    p_greater: float = 1.0
    p_less: float = 1.0
    std: float = math.nan
    tested_effect: float = math.nan

    @property
    def is_testable(self) -> bool:
        """Whether this is one of the tests that could decide: one seed cannot, nor what has no estimate."""
        return self.n > 1 and not math.isnan(self.value)

    @property
    def p(self) -> float:
        """The two-sided p."""
        return min(1.0, 2.0 * min(self.p_greater, self.p_less))

    def verdict(self, adjusted: float) -> Verdict:
        """What it says of the claim, ``adjusted`` being its p after the correction for many tests."""
        if self.n == 0:
            return Verdict.untested
        if adjusted >= LEVEL:
            return Verdict.undecided
        return Verdict.holds if self.p_greater < self.p_less else Verdict.contradicted


def floored_std(values: Sequence[float], step: float = 0.0) -> float:
    """Standard deviation of at least two ``values`` that can only be multiples of ``step`` apart, as accuracies are.

    Two of them are easily equal by chance, and then a test would be certain of anything. So it is at least that of a
    number that lies anywhere within a step.
    """
    return max(float(np.std(values, ddof=1)), step / math.sqrt(12))


def paired_t_test(differences: Sequence[float], margin: float = 0.0, step: float = 0.0) -> TestResult:
    """Whether the mean of paired ``differences`` is above -``margin``: Student's t, two-sided.

    One number gives no interval and decides nothing. ``step``: see `floored_std`.
    """
    n = len(differences)
    if n == 0:
        return TestResult()
    mean = float(np.mean(differences))
    if n == 1:
        return TestResult(1, mean)
    std = floored_std(differences, step)
    error = std / math.sqrt(n)
    reach = float(special.stdtrit(n - 1, 0.975)) * error
    score = (mean + margin) / error if error else math.copysign(math.inf, mean + margin) if mean + margin else 0.0
    return TestResult(
        n,
        mean,
        mean - reach,
        mean + reach,
        float(special.stdtr(n - 1, -score)),
        float(special.stdtr(n - 1, score)),
        std,
        mean + margin,
    )


def pitman_morgan_test(one: Sequence[float], other: Sequence[float], at_most: float, step: float = 0.0) -> TestResult:
    """Whether ``one`` scatters at most ``max_ratio`` times as much as ``other``, number by number its pair.

    Sum and difference of two normal numbers are correlated where one of them scatters more (Pitman 1939, Morgan 1939).
    The value is log2 of ``max_ratio`` x std(other) / std(one), so 0 is where the claim ends; it fails only where
    ``one`` scatters more than ``other`` by more than that. ``step``: see `floored_std`.
    """
    n = len(one)
    a, b = (floored_std(values, step) if n > 1 else 0.0 for values in (one, other))
    if n < 3 or a == 0.0 or b == 0.0:
        return TestResult(n)
    ratio, free = at_most * b / a, n - 2
    rounded = 1 - math.prod(1 - step**2 / 12 / std**2 for std in (a, b))  # steps alone leave that much unshared
    unshared = max(1 - (float(np.cov(one, other)[0, 1]) / (a * b)) ** 2, rounded, ROUNDING)  # of the pairs' variance
    score = (ratio - 1 / ratio) * math.sqrt(free / unshared) / 2
    wide = 1 + 2 * unshared * float(special.stdtrit(free, 0.975)) ** 2 / free
    reach = math.log2(wide + math.sqrt(wide**2 - 1)) / 2
    value = math.log2(ratio)
    against, for_ = float(special.stdtr(free, -score)), float(special.stdtr(free, score))
    return TestResult(n, value, value - reach, value + reach, against, for_)


def stratified_rank_correlation(
    x: Sequence[float],
    y: Sequence[float],
    strata: Sequence[object],
    settings: Sequence[object],
    given: Sequence[float] | None = None,
) -> TestResult:
    """Spearman's rank correlation of ``x`` and ``y`` over settings within strata, at equal ``given`` if that is given.

    Seeds of one of ``settings`` share what it does to both, so they are averaged before ranking. The strata's
    correlations are averaged by their degrees of freedom, and p is the share of orders of the settings within strata
    that give as much: of all orders, or with the one observed of `ORDERS` that are drawn. At equal ``given`` the
    ranks are freed of it after they were permuted (Draper and Stoneman 1966). Strata without variation stay out; of
    less than `LEAST_SETTINGS` settings in all nothing is said. There is no interval.
    """
    from scipy.stats import rankdata  # noqa: PLC0415  (a second to import, which pages of verdicts alone need)

    columns = [np.asarray(c, dtype=float) for c in (x, y, *([] if given is None else [given]))]
    ranked = []
    for stratum in dict.fromkeys(strata):
        groups: dict[object, list[int]] = {}
        for index, (of, setting) in enumerate(zip(strata, settings, strict=True)):
            if of == stratum:
                groups.setdefault(setting, []).append(index)
        ranks = [rankdata([column[rows].mean() for rows in groups.values()]) for column in columns]
        if len(groups) > len(columns) and all(np.ptp(r) for r in ranks):
            ranked.append(ranks)
    sizes = [len(ranks[0]) for ranks in ranked]
    if sum(sizes) < LEAST_SETTINGS:
        return TestResult()
    generator = np.random.default_rng(0) if math.prod(map(math.factorial, sizes)) > ORDERS else None
    free = [size + 1 - len(columns) for size in sizes]
    parts = [f * _correlations(*ranks, generator=generator) for f, ranks in zip(free, ranked, strict=True)]
    join = np.add if generator else lambda one, other: np.add.outer(one, other).ravel()
    found = reduce(join, parts) / sum(free)
    against, for_ = (float(np.mean(side * (found - found[0]) > -ROUNDING)) for side in (1, -1))
    return TestResult(sum(sizes), float(found[0]), p_greater=against, p_less=for_)


def _correlations(*ranks: np.ndarray, generator: np.random.Generator | None) -> np.ndarray:
    """Of the first two columns, freed of a third one: as they are, then in all orders, or in `ORDERS` random ones."""
    size = len(ranks[0])
    if generator is None:
        orders = np.array(list(permutations(range(size))))  # the first one changes nothing
    else:
        orders = generator.permuted(np.tile(np.arange(size), (ORDERS, 1)), axis=1)
        orders[0] = np.arange(size)
    line = np.stack([np.ones(size), *ranks[2:]], axis=1)
    rest = np.eye(size) - line @ np.linalg.pinv(line)
    one, other = ranks[0][orders] @ rest, rest @ ranks[1]
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other)
    found: np.ndarray = np.divide(one @ other, norms, out=np.zeros_like(norms), where=norms > ROUNDING)
    return found


def holm_adjust(ps: Sequence[float]) -> list[float]:
    """The ``ps`` adjusted by Holm (1979): any wrong one is below `LEVEL` with that chance at most."""
    adjusted, worst = [0.0] * len(ps), 0.0
    for place, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        worst = max(worst, min(1.0, (len(ps) - place) * ps[index]))
        adjusted[index] = worst
    return adjusted


def required_seeds(evidence: TestResult, tests: int) -> float | None:
    """How many seeds a paired t test would need to decide with power `POWER`, among ``tests`` tests by Bonferroni.

    The effect and its scatter are taken to be those so far. None where fewer than `LEAST_SEEDS` seeds, or another
    test, cannot tell, and inf where it would be more than `MOST_SEEDS`.
    """
    from scipy.stats import nct  # noqa: PLC0415  (as above)

    if evidence.n < LEAST_SEEDS or not evidence.std > 0:
        return None
    effect = abs(evidence.tested_effect) / evidence.std
    for n in range(2, MOST_SEEDS + 1):
        critical = float(special.stdtrit(n - 1, 1 - LEVEL / tests / 2))
        if float(nct.sf(critical, n - 1, effect * math.sqrt(n))) >= POWER:
            return n
    return math.inf


def binomial_standard_error(share: float, examples: int) -> float:
    """The standard error of a ``share`` of right answers among so many examples that are drawn by chance."""
    return math.sqrt(share * (1 - share) / examples)
