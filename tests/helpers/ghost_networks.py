"""Networks and batches for the tests of ghost batches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smoothout.models.mlp import MLP

SETTINGS = [{}, {"momentum": 0.3, "eps": 0.1}, {"momentum": None}, {"track_running_stats": False}, {"affine": False}]


def network(*, convolutions: bool, **settings: object) -> nn.Sequential:
    torch.manual_seed(0)
    if not convolutions:
        model = MLP(width=7, depth=2).build((1, 4, 4), 3)
    else:
        first, second = nn.Conv2d(1, 4, 3, bias=False), nn.Conv2d(4, 5, 2)
        norms = nn.BatchNorm2d(4, **settings), nn.BatchNorm2d(5, **settings)
        model = nn.Sequential(first, norms[0], nn.ReLU(), second, norms[1], nn.ReLU(), nn.Flatten(), nn.Linear(5, 3))
    return model.double()


def batch(examples: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(examples, 1, 4, 4, generator=generator, dtype=torch.float64)
    return inputs, torch.randint(0, 3, (examples,), generator=generator)
