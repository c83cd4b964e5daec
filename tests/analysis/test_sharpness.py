"""The search for the maximum: closed forms, brute force, failures that it admits, and a model left alone."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest
import scipy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, vmap

from smoothout.analysis.sharpness import (
    LBFGSB,
    Convention,
    Objective,
    Point,
    Search,
    SharpnessResult,
    ascend,
    box_around,
    least_squares,
    sharpness,
)
from smoothout.parameters import flatten, trainable
from smoothout.randomness import stream

CONVENTIONS = list(Convention)
ONE_EXAMPLE = [(torch.zeros(1, 1), torch.zeros(1))]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small lose by sharing their work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Landscape(nn.Module):
    """A loss that is a given function of a weight vector, whatever the example."""

    def __init__(self, weights: Any, height: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.as_tensor(weights, dtype=dtype).clone())
        self.height = height

    def forward(self, inputs: Tensor) -> Tensor:
        return self.height(self.weights).expand(len(inputs))


def height(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.mean()


def quadratic(weights: Any, slope: Any, curvature: Any, level: float = 1.0) -> Landscape:
    """f(w) = level + slope . (w - x) + curvature . (w - x)^2 / 2 around the weights x that it starts with."""
    x, g, d = (torch.as_tensor(v, dtype=torch.float64) for v in (weights, slope, curvature))
    return Landscape(x, lambda w: level + (g * (w - x)).sum() + 0.5 * (d * (w - x) ** 2).sum())


def quadratic_maximum(weights: Any, slope: Any, curvature: Any, eps: float) -> float:
    """How far the quadratic rises above f(x) in its box: each coordinate at a bound or at its own vertex."""
    rise = 0.0
    for x, g, d in zip(weights, slope, curvature, strict=True):
        h = eps * (abs(x) + 1.0)
        places = [-h, h] + ([-g / d] if d < 0.0 and abs(g / d) <= h else [])
        rise += max(g * y + 0.5 * d * y * y for y in places)
    return rise


def network(seed: int, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """2-2-1 tanh network with 9 weights."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)).to(dtype)


def examples(seed: int, count: int = 12, dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 2, generator=generator, dtype=dtype)
    return [(inputs, torch.sin(inputs.sum(1, keepdim=True)))]


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


def test_a_random_start_above_the_model_that_is_never_left_is_a_failed_search() -> None:
    model = quadratic([1.0, -1.0, 0.5], [1e-9, -2e-9, 3e-9], [0.0] * 3)
    found = sharpness(model, ONE_EXAMPLE, height, eps=0.5, convention="keskar", repeats=4)
    assert found.failed
    assert (found.values, found.mean) == ((0.0,) * 4, 0.0)


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


def objective_of(model: Landscape, eps: float) -> Objective:
    box = box_around(flatten([model.weights]), eps)
    return Objective(model, ONE_EXAMPLE, height, box, lambda: None)


def test_sign_ascent_halves_its_step_where_the_loss_does_not_rise() -> None:
    model, seen = Landscape([0.0], lambda w: -((w - 0.3) ** 2).sum()), []
    model.register_forward_hook(lambda module, *_: seen.append(module.weights.item()))
    objective = objective_of(model, eps=1.0)
    ascend(objective, objective.at_x(), steps=6)
    assert seen == [0.0, 1.0, 0.5, 0.0, 0.25, 0.5, 0.375]
    assert objective.highest.z.item() == 0.25


def test_the_scaled_climb_crosses_the_box_with_its_first_step() -> None:
    objective = objective_of(quadratic([1.0, -1.0, 0.5], [2e-9, -2e-9, 3e-9], [0.0] * 3), eps=0.5)
    found = LBFGSB(maxiter=1, maxcor=10, ftol=0.0, gtol=0.0).climb_scaled(objective, objective.at_x())
    assert objective.evaluations == 2
    assert found.end.z.square().mean().sqrt().item() == pytest.approx(1.0, abs=0.05)


def test_the_tolerances_are_scipys_defaults() -> None:
    defaults = inspect.signature(scipy.optimize.fmin_l_bfgs_b).parameters
    assert LBFGSB(10, 10).ftol == defaults["factr"].default * np.finfo(float).eps
    assert LBFGSB(10, 10).gtol == defaults["pgtol"].default


