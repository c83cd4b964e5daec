"""Options of the analyses, importable without torch."""

from __future__ import annotations

from enum import StrEnum


class Convention(StrEnum):
    """How `sharpness` searches for the maximum; see there."""

    converged = "converged"
    keskar = "keskar"
    released = "released"


EVALUATIONS = {Convention.converged: 5, Convention.keskar: 1, Convention.released: 5}  # per iteration, about


class InterpolationPath(StrEnum):
    """The path from the first network (alpha = 0) to the second (alpha = 1) and beyond."""

    linear = "linear"
    curvilinear = "curvilinear"


class RunningStats(StrEnum):
    """BatchNorm's running statistics along a path, or at one set of weights."""

    interpolated = "interpolated"  # like all other weights, as SmoothOut's authors do
    kept = "kept"  # those of the (first) network
    recomputed = "recomputed"  # estimated again at each point; closest to Keskar et al., who use batch statistics


class BiasDirection(StrEnum):
    """The direction's entries in one-dimensional tensors: biases, BatchNorm's weight and bias."""

    scaled = "scaled"  # each number is its own filter: +-|w_i|, as in the SmoothOut authors' program
    zero = "zero"  # these parameters stay unchanged, as in Li et al.


class Norm(StrEnum):
    """The region for z = delta / |w|: a box, max |z_i| <= rho, or a ball, ||z||_2 <= rho."""

    linf = "linf"
    l2 = "l2"


class SearchMethod(StrEnum):
    """A search that runs until it has spent its budget of evaluations."""

    as_written = "as_written"  # L-BFGS-B as Keskar et al. write it, without a limit on its iterations
    scaled = "scaled"  # L-BFGS-B with variables and objective scaled to the box, tolerances that cannot stop early
    ascents = "ascents"  # projected sign ascents, from x and then from random points of the box


class WhichWeights(StrEnum):
    """The weights of a trained run: at the end of its best test epoch, or of its last epoch."""

    best = "best"
    last = "last"


class SplitName(StrEnum):
    """The split that is measured; by_convention is the usual one for the convention of sharpness."""

    train = "train"
    test = "test"
    by_convention = "by_convention"
