"""Sharpness as a job."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from smoothout.analysis.jobs.base import BoxJob, DataSplit, Models, Tick, check_running_stats, count, positive
from smoothout.analysis.options import EVALUATIONS, Convention, RunningStats, SplitName


@dataclass(frozen=True, kw_only=True)
class Sharpness(BoxJob):
    """(C_eps, A)-sharpness of one run; most fields are the arguments of `analysis.sharpness.sharpness`."""

    kind: ClassVar[str] = "sharpness"
    numerics: ClassVar[int] = 2  # 2: `converged` spends all its evaluations, and most on its best ascent
    valid_numerics: ClassVar[tuple[int, ...]] = (1,)  # lower bounds too; the other conventions have not changed
    in_name: ClassVar[tuple[str, ...]] = ("convention", "split")
    in_name_if_changed: ClassVar[tuple[str, ...]] = ("running_stats",)

    convention: Convention = Convention.converged
    split: SplitName = field(default=SplitName.by_convention, metadata={"recorded_as": "part"})
    eps: float = positive(5e-4)
    iterations: int = count(10)
    subspace: int | None = count(None)
    repeats: int = count(1)
    maxcor: int = count(10)
    seed: int = 0
    running_stats: RunningStats = field(default=RunningStats.kept, metadata={"recorded_as": "averages"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_running_stats(self.running_stats)

    def canonicalized(self) -> Sharpness:
        """The same settings with ``by_convention`` replaced by the actual split."""
        usual = SplitName.test if self.convention is Convention.released else SplitName.train
        return replace(self, split=usual) if self.split is SplitName.by_convention else self

    def slug(self, *runs: str) -> str:
        """The readable part of the record's name."""
        return super(Sharpness, self.canonicalized()).slug(*runs)

    def evaluations(self, train: int, test: int) -> int:
        """About how many evaluations of the loss and its gradient it takes."""
        return 1 + self.repeats * (EVALUATIONS[self.convention] * self.iterations + 2)

    def examples_seen(self, train: int, test: int) -> int:
        """How many examples one evaluation uses."""
        return self.examples_used(test if self.canonicalized().split is SplitName.test else train)

    def run(self, models: Models, train: DataSplit, test: DataSplit, tick: Tick) -> dict[str, Any]:
        """The `SharpnessResult` of the model."""
        from torch.nn.functional import cross_entropy  # noqa: PLC0415

        from smoothout.analysis.sharpness import sharpness  # noqa: PLC0415

        batches = self.batches(test if self.canonicalized().split is SplitName.test else train)
        arguments = self.arguments(without=("running_stats",))
        with self.with_running_stats(self.running_stats, models[0], train):
            return asdict(sharpness(models[0], batches, cross_entropy, tick=tick, **arguments))
