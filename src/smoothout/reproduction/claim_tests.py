"""Claims as statistical tests over seeds, on the records that exist."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path
from typing import Any

from smoothout.common.errors import ConfigError
from smoothout.config.build import validate
from smoothout.config.compose import ConfigFolders, compose_config, config_names
from smoothout.jobs.job import Job, with_dependencies
from smoothout.jobs.lookup import check_data
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.cells import CellSpec, jobs_by_row
from smoothout.reproduction.choose_strength import StrengthSearch
from smoothout.reproduction.claim_trends import CURVES_APART, curves_nearer, read_points, read_runs
from smoothout.reproduction.claim_values import (
    MetricValues,
    above_zero,
    accuracy_error,
    against_published,
    difference,
)
from smoothout.reproduction.claims import CellName, Claim, ClaimKind, ClaimScope, Sides
from smoothout.reproduction.metrics import METRICS, Metric, current_metrics
from smoothout.reproduction.table import TablePlan
from smoothout.results.significance import (
    TestResult,
    Verdict,
    paired_t_test,
    pitman_morgan_test,
    stratified_rank_correlation,
)
from smoothout.results.trend import WORDS, Axis, Within, trend


@dataclass(frozen=True)
class ClaimTest:
    """The test of a claim in one row, with one metric."""

    claim: Claim
    row: str
    protocols: tuple[str, ...]  # the one under which it is tested, or those that the claim compares
    metric: Metric
    evidence: TestResult  # of a number that is positive if the claim holds: a difference, or the log2 of a ratio
    published: float | None = None  # the papers' number in the same unit, or None
    failed: int = 0  # seeds that are missing because a search failed
    diverged: int = 0  # runs that are missing because they diverged (all runs of a correlation, else one per seed)
    error: float | None = None  # standard error of an accuracy, in points, from the size of its split; None for others
    runs: int = 0  # the number of runs behind the settings of a correlation; 0 for other kinds
    retrained: int = 0  # seeds measured on weights that were trained again and are not known to be the record's
    recorded: int = 0  # seeds that are recorded in every cell, with or without a value
    withheld: bool = False  # not to be shown yet, because declared seeds are missing in the claim's family
    sides: tuple[tuple[CellSpec, ...], ...] = ()  # the cells of ``plus`` and of ``minus``; empty for a correlation

    def verdict(self, adjusted: float, adjusted_exact: float | None) -> Verdict:
        """The verdict, given the p-values as adjusted for multiple tests (see `TestResult.verdict`).

        It is undecided if runs diverged or searches failed, because the remaining seeds are not a random sample. A
        declared claim is also undecided if repeated trainings gave other weights, because each seed counts only once.
        """
        verdict = self.evidence.verdict(adjusted, adjusted_exact)
        lost = self.diverged or self.failed or (self.retrained if self.claim.declared else 0)
        return Verdict.undecided if lost and verdict is not Verdict.untested else verdict


class Claims:
    """The claims of a file of configs/claims/, tested on the runs of ``scope``.

    Raises ConfigError if a claim names a cell that does not exist, or ``scope`` has seeds that a claim did not declare.
    """

    def __init__(self, claims: Any, scope: ClaimScope, configs: ConfigFolders, published: Path) -> None:
        self.scope, self._configs, self._published = scope, configs, published
        self._plans = dict[tuple[str, str], TablePlan]()
        if not isinstance(claims, list) or not all(isinstance(claim, dict) for claim in claims):
            raise ConfigError("claims: must be a list of claims, as in configs/claims/papers.yaml")
        given = [validate(Claim, claim, f"claim {claim.get('statement', '?')!r}: ") for claim in claims]
        self.claims = [
            self._with_published_rows(claim)
            for claim in given
            if claim.kind is not ClaimKind.published or scope.profile == "paper"  # else not of the published length
        ]
        for claim in self.claims:
            if claim.declared and set(scope.seeds) not in map(set, choices := claim.declared.choices):
                allowed = ", or on ".join(", ".join(map(str, seeds)) for seeds in choices)
                raise ConfigError(
                    f"claim_scope.seeds: {', '.join(map(str, scope.seeds))} are not those declared for the"
                    f" claim {claim.statement!r}, which is judged on {allowed}"
                )
        self._cells = [cell for claim in self.claims for cell in self._cells_of(claim)]

    def jobs(self) -> list[Job]:
        """Every job that a test needs, once, trainings first."""
        return with_dependencies(job for _, cell in self._cells for job in cell.jobs.values())

    def plan(self) -> dict[str, dict[Job, float | None]]:
        """By table and row: its jobs, with the config's estimate of the seconds per epoch."""
        return jobs_by_row((f"{table}: {cell.row}", cell) for table, cell in self._cells)

    @property
    def unique_searches(self) -> list[StrengthSearch]:
        """The searches for strengths on which cells of the claims depend."""
        return list(dict.fromkeys(search for plan in self._plans.values() for search in plan.unique_searches))

    def use_choices(self, runtime: Runtime) -> None:
        """Take the strengths that have been chosen: ``jobs`` and ``plan`` then have their methods' trainings."""
        chosen = {key: plan.with_choice(runtime) for key, plan in self._plans.items()}
        if any(chosen[key] is not plan for key, plan in self._plans.items()):
            self._plans = chosen
            self._cells = [cell for claim in self.claims for cell in self._cells_of(claim)]

    def tests(self, runtime: Runtime, tick: Callable[[], None] = lambda: None) -> list[ClaimTest]:
        """Test every claim, row and metric on the records that exist; ``tick`` is called once per claim.

        A method whose strength is to be chosen is tested once it is. The tests of a declared family are withheld until
        all of its seeds are recorded. Raises RecordError.
        """
        self.use_choices(runtime)
        check_data(self.jobs(), runtime)
        tests = list[ClaimTest]()
        for claim in self.claims:
            tick()
            tests += self._tests_of(claim, runtime)
        complete = len(self.scope.seeds)
        waiting = {test.claim.family for test in tests if test.claim.declared and test.recorded < complete}
        return [_withhold(test) if test.claim.declared and test.claim.family in waiting else test for test in tests]

    def _with_published_rows(self, claim: Claim) -> Claim:
        """``claim`` with a row for each cell of its tables that the papers publish; two tables may publish the same."""
        if claim.kind is not ClaimKind.published:
            return claim
        rows, known = dict(claim.rows), set[tuple[str, float]]()
        for table, metric in product(claim.tables, claim.metrics):
            plan = self._plan(table, self.scope.protocols[0])
            for row, method in plan.runs:
                cell = plan.cell(row, method, metric)
                if cell.published is None:
                    continue
                key = cell.first_job.digest, cell.published.value
                if key not in known:
                    title = f"{table}: {row}, {plan.config.methods[method].title}"
                    rows[title] = Sides((f"{table} | {row} | {method}",))
                    known.add(key)
        return replace(claim, rows=rows, tables=())

    def _tests_of(self, claim: Claim, runtime: Runtime) -> Iterator[ClaimTest]:
        if claim.correlates:
            correlations = self._trends if claim.kind is ClaimKind.trend else self._correlations
            for protocol, metric in product(self.scope.protocols, claim.metrics):
                yield from correlations(claim, metric, protocol, runtime)
        for protocol, metric in product((*self.scope.protocols, ""), claim.metrics):
            for row, sides in claim.rows.items():
                if protocol in self._protocols(sides):
                    yield self._test(claim, row, metric, protocol, runtime)

    def _cells_of(self, claim: Claim) -> Iterator[tuple[str, CellSpec]]:
        """Every cell that ``claim`` is tested on, with its table."""
        for metric, sides in product(claim.metrics, claim.rows.values()):
            for protocol, name in product(self._protocols(sides), sides.cells()):
                yield name.table, self._cell(name, metric, protocol)
        for metric, table, protocol in product(claim.metrics, claim.tables, self.scope.protocols):
            for row, method in self._plan(table, protocol).runs:
                yield table, self._cell(CellName(table, row, method), metric, protocol)

    def _protocols(self, sides: Sides) -> tuple[str, ...]:
        """The protocols that ``sides`` are tested under: each of the scope by itself, or once ("") if they name theirs.

        Raises ConfigError for a protocol that does not exist. There is no test if one of them is not in the scope.
        """
        if not sides.protocols:
            return self.scope.protocols
        known = config_names(self._configs, "protocol")
        if unknown := set(sides.protocols) - set(known):
            raise ConfigError(f"claims: {min(unknown)!r} is not a protocol of a cell; allowed: {', '.join(known)}")
        return ("",) if set(sides.protocols) <= set(self.scope.protocols) else ()

    def _cell(self, name: CellName, metric: str, protocol: str) -> CellSpec:
        """The cell ``name``, of ``metric`` and ``protocol`` unless it names its own."""
        try:
            plan = self._plan(name.table, name.protocol or protocol)
            return plan.cell(name.row, name.method, *current_metrics([name.metric or metric]))
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"claims: '{name}' is not a cell; write table | row | method (| metric (| protocol)) with names of"
                f" configs/table/{name.table}.yaml, of {', '.join(METRICS)}, and of configs/protocol/"
            ) from error

    def _plan(self, table: str, protocol: str) -> TablePlan:
        if (table, protocol) not in self._plans:
            config = compose_config(self._configs, "reproduce", [f"table={table}"])["table"]
            selection = self.scope.selections()[protocol]
            self._plans[table, protocol] = TablePlan(config, selection, self._configs, self._published)
        return self._plans[table, protocol]

    def _test(self, claim: Claim, row: str, metric: str, protocol: str, runtime: Runtime) -> ClaimTest:
        sides = claim.rows[row]
        cells = [
            [self._cell(CellName.parse(name), metric, protocol) for name in side] for side in (sides.plus, sides.minus)
        ]
        plus, minus = ([MetricValues.read(cell, runtime) for cell in side] for side in cells)
        # Methods are compared seed by seed, so only seeds that every cell has can be used.
        both = [*plus, *minus]
        seeds = sorted(set.intersection(*(set(side.values) for side in both)))
        published = difference([side.published for side in plus], [side.published for side in minus])
        # No number was published under two protocols, and no ratio of two spreads.
        comparable = not sides.protocols and claim.kind is not ClaimKind.spread
        of_curves = claim.kind is ClaimKind.curves
        titles = [CURVES_APART] if of_curves else [METRICS[cell.metric].title for cell in chain(*cells)]
        return ClaimTest(
            claim,
            row,
            sides.protocols or (protocol,),
            replace(METRICS[metric], title=" against ".join(dict.fromkeys(titles))),
            _evidence(claim, plus, minus, seeds),
            published if comparable else None,
            failed=len({seed for side in both for seed in side.failed}),
            diverged=len({seed for side in both for seed in side.diverged}),
            error=None if of_curves else accuracy_error(plus),
            retrained=sum(any(seed in side.retrained for side in both) for seed in seeds),
            recorded=len(set.intersection(*({*side.records} | side.diverged for side in both))),
            sides=tuple(map(tuple, cells)),
        )

    def _correlations(self, claim: Claim, metric: str, protocol: str, runtime: Runtime) -> Iterator[ClaimTest]:
        """Accuracy against flatness over the settings of the claim's tables, as it is and at equal training loss."""
        runs, lost = read_runs([self._plan(table, protocol) for table in claim.tables], metric, runtime)
        flatnesses, accuracies, losses, networks, settings = zip(*runs, strict=True) if runs else ((),) * 5
        for row, given in (("all settings, network by network", None), ("the same at equal training loss", losses)):
            evidence = stratified_rank_correlation(flatnesses, accuracies, networks, settings, given)
            yield ClaimTest(claim, row, (protocol,), METRICS[metric], evidence, runs=len(runs), **lost)

    def _trends(self, claim: Claim, metric: str, protocol: str, runtime: Runtime) -> Iterator[ClaimTest]:
        """The metric over learning rate / batch size: over all settings, and over those that share one of the two."""
        plans = [self._plan(table, protocol) for table in claim.tables]
        points, lost = read_points(plans, metric, runtime)
        title = METRICS[metric].title.removesuffix(", points")  # a correlation has no unit
        if any(plan.holds_out for plan in plans):
            title = title.replace("test accuracy", "held-out accuracy")
        correlated = replace(METRICS[metric], title=title)
        for within in Within:
            evidence = trend(points, Axis.lr_over_batch, within)
            yield ClaimTest(claim, WORDS[within], (protocol,), correlated, evidence, runs=len(points), **lost)


