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

# The mean, the model, randomness


def test_the_mean_does_not_depend_on_how_batches_are_cut() -> None:
    model, [(inputs, targets)] = network(2), examples(2, count=40)
    cuts = [[40], [10, 10, 10, 10], [1, 32, 7]]
    for options in ({}, {"convention": "keskar", "eps": 0.5, "iterations": 1}):
        whole, even, uneven = (
            sharpness(
                model, list(zip(inputs.split(cut), targets.split(cut), strict=True)), nn.functional.mse_loss, **options
            )
            for cut in cuts
        )
        for other in (even, uneven):
            assert other.loss == pytest.approx(whole.loss, rel=1e-12)
            assert other.value == pytest.approx(whole.value, rel=1e-9)
            assert other.projected_gradient == pytest.approx(whole.projected_gradient, rel=1e-6, abs=1e-9)


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


def test_another_seed_draws_another_subspace() -> None:
    first, second = (
        sharpness(network(1), examples(1), nn.functional.mse_loss, subspace=2, seed=seed).value for seed in (0, 1)
    )
    assert first != second


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


def test_the_loss_of_the_model_itself_comes_from_its_own_weights() -> None:
    model = Landscape([0.1, 0.7], lambda w: (w**2).sum(), dtype=torch.float32)
    assert sharpness(model, ONE_EXAMPLE, height).loss == (model.weights.detach() ** 2).sum().item()


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
    with pytest.raises(ValueError, match=f"^batches: {last} examples .* {last + step} in the previous one"):
        sharpness(model, Shrinking(first, step), height)
