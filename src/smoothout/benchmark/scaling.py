"""How long updates take on one process and on two, measured as a job: what `analysis.performance_model` builds on."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from smoothout.analysis.performance_model import fit_worker
from smoothout.benchmark.timing import seconds
from smoothout.benchmark.workloads import (
    C1,
    F1,
    RESNET18,
    SMOOTHOUT,
    Workload,
    join_pair,
    leave_pair,
    random_split,
    updates,
)
from smoothout.common.enums import coerce_enum_fields
from smoothout.data.split import Split
from smoothout.training.batch import Batch
from smoothout.training.checkpoint import TrainingState
from smoothout.training.distributed import ProcessGroup
from smoothout.training.engine import Engine, Launch
from smoothout.training.noise_contexts import CURVATURE_DRAWS
from smoothout.training.optimizers import SGD

WHOLE, HALF, SHARED = "one process", "one process, half the ghost batches", "two processes"
MESSAGE, EMPTY = "gradients added up", "two numbers added up"
Times = dict[str, list[float]]


class Network(StrEnum):
    """What is trained: F1 on MNIST's shape, C1 on CIFAR-10's, ResNet18 on ImageNet's."""

    f1 = "f1"
    c1 = "c1"
    resnet18 = "resnet18"


WORKLOADS: dict[str, Workload] = {"f1": F1, "c1": C1, "resnet18": RESNET18}


@dataclass(frozen=True)
class Scaling:
    """SmoothOut's updates on random images, on one process and shared by two, each with one thread or a GPU.

    The two processes take turns: one of them makes an update, and one of half as many ghost batches; then both make an
    update that they share, and add up what they add up in it. The least time of all turns counts, because whatever else
    a machine does only adds to it. With no core to spare even that is too long: so on CPUs an update's time is the
    first process's CPU time, which load hardly changes, and that of messages is wall time.

    Args:
        network: f1, c1 or resnet18.
        ghost: examples per ghost batch.
        ghosts: ghost batches per update, an even number.
        turns: how often each is timed.
    """

    kind: ClassVar[str] = "scaling"
    numerics: ClassVar[int] = 1
    runs: ClassVar[int] = 0

    network: Network = Network.f1
    ghost: int = 128
    ghosts: int = 8
    turns: int = 10

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        if self.ghost < 2:
            raise ValueError(f"ghost: BatchNorm needs at least 2 examples, not {self.ghost}")
        if self.ghosts < 2 or self.ghosts % 2:
            raise ValueError(f"ghosts: must be an even number >= 2, not {self.ghosts}")
        if self.turns < 1:
            raise ValueError(f"turns: must be at least 1, not {self.turns}")

    @property
    def labels(self) -> dict[str, Any]:
        """Names for people."""
        return {"model": str(self.network), "batch": self.ghost * self.ghosts}

    def slug(self) -> str:
        """The readable part of a record's name."""
        return f"{self.network}-{self.ghosts}x{self.ghost}"

    def measure(self, device: torch.device) -> dict[str, Any]:
        """Times in seconds, what the model makes of them, and updates on one process and two.

        These are predicted, measured (wall time), and as free cores would take them. ``load`` is the machine's before.

        Raises:
            ValueError: if the machine has one GPU, or for times that no model fits.
        """
        if device.type == "cuda" and torch.cuda.device_count() < 2:
            raise ValueError("device: two processes need a GPU each, and this machine has one; use device=cpu")
        load = os.getloadavg()[0]
        times, cpu_times, size = self._times(device.type)
        least, computing = ({name: min(turns) for name, turns in each.items()} for each in (times, cpu_times))
        free = {"1": computing[WHOLE], "2": computing[SHARED] + least[MESSAGE]}
        if device.type == "cuda":  # a process has its GPU to itself
            computing, free = least, {"1": least[WHOLE], "2": least[SHARED]}
        messages = {"size": size, "message": least[MESSAGE], "empty_message": least[EMPTY]}
        worker = fit_worker(computing[WHOLE], computing[HALF], self.ghosts, **messages)
        update = {
            p: {"predicted": worker.update(self.ghosts, int(p)), "measured": least[name], "free": free[p]}
            for p, name in (("1", WHOLE), ("2", SHARED))
        }
        return {"times": times, "computing": cpu_times, "worker": asdict(worker), "update": update, "load": load}

    def _times(self, device: str) -> tuple[Times, Times, int]:
        """Every turn's seconds and CPU seconds, by what was timed; and the bytes of what is added up."""
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder, "times.json")
            spawn(_time, (self, device, f"{folder}/rendezvous", answer), nprocs=2)  # type: ignore[no-untyped-call]
            times, cpu_times, size = json.loads(answer.read_text(encoding="utf-8"))
        return times, cpu_times, size


def _time(rank: int, settings: Scaling, kind: str, rendezvous: str, answer: Path) -> None:
    """Time everything in turn, as one of two processes; rank 0 writes the ``answer``."""
    device = join_pair(rank, kind, rendezvous)
    pair, alone = ProcessGroup(rank, 2), ProcessGroup()
    workload = WORKLOADS[settings.network]
    count = CURVATURE_DRAWS * (settings.turns + 2)  # so that only the first update measures curvature
    images = random_split(workload.shape, workload.classes, count * settings.ghosts * settings.ghost, device)
    shared = _updates(settings, images, pair, settings.ghosts)
    whole, half = (_updates(settings, images, alone, settings.ghosts // part) for part in (1, 2))
    model = next(shared).model
    gradients = torch.zeros(sum(tensor.numel() for tensor in model.values()), device=device)
    two_numbers = torch.zeros(2, device=device)
    works: dict[str, Any] = {
        WHOLE: lambda: rank or next(whole),
        HALF: lambda: rank or next(half),
        SHARED: lambda: (next(shared), pair.agree_to_stop()),
        MESSAGE: lambda: pair.all_reduce([gradients]),
        EMPTY: lambda: pair.all_reduce([two_numbers]),
    }
    times, cpu_times = ({name: list[float]() for name in works} for _ in range(2))
    for turn in range(1 + settings.turns):
        for name, work in works.items():
            dist.barrier()
            since = time.process_time()
            took = seconds(work, device)
            if turn:  # the first one warms up
                times[name].append(took)
                cpu_times[name].append(time.process_time() - since)
    if rank == 0:
        size = gradients.numel() * gradients.element_size()
        answer.write_text(json.dumps((times, cpu_times, size)), encoding="utf-8")
    leave_pair()


def _updates(settings: Scaling, images: Split, ranks: ProcessGroup, ghosts: int) -> Iterator[TrainingState]:
    """A training on this rank; each step of the iterator is an update."""
    return updates(
        WORKLOADS[settings.network],
        images.labels.device,
        batch=Batch(settings.ghost * ghosts, settings.ghost),
        data=images,
        method=SMOOTHOUT,
        optimizer=SGD(1e-3),
        engine=Engine(Launch.eager),  # several processes must be eager, and one is compared with them
        ranks=ranks,
    )
