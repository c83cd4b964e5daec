"""The papers' claims as statistical tests over seeds, by the records that exist."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import chain, product
from pathlib import Path, PurePath
from typing import Any

from smoothout.common.enums import coerce_enum_fields
from smoothout.common.errors import ConfigError
from smoothout.config.build import validate
from smoothout.config.compose import compose_config
from smoothout.jobs.job import Job, with_dependencies
from smoothout.jobs.runtime import Runtime
from smoothout.nn.options import Precision
from smoothout.reproduction.cells import CellSpec
from smoothout.reproduction.metrics import METRICS, Metric, current_metrics
from smoothout.reproduction.table import RunSelection, TablePlan
from smoothout.results.records import Record
from smoothout.results.significance import (
    TestResult,
    Verdict,
    binomial_standard_error,
    paired_t_test,
    pitman_morgan_test,
    stratified_rank_correlation,
)

DECIMALS = 9  # of a sum of points or of log2; anything below is rounding
ZERO = 5e-5  # percent; a sharpness below it is printed as 0.0000
_LEAST_LOSS = 2.0**-126  # stands for losses that float32 rounds to 0


class ClaimKind(StrEnum):
    """What a claim says about the numbers."""

    difference = "difference"  # the sum over `plus` exceeds the sum over `minus`, up to a margin
    spread = "spread"  # over seeds, `plus` has at most `max_ratio` times the standard deviation of `minus`
    correlation = "correlation"  # over all settings of `tables`, accuracy falls as the metric rises
    zero = "zero"  # the sharpness of `plus` is 0.0000


@dataclass(frozen=True)
class Sides:
    """The cells that a claim compares in one row, each "table | row | method" or "table | row | method | metric"."""

    plus: tuple[str, ...]
    minus: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.plus:
            raise ValueError("plus: must have at least one cell")


@dataclass(frozen=True)
class Claim:
    """A sentence of the papers, and the cells that it is about."""

    statement: str  # the claim
    source: str  # where it stands
    metrics: tuple[str, ...] = ("best",)  # names of `METRICS`; each one is its own test
    kind: ClaimKind = ClaimKind.difference  # see `ClaimKind`
    margin: float = 0.0  # points by which a difference may fall short
    max_ratio: float = 1.0  # see `ClaimKind`
    tables: tuple[str, ...] = ()  # see `ClaimKind`
    rows: dict[str, Sides] = field(default_factory=dict)  # cells by the name of the comparison, each a test of its own

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        object.__setattr__(self, "metrics", current_metrics(self.metrics))
        if self.kind is ClaimKind.correlation and not self.tables:
            raise ValueError("tables: a correlation needs the names of the tables whose runs are correlated")
        if self.margin < 0 or self.max_ratio < 1:
            raise ValueError(f"margin, max_ratio: must be at least 0 and 1, not {self.margin} and {self.max_ratio}")
        if self.margin and (ratios := [name for name in self.metrics if METRICS[name].ratio_scale]):
            raise ValueError(f"margin: is in points, but {ratios[0]} is compared by ratio")
        for row, sides in self.rows.items():
            if self.kind is ClaimKind.spread and not sides.minus:
                raise ValueError(f"rows.{row}.minus: must name the cell whose standard deviation is compared")


@dataclass(frozen=True)
class ClaimScope:
    """Which records are tested: those of each protocol by itself, in one profile and precision."""

    protocols: tuple[str, ...] = ("authors_code", "paper_text")
    profile: str = "paper"
    precision: Precision = Precision.float32
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        self.selections()

    def selections(self) -> list[RunSelection]:
        """The runs of each protocol. Raises ValueError."""
        if not self.protocols:
            raise ValueError("protocols: must be at least one")
        return [RunSelection(protocol, self.profile, self.precision, self.seeds) for protocol in self.protocols]

    def file(self, page: str) -> str:
        """The name of the page's file: ``page``, with the profile and precision if they are not the papers'."""
        path, papers = PurePath(page), ClaimScope()
        others = [self.profile] if self.profile != papers.profile else []
        others += [self.precision] if self.precision != papers.precision else []
        return "-".join([path.stem, *others]) + path.suffix


@dataclass(frozen=True)
class ClaimTest:
    """The test of a claim in one row, by one metric, under one protocol."""

    claim: Claim
    row: str
    protocol: str
    metric: Metric
    evidence: TestResult  # for what the claim says is positive: a difference, or the log2 of a ratio
    published: float | None = None  # the papers' number in the same unit, or None
    failed: int = 0  # seeds that are missing because a search failed
    diverged: int = 0  # runs that are missing because they diverged (all runs of a correlation, else one per seed)
    error: float | None = None  # standard error of an accuracy, in points, by the size of its split; None for others
    runs: int = 0  # the number of runs behind the settings of a correlation; 0 for other kinds

    def verdict(self, adjusted: float) -> Verdict:
        """The verdict, given the p-value ``adjusted`` for multiple tests.

        It is undecided if runs diverged or searches failed, because the seeds that are left are not a random sample.
        """
        verdict, lost = self.evidence.verdict(adjusted), self.diverged or self.failed
        return Verdict.undecided if lost and verdict is not Verdict.untested else verdict


@dataclass(frozen=True)
class MetricValues:
    """The values of a cell on the scale of a test: points, or log2 for what is compared by ratio.

    ``images`` is the size of the test split that an accuracy is a share of; 0 for other metrics.
    """

    by_seed: dict[int, float]
    failed: frozenset[int]
    diverged: frozenset[int]
    published: float | None
    records: dict[int, Record]
    images: int

    @classmethod
    def read(cls, cell: CellSpec, runtime: Runtime) -> MetricValues:
        """Read the records of ``cell``."""
        read = cell.values(runtime)
        if not METRICS[cell.metric].ratio_scale:
            images = next(iter(cell.jobs.values())).training_job.settings.data.expected_sizes[1]
            return cls(read.values, read.failed, read.diverged, cell.published, read.records, images)
        logs = {seed: math.log2(value) for seed, value in read.values.items() if value > 0}
        published = math.log2(cell.published) if cell.published else None
        return cls(logs, read.failed | (read.values.keys() - logs.keys()), read.diverged, published, read.records, 0)


class Claims:
    """The claims of a file of configs/claims/, tested on the runs of ``selection``.

    Raises ConfigError if a claim names a cell that does not exist.
    """

    def __init__(self, claims: Any, selection: RunSelection, configs: Path, published: Path) -> None:
        self.selection, self._configs, self._published = selection, configs, published
        self._plans = dict[str, TablePlan]()
        if not isinstance(claims, list) or not all(isinstance(claim, dict) for claim in claims):
            raise ConfigError("claims: must be a list of claims, as in configs/claims/papers.yaml")
        self.claims = [validate(Claim, claim, f"claim {claim.get('statement', '?')!r}: ") for claim in claims]
        self._cells = [(table, cell) for claim in self.claims for table, cell in self._cells_of(claim)]

    def jobs(self) -> list[Job]:
        """Every job that a test needs, once, trainings first."""
        return with_dependencies(job for _, cell in self._cells for job in cell.jobs.values())

    def plan(self) -> dict[str, dict[Job, float | None]]:
        """By table and row: its jobs, with the config's estimate of the seconds per epoch."""
        rows: dict[str, dict[Job, float | None]] = {}
        for table, cell in self._cells:
            planned = rows.setdefault(f"{table}: {cell.row}", {})
            for job in cell.jobs.values():
                planned |= dict.fromkeys((*job.dependencies, job), cell.epoch_seconds)
        return rows

    def tests(self, runtime: Runtime, tick: Callable[[], None] = lambda: None) -> Iterator[ClaimTest]:
        """Test every claim, row and metric by the records that exist; ``tick`` is called once per claim."""
        for claim in self.claims:
            tick()
            for metric in claim.metrics:
                if claim.kind is ClaimKind.correlation:
                    yield from self._correlations(claim, metric, runtime)
                for row in claim.rows:
                    yield self._test(claim, row, metric, runtime)

    def _cells_of(self, claim: Claim) -> Iterator[tuple[str, CellSpec]]:
        names = [cell for sides in claim.rows.values() for cell in (*sides.plus, *sides.minus)]
        names += [f"{table} | {row} | {method}" for table in claim.tables for row, method in self._plan(table).runs]
        for name, metric in product(names, claim.metrics):
            yield name.partition("|")[0].strip(), self._cell(name, metric)

    def _cell(self, name: str, metric: str) -> CellSpec:
        """The cell "table | row | method (| metric)"; ``metric`` is used if the name has none."""
        table, row, method, own_metric = (part.strip() for part in f"{name} | | | ".split("|")[:4])
        plan = self._plan(table)
        try:
            return plan.cell(row, method, *current_metrics([own_metric or metric]))
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"claims: {name!r} is not a cell; write table | row | method (| metric) with names of"
                f" configs/table/{table}.yaml and of {', '.join(METRICS)}"
            ) from error

    def _plan(self, table: str) -> TablePlan:
        if table not in self._plans:
            config = compose_config(self._configs, "reproduce", [f"table={table}"])["table"]
            self._plans[table] = TablePlan(config, self.selection, self._configs, self._published)
        return self._plans[table]

    def _test(self, claim: Claim, row: str, metric: str, runtime: Runtime) -> ClaimTest:
        sides = claim.rows[row]
        cells = [[self._cell(cell, metric) for cell in side] for side in (sides.plus, sides.minus)]
        plus, minus = ([MetricValues.read(cell, runtime) for cell in side] for side in cells)
        # Methods are compared seed by seed, so only seeds that every cell has can be used.
        values = [*plus, *minus]
        seeds = sorted(set.intersection(*(set(side.by_seed) for side in values)))
        step = 100 / plus[0].images if plus[0].images else 0.0
        published = _difference([side.published for side in plus], [side.published for side in minus])
        if claim.kind is ClaimKind.spread:
            one, other = ([side.by_seed[seed] for seed in seeds] for side in (plus[0], minus[0]))
            evidence, published = pitman_morgan_test(one, other, claim.max_ratio, step), None
        elif claim.kind is ClaimKind.zero:
            evidence = _above_zero([2**value for value in plus[0].by_seed.values()])
        else:
            differences = [
                _difference([side.by_seed[seed] for side in plus], [side.by_seed[seed] for side in minus])
                for seed in seeds
            ]
            evidence = paired_t_test([value for value in differences if value is not None], claim.margin, step)
        titles = dict.fromkeys(METRICS[cell.metric].title for cell in chain(*cells))
        return ClaimTest(
            claim,
            row,
            self.selection.protocol,
            replace(METRICS[metric], title=" against ".join(titles)),
            evidence,
            published,
            failed=len(frozenset[int]().union(*(side.failed for side in values))),
            diverged=len(frozenset[int]().union(*(side.diverged for side in values))),
            error=_accuracy_error(plus),
        )

    def _correlations(self, claim: Claim, metric: str, runtime: Runtime) -> Iterator[ClaimTest]:
        """Accuracy against flatness over the settings of the claim's tables, as it is and at equal training loss."""
        runs, diverged = dict[str, tuple[float, float, float, str, str]](), set[str]()  # by digest: tables share runs
        # A point is a run with its flatness, accuracy, training loss, network and setting.
        for plan in map(self._plan, claim.tables):
            for row, method in plan.runs:
                sharpness, accuracy = (
                    MetricValues.read(plan.cell(row, method, name), runtime) for name in (metric, "best")
                )
                setting = next(iter(plan.runs[row, method].jobs.values())).digest
                diverged |= {accuracy.records[seed].digest for seed in accuracy.diverged}
                for seed in sharpness.by_seed.keys() & accuracy.by_seed.keys():
                    record = accuracy.records[seed]
                    network = f"{record.labels['model']}, {record.labels['data']}"
                    loss = math.log2(max(record.outcome["best"]["train_loss"], _LEAST_LOSS))
                    flatness = -sharpness.by_seed[seed]
                    runs[record.digest] = flatness, accuracy.by_seed[seed], loss, network, setting
        flatnesses, accuracies, losses, networks, settings = zip(*runs.values(), strict=True) if runs else ((),) * 5
        for row, given in (("all settings, network by network", None), ("the same at equal training loss", losses)):
            yield ClaimTest(
                claim,
                row,
                self.selection.protocol,
                METRICS[metric],
                stratified_rank_correlation(flatnesses, accuracies, networks, settings, given),
                diverged=len(diverged),
                runs=len(runs),
            )


def _difference(plus: Sequence[float | None], minus: Sequence[float | None]) -> float | None:
    """The sum of ``plus`` minus that of ``minus``, without float64's rounding; None if a number is unknown."""
    signed = [(1, value) for value in plus] + [(-1, value) for value in minus]
    if any(value is None for _, value in signed):
        return None
    return round(sum(sign * value for sign, value in signed if value), DECIMALS) + 0.0  # -0.0 becomes 0.0


def _above_zero(values: Sequence[float]) -> TestResult:
    """Whether the sharpness (percent) is above 0.0000: any point of the box with a higher loss is a proof of it."""
    if not values:
        return TestResult()
    least = min(values)
    return TestResult(len(values), least, least, math.inf, 1.0, 0.0 if least >= ZERO else 1.0)


def _accuracy_error(sides: Sequence[MetricValues]) -> float | None:
    """The binomial standard error of the first accuracy, in points; None if there is none."""
    for side in sides:
        if side.by_seed and side.images:
            return 100 * binomial_standard_error(next(iter(side.by_seed.values())) / 100, side.images)
    return None
