"""Sharpness: how far the loss of a model can rise within a small box around its weights.

Searches walk in box coordinates: z in [-1, 1]^k, where 0 is the model itself and 1 half a width of the box.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from scipy.optimize import Bounds, minimize
from torch import Tensor, nn

from smoothout.analysis.arguments import check_counts
from smoothout.analysis.box import Box, box_around, random_point
from smoothout.analysis.device_memory import SEARCH_VECTORS, vectors_device
from smoothout.analysis.empirical_risk import (
    Batches,
    EmpiricalRisk,
    Loss,
    Tick,
    Weight,
    check_batches,
    check_width,
    machine_epsilon,
)
from smoothout.analysis.options import Convention
from smoothout.common.enums import parse_enum
from smoothout.common.rng import make_generator
from smoothout.nn.parameters import parameters_to_vector, preserve_state, trainable_parameters, vector_to_parameters

RANDOM_STARTS = 2  # of each `converged` search, beside its first start
PINNED = 1e-9  # this near to a bound, in half-widths, a coordinate lies on it


@dataclass(frozen=True)
class SharpnessResult:
    """One measurement of sharpness, and how far to trust it."""

    value: float  # percent, the maximum over the repeats
    loss: float  # f(x), the mean loss of the model as it is
    max_loss: float  # f at the point found; f(x) if failed
    status: str  # why L-BFGS-B stopped, in its own words (the last of two searches for `converged`)
    failed: bool  # no search met a point that is surely above f(x) and its own start; the value 0.0 measures nothing
    iterations: int  # of L-BFGS-B, in the repeat that won
    evaluations: int  # of f and its gradient together: f(x) and all searches
    projected_gradient: float  # at the point found: the steepest rise left, in loss per half-width of the box
    values: tuple[float, ...]  # percent, by repeat; 0.0 for one that failed and for no other
    mean: float  # percent, of ``values``; a lower bound where some failed
    dimension: int  # n, or p in a subspace
    scipy: str  # its version

    def __str__(self) -> str:
        """The value in percent, or that the search failed and why."""
        return f"failed ({self.status})" if self.failed else f"{self.value:.4g}%"


@dataclass(frozen=True, eq=False)
class Point:
    """``z`` of shape (k,), the loss there (-inf where it is not admissible) and its gradient by z."""

    z: Tensor
    loss: float
    gradient: Tensor  # loss per half-width, (k,)

    def projected_gradient(self) -> Tensor:
        """The gradient without the coordinates that it pushes against their bound, shape (k,)."""
        return self.gradient.masked_fill(self.z * self.gradient.sign() >= 1.0 - PINNED, 0.0)


def percent(highest: float, f: float) -> float:
    """How far a loss rises, as Keskar et al. count it: 100 (highest - f) / (1 + f)."""
    return 100.0 * (highest - f) / (1.0 + f)


@dataclass(frozen=True, eq=False)
class SearchResult:
    """Where a search ended, why, and after how many iterations of L-BFGS-B."""

    end: Point
    status: str
    iterations: int


class BoxObjective(EmpiricalRisk):
    """The mean loss and its gradient over a box. Counts evaluations and keeps the ``highest`` point.

    Points lie on the device of the box; an evaluation waits for it once, to read the loss. A point where the loss or
    its gradient is not finite is not admissible: it gets loss -inf and gradient 0.
    """

    def __init__(
        self, model: nn.Module, batches: Batches, loss: Loss, box: Box, tick: Tick, *, weight: Weight | None = None
    ) -> None:
        super().__init__(model, batches, loss, trainable_parameters(model), weight=weight, device=box.center.device)
        self.box, self.tick = box, tick
        self.evaluations = 0

    def evaluate_center(self, least: float = -1.0) -> Point:
        """The model as it is, first of all. Raises ValueError unless the loss is finite, > ``least`` and no chance."""
        found = self._measured()
        loss, finite = _loss_and_whether_finite(found)
        if not (loss > least and finite):
            raise ValueError(f"the model's own loss is {loss}: must be finite, as its gradient, and above {least:g}")
        self.check_deterministic(found)
        self.x = self.highest = Point(torch.zeros_like(self.box.half), loss, self.box.gradient(found[1:]))
        return self.x

    def if_improved(self, end: Point, above: Point) -> Point:
        """``end``, or x unless ``end`` lies above ``above`` by more than the rounding of one number of f's size."""
        return end if end.loss - above.loss > machine_epsilon(self.parameters) * abs(self.x.loss) else self.x

    def __call__(self, z: Tensor) -> Point:
        """Evaluate at ``z`` of shape (k,); the weights are rounded to the model's own dtype."""
        z = z.to(self.device)
        vector_to_parameters(self.parameters, self.box.weights(z))
        found = self._measured()
        loss, finite = _loss_and_whether_finite(found)
        if not finite:
            return Point(z, -math.inf, torch.zeros_like(z))
        point = Point(z, loss, self.box.gradient(found[1:]))
        self.highest = max(self.highest, point, key=lambda point: point.loss)
        return point

    def _measured(self) -> Tensor:
        """The mean loss at the present weights and its gradient, float64 of shape (1 + n,)."""
        self.evaluations += 1
        found = self.with_gradient()
        self.tick()
        return found


