"""Gradients and momenta in low precision, whose norm float16 cannot hold, and sparse ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout import ARWP, ASAM, MSAM, SAM
from smoothout.nn.passes import Passes
from smoothout.training.methods.sam import relative_ascent

LOW = [torch.float16, torch.bfloat16]


def layer(dtype: torch.dtype) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(400, 50).to(dtype)


def backward(model: nn.Linear, size: float) -> None:
    """Give each parameter a gradient of random numbers times ``size``, with the same seed every time."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.grad = (size * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype)


def steps(method: Passes, model: nn.Linear, size: float) -> list[Tensor]:
    """The steps that the second pass is at, in float64."""
    before = [p.detach().double() for p in model.parameters()]
    with method[0]:
        backward(model, size)
    with method[1]:
        return [p.detach().double() - w for p, w in zip(model.parameters(), before, strict=True)]


def length(tensors: list[Tensor]) -> float:
    return float(torch.cat([tensor.detach().flatten() for tensor in tensors]).norm())


@pytest.mark.parametrize("size", [1e-5, 1.0, 1e3, 1e4])  # the largest has a norm of 1.4 million
@pytest.mark.parametrize("make", [lambda m: SAM(m, 0.5), lambda m: ASAM(m, 20.0, eta=1.0)], ids=["sam", "asam"])
@pytest.mark.parametrize("dtype", LOW)
def test_a_step_in_low_precision_is_that_of_float64(
    make: Callable[[nn.Module], Passes], size: float, dtype: torch.dtype
) -> None:
    model = layer(dtype)
    exact = layer(dtype).double()
    found, wanted = steps(make(model), model, size), steps(make(exact), exact, size)
    wrong = length([one - other for one, other in zip(found, wanted, strict=True)])
    assert wrong < 0.1 * length(wanted)  # bfloat16 rounds w + step to three digits


@pytest.mark.parametrize("make", [SAM, ASAM])
@pytest.mark.parametrize("dtype", LOW)
def test_without_a_gradient_there_is_no_step(make: Callable[[nn.Module], Passes], dtype: torch.dtype) -> None:
    model = layer(dtype)
    assert length(steps(make(model), model, 0.0)) == 0


@pytest.mark.parametrize("dtype", LOW)
def test_msam_has_no_step_at_first_and_one_of_length_rho_then(dtype: torch.dtype) -> None:
    model = layer(dtype)
    optimizer = torch.optim.SGD(model.parameters(), 0.0, momentum=0.9)
    msam, before = MSAM(model, optimizer, rho=0.5), [p.detach().double() for p in model.parameters()]
    with msam:
        assert all(torch.equal(p.double(), w) for p, w in zip(model.parameters(), before, strict=True))
    backward(model, 1e4)
    optimizer.step()
    momenta = [optimizer.state[p]["momentum_buffer"].clone() for p in model.parameters()]
    with msam:
        assert length([p.double() - w for p, w in zip(model.parameters(), before, strict=True)]) == pytest.approx(
            0.5, rel=0.1
        )
    assert all(
        torch.equal(optimizer.state[p]["momentum_buffer"], m) for p, m in zip(model.parameters(), momenta, strict=True)
    )


@pytest.mark.parametrize("dtype", LOW)
def test_arwps_f_holds_squares_above_65504(dtype: torch.dtype) -> None:
    model = layer(dtype)
    arwp = ARWP(model, sigma=0.01, eta=1e-3)
    backward(model, 1e3)
    arwp.observe()
    for parameter, fisher in zip(model.parameters(), arwp.fisher, strict=True):
        assert parameter.grad is not None
        squares = parameter.grad.double().reshape(len(parameter), -1).square().sum(1)
        assert fisher.dtype == torch.float32
        torch.testing.assert_close(fisher.flatten().double(), squares, rtol=1e-5, atol=0.0)
    with arwp:
        assert all(p.isfinite().all() and p.dtype == dtype for p in model.parameters())


@pytest.mark.parametrize("dtype", LOW)
def test_the_relative_strength_of_a_step_is_finite(dtype: torch.dtype) -> None:
    model = layer(dtype)
    backward(model, 1e4)
    gradient = [p.grad for p in model.parameters() if p.grad is not None]
    exact = [g.double() for g in gradient]
    assert relative_ascent(model, gradient, 0.1) == pytest.approx(
        relative_ascent(layer(dtype).double(), exact, 0.1), rel=1e-2
    )


class Words(nn.Module):
    """An embedding, whose gradient may be sparse, and a layer."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.layer = nn.Embedding(10, 4, sparse=sparse), nn.Linear(8, 3)

    def forward(self, words: Tensor) -> Tensor:
        out: Tensor = self.layer(self.embedding(words).flatten(1))
        return out


def trained(sparse: bool, context: Callable[[nn.Module, torch.optim.Optimizer], Any]) -> tuple[list[Tensor], Any]:
    model = Words(sparse)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    made = context(model, optimizer)
    for _ in range(3):
        with made:
            F.cross_entropy(model(torch.tensor([[1, 2], [2, 9]])), torch.tensor([0, 2])).backward()
        if isinstance(made, ARWP):
            made.observe()
        optimizer.step()
        optimizer.zero_grad()
    return list(model.parameters()), made


def test_msam_steps_along_a_sparse_momentum() -> None:
    found, wanted = (trained(sparse, lambda m, o: MSAM(m, o, rho=0.3))[0] for sparse in (True, False))
    torch.testing.assert_close(found, wanted)


def test_arwp_observes_sparse_gradients() -> None:
    make = lambda m, o: ARWP(m, 0.01, generator=torch.Generator().manual_seed(2))  # noqa: E731
    (found, arwp), (wanted, other) = (trained(sparse, make) for sparse in (True, False))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(arwp.fisher, other.fisher)
