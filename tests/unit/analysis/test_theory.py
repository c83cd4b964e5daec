"""SmoothOut's theory: closed forms against quadrature and sampling, and where the theorems hold and do not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize_scalar

from smoothout.analysis.theory import (
    FLAT,
    SHARP,
    Basin,
    ToyLoss,
    Well,
    bowl_average,
    figure_one,
    flat_offset,
    flat_offset_of_copies,
    remaining_depth,
    sharp_bound,
    sharp_constraint,
    shifts,
    widest_eps,
    widest_eps_by_bound,
)

LOSS = ToyLoss()
LEVELS = [
    (Basin.cubic, lambda w, p: np.abs(w).max(-1) ** p),
    (Basin.separable, lambda w, p: (np.abs(w) ** p).sum(-1)),
]


# Figure 1


@pytest.mark.parametrize("a", [0.01, 0.1, 0.3, 2.0])
def test_the_expectation_is_the_average_over_the_box(a):
    for w in (-2.05, -1.0, -0.3, 0.55, 0.6, 0.75, 1.5):
        edges = [x for well in LOSS.wells for x in (well.center - well.half_width, well.center + well.half_width)]
        average = quad(lambda x: float(LOSS(x)), w - a, w + a, points=edges, limit=200)[0] / (2 * a)
        assert float(LOSS.smoothed(w, a)) == pytest.approx(average, abs=1e-9)


def test_without_noise_the_expectation_is_the_loss():
    w = np.linspace(-3.0, 2.0, 11)
    np.testing.assert_array_equal(LOSS.smoothed(w, 0.0), LOSS(w))


def test_the_mean_of_the_copies_is_within_four_standard_errors_of_the_expectation():
    figure = figure_one(points=101)
    assert figure.copies.shape == (1024, 101)
    np.testing.assert_array_equal(figure.loss, LOSS(figure.w))
    np.testing.assert_array_equal(figure.mean, figure.copies.mean(0))
    error = figure.copies.std(0, ddof=1) / math.sqrt(1024)
    assert (np.abs(figure.mean - figure.expectation) <= 4 * error + 1e-12).all()


def test_a_copy_is_the_loss_moved_to_the_left_by_its_shift():
    w, thetas = np.linspace(-2.0, 1.0, 7), shifts(0.3, 5, seed=1)
    for copy, theta in zip(LOSS.shifted(w, thetas), thetas, strict=True):
        np.testing.assert_array_equal(copy, LOSS(w + theta))


def test_the_shifts_are_seeded_and_uniform():
    drawn = shifts(0.3, 20000)
    assert np.abs(drawn).max() <= 0.3
    assert drawn.std() == pytest.approx(0.3 / math.sqrt(3), rel=0.02)
    np.testing.assert_array_equal(drawn, shifts(0.3, 20000, seed=0))
    assert not np.array_equal(drawn, shifts(0.3, 20000, seed=1))


def test_the_lowest_point_moves_from_the_sharp_minimum_to_the_flat_one():
    figure = figure_one(points=2001)
    assert figure.w[figure.loss.argmin()] == pytest.approx(SHARP.center, abs=0.01)
    for curve in (figure.mean, figure.expectation):
        assert abs(figure.w[curve.argmin()] - FLAT.center) < 0.05


# Theorem 1


@pytest.mark.parametrize("a", [0.05, 0.2, 0.45])
def test_around_a_symmetric_rising_minimum_the_argmin_stays_exactly(a):
    """tau + a is within the flat well, where C is symmetric and rises."""
    assert flat_offset(lambda w: LOSS.smoothed(w, a), FLAT.center, tau=0.5) == 0.0


def test_a_symmetric_dip_on_a_hill_is_not_kept_though_the_theorem_says_so():
    """Symmetric around 0 within tau > a, and a minimum there; the average has a maximum, with slope 0."""
    loss = ToyLoss((Well(0.0, 0.02), Well(-0.5, 0.4, 0.5), Well(0.5, 0.4, 0.5)))
    a, tau = 0.3, 0.6

    def smoothed(w):
        return loss.smoothed(w, a)

    assert flat_offset(loss, 0.0, 0.1) == 0.0
    assert smoothed(np.array([1e-4])) == pytest.approx(smoothed(np.array([-1e-4])), rel=1e-12)
    assert flat_offset(smoothed, 0.0, tau) > 0.2


def test_a_well_that_is_not_symmetric_moves():
    loss = ToyLoss((Well(0.0, 1.0), Well(0.5, 0.6, 0.2)))
    best = minimize_scalar(lambda w: float(loss.smoothed(w, 0.3)), bounds=(-0.5, 0.5), method="bounded").x
    bottom = minimize_scalar(lambda w: float(loss(w)), bounds=(-0.5, 0.5), method="bounded").x
    found = flat_offset(lambda w: loss.smoothed(w, 0.3), bottom, tau=0.4)
    assert found == pytest.approx(abs(best - bottom), abs=1e-4)
    assert found > 0.005


def test_with_n_copies_of_a_parabola_the_argmin_is_off_by_the_mean_shift():
    a, copies, offsets = 0.3, 64, []
    for seed in range(300):
        thetas = shifts(a, copies, seed)
        offsets.append(flat_offset(lambda w, t=thetas: ((w[None] + t[:, None]) ** 2).mean(0), 0.0, 0.1, 401))
        assert offsets[-1] == pytest.approx(abs(thetas.mean()), abs=0.0003)
    rms = math.sqrt(np.mean(np.square(offsets)))
    assert rms == pytest.approx(flat_offset_of_copies(a, copies), rel=0.15)


def test_of_two_lowest_places_the_nearer_one_counts():
    found = flat_offset(lambda w: np.minimum((w - 0.1) ** 2, (w + 0.2) ** 2), 0.0, tau=0.4, points=401)
    assert found == pytest.approx(0.1)


def test_a_grid_without_its_centre_is_refused():
    with pytest.raises(ValueError, match="points: must be odd, not 400"):
        flat_offset(np.square, 0.0, tau=0.1, points=400)


# Theorem 2


def near(a: float, eps: float):
    return sharp_constraint(LOSS, a, sharp=SHARP.center, flat=FLAT.center, eps=eps, tau=0.4)


def test_the_three_sides_are_those_of_the_closed_form():
    found = near(a=0.3, eps=0.07)
    assert found.lowest_smoothed_sharp == pytest.approx(1.0 - 8 / 15 * 0.1 / 0.3)
    assert found.highest_sharp == pytest.approx(1.0 - (1 - 0.7**2) ** 2)
    assert found.lowest_smoothed_flat == pytest.approx(1.0 - 0.9 * (1 - 2 * 0.09 / 3 + 0.3**4 / 5))
    assert found.holds


def test_the_sharp_constraint_needs_noise_wide_enough_and_eps_small_enough():
    assert not near(a=0.02, eps=0.05).holds
    assert near(a=0.09, eps=0.04).holds
    assert not near(a=0.09, eps=0.08).holds


@pytest.mark.parametrize(("a", "eps"), [(0.05, 0.025), (0.09, 0.04)])
def test_where_the_sharp_constraint_holds_the_sharp_minimum_can_still_be_one(a, eps):
    """By Theorem 1, applied to it: raised, not removed, as long as the noise is narrower than the well."""
    assert near(a, eps).holds
    assert flat_offset(lambda w: LOSS.smoothed(w, a), SHARP.center, tau=0.15) == 0.0


@pytest.mark.parametrize("half_width", [0.1, 1.0])
@pytest.mark.parametrize("a", [0.05, 0.1, 0.4, 3.0])
def test_the_kept_depth_is_that_of_the_average_and_a_power_of_it_in_m_dimensions(a, half_width):
    loss = ToyLoss((Well(0.0, half_width),), level=0.0)
    share = -float(loss.smoothed(0.0, a))
    assert remaining_depth(a, half_width) == pytest.approx(share, rel=1e-12)
    assert remaining_depth(a, half_width, 5) == pytest.approx(share**5, rel=1e-12)


def test_the_kept_depth_in_three_dimensions_is_what_sampling_finds():
    thetas = np.random.default_rng(0).uniform(-0.5, 0.5, (40000, 3))
    draws = np.prod(-Well(0.0, 0.7)(thetas), axis=1)
    assert draws.mean() == pytest.approx(remaining_depth(0.5, 0.7, 3), abs=4 * draws.std() / 200)


@pytest.mark.parametrize(("bowl", "height"), LEVELS)
@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("dimension", [1, 2, 7])
def test_the_average_over_a_bowl_and_its_deviation_are_what_sampling_finds(bowl, height, power, dimension):
    heights = height(np.random.default_rng(1).uniform(-0.5, 0.5, (40000, dimension)), power)
    found = bowl_average(bowl, power, 0.5, dimension)
    assert heights.mean() == pytest.approx(found.mean, abs=4 * found.standard_error(40000))
    assert heights.std() == pytest.approx(found.deviation, rel=0.05)


def test_one_draw_says_more_the_higher_the_dimension():
    for bowl, rate in ((Basin.cubic, 1.0), (Basin.separable, 0.5)):
        spread = [found.deviation / found.mean for found in (bowl_average(bowl, 2, 0.3, m) for m in (1000, 4000))]
        assert spread[0] / spread[1] == pytest.approx(4**rate, rel=0.01)


@pytest.mark.parametrize(("bowl", "height"), LEVELS)
@pytest.mark.parametrize("dimension", [1, 3, 100])
def test_at_the_widest_eps_the_average_equals_the_maximum_in_the_box(bowl, height, dimension):
    a, power = 0.4, 2.0
    corner = np.full(dimension, widest_eps(bowl, power, dimension) * a)
    assert bowl_average(bowl, power, a, dimension).mean == pytest.approx(float(height(corner, power)), rel=1e-12)


def test_eps_approaches_a_for_cubic_bowls_alone():
    assert widest_eps("cubic", 2, 10**6) == pytest.approx(1.0, abs=1e-5)
    assert widest_eps("separable", 2, 10**6) == pytest.approx(1 / math.sqrt(3))


@pytest.mark.parametrize("dimension", [1, 4, 50, 10**5])
def test_the_bound_is_below_the_average_and_proves_the_eps_that_is_stated(dimension):
    a, power = 0.4, 2.0
    inner = np.linspace(0.0, a, 100001)
    bounds = np.array([sharp_bound(i, a, dimension, i**power, 0.0) for i in inner])
    exact = bowl_average("cubic", power, a, dimension).mean
    assert (bounds <= exact * (1 + 1e-12)).all()
    best = bounds.max() ** (1 / power) / a
    assert widest_eps_by_bound(power, dimension) == pytest.approx(best, rel=1e-4)
    assert widest_eps_by_bound(power, dimension) < widest_eps("cubic", power, dimension)


def test_the_bound_goes_to_the_highest_value_as_the_dimension_grows():
    values = [sharp_bound(0.9, 1.0, m, 5.0, 1.0) for m in (1, 10, 100)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(0.1 * 5.0 + 0.9 * 1.0)
    assert values[2] == pytest.approx(5.0, abs=2e-4)


def test_the_bound_fails_for_a_sum_of_squares_because_faces_are_lower_than_corners():
    """Eq. 19 (18 in the first version) asks that nothing outside the inner box is below its corners."""
    m, a, inner = 20, 1.0, 0.9
    highest = m * inner**2
    assert (inner * 1.001) ** 2 < highest
    assert bowl_average("separable", 2, a, m).mean < sharp_bound(inner, a, m, highest, 0.0)


def test_the_sharp_constraint_needs_a_flat_side_that_is_lower():
    """The same sharp side; the flat place is taken where the loss is high."""
    held = near(a=0.09, eps=0.04)
    high = sharp_constraint(LOSS, 0.09, sharp=SHARP.center, flat=FLAT.center + 5.0, eps=0.04, tau=0.4)
    assert (held.holds, high.holds) == (True, False)
    assert high[:2] == held[:2]
