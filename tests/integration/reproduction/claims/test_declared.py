"""Claims that were declared before their seeds were run are judged once, when all of them are recorded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers.simulated_records import CONFIGS, F1, PROSE, PUBLISHED, simulate

from smoothout.common.errors import ConfigError
from smoothout.config.build import build
from smoothout.config.compose import compose_config
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.claim_tests import Claims, ClaimTest
from smoothout.reproduction.claims import ClaimScope
from smoothout.reproduction.verdict_page import VerdictPage
from smoothout.results.significance import Verdict

TEN = tuple(range(5, 15))
CELLS = [F1[batch] + method for batch in ("small", "large") for method in ("baseline", "smoothout")]


def declared(seeds: tuple[int, ...] = TEN) -> Claims:
    """One claim in each of two families: the gap by accuracy, flatter by sharpness."""
    when = {"when": "2026-11-29", "seeds": [*TEN], "fewer": [*TEN[:5]]}
    common = {"statement": "It is so.", "source": "p. 1", "declared": when}
    given: list[dict[str, Any]] = [
        {"family": "one", "rows": {"F1": {"plus": [CELLS[0]], "minus": [CELLS[2]]}}},
        {"family": "two", "metrics": ["best", "sharpness_converged"], "rows": {"F1": {"plus": [CELLS[2]]}}},
    ]
    return Claims([common | claim for claim in given], ClaimScope(("authors_code",), seeds=seeds), CONFIGS, PUBLISHED)


def page(claims: Claims, tests: list[ClaimTest]) -> str:
    return VerdictPage(tests, PROSE, [], [], claims.scope, "python judge.py").markdown()


def test_a_family_says_nothing_before_all_of_its_seeds_are_recorded(runtime: Runtime) -> None:
    claims = declared()
    for cell in (CELLS[0], CELLS[2]):
        simulate(claims, runtime, cell, list(np.linspace(97, 98, 9)), [])
    tests = claims.tests(runtime)
    assert [(test.recorded, test.withheld, test.evidence.n) for test in tests] == [(9, True, 0)] * 2 + [(0, True, 0)]
    text = page(claims, tests)
    assert "| 9 of 10 " in text
    assert "97." not in text
    assert "p, corrected" not in text


def test_each_family_is_judged_when_it_is_complete_and_corrected_by_itself(runtime: Runtime) -> None:
    claims = declared()
    generator = np.random.default_rng(0)
    simulate(claims, runtime, CELLS[0], list(98.5 + 0.05 * generator.normal(size=10)), [])
    simulate(claims, runtime, CELLS[2], list(98.0 + 0.05 * generator.normal(size=10)), [1.0] * 9)
    tests = claims.tests(runtime)
    assert [test.withheld for test in tests] == [False, True, True]
    [first, *_] = VerdictPage(tests, PROSE, [], [], claims.scope, "").judged
    assert first.family_size == 1
    assert first.p == first.test.evidence.p
    assert "Declared 2026-11-29, seeds 5, 6, 7, 8, 9, 10, 11, 12, 13, 14." in page(claims, tests)


def test_fewer_seeds_are_judged_if_they_are_named_and_the_heading_says_so(runtime: Runtime) -> None:
    claims = declared(TEN[:5])
    simulate(claims, runtime, CELLS[0], [98.4, 98.5, 98.6, 98.5, 98.4], [])
    simulate(claims, runtime, CELLS[2], [98.0, 98.0, 98.1, 98.1, 98.0], [])
    text = page(claims, claims.tests(runtime))
    assert "Judged on seeds 5, 6, 7, 8, 9 alone, of the declared 5, 6, 7, 8, 9, 10," in text.partition("Words.")[0]
    assert "+0.44" in text


@pytest.mark.parametrize("seeds", [(4, *TEN), TEN[:9], TEN[1:6]])
def test_other_seeds_than_the_declared_ones_are_refused(seeds: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"claim_scope.seeds: .* 5, 6, 7, .*14, or on 5, 6, 7, 8, 9$"):
        declared(seeds)


def test_a_declared_claim_is_undecided_if_weights_were_drawn_twice(runtime: Runtime) -> None:
    claims = declared()
    simulate(claims, runtime, CELLS[0], list(np.linspace(98.4, 98.5, 10)), [])
    simulate(claims, runtime, CELLS[2], list(np.linspace(98.0, 98.2, 10)), [])
    first = claims.tests(runtime)[0]
    exploratory = replace(first.claim, declared=None)
    assert first.verdict(0.01, 0.01) is Verdict.holds
    assert replace(first, retrained=1).verdict(0.01, 0.01) is Verdict.undecided
    assert replace(first, retrained=1, claim=exploratory).verdict(0.01, 0.01) is Verdict.holds


def test_the_confirmation_has_the_families_that_were_declared() -> None:
    """The primary claims are few enough that ten seeds decide them by signs alone: 8 * 2**-9 < 0.05."""
    settings = compose_config(CONFIGS, "verdicts", ["claims=confirmation"])
    scope = build(settings["claim_scope"], "claim_scope", ClaimScope)
    claims = Claims(settings["claims"], scope, CONFIGS, PUBLISHED)
    assert scope.seeds == TEN
    assert {claim.declared.seeds for claim in claims.claims if claim.declared} == {TEN}
    assert {claim.declared.fewer for claim in claims.claims if claim.declared} == {TEN[:5]}
    sizes = dict.fromkeys(("primary", "secondary"), 0)
    for claim in claims.claims:
        sizes[claim.family] += len(claim.metrics) * len(claim.rows) * len(scope.protocols)
    assert sizes == {"primary": 8, "secondary": 16}
    trainings = {job for job in claims.jobs() if not job.dependencies}
    assert len(trainings) == 2 * 4 * 10
