"""Large batches on small memory: the gradient is the full batch's, the memory that of one ghost batch."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.nn.ghost_batchnorm import ghosted
from smoothout.training.batch import Batch
from smoothout.training.update import update


def network(norm: type[nn.Module]) -> nn.Sequential:
    """In float64, so that two ways of adding up agree to 12 digits."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm(4), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3)).double()


def examples(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, 3, 5, 5, generator=generator, dtype=torch.float64)
    return images, torch.randint(0, 3, (count,), generator=generator)


def moved(model: nn.Module, batch: Batch, count: int) -> list[Tensor]:
    """By how much one update of plain SGD with learning rate 1 on ``count`` examples moves the weights back."""
    images, labels = examples(count)
    before = [p.detach().clone() for p in model.parameters()]
    cut = batch.split(torch.arange(count))
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    update(model, optimizer, ((images[rows], labels[rows]) for rows in cut), len(cut))
    return [old - p.detach() for old, p in zip(before, model.parameters(), strict=True)]


@given(multiplier=st.integers(1, 5), ghosts=st.integers(1, 4), ghost=st.integers(1, 5))
def test_the_multiplied_gradient_is_that_of_the_full_batch(multiplier: int, ghosts: int, ghost: int) -> None:
    batch = Batch(ghosts * ghost, ghost, multiplier)
    model = network(nn.Identity)
    images, labels = examples(batch.examples_per_update)
    full = torch.autograd.grad(F.cross_entropy(model(images), labels), list(model.parameters()))
    for ours, theirs in zip(moved(model, batch, batch.examples_per_update), full, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


@given(multiplier=st.integers(1, 4), ghosts=st.integers(1, 4), ghost=st.integers(2, 4))
def test_with_ghost_batches_it_is_that_of_the_full_batch_normalised_ghost_by_ghost(
    multiplier: int, ghosts: int, ghost: int
) -> None:
    batch = Batch(ghosts * ghost, ghost, multiplier)
    model = network(nn.BatchNorm2d)
    images, labels = examples(batch.examples_per_update)
    with ghosted(model, batch.ghosts_per_update):
        full = torch.autograd.grad(F.cross_entropy(model(images), labels), list(model.parameters()))
    for ours, theirs in zip(moved(network(nn.BatchNorm2d), batch, batch.examples_per_update), full, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


def test_multiplied_and_large_batches_of_the_same_ghost_batches_are_one_update_to_the_last_bit() -> None:
    one, other = (moved(network(nn.BatchNorm2d), batch, 24) for batch in (Batch(24, 4), Batch(8, 4, 3)))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
