"""Claims about the rank correlation of accuracy and flatness, on simulated records of known truth."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.simulated_records import judged, page, simulate, verdicts

from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.claim_tests import Claims
from smoothout.results.significance import Verdict


@pytest.mark.parametrize("by_loss", [False, True])
def test_what_only_the_training_loss_explains_is_no_correlation_at_equal_loss(
    by_loss: bool, f1: Claims, runtime: Runtime
) -> None:
    """Sharpness as the training loss is, accuracy falling with the loss or with the sharpness beyond it.

    The split that was searched may be the test split: the loss on it does not matter.
    """
    generator = np.random.default_rng(0)
    for row, method in f1._plan("table2", "authors_code").runs:
        losses = generator.lognormal(-7, 1) * generator.lognormal(0, 0.1, 5)
        sharp = losses * 1000 * generator.lognormal(0, 1) * generator.lognormal(0, 0.1, 5)
        explained = np.log(losses) + generator.normal(0, 0.05, 5) if by_loss else np.log(sharp)
        simulate(f1, runtime, f"table2 | {row} | {method}", list(90 - explained), list(sharp), losses=list(losses))
    plain, equal = judged({"kind": "correlation", "metrics": ["sharpness_converged"], "tables": ["table2"]}, runtime)
    assert (plain.evidence.n, plain.runs) == (equal.evidence.n, equal.runs) == (12, 60)
    assert "| 12 settings, 60 runs |" in page([plain]).markdown()
    assert (verdicts([plain, equal])[1] is Verdict.holds) is not by_loss
    if not by_loss:
        assert plain.evidence.value == pytest.approx(1, abs=1e-6)


def test_a_correlation_that_lost_runs_to_failed_searches_is_undecided(f1: Claims, runtime: Runtime) -> None:
    """Flat minima, in which searches fail, would be missing from it."""
    for index, (row, method) in enumerate(f1._plan("table2", "authors_code").runs):
        sharp = [10.0 + index, 10.0 + index, None, None, None]
        simulate(f1, runtime, f"table2 | {row} | {method}", [90.0 - index] * 5, sharp)
    tests = judged({"kind": "correlation", "metrics": ["sharpness_converged"], "tables": ["table2"]}, runtime)
    assert [(test.runs, test.failed) for test in tests] == [(24, 36)] * 2
    assert verdicts(tests)[0] is Verdict.undecided
    assert "| 12 settings, 24 runs (36 failed) |" in page(tests).markdown()
