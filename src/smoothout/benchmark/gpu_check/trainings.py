"""Checks of single trainings on a GPU: captured in a graph, in one pass, resumed, on another GPU, by two processes."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessException, spawn

from smoothout.benchmark.gpu_check.check import Finding, not_checked
from smoothout.benchmark.gpu_check.networks import (
    LR,
    SMOOTHOUT,
    c1,
    deterministic,
    distance,
    in_words,
    mlp,
    resnet8,
    small_mlp,
    smooth,
    training,
    with_dropout,
)
from smoothout.benchmark.process_pair import join_pair, leave_pair
from smoothout.benchmark.workloads import ADASMOOTHOUT, PLAIN, advance
from smoothout.data.augment import AffineFlip, CropFlip
from smoothout.nn.options import NoiseDistribution, Precision
from smoothout.training import checkpoint
from smoothout.training.batch import Batch
from smoothout.training.checkpoint import StateDict
from smoothout.training.distributed import ProcessGroup
from smoothout.training.engine import GhostPasses, Launch
from smoothout.training.methods.adversarial import Adversarial
from smoothout.training.methods.conservative import Conservative
from smoothout.training.methods.sam import SAM
from smoothout.training.methods.smoothout import NoiseConfig, NoisePer, StrengthSchedule
from smoothout.training.methods.stability import Stability
from smoothout.training.optimizers import SGD, Adam
from smoothout.training.schedule import Schedule

ONE_NOISE = NoiseConfig(0.05, noise_per=NoisePer.batch)
ROUNDING = {  # distances allowed: trainings with other draws end 0.15 apart at least, with a flipped ReLU 0.01
    Precision.float32: 0.02,
    Precision.tf32: 0.05,
    Precision.bfloat16: 0.1,
}


def _ghosts(noise: NoiseConfig, passes: GhostPasses) -> dict[str, Any]:
    return {"method": noise, "ghosts": passes, "batch": Batch(64, 16)}


KINDS: dict[str, dict[str, Any]] = {
    "plain": {"method": PLAIN},
    "Adam reset, decayed, clipped": {"optimizer": Adam(LR, 1e-3, clip_norm=0.5, reset_every_epoch=True)},
    "momentum, learning rate drops": {"optimizer": SGD(LR, 1e-3), "schedule": Schedule(2, (1,), 0.5)},
    "strength changes": {"method": NoiseConfig(0.05, strength_schedule=StrengthSchedule.tanh_rising)},
    "Gaussian noise that stays in": {"method": NoiseConfig(0.01, NoiseDistribution.gaussian, denoise=False)},
    "AdaSmoothOut": {"method": ADASMOOTHOUT},
    "SAM": {"method": SAM(), "batch": Batch(64, 16)},
    "conservative": {"method": Conservative()},
    "adversarial": {"method": Adversarial(), "batch": Batch(64, 16)},
    "stability": {"method": Stability(), "batch": Batch(64, 16)},
    "dropout": {"model": with_dropout},
    "ghost batches one after another": _ghosts(SMOOTHOUT, GhostPasses.sequential),
    "ghost batches in one pass, one noise": _ghosts(ONE_NOISE, GhostPasses.batched),
    "ResNet8, augmented, AdaSmoothOut": {
        "model": resnet8,
        "optimizer": SGD(LR),
        "method": ADASMOOTHOUT,
        "augmentation": CropFlip((127,) * 3),
    },
    "ResNet8, rotated": {"model": resnet8, "optimizer": SGD(LR), "augmentation": AffineFlip((127,) * 3)},
    **{f"C1, {precision}": {"model": c1, "optimizer": SGD(LR), "precision": precision} for precision in Precision},
}


def graph_equals_eager(device: torch.device, kind: str, examples: int = 1000) -> Finding:
    """Updates that are replayed from a CUDA graph end where eager ones end.

    If this fails, a captured update reads or writes what it should not: train with engine.launch=eager, and report it
    with the lines above.
    """
    settings = KINDS[kind]
    with deterministic():
        eager, graph = (
            training(device, launch, examples=examples, **settings).run() for launch in (Launch.eager, Launch.graph)
        )
    share = distance(eager.model, graph.model, settings.get("model", mlp)())
    first, *_, last = graph.curves["train_loss"]
    passed = share <= ROUNDING[settings.get("precision", Precision.float32)] and last < first
    return Finding(passed, f"{in_words(share)}, training loss {first:.3f} -> {last:.3f}")


def other_gpu_trains(device: torch.device, kind: str, examples: int = 1000) -> Finding:
    """A training on a GPU that is not the current one ends where it should.

    If this fails, set CUDA_VISIBLE_DEVICES to the GPU that you want, and use device=cuda.
    """
    others = [number for number in range(torch.cuda.device_count()) if number != device.index]
    if not others:
        return not_checked("there is one GPU here")
    with torch.cuda.device(device):
        finding = graph_equals_eager(torch.device("cuda", others[0]), kind, examples)
    return Finding(finding.passed, f"cuda:{others[0]} while cuda:{device.index} is the current one: {finding.text}")


def batched_equals_sequential(device: torch.device, noise: NoiseConfig, examples: int = 1000) -> Finding:
    """Ghost batches in one pass give the weights that they give one after another, to rounding.

    If this fails, train with engine.ghosts=sequential, and report it with the lines above.
    """
    settings: dict[str, Any] = {"model": smooth, "optimizer": SGD(LR), "schedule": Schedule(1), "examples": examples}
    with deterministic():
        sequential, batched = (
            training(device, Launch.eager, **settings, **_ghosts(noise, passes)).run().model
            for passes in (GhostPasses.sequential, GhostPasses.batched)
        )
    share = distance(sequential, batched, smooth())
    return Finding(share <= 1e-3, in_words(share))


def resumed_equals_uninterrupted(device: torch.device, examples: int = 1000) -> Finding:
    """A training that resumes from a checkpoint ends with the bits of one that was never stopped.

    If this fails, runs on this GPU that were interrupted (as on a cluster) are not those of their record. Report it
    with the lines above.
    """
    settings: dict[str, Any] = {"model": with_dropout, "examples": examples}
    with deterministic(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.pt")
        uninterrupted = training(device, **settings).run()
        first, digest = training(device, **settings), "0" * 64
        advance(iter(first), 3)
        checkpoint.save(path, first.state(), digest)
        resumed = training(device, resume=checkpoint.load(path, digest, device), **settings).run()
    share = distance(uninterrupted.model, resumed.model, with_dropout())
    return Finding(share == 0, in_words(share))


# Two processes


def two_processes_equal_one(device: torch.device, examples: int = 1000) -> Finding:
    """Two processes, which add up gradients by NCCL, end where one process ends, to rounding.

    If this fails, train with one process (no torchrun). If it ends because a process does not answer, GPUs cannot reach
    each other: NCCL_DEBUG=INFO shows what NCCL does, NCCL_P2P_DISABLE=1 may help.
    """
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        return not_checked("there is one GPU here")
    if device.type == "cuda" and not (dist.is_available() and dist.is_nccl_available()):
        return not_checked("this torch has no NCCL")
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder, "end.pt")
        arguments = device.type, examples, f"{folder}/rendezvous", answer
        try:
            spawn(_share_training, arguments, nprocs=2)  # type: ignore[no-untyped-call]
        except ProcessException as error:
            raise RuntimeError(str(error).strip().splitlines()[-1]) from error  # the child's traceback comes before
        shared = torch.load(answer, weights_only=True)
    share = distance(train_share(device, examples, ProcessGroup()), shared, small_mlp())
    return Finding(share <= 1e-3, in_words(share))


def train_share(device: torch.device, examples: int, ranks: ProcessGroup) -> StateDict:
    """The weights in which a training by ``ranks`` ends."""
    settings: dict[str, Any] = {"optimizer": SGD(LR), "batch": Batch(64, 16)}
    with deterministic():
        return training(device, Launch.eager, examples=examples, model=small_mlp, ranks=ranks, **settings).run().model


def _share_training(rank: int, kind: str, examples: int, rendezvous: str, answer: Path) -> None:
    """Train as one of two processes; rank 0 writes the weights to ``answer``."""
    device = join_pair(rank, kind, rendezvous, timeout=timedelta(seconds=60))  # of a process that does not answer
    end = train_share(device, examples, ProcessGroup(rank, 2))
    if rank == 0:
        torch.save({name: tensor.cpu() for name, tensor in end.items()}, answer)
    leave_pair()
