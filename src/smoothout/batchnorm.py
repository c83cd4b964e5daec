"""How BatchNorm layers start."""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import nn

from smoothout.parameters import BATCHNORM


class BatchNormStart(StrEnum):
    """The start of BatchNorm's weight: 1, today's default, or U(0, 1), PyTorch's default in early 2018."""

    one = "one"
    uniform = "uniform"


@torch.no_grad()
def uniform_start(model: nn.Module, generator: torch.Generator) -> None:
    """Draw the weight of every BatchNorm layer of ``model`` from U(0, 1), in place."""
    for module in model.modules():
        if isinstance(module, BATCHNORM) and module.affine:
            module.weight.uniform_(0.0, 1.0, generator=generator)
