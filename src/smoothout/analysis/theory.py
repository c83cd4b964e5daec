"""SmoothOut's theory in numbers: the example of Figure 1, and what Theorems 1 and 2 say, and where they do not hold.

Everything is closed form or a grid over one dimension. Losses take and give numpy arrays. Noise is U(-a, a) in each
number of w, so that C_bar(w) = E C(w + theta) is C averaged over a box of half-width a.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smoothout.common.rng import derive_seed

Array = NDArray[np.float64]
Function = Callable[[Array], Array]


@dataclass(frozen=True)
class Well:
    """A minimum: -depth (1 - u^2)^2 for |u| < 1, u = (w - center) / half_width, and 0 elsewhere.

    Symmetric, strictly monotonic on each side, and without influence outside: what both theorems assume.
    """

    center: float
    half_width: float
    depth: float = 1.0

    def __call__(self, w: ArrayLike) -> Array:
        """Its height at each ``w``."""
        u = self._clipped(w)
        return -self.depth * (1 - u**2) ** 2

    def integral(self, w: ArrayLike) -> Array:
        """An antiderivative of it."""
        u = self._clipped(w)
        return -self.depth * self.half_width * (u - 2 * u**3 / 3 + u**5 / 5)

    def _clipped(self, w: ArrayLike) -> Array:
        return np.clip((np.asarray(w, dtype=np.float64) - self.center) / self.half_width, -1.0, 1.0)


FLAT = Well(center=-1.0, half_width=1.0, depth=0.9)
SHARP = Well(center=0.6, half_width=0.1, depth=1.0)


@dataclass(frozen=True)
class ToyLoss:
    """A loss of one weight: ``level`` with some wells in it; by default one flat and one sharp, which is deeper.

    The papers draw such a function and do not give it.
    """

    wells: tuple[Well, ...] = (FLAT, SHARP)
    level: float = 1.0

    def __call__(self, w: ArrayLike) -> Array:
        """C(w)."""
        return self.level + sum((well(w) for well in self.wells), np.zeros_like(np.asarray(w, dtype=np.float64)))

    def smoothed(self, w: ArrayLike, a: float) -> Array:
        """C_bar(w) = E C(w + theta), theta from U(-a, a), in closed form."""
        if a == 0:
            return self(w)
        w = np.asarray(w, dtype=np.float64)
        integrals = (well.integral(w + a) - well.integral(w - a) for well in self.wells)
        return self.level + sum(integrals, np.zeros_like(w)) / (2 * a)

    def shifted(self, w: ArrayLike, shifts: ArrayLike) -> Array:
        """C(w + theta_i) for each of the ``shifts``, shape (N, *shape of w)."""
        w, thetas = np.asarray(w, dtype=np.float64), np.asarray(shifts, dtype=np.float64)
        return self(w + thetas.reshape(-1, *[1] * w.ndim))


class FigureOne(NamedTuple):
    """Curves over ``w``: the loss, all copies (N, points), their mean, and the expectation that it approaches."""

    w: Array
    loss: Array
    copies: Array
    mean: Array
    expectation: Array


def shifts(a: float, copies: int, seed: int = 0) -> Array:
    """``copies`` draws of U(-a, a)."""
    return np.random.default_rng(derive_seed(seed, "shifts")).uniform(-a, a, copies)


def figure_one(
    a: float = 0.3, *, loss: ToyLoss | None = None, copies: int = 1024, points: int = 801, seed: int = 0
) -> FigureOne:
    """[SmoothOut Fig. 1] A loss with a flat and a sharp minimum, shifted copies of it, and their mean.

    In the default, the sharp minimum is the lowest of the loss and the flat one the lowest of the mean.
    """
    loss = loss or ToyLoss()
    reach = [(well.center - well.half_width - a, well.center + well.half_width + a) for well in loss.wells]
    w = np.linspace(min(low for low, _ in reach), max(high for _, high in reach), points)
    moved = loss.shifted(w, shifts(a, copies, seed))
    return FigureOne(w, loss(w), moved, moved.mean(axis=0), loss.smoothed(w, a))


def flat_offset(smoothed: Function, center: float, tau: float, points: int = 20001) -> float:
    """[SmoothOut Theorem 1] phi of the Flat Constraint (Eq. 2): |argmin of C_bar - w_f| within ``tau`` of w_f.

    On a grid of ``points``, an odd number, so that w_f is one of them; of several minima the nearest. Theorem 1 says 0
    where C is symmetric around w_f. Its proof shows no more than a slope of 0 there. The argmin is w_f if C also rises
    with the distance from w_f as far as tau + a; a symmetric C whose w_f is a narrow dip on a hill is smoothed to a
    maximum.

    Raises:
        ValueError: for an even number of points.
    """
    if points % 2 == 0:
        raise ValueError(f"points: must be odd, not {points}")
    offsets = np.linspace(-tau, tau, points)
    heights = smoothed(center + offsets)
    lowest = heights.min()
    slack = 8 * np.finfo(np.float64).eps * max(1.0, abs(lowest))
    return float(np.abs(offsets[heights <= lowest + slack]).min())


def flat_offset_of_copies(a: float, copies: int) -> float:
    """The root mean square of phi where C is quadratic and C_bar is the mean of N copies (Eq. 1): a / sqrt(3 N).

    The mean of N shifted parabolas has its minimum at minus the mean shift: this is that shift's standard deviation.
    """
    return a / math.sqrt(3 * copies)


class SharpConstraint(NamedTuple):
    """The three sides of Eq. 3, and whether they stand in the order that it asks for."""

    lowest_smoothed_sharp: float
    highest_sharp: float
    lowest_smoothed_flat: float
    holds: bool


def sharp_constraint(
    loss: ToyLoss, a: float, *, sharp: float, flat: float, eps: float, tau: float, points: int = 2001
) -> SharpConstraint:
    """[SmoothOut Theorem 2] min C_bar near the sharp minimum >= max C there > min C_bar near the flat one (Eq. 3).

    Near: within ``eps`` of ``sharp`` and ``tau`` of ``flat``, on grids. It says how high the sharp place lies under
    noise, not that the minimum is gone: by Theorem 1 it stays one while the noise is narrower than the well.
    """
    grid = np.linspace(-1.0, 1.0, points)
    raised = float(loss.smoothed(sharp + eps * grid, a).min())
    highest = float(loss(sharp + eps * grid).max())
    kept = float(loss.smoothed(flat + tau * grid, a).min())
    return SharpConstraint(raised, highest, kept, raised >= highest > kept)


def remaining_depth(a: float, half_width: float, dimension: int = 1) -> float:
    """The share of a well's depth that C_bar keeps at its center, for the product of m equal `Well` factors.

    With t = a / half_width: (1 - 2 t^2 / 3 + t^4 / 5)^m up to t = 1, (8 / (15 t))^m above. No well ever disappears
    altogether: averaging keeps its volume. In one dimension a well narrower than the noise becomes a wide, shallow
    one; it is the dimension that makes it vanish, and that asks for a below half_width / sqrt(m) to keep the flat one.
    """
    t = a / half_width
    return float((1 - 2 * t**2 / 3 + t**4 / 5 if t <= 1 else 8 / (15 * t)) ** dimension)


def sharp_bound(inner: float, a: float, dimension: int, highest: float, lowest: float) -> float:
    """[SmoothOut Eq. 20] The lower bound of C_bar(w_s): (1 - (eps' / a)^m) ``highest`` + (eps' / a)^m ``lowest``.

    Eq. 19 in the first version. ``inner`` is eps', ``highest`` the maximum of C within eps' of w_s, ``lowest`` C(w_s).
    It rests on Eq. 19 (18): C is above ``highest`` everywhere between the boxes of eps' and a. In more than one
    dimension that holds for cubic level sets alone; for a sum of squares the middle of a face of the box is m times
    lower than its corner. And for C_bar(w_s) to be the minimum within eps of w_s, as the proof takes it to be, C must
    be monotonic as far as a + eps from w_s, not only b > a.
    """
    share = (inner / a) ** dimension
    return (1 - share) * highest + share * lowest


class Basin(StrEnum):
    """A minimum in m dimensions, symmetric and strictly monotonic, that rises with a power p of the distance."""

    cubic = "cubic"  # max |w_i|^p: level sets are boxes, as the proof of Theorem 2 needs them
    separable = "separable"  # sum |w_i|^p: a quadratic for p = 2


class BasinAverage(NamedTuple):
    """C_bar at the bottom of a bowl, and the standard deviation of one draw of C(w + theta) around it."""

    mean: float
    deviation: float

    def standard_error(self, copies: int) -> float:
        """Of the mean of N copies (Eq. 1)."""
        return self.deviation / math.sqrt(copies)


def bowl_average(bowl: Basin | str, power: float, a: float, dimension: int) -> BasinAverage:
    """E C(theta) at the bottom of a bowl, theta from U(-a, a)^m, and the deviation of a single draw; closed form.

    cubic: a^p m / (m + p). separable: a^p m / (p + 1). The deviation relative to the mean falls as 1 / m or
    1 / sqrt(m): in high dimension a single draw says what the mean of many does.
    """
    m, p = dimension, power
    if Basin(bowl) is Basin.cubic:
        return BasinAverage(a**p * m / (m + p), a**p * math.sqrt(m / (m + 2 * p)) * p / (m + p))
    variance = 1 / (2 * p + 1) - 1 / (p + 1) ** 2
    return BasinAverage(a**p * m / (p + 1), a**p * math.sqrt(m * variance))


def widest_eps(bowl: Basin | str, power: float, dimension: int) -> float:
    """The largest eps / a for which C_bar(w_s) >= max C within eps of w_s, the first part of Eq. 3; closed form.

    Theorem 2 says that it approaches 1 as m grows. For cubic level sets it does: (m / (m + p))^(1/p). For a sum of
    powers, such as any quadratic, it is (p + 1)^(-1/p) in every dimension: a / sqrt(3) for p = 2.
    """
    if Basin(bowl) is Basin.separable:
        return float((power + 1) ** (-1 / power))
    return float((dimension / (dimension + power)) ** (1 / power))


def widest_eps_by_bound(power: float, dimension: int) -> float:
    """What `sharp_bound` alone proves of `widest_eps` for cubic level sets, with the best choice of eps'.

    (m / (m + p))^(1/p) (p / (m + p))^(1/m): the factor is the price of the bound, and goes to 1 with m.
    """
    m, p = dimension, power
    return float((m / (m + p)) ** (1 / p) * (p / (m + p)) ** (1 / m))
