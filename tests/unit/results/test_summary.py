"""What a user reads about an analysis: its name, its numbers, and what went wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from helpers.common import a_record
from torch import nn

from smoothout.analysis.jobs.adaptive_sharpness import AdaptiveSharpnessJob
from smoothout.analysis.jobs.hessian import Hessian
from smoothout.analysis.jobs.interpolation import Interpolation
from smoothout.analysis.jobs.landscape import Landscape, Plane
from smoothout.analysis.jobs.noise_curve import NoiseCurve
from smoothout.analysis.jobs.search_comparison import SearchComparison
from smoothout.analysis.jobs.sharpness import Sharpness
from smoothout.results import summary

SETTINGS = (
    Sharpness(eps=0.01),
    Interpolation(points=4),
    NoiseCurve(strengths=(0.0, 0.1)),
    Landscape(points=3, directions=2),
    Plane(points=3),
    Hessian(),
    AdaptiveSharpnessJob(rho=0.1),
    SearchComparison(subspace=2, budget=5),
)


@pytest.fixture
def splits(tiny_split) -> tuple[Any, Any]:
    return tiny_split(40), tiny_split(30, seed=1)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 3)).eval()


def described(settings: Any, splits: tuple[Any, Any]) -> list[str]:
    torch.manual_seed(0)
    outcome = settings.run([network() for _ in range(settings.runs)], *splits, lambda: None)
    return summary.analysis_summary(a_record(settings.kind, json.loads(json.dumps(outcome)))).splitlines()


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.kind)
def test_every_analysis_is_described_in_a_few_lines_that_begin_with_its_name(settings, splits):
    lines = described(settings, splits)
    assert lines[0].startswith("name: ")
    assert len(lines) <= 13
    assert all(line.strip() for line in lines)


def test_a_search_comparison_has_a_line_per_search_and_a_failed_one_says_so():
    course = {
        "space": "full",
        "search": "keskar",
        "values": [0.0, 1.5],
        "answer": 1.5,
        "status": "STOP",
        "failed": False,
    }
    courses = [course, course | {"search": "released", "answer": 0.0, "status": "ABNORMAL", "failed": True}]
    _, keskar, released = summary.analysis_summary(a_record("atlas", {"courses": courses})).splitlines()
    assert keskar.split() == ["full", "keskar", "1.5000", "2", "STOP"]
    assert released.split() == ["full", "released", "failed", "2", "ABNORMAL"]


def test_held_out_images_are_not_called_a_test_split():
    out = {name: {"test": {"accuracy": share}} for name, share in (("kept", 0.5), ("recomputed", 0.25))}
    first, *lines = summary.analysis_summary(a_record("averages", out), held_out=True).splitlines()
    assert first == "name: held-out accuracy by running statistics"
    assert [line.split() for line in lines] == [["kept", "50.00%"], ["recomputed", "25.00%"]]
    unseen = summary.analysis_summary(a_record("unseen_test", {"accuracy": 0.5, "loss": 1.25}), held_out=True)
    assert unseen == "name: accuracy on the test split 50.00%, loss 1.25"
    diverged = summary.analysis_summary(a_record("unseen_test", {"accuracy": 0.1, "loss": None}))
    assert diverged == "name: accuracy on the test split 10.00%, loss not finite"
