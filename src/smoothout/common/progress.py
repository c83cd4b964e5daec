"""What a user sees while work goes on: a bar in a terminal, a line now and then elsewhere; and how work is stopped."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType
from typing import ClassVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 60.0  # between two lines, where there is no terminal
REDRAW_SECONDS = 0.1  # between two updates of a bar: drawing takes longer than a small network's step
console = Console(stderr=True, highlight=False, soft_wrap=True)
_output = Console(highlight=False)


def say(text: str) -> None:
    """Put ``text`` on stdout by one write: a sweep's processes share it, and must not write into each other's lines.

    Where nobody reads it any more (a pipe into `head`, say), rich ends the program without a word.
    """
    _output.out(text, highlight=False)


class Interrupted(KeyboardInterrupt):
    """Work stopped by SIGINT or SIGTERM; ``number`` is the signal's. Like Ctrl-C it ends a whole sweep."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"by {signal.Signals(self.number).name}; the same command goes on from here"


_pending: list[int] = []


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within the block SIGINT and SIGTERM raise Interrupted; `interruptible` blocks in it have them first."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Interrupted(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block the first SIGINT or SIGTERM is kept for the next ``stop_if_asked``; a second one is obeyed.

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
        stop_if_asked()
    finally:
        restore()
        _pending.clear()


@cache
def end_with_parent() -> None:
    """Ask this process's work to stop as soon as its parent has died, and end it when that took ``LINE_SECONDS``."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(LINE_SECONDS)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def asked_to_stop() -> int:
    """The number of the signal that is waiting, 0 for none."""
    return _pending[0] if _pending else 0


def ask_to_stop(number: int) -> None:
    """Let a signal wait that another process was sent."""
    _pending.append(number)


def stop_if_asked() -> None:
    """Raise Interrupted when a signal is waiting."""
    if _pending:
        raise Interrupted(_pending[0])


class Bar:
    """One piece of work: ``step()`` after each part, ``note`` for what is to be seen beside it.

    Bars that are open at the same time share one display.
    """

    _display: ClassVar[Progress | None] = None
    _open: ClassVar[int] = 0

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self._title, self._total, self._done, self._note = title, total, done, ""
        self._said = time.monotonic()

    def __enter__(self) -> Bar:
        if console.is_terminal:
            if Bar._display is None:
                columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
                times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
                Bar._display = Progress(*columns, *times, console=console, transient=True)
                Bar._display.start()
            self._task = Bar._display.add_task(self._title, total=self._total, completed=self._done, note="")
            Bar._open += 1
        return self

    def __exit__(self, *_: object) -> None:
        if Bar._display is not None:
            Bar._display.remove_task(self._task)
            Bar._open -= 1
            if not Bar._open:
                Bar._display.stop()
                Bar._display = None

    def tick(self, note: str | None = None) -> None:
        """One more part is done, and work may be stopped here. Raises Interrupted when a signal is waiting."""
        stop_if_asked()
        self.step(note)

    def step(self, note: str | None = None) -> None:
        """One more part is done."""
        self._done += 1
        self._note = self._note if note is None else note
        seconds = time.monotonic() - self._said
        if Bar._display is not None:
            if seconds > REDRAW_SECONDS or self._done == self._total:
                self._said += seconds
                Bar._display.update(self._task, completed=self._done, note=self._note)
        elif seconds > LINE_SECONDS:
            self._said += seconds
            console.print(f"{self._title}: {self._done}/{self._total} {self._note}")
