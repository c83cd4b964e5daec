"""(C_eps, A)-sharpness of models of all kinds, which it leaves as they were, and what it refuses."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from helpers.known_maxima import CONVENTIONS, ONE_EXAMPLE, Landscape, examples, height, network, quadratic
from torch import Tensor, nn

from smoothout.analysis.options import Convention
from smoothout.analysis.sharpness import SharpnessResult, sharpness
from smoothout.nn.parameters import parameters_to_vector, trainable_parameters

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
    found = sharpness(model, batches, nn.functional.mse_loss, tick=lambda: calls.append(1))
    assert not any(itertools.chain(*modes))
    assert len(modes) == len(calls) + 1 == found.evaluations + 1  # the first pass is made twice


def test_every_evaluated_weight_lies_in_the_box() -> None:
    model, batches, seen = network(1), examples(1), []
    x = parameters_to_vector(trainable_parameters(model))
    model.register_forward_hook(lambda module, *_: seen.append(parameters_to_vector(trainable_parameters(module))))
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


# Refusals


class Shrinking:
    """Not an Iterator itself, yet each pass over it has fewer examples."""

    def __init__(self, first: int, step: int) -> None:
        self.sizes = itertools.count(first, -step)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(ONE_EXAMPLE * next(self.sizes))


@pytest.mark.parametrize(("first", "step", "last"), [(10, 1, 8), (4, 2, 0)])
def test_batches_that_do_not_repeat_themselves_are_refused(first: int, step: int, last: int) -> None:
    model = quadratic([1.0], [1.0], [0.0])
    with pytest.raises(ValueError, match=f"^batches: {last} examples .* {last + step} in the one before"):
        sharpness(model, Shrinking(first, step), height)
