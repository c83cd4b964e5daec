"""How the updates of a training reach the hardware: choices that change its speed, not what it is."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum

import torch
from torch import nn

from smoothout.common.enums import coerce_enum_fields
from smoothout.nn.options import Precision

_KEEP = ((-4, 0), (-1, 2**31 - 1), (-2, 2**28))  # M_MMAP_MAX, M_TRIM_THRESHOLD, M_TOP_PAD: never map, never trim
MAX_CONCURRENT = 8  # trainings that take turns on one CUDA device


def tune_malloc() -> None:
    """Let glibc keep the memory of large tensors instead of giving it back and faulting it in again at each update."""
    with suppress(OSError, AttributeError, TypeError):  # another C library, or Windows, which has none of that name
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in _KEEP:
            mallopt(option, value)


class Launch(StrEnum):
    """How the device is told what to do: operation by operation, or by replaying a CUDA graph of the whole update."""

    auto = "auto"
    eager = "eager"
    graph = "graph"


class MemoryFormat(StrEnum):
    """How images lie in memory: plane by plane (N, C, H, W) or pixel by pixel (channels last)."""

    auto = "auto"
    channels_first = "channels_first"
    channels_last = "channels_last"

    @property
    def memory_format(self) -> torch.memory_format:
        """As torch names it."""
        return torch.channels_last if self is MemoryFormat.channels_last else torch.contiguous_format

    def applied_to(self, model: nn.Module) -> nn.Module:
        """``model``, its convolutions' weights laid out in place."""
        return model.to(memory_format=self.memory_format)  # type: ignore[call-overload,no-any-return]


class GhostPasses(StrEnum):
    """How ghost batches go through the network: one after another, or all of a batch in one pass (see ``ghost``)."""

    auto = "auto"
    sequential = "sequential"
    batched = "batched"


@dataclass(frozen=True)
class Engine:
    """Speed settings. They stand in every record, but are no part of its name: they change only how sums are rounded.

    Args:
        launch: auto is graph on CUDA devices wherever an update can be recorded, eager elsewhere. With auto, updates
            that prove impossible to record, or whose first replay does not end where an eager one ends, are carried
            out eagerly, with one warning; with graph that is an error.
        compile: run the network through torch.compile (needs a C++ compiler on CPUs).
        memory_format: auto is channels_last on CPUs, and on CUDA devices below float32.
        concurrent_trainings: how many trainings take turns on the device when several are missing, at most: the next
            one begins when the device has the memory for it, and trainings on image folders run alone. None is 8 on
            CUDA, 1 elsewhere.
        ghosts: sequential needs the memory of one ghost batch, batched that of a batch. auto is batched on CUDA
            devices, where it takes fewer and larger launches, and sequential on CPUs: with ghost batches of 128,
            batched took 1.1 times as long for a ResNet and 0.9 times for F1 (half as long with ghost batches of 16).
            Ghost batches always run one after another where one pass cannot hold them: image folders, ghost batches at
            different weights (noise of their own, copies), dropout, noise that stays in, and networks that use a
            BatchNorm layer more than once.
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

    def resolved(
        self,
        device: torch.device,
        precision: Precision,
        recordable: bool,
        one_pass: bool = False,
    ) -> Engine:
        """The choices made for ``auto``; raises ValueError where a graph is asked for and cannot be had."""
        cuda = device.type == "cuda"
        if self.launch is Launch.graph and not cuda:
            raise ValueError(f"launch: graph needs a CUDA device, not {device.type}; take auto or eager")
        if self.launch is Launch.graph and not recordable:
            raise ValueError(
                "launch: a graph holds no copies, photographs, several processes, uncorrected epsilon,"
                " or dropout over several ghost batches; take auto"
            )
        launch = self.launch
        if launch is Launch.auto:
            launch = Launch.graph if cuda and recordable else Launch.eager
        return replace(
            self,
            launch=launch,
            memory_format=self.resolve_memory_format(device, precision),
            concurrent_trainings=self.max_concurrent(device),
            ghosts=self.ghost_passes(device, one_pass),
        )

    def resolve_memory_format(self, device: torch.device, precision: Precision) -> MemoryFormat:
        """The layout on ``device``."""
        if self.memory_format is not MemoryFormat.auto:
            return self.memory_format
        plane_wise = device.type == "cuda" and precision is Precision.float32
        return MemoryFormat.channels_first if plane_wise else MemoryFormat.channels_last

    def max_concurrent(self, device: torch.device) -> int:
        """How many trainings take turns on ``device``."""
        return self.concurrent_trainings or (MAX_CONCURRENT if device.type == "cuda" else 1)

    def ghost_passes(self, device: torch.device, one_pass: bool) -> GhostPasses:
        """How ghost batches go through the network; ``one_pass`` is whether one pass can hold those of a batch."""
        if not one_pass:
            return GhostPasses.sequential
        if self.ghosts is GhostPasses.auto:
            return GhostPasses.batched if device.type == "cuda" else GhostPasses.sequential
        return self.ghosts
