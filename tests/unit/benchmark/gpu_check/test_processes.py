"""The check of two processes: by gloo on a CPU it holds, and it fails when one of them does something else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessException

from smoothout.benchmark.gpu_check import trainings
from smoothout.benchmark.gpu_check.check import not_checked
from smoothout.training.distributed import ProcessGroup

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def shared_by(monkeypatch: pytest.MonkeyPatch, examples: int) -> None:
    """Let one process stand in for two that train on this many examples."""

    def spawned(work: Any, arguments: tuple[Any, ...], nprocs: int) -> None:
        *_, answer = arguments
        torch.save(trainings.train_share(CPU, examples, ProcessGroup()), answer)

    monkeypatch.setattr(trainings, "spawn", spawned)


@pytest.mark.parametrize(("examples", "holds"), [(128, True), (112, False)])
def test_processes_that_end_elsewhere_fail(examples: int, holds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shared_by(monkeypatch, examples)
    assert trainings.two_processes_equal_one(CPU, examples=128).passed is holds


def test_a_process_that_fails_is_reported_by_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def spawned(*_: Any, **__: Any) -> None:
        raise ProcessException("-- Process 1 failed:\n\nTraceback\n  there\nRuntimeError: NCCL error", 1, 2)

    monkeypatch.setattr(trainings, "spawn", spawned)
    with pytest.raises(RuntimeError, match=r"^RuntimeError: NCCL error$"):
        trainings.two_processes_equal_one(CPU)


def test_it_is_not_made_with_one_gpu_or_without_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert trainings.two_processes_equal_one(GPU) == not_checked("there is one GPU here")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(dist, "is_nccl_available", lambda: False)
    assert trainings.two_processes_equal_one(GPU) == not_checked("this torch has no NCCL")
