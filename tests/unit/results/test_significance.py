"""Estimates against scipy's own, and the rates of wrong verdicts where the truth is known."""

from __future__ import annotations

import math
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from smoothout.common.estimates import standard_error
from smoothout.results import significance
from smoothout.results.significance import (
    FLIPS,
    LEVEL,
    TestResult,
    Verdict,
    binomial_standard_error,
    holm_adjust,
    paired_t_test,
    pitman_morgan_test,
    required_seeds,
    sign_flip_floor,
    sign_flip_test,
    stratified_rank_correlation,
)

NUMBERS = st.lists(st.floats(-100, 100), min_size=3, max_size=9).filter(lambda v: np.std(v) > 1e-3)


def alone(result: TestResult) -> Verdict:
    """The verdict of a test without others."""
    return result.verdict(result.p, result.p_exact)


@given(NUMBERS, st.floats(-1, 1))
def test_a_mean_is_students_t(values: list[float], margin: float) -> None:
    found = paired_t_test(values, margin)
    truth = stats.ttest_1samp(values, -margin)
    assert found.p == pytest.approx(truth.pvalue, rel=1e-6, abs=1e-12)
    assert found.p_greater + found.p_less == pytest.approx(1)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.ci_low, found.ci_high) == (
        pytest.approx(low, rel=1e-6, abs=1e-9),
        pytest.approx(high, rel=1e-6, abs=1e-9),
    )


def test_equal_differences_are_certain_and_none_at_all_is_not() -> None:
    assert alone(paired_t_test([0.5, 0.5, 0.5])) is Verdict.holds_if_normal
    assert alone(paired_t_test([-0.5, -0.5, -0.5])) is Verdict.contradicted_if_normal
    assert alone(paired_t_test([0.0, 0.0])) is Verdict.undecided


def test_differences_that_agree_within_their_step_are_not_certain() -> None:
    found = paired_t_test([0.05, 0.05], step=0.01)
    assert found.std == pytest.approx(0.01 / 12**0.5)
    assert found.p == pytest.approx(stats.ttest_1samp([0.05 - 0.01 / 24**0.5, 0.05 + 0.01 / 24**0.5], 0.0).pvalue)
    assert paired_t_test([0.04, 0.09], step=0.01) == paired_t_test([0.04, 0.09])  # scatter above a step is what it is
    assert pitman_morgan_test([98.5, 98.5, 98.5], [98.4, 98.7, 98.6], 2, step=0.01).value > 0
    assert math.isnan(pitman_morgan_test([98.5, 98.5, 98.5], [98.4, 98.7, 98.6], 2).value)


@pytest.mark.parametrize("level", [LEVEL, LEVEL / 25])
def test_with_few_seeds_of_accuracies_in_steps_the_tests_err_at_their_level_at_most(level: float) -> None:
    generator, step, runs = np.random.default_rng(5), 0.01, 4000
    draws = [np.round(generator.normal(0, 0.03, (2, 2)) / step) * step for _ in range(runs)]
    three = [np.round(generator.normal(0, 0.03, (2, 3)) / step) * step for _ in range(runs)]
    for wrong in (
        [paired_t_test(list(one - other), step=step).p < level for one, other in draws],
        [pitman_morgan_test(list(one), list(other), 1, step).p < level for one, other in three],
    ):
        assert np.mean(wrong) < level + 3 * (level / runs) ** 0.5
    assert (
        np.mean([paired_t_test(list(np.round(one - other, 9))).p < LEVEL / 25 for one, other in draws])
        > 10 * LEVEL / 25
    )


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=9))
def test_the_standard_error_is_scipys(values: list[float]) -> None:
    assert standard_error(values) == pytest.approx(stats.sem(values), abs=1e-12)


