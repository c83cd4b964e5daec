"""When a sharpness value can be believed: several searches for one maximum, followed evaluation by evaluation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor, nn

from smoothout.analysis.box import Box, box_around, random_point
from smoothout.analysis.device_memory import SEARCH_VECTORS, vectors_device
from smoothout.analysis.empirical_risk import Batches, Loss, Tick, check_batches
from smoothout.analysis.options import Convention, SearchMethod
from smoothout.analysis.sharpness import LBFGSB, BoxObjective, Point, check_search, percent, projected_ascent, search
from smoothout.common.rng import make_generator
from smoothout.nn.parameters import parameters_to_vector, preserve_state, trainable_parameters, vector_to_parameters


@dataclass(frozen=True)
class SearchTrace:
    """One search in one space: the best value that it had met after each evaluation, and how it ended."""

    search: str  # a `Convention` or a `SearchMethod`
    space: str  # full or subspace
    values: tuple[float, ...]  # percent, never falling; the first is x itself, 0.0
    answer: float  # percent, what the search hands back: not the best it met for `keskar` and `released`
    failed: bool  # it found no point above f(x); the answer 0.0 measures nothing
    status: str  # why it ended
    loss: float  # f(x) on its split
    dimension: int  # n, or p in a subspace


class BudgetExhausted(Exception):  # noqa: N818  (no error: the end of a search)
    """A search has had all its evaluations."""


class TracedObjective(BoxObjective):
    """An objective that keeps the highest loss after each evaluation, and ends a search that has spent ``budget``."""

    def __init__(
        self, model: nn.Module, batches: Batches, loss: Loss, box: Box, tick: Tick, *, budget: int | None = None
    ) -> None:
        super().__init__(model, batches, loss, box, tick)
        self.budget, self.best = budget, list[float]()

    def evaluate_center(self, least: float = -1.0) -> Point:
        """The model at the centre of the box."""
        vector_to_parameters(self.parameters, self.box.center)
        x = super().evaluate_center(least)
        self.best.append(x.loss)
        return x

    def __call__(self, z: Tensor) -> Point:
        """Evaluate at ``z``. Raises Spent."""
        if self.evaluations == self.budget:
            raise BudgetExhausted
        point = super().__call__(z)
        self.best.append(max(self.best[-1], point.loss))
        return point

    def course(self, name: str, space: str, end: Point, status: str) -> SearchTrace:
        """What was followed, of a search that ended at ``end``."""
        f = self.x.loss
        values = tuple(percent(best, f) for best in self.best)
        return SearchTrace(name, space, values, percent(end.loss, f), end is self.x, status, f, len(self.x.z))


def compare_searches(
    model: nn.Module,
    train: Batches,
    test: Batches,
    loss: Loss,
    *,
    eps: float = 5e-4,
    iterations: int = 10,
    subspace: int | None = 100,
    budget: int = 60,
    maxcor: int = 10,
    seed: int = 0,
    tick: Tick = lambda: None,
) -> list[SearchTrace]:
    """Every convention of `sharpness` and every `SearchMethod`, in the full space and in a subspace, side by side.

    ``released`` looks at ``test``, all others at ``train``. The conventions end as they end; their answers are those of
    `sharpness`. The methods have ``budget`` evaluations each: at the same place on that axis they have cost the same.

    Args:
        model: Left as it was to the last bit, also after an exception.
        train, test: Pairs (inputs, targets), the same examples at every pass.
        loss: ``loss(outputs, targets)``, the mean over the examples of a batch.
        eps, iterations, maxcor, seed: As in `sharpness`; ``iterations`` are those of one ascent too.
        subspace: Columns of the subspace; None leaves it out.
        budget: Evaluations of f and its gradient for each method, f(x) included.
        tick: Called after each evaluation.

    Raises:
        ValueError: As `sharpness`; for a budget below 1.
    """
    check_search(model, eps, subspace, iterations=iterations, maxcor=maxcor, budget=budget)
    for name, batches in (("train", train), ("test", test)):
        check_batches(name, batches)
    courses = []
    with preserve_state(model), torch.enable_grad():
        model.eval()
        x = parameters_to_vector(
            trainable_parameters(model), vectors_device(trainable_parameters(model), SEARCH_VECTORS + (subspace or 0))
        )
        for space, columns in [("full", None), *([] if subspace is None else [("subspace", subspace)])]:
            box = box_around(x, eps, columns, seed)
            for convention in Convention:
                split = test if convention is Convention.released else train
                objective = TracedObjective(model, split, loss, box, tick)
                objective.evaluate_center()
                found = search(objective, convention, LBFGSB(iterations, maxcor), seed, 0)
                courses.append(objective.course(convention.value, space, found.end, found.status))
            for method in SearchMethod:
                objective = TracedObjective(model, train, loss, box, tick, budget=budget)
                status = run_until_budget(objective, method, LBFGSB(budget, maxcor), iterations, seed)
                end = objective.if_improved(objective.highest, objective.x)
                courses.append(objective.course(method.value, space, end, status))
    return courses


def run_until_budget(objective: TracedObjective, method: SearchMethod, solver: LBFGSB, steps: int, seed: int) -> str:
    """Search from x by ``method`` until it ends or its evaluations are spent, and say why; an ascent has ``steps``."""
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
