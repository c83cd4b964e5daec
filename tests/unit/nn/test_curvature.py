"""The trace seen by noise: known Hessians, known means around the weights, and a running mean without loss."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from helpers.common import SIGMAS
from scipy.integrate import quad
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from smoothout import SmoothOut
from smoothout.analysis.hessian import trace_and_norm
from smoothout.nn.curvature import RunningTrace, noise_variances, stein_trace, thin_epochs
from smoothout.nn.options import NoiseDistribution

LAWS = list(NoiseDistribution)  # a law that can be drawn must have its variance
SHAPES = [(3, 4), (5,)]


def weights() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


def draws(a: float, law: str, scaling: str, count: int) -> list[list[Tensor]]:
    """Thetas of the library's own context, around `weights`."""
    model = nn.ParameterList([nn.Parameter(w) for w in weights()])
    context = SmoothOut(model, a, law, scaling=scaling, generator=torch.Generator().manual_seed(1))
    return [[theta.clone() for theta in context.draw()] for _ in range(count)]


# One draw


def test_one_draw_is_the_noise_times_the_gradient_over_the_variance():
    thetas, gradients = weights(), [w.square() for w in weights()]
    per_filter = torch.tensor([[1.0], [2.0], [0.5]], dtype=torch.float64)
    found = stein_trace(thetas, gradients, [per_filter, 4.0])
    parts = [(thetas[0] ** 3 / per_filter).sum(), (thetas[1] ** 3).sum() / 4.0]
    torch.testing.assert_close(found, torch.stack(parts))
    torch.testing.assert_close(found.sum(), parts[0] + parts[1])


@pytest.mark.parametrize("scaling", ["none", "weight", "filter"])
@pytest.mark.parametrize("law", LAWS)
def test_variances_are_those_of_the_noise_that_is_drawn(law, scaling):
    expected = noise_variances(weights(), 0.3, distribution=law, scaling=scaling)
    drawn = draws(0.3, law, scaling, 4000)
    for index, variance in enumerate(expected):
        second_moment = torch.stack([thetas[index].square() for thetas in drawn]).mean(0)
        torch.testing.assert_close(second_moment, (variance + torch.zeros_like(second_moment)), rtol=0.15, atol=1e-12)


# Truth


@pytest.mark.parametrize("scaling", ["none", "weight", "filter"])
@pytest.mark.parametrize("law", LAWS)
def test_a_quadratics_trace_is_the_mean_over_draws_as_a_whole_and_by_tensor(law, scaling):
    n = 17
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(n, n, generator=generator, dtype=torch.float64)
    matrix = matrix @ matrix.T
    center = [0.1 * w for w in weights()]
    variances = noise_variances(weights(), 0.3, distribution=law, scaling=scaling)
    running = RunningTrace(["first.weight", "second.bias"])
    for thetas in draws(0.3, law, scaling, 3000):
        slope = matrix @ torch.cat([(c + t).flatten() for c, t in zip(center, thetas, strict=True)])
        gradients = [piece.view(shape) for piece, shape in zip(slope.split([12, 5]), SHAPES, strict=True)]
        running.add(stein_trace(thetas, gradients, variances))
    found, exact = running.result(), matrix.diagonal()
    for one, truth in (
        (found.total, exact.sum()),
        (found.layers["first"], exact[:12].sum()),
        (found.layers["second"], exact[12:].sum()),
    ):
        assert abs(one.mean - truth.item()) < SIGMAS * one.standard_error
        assert one.standard_error < 0.2 * truth.item()


def expectation(function, law: str, a: float) -> float:
    """E function(theta) for one number of noise, by quadrature."""
    if law == "uniform":
        return quad(lambda t: function(t) / (2 * a), -a, a)[0]
    return quad(lambda t: function(t) * math.exp(-0.5 * (t / a) ** 2) / (a * math.sqrt(2 * math.pi)), -9 * a, 9 * a)[0]


@pytest.mark.parametrize("law", ["uniform", "gaussian"])
def test_around_a_curved_loss_the_mean_has_the_stated_weights(law):
    """C(w) = sin(3 w) at w = 0.4: C'' under the Gaussian itself, or under the parabola."""
    a, w = 0.5, 0.4
    [variance] = noise_variances([torch.tensor([w])], a, distribution=law)

    def product(t: float) -> float:
        theta, slope = torch.tensor([t], dtype=torch.float64), torch.tensor([3 * math.cos(3 * (w + t))])
        return stein_trace([theta], [slope.double()], [variance]).sum().item()

    def curvature(t: float) -> float:
        return -9 * math.sin(3 * (w + t))

    parabola = quad(lambda t: curvature(t) * 3 * (a**2 - t**2) / (4 * a**3), -a, a)[0]
    stated = expectation(curvature, law, a) if law == "gaussian" else parabola
    assert expectation(product, law, a) == pytest.approx(stated, rel=1e-5)


def test_gaussian_filter_noise_averages_the_trace_over_the_ball():
    """C = |w|^4 in d = 3 around 0: the Laplacian 20 |w|^2 has the mean 12 r^2 over the ball; every draw gives it."""
    w = torch.tensor([[1.0, 2.0, 2.0]], dtype=torch.float64)
    model = nn.ParameterList([nn.Parameter(w)])
    context = SmoothOut(model, 0.1, "gaussian", scaling="filter")
    [theta] = context.draw()
    found = stein_trace([theta], [4 * theta.square().sum() * theta], noise_variances([w], 0.1, scaling="filter"))
    assert found.sum().item() == pytest.approx(12 * 0.3**2, rel=1e-4)


