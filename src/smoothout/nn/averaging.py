"""Load averages of weights into a model, temporarily or permanently."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from smoothout.nn.batches import is_empty, only_device, to_device, without_unused_labels
from smoothout.nn.forward import Keywords, forward
from smoothout.nn.guards import check_all
from smoothout.nn.parameters import BATCHNORM, clear_weight_caches, preserve_state, preserve_training_mode


@contextmanager
def averaged(model: nn.Module, weights: Iterable[Tensor], batches: Iterable[Any]) -> Iterator[None]:
    """Load the averaged ``weights`` into ``model``, recompute its running statistics, and restore both at the end.

        average = torch.optim.swa_utils.AveragedModel(model)
        ...  # train, with average.update_parameters(model) at the end of each epoch
        with averaged(model, average.module.parameters(), loader):
            evaluate(model)

    Args:
        model: a module of any kind that `SmoothOut` takes.
        weights: one tensor for each of the model's parameters, in their order.
        batches: training batches (inputs, pairs of inputs and targets, or mappings) on any device, for torch's
            `update_bn`; not read if the model has no BatchNorm layers.

    Raises:
        ValueError: if ``weights`` do not have the shapes of the parameters, BatchNorm needs a batch and there is none,
            or `SmoothOut` refuses the model.
    """
    check_all(model=model)
    with preserve_state(model):
        put_average(model, list(weights), batches)
        yield


def put_average(model: nn.Module, weights: list[Tensor], batches: Iterable[Any]) -> None:
    """Load the averaged ``weights`` into ``model`` permanently, and recompute its running statistics.

    Raises ValueError for the same reasons as `averaged`; the model is unchanged then.
    """
    parameters: list[Tensor] = list(model.parameters())
    if [p.shape for p in parameters] != [w.shape for w in weights]:
        raise ValueError("weights: must have the shapes of the model's parameters, in their order")
    momenta = {layer: layer.momentum for layer in model.modules() if isinstance(layer, BATCHNORM)}
    device = only_device(model)
    inputs: Iterator[Any] = (one for one in (_inputs(batch, model, device) for batch in batches) if not is_empty(one))
    if any(layer.track_running_stats for layer in momenta):
        inputs = _not_empty(inputs)  # without a batch, `update_bn` would only reset the statistics
    with torch.no_grad():
        torch._foreach_copy_(parameters, weights)
    clear_weight_caches()
    before = {layer: [*map(_cloned, _statistics(layer))] for layer in momenta}
    try:
        with preserve_training_mode(model):
            update_bn(inputs, _Called(model))
    finally:  # an error within `update_bn` would leave them at None
        for layer, momentum in momenta.items():
            layer.momentum = momentum
    for layer, statistics in before.items():
        if layer.track_running_stats and layer.num_batches_tracked == 0:  # no pass has reached it
            for tensor, old in zip(_statistics(layer), statistics, strict=True):
                tensor.copy_(old)


def _statistics(layer: Any) -> list[Tensor]:
    """Running mean, running variance and count of a BatchNorm layer; none if it does not track them."""
    tensors = (layer.running_mean, layer.running_var, layer.num_batches_tracked)
    return [tensor for tensor in tensors if tensor is not None]


def _cloned(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


class _Called(nn.Module):
    """Wrap ``model`` for `update_bn`, which passes one argument: `Keywords` are unpacked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.training = model, model.training

    def forward(self, inputs: Any) -> Any:
        return forward(self.model, inputs)


def _inputs(batch: Any, model: nn.Module, device: torch.device | None) -> Any:
    moved = to_device(batch, device)
    return without_unused_labels(Keywords(moved), model) if isinstance(moved, Mapping) else moved


def _not_empty(batches: Iterable[Any]) -> Iterator[Any]:
    """Read the first of ``batches`` at once and return an iterator. Raises ValueError if there is none."""
    iterator = iter(batches)
    for first in iterator:
        return chain([first], iterator)
    raise ValueError("batches: there must be at least one")
