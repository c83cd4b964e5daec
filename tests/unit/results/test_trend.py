"""The rank correlation of a number with learning rate / batch size, and the distance between learning curves."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers.common import a_record
from scipy import stats

from smoothout.results.learning_curves import curve_distance
from smoothout.results.trend import LEAST, Axis, Point, Quantity, Setting, Within, mean_correlation, trend

RATES, BATCHES = (0.005, 0.01, 0.02, 0.05, 0.1), (25, 50, 100, 250, 1000)
GRID = [Setting(lr, batch, 0.0, "m") for lr in RATES for batch in BATCHES]


def grid(value: Any, seeds: int = 2) -> list[Point]:
    """A point for each setting of the grid and each seed."""
    return [Point(setting, seed, value(setting, seed)) for setting in GRID for seed in range(seeds)]


def test_a_single_seeds_correlation_is_scipys_spearman_with_ties() -> None:
    generator = np.random.default_rng(0)
    points = grid(lambda setting, _: -math.log(setting.lr / setting.batch) + generator.normal(0, 2), seeds=1)
    result = trend(points, Axis.lr_over_batch)
    ratios = [round(1e9 * p.setting.lr / p.setting.batch) for p in points]
    assert len(set(ratios)) == 14  # 0.005/25, 0.01/50, 0.02/100 and 0.05/250 are one ratio, for example
    assert result.value == pytest.approx(stats.spearmanr(ratios, [p.value for p in points]).statistic)
    assert (result.n, result.ci_low, result.ci_high) == (25, -math.inf, math.inf)


def test_the_interval_is_students_over_the_seeds_correlations_on_fishers_scale() -> None:
    generator = np.random.default_rng(1)
    points = grid(lambda setting, _: setting.lr / setting.batch + generator.normal(0, 1e-3), seeds=3)
    z = np.arctanh([trend([p for p in points if p.seed == seed], Axis.lr_over_batch).value for seed in range(3)])
    interval = stats.ttest_1samp(z, 0).confidence_interval()
    result = trend(points, Axis.lr_over_batch)
    assert result.value == pytest.approx(math.tanh(z.mean()))
    assert (result.ci_low, result.ci_high) == pytest.approx((math.tanh(interval.low), math.tanh(interval.high)))
    assert -1 < result.ci_low < result.value < result.ci_high < 1


def test_a_perfect_correlation_is_1_and_has_a_finite_p() -> None:
    result = trend(grid(lambda setting, _: float(setting.position(Axis.lr_over_batch))), Axis.lr_over_batch)
    assert (result.value, result.ci_low, result.ci_high) == (pytest.approx(1), -math.inf, math.inf)
    assert result.p_greater == pytest.approx(1 / 50_000)
    assert result.p_less == 1


def test_within_one_batch_size_and_within_one_learning_rate_the_other_setting_decides() -> None:
    by_batch = grid(lambda setting, seed: setting.batch + 1e-3 * seed)  # the learning rate has no effect
    within = {name: trend(by_batch, Axis.lr_over_batch, name) for name in Within}
    assert within[Within.lr].value == pytest.approx(-1)  # a larger batch is a smaller ratio
    assert within[Within.lr].p < 0.001
    assert within[Within.batch].n == 0  # nothing varies within a batch size
    assert -1 < within[Within.all].value < 0
    rising = grid(lambda setting, seed: setting.batch**2 + setting.lr)
    assert trend(rising, Axis.lr_over_batch, Within.batch).value == pytest.approx(1)


def test_a_seed_that_lacks_settings_gives_no_interval_but_its_runs_count() -> None:
    points = grid(lambda setting, seed: setting.lr + seed)
    lacking = [p for p in points if not (p.seed == 1 and p.setting.lr == 0.1)]
    result = trend(lacking, Axis.lr_over_batch, Within.batch)
    assert (result.n, result.ci_low) == (25, -math.inf)


def test_too_few_settings_say_nothing() -> None:
    every = grid(lambda setting, _: -setting.position(Axis.lr_over_batch))
    few, enough = ([p for p in every if p.setting in GRID[:count]] for count in (LEAST - 1, LEAST))
    assert trend(few, Axis.lr_over_batch).n == trend([], Axis.lr_over_batch).n == 0
    result = trend(enough, Axis.lr_over_batch)
    assert (result.n, result.p) == (LEAST, pytest.approx(2 / 120))  # of all 5! orders one is as extreme, on each side


def test_the_mean_of_correlations_by_way_of_fishers_z() -> None:
    assert mean_correlation([0.5], 0.99) == (0.5, -math.inf, math.inf)
    value, low, high = mean_correlation([math.tanh(1.0), math.tanh(2.0)], 0.99)
    assert math.atanh(value) == pytest.approx(1.5)
    reach = stats.t.ppf(0.975, 1) * 0.5  # the deviation is 1 / sqrt(2), its error half
    assert (math.atanh(low), math.atanh(high)) == pytest.approx((1.5 - reach, 1.5 + reach))
    assert mean_correlation([1.0, -1.0], 0.99)[0] == pytest.approx(0)
    assert mean_correlation([0.9, 0.9], 0.99) == (0.9, -math.inf, math.inf)  # few values: no measure of a spread


@pytest.mark.parametrize(("settings", "within"), [(5, Within.all), (25, Within.batch), (25, Within.lr)])
def test_a_seed_in_perfect_order_counts_as_half_an_exchange_of_neighbors_away_from_it(
    settings: int, within: Within
) -> None:
    of_one_batch = sorted(GRID, key=lambda setting: (setting.batch, setting.lr))[:settings]
    perfect = {setting: setting.position(Axis.lr_over_batch) for setting in of_one_batch}
    pair = of_one_batch[0], next(s for s in of_one_batch[1:] if s.stratum(within) == of_one_batch[0].stratum(within))
    exchanged = perfect | {pair[0]: perfect[pair[1]], pair[1]: perfect[pair[0]]}
    points = [Point(setting, seed, (perfect, exchanged)[seed][setting]) for seed in (0, 1) for setting in perfect]
    off = trend([p for p in points if p.seed], Axis.lr_over_batch, within).value
    assert off < 1
    z = math.atanh((1 + off) / 2), math.atanh(off)
    result = trend(points, Axis.lr_over_batch, within)
    assert result.value == pytest.approx(math.tanh(sum(z) / 2))
    assert result.ci_low < off < result.value < result.ci_high < 1


def test_a_setting_is_read_from_a_trainings_record() -> None:
    settings = {"optimizer": {"lr": 0.05}, "perturbation": {"a": 0.02}}
    setting = Setting.of(a_record("train", {}, settings=settings, labels={"batch": 250}))
    assert setting == Setting(0.05, 250, 0.02, "m")
    assert setting.position(Axis.lr_over_batch) == pytest.approx(2e-4)
    assert setting.position(Axis.strength) == 0.02
    assert 0.3 / 3 != 0.1 / 1
    assert len({Setting(lr, batch, 0.0, "m").position(Axis.lr_over_batch) for lr, batch in ((0.3, 3), (0.1, 1))}) == 1
    assert [setting.stratum(within) for within in (Within.batch, Within.lr)] == [250, 0.05]


def test_quantities_are_read_from_the_records_that_have_them() -> None:
    last = {"last": {"train_accuracy": 0.75, "test_accuracy": 0.5}}
    assert Quantity.train_accuracy.read(a_record("train", last)) == 75
    assert Quantity.validation_accuracy.read(a_record("train", last)) == 50
    hessian = a_record("hessian", {"eigenvalues": {"values": [3.0, 1.0]}, "norm": {"mean": 5.0}})
    assert (Quantity.eigenvalue.read(hessian), Quantity.norm.read(hessian)) == (3.0, 5.0)
    assert Quantity.eigenvalue.read(a_record("hessian", {"eigenvalues": {"values": []}})) is None


def curves(train: list[float | None], test: list[float]) -> Any:
    return a_record("train", {"curves": {"train_accuracy": train, "test_accuracy": test}})


def test_the_distance_of_curves_is_the_mean_absolute_difference_over_epochs_and_splits() -> None:
    one, other = curves([0.1, 0.5, 0.9], [0.2, 0.4, 0.8]), curves([0.3, 0.5, 0.8], [0.1, 0.4, 0.8])
    assert curve_distance(one, other) == pytest.approx(100 * (0.2 + 0.1 + 0.1) / 6)
    assert curve_distance(other, one) == curve_distance(one, other)
    assert curve_distance(one, one) == 0
    assert curve_distance(one, curves([0.1], [0.6])) == pytest.approx(100 * 0.4 / 2)  # the epochs that both have
    assert curve_distance(curves([0.5, None], [0.5, 0.5]), curves([0.5, 0.6], [0.5, 0.5])) == pytest.approx(15)


@pytest.mark.parametrize("shift", [0.0, 0.01, 0.2])
def test_curves_that_rise_as_late_are_as_far_apart_as_the_area_between_them(shift: float) -> None:
    """1 - exp(-t) and the same later: the mean of |exp(-t) - exp(-t - shift)| has a closed form."""
    t = np.linspace(0, 4, 4001)
    early, late = (list(1 - np.exp(-t - lag)) for lag in (shift, 0.0))
    mean = (1 - math.exp(-shift)) * (1 - math.exp(-4)) / 4
    assert curve_distance(curves(early, early), curves(late, late)) == pytest.approx(100 * mean, rel=1e-3, abs=1e-12)


def test_a_seed_with_equal_values_is_left_out_of_the_estimate() -> None:
    generator = np.random.default_rng(2)
    points = grid(lambda setting, seed: 100.0 if seed == 2 else setting.lr + generator.normal(0, 0.03), seeds=3)
    result, others = (trend(these, Axis.lr_over_batch) for these in (points, [p for p in points if p.seed != 2]))
    assert (result.value, result.ci_low, result.ci_high) == (others.value, others.ci_low, others.ci_high)
    assert result.is_testable


def test_strata_of_two_settings_do_not_change_what_an_exchange_of_neighbors_is() -> None:
    six = [Setting(lr, 100, 0.0, "m") for lr in (0.01, 0.02, 0.03, 0.04, 0.05, 0.06)]
    two = [Setting(lr, 50, 0.0, "m") for lr in (0.01, 0.02)]
    found = []
    for settings in (six, six + two):
        points = [Point(s, seed, s.lr if seed else s.lr * (-1) ** (s.lr == 0.06)) for s in settings for seed in (0, 1)]
        found.append(trend(points, Axis.lr_over_batch, Within.batch))
    assert found[0].value == pytest.approx(found[1].value)
    assert found[0].ci_low == pytest.approx(found[1].ci_low)
