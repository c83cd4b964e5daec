"""The Hessian's spectral density against the dense matrix; what all Hessian tools leave alone, and what they refuse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.hessians import ONE, dense, height, network, quadratic
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.analysis.hessian import hessian_spectrum, lanczos, rademacher, top_eigenvalues, trace_and_norm

# Spectrum


def test_a_full_lanczos_run_finds_every_eigenvalue_and_its_weight():
    model = quadratic([-2.0, -0.5, 0.0, 0.25, 1.0, 10.0], seed=3)
    found = hessian_spectrum(model, ONE, height, probes=2, steps=50)
    values, vectors = torch.linalg.eigh(model.matrix)
    for index in range(2):
        assert found.ritz[index] == pytest.approx(values.tolist(), abs=1e-12)
        shares = (vectors.T @ rademacher(6, 0, index)).square() / 6
        assert found.weights[index] == pytest.approx(shares.tolist(), abs=1e-12)


def test_the_quadratures_moments_are_those_of_the_probe(batches):
    """m steps of Lanczos give v . H^j v / n exactly up to j = 2 m - 1; the mean over probes estimates tr(H^j) / n."""
    model, truth = network(), dense(network(), batches)
    found = hessian_spectrum(model, batches, F.cross_entropy, probes=3, steps=4)
    for index in range(3):
        probe = rademacher(48, 0, index)
        for power in range(8):
            moment = np.dot(found.weights[index], np.array(found.ritz[index]) ** power)
            exact = probe @ torch.linalg.matrix_power(truth, power) @ probe / 48
            assert moment == pytest.approx(exact.item(), rel=1e-8)
    trace = trace_and_norm(model, batches, F.cross_entropy, probes=3, method="hutchinson").trace.mean
    first = np.mean([np.dot(w, r) for w, r in zip(found.weights, found.ritz, strict=True)])
    assert first == pytest.approx(trace / 48, rel=1e-10)


def test_the_density_is_a_density_with_the_eigenvalues_where_they_are():
    model = quadratic([1.0] * 30 + [5.0] * 10, seed=4)
    found = hessian_spectrum(model, ONE, height, probes=30, steps=20)
    grid = np.linspace(-2.0, 8.0, 2001)
    density = found.density(grid, 0.2)
    assert density.sum() * (grid[1] - grid[0]) == pytest.approx(1.0, abs=1e-6)
    at_five = density[grid > 3.0].sum() * (grid[1] - grid[0])
    assert at_five == pytest.approx(0.25, abs=0.05)
    assert grid[density.argmax()] == pytest.approx(1.0, abs=0.01)
    one = np.dot(found.weights[0], np.exp(-0.5 * ((1.3 - np.array(found.ritz[0])) / 0.5) ** 2))
    only = hessian_spectrum(model, ONE, height, probes=1, steps=20).density(1.3, 0.5)
    assert only == pytest.approx(one / (0.5 * math.sqrt(2 * math.pi)))


def test_lanczos_ends_where_the_start_vector_spans_no_more():
    matrix = torch.diag(torch.tensor([1.0, 1.0, 1.0, 4.0], dtype=torch.float64))
    ritz, weights = lanczos(lambda v: matrix @ v, torch.ones(4, dtype=torch.float64), 4, 1e-12)
    assert ritz == pytest.approx([1.0, 4.0])
    assert weights == pytest.approx([0.75, 0.25])


def test_reorthogonalised_lanczos_finds_no_eigenvalue_twice():
    values = torch.cat([torch.linspace(0.0, 1.0, 99, dtype=torch.float64) ** 4, torch.tensor([100.0]).double()])
    matrix = torch.diag(values)
    ritz, _ = lanczos(lambda v: matrix @ v, torch.ones(100, dtype=torch.float64), 60, 0.0)
    assert sum(abs(value - 100.0) < 1e-6 for value in ritz) == 1


# Randomness, the model, refusals


def test_a_model_that_is_random_in_evaluation_mode_too_is_refused(batches):
    model = network()
    model.register_forward_hook(lambda _, __, output: F.dropout(output, 0.5))
    with pytest.raises(ValueError, match=r"^model, batches: .* differ in the loss"):
        top_eigenvalues(model, batches, F.cross_entropy)


def test_a_gradient_that_changes_from_pass_to_pass_is_refused(batches):
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        noise = torch.randn_like(outputs)
        return F.cross_entropy(outputs, targets) + (noise * (outputs - outputs.detach())).mean()

    with pytest.raises(ValueError, match=r"^model, batches: .* differ in the gradient") as raised:
        top_eigenvalues(network(), batches, loss)
    assert "\n" not in str(raised.value)


def test_each_product_ticks(batches):
    ticks: list[int] = []
    given = {"tick": lambda: ticks.append(1)}
    found = [
        top_eigenvalues(network(), batches, F.cross_entropy, **given),
        trace_and_norm(network(), batches, F.cross_entropy, probes=2, **given),
        hessian_spectrum(network(), batches, F.cross_entropy, probes=1, steps=3, **given),
    ]
    assert len(ticks) == sum(result.products for result in found)


def test_a_loss_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match=r"own loss is nan: .* finite"):
        trace_and_norm(quadratic([math.nan, 1.0]), ONE, height)


def test_a_hessian_that_is_0_to_the_last_bit_has_eigenvalues_0():
    model, batches = nn.Linear(10, 5), [(torch.randn(8, 10), torch.zeros(8))]
    found = top_eigenvalues(model, batches, height, 3)
    assert (found.values, found.residuals, found.converged) == ((0.0,) * 3, (0.0,) * 3, True)
    assert trace_and_norm(model, batches, height).trace == (0.0, 0.0)
    assert hessian_spectrum(model, batches, height, probes=1).ritz == ((0.0,),)


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan])
def test_a_density_needs_a_width(width):
    found = hessian_spectrum(quadratic([1.0, 2.0]), ONE, height, probes=1)
    with pytest.raises(ValueError, match=r"^width: .* above 0"):
        found.density([0.0], width)


def test_a_loss_without_a_second_derivative_is_refused():
    """Sum |w|^1.5 at 0: its slope is 0, its curvature infinite."""

    class Cusp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(30, dtype=torch.float64))

        def forward(self, inputs: Tensor) -> Tensor:
            return (self.w.abs() ** 1.5).sum().expand(len(inputs))

    for tool in (trace_and_norm, hessian_spectrum, top_eigenvalues):
        with pytest.raises(ValueError, match=r"H v is not finite: .* second derivative"):
            tool(Cusp(), ONE, height)
