"""Networks and batches for the tests of noise."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from smoothout import ASAM, NSO, SAM, MixedRWP, SmoothOut
from smoothout.nn.options import NoiseDistribution, NoiseScaling
from smoothout.nn.passes import Passes

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


TWO_PASSES: dict[str, Callable[[nn.Module], Passes]] = {
    "sam": lambda m: SAM(m, 0.3),
    "asam": lambda m: ASAM(m, 0.3),
    "nso": lambda m: NSO(m, 0.1, generator=seeded(2)),
    "mixed rwp": lambda m: MixedRWP(m, 0.1, generator=seeded(2)),
}


def two_layers() -> nn.Sequential:
    """In float64, for gradients that are compared to rounding."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
