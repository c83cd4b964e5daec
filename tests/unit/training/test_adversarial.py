"""Adversarial training against the equation of Goodfellow et al., whose two halves are differentiated together."""

from __future__ import annotations

import pytest
import torch
from helpers.by_hand import SETTINGS, apart, assert_same_epoch, mask
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.training.batch import Batch
from smoothout.training.methods.adversarial import Adversarial
from smoothout.training.optimizers import Optimizer

EPSILON = 0.3


def both_halves(model: nn.Module, images: Tensor, labels: Tensor, update: int, ghost: int) -> tuple[Tensor, Tensor]:
    images = images.clone().requires_grad_()
    loss = F.cross_entropy(model(images), labels)
    [slope] = torch.autograd.grad(loss, images, retain_graph=True)
    moved = images.detach() + EPSILON * torch.where(slope > 0, 1.0, torch.where(slope < 0, -1.0, 0.0))
    mask(update, ghost)
    mean = 0.5 * loss + 0.5 * F.cross_entropy(apart(model, moved), labels)
    return mean, mean


@pytest.mark.parametrize(("optimizer", "batch", "dropout"), SETTINGS)
def test_an_epoch_is_that_of_the_equation_written_out_by_hand(
    optimizer: Optimizer, batch: Batch, dropout: float
) -> None:
    assert_same_epoch(Adversarial(EPSILON), optimizer, batch, dropout, both_halves)


@pytest.mark.parametrize("epsilon", [0.0, -0.1, float("nan"), float("inf")])
def test_a_distance_that_is_none_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match=r"^epsilon: .*above 0") as error:
        Adversarial(epsilon)
    assert str(epsilon) in str(error.value)


def test_it_is_named_by_its_distance() -> None:
    assert Adversarial(0.1).slug == "adversarial0.1"
