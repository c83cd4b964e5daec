"""Claims about methods whose strength is chosen on held-out images: they wait for the choice, and take it."""

from __future__ import annotations

from helpers.simulated_records import CONFIGS, PUBLISHED, cell, simulate, write

from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.claim_tests import Claims
from smoothout.reproduction.claim_values import MetricValues
from smoothout.reproduction.claims import ClaimScope

ROW = "family | large batch, equal epochs | "
CLAIM = {
    "statement": "SAM is more accurate than plain training.",
    "source": "ours",
    "rows": {"SAM": {"plus": [ROW + "sam"], "minus": [ROW + "baseline"]}},
}


def test_a_method_without_a_choice_is_not_tested_and_one_with_a_choice_is(runtime: Runtime) -> None:
    claims = Claims([CLAIM], ClaimScope(("paper_text",), seeds=(0, 1)), CONFIGS, PUBLISHED)
    simulate(claims, runtime, ROW + "baseline", [98.0, 98.1], [], protocol="paper_text")
    [test] = claims.tests(runtime)
    assert (test.evidence.n, test.recorded) == (0, 0)
    assert not cell(claims, ROW + "sam", protocol="paper_text").jobs

    search = claims._plan("family", "paper_text").searches["sam"]
    assert search in claims.unique_searches
    rows = [{"a": a, "mean": 0.98, "standard_error": None, "diverged": 0} for a in (0.02, 0.5)]
    counts = {"learnt": 54_000, "held_out": 6_000}
    write(runtime, search.choice, {"chosen": 0.5, "strengths": rows, "rule": "", "examples": counts, "field": "rho"})
    assert [job.settings.method.slug for job in claims.jobs()] == ["baseline"] * 2
    claims.use_choices(runtime)
    assert [job.settings.method.slug for job in claims.jobs()] == ["sam0.5"] * 2 + ["baseline"] * 2
    simulate(claims, runtime, ROW + "sam", [98.3, 98.4], [], protocol="paper_text")
    [test] = claims.tests(runtime)
    assert (test.evidence.n, round(test.evidence.value, 6)) == (2, 0.3)
    [training, _] = cell(claims, ROW + "sam", protocol="paper_text").jobs.values()
    assert training.settings.method.rho == 0.5


def test_an_accuracy_is_a_share_of_the_images_that_its_job_measures(runtime: Runtime) -> None:
    def images(name: str, metric: str, profile: str = "paper") -> int:
        scope = ClaimScope(("paper_text",), profile, seeds=(0,))
        claims = Claims([], scope, CONFIGS, PUBLISHED)
        return MetricValues.read(cell(claims, name, metric, "paper_text"), runtime).images

    held_out = "chosen | F1, MNIST, 256 | baseline"
    assert images(held_out, "best") == 6_000
    assert images(held_out, "unseen_test") == 10_000
    table2 = "table2 | F1, MNIST, 256 | baseline"
    assert [images(table2, m, "smoke") for m in ("best", "best_recalibrated", "sharpness_converged")] == [1000, 500, 0]
