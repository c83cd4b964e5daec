"""(C_eps, A)-sharpness against truth: closed forms and brute force over corners."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import scipy
import torch
from helpers.known_maxima import CONVENTIONS, ONE_EXAMPLE, Landscape, examples, height, network, quadratic
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, vmap

from smoothout.analysis.box import box_around, least_squares
from smoothout.analysis.box_search import LBFGSB, BoxObjective, projected_ascent
from smoothout.analysis.options import Convention
from smoothout.analysis.sharpness import sharpness
from smoothout.common.rng import make_generator
from smoothout.nn.parameters import parameters_to_vector, trainable_parameters


def quadratic_maximum(weights: Any, slope: Any, curvature: Any, eps: float) -> float:
    """How far the quadratic rises above f(x) in its box: each coordinate at a bound or at its own vertex."""
    rise = 0.0
    for x, g, d in zip(weights, slope, curvature, strict=True):
        h = eps * (abs(x) + 1.0)
        places = [-h, h] + ([-g / d] if d < 0.0 and abs(g / d) <= h else [])
        rise += max(g * y + 0.5 * d * y * y for y in places)
    return rise


def losses_at(model: nn.Module, batches: list[tuple[Tensor, Tensor]], vectors: Tensor) -> Tensor:
    """The mean squared error at each row of ``vectors``, shape (m, n) -> (m,)."""
    names = [name for name, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    [(inputs, targets)] = batches

    def loss(vector: Tensor) -> Tensor:
        pieces = vector.split([s.numel() for s in shapes])
        weights = {k: v.view(s) for k, v, s in zip(names, pieces, shapes, strict=True)}
        return nn.functional.mse_loss(functional_call(model, weights, (inputs,)), targets)

    return vmap(loss, chunk_size=4096)(vectors)


# Closed forms


@pytest.mark.parametrize("convention", [Convention.converged, Convention.keskar])
def test_a_linear_loss_reaches_the_corner_that_its_gradient_points_to(convention: Convention) -> None:
    x, slope = [0.3, -2.0, 0.0, 5.0], [1.0, -0.2, 3.0, -0.5]
    rise = 5e-4 * sum(abs(g) * (abs(w) + 1.0) for w, g in zip(x, slope, strict=True))
    found = sharpness(quadratic(x, slope, [0.0] * 4, level=0.25), ONE_EXAMPLE, height, convention=convention)
    assert found.value == pytest.approx(100.0 * rise / 1.25, rel=1e-9)
    assert found.loss == pytest.approx(0.25)
    assert found.max_loss == pytest.approx(0.25 + rise)
    assert found.projected_gradient == 0.0
    assert (found.failed, found.dimension, found.scipy) == (False, 4, scipy.__version__)


@pytest.mark.parametrize("convention", [Convention.converged, Convention.keskar])
def test_a_quadratic_with_a_diagonal_hessian_has_its_known_box_maximum(convention: Convention) -> None:
    x, slope, curvature = [0.5, -1.0, 2.0], [0.4, -0.7, 0.1], [3.0, 1.0, 2.0]
    found = sharpness(quadratic(x, slope, curvature), ONE_EXAMPLE, height, convention=convention, eps=0.05)
    assert found.value == pytest.approx(50.0 * quadratic_maximum(x, slope, curvature, 0.05), rel=1e-9)


def test_a_concave_quadratic_is_climbed_to_its_vertex_inside_the_box() -> None:
    x, slope, curvature = [0.5, -1.0], [0.02, -0.01], [-1.0, -2.0]
    found = sharpness(quadratic(x, slope, curvature), ONE_EXAMPLE, height, eps=0.05)
    assert found.value == pytest.approx(50.0 * quadratic_maximum(x, slope, curvature, 0.05), rel=1e-9)
    assert found.projected_gradient < 1e-8


def test_a_tiny_gradient_does_not_keep_the_converged_search_from_the_maximum() -> None:
    """Unscaled, each trial step would have the length of the gradient, 1e-9 of the box's."""
    x, slope = [1.0, -1.0, 0.5], [1e-9, -2e-9, 3e-9]
    model = quadratic(x, slope, [0.0] * 3, level=0.0)
    rise = quadratic_maximum(x, slope, [0.0] * 3, 0.5)
    assert sharpness(model, ONE_EXAMPLE, height, eps=0.5).value == pytest.approx(100.0 * rise, rel=1e-9)
    stopped = sharpness(model, ONE_EXAMPLE, height, eps=0.5, convention="keskar")
    assert stopped.failed
    assert "PGTOL" in stopped.status
    assert (stopped.iterations, stopped.evaluations) == (0, 1)
    assert stopped.projected_gradient == pytest.approx(3e-9 * 0.5 * 1.5)


