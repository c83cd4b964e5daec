"""Filter-normalized landscapes: directions as long as the filters, the model's own numbers at 0, a model left alone."""

from __future__ import annotations

import pytest
import torch
from helpers.common import approx_loss
from torch import nn

from smoothout.analysis.landscape import filter_direction, landscape_line, landscape_plane
from smoothout.analysis.options import BiasDirection
from smoothout.nn.evaluation import evaluate
from smoothout.nn.parameters import filter_norms, trainable_parameters

ALPHAS = [-0.5, 0.0, 0.3]


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(16, 3)
    )
    model(torch.randn(32, 1, 4, 4))
    nn.init.uniform_(model[1].weight)
    nn.init.normal_(model[1].bias)
    model[5].bias.requires_grad_(False)
    return model


@pytest.fixture
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(n, 1, 4, 4), torch.randint(0, 3, (n,))) for n in (10, 7)]


def test_every_filter_of_a_direction_is_as_long_as_the_models_own(model):
    """But for the 1e-6 that is added to the length of what was drawn."""
    direction = filter_direction(model, 0, 0)
    assert [d.shape for d in direction] == [w.shape for w in trainable_parameters(model)]
    for drawn, weight in zip(direction, trainable_parameters(model), strict=True):
        torch.testing.assert_close(filter_norms(drawn), filter_norms(weight), rtol=1e-4, atol=1e-6)
    cosine = torch.nn.functional.cosine_similarity(direction[0].flatten(), model[0].weight.flatten(), dim=0)
    assert abs(cosine) < 0.9


def test_in_one_dimension_a_direction_is_plus_or_minus_the_weight_or_nothing(model):
    scaled = filter_direction(model, 0, 0)
    for drawn in (scaled[2], scaled[3]):
        assert drawn.dim() == 1
    torch.testing.assert_close(scaled[3].abs(), model[1].bias.detach().abs(), rtol=1e-3, atol=1e-6)
    zero = filter_direction(model, 0, 0, one_dimensional="zero")
    assert [bool(d.any()) for d in zero] == [d.dim() > 1 for d in scaled]
    assert all(torch.equal(z, s) for z, s in zip(zero, scaled, strict=True) if s.dim() > 1)


def test_a_direction_depends_on_seed_and_index_and_not_on_the_dtype(model):
    first, again = filter_direction(model, 3, 1), filter_direction(model, 3, 1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (filter_direction(model, 3, 2), filter_direction(model, 4, 1)):
        assert not torch.equal(first[0], other[0])
    double = filter_direction(model.double(), 3, 1)
    assert double[0].dtype == torch.float64
    torch.testing.assert_close(double[0].float(), first[0])


def test_at_zero_the_line_and_the_plane_are_the_models_own_numbers_exactly(model, batches):
    own = evaluate(model, batches)
    point = landscape_line(model, batches, ALPHAS, directions=2)[1]
    assert (point.losses, point.accuracies) == ((own.loss,) * 2, (own.accuracy,) * 2)
    plane = landscape_plane(model, batches, ALPHAS, [0.1, 0.0])
    assert (plane.losses[1][1], plane.accuracies[1][1]) == own


@pytest.mark.parametrize("one_dimensional", list(BiasDirection))
def test_a_point_is_the_model_moved_by_alpha_times_the_direction(model, batches, one_dimensional):
    points = landscape_line(model, batches, ALPHAS, directions=2, seed=5, one_dimensional=one_dimensional)
    directions = [filter_direction(model, 5, i, one_dimensional=one_dimensional) for i in range(2)]
    with torch.no_grad():
        for index, direction in enumerate(directions):
            start = [w.clone() for w in trainable_parameters(model)]
            for w, d in zip(trainable_parameters(model), direction, strict=True):
                w.add_(d, alpha=0.3)
            moved = evaluate(model, batches)
            assert (points[2].losses[index], points[2].accuracies[index]) == moved
            for w, old in zip(trainable_parameters(model), start, strict=True):
                w.copy_(old)
    assert points[2].losses[0] != points[2].losses[1]
    assert [p.alpha for p in points] == ALPHAS


def test_the_line_is_the_planes_row_without_the_second_direction(model, batches):
    plane = landscape_plane(model, batches, ALPHAS, [-0.2, 0.0], seed=2)
    line = landscape_line(model, batches, ALPHAS, seed=2)
    assert [row[1] for row in plane.losses] == [p.losses[0] for p in line]
    assert [row[1] for row in plane.accuracies] == [p.accuracies[0] for p in line]
    second = landscape_line(model, batches, [-0.2], directions=2, seed=2)[0]
    assert plane.losses[1][0] == second.losses[1]


def test_the_loss_of_a_linear_model_along_a_line_is_known_in_closed_form():
    model = nn.Linear(3, 2, bias=False)
    x, y = torch.randn(5, 3), torch.randint(0, 2, (5,))
    direction = filter_direction(model, 0, 0)[0]
    point = landscape_line(model, [(x, y)], [0.7])[0]
    expected = nn.functional.cross_entropy(x @ (model.weight.detach() + 0.7 * direction).T, y).item()
    assert point.losses[0] == approx_loss(expected)


def test_running_statistics_are_kept_and_every_evaluation_ticks(model, batches):
    seen, ticks = [], []
    model[1].register_forward_hook(lambda module, *_: seen.append(module.running_var.clone()))
    landscape_line(model, batches, ALPHAS, directions=2, tick=lambda: ticks.append(1))
    landscape_plane(model, batches, ALPHAS, [0.0], tick=lambda: ticks.append(1))
    assert all(torch.equal(var, model[1].running_var) for var in seen)
    assert len(ticks) == 9


def test_directions_of_ones_own_are_gone_along_as_they_are(model, batches):
    drawn = [filter_direction(model, 4, i) for i in range(3)]
    wanted = landscape_line(model, batches, ALPHAS, directions=3, seed=4)
    assert landscape_line(model, batches, iter(ALPHAS), directions=drawn) == wanted
    assert landscape_line(model, batches, ALPHAS, directions=[[d.double() for d in one] for one in drawn]) == wanted
    plane = landscape_plane(model, batches, ALPHAS, [0.2], directions=drawn[:2])
    assert plane == landscape_plane(model, batches, ALPHAS, [0.2], seed=4)
    other = landscape_plane(model, batches, [0.0], [0.3], directions=drawn[1:])
    assert other.losses[0][0] == wanted[2].losses[2]
