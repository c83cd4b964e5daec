"""A model as a vector: flattened and written back to the last bit, and measured filter by filter."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from helpers.other_device import DEVICE, OtherDevice, Remote
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from smoothout.nn.parameters import (
    concatenate,
    filter_norms,
    parameters_to_vector,
    preserve_state,
    trainable_parameters,
    vector_to_parameters,
)

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


def bits(tensor: Tensor) -> list[int]:
    """The bytes of a tensor's entries: tells -0 from 0, and nan is itself."""
    return list(tensor.detach().reshape(-1).contiguous().view(torch.uint8).tolist())


def values(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Numbers of every size, with both zeros and infinities among them."""
    generator = torch.Generator().manual_seed(seed)
    exponents = torch.randint(-12, 12, shape, generator=generator)
    found = torch.randn(shape, generator=generator, dtype=torch.float64) * 2.0**exponents
    special = torch.tensor([0.0, -0.0, math.inf, -math.inf], dtype=torch.float64)
    where = torch.rand(shape, generator=generator) < 0.2
    picks = special[torch.randint(0, 4, shape, generator=generator)]
    return torch.where(where, picks, found).to(dtype)


class Tied(nn.Module):
    """A weight that two layers share, a frozen layer, and BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.drop(self.norm(self.frozen(self.second(self.first(x)))))
        return out


# Which parameters


def test_a_tied_parameter_is_counted_once_and_a_frozen_one_not_at_all() -> None:
    model = Tied()
    found = trainable_parameters(model)
    wanted = [model.first.weight, model.first.bias, model.norm.weight, model.norm.bias]
    assert [id(p) for p in found] == [id(p) for p in wanted]


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(4), nn.BatchNorm2d(4), nn.BatchNorm3d(4), nn.SyncBatchNorm(4)])
def test_every_kind_of_batchnorm_can_be_left_out_and_nothing_else_is(norm: nn.Module) -> None:
    linear, other = nn.Linear(2, 2), nn.LayerNorm(2)
    found = trainable_parameters(nn.Sequential(norm, nn.Sequential(linear, other)), batchnorm=False)
    assert [id(p) for p in found] == [id(p) for p in [*linear.parameters(), *other.parameters()]]


# The vector


@given(st.lists(st.tuples(shapes, st.sampled_from(DTYPES)), min_size=1, max_size=5), st.integers(0, 2**31))
def test_flattened_and_written_back_is_the_same_to_the_last_bit(
    kinds: list[tuple[tuple[int, ...], torch.dtype]], seed: int
) -> None:
    tensors = [values(shape, dtype, seed + i) for i, (shape, dtype) in enumerate(kinds)]
    before = [bits(t) for t in tensors]
    vector = parameters_to_vector(tensors)
    assert (vector.dtype, vector.shape) == (torch.float64, (sum(t.numel() for t in tensors),))
    for tensor in tensors:
        tensor.fill_(7)
    vector_to_parameters(tensors, vector)
    assert [bits(t) for t in tensors] == before


def test_the_vector_holds_the_entries_in_order_also_of_a_channels_last_weight() -> None:
    one = torch.arange(16.0).view(2, 2, 2, 2).contiguous(memory_format=torch.channels_last)
    vector = parameters_to_vector([one, torch.tensor(16.0)])
    assert vector.tolist() == list(range(17))
    vector_to_parameters([one], -vector[:16])
    assert one.is_contiguous(memory_format=torch.channels_last)
    assert one[1, 0, 1, 0] == -10


def test_a_vector_goes_to_another_device_and_back_in_one_copy_a_dtype() -> None:
    tensors = [torch.randn(3, 2), torch.randn(4).bfloat16(), torch.randn(2, 2), torch.randn(5).bfloat16()]
    expected = parameters_to_vector(tensors)
    with OtherDevice() as device:
        away = [Remote(torch.zeros_like(tensor)) for tensor in tensors]
        vector_to_parameters(away, expected)
        assert (device.counts["there"], device.counts["back"]) == (2, 0)
        for tensor, there in zip(tensors, away, strict=True):
            assert torch.equal(there.inner, tensor)
        assert parameters_to_vector(away).device == DEVICE
        assert torch.equal(parameters_to_vector(away, torch.device("cpu")), expected)
        assert (device.counts["there"], device.counts["back"]) == (2, 1)


