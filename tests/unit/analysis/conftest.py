"""What the tests of recorded analyses look at: a small network, and two splits of tiny images."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 3)).eval()


@pytest.fixture
def splits(tiny_split):
    return tiny_split(40), tiny_split(30, seed=1)


@pytest.fixture
def batches() -> list[tuple[Tensor, Tensor]]:
    """22 examples of three numbers in float64, of three classes, in three batches."""
    generator = torch.Generator().manual_seed(1)
    sizes = (13, 8, 1)
    return [
        (torch.randn(n, 3, generator=generator, dtype=torch.float64), torch.randint(0, 3, (n,), generator=generator))
        for n in sizes
    ]
