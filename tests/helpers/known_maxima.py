"""Losses whose highest point in a box is known, and small networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from smoothout.analysis.options import Convention

CONVENTIONS = list(Convention)
ONE_EXAMPLE = [(torch.zeros(1, 1), torch.zeros(1))]


class Landscape(nn.Module):
    """A loss that is a given function of a weight vector, whatever the example."""

    def __init__(self, weights: Any, height: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.as_tensor(weights, dtype=dtype).clone())
        self.height = height

    def forward(self, inputs: Tensor) -> Tensor:
        return self.height(self.weights).expand(len(inputs))


def height(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs.mean()


def quadratic(weights: Any, slope: Any, curvature: Any, level: float = 1.0) -> Landscape:
    """f(w) = level + slope . (w - x) + curvature . (w - x)^2 / 2 around the weights x that it starts with."""
    x, g, d = (torch.as_tensor(v, dtype=torch.float64) for v in (weights, slope, curvature))
    return Landscape(x, lambda w: level + (g * (w - x)).sum() + 0.5 * (d * (w - x) ** 2).sum())


def network(seed: int, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """2-2-1 tanh network with 9 weights."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)).to(dtype)


def examples(seed: int, count: int = 12, dtype: torch.dtype = torch.float64) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 2, generator=generator, dtype=dtype)
    return [(inputs, torch.sin(inputs.sum(1, keepdim=True)))]
