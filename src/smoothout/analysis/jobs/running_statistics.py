"""The settings and the outcome of an evaluation with recomputed running statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from smoothout.analysis.empirical_risk import Tick
from smoothout.analysis.jobs import base
from smoothout.analysis.options import RunningStats, SplitName, WhichWeights
from smoothout.common.enums import coerce_enum_fields
from smoothout.data.split import Split
from smoothout.nn.batchnorm import recalibrate_batchnorm
from smoothout.nn.evaluation import evaluate
from smoothout.nn.parameters import preserve_state


@dataclass(frozen=True)
class RunningStatistics:
    """Loss and accuracy of one run with BatchNorm's running averages as training left them, and recomputed.

    A training under noise gathers them under noise; recomputed, from training examples, they are those of the clean
    weights.

    Args:
        checkpoint: best or last.
        examples: look at the first so many examples of each split; None is all.
    """

    recorded_as: ClassVar[str] = "RunningAverages"

    kind: ClassVar[str] = "averages"
    numerics: ClassVar[int] = 1
    runs: ClassVar[int] = 1

    checkpoint: WhichWeights = field(default=WhichWeights.best, metadata={"recorded_as": "weights"})
    examples: int | None = None

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        base.check_examples(self.examples)

    def slug(self, run: str) -> str:
        """The readable part of the record's name."""
        return run

    def evaluations(self, train: int, test: int) -> int:
        """Passes over a split."""
        return 5

    def ticks(self, train: int, test: int) -> int:
        """How often ``run`` calls its ``tick``."""
        return 4

    examples_seen = base.examples_used_of_both

    def run(self, models: Sequence[nn.Module], train: Split, test: Split, tick: Tick) -> dict[str, Any]:
        """Both measurements on both splits."""
        parts = {part: base.batches_of(part, train, test, self.examples) for part in (SplitName.train, SplitName.test)}
        seen = base.batches_of(SplitName.train, train, test, self.examples, base.STATISTICS_BATCH)
        measured: dict[str, Any] = {}
        with preserve_state(models[0]):
            for averages in (RunningStats.kept, RunningStats.recomputed):
                if averages is RunningStats.recomputed:
                    recalibrate_batchnorm(models[0], seen)
                measured[averages.value] = {}
                for part, batches in parts.items():
                    measured[averages.value][part.value] = evaluate(models[0], batches)._asdict()
                    tick()
        return measured
