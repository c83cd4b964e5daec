"""A table of a paper as the report shows it: measured and published side by side, every cell with its evidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress

from smoothout.common.formatting import format_duration
from smoothout.jobs.job import Job
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.cells import CellSpec
from smoothout.reproduction.claims import ClaimKind
from smoothout.reproduction.judgement import JudgedTest
from smoothout.reproduction.metrics import METRICS
from smoothout.reproduction.report.claims import place_of
from smoothout.reproduction.report.coverage import Coverage, coverage_of, make_command, total
from smoothout.reproduction.report.evidence import Evidence
from smoothout.reproduction.table import RunSelection, TablePlan
from smoothout.results.significance import Verdict
from smoothout.results.tables import Block

# Identifies a number: the cells that are added and subtracted, each by its metric and its training without seed.
Compared = tuple[frozenset[tuple[str, str]], frozenset[tuple[str, str]]]


@dataclass(frozen=True)
class CellView:
    """A cell: the measured number, the published one, and the verdict on a claim about it."""

    measured: str  # "98.62 ± 0.05", or "not run"
    mean: float | None  # of the values, geometric where these are compared by ratio; None without values
    published: str
    verdict: Verdict | None  # on the first claim about it; None if there is no claim
    claim: str  # that claim's statement
    evidence: int  # its place in `Evidence.numbers`
    is_missing: bool  # whether no seed was run
    cost: str = ""  # what its records would cost, if all of them are missing


@dataclass(frozen=True)
class RowView:
    """A row of a block; None where a method has no number."""

    name: str
    network: str
    cells: list[CellView | None]

    @property
    def is_run(self) -> bool:
        """Whether a seed of a cell was run."""
        return any(map(self.is_run_in, range(len(self.cells))))

    def is_run_in(self, column: int) -> bool:
        """Whether a seed was run in that column, counted from 0."""
        cell = self.cells[column]
        return cell is not None and not cell.is_missing


@dataclass(frozen=True)
class BlockView:
    """The rows by one metric."""

    heading: str
    columns: list[str]
    rows: list[RowView]

    def split(self) -> tuple[BlockView, list[BlockView]]:
        """The rows and columns in which a seed was run, and the rest in blocks; all is rest where none was."""
        run, others = ([row for row in self.rows if row.is_run is is_run] for is_run in (True, False))
        filled = [any(row.is_run_in(place) for row in run) for place in range(len(self.columns))]
        empty = [not is_filled for is_filled in filled]
        rest = [self._of(run, empty), replace(self, rows=others)]
        return self._of(run, filled), [block for block in rest if block.rows and block.columns]

    def _of(self, rows: Sequence[RowView], columns: Sequence[bool]) -> BlockView:
        titles = [*compress(self.columns, columns)]
        return BlockView(self.heading, titles, [replace(row, cells=[*compress(row.cells, columns)]) for row in rows])


@dataclass(frozen=True)
class TableView:
    """A table in one scope."""

    title: str
    scope: RunSelection
    caption: str
    blocks: list[BlockView]
    notes: list[str]
    networks: dict[str, Coverage]
    command: str  # the command that makes what is missing
    shown: int  # number of blocks that are not folded

    @cached_property
    def coverage(self) -> Coverage:
        """The coverage of all networks together."""
        return total(self.networks.values())


class Verdicts:
    """The verdicts on single cells and differences, among all tests of all pages; of several the first decides."""

    def __init__(self, tests: Sequence[JudgedTest]) -> None:
        self._of = dict[Compared, JudgedTest]()
        kinds = (ClaimKind.difference, ClaimKind.published, ClaimKind.zero)
        for judged in tests:
            sides = judged.test.sides
            if judged.test.claim.kind in kinds and sides and judged.test.evidence.n:
                self._of.setdefault(_compared(*sides), judged)

    def on(self, plus: Sequence[CellSpec], minus: Sequence[CellSpec] = ()) -> JudgedTest | None:
        """The test of the sum of ``plus`` minus that of ``minus``, or None."""
        return self._of.get(_compared(plus, minus))


def _compared(plus: Sequence[CellSpec], minus: Sequence[CellSpec]) -> Compared:
    return frozenset(map(_identity, plus)), frozenset(map(_identity, minus))


def _identity(cell: CellSpec) -> tuple[str, str]:
    training = cell.first_job.training_job.settings
    return cell.metric, Job(training.with_seed(0)).digest


class TableBuilder:
    """Turns a table's plan into its view."""

    def __init__(self, plan: TablePlan, runtime: Runtime, evidence: Evidence, verdicts: Verdicts) -> None:
        self._plan, self._runtime, self._evidence, self._verdicts = plan, runtime, evidence, verdicts
        self._table = self._plan.render(runtime)
        self._specs = {(spec.row, spec.column): spec for spec in self._plan.cells}
        self._cells = {(cell.row, cell.column): cell for cell in self._table.cells}

    def view(self, shown: int) -> TableView:
        """The whole table, ``shown`` of its blocks not folded."""
        table = self._table
        return TableView(
            table.title,
            self._plan.scope,
            table.caption(),
            [self._block(block) for block in table.blocks],
            table.notes,
            coverage_of(self._plan, table, self._runtime, self._evidence),
            make_command(self._plan),
            shown,
        )

    def _block(self, block: Block) -> BlockView:
        rows = []
        for name in dict.fromkeys(cell.row for cell in self._table.cells):
            cells = [self._cell(name, column, title, block) for title, column in block.columns.items()]
            network = self._evidence.network(next(spec for spec in self._plan.cells if spec.row == name).first_job)
            rows.append(RowView(name, network, cells))
        return BlockView(block.heading, list(block.columns), [row for row in rows if any(row.cells)])

    def _cell(self, row: str, column: str, title: str, block: Block) -> CellView | None:
        cell = self._cells.get((row, column))
        if cell is None:
            return None
        measured = cell.measured_text(len(self._table.seeds), block.by_ratio)
        specs = [self._specs[row, name] for name in cell.compared or (column,)]
        judged = self._verdicts.on(specs[:1], specs[1:])
        places = [self._evidence.of_cell(spec, self._title(spec)) for spec in specs]
        evidence = places[0]
        if cell.compared:
            claim = place_of(judged, self._evidence) if judged else None
            title = f"{row}, {title}. {block.heading}"
            evidence = self._evidence.of_difference(title, measured, cell.values, places, claim)
        return CellView(
            measured,
            (cell.geometric_mean if block.by_ratio else cell.mean) if cell.values else None,
            cell.published_text(block.by_ratio),
            judged.verdict if judged else None,
            judged.test.claim.statement if judged else "",
            evidence,
            not (cell.values or cell.failed or cell.diverged),
            f"about {format_duration(cell.hours)}" if cell.hours and not cell.records else "",
        )

    def _title(self, spec: CellSpec) -> str:
        return f"{spec.row}, {self._plan.methods[spec.method].title}. {METRICS[spec.metric].heading}"
