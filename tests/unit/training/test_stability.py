"""Stability training against the equation of Zheng et al., draw for draw."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.by_hand import SETTINGS, apart, assert_same_epoch, mask
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.common.rng import make_generator
from smoothout.training.batch import Batch
from smoothout.training.methods.stability import Stability
from smoothout.training.optimizers import Optimizer

WEIGHT, SIGMA = 0.7, 0.5


def with_stability(model: nn.Module, images: Tensor, labels: Tensor, update: int, ghost: int) -> tuple[Tensor, Tensor]:
    logits = model(images)
    noise = torch.randn(images.shape, generator=make_generator(0, "stability", update, ghost))
    mask(update, ghost)
    noisy = apart(model, images + SIGMA * noise)
    alike = -(logits.softmax(1) * noisy.log_softmax(1)).sum(1).mean()
    loss = F.cross_entropy(logits, labels)
    return loss + WEIGHT * alike, loss


@pytest.mark.parametrize(("optimizer", "batch", "dropout"), SETTINGS)
def test_an_epoch_is_that_of_the_equation_written_out_by_hand(
    optimizer: Optimizer, batch: Batch, dropout: float
) -> None:
    assert_same_epoch(Stability(WEIGHT, SIGMA), optimizer, batch, dropout, with_stability)


@pytest.mark.parametrize("name", ["weight", "sigma"])
@pytest.mark.parametrize("value", [0.0, -0.1, float("nan"), float("inf")])
def test_a_weight_or_noise_that_is_none_is_refused(name: str, value: float) -> None:
    settings: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=rf"^{name}: .*above 0") as error:
        Stability(**settings)
    assert str(value) in str(error.value)


def test_it_is_named_by_its_weight_and_noise() -> None:
    assert Stability().slug == "stability0.01-sigma0.2"