def test_tensors_of_several_devices_meet_on_the_cpu() -> None:
    tensors = [torch.randn(3, 2), torch.randn(4)]
    with OtherDevice():
        mixed = [tensors[0], Remote(tensors[1].clone())]
        vector = parameters_to_vector(mixed)
        assert torch.equal(vector, parameters_to_vector(tensors))
        vector_to_parameters(mixed, 2 * vector)
        assert torch.equal(concatenate([mixed[1]]).cpu(), 2 * vector[6:].float())


@pytest.mark.parametrize("length", [0, 7, 9])
def test_a_vector_of_the_wrong_length_is_refused_and_nothing_is_written(length: int) -> None:
    model = nn.Linear(3, 2)
    before = parameters_to_vector(list(model.parameters()))
    with pytest.raises(RuntimeError, match="split"):
        vector_to_parameters(list(model.parameters()), torch.zeros(length, dtype=torch.float64))
    assert torch.equal(parameters_to_vector(list(model.parameters())), before)


# Given back


@pytest.mark.parametrize("fails", [False, True])
def test_parameters_buffers_and_modes_come_back_to_the_last_bit(fails: bool) -> None:
    model = Tied()
    model.norm.eval()
    with torch.no_grad():
        model.norm.bias.copy_(torch.tensor([0.0, -0.0, math.nan, math.inf]))
    before = {name: bits(t) for name, t in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    places = {name: t.data_ptr() for name, t in model.state_dict().items()}

    def spoil() -> None:
        model.train()
        model(torch.randn(6, 4))
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.add_(1)
        model.first.eval()
        if fails:
            raise KeyboardInterrupt

    if fails:
        with pytest.raises(KeyboardInterrupt), preserve_state(model):
            spoil()
    else:
        with preserve_state(model):
            spoil()
            assert {name: bits(t) for name, t in model.state_dict().items()} != before
    assert {name: bits(t) for name, t in model.state_dict().items()} == before
    assert {name: t.data_ptr() for name, t in model.state_dict().items()} == places
    assert [module.training for module in model.modules()] == modes


# Filters


@given(st.lists(st.integers(1, 4), max_size=4).map(tuple), st.integers(0, 2**31))
def test_filter_norms_are_those_of_a_loop_over_the_entries(shape: tuple[int, ...], seed: int) -> None:
    tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    norms = filter_norms(tensor).expand(shape)
    for runtime in itertools.product(*map(range, shape)):
        if len(shape) < 2:
            wanted = abs(float(tensor[runtime]))
        else:
            own = itertools.product(*map(range, shape[1:]))
            wanted = math.sqrt(sum(float(tensor[(runtime[0], *rest)]) ** 2 for rest in own))
        assert float(norms[runtime]) == pytest.approx(wanted, rel=1e-12)


def test_a_buffer_that_the_model_replaces_comes_back_as_the_object_it_was() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("nothing", None)

        def forward(self, inputs: Tensor) -> Tensor:
            self.calls = self.calls + 1
            self.nothing = self.calls
            return inputs

    model = Counting()
    calls = model.calls
    with preserve_state(model):
        model(torch.ones(1))
        assert model.calls == 1
    assert model.calls is calls
    assert model.calls == 0
    assert model.nothing is None


def test_an_expanded_buffer_does_not_keep_the_others_from_coming_back() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model.register_buffer("scale", torch.ones(1).expand(3))
    norm = model[1]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with preserve_state(model):
        model(torch.randn(5, 2))
        assert not torch.equal(norm.running_mean, before["1.running_mean"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