def test_the_converged_search_ascends_from_three_points_and_climbs_from_the_first_and_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ascents: list[Point] = []
    climbs: list[tuple[LBFGSB, Point, Search]] = []
    climb = LBFGSB.climb_scaled

    def recorded_ascent(objective: Objective, start: Point, steps: int) -> None:
        ascents.append(start)
        assert steps == 4
        ascend(objective, start, steps)

    def recorded_climb(self: LBFGSB, objective: Objective, start: Point) -> Search:
        climbs.append((self, start, climb(self, objective, start)))
        return climbs[-1][2]

    monkeypatch.setattr("smoothout.analysis.sharpness.ascend", recorded_ascent)
    monkeypatch.setattr(LBFGSB, "climb_scaled", recorded_climb)
    model = Landscape([0.1, 0.2, 0.3], lambda w: 1.0 + torch.sin(30.0 * w + w.roll(1)).sum())
    found = sharpness(model, ONE_EXAMPLE, height, eps=0.05, iterations=4, maxcor=3, repeats=2)
    assert len(ascents) == len({tuple(start.z.tolist()) for start in ascents}) == 6
    assert not ascents[0].z.any()
    assert [solver for solver, _, _ in climbs] == [LBFGSB(4, 3, ftol=0.0, gtol=0.0)] * 4
    assert climbs[0][1] is ascents[0]
    assert climbs[2][1] is ascents[3]
    winner = found.values.index(found.value)
    first, last = (done for _, _, done in climbs[2 * winner : 2 * winner + 2])
    assert found.iterations == first.iterations + last.iterations
    assert found.status == last.status
    assert climbs[1][1].loss >= max(start.loss for start in [*ascents[:3], climbs[0][2].end])


# Brute force


@pytest.mark.parametrize("seed", range(4))
def test_no_corner_of_a_tiny_networks_box_and_no_climb_from_one_is_higher(seed: int) -> None:
    eps, model, batches = 0.05, network(seed), examples(seed)
    x = flatten(trainable(model))
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
    x = flatten(trainable(model))
    columns = torch.randn(len(x), 2, generator=stream(seed, "subspace")).double()
    half = eps * ((torch.linalg.pinv(columns) @ x).abs() + 1.0)
    axis = torch.linspace(-1.0, 1.0, 201, dtype=torch.float64)
    grid = losses_at(model, batches, x + (half * torch.cartesian_prod(axis, axis)) @ columns.T)
    found = sharpness(model, batches, nn.functional.mse_loss, eps=eps, subspace=2, seed=seed, convention=convention)
    assert found.dimension == 2
    assert grid.max().item() * (1.0 - 1e-6) <= found.max_loss <= grid.max().item() * (1.0 + 1e-4)


@pytest.mark.parametrize(("n", "p"), [(7, 7), (8, 3), (200_000, 5)])
def test_the_pseudo_inverse_is_that_of_the_whole_matrix(n: int, p: int) -> None:
    generator = stream(0, "test")
    columns, x = (
        torch.randn(n, p, generator=generator),
        torch.randn(n, generator=generator, dtype=torch.float64),
    )
    expected = torch.linalg.lstsq(columns.double(), x.unsqueeze(1)).solution.squeeze(1)
    torch.testing.assert_close(least_squares(columns, x), expected, rtol=1e-8, atol=1e-12)


# Searches that fail


@pytest.fixture(scope="module")
def digits_minimum() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """An MLP trained on 200 real digits until its loss is below 5e-6."""
    from sklearn.datasets import load_digits

    data = load_digits()
    inputs = torch.tensor(data.data[:200] / 16.0, dtype=torch.float32)
    targets = torch.tensor(data.target[:200])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(2000):
        loss = nn.functional.cross_entropy(model(inputs), targets)
        if loss.item() < 5e-6:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-5
    return model, list(zip(inputs.split(64), targets.split(64), strict=True))


def test_on_converged_digits_keskars_search_fails_and_the_converged_one_rises(
    digits_minimum: tuple[nn.Module, list[tuple[Tensor, Tensor]]],
) -> None:
    model, batches = digits_minimum
    stopped = sharpness(model, batches, nn.functional.cross_entropy, convention="keskar")
    assert stopped.failed
    assert "NORM OF PROJECTED GRADIENT <= PGTOL" in stopped.status
    assert (stopped.value, stopped.values, stopped.max_loss) == (0.0, (0.0,), stopped.loss)
    assert str(stopped) == stopped.describe() == f"failed ({stopped.status})"
    found = sharpness(model, batches, nn.functional.cross_entropy)
    assert not found.failed
    assert found.value > 0.0
    assert found.max_loss > 1.02 * found.loss
    assert str(found) == f"{found.value:.4g}%"


