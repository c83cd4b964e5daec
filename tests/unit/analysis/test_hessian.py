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
from smoothout.common.rng import make_generator

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


@pytest.mark.parametrize(("block", "n"), [(None, 48), ("4.bias", 3)])
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
    found = top_eigenvalues(quadratic(values, seed=0), ONE, height, 4, tolerance=1e-14, restarts=1, basis=20)
    assert not found.converged
    assert len(found.values) < 4
    assert found.status == f"{len(found.values)} of 4 converged in 1 restarts"
    assert found.products == 20 + 8


@pytest.mark.parametrize("which", ["LA", "SA", "LM"])
def test_a_search_in_few_vectors_restarts_and_finds_the_same(which):
    values = torch.cat([torch.linspace(-1.0, 1.0, 200), torch.tensor([-3.0, -2.0, 1.5, 2.5])]).double()
    order = {"LA": values, "LM": values.abs(), "SA": -values}[which].argsort(descending=True)
    model = quadratic(values.tolist(), seed=0)
    found = top_eigenvalues(model, ONE, height, 3, which=which, tolerance=1e-9, basis=12, vectors=True)
    assert found.values == pytest.approx(values[order[:3]].tolist(), rel=1e-12)
    assert found.products > 12
    torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(3).double(), rtol=0, atol=1e-12)
    residuals = model.matrix @ found.vectors.T - found.vectors.T * torch.tensor(found.values)
    assert (residuals.norm(dim=0) <= 1e-13 + torch.tensor(found.residuals)).all()


@pytest.mark.parametrize("k", [1, 5])
def test_a_search_stops_at_the_first_product_after_which_its_eigenvalues_are_accurate(k):
    """As soon as the space of the powers of H times the start vector holds them: no method can do it with fewer."""
    model, values = outliers()
    found = top_eigenvalues(model, ONE, height, k, tolerance=1e-6)
    powers = [torch.randn(300, generator=make_generator(0, "eigenvector"), dtype=torch.float64)]
    for _ in range(found.products):
        powers.append(model.matrix @ torch.linalg.qr(torch.stack(powers).T).Q[:, -1])
    basis = torch.linalg.qr(torch.stack(powers).T).Q
    for products in (found.products - 1, found.products):
        space = basis[:, :products]
        ritz, vectors = torch.linalg.eigh(space.T @ model.matrix @ space)
        residuals = (model.matrix @ space @ vectors[:, -k:] - space @ vectors[:, -k:] * ritz[-k:]).norm(dim=0)
        assert bool((residuals <= 1e-6 * ritz[-k:]).all()) == (products == found.products)
    assert found.values == pytest.approx(values[:k], rel=1e-10)


def test_equal_eigenvalues_are_all_found_where_few_differ():
    """A start vector spans an invariant space with one vector of each eigenspace; others follow until none is new."""
    model = quadratic([2.0] * 4 + [1.0] * 60 + [-3.0] * 2, seed=5)
    assert top_eigenvalues(model, ONE, height, 5).values == pytest.approx([2.0] * 4 + [1.0])
    assert top_eigenvalues(model, ONE, height, 3, which="SA").values == pytest.approx([-3.0, -3.0, 1.0])
    assert top_eigenvalues(model, ONE, height, 66, basis=68).values == pytest.approx(
        [2.0] * 4 + [1.0] * 60 + [-3.0] * 2
    )


def test_a_residual_is_how_far_its_vector_is_from_an_eigenvector():
    """With a loose tolerance residuals are not small: an eigenvalue of the matrix lies that near to each value."""
    values = torch.linspace(1.0, 2.0, 300, dtype=torch.float64)
    found = top_eigenvalues(quadratic(values.tolist(), seed=0), ONE, height, 3, tolerance=0.3)
    assert max(found.residuals) > 1e-4
    for value, residual in zip(found.values, found.residuals, strict=True):
        assert (values - value).abs().min().item() <= residual


# Trace and norm


