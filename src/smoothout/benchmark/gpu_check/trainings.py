"""Checks of whole trainings on a GPU: recorded, resumed, several at once, and what they leave behind."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smoothout.benchmark.gpu_check.check import Found, not_checked
from smoothout.benchmark.gpu_check.small import (
    LR,
    apart,
    c1,
    dropping,
    images,
    mlp,
    repeatable,
    resnet,
    smooth,
    told,
    training,
)
from smoothout.data.augment import CropFlip
from smoothout.data.split import Split
from smoothout.nn.options import NoiseDistribution, NoiseScaling, Precision
from smoothout.training import checkpoint
from smoothout.training.batch import Batch
from smoothout.training.checkpoint import StateDict, TrainingState
from smoothout.training.engine import GhostPasses, Launch
from smoothout.training.methods.smoothout import NoiseConfig, NoisePer, StrengthSchedule
from smoothout.training.optimizers import SGD, Adam
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import Trainer

PLAIN, SMOOTHOUT, ADASMOOTHOUT = NoiseConfig(), NoiseConfig(0.05), NoiseConfig(0.15, scaling=NoiseScaling.filter)
ONE_NOISE = NoiseConfig(0.05, noise_per=NoisePer.batch)
ROUNDING = {  # of the way, see `apart`: other draws end 0.15 of it apart at least, a ReLU that rounding flips 0.01
    Precision.float32: 0.02,
    Precision.tf32: 0.05,
    Precision.bfloat16: 0.1,
}
_GHOSTS = {"batch": Batch(64, 16)}
_DIGEST = "0" * 64

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"noise": PLAIN},
    "Adam reset, decayed, clipped": {
        "optimizer": Adam(LR, 1e-3, clip_norm=0.5, reset_every_epoch=True),
        "noise": SMOOTHOUT,
    },
    "momentum, learning rate drops": {
        "optimizer": SGD(LR, 1e-3),
        "schedule": Schedule(2, (1,), 0.5),
        "noise": SMOOTHOUT,
    },
    "strength changes": {"noise": NoiseConfig(0.05, strength_schedule=StrengthSchedule.tanh_rising)},
    "Gaussian noise that stays in": {"noise": NoiseConfig(0.01, NoiseDistribution.gaussian, denoise=False)},
    "AdaSmoothOut": {"noise": ADASMOOTHOUT},
    "dropout": {"model": dropping, "noise": SMOOTHOUT},
    "ghost batches one after another": {"noise": SMOOTHOUT, "ghosts": GhostPasses.sequential, **_GHOSTS},
    "ghost batches in one pass, one noise": {"noise": ONE_NOISE, "ghosts": GhostPasses.batched, **_GHOSTS},
    "ResNet8, augmented, AdaSmoothOut": {
        "model": resnet,
        "optimizer": SGD(LR),
        "noise": ADASMOOTHOUT,
        "augmentation": CropFlip((127,) * 3),
    },
    **{
        f"C1, {precision}": {
            "model": c1,
            "optimizer": SGD(LR),
            "noise": SMOOTHOUT,
            "precision": precision,
        }
        for precision in Precision
    },
}


def graph_is_eager(device: torch.device, kind: str, examples: int = 1000) -> Found:
    """Updates that are replayed from a CUDA graph end where eager ones end.

    If this fails, a recording reads or writes what it should not: train with engine.launch=eager, and report it with
    the lines above.
    """
    settings = KINDS[kind]
    with repeatable():
        eager, graph = (
            training(device, launch, examples=examples, **settings).run() for launch in (Launch.eager, Launch.graph)
        )
    share = apart(eager.model, graph.model, settings.get("model", mlp)())
    first, *_, last = graph.curves["train_loss"]
    bar = ROUNDING[settings.get("precision", Precision.float32)]
    return Found(share <= bar and last < first, f"{told(share)}, training loss {first:.3f} -> {last:.3f}")


def one_pass_is_in_turn(device: torch.device, noise: NoiseConfig, examples: int = 1000) -> Found:
    """Ghost batches in one pass give the weights that they give one after another, to rounding.

    If this fails, train with engine.ghosts=sequential, and report it with the lines above.
    """
    settings: dict[str, Any] = {"model": smooth, "optimizer": SGD(LR), "noise": noise, **_GHOSTS}
    with repeatable():
        ends = [
            training(device, Launch.eager, examples=examples, ghosts=ghosts, schedule=Schedule(1), **settings).run()
            for ghosts in (GhostPasses.sequential, GhostPasses.batched)
        ]
    share = apart(ends[0].model, ends[1].model, smooth())
    return Found(share <= 1e-3, told(share))


def resumed_is_unbroken(device: torch.device, examples: int = 1000) -> Found:
    """A training that goes on from a checkpoint ends in the bits of one that was never stopped.

    If this fails, runs on this GPU that were stopped, a cluster's say, are not those of their record. Report it with
    the lines above.
    """
    settings: dict[str, Any] = {"model": dropping, "noise": SMOOTHOUT, "examples": examples}
    with repeatable(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.pt")
        unbroken = training(device, **settings).run()
        first = training(device, **settings)
        _advanced(iter(first), 3)
        checkpoint.save(path, first.state(), _DIGEST)
        second = training(device, resume=checkpoint.load(path, _DIGEST, device), **settings).run()
    share = apart(unbroken.model, second.model, dropping())
    return Found(share == 0, told(share))


@dataclass(frozen=True)
class Crowd:
    """Trainings that take turns on a device, each on a stream of its own.

    Args:
        model: makes the network of a seed.
        shape: of its images.
        batch: examples an update.
        count: how many trainings.
        updates: of each.
    """

    model: Callable[[int], nn.Module]
    shape: tuple[int, int, int]
    batch: int
    count: int = 8
    updates: int = 20


def at_once_is_alone(device: torch.device, crowd: Crowd) -> Found:
    """Trainings that take turns on streams of their own end in the bits that each ends in alone.

    If this fails, they write into each other's memory (a workspace of cuBLAS, dropout's seed): run tables with
    engine.concurrent_trainings=1, and report it with the lines above.
    """
    data = images(crowd.batch * 4 + crowd.batch // 2, 0, device, crowd.shape)
    with repeatable():
        again, *alone = [
            _kept(_advanced(_begun(crowd, seed, data, device), crowd.updates)) for seed in (0, *range(crowd.count))
        ]
        if not _same_bits(again, alone[0]):
            return not_checked(
                "even alone a training ends in other bits each time: a kernel of this GPU adds in any order"
            )
        ends = _at_once(crowd, data, device)
    wrong = [seed for seed in range(crowd.count) if not _same_bits(alone[seed], ends[seed])]
    numbers = ", ".join(map(str, wrong))
    text = f"{crowd.count} trainings of {crowd.updates} updates of {crowd.batch}"
    return Found(not wrong, f"{text}: " + (f"number {numbers} ended elsewhere" if wrong else "the same bits"))


def _at_once(crowd: Crowd, data: Split, device: torch.device) -> list[StateDict]:
    """The weights in which the trainings end that take turns."""
    streams = [_stream(device) for _ in range(crowd.count)]
    _wait(device)  # the data are there
    trainings, ends = [], list[TrainingState]()
    for seed, stream in enumerate(streams):
        with stream():
            trainings.append(_begun(crowd, seed, data, device))
    for _ in range(crowd.updates):
        ends.clear()
        for steps, stream in zip(trainings, streams, strict=True):
            with stream():
                ends.append(next(steps))
    _wait(device)
    return [_kept(end) for end in ends]


def _begun(crowd: Crowd, seed: int, data: Split, device: torch.device) -> Iterator[TrainingState]:
    return iter(
        Trainer(
            crowd.model(seed).to(device),
            data,
            data.first(100),
            optimizer=Adam(LR, clip_norm=1.0),
            schedule=Schedule(1000),
            batch=Batch(crowd.batch),
            noise=NoiseConfig(0.0375),
            seed=seed,
        )
    )


def _advanced(steps: Iterator[TrainingState], updates: int) -> TrainingState:
    """The live state after so many ``updates_per_epoch``."""
    for _ in range(updates):
        now = next(steps)
    return now


def _kept(now: TrainingState) -> StateDict:
    return {name: tensor.clone() for name, tensor in now.model.items()}


def _same_bits(one: StateDict, other: StateDict) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def _stream(device: torch.device) -> Callable[[], AbstractContextManager[object]]:
    """What makes a fresh stream of a CUDA ``device`` the present one for a block."""
    if device.type != "cuda":
        return nullcontext
    return partial(torch.cuda.stream, torch.cuda.Stream(device))  # type: ignore[no-untyped-call]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory_comes_back(device: torch.device, batch: int = 512) -> Found:
    """Trainings that ended leave no memory behind that a later one cannot use.

    If this fails, a table's trainings fill the GPU one after another until one fails for memory: run fewer at a time,
    and report it with the lines above.
    """
    settings: dict[str, Any] = {"optimizer": SGD(LR), "schedule": Schedule(1), "noise": SMOOTHOUT}

    def train() -> None:
        shape, two = (3, 32, 32), 2 * batch
        training(device, examples=two, shape=shape, model=resnet, batch=Batch(batch), **settings).run()

    train()  # libraries set themselves up
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    train()
    needed = torch.cuda.max_memory_reserved(device) - before
    for _ in range(4):
        train()
    torch.cuda.empty_cache()
    left = torch.cuda.memory_reserved(device) - before
    text = f"five trainings that need {needed / 2**20:.0f} MiB each left {left / 2**20:.0f} MiB behind"
    return Found(left < needed / 2, text)


def other_gpu_trains(device: torch.device, kind: str, examples: int = 1000) -> Found:
    """A training on a GPU that is not the present one ends where it should.

    If this fails, set CUDA_VISIBLE_DEVICES to the GPU that you want, and take device=cuda.
    """
    others = [number for number in range(torch.cuda.device_count()) if number != device.index]
    if not others:
        return not_checked("there is one GPU here")
    with torch.cuda.device(device):
        found = graph_is_eager(torch.device("cuda", others[0]), kind, examples)
    return Found(found.holds, f"cuda:{others[0]} while cuda:{device.index} is the present one: {found.text}")
