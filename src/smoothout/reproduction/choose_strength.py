"""Choose the strength of the noise on held-out training images, never on the test split."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, ClassVar

from smoothout.analysis.options import WhichWeights
from smoothout.common.enums import check_seeds, coerce_enum_fields
from smoothout.common.errors import ConfigError, config_errors
from smoothout.common.estimates import standard_error
from smoothout.common.grouping import grouped
from smoothout.common.job_settings import SummarySettings
from smoothout.config.experiment import Experiment
from smoothout.jobs.job import Job
from smoothout.results.records import Record, check_same_data

RULE = "the best mean; of equal ones the smaller strength"


@dataclass(frozen=True)
class StrengthChoice(SummarySettings):
    """The choice among trainings with held-out images that differ in strength and seed only.

    ``checkpoint``: compare accuracies of the last epoch, or of each training's best epoch. ``field``: the
    method's setting that is its strength.
    """

    recorded_as: ClassVar[str] = "Strength"
    kind: ClassVar[str] = "strength"
    numerics: ClassVar[int] = 1

    checkpoint: WhichWeights = field(default=WhichWeights.last, metadata={"recorded_as": "weights"})
    field: str = "a"

    def slug(self, *runs: str) -> str:
        """The readable part of the record's name: that of the last run without its strength and seed."""
        method = "smoothout" if self.field == "a" else r"-b\d+-[a-z]+"
        return re.sub(rf"({method}).*(-e\d+)-s\d+$", r"\1\2", runs[-1])

    def from_records(self, records: Sequence[Record]) -> dict[str, Any]:
        """The mean held-out accuracy of each strength with its standard error over seeds, and the chosen strength."""
        check_same_data(records)
        by_strength = grouped((float(record.settings["perturbation"][self.field]), record) for record in records)
        rows = [self._row(a, by_strength[a]) for a in sorted(by_strength)]
        best = max(rows, key=lambda row: round(float(row["mean"]), 12))  # the first of equal ones
        examples = records[0].outcome["examples"]
        counts = {"learnt": examples["train"], "held_out": examples["test"]}
        field = {} if self.field == "a" else {"field": self.field}
        return {"strengths": rows, "chosen": best["a"], "rule": RULE, "examples": counts, **field}

    def _row(self, a: float, records: Sequence[Record]) -> dict[str, Any]:
        accuracies = [float(record.outcome[str(self.checkpoint)]["test_accuracy"]) for record in records]
        return {
            "a": a,
            "mean": statistics.fmean(accuracies),
            "standard_error": standard_error(accuracies),
            "accuracies": accuracies,
            "diverged": sum(bool(record.outcome["diverged"]) for record in records),
        }


def explain_choice(record: Record) -> str:
    """The record of a choice as a sentence."""
    out = record.outcome
    means = ", ".join(f"{100 * row['mean']:.2f} at {row['a']:g}" for row in out["strengths"])
    seeds, field = len(out["strengths"][0]["accuracies"]), out.get("field", "a")
    return (
        f"{field} = {out['chosen']:g} has the best mean accuracy on {out['examples']['held_out']} held-out training"
        f" images over {seeds} seeds at batch {record.labels['batch']}: {means} (record {record.name})"
    )


@dataclass(frozen=True)
class Grid:
    """The trainings: every strength with every seed."""

    strengths: tuple[float, ...]  # values of a (or another field), at least two; a = 0 is no noise
    seeds: tuple[int, ...] = (0, 1, 2)
    checkpoint: WhichWeights = WhichWeights.last  # see `StrengthChoice`

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        if len(set(self.strengths)) < max(2, len(self.strengths)) or min(self.strengths) < 0:
            raise ValueError(f"strengths: must be at least two different numbers >= 0, not {list(self.strengths)}")
        check_seeds(self.seeds)


class StrengthSearch:
    """The jobs of a choice. A tenth of the training images is held out unless ``base`` says how many.

    The strength and seed of ``base`` are not used. Raises ConfigError if it is a training without noise, or its method
    has no ``field``. ``epoch_seconds`` is the rough cost of an epoch, for estimates without records; ``title`` is the
    method's in plans.
    """

    def __init__(
        self, base: Experiment, grid: Grid, epoch_seconds: float | None = None, field: str = "a", title: str = ""
    ) -> None:
        method: Any = base.method
        if field != "a" and not hasattr(method, field):
            raise ConfigError(f"method.{field}: {method.slug} has no such setting")
        if field == "a" and not getattr(method, "a", 0):
            raise ConfigError(f"method: must be a method with noise (smoothout, adasmoothout), not {method.slug}")
        held_out = base.data.validation_size or max(1, base.data.expected_sizes[0] // 10)
        base = base.holding_out(held_out)
        self._epoch_seconds, self._name = epoch_seconds, f"{title} {field}".strip()
        self._trainings = {
            a: [Job(replace(base.with_seed(seed), method=_with(method, field, a))) for seed in grid.seeds]
            for a in sorted(grid.strengths)
        }
        self.choice = Job(StrengthChoice(grid.checkpoint, field), tuple(chain(*self._trainings.values())))

    def jobs(self) -> list[Job]:
        """The trainings and the choice among them."""
        return [*self.choice.dependencies, self.choice]

    def plan(self) -> dict[str, dict[Job, float | None]]:
        """By strength: its trainings, with the estimate of the seconds per epoch."""
        return {
            f"{self._name} = {a:g}": dict.fromkeys(jobs, self._epoch_seconds) for a, jobs in self._trainings.items()
        }


def _with(method: Any, field: str, strength: float) -> Any:
    """``method`` with another strength. Raises ConfigError for one that it does not take."""
    with config_errors("method."):
        return replace(method, **{field: strength})
