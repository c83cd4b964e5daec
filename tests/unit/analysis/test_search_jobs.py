"""Adaptive sharpness and the comparison of searches as jobs: what they record, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from torch.nn import functional as F

from smoothout.analysis.adaptive_sharpness import adaptive_sharpness
from smoothout.analysis.jobs.adaptive_sharpness import AdaptiveSharpnessJob
from smoothout.analysis.jobs.search_comparison import SearchComparison
from smoothout.analysis.options import Norm, SplitName
from smoothout.analysis.search_comparison import compare_searches


@pytest.mark.parametrize("norm", list(Norm))
@pytest.mark.parametrize("part", [SplitName.train, SplitName.test])
def test_a_recorded_adaptive_sharpness_is_the_functions(model, splits, norm, part):
    ticks: list[int] = []
    settings = AdaptiveSharpnessJob(
        norm=norm, rho=0.1, split=part, normalize_logits=True, iterations=4, random_starts=1, seed=3
    )
    outcome = settings.run([model], *splits, lambda: ticks.append(1))
    expected = adaptive_sharpness(
        model,
        splits[part is SplitName.test].batches(1000),
        F.cross_entropy,
        0.1,
        norm=norm,
        normalize_logits=True,
        iterations=4,
        random_starts=1,
        seed=3,
    )
    assert outcome == asdict(expected)
    assert outcome["value"] > 0
    assert outcome["evaluations"] == len(ticks) <= settings.ticks(40, 30)


def test_a_recorded_search_comparison_is_the_functions_on_both_splits(model, splits):
    ticks: list[int] = []
    settings = SearchComparison(eps=0.01, iterations=3, subspace=2, budget=8, seed=1, examples=20)
    outcome = settings.run([model], *splits, lambda: ticks.append(1))
    halves = [split.first(20).batches(1000) for split in splits]
    expected = compare_searches(model, *halves, F.cross_entropy, eps=0.01, iterations=3, subspace=2, budget=8, seed=1)
    assert outcome["courses"] == [asdict(course) for course in expected]
    assert json.loads(json.dumps(outcome))["courses"][0]["search"] == "converged"
    assert len(ticks) == sum(len(course.values) for course in expected)
