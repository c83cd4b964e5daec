"""Collects what the report shows: every table, figure and claim of its settings, from records and rendered files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smoothout.common.errors import ConfigError
from smoothout.config.compose import ConfigFolders, compose_config
from smoothout.config.experiment import Experiment
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.figure import FigurePlan
from smoothout.reproduction.judgement import JudgedTest
from smoothout.reproduction.metrics import METRICS
from smoothout.reproduction.pages import find_pages, listed_page
from smoothout.reproduction.report.charts import Chart, compare_methods, draw_estimates, draw_searches
from smoothout.reproduction.report.claims import PageView, place_of, view_page
from smoothout.reproduction.report.coverage import Coverage, total
from smoothout.reproduction.report.evidence import Evidence
from smoothout.reproduction.report.figures import FigureView, view_figure
from smoothout.reproduction.report.settings import Finding, Paper, Part, ReportConfig
from smoothout.reproduction.report.tables import TableBuilder, TableView, Verdicts
from smoothout.reproduction.table import RunSelection, TablePlan
from smoothout.reproduction.verdict_page import VerdictPage
from smoothout.reproduction.verdict_text import format_estimate, format_published, format_seeds
from smoothout.results.significance import Verdict

Overrides = tuple[str, ...]


@dataclass(frozen=True)
class PartView:
    """A table or a figure in all of its scopes."""

    label: str
    anchor: str
    tables: list[TableView]
    figures: list[FigureView]


@dataclass(frozen=True)
class PaperView:
    """A paper with everything that the report shows about it."""

    key: str
    paper: Paper
    parts: list[PartView]
    pages: list[PageView]
    networks: dict[str, Coverage]  # of its tables and figures at full length

    @property
    def coverage(self) -> Coverage:
        """The coverage of all networks together."""
        return total(self.networks.values())


@dataclass(frozen=True)
class FindingView:
    """A line of the summary."""

    text: str
    estimate: str
    label: str  # what its number is, if that is one of the large ones; else empty
    verdict: Verdict
    evidence: int  # the place of its test in `Evidence.numbers`


@dataclass(frozen=True)
class Report:
    """Everything that the report shows."""

    config: ReportConfig
    papers: list[PaperView]
    findings: list[FindingView]
    charts: list[Chart]
    headline: Path | None  # the figure at the top
    evidence: Evidence
    trainings: int  # recorded ones

    @property
    def declared(self) -> tuple[int, int]:
        """How many claims were declared before their seeds were run, and how many of them are judged."""
        claims = [claim for paper in self.papers for page in paper.pages for claim in page.claims if claim.is_declared]
        return len(claims), sum(bool(claim.tests) for claim in claims)


class ReportBuilder:
    """Builds the report; ``tick`` is called once per table, figure and page of claims (there are ``steps``).

    Args:
        configs: the folders of configs; ``published`` is that of the papers' numbers.
    """

    def __init__(self, config: ReportConfig, runtime: Runtime, configs: ConfigFolders, published: Path) -> None:
        self.config, self._runtime, self._configs, self._published = config, runtime, configs, published
        self._evidence = Evidence(runtime, {**config.networks, **config.data_sets})
        self._plans = dict[tuple[str, RunSelection], TablePlan]()
        listed = [tuple(page) for page in compose_config(configs, "verdicts", [])["pages"]]
        for overrides in self._named_pages():
            if overrides not in listed:
                raise ConfigError(f"claims: {list(overrides)} is not one of the pages of configs/verdicts.yaml")
        _, self._pages = find_pages(listed_page(configs, listed[0]), listed[0], listed, configs, published)

    def _named_pages(self) -> list[Overrides]:
        pages = [page for paper in self.config.papers.values() for page in paper.claims]
        return [*pages, *self.config.causes, *(finding.page for finding in self.config.findings)]

    @property
    def steps(self) -> int:
        """How often `build` calls ``tick``."""
        parts = [part for paper in self.config.papers.values() for part in paper.parts]
        return len(self._pages) + sum(len(part.scopes) for part in parts)

    def build(self, tick: Callable[[], None] = lambda: None) -> Report:
        """Read the records and put the report together."""
        tests = dict[str, Any]()
        for page in self._pages:
            tests[page.config.file] = page.claims.tests(self._runtime)
            tick()
        folder = Path(self._runtime.folders.results)
        verdicts = {page.overrides: page.verdicts(tests, folder) for page in self._pages}
        judged = Verdicts([one for page in verdicts.values() for one in page.judged])
        # Tables come before claims, so that a number that is in both has the table's title.
        parts = {
            key: [self._part(key, p, judged, tick) for p in paper.parts] for key, paper in self.config.papers.items()
        }
        papers = [self._paper(key, paper, parts[key], verdicts) for key, paper in self.config.papers.items()]
        headline = folder / "figures" / f"{self.config.headline}.png"
        return Report(
            self.config,
            papers,
            [
                view
                for finding in self.config.findings
                if (view := _finding(finding, verdicts[finding.page], self._evidence))
            ],
            self._charts(verdicts),
            headline if headline.exists() else None,
            self._evidence,
            len(self._runtime.records.records(Experiment.kind)),
        )

    def _paper(
        self, key: str, paper: Paper, parts: list[PartView], verdicts: dict[Overrides, VerdictPage]
    ) -> PaperView:
        pages = [view_page(verdicts[overrides], self._evidence) for overrides in paper.claims]
        networks = dict[str, Coverage]()
        tables, figures = ([view for part in parts for view in getattr(part, kind)] for kind in ("tables", "figures"))
        for view in (view for view in (*tables, *figures) if view.scope.profile == "paper"):
            for network, coverage in view.networks.items():
                networks.setdefault(network, Coverage()).add(coverage)
        return PaperView(key, paper, parts, pages, networks)

    def _part(self, key: str, part: Part, verdicts: Verdicts, tick: Callable[[], None]) -> PartView:
        tables, figures = [], []
        for scope in part.scopes:
            if part.table:
                plan = self._plan(part.table, scope)
                tables.append(TableBuilder(plan, self._runtime, self._evidence, verdicts).view(part.shown))
            elif part.figure:
                figures.append(self._figure(part.figure, scope))
            tick()
        return PartView(part.label, f"{key}-{part.table or f'figure-{part.figure}'}", tables, figures)

    def _figure(self, name: str, scope: RunSelection) -> FigureView:
        config = compose_config(self._configs, "reproduce", ["table=none", f"figure={name}"])["figure"]
        plan = FigurePlan(config, scope, self._configs).with_recorded_seeds(self._runtime)
        return view_figure(plan, self._runtime, self._evidence)

    def _plan(self, table: str, scope: RunSelection) -> TablePlan:
        """The table with its chosen strengths and all recorded seeds."""
        if (table, scope) not in self._plans:
            config = compose_config(self._configs, "reproduce", [f"table={table}"])["table"]
            plan = TablePlan(config, scope, self._configs, self._published)
            self._plans[table, scope] = plan.with_choice(self._runtime).with_recorded_seeds(self._runtime)
        return self._plans[table, scope]

    def _charts(self, verdicts: dict[Overrides, VerdictPage]) -> list[Chart]:
        comparison = self.config.comparison
        compared = [self._plan(part.table, scope) for part in comparison.parts if part.table for scope in part.scopes]
        charts: list[Chart | None] = [*compare_methods(compared, comparison, self._runtime, self._evidence)]
        for number, overrides in enumerate(self.config.causes):
            page = verdicts[overrides]
            charts += draw_estimates(f"causes-{number}", page)
        charts.append(draw_searches(self._runtime))
        return [chart for chart in charts if chart]


def _finding(finding: Finding, page: VerdictPage, evidence: Evidence) -> FindingView | None:
    """The finding with the numbers of its test; None as long as that has none. Raises ConfigError without a test."""
    found = [judged for judged in page.judged if _is_about(judged, finding)]
    if not found:
        raise ConfigError(
            f"findings: no test of {page.file} is of the claim {finding.claim!r}, row {finding.row!r},"
            f" {finding.protocol}, {finding.metric}"
        )
    test = found[0].test
    if not test.evidence.n:
        return None
    estimate, _, interval = format_estimate(test).partition(" ")
    numbers = {
        "estimate": estimate,
        "interval": interval,
        "published": format_published(test) or "nothing",
        "seeds": format_seeds(test),
        "verdict": found[0].verdict.value,
    }
    return FindingView(
        finding.text.format(**numbers), estimate, finding.number, found[0].verdict, place_of(found[0], evidence)
    )


def _is_about(judged: JudgedTest, finding: Finding) -> bool:
    test = judged.test
    about = test.claim.statement.startswith(finding.claim) and test.row == finding.row
    return about and finding.protocol in test.protocols and test.metric.title == METRICS[finding.metric].title
