"""The numbers of a run that claims are about, and where each is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from smoothout.analysis.interpolation import Averages
from smoothout.analysis.jobs.adaptive_sharpness import Adaptive
from smoothout.analysis.jobs.base import Weights
from smoothout.analysis.jobs.noise_curve import NoiseCurve
from smoothout.analysis.jobs.running_statistics import RunningAverages
from smoothout.analysis.jobs.sharpness import Sharpness
from smoothout.analysis.sharpness import Convention
from smoothout.reproduction.cells import recomputed_accuracy, sharpness_found
from smoothout.results.records import Record

NOISE = 0.04  # strength at which the loss under noise is read: our grid's nearest to SmoothOut's own


@dataclass(frozen=True)
class Quantity:
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
    by_ratio: bool = False
    analysis: Any = None
    read: Callable[[Record], float | None] | None = None


def _rise(record: Record) -> float | None:
    """None where one of the losses was not finite."""
    points = {point["a"]: point["loss"] for point in record.outcome["train"]["points"]}
    least, most = points[0.0], points[NOISE]
    return None if least is None or most is None else float(most - least)


QUANTITIES = {
    "best": Quantity("test accuracy, best epoch, points"),
    "late": Quantity("test accuracy, median of the last quarter of the epochs, points", "late"),
    "last": Quantity("test accuracy, last epoch, points", "last"),
    "recomputed": Quantity(
        "test accuracy, best epoch, running averages recomputed, points",
        "best",
        False,
        RunningAverages(),
        recomputed_accuracy,
    ),
    "recomputed_last": Quantity(
        "test accuracy, last epoch, running averages recomputed, points",
        "last",
        False,
        RunningAverages(weights=Weights.last),
        recomputed_accuracy,
    ),
    "noise": Quantity(f"rise of the training loss under noise, a = {NOISE}", "best", True, NoiseCurve(), _rise),
    **{c.value: Quantity(f"sharpness `{c}`", f"sharpness {c}", True) for c in Convention},
    "converged_recomputed": Quantity(
        "sharpness `converged`, running averages recomputed",
        "sharpness converged",
        True,
        Sharpness(averages=Averages.recomputed),
        sharpness_found,
    ),
    "adaptive": Quantity(
        "adaptive sharpness, box of 0.1%, logits normalised",
        "best",
        True,
        Adaptive(normalise_logits=True, examples=10_000),
        sharpness_found,
    ),
}
