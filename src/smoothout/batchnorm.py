"""How BatchNorm layers start, and running averages made anew."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import torch
from torch import Tensor, nn

from smoothout.parameters import BATCHNORM, modes_kept


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


@torch.no_grad()
def recompute_averages(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Replace every running average of ``model`` by the mean over ``batches`` of the batches' own statistics, in place.

    One pass in which BatchNorm layers alone are in training mode: dropout, which widens what a layer sees, is off. Each
    batch counts the same, whatever its size; its variance is the unbiased one, so it needs two values a channel.
    Parameters, momenta and modes stay. Raises ValueError, with the averages as they were, when there is no batch;
    an error in the midst of the pass leaves averages of the batches before.
    """
    layers = [m for m in model.modules() if isinstance(m, BATCHNORM) and m.track_running_stats]
    momenta = [layer.momentum for layer in layers]
    index = -1
    try:
        with modes_kept(model):
            model.eval()
            for index, (inputs, _) in enumerate(batches):
                for layer in layers if index == 0 else ():
                    layer.train().reset_running_stats()
                    layer.momentum = None  # torch's word for a plain mean over all batches
                model(inputs)
        if index < 0:
            raise ValueError("batches: there must be at least one")
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
