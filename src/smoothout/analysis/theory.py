"""SmoothOut's theory in numbers: the example of Figure 1, and where Theorems 1 and 2 fail.

Everything is in closed form or on a grid over one dimension, with numpy arrays. The noise is U(-a, a) in each entry of
w, so C_bar(w) = E C(w + theta) is the average of C over a box of half-width a.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smoothout.common.rng import derive_seed

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Well:
    """A minimum: -depth (1 - u^2)^2 for |u| < 1, u = (w - center) / half_width, and 0 elsewhere.

    It is symmetric, strictly monotonic on each side, and 0 outside, as both theorems assume.
    """

    center: float
    half_width: float
    depth: float = 1.0

    def __call__(self, w: ArrayLike) -> Array:
        """The height at each ``w``."""
        u = self._clipped(w)
        return -self.depth * (1 - u**2) ** 2

    def integral(self, w: ArrayLike) -> Array:
        """An antiderivative of the height at each ``w``."""
        u = self._clipped(w)
        return -self.depth * self.half_width * (u - 2 * u**3 / 3 + u**5 / 5)

    def _clipped(self, w: ArrayLike) -> Array:
        return np.clip((np.asarray(w, dtype=np.float64) - self.center) / self.half_width, -1.0, 1.0)


FLAT = Well(center=-1.0, half_width=1.0, depth=0.9)
SHARP = Well(center=0.6, half_width=0.1, depth=1.0)


@dataclass(frozen=True)
class ToyLoss:
    """A loss of one weight: ``level`` with wells in it, by default a flat one and a deeper, sharp one.

    The papers draw such a function without its formula.
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


class FigureOne(NamedTuple):
    """Curves over ``w``: the loss, all copies (N, points), their mean, and its limit, the expectation."""

    w: Array
    loss: Array
    copies: Array
    mean: Array
    expectation: Array


def figure_one(
    a: float = 0.3, *, loss: ToyLoss | None = None, copies: int = 1024, points: int = 801, seed: int = 0
) -> FigureOne:
    """[SmoothOut v1 Fig. 1, later 1ab] A loss with a flat and a sharp minimum, shifted copies of it, and their mean.

    By default the sharp minimum is the lowest point of the loss, and the flat one the lowest of the mean.
    """
    loss = loss or ToyLoss()
    lowest = min(well.center - well.half_width for well in loss.wells) - a
    highest = max(well.center + well.half_width for well in loss.wells) + a
    w = np.linspace(lowest, highest, points)
    thetas = np.random.default_rng(derive_seed(seed, "shifts")).uniform(-a, a, copies)
    shifted = loss(w + thetas[:, None])
    return FigureOne(w, loss(w), shifted, shifted.mean(axis=0), loss.smoothed(w, a))


def flat_offset(smoothed: Callable[[Array], Array], center: float, tau: float, points: int = 20001) -> float:
    """[SmoothOut Theorem 1] phi of the Flat Constraint (Eq. 2): |argmin of C_bar - w_f| within ``tau`` of w_f.

    Searches a grid of ``points``, an odd number, so that w_f is on it; of several minima the nearest is used. Theorem 1
    claims 0 if C is symmetric around w_f. This is false: the proof only shows a slope of 0, and smoothing turns a
    narrow dip on a broad hill into a maximum. The argmin is w_f if C also rises with the distance from w_f up to tau +
    a, because 2 a dC_bar/dw is C(w + a) - C(w - a). Raises ValueError unless there are three points or more, an odd
    number.
    """
    if points < 3 or points % 2 == 0:
        raise ValueError(f"points: must be odd, and at least 3, not {points}")
    offsets = np.linspace(-tau, tau, points)
    heights = smoothed(center + offsets)
    lowest = heights.min()
    slack = 8 * np.finfo(np.float64).eps * max(1.0, abs(lowest))
    return float(np.abs(offsets[heights <= lowest + slack]).min())


class SharpConstraint(NamedTuple):
    """The three sides of Eq. 3, and whether they are in the required order."""

    lowest_smoothed_sharp: float
    highest_sharp: float
    lowest_smoothed_flat: float
    holds: bool


def sharp_constraint(
    loss: ToyLoss, a: float, *, sharp: float, flat: float, eps: float, tau: float, points: int = 2001
) -> SharpConstraint:
    """[SmoothOut Theorem 2] min C_bar near the sharp minimum >= max C there > min C_bar near the flat one (Eq. 3).

    Near means within ``eps`` of ``sharp`` and ``tau`` of ``flat``, on grids. Theorem 2 claims this for eps up to a, as
    the dimension grows. This is false: a quadratic satisfies it only up to eps = a / sqrt(3), in every dimension. Nor
    does the constraint, which compares heights under noise, imply that the sharp minimum disappears. It stays a minimum
    while the noise is narrower than its well.
    """
    grid = np.linspace(-1.0, 1.0, points)
    smoothed_sharp = float(loss.smoothed(sharp + eps * grid, a).min())
    highest_sharp = float(loss(sharp + eps * grid).max())
    smoothed_flat = float(loss.smoothed(flat + tau * grid, a).min())
    holds = smoothed_sharp >= highest_sharp > smoothed_flat
    return SharpConstraint(smoothed_sharp, highest_sharp, smoothed_flat, holds)


def sharp_bound(inner: float, a: float, dimension: int, highest: float, lowest: float) -> float:
    """[SmoothOut v1 Eq. 19, later 20] The bound C_bar(w_s) >= (1 - (eps' / a)^m) ``highest`` + (eps' / a)^m ``lowest``.

    ``inner`` is eps', ``highest`` the maximum of C within eps' of w_s, ``lowest`` C(w_s). The bound assumes (v1 Eq. 18,
    later 19) that C exceeds ``highest`` everywhere between the boxes of eps' and a. In more than one dimension only
    cubic level sets satisfy this: for a sum of squares the center of a face of the box is m times lower than a corner.
    The proof also takes C_bar(w_s) for the minimum within eps of w_s, which needs C to be monotonic up to a + eps from
    w_s, not only b > a.
    """
    share = (inner / a) ** dimension
    return (1 - share) * highest + share * lowest
