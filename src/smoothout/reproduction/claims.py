"""The papers' claims as tests: which recorded numbers speak of each, and how strongly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import product
from pathlib import Path, PurePath
from typing import Any

from smoothout.common.enums import coerce_enum_fields
from smoothout.common.errors import ConfigError
from smoothout.config.build import pick_settings, validate
from smoothout.config.compose import compose_config
from smoothout.jobs.job import Job, with_dependencies
from smoothout.jobs.runtime import Runtime
from smoothout.nn.options import Precision
from smoothout.reproduction.cells import CellSpec
from smoothout.reproduction.metrics import METRICS, Metric
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

DECIMALS = 9  # of a sum of points or of log2; what is below is rounding
ZERO = 5e-5  # percent; below it a sharpness is printed as 0.0000
_LEAST_LOSS = 2.0**-126  # for losses that float32 rounds to 0


class ClaimKind(StrEnum):
    """What a claim says of the numbers."""

    difference = "difference"  # `plus` together are more than `minus` together, but for a margin
    spread = "spread"  # over seeds, `plus` scatters at most `max_ratio` times as much as `minus`
    correlation = "correlation"  # over all settings of `tables`, the quantity is the lower the higher the accuracy
    zero = "zero"  # the sharpness of `plus` is 0.0000


@dataclass(frozen=True)
class Claim:
    """One sentence of the papers; the rows that it is about stand beside it in configs/claims/.

    Args:
        says: the claim; ``source`` is where it stands.
        kind: see `PanelKind`.
        quantities: names of `METRICS`, each a test of its own.
        margin: how many points a difference may fall short.
        at_most: see `PanelKind`.
        tables: see `PanelKind`.
    """

    statement: str
    source: str
    metrics: tuple[str, ...] = ("best",)
    kind: ClaimKind = ClaimKind.difference
    margin: float = 0.0
    max_ratio: float = 1.0
    tables: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        unknown = [name for name in self.metrics if name not in METRICS]
        if unknown:
            raise ValueError(f"quantities: {unknown[0]} is none of {', '.join(METRICS)}")
        if self.kind is ClaimKind.correlation and not self.tables:
            raise ValueError("tables: a correlation needs the names of the tables whose runs it looks at")
        if self.margin < 0 or self.max_ratio < 1:
            raise ValueError(f"margin, at_most: must be at least 0 and 1, not {self.margin} and {self.max_ratio}")
        if self.margin and (ratios := [name for name in self.metrics if METRICS[name].ratio_scale]):
            raise ValueError(f"margin: is one of points, and {ratios[0]} is compared by ratio")


@dataclass(frozen=True)
class ClaimScope:
    """Which records are judged: every protocol by itself, one profile and precision."""

    protocols: tuple[str, ...] = ("authors_code", "paper_text")
    profile: str = "paper"
    precision: Precision = Precision.float32
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        self.scopes()

    def scopes(self) -> list[RunSelection]:
        """One for each protocol. Raises ValueError."""
        if not self.protocols:
            raise ValueError("protocols: must be at least one")
        return [RunSelection(protocol, self.profile, self.precision, self.seeds) for protocol in self.protocols]

    def file(self, page: str) -> str:
        """The name of the page's file: ``page``, or for another profile or precision than the papers' its own."""
        path, reference = PurePath(page), ClaimScope()
        other = [self.profile] if self.profile != reference.profile else []
        other += [self.precision] if self.precision != reference.precision else []
        return "-".join([path.stem, *other]) + path.suffix


@dataclass(frozen=True)
class ClaimTest:
    """A claim in one row, by one quantity, under one protocol.

    Attributes:
        evidence: of that which the claim calls positive: a difference, or the log2 of a ratio.
        published: the papers' number in the same terms, None where there is none.
        failed: seeds that are missing because a search found nothing.
        diverged: runs that are missing because their loss was not finite: of a correlation all, else one a seed.
        error: standard error of one accuracy by the test split's size alone, in points; None for other quantities.
        runs: of a correlation, those behind its settings; 0 for other kinds.
    """

    claim: Claim
    row: str
    protocol: str
    quantity: Metric
    evidence: TestResult
    published: float | None = None
    failed: int = 0
    diverged: int = 0
    error: float | None = None
    runs: int = 0

    def verdict(self, adjusted: float) -> Verdict:
        """What the evidence says, ``adjusted`` being its p after the correction for many tests.

        Nothing where runs diverged or searches failed: which seeds are left is no matter of chance then.
        """
        verdict, lost = self.evidence.verdict(adjusted), self.diverged or self.failed
        return Verdict.undecided if lost and verdict is not Verdict.untested else verdict


@dataclass(frozen=True)
class MetricValues:
    """A quantity of one cell: by seed, as points or log2; which seeds failed or diverged; and what was published.

    ``images`` are those of the test split that an accuracy is a share of; 0 for other quantities.
    """

    by_seed: dict[int, float]
    failed: frozenset[int]
    diverged: frozenset[int]
    published: float | None
    records: dict[int, Record]
    images: int


class Claims:
    """The claims of configs/claims/ under one scope. Raises SettingsError where they name what is not there."""

    def __init__(self, claims: Any, scope: RunSelection, configs: Path, published: Path) -> None:
        self.scope, self._configs, self._published = scope, configs, published
        self._tables = dict[str, dict[tuple[str, str], CellSpec]]()
        if not isinstance(claims, list) or not all(isinstance(given, dict) for given in claims):
            raise ConfigError("claims: must be a list of claims, as the files of configs/claims/ have it")
        self.claims = [self._claim(given) for given in claims]

    def jobs(self) -> list[Job]:
        """Every job that a test needs, each once, trainings first."""
        return with_dependencies(job for _, entry in self._needed() for job in entry.jobs.values())

    def plan(self) -> dict[str, dict[Job, float | None]]:
        """By table and row: its jobs, with the config's estimate of the seconds that an epoch takes."""
        rows: dict[str, dict[Job, float | None]] = {}
        for table, entry in self._needed():
            planned = rows.setdefault(f"{table}: {entry.row}", {})
            for job in entry.jobs.values():
                planned |= dict.fromkeys((*job.dependencies, job), entry.epoch_seconds)
        return rows

    def _needed(self) -> Iterator[tuple[str, CellSpec]]:
        """Every table and cell that a test looks at."""
        for claim, rows in self.claims:
            cells = [cell for sides in rows.values() for side in sides.values() for cell in side]
            for table in claim.tables:
                named = dict.fromkeys((row, column.split()[0]) for row, column in self._entries(table))
                cells += [f"{table} | {row} | {method}" for row, method in named]
            for cell, name in product(cells, claim.metrics):
                yield cell.partition("|")[0].strip(), self._entry(cell, METRICS[name])

    def _claim(self, given: dict[str, Any]) -> tuple[Claim, dict[str, dict[str, list[str]]]]:
        named = f"claim {given.get('says', '?')!r}: "
        claim = validate(Claim, {key: value for key, value in given.items() if key != "rows"}, named)
        rows = given.get("rows", {})
        if not isinstance(rows, dict):
            raise ConfigError(f"{named}rows: must be a group, each with cells under plus and minus, not {rows!r}")
        for row, sides in rows.items():
            known = {"plus", "minus"} if isinstance(sides, dict) and "minus" in sides else {"plus"}
            pick_settings(sides, f"{named}rows.{row}.", **dict.fromkeys(known, tuple[str, ...]))
            if not sides["plus"] or set(sides) - known:
                raise ConfigError(f"{named}rows.{row}: needs cells under plus, and others under minus at most")
            if claim.kind is ClaimKind.spread and not sides.get("minus"):
                raise ConfigError(f"{named}rows.{row}.minus: must have a cell whose scatter is compared with")
            for cell in (*sides["plus"], *sides.get("minus", [])):
                self._entry(cell, METRICS[claim.metrics[0]])
        return claim, rows

    def tests(self, runtime: Runtime, tick: Callable[[], None] = lambda: None) -> Iterator[ClaimTest]:
        """Every claim, row and quantity, tested by the records that are there; ``tick`` is called once a claim."""
        for claim, rows in self.claims:
            tick()
            for name in claim.metrics:
                quantity = METRICS[name]
                if claim.kind is ClaimKind.correlation:
                    yield from self._correlations(claim, quantity, runtime)
                for row, sides in rows.items():
                    plus, minus = (
                        [self._values(cell, quantity, runtime) for cell in sides.get(side, [])]
                        for side in ("plus", "minus")
                    )
                    yield self._tested(claim, row, _between(quantity, sides), plus, minus)

    def _tested(
        self, claim: Claim, row: str, quantity: Metric, plus: list[MetricValues], minus: list[MetricValues]
    ) -> ClaimTest:
        """The test of a row by the values of its cells."""
        failed, diverged = (
            len(frozenset[int]().union(*(getattr(values, lost) for values in (*plus, *minus))))
            for lost in ("failed", "diverged")
        )
        step = 100 / plus[0].images if plus[0].images else 0.0
        published = _combined(plus, minus, lambda values: values.published)
        seeds = set.intersection(*(set(values.by_seed) for values in (*plus, *minus)))
        if claim.kind is ClaimKind.spread:
            one, other = ([values.by_seed[seed] for seed in sorted(seeds)] for values in (plus[0], minus[0]))
            evidence, published = pitman_morgan_test(one, other, claim.max_ratio, step), None
        elif claim.kind is ClaimKind.zero:
            evidence = _above_zero([2**value for value in plus[0].by_seed.values()])
        else:
            found = [_combined(plus, minus, lambda values: values.by_seed[seed]) for seed in sorted(seeds)]  # noqa: B023
            evidence = paired_t_test([value for value in found if value is not None], claim.margin, step)
        protocol, error = self.scope.protocol, _error(plus)
        return ClaimTest(claim, row, protocol, quantity, evidence, published, failed, diverged, error)

    def _correlations(self, claim: Claim, quantity: Metric, runtime: Runtime) -> Iterator[ClaimTest]:
        """Accuracy against flatness over the settings of the claim's tables, plainly and at equal training loss."""
        runs, diverged = dict[str, tuple[float, float, float, str, str]](), set[str]()
        for table in claim.tables:
            for row, method in dict.fromkeys((row, column.split()[0]) for row, column in self._entries(table)):
                flat, right = (
                    self._values(f"{table} | {row} | {method}", q, runtime) for q in (quantity, METRICS["best"])
                )
                setting = next(iter(self._entries(table)[row, f"{method} best"].jobs.values())).digest
                diverged |= {right.records[seed].digest for seed in right.diverged}
                for seed in flat.by_seed.keys() & right.by_seed.keys():
                    trained = right.records[seed]
                    network = f"{trained.labels['model']}, {trained.labels['data']}"
                    loss = math.log2(max(trained.outcome["best"]["train_loss"], _LEAST_LOSS))
                    runs[trained.digest] = (-flat.by_seed[seed], right.by_seed[seed], loss, network, setting)
        flatness, accuracy, losses, networks, settings = zip(*runs.values(), strict=True) if runs else ((),) * 5
        test = ClaimTest(claim, "", self.scope.protocol, quantity, TestResult(), diverged=len(diverged), runs=len(runs))
        for row, given in (("all settings, network by network", None), ("the same at equal training loss", losses)):
            yield replace(
                test, row=row, evidence=stratified_rank_correlation(flatness, accuracy, networks, settings, given)
            )

    def _values(self, cell: str, quantity: Metric, runtime: Runtime) -> MetricValues:
        entry = self._entry(cell, quantity)
        reading = entry.values(runtime)
        values, published, images = reading.values, entry.published, 0
        if quantity.ratio_scale:
            values = {seed: math.log2(value) for seed, value in values.items() if value > 0}
            published = math.log2(published) if published else None
        else:
            images = next(iter(entry.jobs.values())).training_job.settings.data.expected_sizes[1]
        failed = reading.failed | (reading.values.keys() - values.keys())
        return MetricValues(values, failed, reading.diverged, published, reading.records, images)

    def _entry(self, cell: str, quantity: Metric) -> CellSpec:
        """The jobs of a cell, and how to read the quantity from their records; the cell may name its own quantity."""
        table, row, method, own = _parts(cell)
        quantity = METRICS.get(own, quantity)
        entry = self._entries(table).get((row, f"{method} {quantity.column}"))
        if entry is None or own not in ("", *METRICS):
            raise ConfigError(
                f"claims: {cell!r} is no cell with {quantity.title}; write table | row | method (| quantity)"
            )
        if quantity.analysis is None or quantity.read is None:
            return entry
        return entry.with_analysis(quantity.analysis, quantity.read)

    def _entries(self, table: str) -> dict[tuple[str, str], CellSpec]:
        if table not in self._tables:
            config = compose_config(self._configs, "reproduce", [f"table={table}"])["table"]
            made = TablePlan(config, self.scope, self._configs, self._published)
            self._tables[table] = {(entry.row, entry.column): entry for entry in made.entries}
        return self._tables[table]


