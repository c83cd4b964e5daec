"""The optimizers of the papers: torch's own, with the settings that the accounts of the experiments differ in."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Optimizer:
    """What every optimizer has.

    Args:
        lr: learning rate at the start.
        weight_decay: L2 term added to the gradient of every parameter, taken at the clean weights.
        clip_norm: largest global L2 norm of the gradient in an update (None: no clipping).
        reset_every_epoch: make a new optimizer at the start of every epoch, as the released program does; moments,
            momentum and step count are zero again.
    """

    lr: float
    weight_decay: float = 0.0
    clip_norm: float | None = None
    reset_every_epoch: bool = False

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr: must be a finite number above 0, not {self.lr}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"weight_decay: must be a finite number >= 0, not {self.weight_decay}")
        if self.clip_norm is not None and not (math.isfinite(self.clip_norm) and self.clip_norm > 0):
            raise ValueError(f"clip_norm: must be null (no clipping) or a finite number above 0, not {self.clip_norm}")


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam with torch's defaults for everything but the learning rate and the L2 term."""

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A new optimizer; the fused update is several times faster and the same formula."""
        return torch.optim.Adam(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=True)


@dataclass(frozen=True)
class Momentum(Optimizer):
    """Stochastic gradient descent with heavy-ball momentum."""

    momentum: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum: must lie in [0, 1), not {self.momentum}")

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A new optimizer."""
        return torch.optim.SGD(
            parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay, fused=True
        )
