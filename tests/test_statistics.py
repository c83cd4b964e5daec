"""Estimates against scipy's own, and the rates of wrong verdicts where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from smoothout.statistics import (
    LEVEL,
    Evidence,
    Verdict,
    binomial_error,
    correlation_of,
    holm,
    mean_of,
    seeds_to_decide,
    spread_of,
)

NUMBERS = st.lists(st.floats(-100, 100), min_size=3, max_size=9).filter(lambda v: np.std(v) > 1e-3)


@given(NUMBERS, st.floats(-1, 1))
def test_a_mean_is_students_t(values: list[float], margin: float) -> None:
    found = mean_of(values, margin)
    truth = stats.ttest_1samp(values, -margin)
    assert found.p == pytest.approx(truth.pvalue, rel=1e-6, abs=1e-12)
    assert found.against_zero + found.for_zero == pytest.approx(1)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(low, rel=1e-6, abs=1e-9), pytest.approx(high, rel=1e-6, abs=1e-9))


def test_equal_differences_are_certain_and_none_at_all_is_not() -> None:
    assert mean_of([0.5, 0.5, 0.5]).verdict(mean_of([0.5, 0.5, 0.5]).p) is Verdict.holds
    assert mean_of([0.0, 0.0]).verdict(mean_of([0.0, 0.0]).p) is Verdict.undecided


def test_differences_that_agree_within_their_step_are_not_certain() -> None:
    found = mean_of([0.05, 0.05], step=0.01)
    assert found.std == pytest.approx(0.01 / 12**0.5)
    assert found.p == pytest.approx(stats.ttest_1samp([0.05 - 0.01 / 24**0.5, 0.05 + 0.01 / 24**0.5], 0.0).pvalue)
    assert mean_of([0.04, 0.09], step=0.01) == mean_of([0.04, 0.09])  # scatter above a step is what it is
    assert spread_of([98.5, 98.5], [98.4, 98.7], 2, step=0.01).value > 0
    assert math.isnan(spread_of([98.5, 98.5], [98.4, 98.7], 2).value)


@pytest.mark.parametrize("level", [LEVEL, LEVEL / 25])
def test_with_two_seeds_of_accuracies_in_steps_the_tests_err_at_their_level_at_most(level: float) -> None:
    generator, step, runs = np.random.default_rng(5), 0.01, 4000
    draws = [np.round(generator.normal(0, 0.03, (2, 2)) / step) * step for _ in range(runs)]
    for wrong in (
        [mean_of(list(one - other), step=step).p < level for one, other in draws],
        [spread_of(list(one), list(other), 1, step).p < level for one, other in draws],
    ):
        assert np.mean(wrong) < level + 3 * (level / runs) ** 0.5
    assert np.mean([mean_of(list(np.round(one - other, 9))).p < LEVEL / 25 for one, other in draws]) > 10 * LEVEL / 25


def test_one_seed_decides_nothing_and_none_tests_nothing() -> None:
    assert mean_of([7.0]).verdict(mean_of([7.0]).p) is Verdict.undecided
    assert mean_of([]).verdict(mean_of([]).p) is Verdict.untested
    assert spread_of([1.0], [2.0], 2).verdict(1.0) is Verdict.undecided


def test_scatter_is_compared_by_the_f_test() -> None:
    """Three times the scatter: the ratio's interval covers 3 nineteen times in twenty; the test is of factor 2."""
    generator = np.random.default_rng(0)
    covered = failed = 0
    for _ in range(2000):
        found = spread_of(list(generator.normal(0, 3, 6)), list(generator.normal(0, 1, 6)), 2)
        covered += found.low <= math.log2(2 / 3) <= found.high
        failed += found.for_zero < 0.05
    assert abs(covered / 2000 - 0.95) < 0.02
    assert failed / 2000 > 0.15  # shown to scatter more than twice as much


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_at_the_edge_of_the_claim_about_scatter_the_test_errs_at_its_level(factor: float) -> None:
    generator = np.random.default_rng(1)
    draws = [
        spread_of(list(generator.normal(0, factor, 5)), list(generator.normal(0, 1, 5)), factor) for _ in range(2500)
    ]
    for side in ("against_zero", "for_zero"):
        assert abs(np.mean([getattr(d, side) < 0.05 for d in draws]) - 0.05) < 0.012


