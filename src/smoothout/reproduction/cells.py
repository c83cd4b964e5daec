"""The cells of a table: the jobs behind each number, seed by seed, and the values in their records."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from smoothout.common.environment import device_of
from smoothout.config.experiment import TrainingConfig, smallest_limit
from smoothout.jobs.cost_estimate import RuntimeEstimator
from smoothout.jobs.job import Job
from smoothout.jobs.lookup import find_record, retrained_inputs
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.metrics import METRICS
from smoothout.reproduction.published import PublishedNumber
from smoothout.results.records import Record
from smoothout.results.retrained import WeightsSeen
from smoothout.results.tables import Cell

SAME = WeightsSeen.agreeing  # weights that were trained again and agree with the record are as good as the first ones


@dataclass(frozen=True)
class CellValues:
    """The values of a cell, read from its records."""

    records: dict[int, Record]  # the existing records, by seed
    values: dict[int, float]  # the number of each seed that has one
    failed: frozenset[int]  # seeds whose search for the sharpness failed
    diverged: frozenset[int]  # seeds whose training diverged; no measurement on such a run counts
    retrained: frozenset[int]  # seeds measured on weights that were trained again and are not known to be the record's


@dataclass(frozen=True)
class CellSpec:
    """A cell of a table: one metric of a row and a method."""

    row: str  # of a table
    method: str
    metric: str  # the number's name in `METRICS`
    jobs: dict[int, Job]  # by seed, those whose records have the number; empty until the method's strength is chosen
    published: PublishedNumber | None  # the papers' number, or None
    command: str  # the command that makes the records
    epoch_seconds: float | None  # the config's estimate of an epoch's cost, or None

    @property
    def first_job(self) -> Job:
        """The job of the first seed."""
        return next(iter(self.jobs.values()))

    @property
    def column(self) -> str:
        """The name of the cell's column, "METHOD METRIC"."""
        return f"{self.method} {self.metric}"

    def values(self, runtime: Runtime) -> CellValues:
        """Read the records at ``runtime``. Raises RecordError."""
        records = {seed: record for seed, job in self.jobs.items() if (record := find_record(job, runtime))}
        diverged = frozenset(seed for seed, job in self.jobs.items() if _diverged(job.training_job, runtime))
        numbers = {seed: METRICS[self.metric].read(record) for seed, record in records.items() if seed not in diverged}
        values = {seed: number for seed, number in numbers.items() if number is not None}
        retrained = frozenset(
            seed for seed in numbers if max(retrained_inputs(self.jobs[seed], runtime).values(), default=SAME) > SAME
        )
        return CellValues(records, values, frozenset(numbers.keys() - values.keys()), diverged, retrained)


def _diverged(run: Job, runtime: Runtime) -> bool:
    record = find_record(run, runtime)
    return record is not None and bool(record.outcome.get("diverged"))


def rendered(cell: CellSpec, runtime: Runtime, costs: RuntimeEstimator) -> Cell:
    """The cell with the values of its records, and the cost of missing ones."""
    read = cell.values(runtime)
    hours = missing_hours(cell, read, costs)
    known = [cost for cost in hours if cost is not None]
    return Cell(
        row=cell.row,
        column=cell.column,
        values=read.values,
        failed=read.failed,
        diverged=read.diverged,
        retrained=read.retrained,
        published=cell.published.value if cell.published else None,
        published_std=cell.published.std if cell.published else None,
        records=[record.name for record in read.records.values()],
        devices=sorted({device_name(record) for record in read.records.values()}),
        command=cell.command,
        hours=sum(known) if len(known) == len(hours) else None,
    )


def jobs_by_row(cells: Iterable[tuple[str, CellSpec]]) -> dict[str, dict[Job, float | None]]:
    """The jobs of the cells by the name of their row, each with the config's estimate of the seconds per epoch."""
    rows: dict[str, dict[Job, float | None]] = {}
    for row, cell in cells:
        rows.setdefault(row, {}).update(dict.fromkeys(cell.jobs.values(), cell.epoch_seconds))
    return rows


def missing_hours(cell: CellSpec, read: CellValues, costs: RuntimeEstimator) -> list[float | None]:
    """Hours for each missing record of the cell, of which ``read`` has the existing ones; None where unknown."""
    return [costs.hours(job, cell.epoch_seconds) for seed, job in cell.jobs.items() if seed not in read.records]


def device_name(record: Record) -> str:
    """The device that a record was made on, and its threads if it is a CPU."""
    where, device = record.environment, device_of(record.environment)
    if where["device"] != "cpu":
        return device
    return f"{device}, {where['threads']} thread{'s' if where['threads'] > 1 else ''}"


@dataclass(frozen=True)
class MethodRuns:
    """The trainings of a row with one method: metrics are read from their records, or measured on their weights."""

    row: str  # of a table
    method: str
    settings: TrainingConfig  # the settings of the trainings; their seed is not used
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]  # of configs/train.yaml, from which the settings are composed

    @cached_property
    def jobs(self) -> dict[int, Job]:
        """The trainings by seed."""
        experiment = self.settings.experiment()
        return {seed: Job(experiment.with_seed(seed)) for seed in self.seeds}

    def cell(self, metric: str, published: PublishedNumber | None) -> CellSpec:
        """The number ``metric`` of these runs."""
        jobs, script, analysis = self.jobs, "python scripts/train.py", METRICS[metric].analysis
        if analysis is not None:
            examples = smallest_limit(analysis.examples, self.settings.profile.analysis_examples)
            analysis = replace(analysis, examples=examples)
            jobs = {seed: Job(analysis, (run,)) for seed, run in self.jobs.items()}
            script = f"python scripts/analyze.py {METRICS[metric].overrides}"
        seeds = f"seed={self.seeds[0]}" if len(self.seeds) == 1 else f"-m seed={','.join(map(str, self.seeds))}"
        command = f"{script} {shlex.join(self.overrides)} {seeds}"
        return CellSpec(self.row, self.method, metric, jobs, published, command, self.settings.seconds_per_epoch())
