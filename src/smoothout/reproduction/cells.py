"""A number of a table's row as jobs, seed by seed, and what their records have."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from smoothout.common.errors import ConfigError
from smoothout.config.experiment import Experiment
from smoothout.jobs.job import Job
from smoothout.jobs.lookup import find_record
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.metrics import METRICS
from smoothout.results.records import Record


@dataclass(frozen=True)
class CellValues:
    """What the records of a cell have."""

    records: dict[int, Record]  # those that exist, by seed
    values: dict[int, float]  # the number of each seed that has one
    failed: frozenset[int]  # seeds whose search for the sharpness failed
    diverged: frozenset[int]  # seeds whose training diverged; no measurement on such a run counts


@dataclass(frozen=True)
class CellSpec:
    """A number of a row and method."""

    row: str  # of a table
    method: str
    metric: str  # the number's name in `METRICS`
    jobs: dict[int, Job]  # whose records have it, by seed
    published: float | None  # the papers' number, or None
    command: str  # what makes the records
    epoch_seconds: float | None  # the config's estimate of an epoch's cost, or None

    @property
    def column(self) -> str:
        """Its name in the row."""
        return f"{self.method} {self.metric}"

    def values(self, runtime: Runtime) -> CellValues:
        """Read the records at ``runtime``. Raises RecordError."""
        records = {seed: record for seed, job in self.jobs.items() if (record := find_record(job, runtime))}
        diverged = frozenset(seed for seed, job in self.jobs.items() if _diverged(job.training_job, runtime))
        numbers = {seed: METRICS[self.metric].read(record) for seed, record in records.items() if seed not in diverged}
        values = {seed: number for seed, number in numbers.items() if number is not None}
        return CellValues(records, values, frozenset(numbers.keys() - values.keys()), diverged)


def _diverged(run: Job, runtime: Runtime) -> bool:
    record = find_record(run, runtime)
    return record is not None and bool(record.outcome.get("diverged"))


@dataclass(frozen=True)
class MethodRuns:
    """The trainings of a row by one method: every metric is read from their records, or measured on their weights."""

    row: str  # of a table
    method: str
    experiment: Experiment  # the training, whatever its seed
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]  # of configs/train.yaml, that make it
    epoch_seconds: float | None  # the config's estimate of an epoch's cost, or None
    examples: int | None  # how many examples of a split the profile lets an analysis use; None for all

    @cached_property
    def jobs(self) -> dict[int, Job]:
        """The trainings by seed."""
        return {seed: Job(replace(self.experiment, seed=seed)) for seed in self.seeds}

    def cell(self, metric: str, published: float | None) -> CellSpec:
        """The number ``metric`` of these runs."""
        jobs, script, analysis = self.jobs, "python scripts/train.py", METRICS[metric].analysis
        if analysis is not None:
            limits = [limit for limit in (analysis.examples, self.examples) if limit is not None]
            analysis = replace(analysis, examples=min(limits, default=None))
            jobs = {seed: Job(analysis, (run,)) for seed, run in self.jobs.items()}
            script = f"python scripts/analyze.py {METRICS[metric].overrides}"
        seeds = f"seed={self.seeds[0]}" if len(self.seeds) == 1 else f"-m seed={','.join(map(str, self.seeds))}"
        command = " ".join([script, *self.overrides, seeds])
        return CellSpec(self.row, self.method, metric, jobs, published, command, self.epoch_seconds)


def epoch_seconds(config: dict[str, Any]) -> float | None:
    """The rough cost of an epoch that a composed config states for its batch, or None.

    Raises ConfigError if the config lacks settings that a training's config has.
    """
    for key in ("batch_sizes", "epoch_seconds", "batch"):
        if not isinstance(config.get(key), dict):
            raise ConfigError(f"{key}: must be a group of settings, as in configs/train.yaml")
    costs, sizes, batch = config["epoch_seconds"], config["batch_sizes"], config["batch"]
    if batch.get("ghost") and costs.get("ghost") is not None:
        return float(costs["ghost"])
    by_size: dict[Any, float | None] = {sizes.get(name): costs.get(name) for name in ("small", "large")}
    return by_size.get(batch.get("size"))
