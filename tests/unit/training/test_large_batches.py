"""Large batches on small memory: the gradient is the full batch's, the memory that of one ghost batch."""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from soak.processes import SERVER
from torch import Tensor, nn
from torch.nn import functional as F

from smoothout.benchmark import comparisons
from smoothout.common.environment import peak_memory
from smoothout.nn.ghost_batchnorm import ghosted
from smoothout.training.batch import Batch
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import SGD
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import Trainer
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
    update(model, optimizer, ((images[rows], labels[rows]) for rows in cut), len(cut), lambda _: [torch.enable_grad()])
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


def _update(pipe: Connection, batch: Batch) -> None:
    cpu = torch.device("cpu")
    torch.set_num_threads(1)
    train, test = (comparisons.random_split((3, 32, 32), 10, examples, cpu) for examples in (256, 8))
    model, noise = comparisons.network(comparisons.C1), NoiseConfig(0.01)
    training = Trainer(model, train, test, optimizer=SGD(0.01), schedule=Schedule(1), batch=batch, noise=noise, seed=0)
    before = peak_memory(cpu)
    next(iter(training))
    pipe.send(peak_memory(cpu) - before)


def peak(*batch: int | None) -> int:
    """Bytes that an update of so large a batch (size, ghost, multiplier) adds to a fresh process, at most."""
    here, there = SERVER.Pipe()
    SERVER.Process(target=_update, args=(there, Batch(*batch)), daemon=True).start()
    there.close()  # so that a process which fails ends the wait
    return int(here.recv())


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux' /proc")
def test_the_peak_memory_of_a_large_batch_is_that_of_one_ghost_batch() -> None:
    """Eight times the examples, by ghost batches or by the multiplier, take no more; in one piece, many times as much.

    An example's activations in C1 are 2 MB.
    """
    ghost, by_ghosts, by_multiplier, whole = peak(32), peak(256, 32), peak(64, 32, 4), peak(256)
    assert by_ghosts < 1.25 * ghost
    assert by_multiplier < 1.25 * ghost
    assert whole > 3 * ghost
