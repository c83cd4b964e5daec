"""The settings and the outcome of a linear interpolation between two networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from smoothout.analysis.empirical_risk import Tick
from smoothout.analysis.interpolation import PUBLISHED_ALPHAS, iterate_path
from smoothout.analysis.jobs import base
from smoothout.analysis.options import InterpolationPath, RunningStats, SplitName, WhichWeights
from smoothout.common.enums import coerce_enum_fields
from smoothout.data.split import Split


@dataclass(frozen=True)
class Interpolation:
    """Loss and accuracy on the way through two runs, see ``analysis.interpolation.iterate_path``.

    Args:
        checkpoint: best or last, of both runs.
        start: first alpha; ``stop`` is the last, ``points`` the number of alphas.
        path: linear, or curvilinear.
        running_stats: BatchNorm's running averages: interpolated (as published), kept as the first run has them, or
            recomputed at each alpha from the training examples that are looked at.
        examples: look at the first so many examples of each split; None is all.
    """

    kind: ClassVar[str] = "interpolation"
    numerics: ClassVar[int] = 1
    runs: ClassVar[int] = 2

    checkpoint: WhichWeights = field(default=WhichWeights.best, metadata={"recorded_as": "weights"})
    start: float = PUBLISHED_ALPHAS[0]
    stop: float = PUBLISHED_ALPHAS[-1]
    points: int = len(PUBLISHED_ALPHAS)
    path: InterpolationPath = InterpolationPath.linear
    running_stats: RunningStats = field(default=RunningStats.interpolated, metadata={"recorded_as": "averages"})
    examples: int | None = None

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        base.check_examples(self.examples)
        base.check_linspace(self.start, self.stop, self.points)

    def slug(self, first: str, second: str) -> str:
        """The readable part of the record's name."""
        path = "" if self.path is InterpolationPath.linear else f"-{self.path}"
        return f"{first}-to-{second}{path}" + (
            "" if self.running_stats is RunningStats.interpolated else f"-{self.running_stats}"
        )

    def evaluations(self, train: int, test: int) -> int:
        """Passes over a split."""
        return (3 if self.running_stats is RunningStats.recomputed else 2) * self.points

    def ticks(self, train: int, test: int) -> int:
        """How often ``run`` calls its ``tick``."""
        return 2 * self.points

    examples_seen = base.examples_used_of_both

    def run(self, models: Sequence[nn.Module], train: Split, test: Split, tick: Tick) -> dict[str, Any]:
        """Both curves."""
        parts = {part: base.batches_of(part, train, test, self.examples) for part in (SplitName.train, SplitName.test)}
        points: dict[str, list[dict[str, Any]]] = {part.value: [] for part in parts}
        first, second = models
        alphas = base.linspace(self.start, self.stop, self.points)
        seen = base.batches_of(SplitName.train, train, test, self.examples, base.STATISTICS_BATCH)
        for stop in iterate_path(
            first, second, alphas, path=self.path, running_stats=self.running_stats, running_stats_from=seen
        ):
            for part, batches in parts.items():
                points[part.value].append(stop.measured(batches)._asdict())
                tick()
        return points
