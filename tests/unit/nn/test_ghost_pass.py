"""A forward pass whose BatchNorm layers share what they do on ghost batches."""

from __future__ import annotations

import copy
from inspect import signature
from typing import Any

import pytest
import torch
from helpers.ghost_networks import SETTINGS, batch, network
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from smoothout.models.mlp import MLP
from smoothout.nn.ghost_batchnorm import forward_ghosts


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("examples", [20, 18, 6])
def test_a_pass_that_shares_work_between_layers_is_the_ghost_batches_one_after_another(
    examples: int, interleaved: bool, memory: torch.memory_format, settings: dict[str, object]
) -> None:
    """Outputs in the order of the inputs, gradients, running statistics; 18 examples are 5, 5, 5, 3; 6 are 2, 2, 2."""
    inputs, slopes = batch(20)[0][:examples], torch.randn(examples, 3, dtype=torch.float64)
    wanted, found = (network(convolutions=True, **settings).to(memory_format=memory) for _ in range(2))
    outputs = [wanted(piece) for piece in inputs.chunk(4)]
    torch.autograd.backward(outputs, slopes.chunk(4))
    output = forward_ghosts(found, found, inputs, 4, interleaved=interleaved)
    output.backward(slopes)
    torch.testing.assert_close(output, torch.cat(outputs))
    for one, other in zip(found.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    for one, other in zip(found.buffers(), wanted.buffers(), strict=True):
        torch.testing.assert_close(one, other)
    assert [type(module) for module in found] == [type(module) for module in wanted]
    assert not any("shared" in vars(module) for module in found)


def test_layers_with_momenta_and_widths_of_their_own_are_fed_each_by_itself() -> None:
    norms = [nn.BatchNorm1d(4, momentum=m, affine=a) for m, a in [(0.1, True), (0.5, True), (None, False), (0.1, True)]]
    wanted = nn.Sequential(*norms, nn.Linear(4, 6), nn.BatchNorm1d(6), nn.BatchNorm1d(6, track_running_stats=False))
    found = copy.deepcopy(wanted)
    inputs = torch.randn(12, 4, dtype=torch.float64)
    outputs = [wanted.double()(piece) for piece in inputs.chunk(3)]
    output = forward_ghosts(found, found.double(), inputs, 3)
    torch.testing.assert_close(output, torch.cat(outputs))
    for one, other in zip(found.buffers(), wanted.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_pass_that_fails_leaves_the_model_with_its_plain_layers_and_statistics() -> None:
    made, (inputs, _) = network(convolutions=True), batch(20)
    before = [buffer.clone() for buffer in made.buffers()]
    made.append(nn.Linear(99, 1).double())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        forward_ghosts(made, made, inputs, 4)
    assert [type(made[1]), type(made[4])] == [nn.BatchNorm2d] * 2
    assert not any("shared" in vars(module) for module in made)
    assert all(torch.equal(one, other) for one, other in zip(made.buffers(), before, strict=True))


class Counting(TorchDispatchMode):
    """Counts the operations that are more than another view of memory that is there."""

    count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, arguments: Any = (), settings: Any = None) -> Any:
        result = operation(*arguments, **(settings or {}))
        self.count += not operation.is_view
        return result


def operations(depth: int, ghosts: int) -> int:
    """Of a forward and backward pass through this many layers of BatchNorm."""
    model = MLP(width=7, depth=depth).build((1, 4, 4), 3)
    inputs = torch.randn(20, 1, 4, 4)
    with Counting() as counting:
        logits = model(inputs) if ghosts == 1 else forward_ghosts(model, model, inputs, ghosts, interleaved=True)
        logits.sum().backward()
    return counting.count


def test_a_layer_more_costs_one_pass_no_more_operations_than_a_plain_batch() -> None:
    assert operations(6, ghosts=4) - operations(3, ghosts=4) <= operations(6, ghosts=1) - operations(3, ghosts=1)
    assert operations(3, ghosts=4) - operations(3, ghosts=1) <= 20


@pytest.mark.skipif("bias" not in signature(nn.BatchNorm1d).parameters, reason="this torch's BatchNorm has no bias=")
def test_layers_without_bias_are_normalized_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(4, bias=False), nn.Linear(4, 4), nn.BatchNorm1d(4))
    one_by_one, x = copy.deepcopy(model), torch.randn(12, 4)
    wanted = torch.cat([one_by_one(part) for part in x.chunk(3)])
    torch.testing.assert_close(forward_ghosts(model, model, x, 3), wanted)
