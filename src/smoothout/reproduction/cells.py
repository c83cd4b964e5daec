"""A quantity of a table's row as jobs, seed by seed, and what their records say of it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from smoothout.common.errors import ConfigError
from smoothout.config.protocols import Analysis
from smoothout.jobs.job import Job
from smoothout.jobs.lookup import find_record
from smoothout.jobs.runtime import Runtime
from smoothout.results.records import Record


@dataclass(frozen=True)
class CellValues:
    """What the present records say of a quantity.

    Attributes:
        records: those that are there, by seed.
        values: the number of each seed that has one.
        failed: seeds whose search found nothing.
        diverged: seeds whose training's loss was not finite; nothing that is measured on such a run is a number.
    """

    records: dict[int, Record]
    values: dict[int, float]
    failed: frozenset[int]
    diverged: frozenset[int]


@dataclass(frozen=True)
class CellSpec:
    """One quantity of one row: its jobs by seed, how to read it from a record, and what is known of it.

    ``examples`` are how many of a split an analysis of the runs looks at; None is all.
    """

    row: str
    column: str
    jobs: dict[int, Job]
    read: Callable[[Record], float | None]
    published: float | None
    command: str
    epoch_seconds: float | None
    examples: int | None

    def with_analysis(self, analysis: Analysis, read: Callable[[Record], float | None], **changes: Any) -> CellSpec:
        """What ``analysis`` measures on the same runs, on its own number of examples or the profile's smaller
        one.

        Nothing of it is published.
        """
        counts = [count for count in (analysis.examples, self.examples) if count is not None]
        analysis = replace(analysis, examples=min(counts, default=None))
        jobs = {seed: Job(analysis, (job.training_job,)) for seed, job in self.jobs.items()}
        return replace(self, **{"jobs": jobs, "read": read, "published": None, **changes})

    def values(self, runtime: Runtime) -> CellValues:
        """What the records at ``runtime`` say. Raises RecordError."""
        found = {seed: find_record(job, runtime) for seed, job in self.jobs.items()}
        records = {seed: record for seed, record in found.items() if record is not None}
        diverged = frozenset(seed for seed, job in self.jobs.items() if _diverged(job.training_job, runtime))
        read = {seed: self.read(record) for seed, record in records.items() if seed not in diverged}
        values = {seed: value for seed, value in read.items() if value is not None}
        return CellValues(records, values, frozenset(read.keys() - values.keys()), diverged)


def _diverged(run: Job, runtime: Runtime) -> bool:
    record = find_record(run, runtime)
    return record is not None and bool(record.outcome.get("diverged"))


def best_accuracy(record: Record) -> float:
    """Test accuracy in % at the best test epoch of a training's record."""
    return 100 * float(record.outcome["best"]["test_accuracy"])


def last_accuracy(record: Record) -> float:
    """Test accuracy in % at the last epoch of a training's record."""
    return 100 * float(record.outcome["last"]["test_accuracy"])


def late_median_accuracy(record: Record) -> float:
    """Test accuracy in % at a typical late epoch of a training's record: the median of the last quarter of the epochs.

    No epoch is chosen by it, as the best is, and one that BatchNorm's running averages spoil does not count for more
    than another, as it may where it happens to be the last.
    """
    accuracies = record.outcome["curves"]["test_accuracy"]
    return 100 * float(statistics.median(accuracies[-math.ceil(len(accuracies) / 4) :]))


def recalibrated_accuracy(record: Record) -> float:
    """Test accuracy in % with the running averages recomputed, from a record of RunningAverages."""
    return 100 * float(record.outcome["recomputed"]["test"]["accuracy"])


def sharpness_value(record: Record) -> float | None:
    """What a record's search found (Sharpness in %, Adaptive as a loss); None where it ended where it began."""
    return None if record.outcome["failed"] else float(record.outcome["value"])


def epoch_seconds(config: dict[str, Any]) -> float | None:
    """The rough cost of an epoch with its batch that a composed config states, None for batches that it does not know.

    Raises SettingsError where the config lacks what a training's has.
    """
    lacking = [key for key in ("batch_sizes", "epoch_seconds", "batch") if not isinstance(config.get(key), dict)]
    if lacking:
        raise ConfigError(f"{lacking[0]}: must be a group of settings, as configs/train.yaml has it")
    costs, sizes, batch = config["epoch_seconds"], config["batch_sizes"], config["batch"]
    known = {sizes.get(name): costs.get(name) for name in ("small", "large")}
    seconds: float | None = costs.get("ghost") if batch.get("ghost") else None
    return known.get(batch.get("size")) if seconds is None else seconds
