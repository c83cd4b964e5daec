"""The page of verdicts: what the records say about every claim, how surely, and what would decide the rest."""

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
    """All tests of all protocols, judged together: the correction counts every one that has numbers."""

    tests: Sequence[ClaimTest]  # of every claim, row, metric and protocol
    prose: Any  # the page's ``title`` and ``introduction``
    assumptions: Sequence[str]  # paragraphs on how the page judges
    claim_scope: ClaimScope  # whose records were judged
    command: str  # what writes the page
    file: str = "claims.md"  # the page of runs with the papers' own profile and precision
    linked: bool = True  # whether a page of other runs links to that one, which may not exist

    @cached_property
    def adjusted(self) -> list[float]:
        """Each test's p-value after Holm's correction over the testable ones; the other tests keep their own."""
        corrected = iter(holm_adjust([test.evidence.p for test in self.tests if test.evidence.is_testable]))
        return [next(corrected) if test.evidence.is_testable else test.evidence.p for test in self.tests]

    @property
    def verdicts(self) -> list[Verdict]:
        """The verdict of each test."""
        return [verdict for _, _, verdict in self._judged]

    @property
    def _family_size(self) -> int:
        """How many tests the correction counts."""
        return sum(test.evidence.is_testable for test in self.tests)

    @cached_property
    def _judged(self) -> list[tuple[ClaimTest, float, Verdict]]:
        """Each test with its adjusted p-value and its verdict."""
        return [(test, p, test.verdict(p)) for test, p in zip(self.tests, self.adjusted, strict=True)]

    @cached_property
    def _by_claim(self) -> dict[str, list[tuple[ClaimTest, float, Verdict]]]:
        """The same by the claim's statement."""
        claims: dict[str, list[tuple[ClaimTest, float, Verdict]]] = {}
        for judged in self._judged:
            claims.setdefault(judged[0].claim.statement, []).append(judged)
        return claims

    def markdown(self) -> str:
        """The whole page."""
        tested = {
            statement: tests
            for statement, tests in self._by_claim.items()
            if any(test.evidence.n or _lost(test) for test, _, _ in tests)
        }
        parts = [*self._heading(), self._caption(), "## In short", *self._decided(), *self._counts(tested)]
        for statement, tests in tested.items():
            parts += [f"## {statement}", *self._claim(tests)]
        waiting = [_waiting(tests) for statement, tests in self._by_claim.items() if statement not in tested]
        if waiting:
            parts += ["## Not tested so far", _table(waiting)]
        parts += ["## How this page judges", *self.assumptions]
        return "\n\n".join(part.strip() for part in parts) + "\n"

    def _heading(self) -> list[str]:
        """Title and introduction; a page of other runs than the papers' starts with a warning."""
        if self.claim_scope.file(self.file) == self.file:
            return [f"# {self.prose.title}", self.prose.introduction]
        scope = f"profile {self.claim_scope.profile}, {self.claim_scope.precision}"
        warning = f"**These runs are not the papers' ({scope}); the verdicts here are about these runs alone.**"
        link = f" [{self.file}]({self.file}) is the page of runs like the papers'." if self.linked else ""
        return [f"# {self.prose.title} ({scope})", warning + link, self.prose.introduction]

    def _caption(self) -> str:
        numbers = sum(test.evidence.n > 0 for test in self.tests)
        scope, seeds = self.claim_scope, ", ".join(map(str, self.claim_scope.seeds))
        return (
            f"Profile `{scope.profile}`, {scope.precision}, seeds {seeds} as far as they are recorded. {numbers} of"
            f" {len(self.tests)} tests have numbers, {self._family_size} of them from two seeds or more. The p-values"
            f" are corrected for these (Holm 1979, level {LEVEL:g} over all of them)."
            f" `{self.command}` writes this page."
        )

    def _decided(self) -> list[str]:
        """A line for each test that was decided."""
        lines = [
            {
                "verdict": f"**{verdict}**",
                "claim": test.claim.statement,
                "row": f"{test.row}, `{test.protocol}`",
                "metric": test.metric.title,
                "ours [95%]": format_estimate(test),
                "p, corrected": _p(test, p),
            }
            for test, p, verdict in self._judged
            if verdict in (Verdict.holds, Verdict.contradicted)
        ]
        return ["Decided so far:", _table(lines)] if lines else ["No test is decided so far."]

    def _counts(self, tested: dict[str, list[tuple[ClaimTest, float, Verdict]]]) -> list[str]:
        """A line for each claim: how many of its tests have which verdict, under each protocol."""
        lines = []
        for statement, tests in tested.items():
            line = {"claim": statement}
            for protocol in dict.fromkeys(test.protocol for test in self.tests):
                counts = Counter(verdict for test, _, verdict in tests if test.protocol == protocol)
                line[f"`{protocol}`"] = ", ".join(f"{counts[v]} {SHORT[v]}" for v in Verdict if counts[v])
            lines.append(line)
        return ["The verdicts on each claim's tests:", _table(lines)] if lines else []

    def _claim(self, tests: Sequence[tuple[ClaimTest, float, Verdict]]) -> list[str]:
        """The claim's source, its tests, and the rows without records."""
        lines = [self._line(test, p, verdict) for test, p, verdict in tests if test.evidence.n]
        untested: dict[str, list[str]] = {}  # protocols by what is not tested under them
        for protocol in dict.fromkeys(test.protocol for test, _, _ in tests):
            if rows := _untested([test for test, _, _ in tests if test.protocol == protocol]):
                untested.setdefault(rows, []).append(f"`{protocol}`")
        parts = [f"Source: {tests[0][0].claim.source}.", *([_table(lines)] if lines else [])]
        return parts + [f"Not tested under {' and '.join(names)}: {rows}." for rows, names in untested.items()]

    def _line(self, test: ClaimTest, adjusted: float, verdict: Verdict) -> dict[str, str]:
        needed = None if test.diverged or test.failed else required_seeds(test.evidence, self._family_size)
        seeds = f"more than {MOST_SEEDS}" if needed == math.inf else str(needed or "?")
        return {
            "row": test.row,
            "protocol": f"`{test.protocol}`",
            "metric": test.metric.title,
            "seeds": _seeds(test),
            "ours [95%]": format_estimate(test),
            "published": "" if test.published is None else format_value(test, test.published),
            "error of the split": "" if test.error is None else format_decimal(test.error, 2),
            "p, corrected": _p(test, adjusted),
            "verdict": verdict.value,
            "seeds to decide": seeds if verdict is Verdict.undecided else "",
        }


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


def _p(test: ClaimTest, adjusted: float) -> str:
    """The corrected p-value as text. A point of the box with a higher loss refutes "0.0000" without one."""
    if test.claim.kind is ClaimKind.zero:
        return "proof"
    return f"{adjusted:.2g}" if test.evidence.p < 1 else ""


def _seeds(test: ClaimTest) -> str:
    """The number of seeds, or of a correlation's settings and runs, and how many were lost."""
    counted = f"{test.evidence.n} settings, {test.runs} runs" if test.runs else f"{test.evidence.n}"
    return counted + (f" ({lost})" if (lost := _lost(test)) else "")


def _lost(test: ClaimTest) -> str:
    """How many seeds are missing, and why."""
    return ", ".join(f"{n} {word}" for n, word in ((test.failed, "failed"), (test.diverged, "diverged")) if n)


def _waiting(tests: Sequence[tuple[ClaimTest, float, Verdict]]) -> dict[str, str]:
    """The line of a claim without any record."""
    claim, rows = tests[0][0].claim, dict.fromkeys(test.row for test, _, _ in tests)
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
