"""Networks and batches for the tests of noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smoothout import SmoothOut
from smoothout.nn.options import NoiseDistribution, NoiseScaling

LAWS = list(NoiseDistribution)
SCALINGS = list(NoiseScaling)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def thetas(context: SmoothOut) -> list[Tensor]:
    """A draw at the present weights, kept."""
    return [theta.clone() for theta in context.draw()]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def examples(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = seeded(seed)
    return torch.randn(count, 5, generator=generator), torch.randint(0, 3, (count,), generator=generator)
