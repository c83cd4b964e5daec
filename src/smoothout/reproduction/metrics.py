"""The numbers of a run that claims are about, and where each is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from smoothout.analysis.jobs.adaptive_sharpness import AdaptiveSharpnessJob
from smoothout.analysis.jobs.noise_curve import NoiseCurve
from smoothout.analysis.jobs.running_statistics import RunningStatistics
from smoothout.analysis.jobs.sharpness import Sharpness
from smoothout.analysis.options import Convention, RunningStats, WhichWeights
from smoothout.reproduction.cells import recalibrated_accuracy, sharpness_value
from smoothout.results.records import Record

NOISE = 0.04  # strength at which the loss under noise is read: our grid's nearest to SmoothOut's own


@dataclass(frozen=True)
class Metric:
    """A number of a run.

    Attributes:
        title: what it is, with its unit.
        column: of a table's cells, behind the method's name.
        by_ratio: compared by ratio, not by difference.
        analysis: what is measured on the run where no table has it.
        read: the number in that measurement's record.
    """

    title: str
    column: str = "best"
    ratio_scale: bool = False
    analysis: Any = None
    read: Callable[[Record], float | None] | None = None


def _rise(record: Record) -> float | None:
    """None where one of the losses was not finite."""
    points = {point["a"]: point["loss"] for point in record.outcome["train"]["points"]}
    least, most = points[0.0], points[NOISE]
    return None if least is None or most is None else float(most - least)


METRICS = {
    "best": Metric("test accuracy, best epoch, points"),
    "late": Metric("test accuracy, median of the last quarter of the epochs, points", "late"),
    "last": Metric("test accuracy, last epoch, points", "last"),
    "recomputed": Metric(
        "test accuracy, best epoch, running averages recomputed, points",
        "best",
        False,
        RunningStatistics(),
        recalibrated_accuracy,
    ),
    "recomputed_last": Metric(
        "test accuracy, last epoch, running averages recomputed, points",
        "last",
        False,
        RunningStatistics(checkpoint=WhichWeights.last),
        recalibrated_accuracy,
    ),
    "noise": Metric(f"rise of the training loss under noise, a = {NOISE}", "best", True, NoiseCurve(), _rise),
    **{c.value: Metric(f"sharpness `{c}`", f"sharpness {c}", True) for c in Convention},
    "converged_recomputed": Metric(
        "sharpness `converged`, running averages recomputed",
        "sharpness converged",
        True,
        Sharpness(running_stats=RunningStats.recomputed),
        sharpness_value,
    ),
    "adaptive": Metric(
        "adaptive sharpness, box of 0.1%, logits normalised",
        "best",
        True,
        AdaptiveSharpnessJob(normalise_logits=True, examples=10_000),
        sharpness_value,
    ),
}