def _withhold(test: ClaimTest) -> ClaimTest:
    """``test`` without its results, including the number of failed searches."""
    nothing = ClaimTest(test.claim, test.row, test.protocols, test.metric, TestResult())
    return replace(nothing, recorded=test.recorded, withheld=True)


def _evidence(
    claim: Claim, plus: Sequence[MetricValues], minus: Sequence[MetricValues], seeds: Sequence[int]
) -> TestResult:
    """The test that belongs to the claim's kind."""
    match claim.kind:
        case ClaimKind.spread:
            one, other = ([side.values[seed] for seed in seeds] for side in (plus[0], minus[0]))
            return pitman_morgan_test(one, other, claim.max_ratio, plus[0].step)
        case ClaimKind.zero:
            return above_zero([2**value for value in plus[0].values.values()])
        case ClaimKind.limit:
            assert claim.limit is not None
            return paired_t_test([math.log2(claim.limit) - value for value in plus[0].values.values()])
        case ClaimKind.published:
            return against_published(plus[0], claim.margin)
        case ClaimKind.curves:
            near, far = ([side.records for side in sides] for sides in (plus, minus))
            return paired_t_test(curves_nearer(near, far, seeds), claim.margin)
    differences = [
        difference([side.values[seed] for side in plus], [side.values[seed] for side in minus]) for seed in seeds
    ]
    # Ratios are differences of logarithms, whose margin is negative if the ratio must be large.
    margin = claim.margin - math.log2(claim.min_ratio)
    return paired_t_test([value for value in differences if value is not None], margin, plus[0].step)
