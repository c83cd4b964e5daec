"""Adaptive sharpness: closed forms, brute force, invariance to rescaling, and an unchanged model."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from helpers.known_maxima import ONE_EXAMPLE, Landscape, height, quadratic
from scipy.optimize import brentq
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from smoothout.analysis.adaptive_sharpness import adaptive_sharpness, normalize_logits, projected_slope
from smoothout.analysis.box_search import Point
from smoothout.analysis.options import Norm
from smoothout.analysis.sharpness import sharpness
from smoothout.nn.parameters import parameters_to_vector, trainable_parameters

NORMS = list(Norm)


def network(classes: int = 2) -> nn.Sequential:
    """A 2-3-2 ReLU network, 17 weights, float64; or of more classes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, classes)).double()


def examples(count: int = 20) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    targets = (inputs.sum(1) > 0).long()
    return list(zip(inputs.split(7), targets.split(7), strict=True))


# Closed forms


def test_a_linear_loss_rises_by_the_dual_norm_of_slope_times_weight():
    x, slope = [0.3, -2.0, 0.0, 5.0], [1.0, -0.2, 3.0, -0.5]
    reach = [abs(g * w) for g, w in zip(slope, x, strict=True)]
    for norm, dual in ((Norm.linf, sum(reach)), (Norm.l2, math.hypot(*reach))):
        found = adaptive_sharpness(quadratic(x, slope, [0.0] * 4), ONE_EXAMPLE, height, 0.1, norm=norm)
        assert found.value == pytest.approx(0.1 * dual, rel=1e-12)
        assert (found.loss, found.failed, found.dimension) == (1.0, False, 4)
        assert found.max_loss == pytest.approx(1.0 + 0.1 * dual)
        assert found.rise_left < 1e-12


def test_a_quadratic_over_the_box_has_each_weight_at_its_better_bound():
    x, slope, curvature, rho = [0.5, -1.0, 2.0], [0.4, -0.7, 0.1], [3.0, 1.0, 2.0], 0.2
    rise = sum(abs(g) * rho * abs(w) + 0.5 * d * (rho * w) ** 2 for w, g, d in zip(x, slope, curvature, strict=True))
    found = adaptive_sharpness(quadratic(x, slope, curvature), ONE_EXAMPLE, height, rho)
    assert found.value == pytest.approx(rise, rel=1e-12)


def test_a_quadratic_over_the_ball_has_the_maximum_of_its_secular_equation():
    """max g.z + z.D.z / 2 over ||z|| <= 1 is where (m - D) z = g for the m >= max D that makes ||z|| = 1."""
    x, slope, curvature, rho = [0.5, -1.0, 2.0], [0.4, -0.7, 0.1], [3.0, 1.0, 2.0], 0.2
    g = [rho * abs(w) * s for w, s in zip(x, slope, strict=True)]
    d = [(rho * w) ** 2 * c for w, c in zip(x, curvature, strict=True)]
    multiplier = brentq(
        lambda m: sum((a / (m - b)) ** 2 for a, b in zip(g, d, strict=True)) - 1.0, max(d) + 1e-6, 100.0, xtol=1e-14
    )
    z = [a / (multiplier - b) for a, b in zip(g, d, strict=True)]
    rise = sum(a * t + 0.5 * b * t * t for a, b, t in zip(g, d, z, strict=True))
    found = adaptive_sharpness(quadratic(x, slope, curvature), ONE_EXAMPLE, height, rho, norm="l2", iterations=200)
    assert found.value == pytest.approx(rise, rel=1e-9)
    assert found.rise_left < 1e-5


@pytest.mark.parametrize("norm", NORMS)
def test_at_an_exact_minimum_the_random_starts_find_the_rise(norm):
    model = quadratic([1.0, -1.0], [0.0, 0.0], [4.0, 4.0])
    found = adaptive_sharpness(model, ONE_EXAMPLE, height, 0.5, norm=norm)
    assert found.value == pytest.approx(1.0 if norm is Norm.linf else 0.5, rel=1e-6)
    assert adaptive_sharpness(model, ONE_EXAMPLE, height, 0.5, norm=norm, random_starts=0).failed


@pytest.mark.parametrize("norm", NORMS)
def test_a_maximum_inside_the_region_is_reached(norm):
    found = adaptive_sharpness(quadratic([1.0, 2.0], [0.02, -0.01], [-1.0, -1.0]), ONE_EXAMPLE, height, 0.5, norm=norm)
    assert found.value == pytest.approx(0.5 * (0.02**2 + 0.01**2), rel=0.02)


