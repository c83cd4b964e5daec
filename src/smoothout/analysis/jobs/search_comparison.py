"""The settings and the outcome of a comparison of sharpness searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from torch import nn
from torch.nn import functional as F

from smoothout.analysis.empirical_risk import Tick
from smoothout.analysis.jobs import base
from smoothout.analysis.options import EVALUATIONS, SearchMethod, SplitName, WhichWeights
from smoothout.analysis.search_comparison import compare_searches
from smoothout.common.enums import coerce_enum_fields
from smoothout.data.split import Split


@dataclass(frozen=True)
class SearchComparison:
    """All searches for the sharpness of one run, side by side, see ``analysis.atlas.compare_searches``.

    Args:
        checkpoint: best or last.
        eps: relative size of the box.
        iterations: of each search of a convention, and of one ascent.
        subspace: number of random columns (Keskar et al.: 100), None for the full space alone.
        budget: evaluations of each search that goes on as long as it may.
        maxcor: corrections that L-BFGS-B keeps.
        seed: of random starts and the subspace.
        examples: look at the first so many examples of each split; None is all.
    """

    recorded_as: ClassVar[str] = "Atlas"

    kind: ClassVar[str] = "atlas"
    numerics: ClassVar[int] = 1
    runs: ClassVar[int] = 1

    checkpoint: WhichWeights = field(default=WhichWeights.best, metadata={"recorded_as": "weights"})
    eps: float = 5e-4
    iterations: int = 10
    subspace: int | None = 100
    budget: int = 60
    maxcor: int = 10
    seed: int = 0
    examples: int | None = None

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        base.check_examples(self.examples)
        base.check_counts(self, "iterations", "subspace", "budget", "maxcor")
        base.check_positive(self, "eps")

    def slug(self, run: str) -> str:
        """The readable part of the record's name."""
        return run

    def evaluations(self, train: int, test: int) -> int:
        """About how many passes forward and backward over a split it takes."""
        conventions = sum(EVALUATIONS.values()) * self.iterations
        return (1 if self.subspace is None else 2) * (conventions + len(SearchMethod) * self.budget)

    ticks = evaluations

    def examples_seen(self, train: int, test: int) -> int:
        """How many examples most evaluations go over."""
        return base.examples_used(train, self.examples)

    def run(self, models: Sequence[nn.Module], train: Split, test: Split, tick: Tick) -> dict[str, Any]:
        """The course of every search."""
        courses = compare_searches(
            models[0],
            base.batches_of(SplitName.train, train, test, self.examples),
            base.batches_of(SplitName.test, train, test, self.examples),
            F.cross_entropy,
            eps=self.eps,
            iterations=self.iterations,
            subspace=self.subspace,
            budget=self.budget,
            maxcor=self.maxcor,
            seed=self.seed,
            tick=tick,
        )
        return {"courses": [asdict(course) for course in courses]}
