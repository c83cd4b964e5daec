"""BatchNorm layers: their initial weight, and their running statistics recomputed or frozen."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from smoothout.nn.batches import Batches, Examples
from smoothout.nn.forward import forward
from smoothout.nn.guards import check_layers
from smoothout.nn.parameters import BATCHNORM, preserve_training_mode, set_evaluation_mode


@torch.no_grad()
def init_uniform_(model: nn.Module, generator: torch.Generator) -> None:
    """Draw the weight of every BatchNorm layer of ``model`` from U(0, 1), in place."""
    for module in check_layers(model):
        if isinstance(module, BATCHNORM) and module.affine:
            module.weight.uniform_(0.0, 1.0, generator=generator)


@torch.no_grad()
def recalibrate_batchnorm(model: nn.Module, batches: Batches) -> None:
    """Replace the running statistics of ``model`` by the mean over ``batches`` of each batch's own, in place.

    In this pass all BatchNorm layers with running statistics are in training mode, also those that ``eval()`` has
    frozen, and nothing else is: dropout, which widens what a layer sees, is off. Each batch counts the same, whatever
    its size; its variance is the unbiased one, so it needs two values per channel. A layer that no batch reaches keeps
    its statistics. Parameters, momenta and modes stay.

    Args:
        model: a module of any kind.
        batches: pairs (inputs, targets) or mappings, on any device, as analyses take them; read once.

    Raises:
        ValueError: with the statistics unchanged, for what holds no batches, or if there is none. An error during the
            pass leaves statistics of the batches before.
    """
    layers = [m for m in check_layers(model) if isinstance(m, BATCHNORM) and m.track_running_stats]
    momenta, hooks = [layer.momentum for layer in layers], []
    examples = Examples("batches", batches, model)
    index = -1
    try:
        with preserve_training_mode(model):
            set_evaluation_mode(model)
            for index, (inputs, _) in enumerate(examples):
                if index == 0:
                    hooks = [_use_cumulative_average(layer.train()) for layer in layers]
                forward(model, inputs)
        if index < 0:
            raise ValueError("batches: there must be at least one")
    finally:
        for hook in hooks:
            hook.remove()
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum


@contextmanager
def freeze_running_stats(model: nn.Module) -> Iterator[None]:
    """Inside, a pass in training mode normalizes by the batch, as ever, and leaves running statistics alone."""
    layers = [m for m in check_layers(model) if isinstance(m, BATCHNORM) and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


def _use_cumulative_average(layer: Any) -> RemovableHandle:
    """Restart the running statistics of ``layer``, at its next call, as plain means over its calls.

    Torch has ``momentum=None`` for this, but then every call reads its number back from the device.
    """
    calls = count(1)

    def before(module: Any, inputs: object) -> None:
        call = next(calls)
        if call == 1:
            module.reset_running_stats()
        module.momentum = 1.0 / call

    handle: RemovableHandle = layer.register_forward_pre_hook(before)
    return handle
