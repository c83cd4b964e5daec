"""Searches for the highest loss in a box around a network's weights.

They use box coordinates: z in [-1, 1]^k, where 0 is the model itself and 1 is one half-width of the box.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import fmin_l_bfgs_b
from torch import Tensor, nn

from smoothout.analysis.batch_loss import Loss, Weight
from smoothout.analysis.box import Box
from smoothout.analysis.empirical_risk import EmpiricalRisk, Tick
from smoothout.analysis.models import FIRST_PASSES, keeping_weights
from smoothout.nn.batches import Batches
from smoothout.nn.parameters import trainable_parameters, vector_to_parameters

PINNED = 1e-9  # a coordinate this close to a bound, in half-widths, counts as on it


@dataclass(frozen=True, eq=False)
class Point:
    """``z`` of shape (k,), the loss there (-inf if it is not finite) and its gradient with respect to z."""

    z: Tensor
    loss: float
    gradient: Tensor  # loss per half-width, (k,)

    def projected_gradient(self) -> Tensor:
        """The gradient, shape (k,), set to 0 in coordinates that are at a bound and would leave the box."""
        return self.gradient.masked_fill(self.z * self.gradient.sign() >= 1.0 - PINNED, 0.0)


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The end point of a search, the reason for its end, and the number of L-BFGS-B iterations."""

    end: Point
    status: str
    iterations: int


class BoxObjective(EmpiricalRisk):
    """The mean loss and its gradient over a box. Counts evaluations and remembers the ``highest`` point.

    Points are on the device of the box; an evaluation synchronizes with it once, to read the loss. A point where the
    loss or its gradient is not finite gets loss -inf and gradient 0.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        loss: Loss | None,
        box: Box,
        tick: Tick,
        *,
        weight: Weight | None = None,
    ) -> None:
        super().__init__(model, batches, loss, trainable_parameters(model), weight=weight, device=box.center.device)
        self.box, self.tick = box, tick
        self.evaluations = 0

    def evaluate_center(self, least: float = -1.0) -> Point:
        """Evaluate the model itself, before any other point.

        Raises ValueError unless its loss is finite, above ``least`` and deterministic.
        """
        measured, loss, finite = self._measure()
        if not (loss > least and finite):
            raise ValueError(f"the model's own loss is {loss}: must be finite, like its gradient, and above {least:g}")
        self.check_deterministic(measured)
        zero = self.box.half.new_zeros(()).expand_as(self.box.half)  # without a vector's memory
        self.x = self.highest = Point(zero, loss, self.box.gradient(measured[1:]))
        return self.x

    def if_improved(self, end: Point, above: Point) -> Point:
        """``end`` if its loss exceeds that of ``above`` by more than the rounding of f(x), otherwise x."""
        return end if end.loss - above.loss > self.rounding * abs(self.x.loss) else self.x

    def __call__(self, z: Tensor) -> Point:
        """Evaluate at ``z`` of shape (k,); the weights are rounded to the model's dtype."""
        z = z.to(self.device)
        vector_to_parameters(self.parameters, self.box.weights(z))
        measured, loss, finite = self._measure()
        if not finite:
            return Point(z, -math.inf, torch.zeros_like(z))
        point = Point(z, loss, self.box.gradient(measured[1:]))
        self.highest = max(self.highest, point, key=lambda point: point.loss)
        return point

    def _measure(self) -> tuple[Tensor, float, bool]:
        """The result of `with_gradient`, its loss, and whether all entries are finite; one copy from the device."""
        self.evaluations += 1
        with keeping_weights(self.model) if self.evaluations <= FIRST_PASSES else nullcontext():
            measured = self.with_gradient()
        self.tick()
        # Both extremes are nan if an entry is nan; a maximum norm would take several times as long.
        loss, *extremes = torch.stack([measured[0], *torch.aminmax(measured)]).tolist()
        return measured, loss, all(map(math.isfinite, extremes))


def sign_step(point: Point, step: float) -> Tensor:
    """A projected step along the gradient's sign: clip(z + 2 step sign(g), -1, 1); a step of 1 crosses the box."""
    return (point.z + 2.0 * step * point.gradient.sign()).clamp(-1.0, 1.0)


def projected_ascent(
    objective: BoxObjective,
    point: Point,
    steps: int,
    move: Callable[[Point, float], Tensor] = sign_step,
    step: float = 1.0,
) -> tuple[Point, float]:
    """Projected ascent: z <- ``move(z, step)``, where ``step`` is halved whenever f does not rise.

    Returns the point and the step from which the search can continue. It stops early if z no longer moves.
    """
    for _ in range(steps):
        z = move(point, step)
        if torch.equal(z, point.z):
            break
        trial = objective(z)
        if trial.loss > point.loss:
            point = trial
        else:
            step /= 2
    return point, step


@dataclass(frozen=True)
class LBFGSB:
    """L-BFGS-B; the options have scipy's names, and the tolerances are scipy's defaults."""

    maxiter: int
    maxcor: int
    ftol: float = 2.220446049250313e-09
    gtol: float = 1e-5

    def maximize(
        self, objective: BoxObjective, start: Point, unit: Tensor, *, factor: float = 1.0, gradient_sign: int = 1
    ) -> SearchResult:
        """Minimize -``factor`` f over ``unit`` z, from ``start`` to the last iterate.

        ``start`` is not evaluated again; if its loss is -inf, there is no search. ``unit`` is the length of each
        coordinate of z in scipy's variables, (k,) or (1,). A ``gradient_sign`` of -1 gives scipy the gradient of +f.
        scipy works on the CPU: each evaluation copies z to the device of ``unit``, and the gradient back.
        """
        if start.loss == -math.inf:
            return SearchResult(start, "not started: the loss at the random start is not finite", 0)
        first = (unit * start.z).cpu().numpy()
        # `minimize` takes arrays but builds a tuple for every coordinate; here equal widths share a tuple.
        bounds = [(-half, half) for half in unit.tolist()] * (len(first) // len(unit))
        # A non-finite trial counts as far below the start, with gradient 0, so the line search turns back.
        floor = start.loss - abs(start.loss) - 1.0
        trial = end = start

        def negated(variables: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            nonlocal trial
            at_start = np.array_equal(variables, first)
            trial = start if at_start else objective(torch.from_numpy(variables).to(unit.device) / unit)
            loss = floor if trial.loss == -math.inf else trial.loss
            slope = -factor * gradient_sign * trial.gradient
            return -factor * loss, slope.div_(unit).cpu().numpy()

        def accept(xk: NDArray[np.float64]) -> None:  # scipy calls it after each iteration
            nonlocal end
            end = trial

        *_, info = fmin_l_bfgs_b(
            negated,
            first,
            bounds=bounds,
            m=self.maxcor,
            factr=self.ftol / np.finfo(np.float64).eps,
            pgtol=self.gtol,
            maxiter=self.maxiter,
            callback=accept,
        )
        return SearchResult(end, info["task"].rstrip(": "), info["nit"])

    def maximize_scaled(self, objective: BoxObjective, start: Point) -> SearchResult:
        """Search in box coordinates, with a first trial step of one half-width (root mean square).

        L-BFGS-B's first step is as long as the gradient. If that is far below the width of the box, it would spend ten
        iterations on growing the step.
        """
        gradient = start.projected_gradient()
        active = gradient[gradient != 0.0]
        size = active.square().mean().sqrt().item() if len(active) else 0.0
        unit = gradient.new_ones(1)
        del gradient, active  # frees memory for the search
        return self.maximize(objective, start, unit, factor=1.0 / size if size else 1.0)
