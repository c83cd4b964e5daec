"""The page of verdicts: what the records say about every claim, how surely, and what would decide the rest."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from smoothout.common.formatting import format_decimal, format_significant
from smoothout.reproduction.claim_tests import ClaimTest
from smoothout.reproduction.claims import Claim, ClaimKind, ClaimScope
from smoothout.reproduction.judgement import JudgedTest, judge
from smoothout.results.significance import LEVEL, MOST_SEEDS, Verdict, required_seeds

SHORT = {
    Verdict.holds: "holds",
    Verdict.contradicted: "does not",
    Verdict.undecided: "undecided",
    Verdict.untested: "not tested",
}


@dataclass(frozen=True)
class Prose:
    """The text of a page around its verdicts."""

    title: str
    introduction: str


@dataclass(frozen=True)
class VerdictPage:
    """All tests of all protocols, judged together: the correction counts every one that has numbers."""

    tests: Sequence[ClaimTest]  # of every claim, row, metric and protocol
    prose: Prose
    assumptions: Sequence[str]  # paragraphs on how the page judges
    claim_scope: ClaimScope  # whose records were judged
    command: str  # what writes the page
    file: str = "claims.md"  # the page of runs with the papers' own profile and precision
    linked: bool = True  # whether a page of other runs links to that one, which may not exist

    @cached_property
    def judged(self) -> list[JudgedTest]:
        """Every test with its verdict."""
        return judge(self.tests)

    @cached_property
    def _by_claim(self) -> dict[str, list[JudgedTest]]:
        """The same by the claim's heading; those that are withheld are left out."""
        claims: dict[str, list[JudgedTest]] = {}
        for judged in self.judged:
            if not judged.test.withheld:
                claims.setdefault(_heading(judged.test.claim), []).append(judged)
        return claims

    def markdown(self) -> str:
        """The whole page."""
        tested = {
            heading: tests
            for heading, tests in self._by_claim.items()
            if any(one.test.evidence.n or _lost(one.test) for one in tests)
        }
        parts = [*self._heading(), self._caption(), "## In short", *self._decided(), *self._counts(tested)]
        parts += self._withheld()
        for heading, tests in tested.items():
            parts += [f"## {heading}", *self._claim(tests)]
        waiting = [_waiting(tests) for heading, tests in self._by_claim.items() if heading not in tested]
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

    def _caption(self) -> str:
        numbers = sum(test.evidence.n > 0 for test in self.tests)
        scope, seeds = self.claim_scope, ", ".join(map(str, self.claim_scope.seeds))
        families = {one.test.claim.family: one.family_size for one in self.judged}
        sizes = [f"{size} of the family {name}" if name else f"{size} of them" for name, size in families.items()]
        return (
            f"Profile `{scope.profile}`, {scope.precision}, seeds {seeds} as far as they are recorded. {numbers} of"
            f" {len(self.tests)} tests have numbers. The p-values are corrected for {' and for '.join(sizes)} (Holm"
            f" 1979, level {LEVEL:g} over all of these). `{self.command}` writes this page."
        )

    def _withheld(self) -> list[str]:
        """A line for each test that awaits declared seeds: how many are recorded, and nothing of what they say."""
        seeds = len(self.claim_scope.seeds)
        lines = [
            {
                "claim": _heading(test.claim),
                "row": test.row,
                "protocol": _protocols(test),
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
                "claim": _heading(one.test.claim),
                "row": f"{one.test.row}, {_protocols(one.test)}",
                "metric": one.test.metric.title,
                "ours [95%]": format_estimate(one.test),
                "p, corrected": _p(one),
            }
            for one in self.judged
            if one.verdict in (Verdict.holds, Verdict.contradicted)
        ]
        return ["Decided so far:", _table(lines)] if lines else ["No test is decided so far."]

    def _counts(self, tested: dict[str, list[JudgedTest]]) -> list[str]:
        """A line for each claim: how many of its tests have which verdict, under each protocol."""
        lines = []
        for heading, tests in tested.items():
            line = {"claim": heading}
            for protocols in dict.fromkeys(_protocols(one.test) for one in self.judged):
                counts = Counter(one.verdict for one in tests if _protocols(one.test) == protocols)
                line[protocols] = ", ".join(f"{counts[v]} {SHORT[v]}" for v in Verdict if counts[v])
            lines.append(line)
        return ["The verdicts on each claim's tests:", _table(lines)] if lines else []

    def _claim(self, tests: Sequence[JudgedTest]) -> list[str]:
        """The claim's source, its tests, and the rows without records."""
        lines = [self._line(one) for one in tests if one.test.evidence.n]
        untested: dict[str, list[str]] = {}  # protocols by what is not tested under them
        for protocols in dict.fromkeys(_protocols(one.test) for one in tests):
            if rows := _untested([one.test for one in tests if _protocols(one.test) == protocols]):
                untested.setdefault(rows, []).append(protocols)
        parts = [_source(tests[0].test.claim), *([_table(lines)] if lines else [])]
        return parts + [f"Not tested under {' and '.join(names)}: {rows}." for rows, names in untested.items()]

    def _line(self, judged: JudgedTest) -> dict[str, str]:
        test = judged.test
        needed = None if test.diverged or test.failed else required_seeds(test.evidence, judged.family_size)
        seeds = f"more than {MOST_SEEDS}" if needed == math.inf else str(needed or "?")
        return {
            "row": test.row,
            "protocol": _protocols(test),
            "metric": test.metric.title,
            "seeds": _seeds(test),
            "ours [95%]": format_estimate(test),
            "published": "" if test.published is None else format_value(test, test.published),
            "error of the split": "" if test.error is None else format_decimal(test.error, 2),
            "p, corrected": _p(judged),
            "verdict": judged.verdict.value,
            "seeds to decide": seeds if judged.verdict is Verdict.undecided else "",
        }


