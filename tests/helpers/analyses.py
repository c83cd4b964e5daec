"""Every analysis as a function of a model, batches and a loss, made as short as it can be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smoothout import interpolate, noise_curve, sharpness
from smoothout.analysis.adaptive_sharpness import adaptive_sharpness
from smoothout.analysis.hessian import hessian_spectrum, top_eigenvalues, trace_and_norm
from smoothout.analysis.landscape import landscape_line, landscape_plane
from smoothout.analysis.search_comparison import compare_searches

Call = Callable[..., Any]
WITH_LOSS: dict[str, Call] = {
    "sharpness": lambda model, batches, loss, **more: sharpness(model, batches, loss, eps=0.1, **more),
    "adaptive": lambda model, batches, loss, **more: adaptive_sharpness(model, batches, loss, 0.1, **more),
    "searches": lambda model, batches, loss: compare_searches(
        model, batches, batches, loss, iterations=1, budget=3, subspace=None
    ),
    "eigenvalues": top_eigenvalues,
    "trace": lambda model, batches, loss, **more: trace_and_norm(model, batches, loss, probes=2, **more),
    "spectrum": lambda model, batches, loss, **more: hessian_spectrum(model, batches, loss, probes=1, steps=2, **more),
}
CURVES: dict[str, Call] = {
    "path": lambda model, batches, loss, **more: interpolate(model, model, batches, [0.0, 0.5], loss=loss, **more),
    "noise": lambda model, batches, loss, **more: noise_curve(model, batches, [0.0, 0.1], loss=loss, **more),
    "line": lambda model, batches, loss, **more: landscape_line(model, batches, [0.0, 0.5], loss=loss, **more),
    "plane": lambda model, batches, loss, **more: landscape_plane(model, batches, [0.5], [0.0], loss=loss, **more),
}
ANALYSES = WITH_LOSS | CURVES
