"""Checks of several trainings on one GPU: taking turns, and one after another in the same memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from smoothout.benchmark.gpu_check.check import Finding, not_checked
from smoothout.benchmark.gpu_check.networks import LR, deterministic, resnet8, training
from smoothout.benchmark.timing import synchronize
from smoothout.benchmark.workloads import Workload, advance, random_split, updates
from smoothout.data.split import Split
from smoothout.training.batch import Batch
from smoothout.training.checkpoint import StateDict, TrainingState
from smoothout.training.methods.smoothout import NoiseConfig
from smoothout.training.optimizers import SGD, Adam
from smoothout.training.schedule import Schedule


@dataclass(frozen=True)
class ConcurrentTrainings:
    """Trainings with seeds from 0 on that take turns on a device, each on a separate stream."""

    workload: Workload
    batch: int
    count: int = 8
    updates: int = 20  # number of updates of each training

    def start(self, seed: int, data: Split, device: torch.device) -> Iterator[TrainingState]:
        """The training of that seed; each step of the iterator is an update."""
        settings: dict[str, Any] = {"optimizer": Adam(LR, clip_norm=1.0), "method": NoiseConfig(0.0375), "seed": seed}
        return updates(self.workload, device, batch=self.batch, data=data, **settings)

    def alone(self, seed: int, data: Split, device: torch.device) -> StateDict:
        """The weights in which the training of that seed ends when no other runs."""
        return _copy(advance(self.start(seed, data, device), self.updates))

    def in_turn(self, data: Split, device: torch.device) -> list[StateDict]:
        """The weights in which all trainings end when they take turns."""
        on_gpu = device.type == "cuda"
        streams = [torch.cuda.Stream(device) if on_gpu else None for _ in range(self.count)]  # type: ignore[no-untyped-call]
        synchronize(device)  # wait for the data
        trainings, ends = [], dict[int, TrainingState]()
        for seed, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                trainings.append(self.start(seed, data, device))
        for _ in range(self.updates):
            for seed, stream in enumerate(streams):
                with torch.cuda.stream(stream):
                    ends[seed] = next(trainings[seed])
        synchronize(device)
        return [_copy(end) for end in ends.values()]


def concurrent_equal_alone(device: torch.device, trainings: ConcurrentTrainings) -> Finding:
    """Trainings that take turns on their own streams end with the bits that each ends with alone.

    If this fails, they write into each other's memory (a workspace of cuBLAS, dropout's seed): run tables with
    engine.concurrent_trainings=1, and report it with the lines above.
    """
    seeds, workload = range(trainings.count), trainings.workload
    data = random_split(workload.shape, workload.classes, trainings.batch * 9 // 2, device)  # four batches and a half
    with deterministic():
        again, *alone = [trainings.alone(seed, data, device) for seed in (0, *seeds)]
        if not _same_bits(again, alone[0]):
            return not_checked("even alone a training ends with other bits each time: a kernel adds in any order")
        ends = trainings.in_turn(data, device)
    wrong = [str(seed) for seed in seeds if not _same_bits(alone[seed], ends[seed])]
    text = f"{trainings.count} trainings of {trainings.updates} updates of {trainings.batch}"
    ended = f"number {', '.join(wrong)} ended elsewhere" if wrong else "the same bits"
    return Finding(not wrong, f"{text}: {ended}")


def memory_is_freed(device: torch.device, batch: int = 512) -> Finding:
    """Trainings that ended leave no memory behind that a later one cannot use.

    If this fails, a table's trainings fill the GPU one after another until one fails for lack of memory: run fewer at a
    time, and report it with the lines above.
    """
    settings: dict[str, Any] = {"optimizer": SGD(LR), "schedule": Schedule(1), "batch": Batch(batch)}

    def train() -> None:
        training(device, model=resnet8, examples=2 * batch, shape=(3, 32, 32), **settings).run()

    train()  # initializes libraries
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
    return Finding(left < needed / 2, text)


def _copy(state: TrainingState) -> StateDict:
    return {name: tensor.clone() for name, tensor in state.model.items()}


def _same_bits(one: StateDict, other: StateDict) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())
