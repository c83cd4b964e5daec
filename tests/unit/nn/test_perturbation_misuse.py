"""The contexts of noise in wrong or changing surroundings: updates inside, interrupts, other layers, autocast."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.noise_cases import network, seeded
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_pre_hooks

from smoothout import SmoothOut


def state(model: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True))


# Updates


def stepped(model: nn.Module) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def test_an_update_inside_is_refused_and_one_after_the_block_is_not() -> None:
    model, hooks = network(), len(_global_optimizer_pre_hooks)
    before, context = state(model), SmoothOut(model, 0.1)
    with pytest.raises(RuntimeError, match=r"^optimizer.step\(\) belongs after the block"), context:
        stepped(model)
    assert same(state(model), before)
    with context:
        pass
    stepped(model)
    assert not same(state(model), before)
    assert len(_global_optimizer_pre_hooks) == hooks


def test_an_update_inside_is_allowed_to_others_and_where_the_noise_stays_in() -> None:
    model, other = network(), network(1)
    before = state(other)
    with SmoothOut(model, 0.1):
        stepped(other)
    assert not same(state(other), before)
    with SmoothOut(model, 0.1, denoise=False):
        inside = state(model)
        stepped(model)
    torch.testing.assert_close(model[0].weight, inside[0] - 0.1)


# Models and strengths that cannot be


def test_a_model_whose_weights_are_not_there_yet_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^model: .*LazyLinear.* \(lazy\); pass a batch"):
        SmoothOut(nn.LazyLinear(3), 0.1)


# Drawing


# Interrupts


class Interrupting(nn.Parameter):
    """A parameter whose next change of data is broken off by Ctrl-C, where ``due``."""

    due = False

    @property
    def data(self) -> Tensor:
        return Tensor.data.__get__(self)

    @data.setter
    def data(self, value: Tensor) -> None:
        if self.due:
            self.due = False
            raise KeyboardInterrupt
        Tensor.data.__set__(self, value)


def test_leaving_that_is_interrupted_after_the_second_of_four_parameters_gives_all_back() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3))
    model[1].weight = third = Interrupting(torch.randn(3, 8))
    before, context = state(model), SmoothOut(model, 0.1)
    context.__enter__()
    third.due = True
    with pytest.raises(KeyboardInterrupt):
        context.__exit__()
    assert not third.due
    assert same(state(model), before)
    with context:
        assert not same(state(model), before)
    assert same(state(model), before)


# Layers that change


def unfreeze(model: nn.Sequential) -> None:
    model[0].requires_grad_(True)


def freeze(model: nn.Sequential) -> None:
    model[3].requires_grad_(False)


def replace(model: nn.Sequential) -> None:
    model[3] = nn.Linear(8, 7)


def cast(model: nn.Sequential) -> None:
    model.bfloat16()


@pytest.mark.parametrize("change", [unfreeze, freeze, replace, cast])
def test_a_context_perturbs_the_model_as_it_is_at_every_entry(change: Callable[[Any], None]) -> None:
    model = network()
    model[0].requires_grad_(change is not unfreeze)
    context = SmoothOut(model, 0.1)
    with context:
        pass
    change(model)
    before, seen = state(model), []
    for one in (context, SmoothOut(model, 0.1)):
        one.generator = seeded(0)
        with one:
            seen.append(state(model))
        assert same(state(model), before)
    assert same(*seen)
    perturbed = [not torch.equal(w, old) for w, old in zip(seen[0], before, strict=True)]
    assert (perturbed[0], perturbed[-1]) == (True, change is not freeze)


# Autocast


def test_a_clean_pass_before_in_the_same_autocast_block_does_not_hide_the_noise() -> None:
    model, x = nn.Linear(20, 20), torch.randn(3, 20)
    with torch.autocast("cpu", torch.bfloat16):
        before = model(x)
        with SmoothOut(model, 0.1):
            inside = model(x)
        after = model(x)
    assert not torch.equal(inside, before)
    assert torch.equal(after, before)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_activations_are_recomputed_at_the_noise_of_the_forward_pass(use_reentrant: bool) -> None:
    model, x = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)), torch.randn(6, 5, requires_grad=True)
    gradients = []
    for again in (False, True):
        model.zero_grad()
        with SmoothOut(model, 0.1, generator=seeded(0)):
            settings = {"use_reentrant": use_reentrant}
            outputs = torch.utils.checkpoint.checkpoint(model, x, **settings) if again else model(x)
            outputs.square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(map(torch.equal, *gradients))


@pytest.mark.parametrize("part", ["another model", "a part"])
def test_a_write_to_other_weights_within_an_inner_block_is_noticed(part: str) -> None:
    model, other = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), nn.Linear(3, 3)
    before = copy.deepcopy(model.state_dict())
    inner = {"another model": other, "a part": model[0]}[part]
    with (
        pytest.raises(RuntimeError, match=r"^1\.weight: written or replaced within the block"),
        SmoothOut(model, 0.1),
        SmoothOut(inner, 0.1),
        SmoothOut(inner, 0.1),
    ):
        nn.init.zeros_(model[1].weight)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_backward_pass_within_a_later_block_is_refused_also_where_activations_are_computed_again() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.utils.checkpoint.checkpoint(self.inner, x, use_reentrant=False)

    model, x = Checkpointed(), torch.randn(6, 4)
    for inner in (model, model.inner[0]):
        with SmoothOut(model, 0.1):
            loss = model(x).square().sum()
            with pytest.raises(RuntimeError, match="the backward pass belongs inside the block"), SmoothOut(inner, 0.1):
                loss.backward()
        with SmoothOut(model, 0.1), SmoothOut(inner, 0.1):
            model(x).square().sum().backward()
