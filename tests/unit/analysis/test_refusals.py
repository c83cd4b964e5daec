"""Analyses refuse what they cannot measure in one line with key and value, and leave the model untouched."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.analysis.adaptive_sharpness import adaptive_sharpness, normalize_logits
from smoothout.analysis.hessian import HessianVectorProduct, hessian_spectrum, top_eigenvalues, trace_and_norm
from smoothout.analysis.interpolation import interpolate
from smoothout.analysis.landscape import landscape_line, landscape_plane
from smoothout.analysis.noise_sensitivity import noise_curve
from smoothout.analysis.search_comparison import compare_searches
from smoothout.analysis.sharpness import sharpness

BATCHES = [(torch.ones(4, 2), torch.tensor([0, 1, 0, 1]))]
Call = Callable[..., Any]


def measured(call: Call, model: nn.Module, **settings: Any) -> Any:
    """``call`` on two batches with the cross entropy, where it takes a loss."""
    batches = settings.pop("batches", BATCHES)
    loss = () if call in (interpolate, noise_curve, landscape_line, landscape_plane) else (F.cross_entropy,)
    first = (model, model) if call is interpolate else (model,)
    halves = (batches, batches) if call is compare_searches else (batches,)
    needed: dict[Call, tuple[Any, ...]] = {
        noise_curve: (settings.pop("strengths", [0.1]),),
        landscape_line: (settings.pop("alphas", [0.0, 1.0]) if call is landscape_line else None,),
        landscape_plane: ([0.0, 1.0], settings.pop("betas", [0.0, 1.0])),
        adaptive_sharpness: (settings.pop("rho", 0.1),),
    }
    return call(*first, *halves, *loss, *needed.get(call, ()), **settings)


REFUSED: list[tuple[Call, str, Any, str]] = [
    *((sharpness, "eps", value, "above 0") for value in (0.0, -1.0, math.nan, math.inf)),
    *((sharpness, "eps", value, "above 0") for value in ("0.1", None, True, torch.tensor(True))),
    (sharpness, "iterations", 2.5, "at least 1"),
    (sharpness, "repeats", 0, "at least 1"),
    (sharpness, "maxcor", -3, "at least 1"),
    (sharpness, "subspace", 99, "from 1 to n = 6"),
    (sharpness, "convention", "Keskar", "converged, keskar, released"),
    (sharpness, "batches", [], "more than one pass"),
    (adaptive_sharpness, "rho", 0.0, "above 0"),
    (adaptive_sharpness, "rho", "0.1", "above 0"),
    (adaptive_sharpness, "norm", "l1", "linf, l2"),
    (adaptive_sharpness, "random_starts", -1, "at least 0"),
    (adaptive_sharpness, "batches", iter(BATCHES), "more than one pass"),
    (compare_searches, "budget", 0, "at least 1"),
    (compare_searches, "subspace", 0, "from 1 to n"),
    (top_eigenvalues, "k", True, "at least 1"),
    (top_eigenvalues, "k", 99, "n = 6"),
    (top_eigenvalues, "which", "SM", "LA, LM, SA"),
    (top_eigenvalues, "tolerance", math.nan, "above 0"),
    (top_eigenvalues, "tolerance", "small", "above 0"),
    (top_eigenvalues, "block", "7", "weight, bias"),
    (trace_and_norm, "probes", 0, "at least 1"),
    (trace_and_norm, "batches", [], "more than one pass"),
    (hessian_spectrum, "steps", 0, "at least 1"),
    (landscape_line, "directions", 0, "at least 1"),
    (landscape_line, "alphas", [0.0, math.nan], "finite numbers"),
    (landscape_line, "alphas", 0.5, "list of finite numbers"),
    (landscape_plane, "betas", ["x"], "finite numbers"),
    (landscape_plane, "one_dimensional", "none", "scaled, zero"),
    (noise_curve, "strengths", [-0.1], ">= 0"),
    (noise_curve, "strengths", [None], "finite numbers"),
    (noise_curve, "draws", 0, "at least 1"),
    (interpolate, "alphas", [0.0, True], "finite numbers"),
    (interpolate, "path", "curved", "linear, curvilinear"),
    (interpolate, "running_stats", "forgotten", "interpolated, kept, recomputed"),
    (interpolate, "batches", iter([]), "more than one pass"),
]


@pytest.mark.parametrize(("call", "key", "value", "allowed"), REFUSED)
def test_an_argument_is_refused_by_key_and_what_is_allowed(call: Call, key: str, value: Any, allowed: str) -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    with pytest.raises(ValueError, match="strength" if key == "strengths" else key) as refused:
        measured(call, model, **{key: value})
    assert allowed in str(refused.value)
    assert isinstance(value, list) or "batches" in key or str(value) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("call", [sharpness, top_eigenvalues, noise_curve])
def test_a_model_without_trainable_weights_is_refused(call: Call) -> None:
    with pytest.raises(ValueError, match="no trainable parameters"):
        measured(call, nn.ReLU())


def constant(value: float) -> nn.Module:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))

        def forward(self, inputs: Tensor) -> Tensor:
            return (self.w * 0 + value).expand(len(inputs))

    return Constant()


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_loss_that_sharpness_cannot_divide_by_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=f"loss is {value}"):
        sharpness(constant(value), BATCHES, lambda outputs, _: outputs.mean())


@pytest.mark.parametrize("call", [sharpness, HessianVectorProduct])
def test_a_loss_that_is_no_single_number_is_refused(call: Call) -> None:
    with pytest.raises(ValueError, match=r"^loss: .*shape \(4,\)"):
        call(nn.Linear(2, 2), BATCHES, lambda *pair: F.cross_entropy(*pair, reduction="none"))


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss, "cross_entropy"])
@pytest.mark.parametrize("call", [sharpness, HessianVectorProduct, partial(noise_curve, strengths=[0.1])])
def test_a_loss_that_is_no_function_is_refused(call: Call, loss: Any) -> None:
    with pytest.raises(TypeError, match=rf"^loss: must be a function .*{re.escape(repr(loss))}$"):
        call(nn.Linear(2, 2), BATCHES, loss=loss)


@pytest.mark.parametrize(("dtype", "least"), [(torch.bfloat16, "0.0078"), (torch.float16, "0.00098")])
def test_a_region_narrower_than_the_weights_rounding_is_refused(dtype: torch.dtype, least: str) -> None:
    model, batches = nn.Linear(2, 2).to(dtype), [(BATCHES[0][0].to(dtype), BATCHES[0][1])]
    with pytest.raises(ValueError, match=rf"^eps: .*{least}"):
        sharpness(model, batches, F.cross_entropy)
    with pytest.raises(ValueError, match=rf"^rho: .*{least}"):
        adaptive_sharpness(model, batches, F.cross_entropy, 1e-4)


def test_logits_that_are_not_of_examples_and_classes_are_not_normalized() -> None:
    with pytest.raises(ValueError, match=r"\(2, 5, 3\)"):
        normalize_logits(torch.randn(2, 5, 3))
