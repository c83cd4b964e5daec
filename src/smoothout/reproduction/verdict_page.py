"""The page of verdicts: what the records say of every claim, how surely, and what would decide the rest."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from smoothout.common.formatting import format_decimal, format_significant
from smoothout.reproduction.claims import ClaimKind, ClaimScope, ClaimTest
from smoothout.results.significance import LEVEL, MOST_SEEDS, Verdict, holm_adjust, required_seeds

SHORT = {
    Verdict.holds: "holds",
    Verdict.contradicted: "does not",
    Verdict.undecided: "undecided",
    Verdict.untested: "not tested",
}


@dataclass(frozen=True)
class VerdictPage:
    """All tests of all protocols, judged together: the correction counts every one that has numbers.

    Attributes:
        tests: of every claim, row, quantity and protocol.
        prose: the page's ``title`` and ``introduction``.
        assumptions: paragraphs on how the page judges.
        claim_scope: whose records were judged.
        command: what writes the page.
        file: the page that has the papers' own profile and precision.
        linked: whether a page of other runs names that one; not where it was never written.
    """

    tests: Sequence[ClaimTest]
    prose: Any
    assumptions: Sequence[str]
    claim_scope: ClaimScope
    command: str
    file: str = "README.md"
    linked: bool = True

    @cached_property
    def adjusted(self) -> list[float]:
        """Each test's p after Holm's correction over those that could decide; its own where it could not."""
        corrected = iter(holm_adjust([test.evidence.p for test in self.tests if test.evidence.is_testable]))
        return [next(corrected) if test.evidence.is_testable else test.evidence.p for test in self.tests]

    @property
    def _family(self) -> int:
        """How many tests the correction counts."""
        return sum(test.evidence.is_testable for test in self.tests)

    @property
    def verdicts(self) -> list[Verdict]:
        """Of each test."""
        return [verdict for _, _, verdict in self._judged]

    @cached_property
    def _judged(self) -> list[tuple[ClaimTest, float, Verdict]]:
        """Each test with its adjusted p and what that says."""
        return [(test, p, test.verdict(p)) for test, p in zip(self.tests, self.adjusted, strict=True)]

    def markdown(self) -> str:
        """The whole page."""
        made = sum(test.evidence.n > 0 for test in self.tests)
        seeds = ", ".join(map(str, self.claim_scope.seeds))
        scope = f"Profile `{self.claim_scope.profile}`, {self.claim_scope.precision}, seeds {seeds} as far as recorded"
        caption = (
            f"{scope}; {made} of {len(self.tests)} tests have numbers, {self._family} of them from two seeds or more,"
            f" and p is corrected for these (Holm 1979, {LEVEL:g} over all of them)."
            f" `{self.command}` writes this page anew."
        )
        sections = {says: [test for test in self.tests if test.claim.statement == says] for says in self._claims()}
        begun = [says for says, tests in sections.items() if any(test.evidence.n or _lost(test) for test in tests)]
        parts = [*self._heading(), caption, "## In short", *self._decided(), *self._summary(begun)]
        for says in begun:
            parts += [f"## {says}", *self._claim(says)]
        if waiting := [tests for says, tests in sections.items() if says not in begun]:
            parts += ["## Not tested so far", _table(pd.DataFrame(map(_waiting, waiting)))]
        parts += ["## How this page judges", *self.assumptions]
        return "\n\n".join(part.strip() for part in parts) + "\n"

    def _claims(self) -> list[str]:
        return list(dict.fromkeys(test.claim.statement for test in self.tests))

    def _heading(self) -> list[str]:
        """Title and introduction; a page of other runs than the papers' says so first."""
        if self.claim_scope.file(self.file) == self.file:
            return [f"# {self.prose.title}", self.prose.introduction]
        scope = f"profile {self.claim_scope.profile}, {self.claim_scope.precision}"
        warning = f"**These runs are not the papers' ({scope}), and a verdict here is one about them alone.**"
        link = f" [{self.file}]({self.file}) is the page of runs as the papers have them." if self.linked else ""
        return [f"# {self.prose.title} ({scope})", warning + link, self.prose.introduction]

    def _decided(self) -> list[str]:
        """A line a test that came out one way or the other."""
        lines = [
            {"verdict": f"**{verdict}**", "claim": test.claim.statement, "row": f"{test.row}, `{test.protocol}`"}
            | {"what": test.metric.title, "ours [95%]": format_estimate(test), "p, corrected": _p(test, p)}
            for test, p, verdict in self._judged
            if verdict in (Verdict.holds, Verdict.contradicted)
        ]
        return ["Decided so far:", _table(pd.DataFrame(lines))] if lines else ["No test is decided so far."]

    def _summary(self, begun: Sequence[str]) -> list[str]:
        """A line a claim of ``begun``: how many of its tests came out how, under each protocol."""
        lines = []
        for says in begun:
            line: dict[str, str] = {"claim": says}
            for protocol in dict.fromkeys(test.protocol for test in self.tests):
                counts = Counter(
                    verdict
                    for test, _, verdict in self._judged
                    if test.claim.statement == says and test.protocol == protocol
                )
                line[f"`{protocol}`"] = ", ".join(f"{counts[v]} {SHORT[v]}" for v in Verdict if counts[v])
            lines.append(line)
        return ["How many of each claim's tests came out how:", _table(pd.DataFrame(lines))] if lines else []

    def _claim(self, says: str) -> list[str]:
        """The claim's source, its tests, and the rows of which there is no record."""
        found = [one for one in self._judged if one[0].claim.statement == says]
        lines = [self._line(test, p, verdict) for test, p, verdict in found if test.evidence.n]
        protocols: dict[str, list[str]] = {}  # by what is not tested there
        for protocol in dict.fromkeys(test.protocol for test, _, _ in found):
            if rows := _untested([test for test, _, _ in found if test.protocol == protocol]):
                protocols.setdefault(rows, []).append(f"`{protocol}`")
        parts = [f"Source: {found[0][0].claim.source}."]
        if lines:
            parts.append(_table(pd.DataFrame(lines)))
        parts += [f"Not tested under {' and '.join(names)}: {rows}." for rows, names in protocols.items()]
        return parts

    def _line(self, test: ClaimTest, adjusted: float, verdict: Verdict) -> dict[str, str]:
        evidence = test.evidence
        needed = None if test.diverged or test.failed else required_seeds(evidence, self._family)
        deciding = f"more than {MOST_SEEDS}" if needed == math.inf else str(needed or "?")
        return {
            "row": test.row,
            "protocol": f"`{test.protocol}`",
            "what": test.metric.title,
            "seeds": _seeds(test),
            "ours [95%]": format_estimate(test),
            "published": "" if test.published is None else format_value(test, test.published),
            "split's own error": "" if test.error is None else format_decimal(test.error, 2),
            "p, corrected": _p(test, adjusted),
            "verdict": verdict.value,
            "seeds to decide": "" if verdict is not Verdict.undecided else deciding,
        }