@pytest.mark.parametrize("norm", NORMS)
def test_a_search_that_meets_nothing_higher_has_failed(norm):
    found = adaptive_sharpness(quadratic([1.0, 2.0], [0.0, 0.0], [-1.0, -1.0]), ONE_EXAMPLE, height, 0.5, norm=norm)
    assert (found.failed, found.value, found.max_loss) == (True, 0.0, found.loss)
    assert str(found) == f"failed ({found.status})"
    assert "no point above the model's own loss in 3 ascents" in found.status


def test_a_weight_of_zero_stays_zero():
    model, seen = quadratic([0.0, 1.0], [5.0, 1.0], [0.0, 0.0]), []
    model.register_forward_hook(lambda module, *_: seen.append(module.weights[0].item()))
    assert adaptive_sharpness(model, ONE_EXAMPLE, height, 0.1).value == pytest.approx(0.1)
    assert set(seen) == {0.0}


# Brute force


def losses_at(model: nn.Module, vectors: Tensor) -> Tensor:
    """The mean loss over the examples at each row of ``vectors``."""
    shapes = {k: p.shape for k, p in model.named_parameters()}
    inputs, targets = (torch.cat(column) for column in zip(*examples(), strict=True))

    def loss(vector: Tensor) -> Tensor:
        pieces = vector.split([s.numel() for s in shapes.values()])
        weights = {k: v.view(s) for (k, s), v in zip(shapes.items(), pieces, strict=True)}
        return F.cross_entropy(functional_call(model, weights, (inputs,)), targets)

    return vmap(loss, chunk_size=8192)(vectors)


def test_no_corner_of_a_small_networks_box_is_higher():
    """Of this network's: in one of thirty the ascents end at a corner that is lower by 1e-4 of the loss, or inside."""
    torch.manual_seed(0)
    model, rho = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)).double(), 0.1
    w = parameters_to_vector(trainable_parameters(model))
    corners = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=len(w))), dtype=torch.float64)
    highest = losses_at(model, w * (1 + rho * corners)).max().item()
    found = adaptive_sharpness(model, examples(), F.cross_entropy, rho)
    assert found.max_loss == pytest.approx(highest, rel=1e-9)
    inside = losses_at(model, w * (1 + rho * (2 * torch.rand(2000, len(w), dtype=torch.float64) - 1)))
    assert found.max_loss >= inside.max().item()


def test_no_random_point_of_a_small_networks_ball_and_no_climb_from_one_is_higher():
    model, rho = network(), 0.3
    w = parameters_to_vector(trainable_parameters(model))
    z = torch.randn(2000, len(w), dtype=torch.float64)
    z /= z.norm(dim=1, keepdim=True)
    found = adaptive_sharpness(model, examples(), F.cross_entropy, rho, norm="l2", iterations=100)
    for _ in range(30):
        z.requires_grad_(True)
        slopes = torch.autograd.grad(losses_at(model, w + rho * w.abs() * z).sum(), z)[0]
        z = (z + 0.5 * slopes / slopes.norm(dim=1, keepdim=True)).detach()
        z /= z.norm(dim=1, keepdim=True).clamp(min=1.0)
    assert found.max_loss >= losses_at(model, w + rho * w.abs() * z).max().item() * (1 - 1e-6)


# What it is for


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("c", [0.01, 3.0, 1000.0])
def test_rescaling_two_layers_changes_keskars_sharpness_and_not_this_one(norm, c):
    """relu(c (W x + b)) V / c is the same function, as Dinh et al. 2017 say against sharpness in a fixed box."""
    model, batches = network(), examples()
    rescaled = network()
    with torch.no_grad():
        for parameter in rescaled[0].parameters():
            parameter.mul_(c)
        rescaled[2].weight.div_(c)
        torch.testing.assert_close(model(batches[0][0]), rescaled(batches[0][0]), rtol=1e-12, atol=1e-12)
    first, second = (adaptive_sharpness(m, batches, F.cross_entropy, 0.05, norm=norm) for m in (model, rescaled))
    assert second.loss == pytest.approx(first.loss, rel=1e-12)
    assert second.value == pytest.approx(first.value, rel=1e-9)
    assert first.value > 0.001
    theirs = [sharpness(m, batches, F.cross_entropy).value for m in (model, rescaled)]
    assert abs(theirs[1] / theirs[0] - 1) > 0.2