def test_at_a_smooth_minimum_the_released_sign_fails_where_the_right_one_rises() -> None:
    model = quadratic([1.0, -2.0, 0.5], [1e-3, -2e-3, 1e-3], [0.5, 1.0, 0.2])
    wrong = sharpness(model, ONE_EXAMPLE, height, convention="released")
    assert wrong.failed
    assert "ABNORMAL" in str(wrong)
    assert wrong.projected_gradient > 0.0
    for convention in ("keskar", "converged"):
        assert sharpness(model, ONE_EXAMPLE, height, convention=convention).value > 0.0


def test_the_released_sign_finds_a_rise_by_overshooting_a_steep_valley() -> None:
    model = quadratic([0.0, 0.0], [0.1, -0.1], [50.0, 50.0])
    assert sharpness(model, ONE_EXAMPLE, height, eps=0.05, convention="released").value > 0.0


def test_the_released_sign_ends_where_scipy_ends_on_the_same_contradiction() -> None:
    x, slope, curvature = np.array([0.5, -1.0]), np.array([0.3, -0.2]), np.array([30.0, 5.0])

    def contradiction(w: np.ndarray) -> tuple[float, np.ndarray]:
        y = w - x
        return -(1.0 + slope @ y + 0.5 * curvature @ y**2), slope + curvature * y

    bounds = [(w - 0.1 * (abs(w) + 1.0), w + 0.1 * (abs(w) + 1.0)) for w in x]
    theirs, _, info = scipy.optimize.fmin_l_bfgs_b(contradiction, x, bounds=bounds, maxiter=10)
    found = sharpness(quadratic(x, slope, curvature), ONE_EXAMPLE, height, eps=0.1, convention="released")
    assert info["nit"] > 1
    assert found.max_loss == pytest.approx(-contradiction(theirs)[0], rel=1e-9)


def test_a_flat_loss_is_a_failed_search_in_every_convention() -> None:
    model = quadratic([1.0, 2.0], [0.0, 0.0], [0.0, 0.0])
    for convention in CONVENTIONS:
        found = sharpness(model, ONE_EXAMPLE, height, convention=convention, repeats=2)
        assert found.failed
        assert found.values == (0.0, 0.0)


def test_a_maximum_in_the_middle_of_the_box_is_a_failed_search() -> None:
    found = sharpness(quadratic([1.0, 2.0], [0.0, 0.0], [-1.0, -1.0]), ONE_EXAMPLE, height, repeats=3)
    assert found.failed
    assert found.max_loss == found.loss


@pytest.mark.parametrize("convention", [Convention.converged, Convention.keskar])
@pytest.mark.parametrize("wall", [0.02, 0.05])
def test_points_where_the_loss_is_not_finite_do_not_count_and_do_not_end_the_search(
    convention: Convention, wall: float
) -> None:
    model = Landscape([0.0, 0.0], lambda w: -torch.log(wall - w).sum() + 2 * math.log(wall))
    found = sharpness(model, ONE_EXAMPLE, height, eps=0.1, convention=convention, repeats=3)
    assert not found.failed
    assert math.isfinite(found.max_loss)
    assert found.max_loss > 0.3


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_loss_that_is_finite_at_the_weights_alone_is_a_failed_search(convention: Convention) -> None:
    x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    model = Landscape(x, lambda w: w.sum() if torch.equal(w.detach(), x) else w.sum() * math.inf)
    found = sharpness(model, ONE_EXAMPLE, height, convention=convention, repeats=2)
    assert found.failed


# The mean, the model, chance


def test_the_mean_does_not_depend_on_how_batches_are_cut() -> None:
    model, [(inputs, targets)] = network(2), examples(2, count=40)
    cuts = [[40], [10, 10, 10, 10], [1, 32, 7]]
    for options in ({}, {"convention": "keskar", "eps": 0.5, "iterations": 1}):
        whole, even, uneven = (
            sharpness(
                model,
                list(zip(inputs.split(cut), targets.split(cut), strict=True)),
                nn.functional.mse_loss,
                **options,
            )
            for cut in cuts
        )
        for other in (even, uneven):
            assert other.loss == pytest.approx(whole.loss, rel=1e-12)
            assert other.value == pytest.approx(whole.value, rel=1e-9)
            assert other.projected_gradient == pytest.approx(whole.projected_gradient, rel=1e-6, abs=1e-9)


