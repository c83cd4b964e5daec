"""The claims about a paper as cards: what each says, and the verdicts on its tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from smoothout.common.grouping import grouped
from smoothout.reproduction.cells import CellSpec
from smoothout.reproduction.claims import ClaimScope
from smoothout.reproduction.judgement import JudgedTest
from smoothout.reproduction.metrics import METRICS
from smoothout.reproduction.report.evidence import Evidence
from smoothout.reproduction.verdict_page import VerdictPage
from smoothout.reproduction.verdict_text import (
    format_claim,
    format_estimate,
    format_protocols,
    format_published,
    format_seeds,
    format_source,
    format_untested,
    test_line,
)
from smoothout.results.significance import Verdict

CORRELATION = "rank correlation (+1: as claimed)"
WORDS = {  # of the columns on the pages of claims, where these are explained at the end
    "p": "p, corrected for the page",
    "p, all pages": "p, corrected for all pages",
    "p by sign flips [least]": "p by sign flips, which need no normality [least possible]",
    "the same, corrected": "the same, corrected for the page",
    "error of the split": "standard error by the number of test images",
}


@dataclass(frozen=True)
class TestView:
    """A test with numbers."""

    row: str
    network: str  # empty for a correlation over networks
    protocols: tuple[str, ...]
    metric: str
    estimate: str  # with its interval
    published: str
    seeds: str
    verdict: Verdict
    evidence: int  # its place in `Evidence.numbers`


@dataclass(frozen=True)
class ClaimView:
    """A claim with its tests."""

    number: int  # its place on the page, from 1
    statement: str
    source: str  # with when it was declared, or that it is exploratory
    tests: list[TestView]
    lacking: list[str]  # sentences on the rows without numbers
    is_declared: bool  # whether it was before its seeds were run
    waiting: str  # how many of the declared seeds are recorded, if results are withheld until all are
    withheld: list[str]  # then the tests that it waits for: row, measure and protocol

    @property
    def is_untested(self) -> bool:
        """Whether it has no test, and none that waits for declared seeds."""
        return not (self.tests or self.waiting)

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many tests came to which verdict, in the order of `Verdict`."""
        return count_verdicts(self.tests)

    def counts_by(self, protocols: tuple[str, ...], *, published: bool) -> dict[Verdict, int]:
        """The same for tests under these protocols, either those with a published number or those without."""
        found = (test for test in self.tests if test.protocols == protocols)
        return count_verdicts(test for test in found if bool(test.published) is published)


@dataclass(frozen=True)
class PageView:
    """The claims that are tested on the same runs, in one family of tests or more."""

    title: str
    introduction: str
    scope: ClaimScope
    claims: list[ClaimView]
    assumptions: list[str]  # paragraphs in Markdown
    command: str

    @property
    def counts(self) -> dict[Verdict, int]:
        """How many tests of all claims came to which verdict."""
        return count_verdicts(test for claim in self.claims for test in claim.tests)

    @property
    def protocols(self) -> list[tuple[str, ...]]:
        """The protocols of its tests, one or two that are compared, in the order of the page's scope."""
        found = dict.fromkeys(test.protocols for claim in self.claims for test in claim.tests)
        return sorted(found, key=lambda names: (len(names), [self.scope.protocols.index(name) for name in names]))


def count_verdicts(tests: Iterable[TestView]) -> dict[Verdict, int]:
    """How many of the tests came to which verdict, in the order of `Verdict`."""
    counts = Counter(test.verdict for test in tests)
    return {verdict: counts[verdict] for verdict in Verdict if counts[verdict]}


def view_page(page: VerdictPage, evidence: Evidence) -> PageView:
    """The page of verdicts as cards."""
    claims = grouped((format_claim(judged.test.claim), judged) for judged in page.judged)
    return PageView(
        page.prose.title,
        page.prose.introduction,
        page.claim_scope,
        [_claim(number, *claim, page.claim_scope, evidence) for number, claim in enumerate(claims.items(), 1)],
        [*page.reading, *page.assumptions],
        page.command,
    )


def _claim(
    number: int, statement: str, tests: Sequence[JudgedTest], scope: ClaimScope, evidence: Evidence
) -> ClaimView:
    shown = [judged for judged in tests if judged.test.evidence.n]
    shown.sort(key=lambda judged: judged.test.published is None)  # what the paper measured comes first
    withheld = [judged.test for judged in tests if judged.test.withheld]
    lacking = [] if withheld else format_untested([judged.test for judged in tests])
    waiting = f"{min(test.recorded for test in withheld)} of {len(scope.seeds)}" if withheld else ""
    tested = [f"{test.row}: {test.metric.title}; {format_protocols(test)}" for test in withheld]
    views = [_test(judged, evidence) for judged in shown]
    claim = tests[0].test.claim
    return ClaimView(
        number, statement, format_source(claim), views, lacking, claim.declared is not None, waiting, tested
    )


def _test(judged: JudgedTest, evidence: Evidence) -> TestView:
    test = judged.test
    cells = [cell for side in test.sides for cell in side]
    return TestView(
        test.row,
        evidence.network(cells[0].first_job) if cells else "",
        test.protocols,
        f"{CORRELATION}, {test.metric.title}" if test.claim.correlates else test.metric.title,
        format_estimate(test),
        format_published(test),
        format_seeds(test),
        judged.verdict,
        place_of(judged, evidence),
    )


def place_of(judged: JudgedTest, evidence: Evidence) -> int:
    """The place of a test with numbers in `Evidence.numbers`."""
    test = judged.test
    places = [evidence.of_cell(cell, _title(cell)) for side in test.sides for cell in side]
    title = f"{format_claim(test.claim)} {test.row}, {' against '.join(test.protocols)}"
    facts = test_line(judged) | {"protocol": format_protocols(test).replace("`", "")}
    return evidence.of_test(test, title, {WORDS.get(name, name): text for name, text in facts.items()}, places)


def _title(cell: CellSpec) -> str:
    return f"{cell.row}, {cell.method}. {METRICS[cell.metric].heading}"
