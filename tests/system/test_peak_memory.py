"""The peak memory of a large batch, in separate processes."""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection

import pytest
import torch
from soak.processes import SERVER

from smoothout.benchmark.workloads import C1, random_split
from smoothout.common.environment import peak_memory
from smoothout.training.batch import Batch
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import SGD
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import Trainer


def _update(pipe: Connection, batch: Batch) -> None:
    cpu = torch.device("cpu")
    torch.set_num_threads(1)
    train, test = (random_split((3, 32, 32), 10, examples, cpu) for examples in (256, 8))
    model, noise = C1.network(), NoiseConfig(0.01)
    training = Trainer(model, train, test, optimizer=SGD(0.01), schedule=Schedule(1), batch=batch, method=noise, seed=0)
    before = peak_memory(cpu)
    next(iter(training))
    pipe.send(peak_memory(cpu) - before)


def peak(*batch: int | None) -> int:
    """Bytes that an update of a batch of this size (size, ghost, multiplier) adds to a fresh process, at most."""
    here, there = SERVER.Pipe()
    SERVER.Process(target=_update, args=(there, Batch(*batch)), daemon=True).start()
    there.close()  # so that a process which fails ends the wait
    return int(here.recv())


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from Linux' /proc")
def test_the_peak_memory_of_a_large_batch_is_that_of_one_ghost_batch() -> None:
    """Eight times the examples by ghost batches or the multiplier take no more; in one piece, twice as much at least.

    An example's activations in C1 are 2 MB. Peaks vary by a tenth from run to run.
    """
    ghost, by_ghosts, by_multiplier, whole = peak(32), peak(256, 32), peak(64, 32, 4), peak(256)
    assert by_ghosts < 1.25 * ghost
    assert by_multiplier < 1.25 * ghost
    assert whole > 2 * ghost
