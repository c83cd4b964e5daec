"""How long updates take on one process and on two, measured as a job: what `analysis.scaling` builds on."""

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
from smoothout.benchmark.comparisons import C1, F1, SMOOTHOUT, random_split
from smoothout.benchmark.timing import seconds
from smoothout.common.enums import coerce_enum_fields
from smoothout.data.split import Split
from smoothout.models.resnet18 import ResNet18
from smoothout.training.batch import Batch
from smoothout.training.checkpoint import TrainingState
from smoothout.training.distributed import ProcessGroup
from smoothout.training.engine import Engine, Launch
from smoothout.training.optimizers import SGD
from smoothout.training.schedule import Schedule
from smoothout.training.trainer import CURVATURE_DRAWS, Trainer

WHOLE, HALF, SHARED = "one process", "one process, half the ghost batches", "two processes"
MESSAGE, EMPTY = "gradients added up", "two numbers added up"


Times = dict[str, list[float]]


class Network(StrEnum):
    """What is trained: F1 on MNIST's shape, C1 on CIFAR-10's, ResNet18 on ImageNet's."""

    f1 = "f1"
    c1 = "c1"
    resnet18 = "resnet18"


SETUPS: dict[str, Any] = {"f1": F1, "c1": C1, "resnet18": (ResNet18(), (3, 224, 224), 1000)}


@dataclass(frozen=True)
class Scaling:
    """SmoothOut's updates on images of noise, on one process and shared by two, each with one thread or a GPU.

    Two processes time in turn: one of them an update, and one of half as many ghost batches; then both an update that
    they share, and what they add up in it. The least time of all turns counts, for whatever else a machine does only
    adds. Where it leaves no core free even that is too long. So on CPUs an update's time is the processor's for the
    first process, which load hardly changes, and that of messages is the clock's.

    Args:
        network: f1, c1 or resnet18.
        ghost: examples a ghost batch; ``ghosts_per_batch``: ghost batches an update, an even number.
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

        These are predicted, measured by the clock, and as free cores would take them; ``load_state_dict`` is the
        machine's before.

        Raises ValueError where the machine has one GPU, or times that tell nothing.
        """
        if device.type == "cuda" and torch.cuda.device_count() < 2:
            raise ValueError("device: two processes take a GPU each, and there is one here; take device=cpu")
        load = os.getloadavg()[0]
        times, computing, size = self._times(device.type)
        least, own = ({name: min(turns) for name, turns in each.items()} for each in (times, computing))
        free = {"1": own[WHOLE], "2": own[SHARED] + least[MESSAGE]}
        if device.type == "cuda":
            own, free = least, {"1": least[WHOLE], "2": least[SHARED]}
        messages = {"size": size, "message": least[MESSAGE], "empty_message": least[EMPTY]}
        worker = fit_worker(own[WHOLE], own[HALF], self.ghosts, **messages)
        updates = {
            p: {"predicted": worker.update(self.ghosts, int(p)), "measured": least[name], "free": free[p]}
            for p, name in (("1", WHOLE), ("2", SHARED))
        }
        return {"times": times, "computing": computing, "worker": asdict(worker), "update": updates, "load": load}

    def _times(self, device: str) -> tuple[Times, Times, int]:
        """Every turn's seconds, and those of the processor, by what was timed; and the bytes of what is added up."""
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder) / "times.json"
            spawn(_time, (self, device, Path(folder) / "meeting", answer), nprocs=2)  # type: ignore[no-untyped-call]
            times, computing, size = json.loads(answer.read_text(encoding="utf-8"))
        return times, computing, size


def _time(rank: int, settings: Scaling, kind: str, meeting: Path, answer: Path) -> None:
    """What one of the two processes does; the first one writes the ``answer``."""
    torch.set_num_threads(1)
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=2)
    both, alone = ProcessGroup(rank, 2), ProcessGroup()
    _, shape, classes = SETUPS[settings.network]
    updates = CURVATURE_DRAWS * (settings.turns + 2)  # so that curvature is measured in the first alone
    images = random_split(shape, classes, updates * settings.ghosts * settings.ghost, device)
    shared = _updates(settings, images, both, settings.ghosts)
    whole, half = (_updates(settings, images, alone, settings.ghosts // part) for part in (1, 2))
    model = next(shared).model
    flat = torch.zeros(sum(tensor.numel() for tensor in model.values()), device=device)
    few = torch.zeros(2, device=device)
    works: dict[str, Any] = {
        WHOLE: lambda: rank or next(whole),
        HALF: lambda: rank or next(half),
        SHARED: lambda: (next(shared), both.agree_to_stop()),
        MESSAGE: lambda: both.all_reduce([flat]),
        EMPTY: lambda: both.all_reduce([few]),
    }
    times, computing = ({name: list[float]() for name in works} for _ in range(2))
    for turn in range(1 + settings.turns):
        for name, work in works.items():
            dist.barrier()
            since = time.process_time()
            took = seconds(work, device)
            if turn:  # the first one warms up
                times[name].append(took)
                computing[name].append(time.process_time() - since)
    if rank == 0:
        answer.write_text(json.dumps((times, computing, flat.numel() * flat.element_size())), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


def _updates(settings: Scaling, images: Split, ranks: ProcessGroup, ghosts: int) -> Iterator[TrainingState]:
    """A training on this rank; each step of the iterator is an update."""
    built, shape, classes = SETUPS[settings.network]
    torch.manual_seed(0)
    training = Trainer(
        built.build(shape, classes).to(images.labels.device),
        images,
        images,
        optimizer=SGD(1e-3),
        schedule=Schedule(1),
        batch=Batch(settings.ghost * ghosts, settings.ghost),
        noise=SMOOTHOUT,
        seed=0,
        engine=Engine(Launch.eager),  # as several processes must; one is compared with them
        ranks=ranks,
    )
    return iter(training)
