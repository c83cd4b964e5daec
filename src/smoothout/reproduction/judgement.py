"""Verdicts on many tests together: their p-values are corrected within families, and over all exploratory tests."""

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
    p: float  # corrected within the family; uncorrected for a test that the correction does not count
    p_exact: float | None  # the same for the test that does not assume normal differences (`TestResult.p_exact`)
    p_everywhere: float | None  # corrected over all exploratory tests of all pages; None if not requested
    family_size: int  # how many tests the correction within the family counts


def judge(tests: Sequence[ClaimTest], elsewhere: Sequence[ClaimTest] | None = None) -> list[JudgedTest]:
    """The verdicts on all ``tests`` of a page, in their order; ``elsewhere`` are the tests of all other pages."""
    families = {family: _Family(tests, family) for family in {test.claim.family for test in tests}}
    together = [*tests, *(elsewhere or ())]
    exploratory = {
        place: test.evidence.p
        for place, test in enumerate(together)
        if test.evidence.is_testable and test.claim.declared is None
    }
    everywhere = {} if elsewhere is None else _holm(exploratory)
    judged = []
    for place, test in enumerate(tests):
        family = families[test.claim.family]
        p = family.p.get(place, test.evidence.p)
        p_exact = family.p_exact.get(place, test.evidence.p_exact)
        verdict = test.verdict(p, p_exact)
        judged.append(JudgedTest(test, verdict, p, p_exact, everywhere.get(place), len(family.p)))
    return judged


class _Family:
    """The corrected p-values of the claims of one family, by the place of their test on the page.

    A correction counts the tests that could decide anything; those of a declared family all count.
    """

    def __init__(self, tests: Sequence[ClaimTest], name: str) -> None:
        counted = {
            place: test.evidence
            for place, test in enumerate(tests)
            if test.claim.family == name and (test.evidence.is_testable or test.claim.declared is not None)
        }
        self.p = _holm({place: evidence.p for place, evidence in counted.items()})
        exact = {place: evidence.p_exact for place, evidence in counted.items()}
        self.p_exact = _holm({place: p for place, p in exact.items() if p is not None})


def _holm(ps: dict[int, float]) -> dict[int, float]:
    return dict(zip(ps, holm_adjust([*ps.values()]), strict=True))
