"""Stop long work at a safe point: the first SIGINT or SIGTERM is deferred, a second one acts at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType


class Interrupted(KeyboardInterrupt):
    """Work was stopped by the signal ``number``, SIGINT or SIGTERM. Like Ctrl-C, this ends a whole sweep."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"by {signal.Signals(self.number).name}; run the same command to resume"


ORPHAN_SECONDS = 60.0  # how long work may take to stop once the parent process has died
_pending: list[int] = []


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """Within the block SIGINT and SIGTERM raise Interrupted, except in `defer_signals` blocks.

    An error that was caused by the interrupt is raised as Interrupted too, see `interrupt_behind`.
    """

    def stop(number: int, _: FrameType | None) -> None:
        raise Interrupted(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Exception as error:
        if interrupt := interrupt_behind(error):
            raise interrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt_behind(error: BaseException) -> Interrupted | None:
    """The interrupt that led to ``error``, if any.

    An interrupt between two statements of a library can leave its objects incomplete, so that the library's own
    clean-up fails with another error. OmegaConf does so while it builds a list.
    """
    seen, current = set[int](), list[BaseException | None]([error])
    while current:
        one = current.pop()
        if isinstance(one, Interrupted):
            return one
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            current += [one.__cause__, one.__context__]
    return None


@contextmanager
def defer_signals() -> Iterator[None]:
    """Defer the first SIGINT or SIGTERM in the block to the next `raise_if_interrupted`; a second one acts at once.

    The end of the block raises Interrupted too, so that the code after it does not run.
    """

    def note(number: int, _: FrameType | None) -> None:
        _pending.append(number)
        restore()

    def restore() -> None:
        for n, handler in before.items():
            signal.signal(n, handler)

    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    _pending.clear()
    for n in before:
        signal.signal(n, note)
    try:
        yield
        raise_if_interrupted()
    finally:
        restore()
        _pending.clear()


@cache
def exit_with_parent() -> None:
    """Send this process SIGTERM once its parent has died, and end it after another ``ORPHAN_SECONDS``."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_SECONDS)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def pending_signal() -> int:
    """The number of the deferred signal, 0 if there is none."""
    return _pending[0] if _pending else 0


def set_pending_signal(number: int) -> None:
    """Defer a signal that another process received."""
    _pending.append(number)


def raise_if_interrupted() -> None:
    """Raise Interrupted if a signal is pending."""
    if _pending:
        raise Interrupted(_pending[0])
