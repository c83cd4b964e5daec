"""LPF-SGD's and ARWP's contexts against their papers' formulas, draw for draw."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from helpers.common import FALSE_ALARM
from helpers.noise_cases import examples, network, seeded, thetas
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout import ARWP, LPFSGD
from smoothout.common.rng import normal_
from smoothout.nn.weight_context import WeightContext


def papers_noise(parameters: list[Tensor], gamma: float, generator: torch.Generator) -> list[Tensor]:
    """Noise as in the papers' programs: normal numbers times gamma and the norm of the filter they belong to."""
    draws = torch.empty(sum(p.numel() for p in parameters), dtype=parameters[0].dtype)
    normal_(draws, generator)
    found = []
    for parameter, draw in zip(parameters, draws.split([p.numel() for p in parameters]), strict=True):
        rows = parameter.detach().reshape(len(parameter) if parameter.dim() > 1 else 1, -1)
        found.append((draw.view_as(rows) * (gamma * rows.norm(dim=1, keepdim=True))).view_as(parameter))
    return found


def convolutions() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(24, 3))


@pytest.mark.parametrize("make", [network, convolutions, lambda: convolutions().to(memory_format=torch.channels_last)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lpf_sgds_noise_is_the_papers(make: Any, dtype: torch.dtype) -> None:
    model = make().to(dtype)
    found = thetas(LPFSGD(model, 0.1, generator=seeded(4)))
    wanted = papers_noise(list(model.parameters()), 0.1, seeded(4))
    for theta, one in zip(found, wanted, strict=True):
        torch.testing.assert_close(theta, one, rtol=1e-12 if dtype == torch.float64 else 1e-5, atol=1e-12)


def test_each_number_is_normal_with_gamma_times_its_filters_norm() -> None:
    model = nn.Linear(300, 200)
    with torch.no_grad():
        model.weight.mul_(torch.logspace(-3, 3, 200).view(-1, 1))
    theta, bias = thetas(LPFSGD(model, 0.02))
    standard = theta / (0.02 * model.weight.detach().norm(dim=1, keepdim=True))
    assert stats.kstest(standard.flatten().double().numpy(), stats.norm.cdf).pvalue > FALSE_ALARM
    assert stats.kstest((bias / (0.02 * model.bias.detach().norm())).numpy(), stats.norm.cdf).pvalue > FALSE_ALARM


def test_batchnorm_is_perturbed_unless_told_otherwise() -> None:
    assert [theta.shape[0] for theta in thetas(LPFSGD(network(), 0.1))] == [8, 8, 8, 8, 3, 3]
    assert len(thetas(LPFSGD(network(), 0.1, batchnorm=False))) == 4


def test_arwps_noise_shrinks_as_squared_gradients_add_up() -> None:
    """Three updates written out as in Li et al. (2024): F <- beta F + ||g_filter||^2, noise / sqrt(1 + eta F)."""
    model, other = network().double(), network().double()
    arwp = ARWP(model, 0.05, eta=3.0, beta=0.6, generator=seeded(1))
    ours, theirs = (torch.optim.SGD(one.parameters(), 0.1) for one in (model, other))
    inputs, labels = examples(16)
    generator, fisher = seeded(1), [torch.zeros_like(p) for p in other.parameters()]
    for _ in range(3):
        with arwp:
            F.cross_entropy(model(inputs.double()), labels).backward()
        arwp.observe()
        ours.step()
        ours.zero_grad()

        parameters = list(other.parameters())
        noise = papers_noise(parameters, 0.05, generator)
        for theta, squares in zip(noise, fisher, strict=True):
            theta.div_(
                torch.sqrt(1 + 3.0 * squares.reshape(len(squares), -1).sum(1).view(-1, *[1] * (theta.dim() - 1)))
            )
        clean = [p.detach().clone() for p in parameters]
        with torch.no_grad():
            torch._foreach_add_(parameters, noise)
        F.cross_entropy(other(inputs.double()), labels).backward()
        for index, parameter in enumerate(parameters):
            assert parameter.grad is not None
            fisher[index] = 0.6 * fisher[index] + parameter.grad**2
            parameter.data = clean[index]
        theirs.step()
        theirs.zero_grad()
        for one, two in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)


def test_a_gradient_that_is_not_finite_leaves_fisher_finite() -> None:
    model = nn.Linear(3, 2)
    arwp = ARWP(model, 0.1)
    model.weight.grad = torch.full((2, 3), math.inf)
    arwp.observe()
    assert not any(fisher.any() for fisher in arwp.fisher)


def observed(model: nn.Module) -> ARWP:
    """An ARWP that has seen a gradient."""
    arwp = ARWP(model, 0.1, generator=seeded(1))
    with arwp:
        model(examples(4)[0]).square().sum().backward()
    arwp.observe()
    assert all(fisher.any() for fisher in arwp.fisher)
    return arwp


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda arwp: pickle.loads(pickle.dumps(arwp))], ids=["deepcopy", "pickle"]
)
def test_a_copy_keeps_fisher(copied: Any) -> None:
    arwp = observed(nn.Linear(5, 3))
    other = copied(arwp)
    assert all(map(torch.equal, thetas(other), thetas(arwp)))
    assert all(map(torch.equal, other.fisher, arwp.fisher))


