"""Compare searches for the same maximum, evaluation by evaluation, to judge the reliability of sharpness values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor, nn

from smoothout.analysis.batch_loss import Loss
from smoothout.analysis.box import box_around, random_point
from smoothout.analysis.box_search import LBFGSB, BoxObjective, Point, projected_ascent
from smoothout.analysis.device_memory import search_center
from smoothout.analysis.empirical_risk import Tick
from smoothout.analysis.options import Convention, SearchMethod
from smoothout.analysis.sharpness import check_search, percent, search
from smoothout.common.rng import make_generator
from smoothout.nn.batches import Batches, check_batches
from smoothout.nn.parameters import preserve_state, set_evaluation_mode, vector_to_parameters


@dataclass(frozen=True)
class SearchTrace:
    """One search in one space: the best value after each evaluation, and how the search ended."""

    search: str  # a `Convention` or a `SearchMethod`
    space: str  # full or subspace
    values: tuple[float, ...]  # percent, never falling; the first is x itself, 0.0
    answer: float  # percent, the search's result: for `keskar` and `released` not always the best of ``values``
    failed: bool  # it found no point above f(x); the answer 0.0 is not a measurement
    status: str  # why it ended
    loss: float  # f(x) on its split
    dimension: int  # n, or p in a subspace


class BudgetExhausted(Exception):  # noqa: N818  (not an error: it ends a search)
    """A search has spent all its evaluations."""


class TracedObjective(BoxObjective):
    """An objective that records the highest loss after each evaluation, and ends a search that has spent ``budget``."""

    budget: int | None = None  # evaluations; None is no limit

    def evaluate_center(self, least: float = -1.0) -> Point:
        """Evaluate the model at the center of the box."""
        vector_to_parameters(self.parameters, self.box.center)
        x = super().evaluate_center(least)
        self.best = [x.loss]
        return x

    def __call__(self, z: Tensor) -> Point:
        """Evaluate at ``z``. Raises BudgetExhausted."""
        if self.evaluations == self.budget:
            raise BudgetExhausted
        point = super().__call__(z)
        self.best.append(max(self.best[-1], point.loss))
        return point

    def trace(self, name: str, space: str, end: Point, status: str) -> SearchTrace:
        """The record of a search that ended at ``end``."""
        f = self.x.loss
        values = tuple(percent(best, f) for best in self.best)
        return SearchTrace(name, space, values, percent(end.loss, f), end is self.x, status, f, len(self.x.z))


@torch.inference_mode(mode=False)
def compare_searches(
    model: nn.Module,
    train: Batches,
    test: Batches,
    loss: Loss | None,
    *,
    eps: float = 5e-4,
    iterations: int = 10,
    subspace: int | None = 100,
    budget: int = 60,
    maxcor: int = 10,
    seed: int = 0,
    tick: Tick = lambda: None,
) -> list[SearchTrace]:
    """Run every convention of `sharpness` and every `SearchMethod`, in the full space and in a subspace.

    ``released`` uses ``test``, all others ``train``. The conventions run to their end and give the values of
    `sharpness`. The methods have ``budget`` evaluations each, including f(x), so that they can be compared at equal
    cost.

    Each ascent has ``iterations`` steps. ``subspace`` None skips the subspace. Other arguments are as in `sharpness`.
    Raises ValueError as `sharpness`, and for a budget below 1.
    """
    counts = {"iterations": iterations, "maxcor": maxcor, "budget": budget}
    eps, seed, subspace, (iterations, maxcor, budget) = check_search(model, eps, seed, subspace, **counts)
    for name, batches in (("train", train), ("test", test)):
        check_batches(name, batches)
    traces = []
    with preserve_state(model), torch.enable_grad():
        set_evaluation_mode(model)
        x = search_center(model, subspace or 0)
        for space, columns in [("full", None), *([] if subspace is None else [("subspace", subspace)])]:
            box = box_around(x, eps, columns, seed)
            # Each search has its own objective, which counts its evaluations and starts from x again.
            for convention in Convention:
                split = test if convention is Convention.released else train
                objective = TracedObjective(model, split, loss, box, tick)
                objective.evaluate_center()
                result = search(objective, convention, LBFGSB(iterations, maxcor), seed, 0)
                traces.append(objective.trace(convention.value, space, result.end, result.status))
            for method in SearchMethod:
                objective = TracedObjective(model, train, loss, box, tick)
                objective.budget = budget
                status = run_until_budget(objective, method, LBFGSB(budget, maxcor), iterations, seed)
                end = objective.if_improved(objective.highest, objective.x)
                traces.append(objective.trace(method.value, space, end, status))
    return traces


def run_until_budget(objective: TracedObjective, method: SearchMethod, solver: LBFGSB, steps: int, seed: int) -> str:
    """Search from x with ``method`` until it ends or has spent its evaluations; return why. Ascents take ``steps``."""
    x = objective.evaluate_center()
    try:
        if method is SearchMethod.as_written:
            return solver.maximize(objective, x, objective.box.half).status
        if method is SearchMethod.scaled:
            return replace(solver, ftol=0.0, gtol=0.0).maximize_scaled(objective, x).status
        projected_ascent(objective, x, steps)
        for index in count():
            projected_ascent(objective, objective(random_point(len(x.z), make_generator(seed, "atlas", index))), steps)
    except BudgetExhausted:
        pass
    return "evaluations spent"
