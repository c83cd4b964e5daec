"""The page of verdicts: what the records say about every claim, how surely, and what would decide the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from smoothout.common.grouping import grouped
from smoothout.reproduction.claim_tests import ClaimTest
from smoothout.reproduction.claims import ClaimScope
from smoothout.reproduction.judgement import JudgedTest, judge
from smoothout.reproduction.verdict_text import (
    ABBREVIATED,
    format_claim,
    format_estimate,
    format_lost,
    format_p,
    format_p_everywhere,
    format_protocols,
    format_rows,
    format_source,
    format_untested,
    test_line,
)
from smoothout.results.significance import LEVEL, Verdict
from smoothout.results.tables import markdown_table


@dataclass(frozen=True)
class Prose:
    """The text of a page around its verdicts."""

    title: str
    introduction: str


@dataclass(frozen=True)
class VerdictPage:
    """All tests of all protocols, judged together: the corrections count every one that has numbers."""

    tests: Sequence[ClaimTest]  # of every claim, row, metric and protocol
    prose: Prose
    reading: Sequence[str]  # paragraphs on what a verdict means, at the page's head
    assumptions: Sequence[str]  # paragraphs on how the page judges, at its end
    claim_scope: ClaimScope  # whose records were judged
    command: str  # the command that writes the page
    file: str = "claims.md"  # the page of runs with the papers' own profile and precision
    linked: bool = True  # whether a page of other runs links to that one, which may not exist
    elsewhere: Sequence[ClaimTest] | None = None  # the tests of all other pages, if p is corrected for those, too

    @cached_property
    def judged(self) -> list[JudgedTest]:
        """Every test with its verdict."""
        return judge(self.tests, self.elsewhere)

    @cached_property
    def _by_claim(self) -> dict[str, list[JudgedTest]]:
        """The judged tests by claim, without those that are withheld."""
        return grouped((format_claim(one.test.claim), one) for one in self.judged if not one.test.withheld)

    def markdown(self) -> str:
        """The whole page."""
        tested = {
            claim: tests
            for claim, tests in self._by_claim.items()
            if any(one.test.evidence.n or format_lost(one.test) for one in tests)
        }
        parts = [*self._heading(), *self._without_numbers(), *self.reading, self._caption()]
        parts += ["## In short", *self._decided(), *self._counts(tested), *self._withheld()]
        for claim, tests in tested.items():
            parts += [f"## {claim}", *_claim(tests)]
        waiting = [_waiting(tests) for claim, tests in self._by_claim.items() if claim not in tested]
        if waiting:
            parts += ["## Not tested so far", _table(waiting)]
        parts += ["## How this page judges", *self.assumptions]
        return "\n\n".join(part.strip() for part in parts) + "\n"

    def _heading(self) -> list[str]:
        """Title and introduction; a page of other runs than the papers' starts with a warning."""
        declared = sorted({seed for one in self.tests if one.claim.declared for seed in one.claim.declared.seeds})
        judged, all_seeds = (", ".join(map(str, seeds)) for seeds in (self.claim_scope.seeds, declared))
        fewer = len(self.claim_scope.seeds) < len(declared)
        in_part = [f"**Judged on seeds {judged} alone, of the declared {all_seeds}.**"] if fewer else []
        if self.claim_scope.file(self.file) == self.file:
            return [f"# {self.prose.title}", *in_part, self.prose.introduction]
        scope = f"profile {self.claim_scope.profile}, {self.claim_scope.precision}"
        warning = f"**These runs are not the papers' ({scope}); the verdicts here are about these runs alone.**"
        link = f" [{self.file}]({self.file}) is the page of runs like the papers'." if self.linked else ""
        return [f"# {self.prose.title} ({scope})", warning + link, *in_part, self.prose.introduction]

    def _without_numbers(self) -> list[str]:
        """A sentence that warns readers if nothing is recorded, else an empty list."""
        if any(test.evidence.n or test.withheld for test in self.tests):
            return []
        return ["**None of this has been run so far.** What follows is what will be tested."]

    def _caption(self) -> str:
        numbers = sum(test.evidence.n > 0 for test in self.tests)
        scope, seeds = self.claim_scope, ", ".join(map(str, self.claim_scope.seeds))
        families = {one.test.claim.family: one.family_size for one in self.judged}
        sizes = [f"{size} of the family {name}" if name else f"{size} of them" for name, size in families.items()]
        together = sum(test.claim.declared is None and test.evidence.is_testable for test in self._everywhere)
        everywhere = f', and under "all pages" for the {together} exploratory tests of all pages' if together else ""
        level = f"level {LEVEL:g} {'in each family' if len(families) > 1 else 'over all of these'}"
        return (
            f"Profile `{scope.profile}`, {scope.precision}, seeds {seeds} as far as they are recorded. {numbers} of"
            f" {len(self.tests)} tests have numbers. The p-values are corrected for {' and for '.join(sizes)} (Holm"
            f" 1979, {level}){everywhere}. `{self.command}` writes this page."
        )

    @property
    def _everywhere(self) -> Sequence[ClaimTest]:
        """The tests of all pages, or none if p-values are not corrected over them."""
        return [] if self.elsewhere is None else [*self.tests, *self.elsewhere]

    def _withheld(self) -> list[str]:
        """A line for each test that awaits declared seeds: how many are recorded, and nothing of what they say."""
        seeds = len(self.claim_scope.seeds)
        lines = [
            {
                "claim": format_claim(test.claim),
                "row": test.row,
                "protocol": format_protocols(test),
                "metric": test.metric.title,
                "seeds recorded": f"{test.recorded} of {seeds}",
            }
            for test in self.tests
            if test.withheld
        ]
        if not lines:
            return []
        rule = "A family is judged once, when each of its tests has all of its seeds. Until then it has no numbers."
        return ["## Not judged yet", rule, _table(lines)]

    def _decided(self) -> list[str]:
        """A line for each test that was decided."""
        lines = [
            {
                "verdict": f"**{one.verdict}**",
                "claim": format_claim(one.test.claim),
                "row": f"{one.test.row}, {format_protocols(one.test)}",
                "metric": one.test.metric.title,
                "ours [95%]": format_estimate(one.test),
                "p": format_p(one),
                "p, all pages": format_p_everywhere(one),
            }
            for one in self.judged
            if one.verdict not in (Verdict.undecided, Verdict.untested)
        ]
        return ["Decided so far:", _table(lines)] if lines else ["No test is decided so far."]

    def _counts(self, tested: dict[str, list[JudgedTest]]) -> list[str]:
        """A line for each claim: how many of its tests have which verdict, under each protocol."""
        lines = []
        for claim, tests in tested.items():
            line = {"claim": claim}
            for protocols in dict.fromkeys(format_protocols(one.test) for one in self.judged):
                counts = Counter(one.verdict for one in tests if format_protocols(one.test) == protocols)
                line[protocols] = ", ".join(f"{counts[v]} {ABBREVIATED[v]}" for v in Verdict if counts[v])
            lines.append(line)
        return ["The verdicts on each claim's tests:", _table(lines)] if lines else []


def _claim(tests: Sequence[JudgedTest]) -> list[str]:
    """The claim's source, its tests, and the rows without records."""
    lines = [test_line(one) for one in tests if one.test.evidence.n]
    tables = [_table(lines)] if lines else []
    return [format_source(tests[0].test.claim), *tables, *format_untested([one.test for one in tests])]


def _waiting(tests: Sequence[JudgedTest]) -> dict[str, str]:
    """The line of a claim without any record."""
    claim, rows = tests[0].test.claim, dict.fromkeys(one.test.row for one in tests)
    return {"claim": claim.statement, "rows": format_rows(rows), "source": claim.source}


def _table(lines: Sequence[dict[str, str]]) -> str:
    """The lines as a table, without columns that are empty in all of them."""
    columns = [name for name in lines[0] if any(line[name] for line in lines)]
    return markdown_table(pd.DataFrame(lines, columns=columns))
