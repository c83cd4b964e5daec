"""The page of verdicts."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from helpers.figure_plans import figure_plan
from helpers.simulated_records import CONFIGS, F1, PUBLISHED, cell, judged, page, simulate

from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.claim_tests import Claims
from smoothout.reproduction.claims import ClaimScope, Declaration
from smoothout.reproduction.verdict_text import format_rows
from smoothout.results.significance import TestResult, Verdict


def test_the_page_names_what_was_not_run_and_counts_the_verdicts(f1: Claims, runtime: Runtime) -> None:
    simulate(f1, runtime, F1["small"] + "baseline", [98.5], [])
    simulate(f1, runtime, F1["large"] + "baseline", [98.0], [])
    rows = {
        "F1, MNIST": {"plus": [F1["small"] + "baseline"], "minus": [F1["large"] + "baseline"]},
        "none": {"plus": [F1["small"] + "smoothout"], "minus": [F1["large"] + "smoothout"]},
    }
    tests = judged({"rows": rows, "metrics": ["best", "noise_rise"]}, runtime)
    text = page(
        [*tests, *(replace(test, protocols=("authors_code_v1",), evidence=TestResult()) for test in tests)]
    ).markdown()
    assert "`python judge.py` writes this page." in text
    assert "1 undecided, 3 not tested" in text
    assert "+0.50" in text
    assert "Not tested under `authors_code`: F1, MNIST (rise of the training loss under noise, a = 0.04)." in text
    assert "Not tested under `authors_code_v1`: F1, MNIST." in text
    assert "Not tested under any protocol: none." in text


def test_tests_of_one_seed_cost_the_others_nothing(f1: Claims, runtime: Runtime) -> None:
    simulate(f1, runtime, F1["large"] + "baseline", [98.0, 97.0, 98.5, 97.5, 98.2], [])
    simulate(f1, runtime, F1["large"] + "smoothout", [98.3, 97.4, 98.7, 97.9, 98.5], [])
    simulate(f1, runtime, F1["small"] + "smoothout", [98.6], [])
    [five] = judged(
        {"rows": {"F1": {"plus": [F1["large"] + "smoothout"], "minus": [F1["large"] + "baseline"]}}}, runtime
    )
    [one] = judged(
        {"rows": {"F1": {"plus": [F1["small"] + "smoothout"], "minus": [F1["large"] + "baseline"]}}}, runtime
    )
    alone, among = page([five]), page([five, *[one] * 100])
    assert [judged.p for judged in among.judged] == [alone.judged[0].p, *[1.0] * 100]
    assert "101 of 101 tests have numbers" in among.markdown()
    assert "corrected for 1 of them" in among.markdown()


def test_what_is_decided_stands_first_and_then_how_many_tests_came_out_how(f1: Claims, runtime: Runtime) -> None:
    simulate(f1, runtime, F1["small"] + "baseline", [98.5, 98.6, 98.4], [0.9])
    simulate(f1, runtime, F1["large"] + "baseline", [98.0, 98.11, 97.9], [])
    small, large, noisy = (
        [F1[size] + method] for size, method in (("small", "baseline"), ("large", "baseline"), ("small", "smoothout"))
    )
    none = judged({"statement": "Nobody looked.", "rows": {"F1": {"plus": noisy}}}, runtime)
    gap = judged({"statement": "There is a gap.", "rows": {"F1": {"plus": small, "minus": large}}}, runtime)
    zero = judged(
        {"statement": "It is 0.", "kind": "zero", "metrics": ["sharpness_converged"], "rows": {"F1": {"plus": small}}},
        runtime,
    )
    text = page([*gap, *zero, *none]).markdown()
    short = text[text.index("## In short") : text.index("## There is a gap.")]
    assert re.search(
        r"\| \*\*holds if differences are normal\*\* +\| There is a gap\. +\| F1, `authors_code` +\|"
        r" .*\+0\.50 \[.*\| [\d.e-]+ +\|",
        short,
    )
    assert re.search(r"\| \*\*does not hold\*\* +\| It is 0\. +\|.*at least 0\.9000% +\| proof +\|", short)
    assert "Nobody looked." not in short
    assert "No test is decided so far." in page(none).markdown()


def test_p_is_corrected_within_the_page_and_over_the_exploratory_tests_of_all_pages(
    f1: Claims, runtime: Runtime
) -> None:
    """The verdict goes by the page; declared tests elsewhere do not count."""
    simulate(f1, runtime, F1["small"] + "baseline", [98.5, 98.6, 98.4, 98.5], [])
    simulate(f1, runtime, F1["large"] + "baseline", [98.0, 98.11, 97.9, 98.0], [])
    rows = {"F1": {"plus": [F1["small"] + "baseline"], "minus": [F1["large"] + "baseline"]}}
    [test] = judged({"rows": rows}, runtime)
    declared = replace(test, claim=replace(test.claim, declared=Declaration("today", (0, 1, 2, 3))))
    here = replace(page([test]), elsewhere=[test] * 99 + [declared] * 100)
    [one] = here.judged
    assert (one.p, one.p_everywhere) == (test.evidence.p, pytest.approx(100 * test.evidence.p))
    assert one.verdict is Verdict.holds_if_normal
    assert '"all pages" for the 100 exploratory tests' in here.markdown()
    assert "p, all pages" not in page([test]).markdown()
    assert "Exploratory." in here.markdown()


def test_a_page_of_other_runs_than_the_papers_says_so_first(f1: Claims, runtime: Runtime) -> None:
    papers = page(judged({"rows": {"F1": {"plus": [F1["small"] + "baseline"]}}}, runtime))
    assert papers.markdown().startswith("# Verdicts\n\nWords.")
    short = replace(papers, claim_scope=ClaimScope(profile="short"), file="other.md")
    assert short.markdown().startswith("# Verdicts (profile short, float32)\n\n**These runs are not the papers'")
    assert "[other.md](other.md)" in short.markdown()
    assert "other.md" not in replace(short, linked=False).markdown(), "no such page"


def test_page_and_table_look_at_the_same_measurements_under_every_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Profile smoke has analyses look at 500 examples."""
    monkeypatch.undo()
    claims = Claims([], ClaimScope(("authors_code",), "smoke"), CONFIGS, PUBLISHED)
    cells = {(one.row, one.column): one for one in claims._plan("table2", "authors_code").cells}
    for metric in ("best_recalibrated", "last_recalibrated"):
        [job] = cell(claims, F1["large"] + "baseline", metric).jobs.values()
        [shown] = cells["F1, MNIST, 6000", f"baseline {metric}"].jobs.values()
        assert job.settings.examples == 500
        assert job.digest == shown.digest
    for metric in ("noise_rise", "adaptive_sharpness"):
        [job] = cell(claims, F1["large"] + "baseline", metric).jobs.values()
        assert job.settings.examples == 500


