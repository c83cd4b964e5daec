"""What a user sees while work goes on: a bar in a terminal, a line now and then elsewhere; and how work is stopped."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_SECONDS = 60.0
console = Console(stderr=True, highlight=False, soft_wrap=True)


class Interrupted(KeyboardInterrupt):
    """Work stopped by SIGINT or SIGTERM; ``number`` is the signal's. Like Ctrl-C it ends a whole sweep."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"by {signal.Signals(self.number).name}; the same command goes on from here"


_pending: list[int] = []


@contextmanager
def interruptible() -> Iterator[None]:
    """Within the block the first SIGINT or SIGTERM is kept for the next ``stop_if_asked``; a second one is obeyed."""

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
    finally:
        restore()


def asked_to_stop() -> bool:
    """Whether a signal is waiting."""
    return bool(_pending)


def stop_if_asked() -> None:
    """Raise Interrupted when a signal is waiting."""
    if _pending:
        raise Interrupted(_pending[0])


class Bar:
    """One piece of work: ``step()`` after each part, ``note`` for what is to be seen beside it."""

    def __init__(self, title: str, total: int, done: int = 0) -> None:
        self._title, self._total, self._done, self._note = title, total, done, ""
        self._said = time.monotonic()
        self._progress: Progress | None = None
        if console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
            times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
            self._progress = Progress(*columns, *times, console=console, transient=True)
            self._task = self._progress.add_task(title, total=total, completed=done, note="")

    def __enter__(self) -> Bar:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()

    def step(self, note: str | None = None) -> None:
        """One more part is done."""
        self._done += 1
        self._note = self._note if note is None else note
        if self._progress:
            self._progress.update(self._task, completed=self._done, note=self._note)
        elif time.monotonic() - self._said > LINE_SECONDS:
            self._said = time.monotonic()
            console.print(f"{self._title}: {self._done}/{self._total} {self._note}")
