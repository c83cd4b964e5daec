"""Detect writes by other code to weights that a block has replaced."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
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
        self._of_thread: list[Watch] = []  # all watches of the thread that began this one

    def begin(self) -> None:
        """Start to watch."""
        self.renew()
        self._of_thread = _thread.watches
        self._of_thread.append(self)

    def end(self) -> None:
        """Check once more and stop watching; can be called again."""
        if self in self._of_thread:
            self.pause()
            self._of_thread.remove(self)
        self.give_back = _nothing  # a reference cycle would keep the model until the garbage collector runs

    def renew(self) -> None:
        """Take the current state of the parameters as unchanged, and continue to watch."""
        self._marks = [(p._version, p.data_ptr()) for p in self._parameters]
        self._pausing = False

    def pause(self) -> bool:
        """Check once more, then pause until `renew`; return whether it was paused already."""
        before, self._pausing = self._pausing, True
        if not before:
            self._look()
        return before

    def _look(self) -> None:
        """Add the parameters that have changed to ``written``."""
        marked = zip(self._parameters, self._tensors, self._clean, self._marks, strict=True)
        for parameter, tensor, clean, (version, before) in marked:
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


def pause_all() -> list[Watch]:
    """Pause all watches of this thread before code that writes to weights and restores them.

    Returns the watches to renew afterwards.
    """
    return [watch for watch in list(_thread.watches) if not watch.pause()]


@contextmanager
def unwatched() -> Iterator[None]:
    """Inside, weights may be written to if they are restored at the end; outer blocks do not report this."""
    around = pause_all()
    try:
        yield
    finally:
        for watch in around:
            watch.renew()


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
