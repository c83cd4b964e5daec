"""The place to work at, as the settings of configs/_place.yaml describe it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from smoothout.settings import Folders, SettingsError, build, typed
from smoothout.training.engine import Engine, keep_memory
from smoothout.training.ranks import Ranks, here
from smoothout.work import Workplace


def workplace(settings: dict[str, Any]) -> Workplace:
    """The place that the settings of configs/_place.yaml describe. Raises SettingsError."""
    names = [field.name for field in dataclasses.fields(_Place)]
    chosen = typed(_Place, {name: settings[name] for name in names if name in settings}, "")
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    keep_memory()
    folders = build(settings.get("folders"), "folders", Folders)
    engine, ranks = build(settings.get("engine"), "engine", Engine), here()
    device = _device(chosen.device, ranks)
    seconds = chosen.checkpoint_seconds
    return Workplace(folders, device, engine, chosen.download, chosen.tensorboard, seconds, ranks)


@dataclass(frozen=True)
class _Place:
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


def _device(name: str, ranks: Ranks) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SettingsError(f"device: {name!r} is not one of auto, cpu, cuda, cuda:N") from None
    usable = device.type == "cpu" or (device.type == "cuda" and (device.index or 0) < torch.cuda.device_count())
    if not usable:
        raise SettingsError(f"device: {name!r} is not here; this machine has cpu and {torch.cuda.device_count()} cuda")
    try:
        return ranks.device(device)
    except ValueError as error:
        raise SettingsError(str(error)) from error
