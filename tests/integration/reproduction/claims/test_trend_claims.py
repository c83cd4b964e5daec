"""Claims about trends and learning curves, on simulated records of known truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers.simulated_records import F1, cell, judged, page, simulate, verdicts, write

from smoothout.common.errors import ConfigError
from smoothout.jobs.runtime import Runtime
from smoothout.reproduction.claim_tests import Claims
from smoothout.reproduction.verdict_text import format_estimate
from smoothout.results.significance import Verdict

TREND = {"kind": "trend", "tables": ["table2"]}


@pytest.mark.parametrize("falling", [True, False])
def test_a_trend_is_of_all_settings_and_within_those_that_share_one(
    falling: bool, f1: Claims, runtime: Runtime
) -> None:
    """Accuracy grows with learning rate / batch size or falls with it; sharpness the other way round."""
    generator = np.random.default_rng(0)
    for row, method in f1._plan("table2", "authors_code").runs:
        experiment = next(iter(cell(f1, f"table2 | {row} | {method}").jobs.values())).settings
        ratio = np.log(experiment.optimizer.lr / experiment.batch.size) * (-1 if falling else 1)
        noise = generator.normal(0, 0.2, (2, 5))  # the order of the settings depends on the seed
        sharp = np.exp(-ratio + noise[1])
        simulate(f1, runtime, f"table2 | {row} | {method}", list(95 + ratio + noise[0]), list(sharp))
    for metric in ("best", "sharpness_converged"):
        tests = judged({**TREND, "metrics": [metric]}, runtime)
        assert [test.row for test in tests] == ["all settings", "within one batch size", "within one learning rate"]
        everything, _, one_rate = tests
        assert (everything.evidence.n, everything.runs) == (12, 60)
        sign = -1 if falling else 1
        assert sign * everything.evidence.value > 0.8  # equal batch sizes are equal ratios, so it is not 1
        assert sign * everything.evidence.ci_low > 0.5 or sign * everything.evidence.ci_high > 0.5
        assert one_rate.evidence.value == pytest.approx(everything.evidence.value)  # all rates are 0.001
        assert verdicts([everything]) == [Verdict.contradicted if falling else Verdict.holds]
        assert "| 12 settings, 60 runs |" in page([everything]).markdown()
        assert format_estimate(everything).count(",") == 1  # an interval


def test_a_trend_counts_what_was_lost_and_is_undecided_then(f1: Claims, runtime: Runtime) -> None:
    for place, (row, method) in enumerate(f1._plan("table2", "authors_code").runs):
        simulate(f1, runtime, f"table2 | {row} | {method}", [90.0 + place] * 5, [None] * 5, diverged=(0,))
    twice = TREND | {"tables": ["table2", "table2"]}  # runs that tables share count once
    accuracy, *_ = judged({**twice, "metrics": ["best"]}, runtime)
    assert (accuracy.diverged, accuracy.runs, accuracy.failed) == (12, 48, 0)
    searched, *_ = judged({**twice, "metrics": ["sharpness_converged"]}, runtime)
    assert (searched.evidence.n, searched.failed, searched.runs) == (0, 48, 0)


def test_without_records_no_trend_is_tested(f1: Claims, runtime: Runtime) -> None:
    assert verdicts(judged({**TREND, "metrics": ["best"]}, runtime)) == [Verdict.untested] * 3


def curve(runtime: Runtime, claims: Claims, name: str, heights: list[float]) -> None:
    """Trainings whose accuracy is constant, one per seed."""
    for height, job in zip(heights, cell(claims, name).jobs.values(), strict=False):
        last = {"test_accuracy": height, "train_loss": 0.1}
        curves = {"train_accuracy": [height] * 3, "test_accuracy": [height] * 3}
        outcome = {"best": last, "last": last, "curves": curves, "diverged": False, "examples": {}}
        write(runtime, job, outcome | {"weights": {"best": "first", "last": "first"}})


def test_curves_are_compared_by_their_distance_to_a_third_seed_by_seed(f1: Claims, runtime: Runtime) -> None:
    reference, near, far = F1["small"] + "baseline", F1["large"] + "baseline", F1["large"] + "smoothout"
    curve(runtime, f1, reference, [0.90, 0.91, 0.92, 0.93])
    curve(runtime, f1, near, [0.91, 0.92, 0.94, 0.94])
    curve(runtime, f1, far, [0.85, 0.87, 0.87, 0.88, 0.88])
    rows = {"F1": {"plus": [near, reference], "minus": [far, reference]}}
    given = {"kind": "curves", "metrics": ["last"], "rows": rows}
    [test] = judged(given, runtime)
    distances = [5 - 1, 4 - 1, 5 - 2, 5 - 1]  # far minus near, in points; the fifth seed has no reference
    assert test.evidence.n == 4
    assert test.evidence.value == pytest.approx(np.mean(distances))
    assert verdicts([test]) == [Verdict.holds_if_normal]
    assert "distance between learning curves" in page([test]).markdown()
    assert test.error is test.published is None


@pytest.mark.parametrize("sides", [{"plus": ["a | b | c"], "minus": ["a | b | c"]}, {"plus": ["a | b | c"] * 2}])
def test_curves_need_two_cells_on_each_side(sides: dict[str, Any], runtime: Runtime) -> None:
    with pytest.raises(ConfigError, match=r"rows\.F1: must have two cells in plus and two in minus"):
        judged({"kind": "curves", "rows": {"F1": sides}}, runtime)


@pytest.mark.parametrize("kind", ["trend", "correlation"])
def test_a_correlation_needs_tables(kind: str, runtime: Runtime) -> None:
    with pytest.raises(ConfigError, match="tables"):
        judged({"kind": kind}, runtime)
