"""Benchmarks in separate processes."""

from __future__ import annotations

import os
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch

from smoothout.benchmark import scaling
from smoothout.benchmark.baselines import epoch_by_loader
from smoothout.benchmark.gpu_check import trainings
from smoothout.benchmark.scaling import Scaling
from smoothout.benchmark.timing import subprocess_work
from smoothout.models.mlp import MLP


def test_work_elsewhere_is_done_in_a_process_of_its_own(tmp_path):
    with subprocess_work(_process_number, [str(tmp_path / "number")], threads=1) as work:
        work()
        first = (tmp_path / "number").read_text()
        work()
        assert (tmp_path / "number").read_text() == first
    number, threads = map(int, first.split())
    assert number != os.getpid()
    assert threads == 1


def test_the_ordinary_loop_runs_in_a_process_of_its_own():
    images = torch.zeros(32, 28, 28, dtype=torch.uint8).numpy()
    model = MLP(width=8, depth=1).build((1, 28, 28), 2)
    with subprocess_work(
        epoch_by_loader, [model, images, torch.zeros(32, dtype=torch.int64).numpy(), 16, "cpu"], 1
    ) as epoch:
        epoch()
        epoch()


def test_two_processes_end_as_one() -> None:
    finding = trainings.two_processes_equal_one(torch.device("cpu"), examples=128)
    assert finding.passed, finding.text


def test_two_processes_are_timed() -> None:
    times, computing, size = Scaling(ghost=8, ghosts=2, turns=2)._times("cpu")
    assert {name: len(turns) for name, turns in computing.items()} == dict.fromkeys(times, 2)
    assert set(times) == {scaling.WHOLE, scaling.HALF, scaling.SHARED, scaling.MESSAGE, scaling.EMPTY}
    assert all(len(turns) == 2 and min(turns) > 0 for turns in times.values())
    assert size > 4 * 1_462_794  # F1's parameters and running statistics


def _process_number(path: str):
    return lambda: Path(path).write_text(f"{os.getpid()} {torch.get_num_threads()}")


def _failing():
    return lambda: 1 / 0


def _dying():
    return lambda: os._exit(3)


@pytest.mark.parametrize(("make", "error"), [(_failing, ZeroDivisionError), (_dying, BrokenProcessPool)])
def test_work_elsewhere_that_fails_or_dies_is_an_error_here(make, error):
    with subprocess_work(make, [], threads=1) as work, pytest.raises(error):
        work()
