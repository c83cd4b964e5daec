"""Weights that torch keeps copies of, within autocast and cached(): the analyses see those that are there now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from smoothout import interpolate, noise_curve, sharpness
from smoothout.analysis.adaptive_sharpness import adaptive_sharpness
from smoothout.analysis.landscape import landscape_line

Batches = list[tuple[Tensor, Tensor]]
MEASURED: dict[str, Callable[[nn.Module, nn.Module, Batches], Any]] = {
    "sharpness": lambda model, _, batches: sharpness(model, batches, F.cross_entropy, eps=5e-2).value,
    "adaptive": lambda model, _, batches: adaptive_sharpness(model, batches, F.cross_entropy, 0.2).value,
    "noise": lambda model, _, batches: noise_curve(model, batches, [0.0, 0.5, 1.0]),
    "interpolation": lambda model, other, batches: interpolate(model, other, batches, [0.0, 0.5, 1.0]),
    "landscape": lambda model, _, batches: landscape_line(model, batches, [-1.0, 0.0, 1.0]),
}


@pytest.fixture
def batches() -> Batches:
    return [(torch.randn(20, 6), torch.randint(0, 3, (20,))) for _ in range(2)]


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


@pytest.mark.parametrize("measured", MEASURED.values(), ids=MEASURED)
def test_autocasts_copies_of_the_weights_follow_them(measured: Callable[..., Any], batches: Batches) -> None:
    model, other = network(), network()
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        expected = measured(model, other, batches)
    with torch.autocast("cpu", torch.bfloat16):
        assert measured(model, other, batches) == expected
        again = F.cross_entropy(model(batches[0][0]), batches[0][1])
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        assert again == F.cross_entropy(model(batches[0][0]), batches[0][1]), "the model as it was given"


class Twice(nn.Module):
    """A weight that is twice its parameter."""

    def forward(self, half: Tensor) -> Tensor:
        return 2 * half


@pytest.mark.parametrize("measured", MEASURED.values(), ids=MEASURED)
def test_cached_parametrisations_follow_their_parameters(measured: Callable[..., Any], batches: Batches) -> None:
    model, other = network(), network()
    for one in (model, other):
        parametrize.register_parametrization(one[0], "weight", Twice())
    expected = measured(model, other, batches)
    with parametrize.cached():
        model(batches[0][0])
        assert measured(model, other, batches) == expected
