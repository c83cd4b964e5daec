"""Tensors end to end in flat vectors: how they are cut and laid out, and their filters scaled in one pass."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from smoothout import AdaSmoothOut, SmoothOut
from smoothout.nn import perturbation
from smoothout.nn.flat import Filters, FlatBuffers, group_by_filter
from smoothout.nn.options import NoiseScaling
from smoothout.nn.perturbation import filter_normalize_

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)

# How a weight may lie in memory; each makes a tensor of normal numbers
LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "contiguous": lambda: torch.randn(4, 3, 2, 5),
    "channels_last": lambda: torch.randn(4, 3, 2, 5).to(memory_format=torch.channels_last),
    "channels_last, 1 x 1": lambda: torch.randn(4, 3, 1, 1).to(memory_format=torch.channels_last),
    "channels_last, 3d": lambda: torch.randn(4, 3, 2, 5, 2).to(memory_format=torch.channels_last_3d),
    "transposed": lambda: torch.randn(6, 5).t(),
    "filters inside out": lambda: torch.randn(2, 5, 4).permute(2, 1, 0),
    "every other column": lambda: torch.randn(4, 10)[:, ::2],
    "every other number": lambda: torch.randn(10)[::2],
    "every other row, inside out": lambda: torch.randn(2, 5, 8).permute(2, 1, 0)[::2],
    "permuted filters, with gaps": lambda: torch.randn(4, 5, 6).transpose(1, 2)[:, ::2, ::2],
    "a filter of many": lambda: torch.randn(1, 3, 2, 2).to(memory_format=torch.channels_last),
    "bias": lambda: torch.randn(7),
    "number": lambda: torch.randn(()),
    "empty filters": lambda: torch.randn(5, 0),
    "no filters": lambda: torch.randn(0, 3),
}


# Room


@given(st.lists(st.tuples(shapes, st.sampled_from(DTYPES)), min_size=1, max_size=6))
def test_there_is_one_flat_tensor_a_dtype_which_is_cut_into_the_tensors_shapes(
    kinds: list[tuple[tuple[int, ...], torch.dtype]],
) -> None:
    tensors = [torch.zeros(shape, dtype=dtype) for shape, dtype in kinds]
    buffers = FlatBuffers(tensors)
    assert [(v.shape, v.dtype, v.device) for v in buffers.views] == [(t.shape, t.dtype, t.device) for t in tensors]
    assert [group.flat.dtype for group in buffers.groups] == list(dict.fromkeys(dtype for _, dtype in kinds))
    for group in buffers.groups:
        assert group.flat.numel() == sum(t.numel() for t in tensors if t.dtype == group.flat.dtype)
        group.flat.copy_(torch.arange(group.flat.numel()))
        own = [v.reshape(-1) for v in buffers.views if v.dtype == group.flat.dtype]
        assert torch.equal(torch.cat(own), group.flat)


def test_what_is_laid_out_has_the_entries_in_their_places_and_the_strides_of_the_tensors() -> None:
    tensors = [make() for make in LAYOUTS.values()]
    tensors.insert(3, LAYOUTS["channels_last"]().double())
    buffers = FlatBuffers(tensors)
    for start in (0, 1000):
        for group in buffers.groups:
            group.flat.copy_(torch.arange(start, start + len(group.flat)))
        laid_out = buffers.with_strides()
        for tensor, view, found in zip(tensors, buffers.views, laid_out, strict=True):
            assert torch.equal(found, view)
            assert found.stride() == torch.empty_like(tensor).stride()  # the tensor's own, where it is dense
    places = [(t.data_ptr(), t.numel() * t.element_size()) for t in laid_out if t.numel()]
    places.sort()
    assert all(start + size <= after for (start, size), (after, _) in itertools.pairwise(places))


# Filters


def filters_of(tensors: list[Tensor], a: float, directions: list[Tensor]) -> list[Tensor]:
    """``directions`` scaled in one pass to the filters of ``tensors``, which share a dtype."""
    buffers = FlatBuffers(tensors)
    [group] = buffers.groups
    for view, direction in zip(buffers.views, directions, strict=True):
        view.copy_(direction)
    assert Filters(tensors).scale(group.flat, tensors, a) is group.flat
    return buffers.views


def test_scaling_in_one_pass_is_equation_12_entry_by_entry() -> None:
    tensors = [make().double() for make in LAYOUTS.values()]
    tensors[0][2] = 0
    directions = [torch.randn(t.shape, dtype=torch.float64) for t in tensors]
    directions[0][1] *= 1e-6  # where Eq. 12's own 1e-6 counts
    for found, weight, direction in zip(filters_of(tensors, 0.2, directions), tensors, directions, strict=True):
        for i in range(direction.numel()):
            at = tuple(int(x) for x in torch.unravel_index(torch.tensor(i), direction.shape))
            own = at[:1] if direction.dim() > 1 else at
            lengths = [math.sqrt(sum(x * x for x in t[own].flatten().tolist())) for t in (weight, direction)]
            wanted = 0.2 * float(direction[at]) * lengths[0] / (lengths[1] + 1e-6)
            assert float(found[at]) == pytest.approx(wanted, rel=1e-12, abs=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scaling_in_one_pass_needs_the_weights_in_no_order(layout: str) -> None:
    """A weight in one layout among others, against float64 tensor by tensor: to float32's rounding."""
    weights = [torch.randn(5, 3), LAYOUTS[layout](), torch.randn(6)]
    directions = [torch.rand(w.shape) * 2 - 1 for w in weights]
    found = filters_of(weights, 0.15, directions)
    for one, weight, direction in zip(found, weights, directions, strict=True):
        wanted = filter_normalize_(direction.double(), weight.double(), 0.15)
        torch.testing.assert_close(one.double(), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scaling_in_one_pass_adds_up_low_precision_in_float32(dtype: torch.dtype) -> None:
    """A filter of 4096 numbers of 200 has the square 1.6e8, and float16 ends at 65504."""
    weights = [torch.full((2, 4096), 200.0, dtype=dtype), torch.ones(3, dtype=dtype)]
    directions = [torch.full((2, 4096), 0.5, dtype=dtype), torch.tensor([1e-6, 0.5, -1e-6], dtype=dtype)]
    [matrix, bias] = filters_of(weights, 0.15, directions)
    assert matrix.dtype is bias.dtype is dtype
    torch.testing.assert_close(matrix.double(), torch.full((2, 4096), 30.0, dtype=torch.float64), rtol=4e-3, atol=0)
    wanted = filter_normalize_(directions[1].double(), weights[1].double(), 0.15)
    torch.testing.assert_close(bias.double(), wanted, rtol=0.01, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_are_read_in_the_order_of_the_room_that_is_laid_out_like_them(layout: str) -> None:
    """So theta, which lies in that room, goes with the clean weight and the gradient, number by number."""
    tensor = LAYOUTS[layout]()
    room = FlatBuffers([tensor])
    room.groups[0].flat.copy_(tensor.reshape(-1))
    assert torch.equal(group_by_filter(room.with_strides()[0]), group_by_filter(tensor))


# The contexts


class Mixed(nn.Module):
    """Two precisions, kernels in both memory formats, a frozen layer, a tied weight, BatchNorm and a lone number."""

    def __init__(self) -> None:
        super().__init__()
        self.single, self.double = nn.Linear(30, 40), nn.Linear(30, 20).double()
        self.kernels = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 2, 3), nn.Conv2d(2, 3, 1))
        self.kernels[:2].to(memory_format=torch.channels_last)
        self.norm, self.frozen = nn.BatchNorm1d(20), nn.Linear(20, 20).requires_grad_(False)
        self.tied = nn.Linear(30, 40)
        self.tied.weight = self.single.weight
        self.scale = nn.Parameter(torch.tensor(1.5))


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets contexts scale to filters as they do on CUDA."""
    monkeypatch.setattr(perturbation, "_draws_at_once", lambda device: True)


def perturbed(context: SmoothOut, model: nn.Module) -> list[Tensor]:
    """The weights within the block, drawn from one seed."""
    context.generator = torch.Generator().manual_seed(3)
    with context:
        return [p.detach().clone() for p in model.parameters()]


def unfreeze(model: Mixed) -> None:
    model.frozen.requires_grad_(True)


def replace(model: Mixed) -> None:
    model.tied = nn.Linear(3, 7)


def cast(model: Mixed) -> None:
    model.kernels.double()


def turn(model: Mixed) -> None:
    model.kernels.to(memory_format=torch.contiguous_format)


@pytest.mark.parametrize("change", [lambda model: None, unfreeze, replace, cast, turn])
def test_adasmoothout_in_one_pass_is_that_tensor_by_tensor_to_rounding(
    change: Callable[[Mixed], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ends = Mixed(), []
    wanted, found = (AdaSmoothOut(model, 0.15, batchnorm=True) for _ in range(2))
    with monkeypatch.context() as patched:
        patched.setattr(perturbation, "_draws_at_once", lambda device: True)
        found.draw()
        change(model)
        before = [p.detach().clone() for p in model.parameters()]
        ends.append(perturbed(found, model))
    ends.append(perturbed(wanted, model))
    assert all(map(torch.equal, model.parameters(), before))
    assert not all(map(torch.equal, *ends)), "the sums are rounded otherwise"
    for one, other, clean in zip(*ends, before, strict=True):
        scale = float(clean.abs().max()) if clean.numel() else 0.0
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6 * scale)


# How many operations

VIEWS = {"detach", "alias", "view", "as_strided", "split", "split_with_sizes", "_reshape_alias", "reshape", "unsqueeze"}


class Counted(TorchDispatchMode):
    """Counts the operations that are not mere views; fails where the host would wait or would send an index."""

    def __init__(self) -> None:
        super().__init__()
        self.names = list[str]()

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        name = operation.overloadpacket.__name__
        assert name not in {"_local_scalar_dense", "_to_copy", "arange", "cumsum", "repeat_interleave"}, name
        if name not in VIEWS and not name.startswith("empty"):
            self.names.append(name)
        return operation(*arguments, **(settings or {}))


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("scaling", "most"), [(NoiseScaling.none, 8), (NoiseScaling.filter, 25)])
def test_noise_takes_a_few_operations_whatever_the_network_has_of_tensors(
    scaling: NoiseScaling, most: int, memory_format: torch.memory_format
) -> None:
    found = []
    for depth in (1, 30):
        layers = [nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)) for _ in range(depth)]
        model = nn.Sequential(*layers, nn.Linear(3, 2)).to(memory_format=memory_format)
        context = SmoothOut(model, 0.1, "gaussian", scaling=scaling)  # on a CPU the uniform law is numpy's
        with context:
            pass
        with Counted() as counted, context:
            pass
        found.append(counted.names)
    assert found[0] == found[1]
    assert 3 <= len(found[0]) <= most