def normalised() -> nn.Sequential:
    """A float32 model with BatchNorm and dropout, some modes and gradients that are not the defaults."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, 1))
    model(torch.randn(16, 2)).square().mean().backward()
    model[4].bias.grad = None
    model[1].eval()
    return model


def state(model: nn.Module) -> tuple[list[bytes], list[bool], list[bytes | None]]:
    tensors = [t.detach().numpy().tobytes() for t in model.state_dict().values()]
    gradients = [None if p.grad is None else p.grad.numpy().tobytes() for p in model.parameters()]
    return tensors, [m.training for m in model.modules()], gradients


@pytest.mark.parametrize("subspace", [None, 3])
@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_model_is_left_as_it_was_to_the_last_bit(convention: Convention, subspace: int | None) -> None:
    model, batches = normalised(), examples(0, dtype=torch.float32)
    before, kept = state(model), [p.grad for p in model.parameters()]
    with torch.no_grad():
        sharpness(model, batches, nn.functional.mse_loss, convention=convention, subspace=subspace, repeats=2)
    assert state(model) == before
    assert all(p.grad is g for p, g in zip(model.parameters(), kept, strict=True))


def test_the_model_is_left_as_it_was_when_the_loss_raises_at_the_third_evaluation() -> None:
    model, batches, calls = normalised(), examples(0, dtype=torch.float32), itertools.count(1)
    before = state(model)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if next(calls) == 3:
            raise RuntimeError("third")
        return nn.functional.mse_loss(outputs, targets)

    with pytest.raises(RuntimeError, match="third"):
        sharpness(model, batches, loss)
    assert state(model) == before


def test_the_model_is_evaluated_in_evaluation_mode_and_once_a_call_of_progress() -> None:
    model, batches, modes, calls = normalised(), examples(0, dtype=torch.float32), [], []
    model.register_forward_hook(lambda module, *_: modes.append([m.training for m in module.modules()]))
    found = sharpness(model, batches, nn.functional.mse_loss, progress=lambda: calls.append(1))
    assert not any(itertools.chain(*modes))
    assert len(modes) == len(calls) == found.evaluations


def test_every_evaluated_weight_lies_in_the_box() -> None:
    model, batches, seen = network(1), examples(1), []
    x = flatten(trainable(model))
    model.register_forward_hook(lambda module, *_: seen.append(flatten(trainable(module))))
    for convention in CONVENTIONS:
        sharpness(model, batches, nn.functional.mse_loss, eps=0.1, convention=convention, repeats=2)
    assert torch.equal(seen[0], x)
    assert ((torch.stack(seen) - x).abs() <= 0.1 * (x.abs() + 1.0) * (1.0 + 1e-12)).all()


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_same_seed_gives_the_same_result_and_the_same_first_repeat(convention: Convention) -> None:
    def measured(**options: Any) -> SharpnessResult:
        model, batches = network(1), examples(1)
        return sharpness(model, batches, nn.functional.mse_loss, eps=0.1, convention=convention, **options)

    assert measured(repeats=2, seed=7) == measured(repeats=2, seed=7)
    assert measured(repeats=3, seed=7).values[0] == measured(seed=7).value


def test_repeats_start_elsewhere_and_the_highest_counts() -> None:
    model = Landscape([0.1, 0.2, 0.3], lambda w: 1.0 + torch.sin(300.0 * w).sum())
    found = sharpness(model, ONE_EXAMPLE, height, eps=0.05, convention="keskar", repeats=4, iterations=2)
    assert len(set(found.values)) == 4
    assert found.value == max(found.values)
    assert found.mean == pytest.approx(sum(found.values) / 4)
    assert found.max_loss == pytest.approx(found.loss + found.value * (1.0 + found.loss) / 100.0)
    other = sharpness(model, ONE_EXAMPLE, height, eps=0.05, convention="keskar", repeats=4, iterations=2, seed=1)
    assert other.values[0] == found.values[0]
    assert set(other.values[1:]).isdisjoint(found.values[1:])


def test_another_seed_draws_another_subspace() -> None:
    first, second = (
        sharpness(network(1), examples(1), nn.functional.mse_loss, subspace=2, seed=seed).value for seed in (0, 1)
    )
    assert first != second


# Models of all kinds


class Mixed(nn.Module):
    """Tied, frozen, unused, float32 and float64 weights; the loss is linear in each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.coarse = nn.Parameter(torch.tensor([0.5, -1.0]))
        self.fine = nn.Parameter(torch.tensor([2.0, 3.0, -4.0], dtype=torch.float64))
        self.tied = self.coarse
        self.frozen = nn.Parameter(torch.tensor([7.0]), requires_grad=False)
        self.unused = nn.Parameter(torch.tensor([1.0]))

    def forward(self, inputs: Tensor) -> Tensor:
        value = 10.0 + 2.0 * self.fine.sum() + (self.coarse + 0.5 * self.tied).double().sum() + self.frozen.sum()
        return value.expand(len(inputs))


