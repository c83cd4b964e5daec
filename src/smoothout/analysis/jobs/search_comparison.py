"""A comparison of sharpness searches as a job."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from smoothout.analysis.jobs.base import BoxJob, DataSplit, Models, Tick, count, positive
from smoothout.analysis.options import EVALUATIONS, SearchMethod


@dataclass(frozen=True, kw_only=True)
class SearchComparison(BoxJob):
    """All searches for the sharpness of one run, side by side.

    The fields are the arguments of `analysis.search_comparison.compare_searches`.
    """

    recorded_as: ClassVar[str] = "Atlas"
    kind: ClassVar[str] = "atlas"
    numerics: ClassVar[int] = 2  # 2: `converged` and ascents as in version 2 of sharpness
    valid_numerics: ClassVar[tuple[int, ...]] = (1,)  # a comparison of the earlier searches

    eps: float = positive(5e-4)
    iterations: int = count(10)
    subspace: int | None = count(100)
    budget: int = count(60)
    maxcor: int = count(10)
    seed: int = 0

    def evaluations(self, train: int, test: int) -> int:
        """About how many evaluations of the loss and its gradient it takes."""
        conventions = sum(EVALUATIONS.values()) * self.iterations
        return (1 if self.subspace is None else 2) * (conventions + len(SearchMethod) * self.budget)

    def examples_seen(self, train: int, test: int) -> int:
        """How many examples most evaluations use."""
        return self.examples_used(train)

    def run(self, models: Models, train: DataSplit, test: DataSplit, tick: Tick) -> dict[str, Any]:
        """The `SearchTrace` of every search."""
        from torch.nn.functional import cross_entropy  # noqa: PLC0415

        from smoothout.analysis.search_comparison import compare_searches  # noqa: PLC0415

        splits = self.batches(train), self.batches(test)
        traces = compare_searches(models[0], *splits, cross_entropy, tick=tick, **self.arguments())
        return {"courses": [asdict(trace) for trace in traces]}
