"""Second derivatives that a backward pass cuts off are noticed, and rounding is not taken for a cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.hessians import dense, network
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.analysis.hessian import HessianVectorProduct, hessian_spectrum, top_eigenvalues, trace_and_norm


class Swish(torch.autograd.Function):
    """x sigmoid(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        [x] = ctx.saved_tensors
        return slope * x.sigmoid() * (1.0 + x * (1.0 - x.sigmoid()))


class CutSwish(Swish):
    """The same, except that its backward pass cannot be differentiated."""

    @staticmethod
    @torch.no_grad()
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return Swish.backward(ctx, slope)


class Activation(nn.Module):
    """A function as a layer."""

    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function.apply(x)


MEASURES: dict[str, Callable[..., Any]] = {
    "largest": top_eigenvalues,
    "lowest": lambda *args: top_eigenvalues(*args, which="SA"),
    "spectrum": lambda *args: hessian_spectrum(*args, probes=1, steps=10),
    "trace": trace_and_norm,
    "hutchinson": lambda *args: trace_and_norm(*args, method="hutchinson"),
    "matrix": lambda *args: HessianVectorProduct(*args).matrix(),
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=list(MEASURES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_cut_within_the_network_is_refused_and_the_same_function_without_it_is_not(
    batches: list[tuple[Tensor, Tensor]], measure: Callable[..., Any], dtype: torch.dtype
) -> None:
    data = [(inputs.to(dtype), targets) for inputs, targets in batches]
    model = network().to(dtype)
    model[2] = Activation(CutSwish)
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(ValueError, match=r"^model, loss: .*not symmetric .*autograd\.Function") as error:
        measure(model, data, F.cross_entropy)
    assert "\n" not in str(error.value)
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), before, strict=True))
    assert model.training
    model[2] = Activation(Swish)
    measure(model, data, F.cross_entropy)


def test_a_function_that_can_be_differentiated_twice_has_the_hessian_of_torchs_own(
    batches: list[tuple[Tensor, Tensor]],
) -> None:
    model = network()
    model[2] = Activation(Swish)
    found = torch.from_numpy(HessianVectorProduct(model, batches, F.cross_entropy).matrix())
    model[2] = nn.SiLU()
    torch.testing.assert_close(found, dense(model, batches), rtol=1e-10, atol=1e-12)


def multilayer() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 30), nn.Tanh(), nn.Linear(30, 5))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 5)), nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5)
    )


@pytest.mark.parametrize("make", [multilayer, convolutional])
@pytest.mark.parametrize("steps", [0, 30, 1000])  # after the last the loss is below 1e-5, and its gradients round to 0
def test_rounding_in_float32_is_no_cut(make: Callable[[], nn.Module], steps: int) -> None:
    model, inputs, targets = make(), torch.randn(100, 20), torch.randint(0, 5, (100,))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    data = list(zip(inputs.split(40), targets.split(40), strict=True))
    for seed in range(3):
        assert top_eigenvalues(model, data, F.cross_entropy, 2, seed=seed).converged
        trace_and_norm(model, data, F.cross_entropy, probes=2, method="hutchinson", seed=seed)
