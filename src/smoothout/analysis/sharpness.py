"""Sharpness: the largest rise of the loss within a small box around a model's weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import scipy
import torch
from torch import Tensor, nn

from smoothout.analysis.arguments import check_counts
from smoothout.analysis.batch_loss import Loss, Weight
from smoothout.analysis.box import box_around, random_point
from smoothout.analysis.box_search import LBFGSB, BoxObjective, Point, SearchResult, projected_ascent
from smoothout.analysis.device_memory import search_center
from smoothout.analysis.empirical_risk import Tick, check_width
from smoothout.analysis.options import EVALUATIONS, Convention
from smoothout.common.enums import parse_enum
from smoothout.common.integers import whole_number
from smoothout.common.rng import make_generator
from smoothout.nn.batches import Batches, check_batches
from smoothout.nn.parameters import preserve_state, set_evaluation_mode, trainable_parameters

RANDOM_STARTS = 2  # random starts of a `converged` search with enough evaluations, besides its first start
FIRST_STEPS = 12  # minimum for its first ascent, because many short ascents find less than a long one


@dataclass(frozen=True)
class SharpnessResult:
    """A measurement of sharpness, with diagnostics of the search."""

    value: float  # percent, the maximum over the repeats; a lower bound
    loss: float  # f(x), the mean loss of the model itself
    max_loss: float  # f at the best point; f(x) if failed
    status: str  # L-BFGS-B's message
    failed: bool  # no search found a point clearly above f(x) and its own start; the value 0.0 is not a measurement
    iterations: int  # of L-BFGS-B, in the best repeat
    evaluations: int  # of f and its gradient together: f(x) and all searches
    projected_gradient: float  # at the best point: the steepest remaining slope, in loss per half-width of the box
    values: tuple[float, ...]  # percent, by repeat; 0.0 only for a repeat that failed
    mean: float  # percent, of ``values``; a lower bound if some failed
    dimension: int  # n, or p in a subspace
    scipy: str  # its version

    def __str__(self) -> str:
        """The value in percent, or that the search failed and why."""
        return f"failed ({self.status})" if self.failed else f"{self.value:.4g}%"


def percent(highest: float, f: float) -> float:
    """The rise of a loss as Keskar et al. define it: 100 (highest - f) / (1 + f)."""
    return 100.0 * (highest - f) / (1.0 + f)


def search_converged(
    objective: BoxObjective, start: Point, random_start: Callable[[int], Tensor], solver: LBFGSB
) -> SearchResult:
    """Sign ascents from ``start`` and random points, then L-BFGS-B from the best; returns the highest point evaluated.

    It uses 5 evaluations per iteration plus 2; L-BFGS-B may use some more.
    """
    steps = solver.maxiter
    end = objective.evaluations + EVALUATIONS[Convention.converged] * steps + 2

    def left() -> int:
        return end - objective.evaluations

    objective.highest = start
    best, index = projected_ascent(objective, start, min(max(steps, FIRST_STEPS), left() - steps)), 1
    while index <= RANDOM_STARTS and left() > 2 * steps + 1:
        ascent = projected_ascent(objective, objective(random_start(index)), steps)
        best, index = max(best, ascent, key=lambda ascent: ascent[0].loss), index + 1
        del ascent  # frees vectors of n entries
    projected_ascent(objective, best[0], left() - steps, step=best[1])
    del best  # L-BFGS-B needs the memory
    patient = replace(solver, ftol=0.0, gtol=0.0)  # cannot stop early
    result = patient.maximize_scaled(objective, objective.highest)
    while left() > 1:  # an ascent that reached a vertex, or L-BFGS-B there, has stopped early
        projected_ascent(objective, objective(random_start(index)), min(steps, left() - 1))
        index += 1
    return replace(result, end=objective.highest)


def search(objective: BoxObjective, convention: Convention, solver: LBFGSB, seed: int, repeat: int) -> SearchResult:
    """One repeat of the search. It ends at x unless it found a point clearly above both x and its own start."""

    def random_start(index: int) -> Tensor:
        return random_point(len(objective.box.half), make_generator(seed, "sharpness", repeat, index))

    start = objective(random_start(0)) if repeat else objective.x
    if convention is Convention.converged:
        result = search_converged(objective, start, random_start, solver)
    else:
        sign = -1 if convention is Convention.released else 1
        result = solver.maximize(objective, start, objective.box.half, gradient_sign=sign)
    higher = max(objective.x, start, key=lambda point: point.loss)
    return replace(result, end=objective.if_improved(result.end, higher))


@torch.inference_mode(mode=False)
def sharpness(
    model: nn.Module,
    batches: Batches,
    loss: Loss | None = None,
    *,
    eps: float = 5e-4,
    iterations: int = 10,
    subspace: int | None = None,
    convention: Convention | str = Convention.converged,
    repeats: int = 1,
    maxcor: int = 10,
    seed: int = 0,
    weight: Weight | None = None,
    tick: Tick = lambda: None,
) -> SharpnessResult:
    """[Keskar Eq. 4] 100 (max f(x + A y) - f(x)) / (1 + f(x)), in percent; |y_i| <= eps (|(A^+ x)_i| + 1).

    f is the mean of ``loss`` over all examples in evaluation mode, x the n trainable parameters. No search is sure to
    find the maximum, so the value is a lower bound. Points with non-finite f and rises within the rounding of f(x) are
    ignored. On CUDA, torch computes convolutions in TF32 by default, which is too coarse for a small box; set
    ``torch.backends.cudnn.allow_tf32 = False``.

    - ``converged``: the best known search. Variables and objective are scaled to the box. Sign ascents start from x and
      from random points, then L-BFGS-B from the best point. The result is the largest evaluated value. It takes about 5
      evaluations per iteration: if a search stops early, others start from new random points.
    - ``keskar``: as Keskar et al. write it, L-BFGS-B from x with the usual tolerances. It is not scaled: if the
      gradient is far below the width of the box it hardly moves, and below 1e-5 it stops at once.
    - ``released``: as ``keskar``, but with the wrong sign of the gradient, as in the program that the authors of
      SmoothOut released. It descends, and finds a higher loss only by overshooting.

    Args:
        model: Restored bit for bit (weights, buffers, modes, ``.grad``), also after an exception.
        batches: Pairs (inputs, targets), or mappings of keyword arguments (README of this folder); the same examples at
            every pass.
        loss: ``loss(outputs, targets)``, the mean over the examples of a batch. None takes the loss in the outputs.
        eps: Size of the box relative to |x_i| + 1: with A = I, the weight x_i moves by at most eps (|x_i| + 1).
        iterations: Number of iterations of each search. Besides the evaluations, scipy's L-BFGS-B takes about
            3 microseconds per weight and search: for F1 on 5000 images, an eighth of the time of `converged`.
        subspace: None for A = I; p for the span of p random columns (Keskar: 100), see `box_around`.
        convention: "converged", "keskar" or "released", as above.
        repeats: Number of searches: the first from x, the others from uniform random points of the box.
        maxcor: Number of corrections that L-BFGS-B keeps, 16 bytes per weight each.
        seed: Seed of A's columns and of the random points.
        weight: How many examples a batch counts as, from (inputs, targets); None uses ``len(targets)``. For the
            predicted tokens of a causal language model: ``lambda inputs, targets: (targets[:, 1:] != -100).sum()``.
        tick: Called after each evaluation of f and its gradient.

    Raises:
        ValueError: For an impossible argument, or an ``eps`` below the rounding of the model's dtype, before the model
            is touched; if f(x) is not finite or <= -1; if two passes over the batches differ.

    Example:
        The loss is w^2 at w = 1, and the box reaches 1.1:

        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> batches = [(torch.ones(4, 1), torch.zeros(4, 1))]
        >>> print(sharpness(model, batches, torch.nn.functional.mse_loss, eps=0.05))  # 100 (1.21 - 1) / (1 + 1)
        10.5%
    """
    convention = parse_enum(Convention, "convention", convention)
    counts = {"iterations": iterations, "repeats": repeats, "maxcor": maxcor}
    eps, seed, subspace, (iterations, repeats, maxcor) = check_search(model, eps, seed, subspace, **counts)
    check_batches("batches", batches)
    with preserve_state(model), torch.enable_grad():
        set_evaluation_mode(model)
        box = box_around(search_center(model, subspace or 0), eps, subspace, seed)
        objective = BoxObjective(model, batches, loss, box, tick, weight=weight)
        x, solver = objective.evaluate_center(), LBFGSB(iterations, maxcor)
        # The first repeat starts from x, the others from random points.
        results = [search(objective, convention, solver, seed, repeat) for repeat in range(repeats)]
    values = tuple(percent(result.end.loss, x.loss) for result in results)
    best = results[values.index(max(values))]
    return SharpnessResult(
        value=max(values),
        loss=x.loss,
        max_loss=best.end.loss,
        status=best.status,
        failed=best.end is x,
        iterations=best.iterations,
        evaluations=objective.evaluations,
        projected_gradient=best.end.projected_gradient().abs().max().item(),
        values=values,
        mean=math.fsum(values) / repeats,
        dimension=len(x.z),
        scipy=scipy.__version__,
    )


def check_search(
    model: nn.Module, eps: float, seed: int, subspace: int | None, **counts: int
) -> tuple[float, int, int | None, list[int]]:
    """``eps`` as a float, ``seed``, ``subspace`` and ``counts`` as ints.

    Raises ValueError unless a search over a box around ``model`` is possible; ``counts`` must be at least 1.
    """
    parameters = trainable_parameters(model)
    n = sum(p.numel() for p in parameters)
    [eps] = check_width(parameters, eps=eps)
    checked = check_counts(**counts)
    if subspace is not None and not 1 <= (subspace := whole_number("subspace", subspace)) <= n:
        raise ValueError(f"subspace: must be None or a whole number from 1 to n = {n}, not {subspace!r}")
    return eps, whole_number("seed", seed), subspace, checked
