"""The trace that noise has seen, measured from flat vectors: the formula tensor by tensor, and a known Hessian."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from smoothout import SmoothOut
from smoothout.nn.curvature import FlatSteinTrace, RunningTrace, noise_variances, stein_trace
from smoothout.nn.options import NoiseDistribution, NoiseScaling


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def drawn(law: NoiseDistribution, scaling: NoiseScaling) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Weights, with a filter of zeros and a bias of zero, their noise and a gradient."""
    model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Linear(5, 6), nn.Linear(6, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight[2] = 0
        model[0].bias[1] = 0
    thetas = SmoothOut(model, 0.3, law, scaling=scaling).draw()
    weights = [parameter.detach() for parameter in model.parameters()]
    return weights, list(thetas), [torch.randn_like(weight) for weight in weights]


@pytest.mark.parametrize("ghosts", [1, 4])
@pytest.mark.parametrize("strength", [0.3, torch.tensor(0.3, dtype=torch.float64)])
@pytest.mark.parametrize("scaling", NoiseScaling)
@pytest.mark.parametrize("law", NoiseDistribution)
def test_it_is_the_formula_tensor_by_tensor(
    law: NoiseDistribution, scaling: NoiseScaling, strength: float | Tensor, ghosts: int
) -> None:
    weights, thetas, gradients = drawn(law, scaling)
    wanted = stein_trace(thetas, gradients, noise_variances(weights, 0.3, distribution=law, scaling=scaling))
    divided = [gradient / ghosts for gradient in gradients]
    measured = FlatSteinTrace(weights, law, scaling)
    found = measured(flat(thetas), flat(divided), flat(weights), strength, ghosts)
    torch.testing.assert_close(found, wanted)
    assert found.dtype == torch.float64


def test_float32_weights_as_small_as_they_get_measure_what_larger_ones_do() -> None:
    """A weight's square is below every float32, not below every float64."""
    for scaling in (NoiseScaling.weight, NoiseScaling.filter):
        weight, gradient = torch.tensor([1e-30, 2.0]), torch.tensor([3e30, 3.0])
        parts = FlatSteinTrace([weight], NoiseDistribution.uniform, scaling)(0.5 * weight, gradient, weight, 0.5)
        variances = noise_variances([weight.double()], 0.5, scaling=scaling)
        wanted = stein_trace([0.5 * weight.double()], [gradient.double()], variances)
        torch.testing.assert_close(parts, wanted, rtol=1e-6, atol=0)


def test_one_noise_for_several_ghost_batches_measures_the_trace_of_their_mean_loss() -> None:
    """C_b = w . H_b w / 2 + g_b . w: the mean over all signs of theta, whose covariance is that of U(-a, a), is exact.

    The mean over ghost batches varies at most as much from draw to draw as single ones do on average.
    """
    a, w = 0.3, torch.randn(6, dtype=torch.float64)
    factors, slopes = torch.randn(4, 6, 6, dtype=torch.float64), torch.randn(4, 6, dtype=torch.float64)
    hessians = factors @ factors.mT
    measured = FlatSteinTrace([w[:4].view(2, 2), w[4:]])
    first, mean = list[Tensor](), list[Tensor]()
    thetas = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=6)), dtype=torch.float64) * a / 3**0.5
    for theta in thetas:
        gradients = hessians @ (w + theta) + slopes
        first.append(measured(theta, gradients[0] / 4, w, a, ghosts=4))
        mean.append(measured(theta, gradients.mean(0), w, a))
    for found, matrix in ((first, hessians[0]), (mean, hessians.mean(0))):
        exact = torch.stack([matrix.diagonal()[:4].sum(), matrix.diagonal()[4:].sum()])
        torch.testing.assert_close(torch.stack(found).mean(0), exact)
    single = torch.einsum("sd,gsd->gs", thetas, (w + thetas) @ hessians + slopes[:, None]) / (a * a / 3)
    assert torch.stack(mean).sum(1).std() < single.std(1).mean()


class Counting(TorchDispatchMode):
    """Counts operations, and refuses to wait for a number."""

    count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        assert operation is not torch.ops.aten._local_scalar_dense.default
        self.count += not operation.is_view
        return operation(*arguments, **(settings or {}))


@pytest.mark.parametrize("scaling", NoiseScaling)
def test_a_measurement_takes_as_many_operations_for_any_network(scaling: NoiseScaling) -> None:
    counts = []
    for tensors in (2, 40):
        weights = [torch.randn(3, 5) for _ in range(tensors)]
        measured = FlatSteinTrace(weights, NoiseDistribution.uniform, scaling)
        running = RunningTrace([f"{index}.weight" for index in range(tensors)])
        strength = torch.tensor(0.3, dtype=torch.float64)
        vectors = [torch.randn(15 * tensors) for _ in range(3)]
        with Counting() as counting:
            running.add(measured(*vectors, strength))
        counts.append(counting.count)
    assert counts[0] == counts[1] <= 20
