"""SmoothOut's theory: closed forms against quadrature and sampling, and where the theorems hold and do not."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize_scalar

from smoothout.analysis.theory import FLAT, SHARP, ToyLoss, Well, figure_one, flat_offset, sharp_bound, sharp_constraint

LOSS = ToyLoss()
CUBIC, SEPARABLE = "cubic", "separable"  # level sets of a basin: max |w_i|^p (boxes), or sum |w_i|^p


def basin_average(levels: str, power: float, a: float, dimension: int) -> float:
    """C_bar at the bottom of a basin in m dimensions: a^p m / (m + p) if cubic, a^p m / (p + 1) if separable."""
    return a**power * dimension / (power + (dimension if levels == CUBIC else 1))


# Figure 1


@pytest.mark.parametrize("a", [0.01, 0.1, 0.3, 2.0])
def test_the_expectation_is_the_average_over_the_box(a):
    for w in (-2.05, -1.0, -0.3, 0.55, 0.6, 0.75, 1.5):
        edges = [x for well in LOSS.wells for x in (well.center - well.half_width, well.center + well.half_width)]
        average = quad(lambda x: float(LOSS(x)), w - a, w + a, points=edges, limit=200)[0] / (2 * a)
        assert float(LOSS.smoothed(w, a)) == pytest.approx(average, abs=1e-9)


def test_the_mean_of_the_copies_is_within_four_standard_errors_of_the_expectation():
    figure = figure_one(points=101)
    assert figure.copies.shape == (1024, 101)
    np.testing.assert_array_equal(figure.loss, LOSS(figure.w))
    np.testing.assert_array_equal(figure.mean, figure.copies.mean(0))
    error = figure.copies.std(0, ddof=1) / math.sqrt(1024)
    assert (np.abs(figure.mean - figure.expectation) <= 4 * error + 1e-12).all()


def test_the_lowest_point_moves_from_the_sharp_minimum_to_the_flat_one():
    figure = figure_one(points=2001)
    assert figure.w[figure.loss.argmin()] == pytest.approx(SHARP.center, abs=0.01)
    for curve in (figure.mean, figure.expectation):
        assert abs(figure.w[curve.argmin()] - FLAT.center) < 0.05


# Theorem 1


@pytest.mark.parametrize("a", [0.05, 0.2, 0.45])
def test_around_a_symmetric_rising_minimum_the_argmin_stays_exactly(a):
    """tau + a is within the flat well, where C is symmetric and rises: this remains true of Theorem 1."""
    assert flat_offset(lambda w: LOSS.smoothed(w, a), FLAT.center, tau=0.5) == 0.0


def test_a_symmetric_dip_on_a_hill_becomes_a_maximum_though_theorem_1_keeps_it():
    """The lowest point of C, and C is symmetric around it everywhere. These are the numbers of results/findings.md."""
    loss = ToyLoss((Well(0.0, 0.02), Well(-0.5, 0.4, 0.5), Well(0.5, 0.4, 0.5)))
    a, tau = 0.3, 0.6

    def smoothed(w):
        return loss.smoothed(w, a)

    assert flat_offset(loss, 0.0, tau) == 0.0
    assert smoothed(np.array([1e-4])) == pytest.approx(smoothed(np.array([-1e-4])), rel=1e-12)
    assert flat_offset(smoothed, 0.0, tau) == pytest.approx(0.5, abs=1e-4)
    assert (float(loss(0.0)), float(loss(0.5))) == (0.0, 0.5)
    assert [float(smoothed(w)) for w in (0.0, 0.5)] == pytest.approx([0.891, 0.656], abs=5e-4)
    # C_bar''(0) = (C'(a) - C'(-a)) / 2a = C'(a) / a, and C falls at a.
    curvature = (float(smoothed(1e-4)) - 2 * float(smoothed(0.0)) + float(smoothed(-1e-4))) / 1e-8
    assert curvature == pytest.approx((float(loss(a + 1e-6)) - float(loss(a - 1e-6))) / 2e-6 / a, rel=1e-3)
    assert curvature < 0


def test_a_well_that_is_not_symmetric_moves():
    loss = ToyLoss((Well(0.0, 1.0), Well(0.5, 0.6, 0.2)))
    best = minimize_scalar(lambda w: float(loss.smoothed(w, 0.3)), bounds=(-0.5, 0.5), method="bounded").x
    bottom = minimize_scalar(lambda w: float(loss(w)), bounds=(-0.5, 0.5), method="bounded").x
    found = flat_offset(lambda w: loss.smoothed(w, 0.3), bottom, tau=0.4)
    assert found == pytest.approx(abs(best - bottom), abs=1e-4)
    assert found > 0.005


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


@pytest.mark.parametrize("dimension", [1, 10, 10**6])
def test_a_quadratic_satisfies_the_sharp_constraint_up_to_a_over_root_3_in_every_dimension(dimension):
    """Sum of squares: C_bar(w_s) = m a^2 / 3, and the maximum within eps is m eps^2. Theorem 2 says eps -> a."""
    a = 0.3
    raised = basin_average(SEPARABLE, 2.0, a, dimension)
    assert math.sqrt(raised / dimension) == pytest.approx(a / math.sqrt(3))
    # A basin of cubic level sets, max |w_i|^2, does as the theorem says.
    assert math.sqrt(basin_average(CUBIC, 2.0, a, dimension)) == pytest.approx(
        a * math.sqrt(dimension / (dimension + 2))
    )


@pytest.mark.parametrize("seed", range(3))
def test_no_quadratic_does_better(seed):
    """C = w^T H w / 2: C_bar is C + a^2 tr H / 6 everywhere, and some corner of the box of eps is at eps^2 tr H / 2."""
    generator = np.random.default_rng(seed)
    factor = generator.normal(size=(6, 6))
    hessian, a = factor @ factor.T, 0.4
    corners = np.array(np.meshgrid(*6 * [[-1.0, 1.0]])).reshape(6, -1)
    highest = (corners * (hessian @ corners)).sum(0).max() / 2  # of eps = 1
    w, noise = generator.normal(size=6), generator.uniform(-a, a, size=(200_000, 6))
    sampled = ((w + noise) @ hessian * (w + noise)).sum(1) / 2
    raised = a**2 * np.trace(hessian) / 6
    assert sampled.mean() - w @ hessian @ w / 2 == pytest.approx(raised, abs=4 * sampled.std() / math.sqrt(200_000))
    assert math.sqrt(raised / highest) <= a / math.sqrt(3)


def test_the_sharp_constraint_of_a_well_that_is_wider_than_the_noise_ends_near_a_over_root_3():
    """Where it is nearly quadratic: 2 u^2 - u^4 with u = eps / half-width, against its mean over the noise."""
    loss, a = ToyLoss((Well(-1.0, 1.0), SHARP)), 0.02
    u = a / SHARP.half_width
    limit = SHARP.half_width * math.sqrt(1 - math.sqrt(1 - (2 * u**2 / 3 - u**4 / 5)))
    assert limit == pytest.approx(a / math.sqrt(3), rel=0.005)
    held = [
        sharp_constraint(loss, a, sharp=SHARP.center, flat=-1.0, eps=f * limit, tau=0.4).holds for f in (0.999, 1.001)
    ]
    assert held == [True, False]


@pytest.mark.parametrize("dimension", [1, 4, 50, 10**5])
def test_the_bound_is_below_the_average_of_a_cubic_basin(dimension):
    a, power = 0.4, 2.0
    bounds = [sharp_bound(inner, a, dimension, inner**power, 0.0) for inner in np.linspace(0.0, a, 10001)]
    assert max(bounds) <= basin_average(CUBIC, power, a, dimension) * (1 + 1e-12)


def test_the_bound_goes_to_the_highest_value_as_the_dimension_grows():
    values = [sharp_bound(0.9, 1.0, m, 5.0, 1.0) for m in (1, 10, 100)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(0.1 * 5.0 + 0.9 * 1.0)
    assert values[2] == pytest.approx(5.0, abs=2e-4)


def test_the_bound_fails_for_a_sum_of_squares_because_faces_are_lower_than_corners():
    """v1 Eq. 18 (later 19) asks that nothing outside the inner box is below its corners."""
    m, a, inner = 20, 1.0, 0.9
    highest = m * inner**2
    assert (inner * 1.001) ** 2 < highest
    assert basin_average(SEPARABLE, 2, a, m) < sharp_bound(inner, a, m, highest, 0.0)


def test_the_sharp_constraint_needs_a_flat_side_that_is_lower():
    """The same sharp side; the flat place is taken where the loss is high."""
    held = near(a=0.09, eps=0.04)
    high = sharp_constraint(LOSS, 0.09, sharp=SHARP.center, flat=FLAT.center + 5.0, eps=0.04, tau=0.4)
    assert (held.holds, high.holds) == (True, False)
    assert high[:2] == held[:2]
