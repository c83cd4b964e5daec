"""How long updates take on one process and on two, measured as a job: what `analysis.performance_model` builds on.

The settings import no torch, because figures of recorded measurements are drawn without; measuring does.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

from smoothout.analysis.performance_model import fit_worker
from smoothout.common.enums import coerce_enum_fields
from smoothout.common.job_settings import MeasurementSettings

if TYPE_CHECKING:
    import torch

WHOLE, HALF, SHARED = "one process", "one process, half the ghost batches", "two processes"
MESSAGE, EMPTY = "gradients added up", "two numbers added up"
Times = dict[str, list[float]]


class Network(StrEnum):
    """What is trained: F1 on MNIST's shape, C1 on CIFAR-10's, ResNet18 on ImageNet's."""

    f1 = "f1"
    c1 = "c1"
    resnet18 = "resnet18"


@dataclass(frozen=True)
class Scaling(MeasurementSettings):
    """SmoothOut's updates on random images, on one process and shared by two, each with one thread or a GPU.

    In every turn, one process makes an update, and one with half the ghost batches; then both share an update, and sum
    tensors as in such an update. The least time of all turns counts, because other load only adds to it. If no core is
    free, even that is too long, so on CPUs an update's time is the first process's CPU time, which load hardly changes;
    that of messages is wall time.
    """

    kind: ClassVar[str] = "scaling"
    numerics: ClassVar[int] = 1
    runs: ClassVar[int] = 0

    network: Network = Network.f1
    ghost: int = 128  # examples per ghost batch
    ghosts: int = 8  # per update, an even number
    turns: int = 10  # how often each is timed

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
        """Readable labels of the record."""
        return {"model": str(self.network), "batch": self.ghost * self.ghosts}

    def slug(self) -> str:
        """The readable part of a record's name."""
        return f"{self.network}-{self.ghosts}x{self.ghost}"

    def measure(self, device: torch.device) -> dict[str, Any]:
        """Times in seconds, the model that fits them, and the times of updates on one process and two.

        The latter are predicted, measured (wall time), and estimated for free cores. ``load`` is the machine's before.
        Raises ValueError if the machine has one GPU, or for times that no model fits.
        """
        import torch  # noqa: PLC0415

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
        """Every turn's seconds and CPU seconds, by what was timed, and the size of a message in bytes."""
        from smoothout.benchmark.process_pair import time_updates  # noqa: PLC0415

        return time_updates(self, device)
