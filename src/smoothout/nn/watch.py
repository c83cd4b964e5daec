"""Notices that somebody else has written to weights that a block holds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class _ThreadState(threading.local):
    """The watches of the present thread: blocks in other threads are around other models."""

    def __init__(self) -> None:
        self.watches: list[Watch] = []  # of the blocks that are entered, the innermost last


_thread = _ThreadState()


class Watch:
    """Watches ``parameters``, which hold ``tensors``, from `begin` to `end`.

    It compares torch's version counters and places in memory, which costs no pass over the weights. So it notices what
    is written to a parameter or a view of it, and other data in its place. It cannot notice what is written to
    ``parameter.data``, or to a numpy array that shares its memory. The same numbers in another place are unchanged, and
    so are the ``clean`` ones in theirs.
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
        self._of_thread: list[Watch] = []  # those of the thread that began this one

    def begin(self) -> None:
        """Watch from here on."""
        self.renew()
        self._of_thread = _thread.watches
        self._of_thread.append(self)

    def end(self) -> None:
        """Look once more, and watch no longer; can be repeated."""
        if self in self._of_thread:
            self.pause()
            self._of_thread.remove(self)
        self.give_back = _nothing  # a reference cycle would keep the model until Python's collector comes by

    def renew(self) -> None:
        """Take what the parameters hold now as unchanged, and continue from there."""
        self._marks = [(p._version, p.data_ptr()) for p in self._parameters]
        self._pausing = False

    def pause(self) -> bool:
        """Look once more, then no longer until `renew`; returns whether it paused already."""
        before, self._pausing = self._pausing, True
        if not before:
            self._look()
        return before

    def _look(self) -> None:
        """Add what has changed since to ``written``."""
        marked = zip(self._parameters, self._tensors, self._clean, self._marks, strict=True)
        for parameter, tensor, clean, (version, before) in marked:
            place = parameter.data_ptr()
            if place == before:
                unchanged = parameter._version == version
            else:  # the clean weights are there where a block is suspended
                unchanged = place == clean.data_ptr() or _equal(parameter.data, tensor)
            if not unchanged:
                self.written.append(parameter)

    def inside(self) -> list[Watch]:
        """Those that began later and are not ended, on some of the same parameters, the innermost first."""
        own = {id(p) for p in self._parameters}
        later = self._of_thread[self._of_thread.index(self) + 1 :] if self in self._of_thread else []
        return [watch for watch in reversed(later) if not own.isdisjoint(map(id, watch._parameters))]


def _nothing() -> None: ...


def pause_all() -> list[Watch]:
    """Pause all watches of this thread, because what follows writes to weights and gives them back.

    Returns those to renew then.
    """
    return [watch for watch in list(_thread.watches) if not watch.pause()]


@contextmanager
def unwatched() -> Iterator[None]:
    """Inside, weights may be written to, if they are given back at the end: blocks around it do not count this."""
    around = pause_all()
    try:
        yield
    finally:
        for watch in around:
            watch.renew()


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)
