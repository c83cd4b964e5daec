"""Landscape, plane and Hessian as jobs: they record what the functions give, and refuse what cannot be."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from smoothout.analysis.hessian import hessian_spectrum, top_eigenvalues, trace_and_norm
from smoothout.analysis.jobs.hessian import Hessian
from smoothout.analysis.jobs.landscape import Landscape, Plane
from smoothout.analysis.landscape import landscape_line, landscape_plane
from smoothout.analysis.options import BiasDirection, SplitName


def run(settings, model, splits) -> tuple[dict, int]:
    """The outcome as a record keeps it, and how often it ticked."""
    ticks: list[int] = []
    outcome = settings.run([model], *splits, lambda: ticks.append(1))
    return json.loads(json.dumps(outcome)), len(ticks)


def test_a_recorded_landscape_is_the_functions_on_both_splits_along_the_same_directions(model, splits):
    settings = Landscape(points=3, directions=2, seed=4, one_dimensional=BiasDirection.zero, examples=25)
    outcome, ticks = run(settings, model, splits)
    for part, split in zip(("train", "test"), splits, strict=True):
        batches = split.first(25).batches(1000)
        expected = landscape_line(model, batches, [-1, 0, 1], directions=2, seed=4, one_dimensional="zero")
        assert outcome[part] == json.loads(json.dumps([point._asdict() for point in expected]))
    assert ticks == settings.ticks(40, 30) == settings.evaluations(40, 30) == 12
    assert settings.examples_seen(40, 30) == 25


@pytest.mark.parametrize("part", [SplitName.train, SplitName.test])
def test_a_recorded_plane_is_the_functions_on_its_split(model, splits, part):
    settings = Plane(points=3, start=-0.5, stop=0.5, seed=2, split=part)
    outcome, ticks = run(settings, model, splits)
    grid = [-0.5, 0.0, 0.5]
    expected = landscape_plane(model, splits[part is SplitName.test].batches(1000), grid, grid, seed=2)
    assert outcome["alphas"] == outcome["betas"] == grid
    assert outcome["losses"] == [list(row) for row in expected.losses]
    assert outcome["accuracies"] == [list(row) for row in expected.accuracies]
    assert ticks == settings.ticks(40, 30) == 9
    assert settings.examples_seen(40, 30) == (40 if part is SplitName.train else 30)


def test_a_recorded_hessian_has_the_functions_eigenvalues_trace_norm_and_spectrum(model, splits):
    settings = Hessian(eigenvalues=2, tolerance=1e-5, probes=3, spectrum_probes=2, spectrum_steps=5, seed=1)
    outcome, ticks = run(settings, model, splits)
    given = model, splits[0].batches(1000), F.cross_entropy
    top = top_eigenvalues(*given, 2, tolerance=1e-5, seed=1)
    sums = trace_and_norm(*given, probes=3, seed=1)
    spectrum = hessian_spectrum(*given, probes=2, steps=5, seed=1)
    assert outcome["eigenvalues"]["values"] == list(top.values)
    assert outcome["eigenvalues"]["converged"] is True
    parts = ["values", "residuals", "converged", "status", "dimension", "products"]
    assert list(outcome["eigenvalues"]) == parts  # eigenvectors are not part of a record
    assert (outcome["trace"]["mean"], outcome["trace"]["standard_error"]) == tuple(sums.trace)
    assert (outcome["squared_norm"]["mean"], outcome["squared_norm"]["standard_error"]) == tuple(sums.squared_norm)
    assert outcome["spectrum"]["ritz"] == [list(values) for values in spectrum.ritz]
    assert outcome["products"] == ticks == top.products + 3 + 10
    assert outcome["dimension"] == 83


def test_the_norm_is_the_root_of_its_square_with_the_error_of_first_order(model, splits):
    outcome, _ = run(Hessian(probes=20), model, splits)
    squared, norm = outcome["squared_norm"], outcome["norm"]
    assert norm["mean"] == pytest.approx(math.sqrt(squared["mean"]))
    above = math.sqrt(squared["mean"] + 1e-3 * squared["standard_error"])
    assert norm["standard_error"] == pytest.approx((above - norm["mean"]) / 1e-3, rel=1e-2)
    assert outcome["spectrum"] is None


def test_a_loss_without_curvature_has_norm_zero_with_error_zero(splits):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))  # one class: the loss is 0 everywhere
    halves = [split.first(None) for split in splits]
    for split in halves:
        split.labels = torch.zeros_like(split.labels)
    outcome, _ = run(Hessian(probes=2), flat.eval(), halves)
    assert outcome["norm"] == {"mean": 0.0, "standard_error": 0.0}


def test_more_eigenvalues_than_weights_are_all_of_them(splits):
    tiny = nn.Sequential(nn.Flatten(), nn.Linear(16, 3, bias=False))
    tiny[1].weight.requires_grad_(False)
    tiny.append(nn.Linear(3, 3, bias=False))
    outcome, _ = run(Hessian(eigenvalues=50), tiny.eval(), splits)
    assert len(outcome["eigenvalues"]["values"]) == 9


def test_the_estimated_number_of_products_is_near_the_number_that_was_needed(splits):
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Flatten(), nn.Linear(16, 30), nn.Tanh(), nn.Linear(30, 3)).eval()
    settings = Hessian()
    _, ticks = run(settings, wide, splits)
    assert 0.5 < ticks / settings.ticks(40, 30) < 2
    assert settings.evaluations(40, 30) == 2 * settings.ticks(40, 30) + 4
