"""Hessian tools against the dense matrix in float64, in closed form, and a model that stays as it was."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from smoothout.analysis.hessian import (
    HessianVectorProduct,
    hessian_spectrum,
    lanczos,
    rademacher,
    top_eigenvalues,
    trace_and_norm,
)

Batches = list[tuple[Tensor, Tensor]]


def network(seed: int = 0) -> nn.Sequential:
    """A smooth 3-5-3 network with BatchNorm and dropout, 48 weights, float64."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3)).double()
    model(torch.randn(32, 3, dtype=torch.float64))
    return model


@pytest.fixture
def batches() -> Batches:
    generator = torch.Generator().manual_seed(1)
    sizes = (13, 8, 1)
    return [
        (torch.randn(n, 3, generator=generator, dtype=torch.float64), torch.randint(0, 3, (n,), generator=generator))
        for n in sizes
    ]


def dense(model: nn.Module, batches: Batches, block: str = "") -> Tensor:
    """The Hessian of the mean loss by the parameters whose name begins with ``block``, from torch.func."""
    inputs, targets = (torch.cat(column) for column in zip(*batches, strict=True))
    model.eval()
    weights = {k: p.detach() for k, p in model.named_parameters() if k.startswith(block)}
    shapes = [w.shape for w in weights.values()]

    def loss(vector: Tensor) -> Tensor:
        pieces = vector.split([s.numel() for s in shapes])
        state = {k: v.view(s) for k, v, s in zip(weights, pieces, shapes, strict=True)}
        return F.cross_entropy(functional_call(model, state, (inputs,)), targets)

    hessian = torch.func.hessian(loss)(torch.cat([w.flatten() for w in weights.values()]))
    model.train()
    return hessian