def test_a_rank_correlation_in_one_stratum_is_spearmans() -> None:
    generator = np.random.default_rng(2)
    x = generator.normal(size=20)
    y = x + generator.normal(size=20)
    found = correlation_of(list(x), list(y), ["a"] * 20)
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert found.low < found.value < found.high


def test_strata_are_never_mixed() -> None:
    """Within each network the correlation is -1, over both together it would be positive."""
    x = [*range(10), *range(100, 110)]
    y = [*range(10, 0, -1), *range(110, 100, -1)]
    assert stats.spearmanr(x, y).statistic > 0
    found = correlation_of(x, y, ["a"] * 10 + ["b"] * 10)
    assert found.value == pytest.approx(-1, abs=1e-6)
    assert found.n == 20


def test_what_a_third_quantity_explains_is_taken_away() -> None:
    generator = np.random.default_rng(3)
    loss = generator.normal(size=400)
    x, y = loss + 0.3 * generator.normal(size=400), loss + 0.3 * generator.normal(size=400)
    assert correlation_of(list(x), list(y), ["a"] * 400).value > 0.8
    left = correlation_of(list(x), list(y), ["a"] * 400, given=list(loss))
    ranks = [stats.rankdata(v) for v in (x, y, loss)]
    r = np.corrcoef(ranks)
    formula = (r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert left.value == pytest.approx(formula)
    assert left.p > 0.01


def test_few_or_constant_runs_give_no_correlation() -> None:
    assert correlation_of([1, 2, 3], [1, 2, 3], ["a"] * 3).n == 0
    assert correlation_of([1.0] * 9, list(range(9)), ["a"] * 9).n == 0
    assert correlation_of([], [], []).n == 0


def test_without_correlation_the_test_errs_at_its_level() -> None:
    generator = np.random.default_rng(4)
    for partial in (False, True):
        found = []
        for _ in range(1500):
            columns = generator.normal(size=(3, 24))
            third = list(columns[2]) if partial else None
            found.append(correlation_of(list(columns[0]), list(columns[1]), ["a"] * 12 + ["b"] * 12, given=third).p)
        assert abs(np.mean(np.array(found) < 0.05) - 0.05) < 0.03


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_stepping_down_rejects(ps: list[float]) -> None:
    adjusted = holm(ps)
    rejected = set()
    for place, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        if ps[index] >= LEVEL / (len(ps) - place):
            break
        rejected.add(index)
    assert {i for i, p in enumerate(adjusted) if p < LEVEL} == rejected


def test_so_many_seeds_decide_with_that_chance() -> None:
    evidence = Evidence(5, 1.0, std=1.0)
    needed = seeds_to_decide(evidence, tests=10)
    assert needed is not None
    generator = np.random.default_rng(5)
    for seeds, enough in ((needed, True), (needed - 3, False)):
        decided = np.mean([mean_of(list(generator.normal(1, 1, seeds))).p < LEVEL / 10 for _ in range(2000)])
        assert bool(decided > 0.77) is enough


def test_a_difference_too_small_for_its_scatter_is_never_decided() -> None:
    assert seeds_to_decide(Evidence(5, 0.001, std=1.0), tests=1) is None
    assert seeds_to_decide(Evidence(1, 1.0), tests=1) is None


def test_the_binomial_error_of_985_in_1000_right_answers() -> None:
    assert 100 * binomial_error(0.985, 10_000) == pytest.approx(0.12155, abs=1e-4)
