"""Initialize the weights of BatchNorm layers; recompute or freeze their running statistics."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from smoothout.nn.batches import Batches, Examples, is_empty
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
    """Replace the running statistics of ``model``, in place, with the mean of the batch statistics over ``batches``.

    During this pass all BatchNorm layers with running statistics are in training mode, even those frozen by ``eval()``;
    other layers are in evaluation mode, so that dropout does not increase the variances. Every batch (in `ghosted`,
    every ghost batch) has the same weight, whatever its size. Variances are unbiased, so a batch needs at least two
    values per channel. A layer that no batch reaches keeps its statistics. Parameters, momenta and modes are not
    changed.

    Args:
        model: a module of any kind.
        batches: pairs (inputs, targets) or mappings, on any device, as analyses take them; read once.

    Raises:
        ValueError: if ``batches`` does not hold batches, or is empty, with the statistics unchanged. After an error
            during the pass, the statistics are those of the batches before it.
    """
    layers = [m for m in check_layers(model) if isinstance(m, BATCHNORM) and m.track_running_stats]
    momenta, hooks = [layer.momentum for layer in layers], []
    examples = Examples("batches", batches, model)
    index = -1
    try:
        with preserve_training_mode(model):
            set_evaluation_mode(model)
            for index, inputs in enumerate(inputs for inputs, _ in examples if not is_empty(inputs)):
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
    """Inside, passes in training mode use batch statistics as usual, but do not update running statistics."""
    layers = [m for m in check_layers(model) if isinstance(m, BATCHNORM) and m.track_running_stats]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


def _use_cumulative_average(layer: Any) -> RemovableHandle:
    """Make the running statistics of ``layer`` plain means over its calls, starting with the next one.

    With ``momentum=None``, torch does this too, but copies ``num_batches_tracked`` from the device at every call. In
    `ghosted`, a call is of several ghost batches, and layers do this without the copy.
    """
    calls = count(1)

    def before(module: Any, inputs: object) -> None:
        call = next(calls)
        if call == 1:
            module.reset_running_stats()
        module.momentum = None if hasattr(module, "ghosts") else 1.0 / call

    handle: RemovableHandle = layer.register_forward_pre_hook(before)
    return handle
