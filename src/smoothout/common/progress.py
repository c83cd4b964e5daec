"""What a user sees while work goes on: a bar in a terminal, a line now and then elsewhere; and how work is stopped."""

from __future__ import annotations

import time
from typing import ClassVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from smoothout.common.interrupts import raise_if_interrupted

LINE_SECONDS = 60.0  # between two lines, where there is no terminal
REDRAW_SECONDS = 0.1  # between two updates of a bar: drawing takes longer than a small network's step
console = Console(stderr=True, highlight=False, soft_wrap=True)
_output = Console(highlight=False)


def print_line(text: str) -> None:
    """Put ``text`` on stdout by one write: a sweep's processes share it, and must not write into each other's lines.

    Where nobody reads it any more (a pipe into `head`, say), rich ends the program without a word.
    """
    _output.out(text, highlight=False)


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
        raise_if_interrupted()
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
