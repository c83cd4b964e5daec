"""Claims against simulated records of known truth."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.simulated_records import CONFIGS, F1, PUBLISHED, SCOPE, cell, judged, page, simulate, verdicts, write

from smoothout.common.errors import ConfigError
from smoothout.config.compose import compose_config
from smoothout.config.experiment import training_config
from smoothout.jobs.prepared_run import init_model
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.claim_tests import Claims, ClaimTest
from smoothout.reproduction.claims import Claim, ClaimKind, ClaimScope
from smoothout.reproduction.metrics import METRICS
from smoothout.reproduction.verdict_page import format_estimate
from smoothout.reproduction.verdict_text import format_seeds
from smoothout.results.digest import canonical_settings
from smoothout.results.records import Record
from smoothout.results.significance import Verdict, paired_t_test


def test_accuracies_are_compared_seed_by_seed_with_the_published_difference(f1: Claims, runtime: Runtime) -> None:
    simulate(f1, runtime, F1["large"] + "baseline", [98.0, 97.0, 98.5, 97.5, 98.2], [])
    simulate(f1, runtime, F1["large"] + "smoothout", [98.3, 97.4, 98.7, 97.9, 98.5], [])
    rows = {"F1": {"plus": [F1["large"] + "smoothout"], "minus": [F1["large"] + "baseline"]}}
    [test] = judged({"rows": rows}, runtime)
    truth = paired_t_test([0.3, 0.4, 0.2, 0.4, 0.3])
    assert test.evidence.value == pytest.approx(0.32)
    assert test.evidence.p == pytest.approx(truth.p)
    assert test.published == pytest.approx(98.42 - 98.01)
    assert test.error == pytest.approx(100 * (0.983 * 0.017 / 10_000) ** 0.5)
    assert verdicts([test]) == [Verdict.holds_if_normal]
    turned = {"F1": {"plus": rows["F1"]["minus"], "minus": rows["F1"]["plus"]}}
    assert verdicts(judged({"rows": turned}, runtime)) == [Verdict.contradicted_if_normal]


@pytest.mark.parametrize("quantity", ["best", "sharpness_converged"])
def test_no_verdict_rests_on_the_seeds_that_did_not_diverge(quantity: str, f1: Claims, runtime: Runtime) -> None:
    """Four seeds of five are far better, one of each side diverged: the same one, or another."""
    better, worse = F1["large"] + "smoothout", F1["large"] + "baseline"
    simulate(f1, runtime, better, [98.3, 98.4, 98.7, 98.9, 98.5], [1.0, 1.1, 1.2, 1.0, 1.1], diverged=(4,))
    rows = {"F1": {"plus": [better], "minus": [worse]}}
    given = {"rows": rows, "metrics": [quantity]}
    simulate(f1, runtime, worse, [90.3, 90.4, 90.7, 90.9, 90.5], [0.1] * 5, diverged=(3, 4))
    [test] = judged(given, runtime)
    assert (test.evidence.n, test.failed, test.diverged) == (3, 0, 2)
    assert test.evidence.p < 0.001
    assert verdicts([test]) == [Verdict.undecided]
    assert verdicts([replace(test, diverged=0)]) == [Verdict.holds_if_normal]
    assert "| 3 (2 diverged) |" in page([test]).markdown()


@pytest.mark.parametrize(
    ("min_ratio", "verdict"),
    [
        (1.0, Verdict.holds_if_normal),
        (10.0, Verdict.holds_if_normal),
        (20.0, Verdict.undecided),
        (100.0, Verdict.contradicted_if_normal),
    ],
)
def test_a_ratio_must_be_as_large_as_the_claim_says(
    min_ratio: float, verdict: Verdict, f1: Claims, runtime: Runtime
) -> None:
    """The large batch is 18 to 22 times as sharp."""
    simulate(f1, runtime, F1["large"] + "baseline", [98.0] * 5, [18.0, 19.0, 20.0, 21.0, 22.0])
    simulate(f1, runtime, F1["small"] + "baseline", [98.5] * 5, [1.0] * 5)
    rows = {"F1": {"plus": [F1["large"] + "baseline"], "minus": [F1["small"] + "baseline"]}}
    [test] = judged({"rows": rows, "metrics": ["sharpness_converged"], "min_ratio": min_ratio}, runtime)
    assert 2**test.evidence.value == pytest.approx((18 * 19 * 20 * 21 * 22) ** 0.2)
    assert verdicts([test]) == [verdict]


def test_distances_from_the_start_are_compared_by_ratio(f1: Claims, runtime: Runtime) -> None:
    """The small batch ends 4 times as far away; the record of one seed is from before distances were measured."""
    distances = {"small": [40.0, 42.0, 44.0, 41.0, None], "large": [10.0, 10.5, 11.0, 10.25, 10.0]}
    for batch, values in distances.items():
        for seed, distance in enumerate(values):
            last = {} if distance is None else {"distance": distance}
            write(runtime, cell(f1, F1[batch] + "baseline").jobs[seed], {"last": last, "diverged": False})
    rows = {"F1": {"plus": [F1["small"] + "baseline"], "minus": [F1["large"] + "baseline"]}}
    [test] = judged({"rows": rows, "metrics": ["distance"], "min_ratio": 3.0}, runtime)
    assert (test.evidence.n, 2**test.evidence.value) == (4, pytest.approx(4.0))
    assert format_estimate(test).startswith("4.00x [")


@pytest.mark.parametrize(
    ("limit", "verdict"),
    [(30.0, Verdict.holds_if_normal), (21.0, Verdict.undecided), (10.0, Verdict.contradicted_if_normal)],
)
def test_a_number_must_be_below_the_limit(limit: float, verdict: Verdict, f1: Claims, runtime: Runtime) -> None:
    simulate(f1, runtime, F1["large"] + "baseline", [98.0] * 5, [18.0, 19.0, 20.0, 21.0, 22.0])
    rows = {"F1": {"plus": [F1["large"] + "baseline"]}}
    [test] = judged({"rows": rows, "metrics": ["sharpness_converged"], "kind": "limit", "limit": limit}, runtime)
    low, high = map(float, format_estimate(test).removeprefix("19.9 [").removesuffix("]").split(", "))
    assert 17 < low < (18 * 19 * 20 * 21 * 22) ** 0.2 < high < 23
    assert verdicts([test]) == [verdict]


def test_the_share_of_sharp_directions_is_that_of_equal_eigenvalues() -> None:
    """Three eigenvalues of 2, and 97 of 0."""
    outcome = {"trace": {"mean": 6.0}, "norm": {"mean": 12**0.5}, "dimension": 100}
    record = Record("hessian", "", "", {}, {}, {}, [], outcome, {})
    assert METRICS["sharp_share"].read(record) == pytest.approx(3.0)


def test_a_margin_forgives_what_it_says(f1: Claims, runtime: Runtime) -> None:
    simulate(f1, runtime, F1["small"] + "baseline", [98.50, 98.60, 98.40, 98.55, 98.45], [])
    simulate(f1, runtime, F1["large"] + "smoothout", [98.45, 98.56, 98.35, 98.50, 98.41], [])
    rows = {"F1": {"plus": [F1["large"] + "smoothout"], "minus": [F1["small"] + "baseline"]}}
    assert verdicts(judged({"rows": rows}, runtime)) == [Verdict.contradicted_if_normal]
    assert verdicts(judged({"rows": rows, "margin": 0.1}, runtime)) == [Verdict.holds_if_normal]


def test_sharpness_is_compared_by_ratio_and_a_failed_search_counts_as_missing(f1: Claims, runtime: Runtime) -> None:
    simulate(f1, runtime, F1["large"] + "baseline", [98.0] * 4, [80.0, 40.0, 20.0, None])
    simulate(f1, runtime, F1["large"] + "smoothout", [98.0] * 4, [10.0, 5.0, 2.0, 1.0])
    rows = {"F1": {"plus": [F1["large"] + "baseline"], "minus": [F1["large"] + "smoothout"]}}
    [test] = judged({"rows": rows, "metrics": ["sharpness_converged"]}, runtime)
    assert (test.evidence.n, test.failed) == (3, 1)
    assert 2**test.evidence.value == pytest.approx((8 * 8 * 10) ** (1 / 3))
    assert format_estimate(test).startswith("8.62x [")


def test_a_test_counts_the_seeds_of_weights_that_were_trained_again(f1: Claims, runtime: Runtime) -> None:
    simulate(f1, runtime, F1["large"] + "baseline", [98.0] * 4, [80.0, 40.0, 20.0, 30.0], retrained=(1, 2))
    simulate(f1, runtime, F1["large"] + "smoothout", [98.0] * 3, [10.0, 5.0, 2.0], retrained=(2,))
    rows = {"F1": {"plus": [F1["large"] + "baseline"], "minus": [F1["large"] + "smoothout"]}}
    sharpness, accuracy = judged({"rows": rows, "metrics": ["sharpness_converged", "best"]}, runtime)
    assert (sharpness.retrained, format_seeds(sharpness)) == (2, "3 (2 trained again)")
    assert (accuracy.retrained, format_seeds(accuracy)) == (0, "3")


def test_a_noise_curve_with_an_infinite_loss_has_no_rise() -> None:
    points = [{"a": 0.0, "loss": 0.1}, {"a": 0.04, "loss": None}]
    record = SimpleNamespace(outcome={"train": {"points": points}})
    assert METRICS["noise_rise"].read(record) is None
    points[1]["loss"] = 0.6
    assert METRICS["noise_rise"].read(record) == pytest.approx(0.5)


def test_one_point_of_the_box_refutes_a_sharpness_of_zero(f1: Claims, runtime: Runtime) -> None:
    rows = {"F1": {"plus": [F1["small"] + "baseline"]}}
    given = {"rows": rows, "metrics": ["sharpness_converged"], "kind": "zero"}
    assert verdicts(judged(given, runtime)) == [Verdict.untested]
    simulate(f1, runtime, F1["small"] + "baseline", [98.0], [0.8])
    assert verdicts(judged(given, runtime)) == [Verdict.contradicted]


@pytest.mark.parametrize("effect", [0.0, 0.4])
def test_wrong_verdicts_stay_below_the_nominal_rate(effect: float) -> None:
    """Pages of thirty tests, five seeds: where nothing is there, at most one page in twenty says anything."""
    generator = np.random.default_rng(1)
    claim = Claim("It is so.", "p. 1")
    wrong, right, pages, size = 0, 0, 400, 30
    for _ in range(pages):
        tests = [
            ClaimTest(
                claim, str(i), ("authors_code",), METRICS["best"], paired_t_test(list(generator.normal(effect, 0.2, 5)))
            )
            for i in range(size)
        ]
        found = verdicts(tests)
        held = [v in (Verdict.holds, Verdict.holds_if_normal) for v in found]
        fell = [v in (Verdict.contradicted, Verdict.contradicted_if_normal) for v in found]
        wrong += any(fell) or (any(held) and effect == 0)
        right += sum(held)
    assert wrong / pages < 0.05 + 3 * (0.05 * 0.95 / pages) ** 0.5
    if effect:
        assert wrong == 0
        assert right / (pages * size) > 0.1


def test_every_claim_of_the_papers_names_cells_that_are_there(runtime: Runtime) -> None:
    claims: list[dict[str, Any]] = compose_config(CONFIGS, "verdicts", [])["claims"]
    made = Claims(claims, ClaimScope(("authors_code", "paper_text")), CONFIGS, PUBLISHED)
    tests = made.tests(runtime)
    assert len(made.claims) == len(claims) > 20
    assert {test.evidence.n for test in tests} == {0}
    compared = [t for t in tests if t.claim.kind is ClaimKind.difference and t.metric == METRICS["best"]]
    ours = {t.row for t in compared if {cell.table for cell in t.claim.rows[t.row].cells()} & {"copies", "strengths"}}
    lacking = {t.row for t in compared if t.published is None and len(t.protocols) == 1} - ours
    extra = {"SmoothOut, at the same variance", "AlexNet, 60 epochs, against no noise without weight decay and dropout"}
    assert lacking == extra  # every other compared accuracy was published
    published = [t for t in tests if t.claim.kind is ClaimKind.published and t.protocols == ("authors_code",)]
    assert {t.published is None for t in published} == {False}
    assert len(published) > 40
    contrasts = [t.claim.statement for t in tests if len(t.protocols) == 2]
    assert len(contrasts) == 6, "gap and gain by two accuracies, two ratios of sharpness: once, not per protocol"


def test_an_accuracy_is_compared_with_the_published_one_in_points_and_in_standard_deviations(
    f1: Claims, runtime: Runtime
) -> None:
    simulate(f1, runtime, F1["large"] + "baseline", [98.20, 98.25, 98.15, 98.20, 98.25], [])
    given = {"kind": "published", "tables": ["table2"]}
    tests = judged(given, runtime)
    assert [test.evidence.n for test in tests if test.row.startswith("table2: F1")] == [0, 0, 5, 0]
    [test] = [test for test in tests if test.evidence.n]
    assert test.row == "table2: F1, MNIST, 6000, Baseline"
    assert (test.published, test.evidence.value) == (98.01, pytest.approx(0.20))
    text = page([test]).markdown()
    assert "| +0.20 [+0.15, +0.25] " in text
    assert "| 98.01 " in text
    assert "| +4.8 " in text
    assert verdicts([test]) == [Verdict.holds_if_normal]
    assert judged(given, runtime, replace(SCOPE, profile="short")) == [], "shorter runs are not what was published"


def test_protocols_are_compared_seed_by_seed_and_once(f1: Claims, runtime: Runtime) -> None:
    cells = [F1["large"] + f"baseline | | {protocol}" for protocol in ("authors_code", "paper_text")]
    simulate(f1, runtime, F1["large"] + "baseline", [98.2, 98.1, 98.3], [])
    simulate(f1, runtime, F1["large"] + "baseline", [98.4, 98.2, 98.4], [], protocol="paper_text")
    both = ClaimScope(("authors_code", "paper_text"), seeds=SCOPE.seeds)
    given = {"rows": {"F1": {"plus": cells[:1], "minus": cells[1:]}}}
    [test] = judged(given, runtime, both)
    assert test.evidence.value == pytest.approx(-0.4 / 3)
    assert "| `authors_code` against `paper_text` |" in page([test]).markdown()
    assert judged(given, runtime) == [], "one of the protocols is not judged here"
    [ratio] = judged({"metrics": ["sharpness_converged"], **given}, runtime, both)
    assert ratio.protocols == ("authors_code", "paper_text")


def test_protocols_share_the_initial_weights_of_a_seed_but_batchnorms(runtime: Runtime) -> None:
    """The order of examples hangs on seed and epoch alone (`common.rng`)."""
    starts = []
    for protocol in ("authors_code_v1", "authors_code", "paper_text"):
        config = compose_config(CONFIGS, "train", ["experiment=f1_mnist", f"protocol={protocol}"])
        starts.append(init_model(training_config(config).experiment(), runtime).state_dict())
    same = {name for name, value in starts[0].items() if all(value.equal(start[name]) for start in starts[1:])}
    assert {name for name in starts[0] if name not in same} == {
        name for name in starts[0] if name.endswith("weight") and starts[0][name].ndim == 1
    }


def test_a_cell_may_name_a_quantity_of_its_own(f1: Claims, runtime: Runtime) -> None:
    """Best less last epoch."""
    for seed, (best, last) in enumerate([(98.5, 98.0), (98.6, 98.3)]):
        outcome = {"best": {"test_accuracy": best / 100}, "last": {"test_accuracy": last / 100}, "diverged": False}
        outcome["examples"] = {"train": 60_000, "test": 10_000}
        write(runtime, cell(f1, F1["small"] + "baseline").jobs[seed], outcome)
    [test] = judged(
        {"rows": {"F1": {"plus": [F1["small"] + "baseline"], "minus": [F1["small"] + "baseline | last"]}}}, runtime
    )
    assert test.metric.title == "test accuracy, best epoch, points against test accuracy, last epoch, points"
    assert test.evidence.value == pytest.approx(0.4)


def test_what_claims_lack_is_planned_by_table_and_row_trainings_first(f1: Claims) -> None:
    rows = {"F1": {"plus": [F1["small"] + "baseline"], "minus": [F1["small"] + "smoothout"]}}
    given = {"statement": "It is so.", "source": "p. 1", "rows": rows, "metrics": ["noise_rise"]}
    claims = Claims([given], SCOPE, CONFIGS, PUBLISHED)
    assert [job.kind for job in claims.jobs()] == ["train"] * 10 + ["noise_curve"] * 10
    [(title, jobs)] = claims.plan().items()
    assert title == "table2: F1, MNIST, 256"
    assert [*jobs] == claims.jobs()[10:]


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ({"rows": {"F1": {"minus": [F1["small"] + "baseline"]}}}, ["rows.F1.plus", "must be given"]),
        ({"rows": {"F1": {"plus": []}}}, ["rows.F1.plus", "at least one"]),
        ({"rows": {"F1": {"plus": [F1["small"] + "baseline | speed"]}}}, ["| speed'", "is not a cell", "best, late"]),
        ({"rows": {"F1": {"plus": ["table2 | F1, MNIST, 257 | baseline"]}}}, ["257", "is not a cell", "table2.yaml"]),
        ({"metrics": ["speed"]}, ["metrics", "'speed'", "best, late, second_quarter"]),
        ({"kind": "correlation"}, ["tables", "correlation"]),
        ({"marign": 1}, ["marign", "unknown key", "margin"]),
        ({"rows": ["a"]}, ["rows", "['a']", "group"]),
        ({"rows": {"a": "b"}}, ["rows.a", "'b'", "group"]),
        ({"rows": {"a": {"plus": "table2 | F1"}}}, ["rows.a.plus", "'table2 | F1'", "a list, each text"]),
        ({"rows": {"a": {"plus": [F1["small"] + "baseline"]}}, "kind": "spread"}, ["rows.a.minus"]),
        ({"max_ratio": 0.5, "kind": "spread"}, ["max_ratio", "0.5", "at least 0 and 1"]),
        ({"margin": 0.1, "metrics": ["sharpness_keskar"]}, ["margin", "sharpness_keskar", "ratio"]),
        ({"min_ratio": 2.0}, ["min_ratio", "best is not compared by ratio"]),
        ({"min_ratio": 0.0, "metrics": ["sharpness_keskar"]}, ["min_ratio", "above 0", "0.0"]),
        ({"min_ratio": 2.0, "metrics": ["sharpness_keskar"], "kind": "zero"}, ["min_ratio", "kind zero"]),
        ({"kind": "limit", "limit": 5.0}, ["limit", "compared by ratio"]),
        ({"limit": 5.0, "metrics": ["sharpness_keskar"]}, ["limit", "kind limit", "5.0"]),
        ({"tables": ["table2"]}, ["tables", "difference", "rows"]),
        (
            {"kind": "correlation", "tables": ["table2"], "declared": {"when": "now", "seeds": [0]}},
            ["declared", "null", "correlation"],
        ),
        ({"kind": "published", "rows": {"a": {"plus": [F1["small"] + "baseline"] * 2}}}, ["rows.a", "one cell"]),
        ({"rows": {"a": {"plus": [F1["small"] + "baseline | | paper"]}}}, ["'paper'", "protocol", "authors_code_v1"]),
        (
            {"rows": {"a": {"plus": [F1["small"] + "baseline | | paper_text", F1["small"] + "baseline"]}}},
            ["rows.a.plus", "protocol", "every cell"],
        ),
    ],
)
def test_a_claim_that_cannot_be_tested_is_refused_by_name(
    given: dict[str, Any], parts: list[str], runtime: Runtime
) -> None:
    with pytest.raises(ConfigError) as refused:
        judged(given, runtime)
    assert [part for part in parts if part not in str(refused.value)] == []


def test_metrics_of_earlier_versions_still_work() -> None:
    with pytest.warns(FutureWarning, match="last_recalibrated"):
        assert Claim("It is so.", "p. 1", ("recomputed_last",)).metrics == ("last_recalibrated",)


def flat(settings: dict[str, Any]) -> dict[tuple[str, str], Any]:
    nodes = {key: value if isinstance(value, dict) else {"": value} for key, value in settings.items()}
    return {(key, name): value for key, node in nodes.items() for name, value in node.items()}


def test_every_suspected_cause_changes_one_setting(f1: Claims) -> None:
    claims = compose_config(CONFIGS, "verdicts", ["claims=causes"])["claims"]
    Claims(claims, ClaimScope(("authors_code",)), CONFIGS, PUBLISHED)
    runs = f1._plan("causes", "authors_code").runs
    for (row, method), changed_runs in runs.items():
        old, new = (
            flat(canonical_settings(one.jobs[0].settings)) for one in (runs["nothing changed", method], changed_runs)
        )
        changed = {key for key in {*old, *new} if old.get(key) != new.get(key)}
        affects_noise_alone = row in ("the strength falls", "BatchNorm is perturbed too")
        none = row == "nothing changed" or (affects_noise_alone and method != "smoothout")
        assert len(changed) == (0 if none else 1), (row, method)