def test_the_trace_of_a_diagonal_hessian_is_exact_with_one_random_sign_vector():
    found = trace_and_norm(quadratic([3.0, -1.0, 0.5, 7.0]), ONE, height, probes=1, method="hutchinson")
    assert found.trace.mean == pytest.approx(9.5, rel=1e-14)
    assert found.squared_norm.mean == pytest.approx(9 + 1 + 0.25 + 49, rel=1e-14)
    assert math.isnan(found.trace.standard_error)


@pytest.mark.parametrize(("method", "probes"), [("hutchinson", 200), ("hutch++", 24)])
def test_trace_and_norm_lie_within_four_standard_errors_of_the_dense_ones(batches, method, probes):
    model = network()
    truth = dense(model, batches)
    found = trace_and_norm(model, batches, F.cross_entropy, probes=probes, method=method)
    for one, exact in ((found.trace, truth.trace()), (found.squared_norm, truth.square().sum())):
        assert abs(one.mean - exact.item()) < 4 * one.standard_error
        assert 0 < one.standard_error < 0.5 * exact.item()
    assert (found.dimension, found.products) == (48, probes)
    if method == "hutchinson":
        spread = math.sqrt(2 * (truth.square().sum() - truth.diagonal().square().sum()) / probes)
        assert found.trace.standard_error == pytest.approx(spread, rel=0.3)


def outliers() -> tuple[nn.Module, list[float]]:
    """A quadratic with a spectrum like that of a classifier of ten classes: nine large eigenvalues and a bulk."""
    values = [18.0, 12.0, 9.0, 7.5, 6.5, 5.0, 4.0, 3.5, 3.0, *(0.05 * 0.98**i for i in range(290)), -0.3]
    return quadratic(values, seed=1), values


def test_30_products_find_the_trace_to_2_percent_and_tell_their_error():
    """Over seeds, the errors are as large as the standard errors say; Hutchinson's are five times as large."""
    model, values = outliers()
    truth = sum(values), sum(value**2 for value in values)
    errors, deviations = {"hutch++": [], "hutchinson": []}, []
    for seed in range(20):
        for method, found in errors.items():
            both = trace_and_norm(model, ONE, height, probes=30, seed=seed, method=method)
            found.append(both.trace.mean / truth[0] - 1)
            if method == "hutch++":
                assert abs(both.squared_norm.mean / truth[1] - 1) < 0.01
                deviations.append((both.trace.mean - truth[0]) / both.trace.standard_error)
    spread = {method: math.sqrt(sum(error**2 for error in found) / 20) for method, found in errors.items()}
    assert spread["hutch++"] < 0.02
    assert spread["hutchinson"] > 5 * spread["hutch++"]
    assert 0.7 < math.sqrt(sum(deviation**2 for deviation in deviations) / 20) < 1.5


def test_as_many_products_as_weights_give_the_exact_numbers(batches):
    truth = dense(network(), batches)
    found = trace_and_norm(network(), batches, F.cross_entropy, probes=100)
    assert found.products == 48
    assert found.trace == pytest.approx((truth.trace().item(), 0.0), rel=1e-10)
    assert found.squared_norm == pytest.approx((truth.square().sum().item(), 0.0), rel=1e-10)


def test_a_hessian_of_low_rank_is_found_whole_by_a_lanczos_run():
    found = trace_and_norm(quadratic([4.0, 2.0, -1.0] + [0.0] * 60, seed=2), ONE, height, probes=12)
    assert found.trace == pytest.approx((5.0, 0.0), abs=1e-10)
    assert found.squared_norm == pytest.approx((21.0, 0.0), abs=1e-10)
    assert found.products == 12


def test_probes_are_signs_and_depend_on_seed_and_index_alone():
    probe = rademacher(1000, 2, 3)
    assert set(probe.tolist()) == {-1.0, 1.0}
    assert abs(probe.mean()) < 0.2
    assert torch.equal(probe, rademacher(1000, 2, 3))
    assert not torch.equal(probe, rademacher(1000, 2, 4))
    assert not torch.equal(probe, rademacher(1000, 3, 3))