class Quadratic(nn.Module):
    """The loss w . A w / 2 for a symmetric A, whatever the example."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.matrix = matrix
        self.weights = nn.Parameter(torch.linspace(-1.0, 1.0, len(matrix), dtype=matrix.dtype))

    def forward(self, inputs: Tensor) -> Tensor:
        return (0.5 * self.weights @ (self.matrix @ self.weights)).expand(len(inputs))


ONE = [(torch.zeros(1, 1), torch.zeros(1))]


def height(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.mean()


def quadratic(values: list[float], seed: int | None = None) -> Quadratic:
    """A quadratic with these eigenvalues, along the axes or (with a seed) along random directions."""
    matrix = torch.diag(torch.tensor(values, dtype=torch.float64))
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        q = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator, dtype=torch.float64)).Q
        matrix = q @ matrix @ q.T
    return Quadratic(matrix)


def state(model: nn.Module) -> tuple[list[bytes], list[bool], list[object]]:
    tensors = [t.detach().numpy().tobytes() for t in model.state_dict().values()]
    return tensors, [m.training for m in model.modules()], [p.grad for p in model.parameters()]


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


def test_a_block_is_named_by_whole_parts_of_names():
    model = nn.Sequential(*[nn.Linear(1, 1, bias=False) for _ in range(11)])
    data = [(torch.ones(2, 1), torch.ones(2, 1))]
    assert HessianVectorProduct(model, data, F.mse_loss, block="1").dimension == 1


def test_an_unknown_block_is_refused_and_the_known_ones_are_listed(batches):
    with pytest.raises(ValueError, match=r"block: '7' names no trainable parameters; known are 0, 1, 4$"):
        HessianVectorProduct(network(), batches, F.cross_entropy, block="7")


def test_a_float32_model_comes_near_and_sums_over_batches_are_float64(batches):
    model = network()
    truth = dense(model, batches)
    single = [(inputs.float(), targets) for inputs, targets in batches]
    found = torch.from_numpy(HessianVectorProduct(model.float(), single, F.cross_entropy).matrix())
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, truth, rtol=0.0, atol=2e-6 * float(truth.abs().max()))


def test_the_mean_does_not_depend_on_how_batches_are_cut(batches):
    model, vector = network(), torch.randn(48, dtype=torch.float64)
    whole = [tuple(torch.cat(column) for column in zip(*batches, strict=True))]
    first, second = (HessianVectorProduct(model, b, F.cross_entropy)(vector) for b in (batches, whole))
    torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-12)


def test_a_loss_that_is_linear_in_the_weights_has_no_curvature():
    model = nn.Linear(3, 1).double()
    data = [(torch.randn(4, 3, dtype=torch.float64), torch.zeros(4))]
    assert not HessianVectorProduct(model, data, height).matrix().any()
    assert trace_and_norm(model, data, height, probes=2).squared_norm == (0.0, 0.0)
    assert hessian_spectrum(model, data, height, probes=1).ritz == ((0.0,),)


# Eigenvalues


@pytest.mark.parametrize("which", ["LA", "LM"])
def test_the_outermost_eigenvalues_are_those_of_the_dense_matrix(batches, which):
    model = network()
    truth = torch.linalg.eigvalsh(dense(model, batches))
    order = truth if which == "LA" else truth.abs()
    expected = truth[order.argsort(descending=True)[:3]].tolist()
    found = top_eigenvalues(model, batches, F.cross_entropy, 3, which=which, tolerance=1e-9)
    assert found.values == pytest.approx(expected, rel=1e-8)
    assert max(found.residuals) < 1e-7
    assert (found.converged, found.status, found.dimension) == (True, "converged", 48)


def test_by_value_and_by_size_differ_where_the_most_negative_is_the_largest():
    model = quadratic([-9.0, *np.linspace(-1.0, 1.0, 38), 5.0], seed=0)
    by_value = top_eigenvalues(model, ONE, height, 2, tolerance=1e-10)
    by_size = top_eigenvalues(model, ONE, height, 2, which="LM", tolerance=1e-10)
    assert by_value.values == pytest.approx([5.0, 1.0])
    assert by_size.values == pytest.approx([-9.0, 5.0])


def test_small_blocks_are_solved_as_a_whole_down_to_one_weight():
    found = top_eigenvalues(quadratic([3.0, -1.0, 2.0], seed=1), ONE, height, 3)
    assert found.values == pytest.approx([3.0, 2.0, -1.0])
    assert top_eigenvalues(quadratic([4.0]), ONE, height).values == pytest.approx([4.0])


def test_a_search_that_stops_short_says_so():
    values = (1.0 + 1e-3 * torch.arange(300, dtype=torch.float64)).tolist()
    found = top_eigenvalues(quadratic(values, seed=0), ONE, height, 4, tolerance=1e-14, restarts=1)
    assert not found.converged
    assert len(found.values) < 4
    assert found.status == f"{len(found.values)} of 4 converged in 1 restarts"


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
    trace = trace_and_norm(model, batches, F.cross_entropy, probes=3).trace.mean
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


# Chance, the model, refusals


@pytest.mark.parametrize("changing", ["model", "data", "gradient"])
def test_what_does_not_answer_twice_the_same_is_refused(changing, batches):
    model = network()
    before = state(model)

    class Augmented:
        def __iter__(self):
            for inputs, targets in batches:
                yield inputs + 0.1 * torch.randn_like(inputs), targets

    loss, data = F.cross_entropy, batches
    if changing == "model":
        model = nn.Sequential(network(), nn.Linear(3, 3).double())
        model[1].register_forward_hook(lambda _, __, output: F.dropout(output, 0.5))  # in evaluation mode too
        before = state(model)
    elif changing == "data":
        data = Augmented()
    else:

        def loss(outputs: Tensor, targets: Tensor) -> Tensor:
            noise = torch.randn_like(outputs)
            return F.cross_entropy(outputs, targets) + (noise * (outputs - outputs.detach())).mean()

    with pytest.raises(ValueError, match=r"two passes differ in the (loss|gradient): must answer twice") as raised:
        top_eigenvalues(model, data, loss)
    assert "\n" not in str(raised.value)
    assert ("gradient" in str(raised.value)) == (changing == "gradient")
    assert state(model) == before


def test_batches_that_are_empty_or_spent_are_refused(batches):
    with pytest.raises(ValueError, match="batches has 0 examples"):
        trace_and_norm(network(), [], F.cross_entropy)
    with pytest.raises(ValueError, match="batches has 0 examples, 22 before: must repeat itself"):
        trace_and_norm(network(), iter(batches), F.cross_entropy)


def test_a_loss_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="the model's own loss is nan: must be finite"):
        trace_and_norm(quadratic([math.nan, 1.0]), ONE, height)


def test_impossible_arguments_are_refused():
    model = quadratic([1.0, 2.0])
    with pytest.raises(ValueError, match="k is 3: must be from 1 to n = 2"):
        top_eigenvalues(model, ONE, height, 3)
    with pytest.raises(ValueError, match="which is 'SA': must be LA or LM"):
        top_eigenvalues(model, ONE, height, which="SA")
    with pytest.raises(ValueError, match="probes is 0: must be a whole number of at least 1"):
        trace_and_norm(model, ONE, height, probes=0)
    with pytest.raises(ValueError, match="steps is 0: must be a whole number of at least 1"):
        hessian_spectrum(model, ONE, height, steps=0)


def test_the_model_is_left_as_it_was_to_the_last_bit_and_each_product_ticks(batches):
    model, ticks = network(), []
    model[1].eval()
    F.cross_entropy(model(batches[0][0]), batches[0][1]).backward()
    before = state(model)
    with torch.no_grad():
        first = top_eigenvalues(model, batches, F.cross_entropy, tick=lambda: ticks.append(1))
        second = trace_and_norm(model, batches, F.cross_entropy, probes=2, tick=lambda: ticks.append(1))
        third = hessian_spectrum(model, batches, F.cross_entropy, probes=1, steps=3, tick=lambda: ticks.append(1))
    assert state(model)[:2] == before[:2]
    assert all(a is b for a, b in zip(state(model)[2], before[2], strict=True))
    assert len(ticks) == first.products + second.products + third.products


def test_the_model_is_left_as_it_was_when_the_loss_raises_in_a_product(batches):
    model, calls = network(), []
    before = state(model)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 8:  # the second batch of the first product
            raise RuntimeError("eighth")
        return F.cross_entropy(outputs, targets)

    with pytest.raises(RuntimeError, match="eighth"):
        hessian_spectrum(model, batches, loss)
    assert state(model) == before


def test_the_same_seed_gives_the_same_result_and_another_another(batches):
    model = network()
    for tool, options in (
        (top_eigenvalues, {"tolerance": 0.1}),
        (trace_and_norm, {"probes": 2}),
        (hessian_spectrum, {"probes": 1, "steps": 3}),
    ):
        first, again, other = (tool(model, batches, F.cross_entropy, seed=seed, **options) for seed in (1, 1, 2))
        assert first == again
        assert first != other


def test_where_the_hessian_is_0_to_the_last_bit_there_is_no_eigenvalue_and_arpack_says_why():
    model, batches = nn.Linear(10, 5), [(torch.randn(8, 10), torch.zeros(8))]
    found = top_eigenvalues(model, batches, height, 3)
    assert (found.values, found.residuals, found.converged) == ((), (), False)
    assert "ARPACK error" in found.status
    assert hessian_spectrum(model, batches, height, probes=1).ritz == ((0.0,),)


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan])
def test_a_density_needs_a_width(width):
    found = hessian_spectrum(quadratic([1.0, 2.0]), ONE, height, probes=1)
    with pytest.raises(ValueError, match=r"width is .*: must be a finite number above 0"):
        found.density([0.0], width)
