"""The settings and the outcome of an evaluation with recomputed running statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from smoothout.analysis.empirical_risk import Tick
from smoothout.analysis.interpolation import Averages
from smoothout.analysis.jobs import base
from smoothout.analysis.jobs.base import Part, Weights
from smoothout.common.enums import keep_members
from smoothout.data.split import Split
from smoothout.nn.batchnorm import recompute_averages
from smoothout.nn.evaluation import evaluate
from smoothout.nn.parameters import restored


@dataclass(frozen=True)
class RunningAverages:
    """Loss and accuracy of one run with BatchNorm's running averages as training left them, and recomputed.

    A training under noise gathers them under noise; recomputed, from training examples, they are those of the clean
    weights.

    Args:
        weights: best or last.
        examples: look at the first so many examples of each split; None is all.
    """

    kind: ClassVar[str] = "averages"
    numerics: ClassVar[int] = 1
    runs: ClassVar[int] = 1

    weights: Weights = Weights.best
    examples: int | None = None

    def __post_init__(self) -> None:
        keep_members(self)
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

    examples_seen = base.seen_of_both

    def run(self, models: Sequence[nn.Module], train: Split, test: Split, tick: Tick) -> dict[str, Any]:
        """Both measurements on both splits."""
        parts = {part: base.batches_of(part, train, test, self.examples) for part in (Part.train, Part.test)}
        seen = base.batches_of(Part.train, train, test, self.examples, base.STATISTICS_BATCH)
        measured: dict[str, Any] = {}
        with restored(models[0]):
            for averages in (Averages.kept, Averages.recomputed):
                if averages is Averages.recomputed:
                    recompute_averages(models[0], seen)
                measured[averages.value] = {}
                for part, batches in parts.items():
                    measured[averages.value][part.value] = evaluate(models[0], batches)._asdict()
                    tick()
        return measured
