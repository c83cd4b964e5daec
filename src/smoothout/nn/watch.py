"""Detect writes by other code to weights that a block has replaced."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class _ThreadState(threading.local):
    """The watches of the current thread; blocks in other threads belong to other models."""

    def __init__(self) -> None:
        self.watches: list[Watch] = []  # of the entered blocks, the innermost last


_thread = _ThreadState()


class Watch:
    """Watches ``parameters``, which hold ``tensors``, from `begin` to `end`.

    It compares torch's version counters and memory addresses, without a pass over the weights. It detects writes to a
    parameter or a view of it, and replaced data. It cannot detect writes to ``parameter.data``, or to a numpy array
    that shares its memory. Equal values at another address count as unchanged, and so do the
    ``clean`` weights.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        tensors: Sequence[Tensor],
        clean: Sequence[Tensor],
        give_back: Callable[[], object],
    ) -> None:
        self._parameters, self._tensors, self._clean, self.give_back = parameters, tensors, clean, give_back
        self.written: list[nn.Parameter] = []
        self._marks: dict[int, tuple[int, int]] = {}  # version and address of each parameter, by index
        self._of_thread: list[Watch] = []  # all watches of the thread that began this one

    def begin(self) -> None:
        """Start to watch."""
        self._paused: set[int] = set()  # indices of parameters
        self.renew(range(len(self._parameters)))
        self._of_thread = _thread.watches
        self._of_thread.append(self)

    def end(self) -> None:
        """Check once more and stop watching; can be called again."""
        if self in self._of_thread:
            self._look(range(len(self._parameters)))
            self._of_thread.remove(self)
        self.give_back = _nothing  # a reference cycle would keep the model until the garbage collector runs

    def renew(self, indices: Iterable[int]) -> None:
        """Take the current state of these parameters as unchanged, and continue to watch them."""
        indices = list(indices)
        self._marks.update({i: (self._parameters[i]._version, self._parameters[i].data_ptr()) for i in indices})
        self._paused.difference_update(indices)

    def pause(self, parameters: Container[int]) -> list[int]:
        """Check once more those with these ids, and ignore them until `renew`; return their indices.

        Those that are paused already are left out.
        """
        indices = [
            index
            for index, parameter in enumerate(self._parameters)
            if index not in self._paused and id(parameter) in parameters
        ]
        self._look(indices)
        self._paused.update(indices)
        return indices

    def _look(self, indices: Iterable[int]) -> None:
        """Add those of these parameters that have changed to ``written``, but not paused ones."""
        for index in indices:
            if index in self._paused:
                continue
            parameter, tensor, clean = self._parameters[index], self._tensors[index], self._clean[index]
            version, before = self._marks[index]
            address = parameter.data_ptr()
            if address == before:
                unchanged = parameter._version == version
            else:  # a suspended block holds the clean weights
                unchanged = address == clean.data_ptr() or _equal(parameter.data, tensor)
            if not unchanged:
                self.written.append(parameter)

    def inside(self) -> list[Watch]:
        """Watches of some of the same parameters that began later and have not ended, the innermost first."""
        watched = {id(p) for p in self._parameters}
        later = self._of_thread[self._of_thread.index(self) + 1 :] if self in self._of_thread else []
        return [watch for watch in reversed(later) if not watched.isdisjoint(map(id, watch._parameters))]


def _nothing() -> None: ...


class Paused:
    """Pauses the watches of this thread before code that writes to ``parameters`` and restores them."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        ids = set(map(id, parameters))
        self._indices = [(watch, watch.pause(ids)) for watch in list(_thread.watches)]

    def renew(self) -> None:
        """Continue to watch."""
        for watch, indices in self._indices:
            watch.renew(indices)


@contextmanager
def unwatched(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Inside, ``parameters`` may be written to if they are restored at the end; outer blocks do not report this."""
    paused = Paused(parameters)
    try:
        yield
    finally:
        paused.renew()


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
