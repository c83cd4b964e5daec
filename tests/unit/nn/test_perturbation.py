"""The contexts of noise: what they do on entering, and that the weights come back to the last bit."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from helpers.noise_cases import LAWS, SCALINGS, examples, network, seeded, thetas
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout import AdaSmoothOut, SmoothOut
from smoothout.nn.options import NoiseScaling

BUFFERS = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}

# noise relative to the weights leaves BatchNorm's bias at the 0 that it starts with

ZEROS: dict[str, set[str]] = {
    NoiseScaling.none: set(),
    NoiseScaling.weight: {"norm.bias"},
    NoiseScaling.filter: {"norm.bias"},
}


def bits(model: nn.Module) -> dict[str, list[int]]:
    """Every byte of a model's state."""
    state = model.state_dict().items()
    return {name: t.detach().reshape(-1).contiguous().view(torch.uint8).tolist() for name, t in state}


class Mixed(nn.Module):
    """Three precisions, BatchNorm, a frozen layer, a tied weight, a channels-last kernel and a lone number."""

    def __init__(self) -> None:
        super().__init__()
        self.single = nn.Linear(30, 40)
        self.half = nn.Linear(40, 30).bfloat16()
        self.double = nn.Linear(30, 20).double()
        self.kernel = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm1d(20)
        self.frozen = nn.Linear(20, 20).requires_grad_(False)
        self.tied = nn.Linear(30, 40)
        self.tied.weight = self.single.weight
        self.scale = nn.Parameter(torch.tensor(1.5))
        with torch.no_grad():  # weights of every size, signed zeros among them: what adding and subtracting spoils
            for parameter in self.parameters():
                parameter.mul_(2.0 ** torch.randint(-20, 6, parameter.shape))
                if parameter.dim() > 1:
                    parameter[(0,) * parameter.dim()] = -0.0


# The weights come back


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("fails", [False, True])
def test_the_weights_come_back_to_the_last_bit_also_after_an_exception(fails: bool, law: str, scaling: str) -> None:
    model = Mixed()
    before = bits(model)
    with suppress(KeyboardInterrupt), SmoothOut(model, 0.3, law, scaling=scaling, batchnorm=True):
        inside = bits(model)
        if fails:
            raise KeyboardInterrupt
    assert bits(model) == before
    frozen = {name for name in before if name.startswith("frozen") or name in BUFFERS}
    assert {name for name in before if inside[name] == before[name]} == frozen | ZEROS[scaling]


def test_the_weights_come_back_to_the_last_bit_when_the_step_before_was_an_update() -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    context = SmoothOut(model, 0.1)
    for step in range(5):
        clean = bits(model)
        with context:
            F.cross_entropy(model(examples(6, step)[0]), examples(6, step)[1]).backward()
        parameters = {name for name, _ in model.named_parameters()}
        assert {k: v for k, v in bits(model).items() if k in parameters} == {
            k: v for k, v in clean.items() if k in parameters
        }
        optimizer.step()
        assert bits(model)["0.weight"] != clean["0.weight"]


def test_adding_and_subtracting_the_noise_would_not_give_the_weights_back() -> None:
    """The reason for the copy: this model and this noise do lose bits the other way."""
    model = nn.Linear(100, 100)
    before = model.weight.detach().clone()
    [theta, _] = thetas(SmoothOut(model, 0.0375))
    lost = ((before + theta) - theta != before).float().mean()
    assert lost > 0.1


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_parameters_keep_their_identity_and_layout_and_get_their_place_in_memory_back(
    memory_format: torch.memory_format,
) -> None:
    model = Mixed().to(memory_format=memory_format)
    places = [(id(p), p.stride(), p.data_ptr()) for p in model.parameters()]
    context = SmoothOut(model, 0.1)
    with context:
        assert [(id(p), p.stride()) for p in model.parameters()] == [place[:2] for place in places]
    assert [(id(p), p.stride(), p.data_ptr()) for p in model.parameters()] == places
    assert all(p.is_leaf and p.grad is None for p in model.parameters())


def test_a_compiled_model_sees_the_noise_of_every_entry() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    x, context = torch.randn(5, 3, dtype=torch.float64), SmoothOut(model, 0.1)
    compiled(x)
    for _ in range(3):
        with context:
            assert torch.allclose(compiled(x), model(x), rtol=1e-9)
        assert torch.allclose(compiled(x), model(x), rtol=1e-9)


@pytest.mark.parametrize("batchnorm", [False, True])
def test_batchnorms_weight_and_bias_are_perturbed_only_on_demand(batchnorm: bool) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = bits(model)
    with SmoothOut(model, 0.1, batchnorm=batchnorm):
        changed = {name for name, value in bits(model).items() if value != before[name]}
    others = {"0.weight", "0.bias", "3.weight", "3.bias"}
    assert changed == others | ({"1.weight", "1.bias", "4.weight", "4.bias"} if batchnorm else set())


# Entering


def test_entering_twice_is_refused_and_does_no_harm() -> None:
    model = nn.Linear(20, 20)
    before = bits(model)
    context = SmoothOut(model, 0.1)
    with context:
        inside = bits(model)
        with pytest.raises(RuntimeError, match="already entered"):
            context.__enter__()
        assert bits(model) == inside
    assert bits(model) == before
    with context:
        assert bits(model) != before
    assert bits(model) == before


def test_an_entry_that_is_interrupted_leaves_the_weights_clean_and_the_context_usable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = nn.Linear(20, 20)
    before = bits(model)
    context = SmoothOut(model, 0.1)

    increment_version, calls = torch.autograd.graph.increment_version, []

    def interrupted_once(tensors: list[Tensor]) -> None:
        calls.append(tensors)
        if len(calls) == 1:
            raise KeyboardInterrupt
        increment_version(tensors)

    with monkeypatch.context() as patched:
        patched.setattr(torch.autograd.graph, "increment_version", interrupted_once)
        with pytest.raises(KeyboardInterrupt):
            context.__enter__()
    assert bits(model) == before
    with context:
        assert bits(model) != before
    assert bits(model) == before


def test_a_context_shows_its_settings() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    context = SmoothOut(model, 0.1)
    shown = "<SmoothOut(a=0.1, distribution='uniform') of 16 weights in Sequential>"
    assert repr(context) == shown
    with context:
        assert repr(context) == shown.replace(">", ", entered>")
    assert "AdaSmoothOut(a=0.2, distribution='gaussian', scaling='filter') of 24" in repr(
        AdaSmoothOut(model, 0.2, "gaussian", batchnorm=True)
    )


def test_two_contexts_on_one_model_add_their_noise_and_undo_it_in_turn() -> None:
    model = nn.Linear(20, 20)
    before = model.weight.detach().clone()
    with SmoothOut(model, 0.1):
        middle = model.weight.detach().clone()
        with SmoothOut(model, 0.1):
            assert 0.1 < (model.weight - before).abs().max() <= 0.2001
        assert torch.equal(model.weight, middle)
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_with_the_noise_left_in_the_weights_are_exactly_w_plus_theta(law: str, scaling: str) -> None:
    model = Mixed()
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    drawn = thetas(SmoothOut(model, 0.3, law, scaling=scaling, batchnorm=True, generator=seeded(7)))
    with SmoothOut(model, 0.3, law, scaling=scaling, batchnorm=True, denoise=False, generator=seeded(7)):
        pass
    found = [p for p in model.parameters() if p.requires_grad]
    assert all(torch.equal(p, w + theta) for p, w, theta in zip(found, before, drawn, strict=True))
    assert any(theta.any() for theta in drawn)
