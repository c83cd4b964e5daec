"""The settings and the outcome of a sharpness analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from torch import nn
from torch.nn import functional as F

from smoothout.analysis.empirical_risk import Tick
from smoothout.analysis.jobs import base
from smoothout.analysis.options import EVALUATIONS, Convention, RunningStats, SplitName, WhichWeights
from smoothout.analysis.sharpness import sharpness
from smoothout.common.enums import coerce_enum_fields
from smoothout.data.split import Split
from smoothout.nn.batchnorm import recalibrate_batchnorm
from smoothout.nn.parameters import preserve_state


@dataclass(frozen=True)
class Sharpness:
    """(C_eps, A)-sharpness of one run, see ``analysis.sharpness.sharpness``.

    Args:
        convention: converged, keskar or released.
        split: train, test, or by_convention: test for released, train for the others.
        checkpoint: best or last.
        eps: relative size of the box; the papers use 5e-4 and 1e-3.
        iterations: of each search.
        subspace: None for the full space, or the number of random columns.
        repeats: searches; the first from the weights, the others from random points of the box.
        maxcor: corrections that L-BFGS-B keeps.
        seed: of random starts and the subspace.
        running_stats: BatchNorm's running averages, kept as training left them or recomputed from the training
            examples.
        examples: look at the first so many examples of the split; None is all.
    """

    kind: ClassVar[str] = "sharpness"
    numerics: ClassVar[int] = 1
    runs: ClassVar[int] = 1

    convention: Convention = Convention.converged
    split: SplitName = field(default=SplitName.by_convention, metadata={"recorded_as": "part"})
    checkpoint: WhichWeights = field(default=WhichWeights.best, metadata={"recorded_as": "weights"})
    eps: float = 5e-4
    iterations: int = 10
    subspace: int | None = None
    repeats: int = 1
    maxcor: int = 10
    seed: int = 0
    running_stats: RunningStats = field(default=RunningStats.kept, metadata={"recorded_as": "averages"})
    examples: int | None = None

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        base.check_examples(self.examples)
        base.check_positive(self, "eps")
        base.check_counts(self, "iterations", "subspace", "repeats", "maxcor")
        if self.running_stats is RunningStats.interpolated:
            raise ValueError("running_stats: 'interpolated' is not one of kept, recomputed")

    def canonicalized(self) -> Sharpness:
        """The same with the split named."""
        usual = SplitName.test if self.convention is Convention.released else SplitName.train
        return replace(self, split=usual) if self.split is SplitName.by_convention else self

    def slug(self, run: str) -> str:
        """The readable part of the record's name."""
        recomputed = "-recomputed" if self.running_stats is RunningStats.recomputed else ""
        return f"{run}-{self.convention}-{self.canonicalized().split}{recomputed}"

    def evaluations(self, train: int, test: int) -> int:
        """About how many passes forward and backward over a split of ``train`` or ``test`` examples it takes."""
        return 1 + self.repeats * (EVALUATIONS[self.convention] * self.iterations + 2)

    ticks = evaluations

    def examples_seen(self, train: int, test: int) -> int:
        """How many examples one evaluation goes over."""
        return base.examples_used_of_split(self.canonicalized(), train, test)

    def run(self, models: Sequence[nn.Module], train: Split, test: Split, tick: Tick) -> dict[str, Any]:
        """Measure the one model."""
        with preserve_state(models[0]):
            if self.running_stats is RunningStats.recomputed:
                seen = base.batches_of(SplitName.train, train, test, self.examples, base.STATISTICS_BATCH)
                recalibrate_batchnorm(models[0], seen)
            result = sharpness(
                models[0],
                base.batches_of(self.canonicalized().split, train, test, self.examples),
                F.cross_entropy,
                eps=self.eps,
                iterations=self.iterations,
                subspace=self.subspace,
                convention=self.convention,
                repeats=self.repeats,
                maxcor=self.maxcor,
                seed=self.seed,
                tick=tick,
            )
        return asdict(result)
