"""Models as people have them: compiled, recurrent, checkpointed, in inference mode; gradients that do not arrive."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from helpers.analyses import ANALYSES, CURVES, WITH_LOSS, Call
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_full_backward_hook
from torch.utils.checkpoint import checkpoint

from smoothout import interpolate, sharpness
from smoothout.analysis.hessian import HessianVectorProduct, top_eigenvalues
from smoothout.common import pass_cache

Pairs = list[tuple[Tensor, Tensor]]
EACH = pytest.mark.parametrize("analysis", ANALYSES.values(), ids=ANALYSES)
BY_GRADIENT = pytest.mark.parametrize("analysis", WITH_LOSS.values(), ids=WITH_LOSS)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()


class Net(nn.Module):
    """Two layers; members change how the first is called."""

    def __init__(self, **members: Callable[..., Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 4).double(), nn.Linear(4, 3).double()
        self.head: nn.Module | None = None
        vars(self).update(members)

    def call(self, layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(torch.tanh(self.call(self.first, x)))
        return logits


# Inference mode


@EACH
def test_within_inference_mode_analyses_give_the_same_bits_and_leave_a_model_that_trains(
    analysis: Call, batches: Pairs
) -> None:
    expected, model = repr(analysis(network(), batches, F.cross_entropy)), network()
    before = copy.deepcopy(model.state_dict())
    with torch.inference_mode():
        made_inside = [(x.clone(), y.clone()) for x, y in batches]
        assert repr(analysis(model, batches, F.cross_entropy)) == expected
        assert torch.is_inference_mode_enabled()
        assert repr(analysis(model, made_inside, F.cross_entropy)) == expected
    assert all(map(torch.equal, before.values(), model.state_dict().values()))
    F.cross_entropy(model(batches[0][0]), batches[0][1]).backward()
    torch.optim.SGD(model.parameters(), 0.1).step()


def test_products_with_the_hessian_work_within_inference_mode(batches: Pairs) -> None:
    model = network()
    expected = HessianVectorProduct(model, batches, F.cross_entropy).matrix()
    with torch.inference_mode():
        assert (HessianVectorProduct(model, batches, F.cross_entropy).matrix() == expected).all()


@pytest.mark.parametrize("layer", [lambda: nn.Linear(3, 3), lambda: nn.BatchNorm1d(3, affine=False)])
@EACH
def test_weights_and_buffers_made_within_inference_mode_are_refused(
    analysis: Call, layer: Call, batches: Pairs
) -> None:
    with torch.inference_mode():
        made = layer().double()
    model = nn.Sequential(network(), made)
    name = "1.weight" if isinstance(made, nn.Linear) else "1.running_mean"
    if analysis is not CURVES["path"]:  # which changes a copy
        with pytest.raises(ValueError, match=rf"^model: {name} was created .*inference_mode.*deepcopy"):
            analysis(model, batches, F.cross_entropy)
    assert analysis(copy.deepcopy(model), batches, F.cross_entropy)  # as the line says


# Compiled models


def with_a_compiled_layer() -> nn.Module:
    model = network()
    model[3] = torch.compile(model[3], backend="aot_eager")
    return model


def with_a_compiled_function() -> nn.Module:
    @torch.compile(backend="aot_eager")
    def call(layer: nn.Module, x: Tensor) -> Tensor:
        return layer(x).sin()

    return Net(call=call)


COMPILED: dict[str, tuple[Call, Call]] = {
    "whole": (lambda: torch.compile(network(), backend="aot_eager"), network),
    "layer": (with_a_compiled_layer, network),
    "function": (with_a_compiled_function, lambda: Net(call=lambda layer, x: layer(x).sin())),
}


@pytest.mark.parametrize("kind", COMPILED)
def test_the_hessian_of_a_compiled_model_is_that_of_the_model(kind: str, batches: Pairs) -> None:
    compiled, plain = (make() for make in COMPILED[kind])
    for block in [None, *(["_orig_mod.3"] if kind == "whole" else [])]:
        named = block and block.removeprefix("_orig_mod.")
        expected = HessianVectorProduct(plain, batches, F.cross_entropy, block=named).matrix()
        assert (HessianVectorProduct(compiled, batches, F.cross_entropy, block=block).matrix() == expected).all()
    assert str(sharpness(compiled, batches, F.cross_entropy)) == str(sharpness(plain, batches, F.cross_entropy))


# Recurrent layers, whose cuDNN code has no derivative in evaluation mode


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.Linear])
@BY_GRADIENT
def test_cudnn_is_set_aside_for_derivatives_of_recurrent_layers_alone(
    analysis: Call, kind: Call, batches: Pairs
) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = kind(3, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            seen.add(torch.backends.cudnn.enabled)
            outputs = self.inner(x)
            logits: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
            return logits

    seen: set[bool] = set()
    assert torch.backends.cudnn.enabled
    assert analysis(Recurrent(), batches, F.cross_entropy)
    assert seen == {kind is nn.Linear}
    with pytest.raises(RuntimeError, match="in the loss"):
        analysis(Recurrent(), batches, lambda *_: (_ for _ in ()).throw(RuntimeError("in the loss")))
    assert torch.backends.cudnn.enabled


def test_threads_that_analyze_restore_the_settings_of_the_process() -> None:
    def analyze() -> None:
        model = nn.GRU(3, 2, batch_first=True)
        pairs = [(torch.ones(2, 3, 3), torch.tensor([0, 1]))]
        for _ in range(5):
            top_eigenvalues(model, pairs, lambda outputs, y: F.cross_entropy(outputs[0][:, -1], y))

    threads = [Thread(target=analyze) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.backends.cudnn.enabled
    assert torch.backends.cuda.flash_sdp_enabled()


@BY_GRADIENT
def test_gradient_hooks_of_all_modules_are_not_called(analysis: Call, batches: Pairs) -> None:
    model = nn.Linear(3, 3).double()
    wanted = str(analysis(model, batches, F.cross_entropy))
    handle = register_module_full_backward_hook(lambda *grads: tuple(g if g is None else 3 * g for g in grads[1]))
    try:
        assert str(analysis(model, batches, F.cross_entropy)) == wanted
    finally:
        handle.remove()


# Gradients that do not arrive


def under_no_grad(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        out: Tensor = layer(x)
    return out


LOST: dict[str, Call] = {
    "reentrant checkpointing": lambda layer, x: checkpoint(layer, x, use_reentrant=True),
    "detached": lambda layer, x: layer(x).detach(),
    "no_grad": under_no_grad,
    "data": lambda layer, x: F.linear(x, layer.weight.data, layer.bias.data),
    "numpy": lambda layer, x: torch.from_numpy(layer(x).detach().numpy()),
}


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("how", LOST)
@BY_GRADIENT
def test_a_gradient_that_does_not_arrive_is_not_taken_for_0(analysis: Call, how: str, batches: Pairs) -> None:
    model = Net(call=LOST[how])
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(
        ValueError, match=r"^model: no gradient reaches first\.weight, .* requires_grad_\(False\)"
    ) as no:
        analysis(model, batches, F.cross_entropy)
    assert "\n" not in str(no.value)
    assert all(map(torch.equal, before.values(), model.state_dict().values()))
    model.first.requires_grad_(False)  # as the line says
    assert analysis(model, batches, F.cross_entropy)


def test_passes_that_are_read_from_a_cache_hide_nothing(
    batches: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pass_cache, "SLOW_SECONDS", 0.0)
    for model in (Net(call=LOST["detached"]), Net()):
        model.head, found = nn.Linear(4, 2), []
        for _ in range(2):
            with pass_cache.open_pass_cache(tmp_path, type(model.call).__name__):
                try:
                    found.append(repr(sharpness(model, batches, F.cross_entropy)))
                except ValueError as error:
                    found.append(str(error))
        assert found[0] == found[1]
        assert ("first.weight" in found[0]) == ("call" in vars(model))


@BY_GRADIENT
def test_a_loss_without_any_gradient_is_refused(analysis: Call, batches: Pairs) -> None:
    model = Net(call=lambda layer, x: layer(x))
    with pytest.raises(ValueError, match=r"^model: no gradient reaches first\.weight"):
        analysis(model, batches, lambda outputs, targets: F.cross_entropy(outputs.detach(), targets))


class Checkpointed(Net):
    reentrant = True

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = checkpoint(self.last, torch.tanh(self.first(x)), use_reentrant=self.reentrant)
        return logits


@BY_GRADIENT
def test_reentrant_checkpointing_is_refused_by_name_where_torch_refuses_it(analysis: Call, batches: Pairs) -> None:
    model = Checkpointed()
    with pytest.raises(ValueError, match=r"^model: .*reentrant .*use_reentrant=False$"):
        analysis(model, batches, F.cross_entropy)
    model.reentrant = False  # as the line says
    assert repr(analysis(model, batches, F.cross_entropy)) == repr(analysis(Net(), batches, F.cross_entropy))


def test_what_takes_no_part_in_the_loss_has_gradient_0(batches: Pairs) -> None:
    expected = sharpness(Net(), batches, F.cross_entropy)
    model = Net()
    model.head, model.shift = nn.Linear(4, 2), nn.Parameter(torch.zeros(()))
    model.call = lambda layer, x: layer(x) + 0.0 * model.shift.detach()  # type: ignore[method-assign]
    found = sharpness(model, batches, F.cross_entropy)
    assert (found.value, found.loss) == (expected.value, expected.loss)
    assert found.dimension == expected.dimension + 11
    values = top_eigenvalues(model, batches, F.cross_entropy, 2).values
    assert values == pytest.approx(top_eigenvalues(Net(), batches, F.cross_entropy, 2).values, rel=1e-6)


def test_an_expert_that_only_some_batches_use_takes_part(batches: Pairs) -> None:
    class Experts(Net):
        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.tanh(self.first(x))
            logits: Tensor = self.last(hidden) if len(x) > 10 else self.last(hidden) + self.head(hidden)
            return logits

    model = Experts()
    model.head = nn.Linear(4, 3).double()
    assert not sharpness(model, batches, F.cross_entropy).failed


# What is no model, and weights that are no real numbers


@EACH
@pytest.mark.parametrize("given", [network().parameters(), network().state_dict(), "model.pt", network])
def test_what_is_no_model_is_refused_by_its_type(analysis: Call, given: Any, batches: Pairs) -> None:
    with pytest.raises(TypeError, match=rf"^(model|first): must be a torch\.nn\.Module, not {type(given).__name__}"):
        analysis(given, batches, F.cross_entropy)


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3, dtype=torch.complex128))
        self.bias = nn.Parameter(torch.randn(3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.complex128) @ self.weight).abs() + self.bias


@EACH
def test_complex_weights_are_interpolated_and_otherwise_refused_unless_they_stay_fixed(
    analysis: Call, batches: Pairs
) -> None:
    model = Complex()
    if analysis is not CURVES["path"]:
        with pytest.raises(ValueError, match=r"^model: weight is .*complex"):
            analysis(model, batches, F.cross_entropy)
        model.weight.requires_grad_(False)
    assert analysis(model, batches, F.cross_entropy)


def test_halfway_between_complex_networks_are_their_means(batches: Pairs) -> None:
    first, second, mean = (Complex() for _ in range(3))
    with torch.no_grad():
        for m, a, b in zip(mean.parameters(), first.parameters(), second.parameters(), strict=True):
            m.copy_((a + b) / 2)
    [point], [expected] = (
        interpolate(*pair, batches, [alpha], loss=F.cross_entropy)
        for *pair, alpha in ((first, second, 0.5), (mean, mean, 0.0))
    )
    assert point.loss == pytest.approx(expected.loss, rel=1e-12)


@EACH
def test_data_parallel_models_are_those_that_they_wrap(analysis: Call, batches: Pairs) -> None:
    expected = repr(analysis(network(), batches, F.cross_entropy))
    assert repr(analysis(nn.DataParallel(network()), batches, F.cross_entropy)) == expected