floats = st.floats(-2.0, 2.0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(floats, floats, st.floats(0.0, 3.0)), min_size=1, max_size=6), st.floats(1e-4, 1.0))
def test_any_convex_separable_quadratic_has_its_exact_maximum(rows: list[tuple[float, ...]], eps: float) -> None:
    x, slope, curvature = (list(column) for column in zip(*rows, strict=True))
    slope = [g + math.copysign(0.01, g) for g in slope]
    found = sharpness(quadratic(x, slope, curvature), ONE_EXAMPLE, height, eps=eps)
    assert found.value == pytest.approx(50.0 * quadratic_maximum(x, slope, curvature, eps), rel=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(floats, floats, floats), min_size=1, max_size=6), st.floats(1e-2, 1.0))
def test_no_separable_quadratic_is_found_above_its_maximum(rows: list[tuple[float, ...]], eps: float) -> None:
    x, slope, curvature = (list(column) for column in zip(*rows, strict=True))
    model = quadratic(x, slope, curvature)
    highest = 50.0 * quadratic_maximum(x, slope, curvature, eps)
    for convention in CONVENTIONS:
        found = sharpness(model, ONE_EXAMPLE, height, eps=eps, convention=convention, repeats=2)
        assert all(0.0 <= value <= highest + 1e-10 for value in found.values)


# Each search by itself


def objective_of(model: Landscape, eps: float) -> BoxObjective:
    box = box_around(parameters_to_vector([model.weights]), eps)
    return BoxObjective(model, ONE_EXAMPLE, height, box, lambda: None)


def test_sign_ascent_halves_its_step_where_the_loss_does_not_rise() -> None:
    model, seen = Landscape([0.0], lambda w: -((w - 0.3) ** 2).sum()), []
    model.register_forward_hook(lambda module, *_: seen.append(module.weights.item()))
    objective = objective_of(model, eps=1.0)
    projected_ascent(objective, objective.evaluate_center(), steps=6)
    assert seen == [0.0, 0.0, 1.0, 1.0, 0.5, 0.0, 0.25, 0.5]  # the first point is looked at twice
    assert objective.highest.z.item() == 0.25


