"""Verdicts on many tests together: their p-values are corrected within families of claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from smoothout.reproduction.claim_tests import ClaimTest
from smoothout.results.significance import Verdict, holm_adjust


@dataclass(frozen=True)
class JudgedTest:
    """A test with its verdict among the others of its family."""

    test: ClaimTest
    verdict: Verdict
    p: float  # corrected within the family; of a test that the correction does not count, its own
    family_size: int  # how many tests that correction counts


def judge(tests: Sequence[ClaimTest]) -> list[JudgedTest]:
    """The verdicts on all ``tests`` of a page, in their order."""
    judged = dict[int, JudgedTest]()
    for family in dict.fromkeys(test.claim.family for test in tests):
        members = [(place, test) for place, test in enumerate(tests) if test.claim.family == family]
        counted = [place for place, test in members if _counts(test)]
        corrected = dict(zip(counted, holm_adjust([tests[place].evidence.p for place in counted]), strict=True))
        for place, test in members:
            p = corrected.get(place, test.evidence.p)
            judged[place] = JudgedTest(test, test.verdict(p), p, len(counted))
    return [judged[place] for place in range(len(tests))]


def _counts(test: ClaimTest) -> bool:
    """Whether a correction counts ``test``: if it could decide anything, or belongs to a family of declared size."""
    return test.evidence.is_testable or test.claim.declared is not None
