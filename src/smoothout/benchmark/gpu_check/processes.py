"""The check of two processes that share a training, each on a GPU of its own."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessException, spawn

from smoothout.benchmark.gpu_check.check import Found, not_checked
from smoothout.benchmark.gpu_check.small import LR, apart, mlp, repeatable, told, training
from smoothout.training.batch import Batch
from smoothout.training.checkpoint import StateDict
from smoothout.training.distributed import ProcessGroup
from smoothout.training.engine import Launch
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import SGD
from smoothout.training.trainer import Trainer

PATIENCE = timedelta(seconds=60)  # with a process that does not answer


def two_are_one(device: torch.device, examples: int = 1000) -> Found:
    """Two processes, which add up gradients by NCCL, end where one process ends, to rounding.

    If this fails, train with one process (no torchrun). If it ends for want of an answer, GPUs cannot reach each other:
    NCCL_DEBUG=INFO shows what NCCL does, NCCL_P2P_DISABLE=1 may help.
    """
    if device.type == "cuda" and (reason := _lacking()):
        return not_checked(reason)
    with tempfile.TemporaryDirectory() as folder:
        meeting, answer = Path(folder, "meeting"), Path(folder, "end.pt")
        try:
            spawn(_share, (device.type, examples, meeting, answer), nprocs=2)  # type: ignore[no-untyped-call]
        except ProcessException as error:
            raise RuntimeError(str(error).strip().splitlines()[-1]) from error  # the child's traceback comes before
        together = torch.load(answer, weights_only=True)
    share = apart(_end(_training(device, examples, ProcessGroup())), together, network())
    return Found(share <= 1e-3, told(share))


def _lacking() -> str | None:
    if torch.cuda.device_count() < 2:
        return "there is one GPU here"
    return None if dist.is_available() and dist.is_nccl_available() else "this torch has no NCCL"


def network() -> Any:
    """So small that a draw of its noise is the same on GPUs of two models."""
    return mlp(width=64)


def _training(device: torch.device, examples: int, ranks: ProcessGroup) -> Trainer:
    settings: dict[str, Any] = {"optimizer": SGD(LR), "noise": NoiseConfig(0.05), "batch": Batch(64, 16)}
    return training(device, Launch.eager, examples=examples, model=network, ranks=ranks, **settings)


def _end(run: Trainer) -> StateDict:
    with repeatable():
        return run.run().model


def _share(rank: int, kind: str, examples: int, meeting: Path, answer: Path) -> None:
    """What one of the two processes does; the first one writes the ``answer``."""
    torch.set_num_threads(1)
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=2, timeout=PATIENCE)
    end = _end(_training(device, examples, ProcessGroup(rank, 2)))
    if rank == 0:
        torch.save({name: tensor.cpu() for name, tensor in end.items()}, answer)
    dist.barrier()
    dist.destroy_process_group()