@pytest.mark.parametrize("scaled", [True, False])
def test_l_bfgs_b_walks_as_scipys_minimize_does_in_the_same_box(scaled: bool) -> None:
    """To the last bit; `minimize` takes the box as arrays, which costs more memory."""
    model = Landscape([0.3, -0.8, 0.5], lambda w: torch.sin(3.0 * w).sum() + w.prod())
    objective = objective_of(model, eps=0.5)
    x, solver, seen = objective.evaluate_center(), LBFGSB(maxiter=6, maxcor=3), []
    unit = torch.ones(3, dtype=torch.float64) if scaled else objective.box.half

    def negated(variables: np.ndarray) -> tuple[float, np.ndarray]:
        point = objective(torch.from_numpy(variables) / unit)
        return -point.loss, (-point.gradient / unit).numpy()

    model.register_forward_hook(lambda module, *_: seen.append(module.weights.tolist()))
    found = solver.maximize(objective, x, unit[:1] if scaled else unit)
    ours = seen[:]
    seen.clear()
    bounds, options = scipy.optimize.Bounds(-unit.numpy(), unit.numpy()), {"maxiter": 6, "maxcor": 3}
    theirs = scipy.optimize.minimize(negated, np.zeros(3), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    assert ours == seen[1:]  # ours knows the loss at the start
    assert (found.end.loss, found.iterations, found.status) == (-theirs.fun, theirs.nit, theirs.message.rstrip(": "))


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_a_converged_search_spends_all_its_evaluations_where_every_ascent_ends_at_once(iterations: int) -> None:
    model = quadratic([0.3, -2.0, 5.0], [1.0, -0.2, -0.5], [0.0] * 3)
    left = 5 * iterations + 3 - sharpness(model, ONE_EXAMPLE, height, iterations=iterations).evaluations
    assert 0 <= left <= 1  # an ascent from another start takes two


# Brute force


@pytest.mark.parametrize("seed", range(6))
def test_a_convex_loss_with_many_local_maxima_has_its_highest_corner(seed: int) -> None:
    """The ascent from x ends at a lower corner for three of these."""
    root = torch.randn(3, 8, dtype=torch.float64, generator=make_generator(seed, "test"))
    slope = 0.1 * torch.randn(8, dtype=torch.float64, generator=make_generator(seed, "slope"))
    model = Landscape([0.0] * 8, lambda w: (root @ w).square().sum() + slope @ w)
    corners = torch.tensor(list(itertools.product([-0.5, 0.5], repeat=8)), dtype=torch.float64)
    highest = ((corners @ root.T).square().sum(1) + corners @ slope).max().item()
    assert sharpness(model, ONE_EXAMPLE, height, eps=0.5).max_loss == pytest.approx(highest, rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_no_corner_of_a_tiny_networks_box_and_no_climb_from_one_is_higher(seed: int) -> None:
    eps, model, batches = 0.05, network(seed), examples(seed)
    x = parameters_to_vector(trainable_parameters(model))
    half = eps * (x.abs() + 1.0)
    corners = x + half * torch.tensor(list(itertools.product([-1.0, 1.0], repeat=len(x))), dtype=torch.float64)
    best = corners[losses_at(model, batches, corners).argsort(descending=True)[:8]]

    def negated(vector: np.ndarray) -> tuple[float, np.ndarray]:
        point = torch.tensor(vector, requires_grad=True)
        loss = losses_at(model, batches, point.unsqueeze(0))[0]
        return -loss.item(), -torch.autograd.grad(loss, point)[0].numpy()

    bounds = list(zip((x - half).tolist(), (x + half).tolist(), strict=True))
    options = {"ftol": 0.0, "gtol": 1e-12, "maxiter": 200}
    climbs = [
        scipy.optimize.minimize(negated, c, jac=True, method="L-BFGS-B", bounds=bounds, options=options) for c in best
    ]
    highest = max(-climb.fun for climb in climbs)
    inside = x + half * (2.0 * torch.rand(4000, len(x), dtype=torch.float64) - 1.0)
    found = sharpness(model, batches, nn.functional.mse_loss, eps=eps)
    assert found.max_loss >= losses_at(model, batches, corners).max().item() * (1.0 - 1e-12)
    assert found.max_loss >= losses_at(model, batches, inside).max().item()
    assert found.max_loss == pytest.approx(highest, rel=1e-8)


@pytest.mark.parametrize("convention", [Convention.converged, Convention.keskar])
def test_a_plane_through_the_weights_has_the_maximum_of_a_fine_grid(convention: Convention) -> None:
    eps, seed, model, batches = 0.05, 3, network(5), examples(5)
    x = parameters_to_vector(trainable_parameters(model))
    columns = torch.randn(len(x), 2, generator=make_generator(seed, "subspace")).double()
    half = eps * ((torch.linalg.pinv(columns) @ x).abs() + 1.0)
    axis = torch.linspace(-1.0, 1.0, 201, dtype=torch.float64)
    grid = losses_at(model, batches, x + (half * torch.cartesian_prod(axis, axis)) @ columns.T)
    found = sharpness(model, batches, nn.functional.mse_loss, eps=eps, subspace=2, seed=seed, convention=convention)
    assert found.dimension == 2
    assert grid.max().item() * (1.0 - 1e-6) <= found.max_loss <= grid.max().item() * (1.0 + 1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_a_convex_quadratic_in_a_subspace_has_its_highest_corner(seed: int) -> None:
    """Eq. 3 and 4 written out: the box |y_i| <= eps (|(A^+ x)_i| + 1), and all of its corners x + A y."""
    n, p, eps = 12, 6, 0.1
    x, slope = (torch.randn(n, dtype=torch.float64, generator=make_generator(seed, name)) for name in ("x", "slope"))
    root = torch.randn(3, n, dtype=torch.float64, generator=make_generator(seed, "root"))
    model = Landscape(x, lambda w: 1.0 + (root @ (w - x)).square().sum() + slope @ (w - x))
    columns = torch.randn(n, p, generator=make_generator(seed, "subspace")).double()
    half = eps * ((torch.linalg.pinv(columns) @ x).abs() + 1.0)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=p)), dtype=torch.float64)
    offsets = (half * signs) @ columns.T
    rise = ((offsets @ root.T).square().sum(1) + offsets @ slope).max().item()
    found = sharpness(model, ONE_EXAMPLE, height, eps=eps, subspace=p, seed=seed)
    assert found.value == pytest.approx(100.0 * rise / (1.0 + 1.0), rel=1e-6)
    by_keskar = sharpness(model, ONE_EXAMPLE, height, eps=eps, subspace=p, seed=seed, convention="keskar")
    assert 0.0 < by_keskar.value <= found.value * (1.0 + 1e-6)


@pytest.mark.parametrize(("n", "p"), [(7, 7), (8, 3), (200_000, 5)])
def test_the_pseudo_inverse_is_that_of_the_whole_matrix(n: int, p: int) -> None:
    generator = make_generator(0, "test")
    columns, x = (torch.randn(n, p, generator=generator), torch.randn(n, generator=generator, dtype=torch.float64))
    expected = torch.linalg.lstsq(columns.double(), x.unsqueeze(1)).solution.squeeze(1)
    torch.testing.assert_close(least_squares(columns, x), expected, rtol=1e-8, atol=1e-12)


def test_a_point_whose_gradient_is_not_finite_is_not_admissible():
    """sqrt|w - 0.1| + w at w = 0: the loss is finite everywhere, its gradient nowhere near the kink."""
    model = Landscape([0.0], lambda w: (1.0 + w + (w - 0.05).clamp(min=0.0).sqrt()).sum())
    found = sharpness(model, ONE_EXAMPLE, height, eps=0.05, convention="converged")
    assert found.max_loss < 1.05 + 1e-9
    assert math.isfinite(found.projected_gradient)
