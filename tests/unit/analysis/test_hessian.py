"""Hessian tools against the dense matrix in float64 and in closed form: products, eigenvalues, trace and norm."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.hessians import ONE, dense, height, network, quadratic
from torch import nn
from torch.nn import functional as F

from smoothout.analysis.hessian import (
    HessianVectorProduct,
    hessian_spectrum,
    rademacher,
    top_eigenvalues,
    trace_and_norm,
)

# Products and blocks


def test_products_are_those_of_the_dense_matrix(batches):
    model = network()
    product = HessianVectorProduct(model, batches, F.cross_entropy)
    truth = dense(model, batches)
    assert product.dimension == len(truth) == 48
    vector = torch.randn(48, dtype=torch.float64)
    torch.testing.assert_close(product(vector), truth @ vector, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(torch.from_numpy(product.matrix()), truth, rtol=1e-10, atol=1e-12)
    assert product.products == 49


def test_a_block_is_the_diagonal_block_of_its_layer(batches):
    model = network()
    for block in ("0", "4", "4.weight", "1.bias"):
        found = HessianVectorProduct(model, batches, F.cross_entropy, block=block).matrix()
        torch.testing.assert_close(torch.from_numpy(found), dense(model, batches, block), rtol=1e-10, atol=1e-12)


def test_a_block_has_the_weights_that_it_shares_with_others():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).double()
    model[1].weight = model[0].weight
    data = [(torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64))]
    found = [HessianVectorProduct(model, data, F.mse_loss, block=name).matrix() for name in ("0.weight", "1.weight")]
    assert found[0].shape == (9, 9)
    assert (found[0] == found[1]).all()
    assert HessianVectorProduct(model, data, F.mse_loss, block="1").dimension == 12


def test_a_float32_model_comes_near_and_sums_over_batches_are_float64(batches):
    model = network()
    truth = dense(model, batches)
    single = [(inputs.float(), targets) for inputs, targets in batches]
    found = torch.from_numpy(HessianVectorProduct(model.float(), single, F.cross_entropy).matrix())
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, truth, rtol=0.0, atol=2e-6 * float(truth.abs().max()))


def test_a_loss_that_is_linear_in_the_weights_has_no_curvature():
    model = nn.Linear(3, 1).double()
    data = [(torch.randn(4, 3, dtype=torch.float64), torch.zeros(4))]
    assert not HessianVectorProduct(model, data, height).matrix().any()
    assert trace_and_norm(model, data, height, probes=2).squared_norm == (0.0, 0.0)
    assert hessian_spectrum(model, data, height, probes=1).ritz == ((0.0,),)


# Eigenvalues


@pytest.mark.parametrize("which", ["LA", "LM", "SA"])
def test_the_outermost_eigenvalues_are_those_of_the_dense_matrix(batches, which):
    model = network()
    truth = torch.linalg.eigvalsh(dense(model, batches))
    order = {"LA": truth, "LM": truth.abs(), "SA": -truth}[which]
    expected = truth[order.argsort(descending=True)[:3]].tolist()
    found = top_eigenvalues(model, batches, F.cross_entropy, 3, which=which, tolerance=1e-9)
    assert found.values == pytest.approx(expected, rel=1e-8)
    assert max(found.residuals) < 1e-7
    assert (found.converged, found.status, found.dimension) == (True, "converged", 48)


@pytest.mark.parametrize(("block", "n"), [(None, 48), ("4.bias", 3)])  # by ARPACK, and as a whole
def test_eigenvectors_are_given_where_they_are_asked_for(batches, block, n):
    model = network()
    found = top_eigenvalues(model, batches, F.cross_entropy, 2, block=block, tolerance=1e-10, vectors=True)
    vectors = torch.linalg.eigh(dense(model, batches, block or "")).eigenvectors
    assert found.vectors.dtype == torch.float64
    assert found.vectors.shape == (2, n)
    torch.testing.assert_close((found.vectors @ vectors[:, [-1, -2]]).abs(), torch.eye(2).double(), rtol=0, atol=1e-6)
    plain = top_eigenvalues(model, batches, F.cross_entropy, 2, block=block, tolerance=1e-10)
    assert plain.vectors is None
    assert plain == found


def test_a_search_that_stops_short_says_so():
    values = (1.0 + 1e-3 * torch.arange(300, dtype=torch.float64)).tolist()
    found = top_eigenvalues(quadratic(values, seed=0), ONE, height, 4, tolerance=1e-14, restarts=1)
    assert not found.converged
    assert len(found.values) < 4
    assert found.status == f"{len(found.values)} of 4 converged in 1 restarts"


def test_a_residual_is_how_far_its_vector_is_from_an_eigenvector():
    """With a loose tolerance residuals are not small: an eigenvalue of the matrix lies that near to each value."""
    values = torch.linspace(1.0, 2.0, 300, dtype=torch.float64)
    found = top_eigenvalues(quadratic(values.tolist(), seed=0), ONE, height, 3, tolerance=0.3)
    assert max(found.residuals) > 1e-4
    for value, residual in zip(found.values, found.residuals, strict=True):
        assert (values - value).abs().min().item() <= residual


# Trace and norm


def test_the_trace_of_a_diagonal_hessian_is_exact_with_one_probe():
    found = trace_and_norm(quadratic([3.0, -1.0, 0.5, 7.0]), ONE, height, probes=1)
    assert found.trace.mean == pytest.approx(9.5, rel=1e-14)
    assert found.squared_norm.mean == pytest.approx(9 + 1 + 0.25 + 49, rel=1e-14)
    assert math.isnan(found.trace.standard_error)


def test_trace_and_norm_lie_within_four_standard_errors_of_the_dense_ones(batches):
    model = network()
    truth = dense(model, batches)
    found = trace_and_norm(model, batches, F.cross_entropy, probes=200)
    for one, exact in ((found.trace, truth.trace()), (found.squared_norm, truth.square().sum())):
        assert abs(one.mean - exact.item()) < 4 * one.standard_error
        assert 0 < one.standard_error < 0.5 * exact.item()
    spread = math.sqrt(2 * (truth.square().sum() - truth.diagonal().square().sum()) / 200)
    assert found.trace.standard_error == pytest.approx(spread, rel=0.3)
    assert (found.dimension, found.products) == (48, 200)


def test_probes_are_signs_and_depend_on_seed_and_index_alone():
    probe = rademacher(1000, 2, 3)
    assert set(probe.tolist()) == {-1.0, 1.0}
    assert abs(probe.mean()) < 0.2
    assert torch.equal(probe, rademacher(1000, 2, 3))
    assert not torch.equal(probe, rademacher(1000, 2, 4))
    assert not torch.equal(probe, rademacher(1000, 3, 3))