def format_estimate(test: ClaimTest) -> str:
    """The estimate and its interval, for people."""
    evidence = test.evidence
    ends = (evidence.ci_low, evidence.ci_high)
    if test.claim.kind is ClaimKind.zero:
        return f"at least {format_decimal(evidence.value, 4)}%"
    if math.isnan(evidence.value):
        return "no estimate"
    if not all(map(math.isfinite, ends)):
        return format_value(test, evidence.value)
    low, high = (format_value(test, end) for end in ends)
    if test.claim.kind is ClaimKind.spread:
        low, high = high, low
    return f"{format_value(test, evidence.value)} [{low}, {high}]"


def format_value(test: ClaimTest, value: float) -> str:
    """A value of the test for people: points, a ratio, a correlation."""
    if test.claim.kind is ClaimKind.spread:
        return f"{format_significant(test.claim.max_ratio / 2**value)}x"
    if test.claim.kind is ClaimKind.correlation or not test.metric.ratio_scale:
        return f"{value:+.2f}"
    return f"{format_significant(2**value)}x"


def _p(test: ClaimTest, adjusted: float) -> str:
    """The corrected p for people; one point of the box that lies higher refutes "0.0000" without one."""
    if test.claim.kind is ClaimKind.zero:
        return "proof"
    return f"{adjusted:.2g}" if test.evidence.p < 1 else ""


def _seeds(test: ClaimTest) -> str:
    """How many seeds, or of a correlation settings and runs, are behind the test."""
    counted = f"{test.evidence.n} settings, {test.runs} runs" if test.runs else f"{test.evidence.n}"
    return counted + (f" ({lost})" if (lost := _lost(test)) else "")


def _lost(test: ClaimTest) -> str:
    """How many seeds are missing, and why."""
    return ", ".join(f"{n} {word}" for n, word in ((test.failed, "failed"), (test.diverged, "diverged")) if n)


def _waiting(tests: Sequence[ClaimTest]) -> dict[str, str]:
    """The line of a claim of which there is no record at all."""
    rows = dict.fromkeys(test.row for test in tests)
    return {"claim": tests[0].claim.statement, "rows": "; ".join(rows), "source": tests[0].claim.source}


def _untested(tests: Sequence[ClaimTest]) -> str:
    """The rows of ``tests`` without numbers, and which ones where a row lacks only some, or seeds were lost."""
    rows: dict[str, list[ClaimTest]] = {}
    for test in tests:
        rows.setdefault(test.row, []).append(test)
    named = []
    for row, of_row in rows.items():
        missing = [test for test in of_row if not test.evidence.n]
        titles = [", ".join(filter(None, [test.metric.title, _lost(test)])) for test in missing]
        in_part = len(missing) < len(of_row) or any(map(_lost, missing))
        named += [f"{row} ({' and '.join(titles)})" if in_part else row] if missing else []
    return "; ".join(named)


def _table(frame: pd.DataFrame) -> str:
    return frame.to_markdown(index=False, disable_numparse=True)