def test_with_normalised_logits_the_scale_of_the_last_layer_does_not_count():
    """Of three classes: the logits of two are +-1 / sqrt(2) however large they were, and their slope rounding alone."""
    model, batches, louder = network(3), examples(), network(3)
    with torch.no_grad():
        for parameter in louder[2].parameters():
            parameter.mul_(10.0)
    plain, loud = (adaptive_sharpness(m, batches, F.cross_entropy, 0.05) for m in (model, louder))
    assert loud.value > 2 * plain.value
    same = [adaptive_sharpness(m, batches, F.cross_entropy, 0.05, normalize_logits=True) for m in (model, louder)]
    assert same[1].value == pytest.approx(same[0].value, rel=1e-9)
    logits, targets = (torch.cat([f(b) for b in batches]) for f in (lambda b: model(b[0]), lambda b: b[1]))
    assert same[0].loss == pytest.approx(F.cross_entropy(normalize_logits(logits), targets).item())


def test_normalised_logits_have_mean_zero_and_length_one_and_equal_ones_stay_finite():
    logits = normalize_logits(torch.tensor([[3.0, -1.0, 2.0], [5.0, 5.0, 5.0]]))
    torch.testing.assert_close(logits.mean(1), torch.zeros(2))
    torch.testing.assert_close(logits.norm(dim=1), torch.tensor([1.0, 0.0]))


# The model, randomness, refusals


@pytest.mark.parametrize("norm", NORMS)
def test_every_evaluated_point_lies_in_the_region(norm):
    model, seen, rho = network(), [], 0.2
    w = parameters_to_vector(trainable_parameters(model))
    model.register_forward_hook(lambda module, *_: seen.append(parameters_to_vector(trainable_parameters(module))))
    adaptive_sharpness(model, examples(), F.cross_entropy, rho, norm=norm)
    order = math.inf if norm is Norm.linf else 2
    assert torch.linalg.vector_norm((torch.stack(seen) - w) / w, order, dim=1).max().item() <= rho * (1 + 1e-9)


@pytest.mark.parametrize("norm", NORMS)
def test_points_where_the_loss_is_not_finite_do_not_count(norm):
    model = Landscape([1.0, 1.0], lambda w: -torch.log(1.05 - w).sum())
    found = adaptive_sharpness(model, ONE_EXAMPLE, height, 0.1, norm=norm, random_starts=4)
    assert not found.failed
    assert math.isfinite(found.max_loss)


@pytest.mark.parametrize("norm", NORMS)
def test_the_same_seed_gives_the_same_result_and_another_other_starts(norm):
    def measured(seed: int) -> Any:
        model = Landscape([0.1, 0.2, 0.3], lambda w: 1.0 + torch.sin(300.0 * w).sum())
        return adaptive_sharpness(model, ONE_EXAMPLE, height, 0.5, norm=norm, iterations=2, seed=seed)

    assert measured(0) == measured(0)
    assert len({measured(seed).value for seed in range(4)}) > 1


def test_a_ball_narrower_than_the_weights_rounding_is_refused():
    wide = nn.Linear(100, 100, bias=False)
    with pytest.raises(ValueError, match=r"^rho / sqrt\(n\): .* 1.2e-07, .* not 1e-08$"):
        adaptive_sharpness(wide, examples(), F.cross_entropy, 1e-6, norm="l2")


def test_a_loss_below_minus_one_has_an_adaptive_sharpness_and_no_other():
    """Nothing is divided by 1 + f here; the negative log likelihood of a density may be anything."""
    model = Landscape([1.0], lambda w: w.sum() - 3.0)
    assert adaptive_sharpness(model, ONE_EXAMPLE, height, 0.1).value == pytest.approx(0.1)
    with pytest.raises(ValueError, match=r"the model's own loss is -2.0: must be .* above -1"):
        sharpness(model, ONE_EXAMPLE, height)


def test_no_rise_is_left_on_the_sphere_but_along_it_and_inwards():
    """At z = (1, 0): a slope outwards is spent, one inwards or along the sphere is not."""
    here = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for slope, left in (([3.0, 0.0], 0.0), ([-3.0, 0.0], 3.0), ([3.0, 4.0], 4.0), ([-3.0, 4.0], 5.0)):
        assert projected_slope(Point(here, 0.0, torch.tensor(slope, dtype=torch.float64)), Norm.l2) == pytest.approx(
            left
        )