def test_one_seed_decides_nothing_and_none_tests_nothing() -> None:
    assert alone(paired_t_test([7.0])) is Verdict.undecided
    assert alone(paired_t_test([])) is Verdict.untested
    assert alone(pitman_morgan_test([1.0], [2.0], 2)) is Verdict.undecided
    assert [paired_t_test(values).is_testable for values in ([], [7.0], [7.0, 8.0])] == [False, False, True]
    assert not pitman_morgan_test([1.0, 2.0], [2.0, 1.0], 2).is_testable  # two pairs are always correlated


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=8), st.integers(0, 2))
def test_signs_are_turned_in_every_way_and_ties_counted(differences: list[int], margin: int) -> None:
    """Tenths, as accuracies are: their sums tie, and float64 does not represent them."""
    shifted = [difference + margin for difference in differences]
    sums = [
        abs(sum(s * d for s, d in zip(signs, shifted, strict=True))) for signs in product((1, -1), repeat=len(shifted))
    ]
    truth = np.mean([one >= abs(sum(shifted)) for one in sums])
    assert sign_flip_test([d / 10 + margin / 10 for d in differences]) == pytest.approx(truth)
    if len(differences) > 1:
        assert paired_t_test([d / 10 for d in differences], margin / 10).p_sign_flips == pytest.approx(truth)


def test_signs_of_ranks_are_wilcoxons() -> None:
    ranks = [1, -2, 3, 4, 5, -6, 7, 8, 9]
    assert sign_flip_test(ranks) == pytest.approx(stats.wilcoxon(ranks, method="exact").pvalue)


@pytest.mark.parametrize("n", [2, 5, 10, 16])
def test_differences_of_one_sign_have_the_least_p(n: int) -> None:
    assert sign_flip_test(np.arange(1, n + 1)) == sign_flip_floor(n) == 2.0 ** (1 - n)
    assert sign_flip_floor(5) == 0.0625


def test_random_signs_of_many_differences_estimate_the_exact_p() -> None:
    """Of 24 equal differences, k turned: the binomial distribution."""
    differences = [1.0] * 17 + [-1.0] * 7
    truth = stats.binomtest(7, 24).pvalue
    assert sign_flip_test(differences) == pytest.approx(truth, abs=5 * (truth / FLIPS) ** 0.5)
    assert sign_flip_test([1.0] * 100) == sign_flip_floor(100) == 1 / FLIPS


@pytest.mark.parametrize("level", [LEVEL, 2 / 1024])
def test_signs_err_at_their_level_whatever_the_tails(level: float) -> None:
    """Ten differences of Student's t with two degrees of freedom, whose variance is infinite."""
    generator, runs = np.random.default_rng(6), 4000
    rate = np.mean([sign_flip_test(draw) <= level for draw in generator.standard_t(2, (runs, 10))])
    attained = level * 1024 // 2 * 2 / 1024
    assert abs(rate - attained) < 5 * (attained / runs) ** 0.5


def test_signs_decide_with_ten_seeds_what_they_cannot_with_five() -> None:
    """A family of 16 tests: 16 * 2 / 1024 is below the level."""
    for seeds, verdict in ((10, Verdict.holds), (5, Verdict.holds_if_normal)):
        found = paired_t_test(list(1 + 0.001 * np.arange(seeds)))
        assert found.verdict(16 * found.p, 16 * (found.p_exact or 0)) is verdict


def test_which_tests_need_normal_differences() -> None:
    assert pitman_morgan_test([1.0, 2.0, 4.0], [2.0, 1.0, 5.0], 2).p_exact is None
    ranks = list(range(8))
    correlation = stratified_rank_correlation(ranks, ranks, ["a"] * 8, ranks)
    assert correlation.p_exact == correlation.p
    assert alone(correlation) is Verdict.holds