def _loss_and_whether_finite(found: Tensor) -> tuple[float, bool]:
    """The first number of ``found``, and whether all of them are finite, in one copy from the device."""
    loss, finite = torch.stack([found[0], found.isfinite().all().double()]).tolist()
    return loss, bool(finite)


def sign_step(here: Point, step: float) -> Tensor:
    """A projected step by the gradient's sign: clip(z + step sign(g), -1, 1)."""
    return (here.z + step * here.gradient.sign()).clamp(-1.0, 1.0)


def projected_ascent(
    objective: BoxObjective, start: Point, steps: int, move: Callable[[Point, float], Tensor] = sign_step
) -> None:
    """Projected ascent: z <- ``move(z, step)``; step 1, halved where f does not rise."""
    here, step = start, 1.0
    for _ in range(steps):
        z = move(here, step)
        if torch.equal(z, here.z):
            break
        trial = objective(z)
        here, step = (trial, step) if trial.loss > here.loss else (here, step / 2)


@dataclass(frozen=True)
class LBFGSB:
    """L-BFGS-B with scipy's options by their own names; the tolerances are scipy's defaults."""

    maxiter: int
    maxcor: int
    ftol: float = 2.220446049250313e-09
    gtol: float = 1e-5

    def maximize(
        self, objective: BoxObjective, start: Point, unit: Tensor, *, factor: float = 1.0, gradient_sign: int = 1
    ) -> SearchResult:
        """Minimise -``factor`` f over ``unit`` z, from ``start`` (not evaluated again) to the last iterate.

        scipy works on the CPU: an evaluation copies z to the device of ``unit``, and the gradient back.

        ``gradient_sign`` -1 gives the gradient of +f. An inadmissible trial counts as 1 + |f(start)| below
        the start with gradient 0: the line search turns back. An inadmissible start is not left.
        """
        if start.loss == -math.inf:
            return SearchResult(start, "not started: the loss at the random start is not finite", 0)
        first, half = (unit * start.z).cpu().numpy(), unit.cpu().numpy()
        floor = start.loss - abs(start.loss) - 1.0
        trial = end = start

        def negated(variables: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            nonlocal trial
            again = np.array_equal(variables, first)
            trial = start if again else objective(torch.from_numpy(variables).to(unit.device) / unit)
            loss = floor if trial.loss == -math.inf else trial.loss
            return -factor * loss, (-factor * gradient_sign * trial.gradient / unit).cpu().numpy()

        def accept(xk: NDArray[np.float64]) -> None:
            nonlocal end
            end = trial

        box, options = Bounds(-half, half), cast(Any, asdict(self))
        found = minimize(negated, first, (), "L-BFGS-B", True, bounds=box, callback=accept, options=options)
        return SearchResult(end, found.message.rstrip(": "), found.nit)

    def maximize_scaled(self, objective: BoxObjective, start: Point) -> SearchResult:
        """Climb in box coordinates, with a first trial step of one half-width (root mean square).

        L-BFGS-B first tries a step as long as the gradient: where that is far below the box's width, ten
        iterations would be spent on growing it.
        """
        slope = start.projected_gradient()
        active = slope[slope != 0.0]
        size = active.square().mean().sqrt().item() if len(active) else 0.0
        return self.maximize(objective, start, torch.ones_like(slope), factor=1.0 / size if size else 1.0)


def search_converged(objective: BoxObjective, start: Point, others: Iterable[Tensor], solver: LBFGSB) -> SearchResult:
    """The highest point met by sign ascents from all starts, and L-BFGS-B from ``start`` and the best one."""
    objective.highest = start
    projected_ascent(objective, start, solver.maxiter)
    for z in others:
        projected_ascent(objective, objective(z), solver.maxiter)
    patient = replace(solver, ftol=0.0, gtol=0.0)  # cannot stop early
    first = patient.maximize_scaled(objective, start)
    last = patient.maximize_scaled(objective, objective.highest)
    return SearchResult(objective.highest, last.status, first.iterations + last.iterations)


def search(objective: BoxObjective, convention: Convention, solver: LBFGSB, seed: int, repeat: int) -> SearchResult:
    """One repeat. It ends at x if it found no point that is surely above both x and its own start."""

    def random_start(index: int) -> Tensor:
        return random_point(len(objective.box.half), make_generator(seed, "sharpness", repeat, index))

    start = objective(random_start(0)) if repeat else objective.x
    if convention is Convention.converged:
        found = search_converged(objective, start, map(random_start, range(1, 1 + RANDOM_STARTS)), solver)
    else:
        sign = -1 if convention is Convention.released else 1
        found = solver.maximize(objective, start, objective.box.half, gradient_sign=sign)
    return replace(found, end=objective.if_improved(found.end, max(objective.x, start, key=lambda point: point.loss)))


def sharpness(
    model: nn.Module,
    batches: Batches,
    loss: Loss,
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

    f is the mean of ``loss`` over all examples in evaluation mode, x the n trainable parameters. The maximum
    can only be searched for: a value is a lower bound. Points where f is not finite do not count, nor does a rise
    within the rounding of one number of f's size. On CUDA, torch's convolutions round to TF32, too coarsely for a
    small box, unless ``torch.backends.cudnn.allow_tf32 = False``.

    - ``converged``: as well as it can be found. Variables and objective are scaled to the box; sign ascents
      from x and two random points, L-BFGS-B from x and the best; the largest value ever evaluated counts.
    - ``keskar``: as Keskar et al. write it, L-BFGS-B from x with the usual tolerances. Unscaled: where the
      gradient is far below the box's width it hardly moves, and below 1e-5 it stops at once.
    - ``released``: the same with the gradient's sign wrong, as in the program that the authors of SmoothOut
      released. It walks downhill, and finds a higher loss only by overshooting.

    Args:
        model: Left as it was to the last bit (weights, buffers, modes, ``.grad``), also after an exception.
        batches: Pairs (inputs, targets), the same examples at every pass.
        loss: ``loss(outputs, targets)``, the mean over the examples of a batch.
        weight: How many examples a batch counts as, from (inputs, targets); None is ``len(targets)``. For a language
            model the tokens that count: ``lambda inputs, targets: (targets != -100).sum()``.
        eps: Relative size of the box.
        iterations: Of each search. Besides, scipy spends 5 microseconds a weight on setting up L-BFGS-B.
        subspace: None for A = I; p for the span of p random columns (Keskar: 100), see `box_around`.
        convention: A `Convention` or its name.
        repeats: How many times to search: first from x, then from uniform random points of the box.
        maxcor: Corrections that L-BFGS-B keeps, 16 bytes a weight each.
        seed: Of the random points and the subspace.
        tick: Called after each evaluation of f and its gradient.

    Raises:
        ValueError: For an impossible argument, or an ``eps`` below the rounding of the model's dtype, before the model
            is touched; if f(x) is not finite or <= -1; if model and batches do not answer twice the same.
    """
    convention = parse_enum(Convention, "convention", convention)
    check_search(model, eps, subspace, iterations=iterations, repeats=repeats, maxcor=maxcor)
    check_batches("batches", batches)
    with preserve_state(model), torch.enable_grad():
        model.eval()
        device = vectors_device(trainable_parameters(model), SEARCH_VECTORS + (subspace or 0))
        box = box_around(parameters_to_vector(trainable_parameters(model), device), eps, subspace, seed)
        objective = BoxObjective(model, batches, loss, box, tick, weight=weight)
        x, solver = objective.evaluate_center(), LBFGSB(iterations, maxcor)
        found = [search(objective, convention, solver, seed, repeat) for repeat in range(repeats)]
    values = tuple(percent(one.end.loss, x.loss) for one in found)
    best = found[values.index(max(values))]
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


def check_search(model: nn.Module, eps: float, subspace: int | None, **counts: int) -> None:
    """Raise ValueError for what no search over a box around ``model`` can begin with; ``counts`` must be at least 1."""
    parameters = trainable_parameters(model)
    n = sum(p.numel() for p in parameters)
    check_width(parameters, eps=eps)
    check_counts(**counts)
    if not (subspace is None or (isinstance(subspace, int) and 1 <= subspace <= n)):
        raise ValueError(f"subspace: must be None or a whole number from 1 to n = {n}, not {subspace!r}")
