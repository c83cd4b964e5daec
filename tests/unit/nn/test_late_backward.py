"""A backward pass after the block of its forward pass raises one line; nothing that belongs inside does."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections import UserDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from smoothout import NSO, SAM, SmoothOut, SmoothOutCopies

LATE = r"^the backward pass belongs inside the block, .*integrations.lightning .*README.md \(accelerate, timm, ignite"


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


class Named(nn.Module):
    """Gives its outputs as frameworks do: by name, some within others."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, x: Tensor) -> dict[str, Any]:
        logits = self.inner(x)
        return {"loss": logits.square().mean(), "states": [logits]}


@dataclass
class Outputs:
    logits: Tensor
    states: Any = None


class Slots:
    __slots__ = ("logits",)

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class Giving(nn.Module):
    """Gives its outputs as ``make`` packs them."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.make = network(), make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.inner(x))


def first(outputs: Any) -> Tensor:
    """The tensor in outputs of a `Giving`."""
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, tuple | list):
        return first(outputs[-1])
    return first(outputs["logits"] if isinstance(outputs, Mapping) else outputs.logits)


def loss_of_packed(model: nn.Module) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return first(model(torch.randn(4, 5))).square().mean()


def plain(model: nn.Module) -> Tensor:
    return model(torch.randn(4, 5)).square().mean()


def autocast(model: nn.Module) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return plain(model)


def in_a_dict() -> nn.Module:
    return nn.ModuleDict({"inner": network()})


CASES = {
    "plain": (network, plain),
    "autocast": (network, autocast),
    "checkpointing": (Checkpointed, plain),
    "a loss by name": (Named, lambda model: model(torch.randn(4, 5))["loss"]),
    "a container": (in_a_dict, lambda model: autocast(model["inner"])),
    "a dataclass": (lambda: Giving(Outputs), loss_of_packed),
    "an object in a tuple": (lambda: Giving(lambda logits: (None, SimpleNamespace(logits=logits))), loss_of_packed),
    "slots": (lambda: Giving(Slots), loss_of_packed),
    "a mapping": (lambda: Giving(lambda logits: UserDict(logits=Outputs(logits))), loss_of_packed),
    "a list by name": (Named, lambda model: model(torch.randn(4, 5))["states"][0].sum()),
}


@pytest.mark.parametrize(("make", "forward"), CASES.values(), ids=CASES)
def test_a_late_backward_pass_names_the_callbacks_and_the_recipes(
    make: Callable[[], nn.Module], forward: Callable[[nn.Module], Tensor]
) -> None:
    model = make()
    noise = SmoothOut(model, 0.1)
    with noise:
        losses = [forward(model), forward(model)]
    with pytest.raises(RuntimeError, match=LATE):
        losses[0].backward()
    with noise, pytest.raises(RuntimeError, match=LATE):  # other noise than that of its forward pass
        losses[1].backward()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_copy_of_the_noise_is_left_before_the_backward_pass() -> None:
    model = network()
    for one in SmoothOutCopies(SmoothOut(model, 0.1), 2):
        with one:
            loss = autocast(model)
        with pytest.raises(RuntimeError, match=LATE):
            loss.backward()


def twice(model: nn.Module) -> None:
    loss = plain(model)
    loss.backward(retain_graph=True)
    loss.backward()


def second_order(model: nn.Module) -> None:
    gradients = torch.autograd.grad(plain(model), list(model.parameters()), create_graph=True)
    sum(g.square().sum() for g in gradients).backward()


def functional(model: nn.Module) -> None:
    x = torch.randn(4, 5)

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(model, weights, x).square().mean()

    gradients = torch.func.grad(loss)(dict(model.named_parameters()))
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name]


def compiled(model: nn.Module) -> None:
    plain(torch.compile(model, backend="eager", fullgraph=True)).backward()


@pytest.mark.parametrize("use", [twice, second_order, functional, compiled])
@pytest.mark.parametrize("scale", ["none", "filter"])
def test_whatever_is_differentiated_inside_is_left_alone(use: Callable[[nn.Module], None], scale: str) -> None:
    model = network()
    for _ in range(2):
        model.zero_grad()
        with SmoothOut(model, 0.1, scaling=scale):
            use(model)
        assert all(parameter.grad is not None for parameter in model.parameters())
        plain(model).backward()  # clean


def test_outputs_that_nobody_differentiates_are_left_alone() -> None:
    model = network()
    with SmoothOut(model, 0.1) as context:
        kept = [plain(model)]
        with torch.no_grad():
            kept.append(plain(model))
    plain(model).backward()
    assert context.block is None
    assert not model._forward_hooks


def test_noise_that_stays_in_the_weights_is_there_for_a_later_backward_pass() -> None:
    model = network()
    with SmoothOut(model, 0.1, denoise=False):
        loss = plain(model)
    loss.backward()


def test_a_copy_of_the_model_made_inside_keeps_its_noise_and_knows_no_block() -> None:
    model = network()
    with SmoothOut(model, 0.1, generator=torch.Generator()):
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        losses = [plain(one) for one in copies]
        assert all(torch.equal(one[0].weight, model[0].weight) for one in copies)
    for one, loss in zip(copies, losses, strict=True):
        loss.backward()
        plain(one).backward()


class PassingOn(nn.Module):
    """Gives its input beside its output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, features: Tensor, *, scale: Tensor) -> dict[str, Tensor]:
        return {"logits": scale * self.layer(features), "features": features, "scale": scale}


def test_inputs_that_a_model_returns_belong_to_their_own_graph() -> None:
    encoder, model, scale = nn.Linear(5, 4), PassingOn(), nn.Parameter(torch.tensor(2.0))
    features, doubled = encoder(torch.randn(8, 5)), 2 * scale
    for block in SAM(model):
        with block:
            model(features, scale=doubled)["logits"].square().mean().backward(retain_graph=True)
    with SmoothOut(model, 0.1):
        loss = model(features, scale=doubled)["logits"].square().mean()
        gradients = torch.autograd.grad(loss, [features, doubled])
    torch.autograd.backward([features, doubled], list(gradients))
    assert encoder.weight.grad is not None


class Keeping(nn.Module):
    """Keeps what it computed, as models do that show attention or features."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.features = self.layer(x).tanh()
        return self.features


@pytest.mark.parametrize("method", [lambda model: [SmoothOut(model, 0.1)], SAM, lambda model: NSO(model, 0.1)])
def test_a_graph_that_is_kept_keeps_neither_the_model_nor_its_other_weights(
    method: Callable[[nn.Module], Sequence[AbstractContextManager[object]]],
) -> None:
    model = Keeping()
    alive, weights, losses = weakref.ref(model), list[weakref.ref[Tensor]](), []
    blocks = method(model)
    for block in blocks:
        with block:
            weights.append(weakref.ref(model.layer.weight.data.untyped_storage()))
            losses.append(plain(model))
            losses[-1].backward()
    del model, block, blocks
    gc.collect()
    assert alive() is None
    assert [one() for one in weights] == [None] * len(weights)
