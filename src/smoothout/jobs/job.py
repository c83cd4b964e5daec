"""A piece of work, and the place where it is done. A job is a pure function of its kind, settings and inputs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from smoothout.common.environment import environment
from smoothout.config.build import Folders
from smoothout.results.digest import described, digest
from smoothout.results.records import Ledger
from smoothout.training.distributed import Ranks
from smoothout.training.engine import Engine, Launch


@dataclass(frozen=True)
class Job:
    """A training (``settings`` is an Experiment), or an analysis of the trained runs ``inputs``."""

    settings: Any
    inputs: tuple[Job, ...] = ()

    @property
    def kind(self) -> str:
        """The kind of job, and the folder of its records."""
        return str(self.settings.kind)

    @property
    def run(self) -> Job:
        """The training that it is, or the first of those that it looks at."""
        return (self.inputs or (self,))[0]

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the digest covers."""
        return {
            "kind": self.kind,
            "numerics": self.settings.numerics,
            "settings": described(self.settings, defaults=False),
            "inputs": [job.digest for job in self.inputs],
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the identity."""
        return digest(self.identity)

    @property
    def name(self) -> str:
        """The record's name: a slug for people and eight digits of the digest."""
        return f"{self.settings.slug(*(job.settings.slug() for job in self.inputs))}-{self.digest[:8]}"


def with_inputs(jobs: Iterable[Job]) -> list[Job]:
    """The ``jobs`` and the runs that they look at, each once, trainings first."""
    unique = {job.digest: job for one in jobs for job in (*one.inputs, one)}
    return sorted(unique.values(), key=lambda job: bool(job.inputs))


@dataclass(frozen=True)
class Workplace:
    """Where jobs run; nothing here changes what they are.

    Args:
        folders: data sets, records, checkpoints, logs.
        device: of the models and the data.
        engine: how trainings reach the device.
        download: whether missing data may be fetched.
        tensorboard: whether curves are written to the logs folder for TensorBoard.
        checkpoint_seconds: time between two checkpoints.
        ranks: the processes that share trainings.
    """

    folders: Folders
    device: torch.device
    engine: Engine = field(default_factory=Engine)
    download: bool = True
    tensorboard: bool = False
    checkpoint_seconds: float = 60.0
    ranks: Ranks = field(default_factory=Ranks)

    @property
    def ledger(self) -> Ledger:
        """The records."""
        return Ledger(Path(self.folders.results))

    def environment(self, engine: Engine | None = None) -> dict[str, Any]:
        """What stands in a record about the place; ``engine`` is how a training was carried out there."""
        found = environment(self.device)
        if self.ranks.size > 1:
            found["processes"] = self.ranks.size
        if engine:
            found["engine"] = described(engine)
        if engine and "gpu" in found:  # it is set while a graph is recorded alone
            found["gpu"]["cudnn_benchmark"] = engine.launch is Launch.graph
        return found

    def alone(self) -> Workplace:
        """The same place for one job that nothing else runs beside."""
        return replace(self, engine=replace(self.engine, together=1))

    @property
    def turns(self) -> int:
        """How many trainings take turns on the device; several processes share one at a time."""
        return 1 if self.ranks.size > 1 else self.engine.turns(self.device)