def pairs(generator: np.random.Generator, ratio: float, shared: float, n: int) -> tuple[list[float], list[float]]:
    """``n`` pairs of normal numbers with that correlation, the first of ``ratio`` times the scatter."""
    one, other = generator.multivariate_normal([0, 0], [[1, shared], [shared, 1]], n).T
    return list(ratio * one), list(other)


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_scatter_is_compared_pair_by_pair(shared: float) -> None:
    """Three times the scatter: the ratio's interval covers 3 nineteen times in twenty; the test is of factor 2."""
    generator = np.random.default_rng(0)
    found = [pitman_morgan_test(*pairs(generator, 3, shared, 6), 2) for _ in range(2000)]
    assert abs(np.mean([one.ci_low <= math.log2(2 / 3) <= one.ci_high for one in found]) - 0.95) < 0.02
    assert np.mean([one.p_less < 0.05 for one in found]) > 0.15  # shown to scatter more than twice as much


def test_equal_scatter_is_tested_by_the_correlation_of_sum_and_difference() -> None:
    one, other = (np.array(column) for column in pairs(np.random.default_rng(3), 1.5, 0.4, 7))
    truth = stats.pearsonr(other / 2 + one / 4, other / 2 - one / 4)
    found = pitman_morgan_test(list(one), list(other), 2)
    assert found.p == pytest.approx(truth.pvalue)
    assert (found.value > 0) == (truth.statistic > 0)


@pytest.mark.parametrize("shared", [0.0, 0.9])
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_at_the_edge_of_the_claim_about_scatter_the_test_errs_at_its_level(factor: float, shared: float) -> None:
    generator = np.random.default_rng(1)
    draws = [pitman_morgan_test(*pairs(generator, factor, shared, 5), factor) for _ in range(2500)]
    for side in ("p_greater", "p_less"):
        assert abs(np.mean([getattr(d, side) < 0.05 for d in draws]) - 0.05) < 0.012


def test_a_rank_correlation_of_single_runs_is_spearmans_with_the_p_of_all_orders() -> None:
    generator = np.random.default_rng(2)
    x = generator.normal(size=8)
    y = x + generator.normal(size=8)
    found = stratified_rank_correlation(list(x), list(y), ["a"] * 8, list(range(8)))
    orders = stats.permutation_test((x,), lambda z: stats.spearmanr(z, y).statistic, permutation_type="pairings")
    assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert (found.p_greater, found.p_less) == (
        pytest.approx(np.mean(orders.null_distribution >= orders.statistic - 1e-9), abs=0.01),
        pytest.approx(np.mean(orders.null_distribution <= orders.statistic + 1e-9), abs=0.01),
    )


def test_seeds_are_averaged_within_their_setting_before_ranking() -> None:
    """Between settings the means fall together; the seeds of each rise together."""
    x = [s + seed for s in range(8) for seed in (0.0, 100.0)]
    y = [-s + seed for s in range(8) for seed in (0.0, 100.0)]
    found = stratified_rank_correlation(x, y, ["a"] * 16, [s for s in range(8) for _ in range(2)])
    assert found.n == 8
    assert found.value == pytest.approx(-1)
    assert found.p_less == pytest.approx(1 / math.factorial(8))


def test_strata_are_never_mixed() -> None:
    """Within each network the correlation is -1, over both together it would be positive."""
    x = [*range(10), *range(100, 110)]
    y = [*range(10, 0, -1), *range(110, 100, -1)]
    assert stats.spearmanr(x, y).statistic > 0
    found = stratified_rank_correlation(x, y, ["a"] * 10 + ["b"] * 10, list(range(20)))
    assert found.value == pytest.approx(-1, abs=1e-6)
    assert found.n == 20


