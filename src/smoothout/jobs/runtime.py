"""The place to work at, as the settings of configs/_place.yaml describe it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from smoothout.common.devices import built_for_gpus, why_no_gpu
from smoothout.common.environment import environment
from smoothout.common.errors import ConfigError
from smoothout.common.progress import print_line
from smoothout.config.build import build, validate
from smoothout.results.digest import canonical_settings
from smoothout.results.records import RecordStore
from smoothout.training.distributed import ProcessGroup, current_ranks
from smoothout.training.engine import Engine, Launch, tune_malloc


def build_runtime(settings: dict[str, Any]) -> Runtime:
    """The place that the settings of configs/_place.yaml describe. Raises SettingsError."""
    names = [field.name for field in dataclasses.fields(_RuntimeSettings)]
    chosen = validate(_RuntimeSettings, {name: settings[name] for name in names if name in settings}, "")
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    tune_malloc()
    folders = build(settings.get("folders"), "folders", Folders)
    engine, ranks = build(settings.get("engine"), "engine", Engine), current_ranks()
    device = _device(chosen.device, ranks)
    seconds = chosen.checkpoint_seconds
    return Runtime(folders, device, engine, chosen.download, chosen.tensorboard, seconds, ranks)


@dataclass(frozen=True)
class _RuntimeSettings:
    device: str
    threads: int | None
    download: bool
    tensorboard: bool
    checkpoint_seconds: float

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads: must be null or a whole number >= 1, not {self.threads}")
        if self.checkpoint_seconds < 0:
            raise ValueError(f"checkpoint_seconds: must be a number >= 0, not {self.checkpoint_seconds}")


def _device(name: str, ranks: ProcessGroup) -> torch.device:
    device = _known(_automatic() if name == "auto" else name)
    if device.type == "cuda":
        _check_there(device)
        if device.index is not None:
            torch.cuda.set_device(device)  # libraries put what they make for themselves on the present one
    try:
        return ranks.device(device)
    except ValueError as error:
        raise ConfigError(str(error)) from error


@cache  # a sweep's jobs share a process, and a line once is enough
def _automatic() -> str:
    """CUDA where torch can use it; a build for GPUs that cannot says why."""
    reason = why_no_gpu()
    if reason and built_for_gpus() and current_ranks().rank == 0:
        print_line(f"device: cpu, for torch can use no GPU here: {reason}")
    return "cpu" if reason else "cuda"


def _known(name: str) -> torch.device:
    """The device of that name, a CPU or a CUDA device."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is not None and device.type == "mps":
        raise ConfigError(
            "device: mps has no float64, in which trainings add up losses; take cpu"
            " (SmoothOut and AdaSmoothOut in a loop of your own work there)"
        )
    if device is None or device.type not in ("cpu", "cuda") or (device.type == "cpu" and device.index):
        raise ConfigError(f"device: {name!r} is not one of auto, cpu, cuda, cuda:N")
    return device


def _check_there(device: torch.device) -> None:
    reason, count = why_no_gpu(), torch.cuda.device_count()
    if reason:
        raise ConfigError(f"device: '{device}' is not here: {reason}")
    if (device.index or 0) >= count:
        raise ConfigError(f"device: '{device}' is not here; this machine has {count} CUDA devices, from cuda:0 on")


@dataclass(frozen=True)
class Folders:
    """Where things lie: data sets, records, checkpoints, logs. Never part of a record's identity."""

    data: str
    results: str
    checkpoints: str
    logs: str

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name):
                raise ValueError(f"{field.name}: must be the path of a folder, not ''")


@dataclass(frozen=True)
class Runtime:
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
    engine: Engine = dataclasses.field(default_factory=Engine)
    download: bool = True
    tensorboard: bool = False
    checkpoint_seconds: float = 60.0
    ranks: ProcessGroup = dataclasses.field(default_factory=ProcessGroup)

    @property
    def records(self) -> RecordStore:
        """The records."""
        return RecordStore(Path(self.folders.results))

    def environment(self, engine: Engine | None = None) -> dict[str, Any]:
        """What stands in a record about the place; ``engine`` is how a training was carried out there."""
        found = environment(self.device)
        if self.ranks.size > 1:
            found["processes"] = self.ranks.size
        if engine:
            found["engine"] = canonical_settings(engine)
        if engine and "gpu" in found:  # it is set while a graph is recorded alone
            found["gpu"]["cudnn_benchmark"] = engine.launch is Launch.graph
        return found

    def alone(self) -> Runtime:
        """The same place for one job that nothing else runs beside."""
        return replace(self, engine=replace(self.engine, concurrent_trainings=1))

    @property
    def concurrent_trainings(self) -> int:
        """How many trainings take turns on the device; several processes share one at a time."""
        return 1 if self.ranks.size > 1 else self.engine.max_concurrent(self.device)