def test_fisher_stays_when_the_model_is_cast_and_for_each_parameter_that_stays_trainable() -> None:
    model = network()
    arwp = observed(model)
    before = [fisher.clone() for fisher in arwp.fisher]
    model.double()
    model[0].requires_grad_(False)
    model[3] = nn.Linear(8, 7).double()
    with arwp:
        pass
    assert [fisher.dtype for fisher in arwp.fisher] == [torch.float64] * 4
    assert all(torch.equal(fisher.float(), old) for fisher, old in zip(arwp.fisher[:2], before[2:4], strict=True))
    assert not any(fisher.any() for fisher in arwp.fisher[2:]), "of the new layer"


def test_fisher_is_saved_and_loaded() -> None:
    model = network()
    arwp = observed(model)
    saved = copy.deepcopy(arwp.state_dict())
    resumed = ARWP(model, 0.1, generator=seeded(1))
    resumed.load_state_dict(saved)
    assert all(map(torch.equal, resumed.fisher, arwp.fisher))
    arwp.observe()
    assert not torch.equal(resumed.fisher[0], arwp.fisher[0]), "a copy"
    assert list(saved["fisher"]) == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize(
    "state", [{}, {"fisher": {"weight": torch.ones(3, 1)}}, ARWP(nn.Linear(5, 4), 0.1).state_dict()]
)
def test_fisher_of_another_model_is_refused_and_nothing_is_changed(state: Any) -> None:
    arwp = observed(nn.Linear(5, 3))
    before = [fisher.clone() for fisher in arwp.fisher]
    with pytest.raises(ValueError, match=r"^state_dict: the names or shapes of F do not match the model"):
        arwp.load_state_dict(state)
    assert all(map(torch.equal, arwp.fisher, before))


@pytest.mark.parametrize("make", [lambda m: LPFSGD(m, 0.1), lambda m: ARWP(m, 0.1)])
def test_weights_come_back_to_the_last_bit(make: Any) -> None:
    model = network()
    before = [p.detach().clone() for p in model.parameters()]
    context: WeightContext = make(model)
    with context:
        assert not torch.equal(model[0].weight, before[0])
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
    with context, pytest.raises(RuntimeError, match=f"this {type(context).__name__} context is already entered"):
        context.__enter__()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: LPFSGD(m, -1.0), "gamma: the noise's strength must be a finite number >= 0, not -1.0"),
        (lambda m: ARWP(m, -0.1), "sigma: the noise's strength must be a finite number >= 0, not -0.1"),
    ],
)
def test_wrong_numbers_are_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(network())
