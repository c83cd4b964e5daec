"""Averages of weights, put into the model for as long as they are evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from smoothout.nn.batches import only_device, to_device, without_unused_labels
from smoothout.nn.forward import Keywords, forward
from smoothout.nn.guards import check_all
from smoothout.nn.parameters import BATCHNORM, clear_weight_caches, preserve_state


@contextmanager
def averaged(model: nn.Module, weights: Iterable[Tensor], batches: Iterable[Any]) -> Iterator[None]:
    """Inside, ``model`` has the averaged ``weights``, and running statistics that fit them; outside, its own again.

        average = torch.optim.swa_utils.AveragedModel(model)
        ...  # train, with average.update_parameters(model) at the end of each epoch
        with averaged(model, average.module.parameters(), loader):
            evaluate(model)

    Args:
        model: a module of any kind that `SmoothOut` takes.
        weights: one for each of the model's parameters, in their order.
        batches: of training inputs, or pairs of inputs and targets, or mappings, on any device, from which torch's
            `update_bn` computes the running statistics of BatchNorm layers; they are not read if there are none.

    Raises:
        ValueError: if there are more or fewer ``weights`` than parameters, no batch for running statistics, or another
            model than `SmoothOut` takes.
    """
    check_all(model=model)
    with preserve_state(model):
        put_average(model, list(weights), batches)
        yield


def put_average(model: nn.Module, weights: list[Tensor], batches: Iterable[Any]) -> None:
    """Write the averaged ``weights`` into ``model``, and its running statistics, for good.

    Raises ValueError as `averaged`, with nothing written.
    """
    parameters: list[Tensor] = list(model.parameters())
    if [p.shape for p in parameters] != [w.shape for w in weights]:
        raise ValueError("weights: must have the shapes of the model's parameters, in their order")
    momenta = {layer: layer.momentum for layer in model.modules() if isinstance(layer, BATCHNORM)}
    if any(layer.track_running_stats for layer in momenta):
        batches = _not_empty(batches)  # `update_bn` would leave statistics of no batch
    with torch.no_grad():
        torch._foreach_copy_(parameters, weights)
    clear_weight_caches()
    device = only_device(model)
    try:
        update_bn((_inputs(batch, model, device) for batch in batches), _Called(model))
    finally:  # an error within `update_bn` leaves them at None
        for layer, momentum in momenta.items():
            layer.momentum = momentum


class _Called(nn.Module):
    """``model``, which takes `Keywords` as its one argument, as `update_bn` passes it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.training = model, model.training

    def forward(self, inputs: Any) -> Any:
        return forward(self.model, inputs)


def _inputs(batch: Any, model: nn.Module, device: torch.device | None) -> Any:
    moved = to_device(batch, device)
    return without_unused_labels(Keywords(moved), model) if isinstance(moved, Mapping) else moved


def _not_empty(batches: Iterable[Any]) -> Iterator[Any]:
    """The same ``batches``, of which one is taken already. Raises ValueError if there is none."""
    iterator = iter(batches)
    for first in iterator:
        return chain([first], iterator)
    raise ValueError("batches: there must be at least one")
