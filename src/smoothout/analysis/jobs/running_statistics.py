"""An evaluation with recomputed running statistics as a job."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from smoothout.analysis.jobs.base import STATISTICS_BATCH, AnalysisJob, DataSplit, Models, Tick
from smoothout.analysis.options import RunningStats


@dataclass(frozen=True, kw_only=True)
class RunningStatistics(AnalysisJob):
    """Loss and accuracy of one run with BatchNorm's running statistics from training, and with recomputed ones.

    After training under noise, they are statistics of the noisy weights. Recomputed from the training examples, they
    are those of the clean weights.
    """

    recorded_as: ClassVar[str] = "RunningAverages"
    kind: ClassVar[str] = "averages"

    def evaluations(self, train: int, test: int) -> int:
        """Passes over a split."""
        return 5

    def ticks(self, train: int, test: int) -> int:
        """One per evaluation: two splits, before and after."""
        return 4

    def run(self, models: Models, train: DataSplit, test: DataSplit, tick: Tick) -> dict[str, Any]:
        """The `EvalResult` of both splits, with kept and with recomputed statistics."""
        from smoothout.nn.batchnorm import recalibrate_batchnorm  # noqa: PLC0415
        from smoothout.nn.evaluation import evaluate  # noqa: PLC0415
        from smoothout.nn.parameters import preserve_state  # noqa: PLC0415

        outcome: dict[str, Any] = {}
        with preserve_state(models[0]):
            for running_stats in (RunningStats.kept, RunningStats.recomputed):
                if running_stats is RunningStats.recomputed:
                    recalibrate_batchnorm(models[0], self.batches(train, STATISTICS_BATCH))
                outcome[running_stats.value] = {}
                for name, split in (("train", train), ("test", test)):
                    outcome[running_stats.value][name] = evaluate(models[0], self.batches(split))._asdict()
                    tick()
        return outcome
