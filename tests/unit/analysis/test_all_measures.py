"""What holds for every measure: the model is left alone, a seed decides, impossible batches are refused."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout import interpolate, noise_curve, sharpness
from smoothout.analysis.adaptive_sharpness import adaptive_sharpness
from smoothout.analysis.hessian import hessian_spectrum, top_eigenvalues, trace_and_norm
from smoothout.analysis.landscape import landscape_line, landscape_plane
from smoothout.analysis.search_comparison import compare_searches

Measure = Callable[..., Any]
ALPHAS = [-0.5, 0.0, 0.3]


def interpolated(model: nn.Module, batches: Any, loss: Any, **options: Any) -> Any:
    return interpolate(model, copy.deepcopy(model), batches, [0.0, 0.5, 1.0], loss=loss, **options)


SEARCHES: dict[str, Measure] = {
    "converged": lambda *given, **options: sharpness(*given, eps=0.1, **options),
    "keskar": lambda *given, **options: sharpness(*given, convention="keskar", subspace=3, repeats=2, **options),
    "released": lambda *given, **options: sharpness(*given, convention="released", repeats=2, **options),
    "box": lambda *given, **options: adaptive_sharpness(*given, 0.1, **options),
    "ball": lambda *given, **options: adaptive_sharpness(*given, 0.1, norm="l2", **options),
}
SEEDED: dict[str, Measure] = SEARCHES | {
    "searches": lambda model, batches, loss, **options: compare_searches(
        model, batches, batches, loss, iterations=2, subspace=2, budget=5, **options
    ),
    "eigenvalues": lambda *given, **options: top_eigenvalues(*given, tolerance=0.1, **options),
    "trace": lambda *given, **options: trace_and_norm(*given, probes=2, **options),
    "spectrum": lambda *given, **options: hessian_spectrum(*given, probes=1, steps=3, **options),
    "noise": lambda model, batches, loss, **options: noise_curve(
        model, batches, [0.1, 0.2, 0.3], draws=2, loss=loss, **options
    ),
    "line": lambda model, batches, loss, **options: landscape_line(model, batches, ALPHAS, loss=loss, **options),
    "plane": lambda model, batches, loss, **options: landscape_plane(
        model, batches, ALPHAS, ALPHAS, loss=loss, **options
    ),
}
MEASURES = SEEDED | {"path": interpolated}
EACH = pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)


@pytest.fixture
def model() -> nn.Sequential:
    """A float32 model with BatchNorm, dropout and a frozen weight; modes and gradients that are not the defaults."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Tanh(), nn.Linear(6, 3))
    model(torch.randn(16, 3)).square().mean().backward()
    model[4].bias.requires_grad_(False)
    model[0].bias.grad = None
    model[1].eval()
    return model


@pytest.fixture
def batches(batches: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    return [(inputs.float(), targets) for inputs, targets in batches]


def state(model: nn.Module) -> tuple[list[bytes], list[bool], list[int]]:
    tensors = [t.detach().numpy().tobytes() for t in model.state_dict().values()]
    gradients = [p.grad for p in model.parameters()]
    values = [b"" if g is None else g.numpy().tobytes() for g in gradients]
    return tensors + values, [m.training for m in model.modules()], [id(g) for g in gradients]


@EACH
def test_the_model_is_evaluated_in_evaluation_mode_and_restored_to_the_last_bit(measure, model, batches):
    before, modes, ticks = state(model), [], []
    model.register_forward_hook(lambda module, *_: modes.append(any(m.training for m in module.modules())))
    with torch.no_grad():
        measure(model, batches, F.cross_entropy, tick=lambda: ticks.append(1))
    assert state(model) == before
    assert not any(modes)
    assert ticks


@EACH
def test_the_model_is_restored_when_the_loss_raises_in_the_third_pass(measure, model, batches):
    before, calls = state(model), itertools.count(1)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        if next(calls) == 8:
            raise RuntimeError("eighth")
        return F.cross_entropy(outputs, targets)

    with pytest.raises(RuntimeError, match="eighth"):
        measure(model, batches, loss)
    assert state(model) == before


@pytest.mark.parametrize("name", SEARCHES)
def test_searches_tick_once_per_evaluation(name, model, batches):
    passes, ticks = [], []
    model.register_forward_hook(lambda *_: passes.append(1))
    found = SEARCHES[name](model, batches, F.cross_entropy, tick=lambda: ticks.append(1))
    assert len(ticks) == found.evaluations == len(passes) / len(batches) - 1  # the first pass is made twice


@pytest.mark.parametrize("name", SEEDED)
def test_the_same_seed_gives_the_same_result_and_another_seed_another(name, model, batches):
    first, again, other = (repr(SEEDED[name](model, batches, F.cross_entropy, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other or name in ("converged", "released", "box", "ball")  # another start may find the same


@pytest.mark.parametrize("name", SEEDED)
def test_seeds_are_numbers_whatever_their_type_and_no_fractions(name, model, batches):
    plain, *others = (
        repr(SEEDED[name](model, batches, F.cross_entropy, seed=seed)) for seed in (3, np.int64(3), torch.tensor(3))
    )
    assert others == [plain, plain]
    with pytest.raises(ValueError, match=r"^seed: .* whole number, not 3\.0"):
        SEEDED[name](model, batches, F.cross_entropy, seed=3.0)


def test_counts_are_numbers_whatever_their_type(model, batches):
    given = (model, batches, F.cross_entropy)

    def measured(two: Any) -> list[object]:
        return [
            sharpness(*given, eps=0.1, subspace=two, iterations=two, repeats=two, maxcor=two),
            adaptive_sharpness(*given, 0.1, iterations=two, random_starts=two),
            compare_searches(model, batches, batches, F.cross_entropy, iterations=two, subspace=two, budget=two),
            top_eigenvalues(*given, two, restarts=two),
            trace_and_norm(*given, probes=two),
            hessian_spectrum(*given, probes=two, steps=two),
            noise_curve(*given[:2], [0.1], draws=two),
            landscape_line(*given[:2], [0.1], directions=two),
        ]

    assert repr(measured(np.int32(2))) == repr(measured(torch.tensor(2))) == repr(measured(2))


@EACH
def test_batches_that_are_empty_or_allow_one_pass_only_are_refused_before_the_model_is_touched(measure, model, batches):
    model.register_forward_hook(lambda *_: pytest.fail("touched"))
    for spent in ([], iter(batches), (batch for batch in batches)):
        with pytest.raises(
            ValueError, match=r"^(batches|train): .* \(inputs, targets\) .* more than one pass"
        ) as raised:
            measure(model, spent, F.cross_entropy)
        assert "\n" not in str(raised.value)