def test_tied_weights_count_once_and_frozen_ones_do_not_move_whatever_their_dtypes() -> None:
    model, frozen = Mixed(), []
    model.register_forward_hook(lambda module, *_: frozen.append(module.frozen.item()))
    before = copy.deepcopy(model.state_dict())
    found = sharpness(model, ONE_EXAMPLE, height, eps=0.125)
    rise = 0.125 * (2.0 * (3.0 + 4.0 + 5.0) + 1.5 * (1.5 + 2.0))
    assert found.dimension == 6
    assert found.loss == 18.25
    assert found.max_loss == pytest.approx(found.loss + rise, rel=1e-6)
    assert set(frozen) == {7.0}
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_the_loss_of_the_model_itself_comes_from_its_own_weights() -> None:
    model = Landscape([0.1, 0.7], lambda w: (w**2).sum(), dtype=torch.float32)
    assert sharpness(model, ONE_EXAMPLE, height).loss == (model.weights.detach() ** 2).sum().item()


def test_a_result_cannot_be_changed() -> None:
    found = sharpness(quadratic([1.0], [1.0], [0.0]), ONE_EXAMPLE, height)
    with pytest.raises(FrozenInstanceError):
        found.value = 0.0  # type: ignore[misc]


# Refusals


def one_pass() -> Iterator[tuple[Tensor, Tensor]]:
    yield from ONE_EXAMPLE


class Shrinking:
    """Not an Iterator itself, yet each pass over it has fewer examples."""

    def __init__(self, first: int, step: int) -> None:
        self.sizes = itertools.count(first, -step)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(ONE_EXAMPLE * next(self.sizes))


@pytest.mark.parametrize(
    ("argument", "value", "line"),
    [
        ("eps", 0.0, "eps is 0.0: must be a finite number above 0"),
        ("eps", -1.0, "eps is -1.0: must be a finite number above 0"),
        ("eps", math.nan, "eps is nan: must be a finite number above 0"),
        ("eps", math.inf, "eps is inf: must be a finite number above 0"),
        ("iterations", 0, "iterations is 0: must be a whole number of at least 1"),
        ("iterations", 2.5, "iterations is 2.5: must be a whole number of at least 1"),
        ("repeats", 0, "repeats is 0: must be a whole number of at least 1"),
        ("maxcor", -3, "maxcor is -3: must be a whole number of at least 1"),
        ("subspace", 0, "subspace is 0: must be None or a whole number from 1 to n = 2"),
        ("subspace", 3, "subspace is 3: must be None or a whole number from 1 to n = 2"),
        ("convention", "Keskar", "convention: 'Keskar' is not one of converged, keskar, released"),
        ("batches", [], "batches is []: must hold"),
        ("batches", one_pass(), "batches is <generator object"),
        ("batches", iter(ONE_EXAMPLE), "batches is <list_iterator object"),
    ],
)
def test_an_impossible_argument_is_one_line_and_the_model_is_not_touched(argument: str, value: Any, line: str) -> None:
    model = quadratic([1.0, 2.0], [1.0, 1.0], [1.0, 1.0])
    touched: list[str] = []
    model.eval = lambda: touched.append("eval")  # type: ignore[assignment,method-assign,return-value]
    model.register_forward_hook(lambda *_: touched.append("forward"))
    version = model.weights._version
    arguments = {"batches": ONE_EXAMPLE, argument: value}
    with pytest.raises(ValueError) as raised:  # noqa: PT011
        sharpness(model, loss=height, **arguments)
    assert str(raised.value).startswith(line)
    assert "\n" not in str(raised.value)
    assert not touched
    assert model.weights._version == version


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, -3.0])
def test_a_loss_at_the_weights_that_sharpness_cannot_divide_by_is_one_line(value: float) -> None:
    model = Landscape([1.0], lambda w: w.sum() * 0.0 + value)
    before = state(model)
    with pytest.raises(ValueError, match=f"the model's own loss is {value}: must be finite.* and above -1"):
        sharpness(model, ONE_EXAMPLE, height)
    assert state(model) == before


@pytest.mark.parametrize(("first", "step", "last"), [(10, 1, 8), (4, 2, 0)])
def test_batches_that_do_not_repeat_themselves_are_refused(first: int, step: int, last: int) -> None:
    model = quadratic([1.0], [1.0], [0.0])
    with pytest.raises(ValueError, match=f"batches has {last} examples, {last + step} before"):
        sharpness(model, Shrinking(first, step), height)


def test_a_model_without_trainable_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="no trainable parameters"):
        sharpness(nn.ReLU(), ONE_EXAMPLE, height)
