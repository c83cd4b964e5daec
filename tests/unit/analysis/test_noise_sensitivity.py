"""Noise curves: truth for a quadratic, the published procedure, and a model that stays as it was."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from helpers.common import approx_loss
from torch import nn
from torch.nn import functional as F

from smoothout import SmoothOut, noise_curve
from smoothout.analysis.noise_sensitivity import NoisePoint, noise_slopes
from smoothout.common.rng import make_generator
from smoothout.nn.evaluation import evaluate


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    model(torch.randn(32, 4))
    return model


@pytest.fixture
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(10, 4), torch.randint(0, 3, (10,))) for _ in range(4)]


def test_without_noise_the_curve_starts_at_the_models_own_numbers(model, batches):
    assert noise_curve(model, batches, [0.0])[0][1:3] == tuple(evaluate(model, batches))


def test_the_mean_loss_of_a_nearly_quadratic_model_rises_by_half_its_trace_times_the_variance():
    """E C(w + theta) - C(w) = tr(H) a^2 / 6 for U(-a, a); logistic loss in two weights, trace from autograd."""
    torch.manual_seed(2)
    model = nn.Linear(1, 2).double()
    x, y = torch.randn(50, 1, dtype=torch.float64), torch.randint(0, 2, (50,))

    def loss(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(F.linear(x, weight, bias), y)

    hessian = torch.autograd.functional.hessian(loss, (model.weight, model.bias))
    trace = sum(float(torch.diagonal(hessian[i][i].reshape(2, 2)).sum()) for i in range(2))
    a = 0.3
    batches = [(x, y)] * 6000
    points = noise_curve(model, batches, [0.0, a])
    rise = points[1].loss - points[0].loss
    assert rise == pytest.approx(trace * a * a / 6, rel=0.1)


def test_every_batch_has_a_draw_of_its_own_and_batchnorm_is_perturbed_too(model, batches):
    seen = []
    model.register_forward_pre_hook(lambda module, _: seen.append([p.detach().clone() for p in module.parameters()]))
    noise_curve(model, batches, [0.1])
    clean, seen = [p.detach() for p in model.parameters()], seen[2 * len(batches) :]  # two passes without noise
    assert len(seen) == len(batches)
    for i, weights in enumerate(seen):
        assert all(0 < (w - c).abs().max() <= 0.1 + 1e-6 for w, c in zip(weights, clean, strict=True))
        assert all(not torch.equal(weights[0], other[0]) for other in seen[:i])


@pytest.mark.parametrize("law", ["uniform", "gaussian"])
@pytest.mark.parametrize("scaling", ["none", "weight", "filter"])
def test_every_strength_sees_the_batchs_draw_at_its_own_size(model, batches, law, scaling):
    """The curve by the context that training uses, entered again at every strength."""
    strengths = [0.05, 0.2]
    curve = noise_curve(model, batches, strengths, distribution=law, scaling=scaling, seed=5)
    for a, point in zip(strengths, curve, strict=True):
        context, losses = SmoothOut(model.eval(), a, law, scaling=scaling, batchnorm=True), []
        for index, (inputs, labels) in enumerate(batches):
            context.generator = make_generator(5, "sensitivity", index, 0)
            with context, torch.no_grad():
                losses.append(float(F.cross_entropy(model(inputs), labels)))
        assert point.loss == approx_loss(sum(losses) / len(losses))


def test_several_draws_give_their_mean_and_its_standard_error(model, batches):
    [one, several] = (noise_curve(model, batches, [0.0, 0.3], draws=draws)[1] for draws in (1, 8))
    assert (one.loss_error, one.accuracy_error) == (None, None)
    longer = noise_curve(model, batches * 8, [0.3])[0]
    assert several.loss_error > 0
    assert abs(several.loss - longer.loss) < 6 * several.loss_error
    assert noise_curve(model, batches, [0.0, 0.3], draws=8)[0].loss_error == pytest.approx(0.0, abs=1e-7)


def test_the_standard_error_is_the_deviation_of_the_means_of_many_curves(model, batches):
    means = [noise_curve(model, batches, [0.3], draws=4, seed=seed)[0] for seed in range(60)]
    spread = statistics.stdev(point.loss for point in means)
    typical = math.sqrt(statistics.fmean(point.loss_error**2 for point in means))
    assert spread == pytest.approx(typical, rel=0.3)


def test_noise_beyond_the_floats_is_measured_without_a_standard_error(model, batches):
    point = noise_curve(model, batches, [1e30], draws=2)[0]
    assert not math.isfinite(point.loss)
    assert math.isnan(point.loss_error)


def test_the_metric_s_is_the_slope_from_each_strength_to_the_next():
    points = [NoisePoint(0.0, 1.0, 0.5), NoisePoint(0.1, 1.5, 0.5), NoisePoint(0.3, 1.0, 0.5)]
    assert noise_slopes(points) == pytest.approx([5.0, -2.5])
    with pytest.raises(ValueError, match=r"^points: .* differ, not \[0.1, 0.1\]"):
        noise_slopes([points[1], points[1]])


def test_frozen_parameters_are_not_perturbed(model, batches):
    seen = []
    model[3].requires_grad_(False)
    model.register_forward_pre_hook(lambda module, _: seen.append(module[3].weight.clone()))
    noise_curve(model, batches, [0.5])
    assert len(seen) == 3 * 4  # two passes without noise come first
    assert all(torch.equal(weight, model[3].weight) for weight in seen)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scaling", ["none", "weight", "filter"])
def test_a_strength_that_the_weights_own_rounding_swallows_is_refused(batches, dtype, scaling):
    torch.manual_seed(0)
    model, data = nn.Linear(4, 3).to(dtype), [(x.to(dtype), y) for x, y in batches]
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    least = torch.finfo(dtype).eps * (weights.abs().median().item() if scaling == "none" else 1.0)
    for law in ("uniform", "gaussian"):
        with pytest.raises(ValueError, match=r"^strengths / size of the weights: must be at least .*, the rounding"):
            noise_curve(model, data, [0.0, 0.9 * least], distribution=law, scaling=scaling)
        found = noise_curve(model, data, [0.0, 1.1 * least, 2.0], distribution=law, scaling=scaling)
        assert len({point.loss for point in found}) == 3


def test_strengths_may_be_an_array(model, batches):
    strengths = [0.0, 0.25, 0.5]
    assert noise_curve(model, batches, torch.tensor(strengths).numpy()) == noise_curve(model, batches, strengths)
