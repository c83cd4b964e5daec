"""Every way in which the package moves the weights of a model, on one batch of five features and three classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from smoothout import AdaSmoothOut, SmoothOut, SmoothOutCopies, interpolate, noise_curve, sharpness
from smoothout.analysis.adaptive_sharpness import adaptive_sharpness
from smoothout.analysis.hessian import top_eigenvalues, trace_and_norm
from smoothout.analysis.landscape import landscape_line, landscape_plane
from smoothout.analysis.search_comparison import compare_searches
from smoothout.training.methods.sam import SharpnessAwareGradient
from smoothout.training.update import GhostBatch

INPUTS, LABELS = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1, 2])
BATCHES = [(INPUTS, LABELS)]


def in_block(context: Any, model: nn.Module) -> None:
    with context:
        F.cross_entropy(model(INPUTS), LABELS).backward()


TRAINING: dict[str, Callable[[Any], object]] = {
    "SmoothOut": lambda model: in_block(SmoothOut(model, 0.1), model),
    "AdaSmoothOut": lambda model: in_block(AdaSmoothOut(model, 0.1), model),
    "SmoothOutCopies": lambda model: in_block(SmoothOutCopies(SmoothOut(model, 0.1), 2)[1], model),
    "SAM": lambda model: SharpnessAwareGradient(model, 0.05).backward(GhostBatch(model, INPUTS, LABELS, 0, 1)),
}
ANALYSES: dict[str, Callable[[Any], object]] = {
    "sharpness": lambda model: sharpness(model, BATCHES, F.cross_entropy, eps=0.05, iterations=2),
    "adaptive_sharpness": lambda model: adaptive_sharpness(model, BATCHES, F.cross_entropy, 0.1, iterations=2),
    "compare_searches": lambda model: compare_searches(
        model, BATCHES, BATCHES, F.cross_entropy, iterations=2, subspace=None, budget=4
    ),
    "noise_curve": lambda model: noise_curve(model, BATCHES, [0.1]),
    "landscape_line": lambda model: landscape_line(model, BATCHES, [0.1]),
    "landscape_plane": lambda model: landscape_plane(model, BATCHES, [0.1], [0.2]),
    "top_eigenvalues": lambda model: top_eigenvalues(model, BATCHES, F.cross_entropy, tolerance=0.1),
    "trace_and_norm": lambda model: trace_and_norm(model, BATCHES, F.cross_entropy, probes=2),
}
INTERPOLATE: dict[str, Callable[[Any], object]] = {
    "interpolate": lambda model: interpolate(model, model, BATCHES, [0.5])
}