@pytest.mark.parametrize("ties", [False, True])
def test_the_p_of_small_strata_is_that_of_all_permutations(monkeypatch: pytest.MonkeyPatch, ties: bool) -> None:
    generator = np.random.default_rng(6)
    x, y = generator.normal(size=(2, 9))
    x, y = (np.round(x), np.round(y)) if ties else (x, y)
    parts = [slice(5), slice(5, 9)]
    arguments = list(x), list(y), [*"aaaaabbbb"], list(range(9))
    found = stratified_rank_correlation(*arguments)
    rho = [[stats.spearmanr(order, y[part]).statistic for order in permutations(x[part])] for part in parts]
    every = (4 * np.array(rho[0])[:, None] + 3 * np.array(rho[1])) / 7  # weights are degrees of freedom
    assert found.value == pytest.approx(every[0, 0])
    assert found.p_greater == pytest.approx(np.mean(every > every[0, 0] - 1e-9))
    assert found.p_less == pytest.approx(np.mean(every < every[0, 0] + 1e-9))
    monkeypatch.setattr(significance, "SUMS", 1)  # too many values: random permutations
    assert stratified_rank_correlation(*arguments).p_greater == pytest.approx(found.p_greater, abs=0.01)


def test_what_a_third_quantity_explains_is_taken_away() -> None:
    generator = np.random.default_rng(3)
    loss = generator.normal(size=100)
    x, y = loss + 0.3 * generator.normal(size=100), loss + 0.3 * generator.normal(size=100)
    assert stratified_rank_correlation(list(x), list(y), ["a"] * 100, list(range(100))).value > 0.8
    left = stratified_rank_correlation(list(x), list(y), ["a"] * 100, list(range(100)), list(loss))
    ranks = [stats.rankdata(v) for v in (x, y, loss)]
    r = np.corrcoef(ranks)
    formula = (r[0, 1] - r[0, 2] * r[1, 2]) / math.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
    assert left.value == pytest.approx(formula)
    assert left.p > 0.01


@pytest.mark.parametrize("seeds", [2, 5])
@pytest.mark.parametrize("explained", [None, 2.0])
def test_without_correlation_the_test_errs_at_its_level(seeds: int, explained: float | None) -> None:
    """Two networks of four settings; all of a setting's runs share its effects, and both may hang on a third thing."""
    generator, runs = np.random.default_rng(4), 500
    strata, settings = np.repeat(["a", "b"], 4 * seeds), np.repeat(np.arange(8), seeds)
    wrong = 0
    for _ in range(runs):
        x, y, third = np.repeat(generator.normal(size=(3, 8)), seeds, axis=1) + generator.normal(0, 0.3, (3, 8 * seeds))
        x, y = (v + (explained or 0.0) * third for v in (x, y))
        given_third = None if explained is None else list(third)
        wrong += stratified_rank_correlation(list(x), list(y), list(strata), list(settings), given_third).p < LEVEL
    assert wrong / runs < LEVEL + 3 * (LEVEL / runs) ** 0.5


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_stepping_down_rejects(ps: list[float]) -> None:
    adjusted = holm_adjust(ps)
    rejected = set()
    for place, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        if ps[index] >= LEVEL / (len(ps) - place):
            break
        rejected.add(index)
    assert {i for i, p in enumerate(adjusted) if p < LEVEL} == rejected


@pytest.mark.parametrize("margin", [0.0, 0.75])
def test_that_many_seeds_decide_with_that_probability(margin: float) -> None:
    """A difference and its margin together as large as the scatter."""
    numbers = np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) / math.sqrt(2.5) + 1 - margin
    needed = required_seeds(paired_t_test(list(numbers), margin), tests=10)
    assert needed is not None
    generator = np.random.default_rng(5)
    for seeds, enough in ((int(needed), True), (int(needed) - 3, False)):
        draws = generator.normal(1 - margin, 1, (1000, seeds))
        assert bool(np.mean(stats.ttest_1samp(draws, -margin, axis=1).pvalue < LEVEL / 10) > 0.77) is enough


def test_a_difference_too_small_for_its_scatter_is_never_decided() -> None:
    assert required_seeds(paired_t_test([-1.0, 0.001, 1.0]), tests=1) == math.inf
    assert required_seeds(paired_t_test([-1.0, 0.0, 1.0]), tests=1) == math.inf


def test_the_binomial_error_of_985_in_1000_right_answers() -> None:
    assert 100 * binomial_standard_error(0.985, 10_000) == pytest.approx(0.12155, abs=1e-4)
