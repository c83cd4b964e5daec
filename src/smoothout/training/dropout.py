"""Dropout's random numbers: the masks of each ghost batch have a separate seed, on any device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from smoothout.common.rng import derive_seed


class UnseededError(ValueError):
    """A model draws random numbers that the training does not seed."""


class DropoutRng:
    """Seeds torch's global generator for dropout, and detects models that draw other random numbers."""

    def __init__(self, model: nn.Module, seed: int, device: torch.device) -> None:
        self._seed, self._device, self._update, self._checked = seed, device, 0, False
        self.drops = any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p for m in model.modules())
        self._private = torch.Generator(device) if self.drops and device.type == "cuda" else None

    @property
    def generators(self) -> list[torch.Generator]:
        """The generators that dropout uses in an update."""
        return [self._private or self._global] if self.drops else []

    @contextmanager
    def entered(self) -> Iterator[None]:
        """A context in which dropout on a CUDA device uses this training's generator.

        Graphs of several trainings must not share torch's global generator. Up to torch 2.12 it keeps a single seed on
        the device, and a replay on one stream could overwrite it before a replay on another stream has read it.
        """
        if self._private is None:
            yield
            return
        shared = self._global
        before = shared.graphsafe_get_state()
        shared.graphsafe_set_state(self._private)
        try:
            yield
        finally:
            shared.graphsafe_set_state(before)

    @contextmanager
    def checked(self) -> Iterator[None]:
        """On first use, raise UnseededError if the model has no dropout layers but uses torch's global generator."""
        if self._checked:
            yield
            return
        before = self._position()
        yield
        self._checked = True
        if not self.drops and self._position() != before:
            raise UnseededError(
                "model: draws from torch's global generator outside torch.nn.Dropout, so no seed reaches it;"
                " use torch.nn.Dropout layers"
            )

    def begin_update(self, update: int) -> None:
        """Seed the masks of the first ghost batch of ``update``."""
        self._update = update
        self.seed_ghost(0)

    def seed_ghost(self, ghost: int) -> None:
        """Seed the masks of the current update's ``ghost``-th ghost batch."""
        if self.drops:
            # torch.manual_seed would format the call stack for devices that do not exist: 0.1 ms per call.
            (self._private or self._global).manual_seed(derive_seed(self._seed, "dropout", self._update, ghost))

    @property
    def _global(self) -> torch.Generator:
        cuda = self._device.type == "cuda"
        return torch.cuda.default_generators[self._device.index or 0] if cuda else torch.default_generator

    def _position(self) -> object:
        """The global generator's position in its stream; does not wait for the device."""
        return self._global.get_offset() if self._device.type == "cuda" else self._global.get_state().numpy().tobytes()
