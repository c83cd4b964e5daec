"""Stop long work at a safe point: the first SIGINT or SIGTERM waits, a second one is obeyed at once."""

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
    """Work stopped by SIGINT or SIGTERM; ``number`` is the signal's. Like Ctrl-C it ends a whole sweep."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"by {signal.Signals(self.number).name}; run the same command to resume"


ORPHAN_SECONDS = 60.0  # how long work may take to stop once the parent process has died
_pending: list[int] = []


@contextmanager
def raise_on_signals() -> Iterator[None]:
    """Within the block SIGINT and SIGTERM raise Interrupted; `defer_signals` blocks in it have them first."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Interrupted(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Within the block the first SIGINT or SIGTERM is kept for the next ``raise_if_interrupted``; a second one is
    obeyed.

    At the latest the end of the block raises Interrupted: what comes after it is not to begin.
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
    """Ask this process's work to stop as soon as its parent has died, and end it when that took ``ORPHAN_SECONDS``."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_SECONDS)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def pending_signal() -> int:
    """The number of the signal that is waiting, 0 for none."""
    return _pending[0] if _pending else 0


def set_pending_signal(number: int) -> None:
    """Let a signal wait that another process was sent."""
    _pending.append(number)


def raise_if_interrupted() -> None:
    """Raise Interrupted when a signal is waiting."""
    if _pending:
        raise Interrupted(_pending[0])