def _heading(claim: Claim) -> str:
    """What the page calls the claim."""
    return f"{claim.family}: {claim.statement}" if claim.family else claim.statement


def _source(claim: Claim) -> str:
    """Where the claim stands, and whether its seeds were known when it was written."""
    if claim.declared is None:
        return f"Source: {claim.source}. Exploratory."
    seeds = ", ".join(map(str, claim.declared.seeds))
    return f"Source: {claim.source}. Declared {claim.declared.when}, seeds {seeds}."


def _protocols(test: ClaimTest) -> str:
    """The protocols of the test as text."""
    return " against ".join(f"`{name}`" for name in test.protocols)


def format_estimate(test: ClaimTest) -> str:
    """The estimate with its interval, as text."""
    evidence = test.evidence
    if test.claim.kind is ClaimKind.zero:
        return f"at least {format_decimal(evidence.value, 4)}%"
    if math.isnan(evidence.value):
        return "no estimate"
    value = format_value(test, evidence.value)
    if not (math.isfinite(evidence.ci_low) and math.isfinite(evidence.ci_high)):
        return value
    low, high = (format_value(test, end) for end in (evidence.ci_low, evidence.ci_high))
    if test.claim.kind is ClaimKind.spread:  # its ratio falls as the estimate rises
        low, high = high, low
    return f"{value} [{low}, {high}]"


def format_value(test: ClaimTest, value: float) -> str:
    """A value of the test as text: points, a ratio, or a correlation."""
    if test.claim.kind is ClaimKind.spread:
        return f"{format_significant(test.claim.max_ratio / 2**value)}x"
    if test.claim.kind is ClaimKind.correlation or not test.metric.ratio_scale:
        return f"{value:+.2f}"
    return f"{format_significant(2**value)}x"


def _p(judged: JudgedTest) -> str:
    """The corrected p-value as text. A point of the box with a higher loss refutes "0.0000" without one."""
    if judged.test.claim.kind is ClaimKind.zero:
        return "proof"
    return f"{judged.p:.2g}" if judged.test.evidence.p < 1 else ""


def _seeds(test: ClaimTest) -> str:
    """The number of seeds, or of a correlation's settings and runs, and how many were lost."""
    counted = f"{test.evidence.n} settings, {test.runs} runs" if test.runs else f"{test.evidence.n}"
    return counted + (f" ({lost})" if (lost := _lost(test)) else "")


def _lost(test: ClaimTest) -> str:
    """How many seeds are missing, and why."""
    return ", ".join(f"{n} {word}" for n, word in ((test.failed, "failed"), (test.diverged, "diverged")) if n)


def _waiting(tests: Sequence[JudgedTest]) -> dict[str, str]:
    """The line of a claim without any record."""
    claim, rows = tests[0].test.claim, dict.fromkeys(one.test.row for one in tests)
    return {"claim": claim.statement, "rows": "; ".join(rows), "source": claim.source}


def _untested(tests: Sequence[ClaimTest]) -> str:
    """The rows without numbers; if a row lacks only some metrics, or lost seeds, those metrics."""
    names = []
    for row in dict.fromkeys(test.row for test in tests):
        of_row = [test for test in tests if test.row == row]
        missing = [test for test in of_row if not test.evidence.n]
        metrics = [", ".join(filter(None, [test.metric.title, _lost(test)])) for test in missing]
        in_part = len(missing) < len(of_row) or any(map(_lost, missing))
        names += [f"{row} ({' and '.join(metrics)})" if in_part else row] if missing else []
    return "; ".join(names)


def _table(lines: Sequence[dict[str, str]]) -> str:
    return pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)
