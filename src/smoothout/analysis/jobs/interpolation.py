"""Interpolation between two runs as a job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from smoothout.analysis.jobs.base import STATISTICS_BATCH, AlphasJob, DataSplit, Models, Tick
from smoothout.analysis.options import InterpolationPath, RunningStats


@dataclass(frozen=True, kw_only=True)
class Interpolation(AlphasJob):
    """Loss and accuracy on the path through two runs, see `analysis.interpolation.iterate_path`.

    Running statistics are recomputed from the training examples that are used.
    """

    kind: ClassVar[str] = "interpolation"
    runs: ClassVar[int] = 2
    in_name_if_changed: ClassVar[tuple[str, ...]] = ("path", "running_stats")

    stop: float = 2.0
    points: int = 31
    path: InterpolationPath = InterpolationPath.linear
    running_stats: RunningStats = field(default=RunningStats.interpolated, metadata={"recorded_as": "averages"})

    def evaluations(self, train: int, test: int) -> int:
        """Passes over a split."""
        return (3 if self.running_stats is RunningStats.recomputed else 2) * self.points

    def ticks(self, train: int, test: int) -> int:
        """One per point and split."""
        return 2 * self.points

    def run(self, models: Models, train: DataSplit, test: DataSplit, tick: Tick) -> dict[str, Any]:
        """A `LinePoint` per alpha, on both splits."""
        from smoothout.analysis.interpolation import iterate_path  # noqa: PLC0415
        from smoothout.analysis.mean_loss import Measurement  # noqa: PLC0415

        first, second = models
        splits = {"train": self.batches(train), "test": self.batches(test)}
        measurements = {name: Measurement(first, batches, None, None) for name, batches in splits.items()}
        outcome: dict[str, Any] = {name: [] for name in splits}
        training = self.batches(train, STATISTICS_BATCH)
        for point in iterate_path(first, second, self.alphas(), running_stats_from=training, **self.arguments()):
            for name, measurement in measurements.items():
                outcome[name].append(point.measured(measurement)._asdict())
                tick()
        return outcome
