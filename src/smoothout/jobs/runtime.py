"""Where and how jobs run, from the settings of configs/_place.yaml.

The device and the processes that share trainings are determined on first use, so that finding and rendering records
imports no torch.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from smoothout.common.devices import built_for_gpus, gpu_driver_present, why_no_gpu
from smoothout.common.environment import environment
from smoothout.common.errors import ConfigError, config_errors
from smoothout.common.progress import print_line
from smoothout.config.build import validate
from smoothout.results.digest import canonical_settings
from smoothout.results.records import RecordStore
from smoothout.training.engine import Engine, Launch, tune_malloc

if TYPE_CHECKING:
    import torch

    from smoothout.training.distributed import ProcessGroup

T = TypeVar("T")
MAX_THREADS = 1024  # far above this, OpenMP kills the process without an error


@dataclass(frozen=True)
class Folders:
    """Paths of data sets, records, checkpoints and logs. Never part of a record's identity."""

    data: str
    results: str
    checkpoints: str
    logs: str

    def __post_init__(self) -> None:
        for name, path in vars(self).items():
            if not path:
                raise ValueError(f"{name}: must be the path of a folder, not ''")
            object.__setattr__(self, name, os.path.expanduser(path))  # noqa: PTH111 -- a text, as it was given


@dataclass(frozen=True)
class _RuntimeSettings:
    folders: Folders
    device: str
    threads: int | None
    download: bool
    tensorboard: bool
    checkpoint_seconds: float
    engine: Engine

    def __post_init__(self) -> None:
        if self.device.startswith("mps"):
            raise ValueError(
                "device: mps has no float64, which trainings need to add up losses; use cpu"
                " (SmoothOut and AdaSmoothOut work there in your own training loop)"
            )
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"device: {self.device!r} is not one of auto, cpu, cuda, cuda:N")
        if self.threads is not None and not 1 <= self.threads <= MAX_THREADS:
            raise ValueError(f"threads: must be null or a whole number from 1 to {MAX_THREADS}, not {self.threads}")
        if self.checkpoint_seconds < 0:
            raise ValueError(f"checkpoint_seconds: must be a number >= 0, not {self.checkpoint_seconds}")


RUNTIME_KEYS = tuple(field.name for field in dataclasses.fields(_RuntimeSettings))


def build_runtime(settings: dict[str, Any]) -> Runtime:
    """The runtime for the settings of configs/_place.yaml.

    Raises ConfigError. The first read of `Runtime.device` checks whether the machine has the device.
    """
    chosen = validate(_RuntimeSettings, {name: settings[name] for name in RUNTIME_KEYS if name in settings}, "")
    fields = dict(vars(chosen))
    device = partial(_prepare_device, fields.pop("device"), fields.pop("threads"))
    return Runtime(**fields, device=device)


def _prepare_device(name: str, threads: int | None) -> torch.device:
    """Set up this process for jobs on the device ``name``, and return it. Raises ConfigError if it is absent."""
    import torch  # noqa: PLC0415

    if threads is not None:
        torch.set_num_threads(threads)
    tune_malloc()
    device = torch.device(_automatic() if name == "auto" else name)
    if device.type == "cuda":
        _check_gpu(device)
        if device.index is not None:
            torch.cuda.set_device(device)  # libraries allocate memory on the current device
    with config_errors():
        return _current_ranks().device(device)


@cache  # a sweep's jobs share a process, and one line is enough
def _automatic() -> str:
    """CUDA if torch can use it, otherwise cpu; prints the reason if torch is built for GPUs."""
    reason = why_no_gpu()
    if reason and built_for_gpus() and _current_ranks().rank == 0:
        print_line(f"device: cpu, because torch cannot use a GPU here: {reason}")
    return "cpu" if reason else "cuda"


def _check_gpu(device: torch.device) -> None:
    import torch  # noqa: PLC0415

    reason, count = why_no_gpu(), torch.cuda.device_count()
    if reason:
        raise ConfigError(f"device: '{device}' is not available: {reason}")
    if (device.index or 0) >= count:
        raise ConfigError(f"device: '{device}' is not available; this machine has {count} CUDA devices, from cuda:0 on")


def launched_ranks() -> ProcessGroup | None:
    """The processes that torchrun started, including this one; None, without importing torch, if it runs alone."""
    launched = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE") != "1"
    return _current_ranks() if launched or "smoothout.training.distributed" in sys.modules else None


def _current_ranks() -> ProcessGroup:
    from smoothout.training.distributed import current_ranks  # noqa: PLC0415

    return current_ranks()


class LazyField(Generic[T]):
    """A dataclass field that may be a `partial`, which is called when the field is first read."""

    def __init__(self, default: Callable[[], T] | None = None) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object | None, owner: type | None = None) -> T:
        if instance is None:  # the dataclass asks for the field's default
            if self._default is None:
                raise AttributeError(self._name)
            return partial(self._default)  # type: ignore[return-value]
        value = vars(instance)[self._name]
        if isinstance(value, partial):
            value = vars(instance)[self._name] = value()
        return value  # type: ignore[no-any-return]

    def __set__(self, instance: object, value: T | partial[T]) -> None:
        vars(instance)[self._name] = value


@dataclass(frozen=True)
class Runtime:
    """Where and how jobs run, see configs/_place.yaml. None of it is part of a job's identity."""

    folders: Folders
    device: LazyField[torch.device] = LazyField()
    engine: Engine = dataclasses.field(default_factory=Engine)
    download: bool = True
    tensorboard: bool = False
    checkpoint_seconds: float = 60.0
    ranks: LazyField[ProcessGroup] = LazyField(_current_ranks)  # the processes that share trainings

    @property
    def records(self) -> RecordStore:
        """The store of records in the results folder."""
        return RecordStore(Path(self.folders.results))

    @property
    def on_cpu(self) -> bool:
        """Whether jobs run on a CPU; needs no torch if the settings say so, or the machine has no GPU driver."""
        unprepared = vars(self)["device"]
        if isinstance(unprepared, partial) and (unprepared.args[:1] == ("cpu",) or not gpu_driver_present()):
            return True
        return self.device.type == "cpu"

    def environment(self, engine: Engine | None = None) -> dict[str, Any]:
        """The record's entry on machine and versions; ``engine`` is that of a training."""
        values = environment(self.device)
        if self.ranks.size > 1:
            values["processes"] = self.ranks.size
        if engine:
            values["engine"] = canonical_settings(engine)
        if engine and "gpu" in values:  # cuDNN's benchmark mode is on only while a graph is captured
            values["gpu"]["cudnn_benchmark"] = engine.launch is Launch.graph
        return values

    def limited_to(self, count: int) -> Runtime:
        """The same runtime with at most ``count`` concurrent trainings."""
        return replace(self, engine=replace(self.engine, concurrent_trainings=count))

    @property
    def concurrent_trainings(self) -> int:
        """How many trainings take turns on the device; 1 with several processes, which share a training."""
        return 1 if self.ranks.size > 1 else self.engine.max_concurrent(self.device)
