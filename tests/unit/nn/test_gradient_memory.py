"""Passes add to the gradients that a program holds, in the memory where it keeps them."""

from __future__ import annotations

import pytest
import torch
from helpers.noise_cases import TWO_PASSES, examples, two_layers
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout import MSAM, SAM
from smoothout.nn.passes import Passes


def backpropagate(model: nn.Module, method: Passes) -> None:
    inputs, labels = examples(8)
    for block in method:
        with block:
            F.cross_entropy(model(inputs.double()), labels).backward()


def in_one_buffer(model: nn.Module) -> Tensor:
    """Make the gradients views of one tensor, which is returned."""
    parameters = list(model.parameters())
    flat = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)
    return flat


@pytest.mark.parametrize("name", TWO_PASSES)
def test_gradients_that_are_views_of_one_buffer_stay_there(name: str) -> None:
    plain, model = two_layers(), two_layers()
    for _ in range(2):  # accumulated over two batches
        backpropagate(plain, TWO_PASSES[name](plain))
    flat = in_one_buffer(model)
    held = [p.grad for p in model.parameters()]
    for _ in range(2):
        backpropagate(model, TWO_PASSES[name](model))
    assert all(p.grad is gradient for p, gradient in zip(model.parameters(), held, strict=True))
    wanted = torch.cat([p.grad.flatten() for p in plain.parameters() if p.grad is not None])
    torch.testing.assert_close(flat, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", TWO_PASSES)
def test_after_an_error_they_have_the_values_from_before(name: str) -> None:
    model = two_layers()
    flat = in_one_buffer(model)
    backpropagate(model, TWO_PASSES[name](model))
    before, first = flat.clone(), TWO_PASSES[name](model)[0]
    inputs, labels = examples(8)

    def fail(gradient: Tensor) -> None:
        raise KeyError

    next(model.parameters()).register_hook(fail)  # the gradients of later layers have been added by then
    with pytest.raises(KeyError), first:
        F.cross_entropy(model(inputs.double()), labels).backward()
    assert torch.equal(flat, before)


def test_a_gradient_written_into_the_earlier_ones_memory_reaches_sams_second_pass() -> None:
    """As by DistributedDataParallel with gradient_as_bucket_view."""
    plain, model = two_layers(), two_layers()
    inputs, labels = examples(8)
    for one in (plain, model):
        backpropagate(one, SAM(one, 0.3))  # gradients from an earlier batch
    backpropagate(plain, SAM(plain, 0.3))
    memory = [p.grad for p in model.parameters()]
    for block in SAM(model, 0.3):
        with block:
            F.cross_entropy(model(inputs.double()), labels).backward()
            if block.at_clean_weights:
                for parameter, view in zip(model.parameters(), memory, strict=True):
                    assert view is not None
                    assert parameter.grad is not None
                    parameter.grad = view.copy_(parameter.grad)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


def test_msam_refuses_an_optimizer_that_shares_its_state_among_processes() -> None:
    class ZeroRedundancyOptimizer(torch.optim.Adam):
        """As torch's, which needs a process group: it has Adam's groups and an empty state."""

    model = two_layers()
    with pytest.raises(ValueError, match=r"^optimizer: ZeroRedundancyOptimizer keeps each momentum in one process"):
        MSAM(model, ZeroRedundancyOptimizer(model.parameters()))


def test_sams_second_pass_does_not_write_gradients_into_its_weights() -> None:
    """The first pass's gradients are views of a buffer that later passes fill: DDP's, with gradient_as_bucket_view."""
    model = two_layers()
    inputs, labels = examples(8)
    buffer = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    views = buffer.split([p.numel() for p in model.parameters()])
    for block in SAM(model, 0.3):
        with block:
            for _ in range(2):
                model.zero_grad()
                weights = [p.detach().clone() for p in model.parameters()]
                F.cross_entropy(model(inputs.double()), labels).backward()
                for parameter, part in zip(model.parameters(), views, strict=True):
                    assert parameter.grad is not None
                    part.copy_(parameter.grad.flatten())
                    parameter.grad = part.view_as(parameter)
                assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
