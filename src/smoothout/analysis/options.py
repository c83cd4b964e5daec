"""Choices of the analyses, importable without torch."""

from __future__ import annotations

from enum import StrEnum


class Convention(StrEnum):
    """Whose search for the maximum is followed; `sharpness` says what each does."""

    converged = "converged"
    keskar = "keskar"
    released = "released"


EVALUATIONS = {Convention.converged: 5, Convention.keskar: 1, Convention.released: 5}  # an iteration, as measured on F1


class InterpolationPath(StrEnum):
    """The way from the first network, alpha = 0, to the second, alpha = 1; beyond them it goes on."""

    linear = "linear"
    curvilinear = "curvilinear"


class RunningStats(StrEnum):
    """What BatchNorm's running averages are on the way."""

    interpolated = "interpolated"  # as all other weights: what SmoothOut's authors do
    kept = "kept"  # the first network's
    recomputed = "recomputed"  # measured anew at each point; nearest to Keskar et al., who use each batch's own


class BiasDirection(StrEnum):
    """What a direction is in one-dimensional tensors: biases, BatchNorm's weight and bias."""

    scaled = "scaled"  # each number is a filter: +-|w_i|, as in the program of SmoothOut's authors
    zero = "zero"  # they stay as they are, as in Li et al.


class Norm(StrEnum):
    """The region for z = delta / |w|: a box, max |z_i| <= rho, or a ball, ||z||_2 <= rho."""

    linf = "linf"
    l2 = "l2"


class SearchMethod(StrEnum):
    """A search that goes on until its evaluations are spent."""

    as_written = "as_written"  # L-BFGS-B as Keskar et al. write it, without a limit on its iterations
    scaled = "scaled"  # L-BFGS-B with variables and objective scaled to the box, tolerances that cannot stop early
    ascents = "ascents"  # projected sign ascents, from x and then from random points of the box


class WhichWeights(StrEnum):
    """The weights of a trained run: at the end of its best test epoch, or of its last epoch."""

    best = "best"
    last = "last"


class SplitName(StrEnum):
    """The split that is looked at; by_convention is the one that a convention of sharpness goes with."""

    train = "train"
    test = "test"
    by_convention = "by_convention"
