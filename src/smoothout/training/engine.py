"""How updates run on the hardware: settings that change their speed, not what is computed.

Importable without torch, which is imported inside functions.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from smoothout.common.enums import coerce_enum_fields
from smoothout.nn.options import Precision

if TYPE_CHECKING:
    import torch
    from torch import nn

MAX_CONCURRENT = 8  # trainings that take turns on one CUDA device


def tune_malloc() -> None:
    """Let glibc keep the memory of large tensors instead of returning it to the system after each update."""
    with suppress(OSError, AttributeError, TypeError):  # another C library, or Windows
        mallopt = ctypes.CDLL(None).mallopt
        # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD: no mmap, no trim
        for option, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**28)):
            mallopt(option, value)


class Launch(StrEnum):
    """How work is launched: operation by operation, or by replaying a CUDA graph of the whole update."""

    auto = "auto"
    eager = "eager"
    graph = "graph"


class MemoryFormat(StrEnum):
    """Order of images in memory: channel by channel (N, C, H, W), or pixel by pixel (channels last)."""

    auto = "auto"
    channels_first = "channels_first"
    channels_last = "channels_last"

    @property
    def memory_format(self) -> torch.memory_format:
        """The corresponding constant of torch."""
        import torch  # noqa: PLC0415

        return torch.channels_last if self is MemoryFormat.channels_last else torch.contiguous_format

    def applied_to(self, model: nn.Module) -> nn.Module:
        """Convert the convolution weights of ``model`` to this format, in place; returns ``model``."""
        return model.to(memory_format=self.memory_format)  # type: ignore[call-overload,no-any-return]


class GhostPasses(StrEnum):
    """How ghost batches go through the network: one after another, or all of a batch in one pass."""

    auto = "auto"
    sequential = "sequential"
    batched = "batched"


@dataclass(frozen=True)
class Engine:
    """Speed settings. Records keep them, but they are not part of a record's name: they only change how sums round.

    Args:
        launch: auto is graph on CUDA devices if a CUDA graph can hold an update, else eager. If the capture fails, auto
            runs eagerly, with one warning; graph raises an error.
        compile: run the network through torch.compile (on CPUs this needs a C++ compiler).
        memory_format: auto is channels_last on CPUs, and on CUDA devices below float32.
        concurrent_trainings: how many missing trainings take turns on the device, as its memory allows; trainings on
            image folders run alone. None is 8 on CUDA, 1 elsewhere.
        ghosts: sequential needs the memory of one ghost batch, batched that of a batch. auto is batched on CUDA
            devices, where it needs fewer kernel launches, and sequential on CPUs, so that repeating a training
            reproduces its record bit by bit. On a CPU with ghost batches of 128, batched took 1.1 times as long for a
            ResNet and 0.9 times for F1 (half as long with ghost batches of 16).
            It is always sequential for image folders, ghost batches at different weights (separate noise, copies),
            dropout, noise that stays in the weights, and networks that use a BatchNorm layer more than once.
    """

    launch: Launch = Launch.auto
    compile: bool = False
    memory_format: MemoryFormat = field(default=MemoryFormat.auto, metadata={"recorded_as": "layout"})
    concurrent_trainings: int | None = field(default=None, metadata={"recorded_as": "together"})
    ghosts: GhostPasses = GhostPasses.auto

    def __post_init__(self) -> None:
        coerce_enum_fields(self)
        if self.concurrent_trainings is not None and self.concurrent_trainings < 1:
            raise ValueError(
                f"concurrent_trainings: must be null or a whole number >= 1, not {self.concurrent_trainings}"
            )

    def resolved(self, device: torch.device, precision: Precision, capturable: bool, one_pass: bool = False) -> Engine:
        """These settings with ``auto`` replaced.

        ``capturable`` is whether a CUDA graph can hold an update, ``one_pass`` whether one pass can hold the ghost
        batches of a batch. Raises ValueError if ``launch`` is graph and no graph is possible.
        """
        cuda = device.type == "cuda"
        if self.launch is Launch.graph and not cuda:
            raise ValueError(f"launch: graph needs a CUDA device, not {device.type}; use auto or eager")
        if self.launch is Launch.graph and not capturable:
            raise ValueError(
                "launch: graph is not possible with method.copies, image folders, several processes,"
                " optimizer.epsilon=uncorrected, or dropout with several passes per update; use auto or eager"
            )
        launch, ghosts = self.launch, self.ghosts
        if launch is Launch.auto:
            launch = Launch.graph if cuda and capturable else Launch.eager
        if not one_pass or (ghosts is GhostPasses.auto and not cuda):
            ghosts = GhostPasses.sequential
        elif ghosts is GhostPasses.auto:
            ghosts = GhostPasses.batched
        memory_format = self.resolve_memory_format(device, precision)
        return Engine(launch, self.compile, memory_format, self.max_concurrent(device), ghosts)

    def resolve_memory_format(self, device: torch.device, precision: Precision) -> MemoryFormat:
        """The memory format on ``device``."""
        if self.memory_format is not MemoryFormat.auto:
            return self.memory_format
        channels_first = device.type == "cuda" and precision is Precision.float32
        return MemoryFormat.channels_first if channels_first else MemoryFormat.channels_last

    def max_concurrent(self, device: torch.device) -> int:
        """How many trainings take turns on ``device``, at most."""
        return self.concurrent_trainings or (MAX_CONCURRENT if device.type == "cuda" else 1)
