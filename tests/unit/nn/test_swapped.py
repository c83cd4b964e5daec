"""Weights come back whatever is raised, and what others write to them within a block does not go unnoticed."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from helpers.moved_weights import ANALYSES, BATCHES, INPUTS, LABELS, TRAINING
from helpers.noise_cases import network
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from smoothout import AdaSmoothOut, SmoothOut, SmoothOutCopies, sharpness
from smoothout.nn import perturbation
from smoothout.nn.parameters import preserve_state
from smoothout.nn.swapped import SwappedWeights


def bits(model: nn.Module) -> list[list[int]]:
    return [t.detach().reshape(-1).contiguous().view(torch.uint8).tolist() for t in model.parameters()]


# Written within the block


def load(model: nn.Module) -> None:
    model.load_state_dict(network(1).state_dict())


def assign(model: nn.Module) -> None:
    model.load_state_dict(network(1).state_dict(), assign=True)


def initialize(model: Any) -> None:
    nn.init.zeros_(model[0].bias)


@torch.no_grad()
def decay(model: Any) -> None:
    model[0].weight.mul_(0.9)


def write_to_a_row(model: Any) -> None:
    model[0].weight.detach()[1].zero_()


def average(model: nn.Module) -> None:
    other = [p.detach() for p in network(1).parameters()]
    torch._foreach_lerp_([p.detach() for p in model.parameters()], other, 0.1)


def write_a_vector(model: nn.Module) -> None:
    nn.utils.vector_to_parameters(torch.zeros(sum(p.numel() for p in model.parameters())), model.parameters())


def replace(model: Any) -> None:
    model[0].weight = nn.Parameter(torch.zeros(8, 5))


def cast(model: nn.Module) -> None:
    model.half()


def noise_that_stays(model: nn.Module) -> None:
    with SmoothOut(model, 0.1, denoise=False):
        pass


WRITERS = [load, assign, initialize, decay, write_to_a_row, average, write_a_vector, replace, cast, noise_that_stays]
CONTEXTS: dict[str, Callable[[nn.Module], Any]] = {
    "SmoothOut": lambda model: SmoothOut(model, 0.1, batchnorm=True),
    "AdaSmoothOut": lambda model: AdaSmoothOut(model, 0.1, batchnorm=True),
    "SmoothOutCopies": lambda model: SmoothOutCopies(SmoothOut(model, 0.1, batchnorm=True), 2)[0],
    "SwappedWeights": lambda model: SwappedWeights(
        model, list(model.parameters()), [p.detach() + 1 for p in model.parameters()]
    ),
}


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
@pytest.mark.parametrize("write", WRITERS)
def test_what_is_written_within_the_block_is_refused_at_its_end_with_the_weights_back(
    write: Callable[[Any], None], context: Callable[[nn.Module], Any]
) -> None:
    model = network()
    before, weights = bits(model), [id(p) for p in model.parameters()]
    with (
        pytest.raises(RuntimeError, match=r"^0\.(weight|bias).* written or replaced .* outside") as refused,
        context(model),
    ):
        write(model)
    assert "\n" not in str(refused.value)
    assert [id(p) for p in model.parameters()] == weights
    assert bits(model) == before
    with context(model):  # all is forgotten
        pass


def clip(model: nn.Module) -> None:
    F.cross_entropy(model(INPUTS), LABELS).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    model.zero_grad()


def statistics(model: nn.Module) -> None:
    model(INPUTS)
    model.get_buffer("1.running_mean").zero_()


def freeze(model: nn.Module) -> None:
    model.requires_grad_(False).requires_grad_(True)


def follow(model: nn.Module) -> None:
    AveragedModel(model).update_parameters(model)
    copy.deepcopy(model).half()


def move(model: nn.Module) -> None:
    for parameter in model.to("cpu").parameters():  # as RNNs do, to lie in one piece
        parameter.data = parameter.data.clone()


def perturb_twice(model: nn.Module) -> None:
    for _ in range(2):
        with SmoothOut(model, 0.1), AdaSmoothOut(model, 0.1):
            model(INPUTS)


def measure(model: nn.Module) -> None:
    for analysis in ANALYSES.values():
        analysis(model)
    TRAINING["SAM"](model)


@pytest.mark.parametrize("use", [clip, statistics, freeze, follow, move, perturb_twice, measure])
def test_what_leaves_the_weights_as_they_are_is_no_write(use: Callable[[nn.Module], None]) -> None:
    model = network()
    before = bits(model)
    with SmoothOut(model, 0.1, batchnorm=True):
        inside = bits(model)
        use(model)
        assert bits(model) == inside
    assert bits(model) == before


def test_a_block_can_be_suspended_by_its_clean_weights() -> None:
    model = network()
    before, context = bits(model), SmoothOut(model, 0.1, batchnorm=True)
    with context:
        for weights in ([p.data for p in context.parameters], context.clean_weights)[::-1]:
            for parameter, tensor in zip(context.parameters, weights, strict=True):
                parameter.data = tensor
            perturb_twice(model)
    assert bits(model) == before


@pytest.mark.parametrize("first", [True, False])
def test_a_write_next_to_another_block_or_an_analysis_is_noticed_too(first: bool) -> None:
    def measure(model: nn.Module) -> None:
        sharpness(model, BATCHES, F.cross_entropy, iterations=1)

    model = network()
    for other in (perturb_twice, measure):
        one, two = (initialize, other) if first else (other, initialize)
        with pytest.raises(RuntimeError, match=r"^0\.bias: written"), SmoothOut(model, 0.1):
            one(model), two(model)


def test_an_exception_of_the_block_is_not_hidden_by_what_was_written() -> None:
    model = network()
    before = bits(model)

    def fail() -> None:
        load(model)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), SmoothOut(model, 0.1, batchnorm=True):
        fail()
    assert bits(model) == before


def test_blocks_that_are_not_left_in_reverse_order_give_all_back_and_say_so() -> None:
    model = network()
    before, blocks = bits(model), [SmoothOut(model, 0.1) for _ in range(3)]
    for block in blocks:
        block.__enter__()
    with pytest.raises(RuntimeError, match="reverse order"):
        blocks[0].__exit__(None, None, None)
    assert bits(model) == before
    for block in blocks[1:]:
        block.__exit__(None, None, None)
    assert bits(model) == before
    with blocks[1]:
        assert bits(model) != before
    assert bits(model) == before


def test_blocks_of_different_models_may_be_left_in_any_order() -> None:
    models = network(0), network(1)
    before, blocks = list(map(bits, models)), [SmoothOut(model, 0.1) for model in models]
    for block in blocks:
        block.__enter__()
    for block in blocks:
        block.__exit__(None, None, None)
    assert list(map(bits, models)) == before


# Given back whatever is raised


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("name", [*TRAINING, *ANALYSES])
def test_an_error_in_a_hook_of_any_pass_leaves_the_model_as_it_was(name: str, error: type[BaseException]) -> None:
    for due in (1, 2):
        model, calls = network(), itertools.count(1)
        before = bits(model), [buffer.clone() for buffer in model.buffers()], model.training

        def broken(*_: object, due: int = due, calls: Any = calls) -> None:
            if next(calls) == due:
                raise error

        model[2].register_forward_hook(broken)
        with suppress(error):
            (TRAINING | ANALYSES)[name](model)
        assert bits(model) == before[0]
        if name in ANALYSES:
            assert all(map(torch.equal, model.buffers(), before[1]))
        assert model.training == before[2]


class Stuck(nn.Parameter):
    """A parameter that cannot be written to once its device is ``lost``."""

    lost = False

    @property
    def data(self) -> Tensor:
        return Tensor.data.__get__(self)

    @data.setter
    def data(self, value: Tensor) -> None:
        if self.lost:
            raise RuntimeError("device lost")
        Tensor.data.__set__(self, value)

    def copy_(self, other: Tensor) -> Tensor:
        if self.lost:
            raise RuntimeError("device lost")
        return super().copy_(other)


def with_a_stuck_weight() -> Any:
    model = network()
    model[0].bias = Stuck(torch.randn(8))
    return model


def test_a_weight_that_cannot_be_given_back_is_named_and_all_others_are_back() -> None:
    model = with_a_stuck_weight()
    before, context = bits(model), SmoothOut(model, 0.1)
    with pytest.raises(RuntimeError, match=r"^0\.bias: could not be restored: device lost$"), context:
        model[0].bias.lost = True
    after = bits(model)
    assert [index for index in range(len(before)) if after[index] != before[index]] == [1]
    model[0].bias.lost = False
    with SmoothOut(model, 0.1):
        assert bits(model) != after
    assert bits(model) == after


@pytest.mark.parametrize("raises", [False, True])
def test_state_that_cannot_be_given_back_is_named_and_all_else_is_back(raises: bool) -> None:
    model = with_a_stuck_weight()
    before, buffers = bits(model), [buffer.clone() for buffer in model.buffers()]

    def spoil() -> None:
        model(INPUTS)
        load(model)
        model[0].bias.lost = True
        if raises:
            raise KeyboardInterrupt

    with pytest.raises(RuntimeError, match=r"^0\.bias: could not be restored: device lost$"), preserve_state(model):
        spoil()
    after = bits(model)
    assert [index for index in range(len(before)) if after[index] != before[index]] == [1]
    assert all(map(torch.equal, model.buffers(), buffers))


def test_a_pass_that_replaces_a_parameter_does_not_keep_it_replaced() -> None:
    model = network()
    weight, before = model[0].weight, bits(model)
    with preserve_state(model):
        replace(model)
    assert model[0].weight is weight
    assert bits(model) == before


def test_memory_that_does_not_suffice_for_other_layers_noise_leaves_a_context_that_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    model = network()
    context = SmoothOut(model, 0.1)
    model[3] = nn.Linear(8, 7)
    before = bits(model)
    with monkeypatch.context() as patched:
        patched.setattr(perturbation, "FlatBuffers", full)
        with pytest.raises(torch.OutOfMemoryError):
            context.__enter__()
    assert bits(model) == before
    with context:
        assert bits(model)[-2] != before[-2]
    assert bits(model) == before


@pytest.mark.parametrize("denoise", [True, False])
def test_an_error_while_the_noise_is_drawn_touches_nothing(denoise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network().append(nn.Linear(3, 2).double())
    before, context, draw, calls = bits(model), SmoothOut(model, 0.1, denoise=denoise), perturbation.uniform_, []

    def broken(*arguments: Any) -> Tensor:
        calls.append(arguments)
        if len(calls) == 2:  # one draw for each dtype
            raise KeyboardInterrupt
        return draw(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(perturbation, "uniform_", broken)
        with pytest.raises(KeyboardInterrupt):
            context.__enter__()
    assert bits(model) == before
    with context:
        assert bits(model) != before
