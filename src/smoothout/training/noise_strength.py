"""The strength of a training's noise relative to the perturbed weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.nn.batchnorm import freeze_running_stats
from smoothout.nn.curvature import noise_variances
from smoothout.nn.parameters import (
    BATCHNORM,
    filter_norms,
    float64_device,
    preserve_training_mode,
    trainable_parameters,
)
from smoothout.training.methods.smoothout import NoiseConfig


@torch.no_grad()
def relative_noise_strength(model: nn.Module, noise: NoiseConfig, update: int, total: int) -> float:
    """r = ||theta_f|| / ||w_f||, the median over ``model``'s filters, at ``update`` (from 0) of ``total``.

    This is AdaSmoothOut's strength, computed for any noise. No noise is drawn: ||theta_f|| is the root of its expected
    square, sqrt(d / 3) a for a filter of d numbers under U(-a, a), sqrt(d) a under N(0, a^2), a ||w_f|| if scaled.

    A filter is a slice of a perturbed tensor with two dimensions or more; biases, BatchNorm's parameters and filters of
    zeros are left out. nan if a weight is nan, or no filter remains.
    """
    a = noise.strength_at(update, total)

    def lengths(weight: Tensor, index: int) -> Tensor:
        [variance] = noise_variances([weight], a, distribution=noise.distribution, scaling=noise.scaling)
        variances = torch.as_tensor(variance, dtype=weight.dtype, device=weight.device).expand_as(weight)
        return variances.flatten(1).sum(1).sqrt()

    return median_relative_length(model, lengths)


@torch.no_grad()
def median_relative_length(model: nn.Module, lengths: Callable[[Tensor, int], Tensor]) -> float:
    """The median of ||theta_f|| / ||w_f|| over ``model``'s filters, as in `relative_noise_strength`.

    ``lengths(weight, index)`` are the ||theta_f||, (filters,), for the ``index``-th trainable parameter in float64.
    """
    weights = [(index, w) for index, w in enumerate(trainable_parameters(model)) if w.dim() > 1]
    if not weights:
        return math.nan
    device = float64_device([w for _, w in weights])
    ratios = torch.cat([_ratios(w.to(device).double(), index, lengths) for index, w in weights])
    return float(ratios[ratios != math.inf].median())


def _ratios(weight: Tensor, index: int, lengths: Callable[[Tensor, int], Tensor]) -> Tensor:
    """||theta_f|| / ||w_f|| for each filter of ``weight``; inf if w_f is 0."""
    norms = filter_norms(weight).flatten()
    return torch.where(norms != 0, lengths(weight, index).to(norms.device) / norms, math.inf)


def relative_noise(model: nn.Module, deviation: float, *, times_norm: bool) -> float:
    """`median_relative_length` of Gaussian noise: sqrt(d) ``deviation`` for a filter of d numbers (times its norm)."""

    def lengths(weight: Tensor, index: int) -> Tensor:
        root = deviation * math.sqrt(weight[0].numel())
        norms = filter_norms(weight).flatten()
        return root * norms if times_norm else torch.full_like(norms, root)

    return median_relative_length(model, lengths)


def relative_step(model: nn.Module, steps: Sequence[Tensor]) -> float:
    """`median_relative_length` of ``steps``, one for each trainable parameter."""
    return median_relative_length(model, lambda weight, index: filter_norms(steps[index].double()).flatten())


def batch_gradient(model: nn.Module, inputs: Tensor, labels: Tensor) -> list[Tensor]:
    """The gradient of the mean cross entropy for each trainable parameter; ``model`` is restored.

    BatchNorm normalizes by the batch, as in a training; dropout is off, so that nothing is random.
    """
    parameters = trainable_parameters(model)
    with preserve_training_mode(model), freeze_running_stats(model):
        model.eval()
        for layer in model.modules():
            if isinstance(layer, BATCHNORM):  # in evaluation mode it would use the running statistics
                layer.train()
        loss = F.cross_entropy(model(inputs), labels)
        return list(torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True))