@pytest.mark.parametrize("law", LAWS)
def test_under_faint_noise_a_smooth_networks_trace_is_that_of_its_hessian(law):
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(40, 3, dtype=torch.float64), torch.randint(0, 3, (40,))
    names = [name for name, _ in model.named_parameters()]
    clean = {k: p.detach() for k, p in model.named_parameters()}
    exact = trace_and_norm(model, [(x, y)], F.cross_entropy, probes=400)
    a, count = 0.02, 1500
    drawn = {
        k: a * (torch.randn(count, *p.shape) if law == "gaussian" else torch.rand(count, *p.shape) * 2 - 1).double()
        for k, p in clean.items()
    }
    both = {k: torch.cat([theta, -theta]) for k, theta in drawn.items()}  # in pairs the slope at w cancels

    def slope(theta: dict[str, Tensor]) -> dict[str, Tensor]:
        return grad(lambda w: F.cross_entropy(functional_call(model, w, (x,)), y))(
            {k: clean[k] + theta[k] for k in names}
        )

    slopes = vmap(slope)(both)
    variances = noise_variances(list(clean.values()), a, distribution=law)
    running = RunningTrace(names)
    for i in range(count):
        one, other = (
            stein_trace([both[k][j] for k in names], [slopes[k][j] for k in names], variances) for j in (i, i + count)
        )
        running.add((one + other) / 2)
    found = running.result().total
    error = math.hypot(found.standard_error, exact.trace.standard_error)
    assert abs(found.mean - exact.trace.mean) < SIGMAS * error
    assert error < 0.1 * exact.trace.mean
    last = trace_and_norm(model, [(x, y)], F.cross_entropy, probes=400, block="2").trace
    layer = running.result().layers["2"]
    assert abs(layer.mean - last.mean) < SIGMAS * math.hypot(layer.standard_error, last.standard_error)


# The running mean


def random_draws(count: int) -> list[Tensor]:
    parts = 1e6 + torch.randn(count, 4, dtype=torch.float64)
    return list(parts)


NAMES = ["body.0.weight", "body.0.bias", "head.weight", "scale"]


@pytest.mark.parametrize("names", [["a.weight"], ["a.weight", "a.bias", "b.weight"]])
def test_parts_of_other_parameters_than_those_named_are_refused(names: list[str]) -> None:
    with pytest.raises(ValueError, match=rf"^parts: .* {len(names)} names, not shape \(2,\)"):
        RunningTrace(names).add(torch.ones(2))


def fed(some: list[Tensor]) -> RunningTrace:
    running = RunningTrace(NAMES)
    for draw in some:
        running.add(draw)
    return running


def test_mean_and_standard_error_are_those_of_the_draws_by_layer():
    some = random_draws(50)
    found, rows = fed(some).result(), torch.stack(some)
    assert (found.count, list(found.layers)) == (50, ["body.0", "head", "scale"])
    by_layer = {"body.0": rows[:, :2].sum(1), "head": rows[:, 2], "scale": rows[:, 3]}
    for one, values in [(found.total, rows.sum(1)), *((found.layers[k], v) for k, v in by_layer.items())]:
        assert one.mean == pytest.approx(values.mean().item(), rel=1e-14)
        assert one.standard_error == pytest.approx(values.std().item() / math.sqrt(50), rel=1e-6)


def test_a_state_goes_through_json_without_loss():
    some = random_draws(20)
    resumed = RunningTrace(NAMES)
    resumed.load_state_dict(json.loads(json.dumps(fed(some[:9]).state_dict())))
    for draw in some[9:]:
        resumed.add(draw)
    assert resumed.result() == fed(some).result()


# Refusals


@pytest.mark.parametrize(("epochs", "layered"), [(0, []), (1, [0]), (5, [0, 1, 2, 3, 4]), (201, range(0, 201, 20))])
def test_a_record_has_the_layers_of_eleven_epochs_and_the_whole_of_all(epochs: int, layered: Any) -> None:
    estimates = [{"draws": 8, "whole": [float(n), 0.1], "layers": {"head": [1.0, 0.1]}} for n in range(epochs)]
    thin = thin_epochs(estimates)
    assert [epoch["whole"] for epoch in thin] == [epoch["whole"] for epoch in estimates]
    assert [n for n, epoch in enumerate(thin) if "layers" in epoch] == list(layered)
    assert all("layers" in epoch for epoch in estimates)


@pytest.mark.parametrize("scaling", ["weight", "filter"])
def test_half_precision_loses_no_small_variance(scaling: str) -> None:
    """Squares of these weights times a are below the smallest float16."""
    weight = torch.linspace(1e-3, 2e-2, 1000).view(1, -1).half()
    generator = torch.Generator().manual_seed(0)
    theta, gradient = (1e-4 * torch.randn(weight.shape, generator=generator).half() for _ in range(2))
    half, single = (
        stein_trace([theta.to(dtype)], [gradient.to(dtype)], noise_variances([weight.to(dtype)], 0.01, scaling=scaling))
        for dtype in (torch.float16, torch.float32)
    )
    assert torch.equal(half, single)
    assert single.item() != 0
