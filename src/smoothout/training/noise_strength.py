"""How strong a training's noise is relative to the weights that it perturbs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from smoothout.nn.curvature import noise_variances
from smoothout.nn.parameters import filter_norms, float64_device, trainable_parameters
from smoothout.training.methods.smoothout import NoiseConfig


@torch.no_grad()
def relative_noise_strength(model: nn.Module, noise: NoiseConfig, update: int, total: int) -> float:
    """r = ||theta_f|| / ||w_f||, the median over ``model``'s filters, at ``update`` (from 0) of ``total``.

    This is AdaSmoothOut's strength, measured for any noise. Nothing is drawn: ||theta_f|| is the root of its expected
    square: sqrt(d / 3) a for a filter of d numbers under U(-a, a), sqrt(d) a under N(0, a^2), a ||w_f|| if scaled.

    A filter is a slice of a perturbed tensor with two dimensions or more; biases, BatchNorm's parameters and filters of
    zeros are left out. nan if a weight is nan, or nothing is left.
    """
    a = noise.strength_at(update, total)
    weights = [w for w in trainable_parameters(model, noise.batchnorm) if w.dim() > 1]
    if not weights:
        return math.nan
    device = float64_device(weights)
    ratios = torch.cat([_ratios(w.to(device).double(), a, noise) for w in weights])
    return float(ratios[ratios != math.inf].median())


def _ratios(weight: Tensor, a: float, noise: NoiseConfig) -> Tensor:
    """||theta_f|| / ||w_f|| for each filter of ``weight``; inf if w_f is 0."""
    [variance] = noise_variances([weight], a, distribution=noise.distribution, scaling=noise.scaling)
    variances = torch.as_tensor(variance, dtype=weight.dtype, device=weight.device).expand_as(weight)
    norms = filter_norms(weight).flatten()
    return torch.where(norms != 0, variances.flatten(1).sum(1).sqrt() / norms, math.inf)