def _parts(cell: str) -> tuple[str, str, str, str]:
    """Table, row, method and quantity that a cell names; empty where it names none."""
    table, row, method, own = (part.strip() for part in f"{cell} | | | ".split("|")[:4])
    return table, row, method, own


def _between(quantity: Metric, sides: dict[str, list[str]]) -> Metric:
    """``quantity``, its title naming all that the cells of ``sides`` are read by."""
    read = [METRICS.get(_parts(cell)[3], quantity).title for side in sides.values() for cell in side]
    return replace(quantity, title=" against ".join(dict.fromkeys(read)))


def _combined(
    plus: list[MetricValues], minus: list[MetricValues], read: Callable[[MetricValues], float | None]
) -> float | None:
    """The sum of ``plus`` less that of ``minus``, without float64's rounding; None where a part is unknown."""
    parts = [(sign, read(values)) for sign, side in ((1, plus), (-1, minus)) for values in side]
    if any(value is None for _, value in parts):
        return None
    return round(sum(sign * value for sign, value in parts if value), DECIMALS) + 0.0  # -0.0 becomes 0.0


def _above_zero(found: list[float]) -> TestResult:
    """A point of the box is a proof: where each of ``found`` (percent) is above 0.0000, so is the sharpness."""
    if not found:
        return TestResult()
    least = min(found)
    return TestResult(len(found), least, least, math.inf, 1.0, 0.0 if least >= ZERO else 1.0)


def _error(cells: list[MetricValues]) -> float | None:
    """The binomial error of the first accuracy, in points; None where there is none."""
    values = next((values for values in cells if values.by_seed and values.images), None)
    if values is None:
        return None
    return 100 * binomial_standard_error(next(iter(values.by_seed.values())) / 100, values.images)
