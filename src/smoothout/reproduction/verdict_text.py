"""What a page of verdicts says about a single test, as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import product

from smoothout.common.formatting import format_decimal, format_significant
from smoothout.common.grouping import grouped
from smoothout.reproduction.claim_tests import ClaimTest
from smoothout.reproduction.claims import Claim, ClaimKind
from smoothout.reproduction.judgement import JudgedTest
from smoothout.results.significance import MOST_SEEDS, Verdict, required_seeds, sign_flip_floor

ABBREVIATED = {
    Verdict.holds: "holds",
    Verdict.holds_if_normal: "holds if normal",
    Verdict.contradicted: "does not",
    Verdict.contradicted_if_normal: "does not if normal",
    Verdict.undecided: "undecided",
    Verdict.untested: "not tested",
}


def format_claim(claim: Claim) -> str:
    """What the page calls the claim."""
    return f"{claim.family}: {claim.statement}" if claim.family else claim.statement


def format_source(claim: Claim) -> str:
    """Where the papers state the claim, and whether its seeds were known when it was written."""
    if claim.declared is None:
        return f"Source: {claim.source}. Exploratory."
    seeds = ", ".join(map(str, claim.declared.seeds))
    return f"Source: {claim.source}. Declared {claim.declared.when}, seeds {seeds}."


def format_protocols(test: ClaimTest) -> str:
    """The protocol of the test, or those that it compares."""
    return " against ".join(f"`{name}`" for name in test.protocols)


def test_line(judged: JudgedTest) -> dict[str, str]:
    """The line of a test in the table of its claim, by column."""
    test, evidence = judged.test, judged.test.evidence
    absolute = test.claim.kind is ClaimKind.published
    deviations = evidence.value / evidence.std if absolute and evidence.std > 0 else None
    flips = evidence.p_sign_flips
    return {
        "row": test.row,
        "protocol": format_protocols(test),
        "metric": test.metric.title,
        "seeds": format_seeds(test),
        "ours - published [95%]" if absolute else "ours [95%]": format_estimate(test),
        "published": format_published(test),
        **({"in standard deviations": "" if deviations is None else f"{deviations:+.1f}"} if absolute else {}),
        "error of the split": "" if test.error is None else format_decimal(test.error, 2),
        "p": format_p(judged),
        "p, all pages": format_p_everywhere(judged),
        "p by sign flips [least]": "" if flips is None else f"{flips:.3g} [{sign_flip_floor(evidence.n):.3g}]",
        "the same, corrected": "" if flips is None or judged.p_exact is None else f"{judged.p_exact:.2g}",
        "verdict": judged.verdict.value,
        "seeds to decide": _seeds_to_decide(judged),
    }


def format_estimate(test: ClaimTest) -> str:
    """The estimate with its interval."""
    evidence = test.evidence
    if test.claim.kind is ClaimKind.zero:
        return f"at least {format_decimal(evidence.value, 4)}%"
    if math.isnan(evidence.value):
        return "no estimate"
    value = format_value(test, evidence.value)
    if not (math.isfinite(evidence.ci_low) and math.isfinite(evidence.ci_high)):
        return value
    low, high = (format_value(test, end) for end in (evidence.ci_low, evidence.ci_high))
    if test.claim.kind in (ClaimKind.spread, ClaimKind.limit):  # what they show falls as the estimate rises
        low, high = high, low
    return f"{value} [{low}, {high}]"


def format_value(test: ClaimTest, value: float, *, signed: bool = True) -> str:
    """A value of the test: points, a ratio, a correlation, or what is compared with a limit."""
    if test.claim.kind is ClaimKind.spread:
        return f"{format_significant(test.claim.max_ratio / 2**value)}x"
    if test.claim.limit is not None:
        return format_significant(test.claim.limit / 2**value)
    if test.claim.correlates or not test.metric.ratio_scale:
        return f"{value:+.2f}" if signed else f"{value:.2f}"
    return f"{format_significant(2**value)}x"


def format_published(test: ClaimTest) -> str:
    """The papers' number; empty without one."""
    signed = test.claim.kind is not ClaimKind.published
    return "" if test.published is None else format_value(test, test.published, signed=signed)