def test_page_and_picture_look_at_the_same_adaptive_sharpness(f1: Claims) -> None:
    """On 10,000 examples of all."""
    job = cell(f1, F1["large"] + "baseline", "adaptive_sharpness").jobs[0]
    assert job.digest in {shown.digest for shown in figure_plan("adaptive-f1").shown()}


def test_rows_of_several_methods_are_listed_once() -> None:
    rows = [
        f"{method}, {network}, {batch} batch"
        for method in ("SAM", "NSO", "EMA")
        for network in ("F1, MNIST", "C1")
        for batch in ("small", "large")
    ]
    together = "F1, MNIST, small batch; F1, MNIST, large batch; C1, small batch; C1, large batch"
    assert format_rows(rows) == f"SAM, NSO, EMA (each: {together})"
    alone = "EMA, F1, MNIST, small batch; EMA, F1, MNIST, large batch; EMA, C1, small batch"
    assert format_rows(rows[:-1]) == f"SAM, NSO (each: {together}); {alone}"
    assert format_rows(["F1, MNIST", "C1, CIFAR-10"]) == "F1, MNIST; C1, CIFAR-10"
    assert format_rows(["all of it", "a, b", "c, b"]) == "all of it; a, b; c, b"


def test_a_page_without_records_says_so_first(f1: Claims, runtime: Runtime) -> None:
    tests = judged(
        {"rows": {"F1": {"plus": [F1["large"] + "smoothout"], "minus": [F1["large"] + "baseline"]}}}, runtime
    )
    assert "**None of this has been run so far.**" in page(tests).markdown()
    simulate(f1, runtime, F1["large"] + "baseline", [98.0, 98.11], [])
    simulate(f1, runtime, F1["large"] + "smoothout", [98.3, 98.4], [])
    tests = judged(
        {"rows": {"F1": {"plus": [F1["large"] + "smoothout"], "minus": [F1["large"] + "baseline"]}}}, runtime
    )
    assert "None of this has been run" not in page(tests).markdown()