def format_p(judged: JudgedTest) -> str:
    """The p-value, corrected within its family. A point of the box with a higher loss refutes "0.0000" without one."""
    if judged.test.claim.kind is ClaimKind.zero:
        return "proof"
    return f"{judged.p:.2g}" if judged.test.evidence.is_testable else ""


def format_p_everywhere(judged: JudgedTest) -> str:
    """The p-value, corrected over all exploratory tests; empty if there is none."""
    given = judged.p_everywhere is not None and format_p(judged) not in ("", "proof")
    return f"{judged.p_everywhere:.2g}" if given else ""


def format_seeds(test: ClaimTest) -> str:
    """The number of seeds, or of a correlation's settings and runs, and how many were lost."""
    counted = f"{test.evidence.n} settings, {test.runs} runs" if test.runs else f"{test.evidence.n}"
    again = f"{test.retrained} trained again" if test.retrained else ""
    notes = ", ".join(filter(None, [format_lost(test), again]))
    return f"{counted} ({notes})" if notes else counted


def format_lost(test: ClaimTest) -> str:
    """How many seeds are missing, and why."""
    return ", ".join(f"{n} {word}" for n, word in ((test.failed, "failed"), (test.diverged, "diverged")) if n)


def format_untested(tests: Sequence[ClaimTest]) -> list[str]:
    """Sentences on the rows of a claim without numbers, by the protocols under which they have none."""
    protocols = dict.fromkeys(map(format_protocols, tests))
    lacking = grouped(
        (text, name)
        for row, name in product(dict.fromkeys(test.row for test in tests), protocols)
        if (text := _untested_row([test for test in tests if (test.row, format_protocols(test)) == (row, name)]))
    )
    rows = grouped(
        ("any protocol" if len(names) == len(protocols) > 1 else " and ".join(names), text)
        for text, names in lacking.items()
    )
    return [f"Not tested under {under}: {format_rows(texts)}." for under, texts in rows.items()]


def format_rows(rows: Iterable[str]) -> str:
    """Names of rows as a list, in which methods that have the same rows are named together, if that is shorter.

    A name is that of the method, a comma, and the rest: "SAM, C1" and "EMA, C1" become "SAM, EMA (each: C1)".
    """
    rows = list(rows)
    plain = "; ".join(rows)
    if not all(", " in row for row in rows):
        return plain
    rests_of = grouped((method, rest) for method, _, rest in (row.partition(", ") for row in rows))
    methods = grouped((tuple(rests), method) for method, rests in rests_of.items())
    short = "; ".join(
        f"{', '.join(names)} (each: {'; '.join(rests)})"
        if names[1:]
        else "; ".join(f"{names[0]}, {rest}" for rest in rests)
        for rests, names in methods.items()
    )
    return min(plain, short, key=len)


def _untested_row(tests: Sequence[ClaimTest]) -> str:
    """The row of ``tests`` if a metric has no numbers; that metric is named if others have some, or seeds were lost."""
    missing = [test for test in tests if not test.evidence.n]
    if not missing:
        return ""
    metrics = [", ".join(filter(None, [test.metric.title, format_lost(test)])) for test in missing]
    in_part = len(missing) < len(tests) or any(map(format_lost, missing))
    return f"{tests[0].row} ({' and '.join(metrics)})" if in_part else tests[0].row


def _seeds_to_decide(judged: JudgedTest) -> str:
    """How many seeds would decide what is undecided, or rests on normality."""
    test = judged.test
    if judged.verdict in (Verdict.holds, Verdict.contradicted):
        return ""
    needed = None if test.diverged or test.failed else required_seeds(test.evidence, judged.family_size)
    return f"more than {MOST_SEEDS}" if needed == math.inf else str(needed or "?")
